"""A guest's memory brought to another QEMU while the guest runs, by comparing it with what was sent.

QEMU's translator forgets pages that a running guest writes to while its memory is sent (before 9.0 it clears a page's
mark without telling the processor's cache of such marks), so it is not asked. Where a QEMU's memory is a file, we read
it again and again, and send what is not what it was. The last time the guest stands still: then both are the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import mmap
import os
import socket
import struct
from collections.abc import Iterator

from pileus.kernel.faults import Unavailable

PIECE = 1 << 14  # is sent if anything in it has changed
_STRETCH = 64 * PIECE  # is compared at once
_NOTHING = bytes(PIECE)
_AT = struct.Struct(">Q")
_END = (1 << 64) - 1  # of a round
_DONE = b"."
_ROUNDS, _FEW = 8, 128  # while it runs: at most so many, until no more pieces than that had changed
_THREADS = 2  # one alone does not take all that the memory gives

_libc = ctypes.CDLL(None)  # while it works other threads go on
_libc.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


def open_memory(pid: int) -> int | None:
    """A descriptor of a QEMU's memory; None where it is no file."""
    with contextlib.suppress(FileNotFoundError), os.scandir(f"/proc/{pid}/fd") as links:
        for link in links:
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(link).startswith("/memfd:memory-backend-memfd"):
                    return os.open(link, os.O_RDWR | os.O_CLOEXEC)
    return None


class Sender:
    """Owns both descriptors. What was sent is kept; of what is all zeros at first nothing is."""

    def __init__(self, memory: int, plug: socket.socket) -> None:
        self._memory, self._plug = memory, plug
        self._size = os.fstat(memory).st_size
        self._guests, self._sent = _Mapped(memory, self._size), _Mapped(-1, self._size)
        self._holds = bytearray(self._size // PIECE)  # 1: what was sent of this piece is kept

    async def send_while_it_runs(self) -> None:
        """Returns when little is left, or when more rounds would not help. Raises Unavailable."""
        for _ in range(_ROUNDS):
            if await self.send() <= _FEW:
                return

    async def send(self) -> int:
        """Sends what has changed; how many pieces. They have arrived. Raises Unavailable."""
        sending = asyncio.ensure_future(self._round())
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            self._hang_up()  # ends the threads, which must be gone before the memory is
            await asyncio.gather(sending, return_exceptions=True)
            raise
        except OSError as broken:
            text = "The other host did not take the guest's memory."
            raise Unavailable(text, internal=repr(broken)) from None

    async def _round(self) -> int:
        stretches = list(_stretches(self._memory, self._size))
        shares = [stretches[n::_THREADS] for n in range(_THREADS)]
        found = await asyncio.gather(*(asyncio.to_thread(self._changed, s) for s in shares))
        changed = [at for share in found for at in share]
        await asyncio.to_thread(self._deliver, changed)
        return len(changed)

    def _changed(self, stretches: list[tuple[int, int, bool]]) -> list[int]:
        """Where the pieces are that are not what was sent."""
        found = []
        for begin, end, is_hole in stretches:
            if is_hole:  # which a map would fill
                found += [n * PIECE for n in range(begin // PIECE, end // PIECE) if self._holds[n]]
            elif self._differs(begin, end - begin):
                found += [at for at in range(begin, end, PIECE) if self._differs(at, PIECE)]
        return found

    def _differs(self, at: int, count: int) -> bool:
        return bool(_libc.memcmp(self._guests.place + at, self._sent.place + at, count))

    def _deliver(self, changed: list[int]) -> None:
        """What is kept is what is sent, whatever the guest writes meanwhile."""
        for at in changed:
            piece = os.pread(self._memory, PIECE, at)
            self._sent.bytes[at : at + PIECE] = piece
            self._holds[at // PIECE] = piece != _NOTHING
            self._plug.sendall(_AT.pack(at) + piece)
        self._plug.sendall(_AT.pack(_END))
        if self._plug.recv(1) != _DONE:
            raise ConnectionResetError("no answer at the end of a round")

    def close(self) -> None:
        self._hang_up()
        self._plug.close()
        self._guests.close()
        self._sent.close()
        os.close(self._memory)

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._plug.shutdown(socket.SHUT_RDWR)


class _Mapped:
    """A file's bytes in memory, or as many zeros (-1), at a `place` that libc can be told."""

    def __init__(self, descriptor: int, size: int) -> None:
        kind = mmap.MAP_SHARED if descriptor >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self.bytes = mmap.mmap(descriptor, size, flags=kind)
        self._anchor: ctypes.c_char | None = ctypes.c_char.from_buffer(self.bytes)
        self.place = ctypes.addressof(self._anchor)

    def close(self) -> None:
        self._anchor = None
        self.bytes.close()


def _stretches(memory: int, size: int) -> Iterator[tuple[int, int, bool]]:
    """All of it, in turn: begin, end, and whether nothing is there."""
    at = 0
    while at < size:
        data = _next(memory, at, os.SEEK_DATA, size)
        begin = data // PIECE * PIECE
        end = -(-_next(memory, data, os.SEEK_HOLE, size) // PIECE) * PIECE
        if at < begin:
            yield at, begin, True
        for part in range(begin, end, _STRETCH):
            yield part, min(part + _STRETCH, end), False
        at = end


def _next(memory: int, at: int, kind: int, size: int) -> int:
    """Where data, or a hole, is next."""
    try:
        return os.lseek(memory, at, kind)
    except OSError as refused:
        if refused.errno != errno.ENXIO:
            raise
        return size


def take(plug: socket.socket, memory: int) -> None:
    """Write what a `Sender` sends into the memory of a QEMU that waits, until it hangs up. Raises OSError, ValueError."""
    size = os.fstat(memory).st_size
    with mmap.mmap(memory, size) as whole:
        whole.madvise(mmap.MADV_REMOVE)  # what another sender sent
    with plug.makefile("rb") as coming:
        while head := coming.read(_AT.size):
            (at,) = _AT.unpack(head)
            if at == _END:
                plug.sendall(_DONE)
                continue
            piece = coming.read(PIECE)
            if at % PIECE or at + len(piece) > size or len(piece) < PIECE:
                raise ValueError(f"{len(piece)} bytes at {at} of {size}")
            os.pwrite(memory, piece, at)

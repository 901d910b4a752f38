"""A guest's memory brought to another QEMU while the guest runs, by comparing it with what was sent.

QEMU's translator forgets pages that a running guest writes to while its memory is sent (before 9.0 it clears a page's
mark without telling the processor's cache of such marks), so it is not asked. Where a QEMU's memory is a file, we read
it again and again, and send what is not what it was. The last time the guest stands still: then both are the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import socket
import struct

from pileus.kernel.faults import Unavailable

PIECE = 1 << 14  # is compared, and sent if anything in it has changed
_NOTHING = bytes(PIECE)
_AT = struct.Struct(">Q")
_END = (1 << 64) - 1  # of a round
_DONE = b"."
_ROUNDS, _FEW = (
    8,
    128,
)  # while it runs: at most so often, and until no more pieces than that had changed


def open_memory(pid: int) -> int | None:
    """A descriptor of a QEMU's memory; None where it is no file."""
    with contextlib.suppress(FileNotFoundError), os.scandir(f"/proc/{pid}/fd") as links:
        for link in links:
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(link).startswith("/memfd:memory-backend-memfd"):
                    return os.open(link, os.O_RDWR | os.O_CLOEXEC)
    return None


class Sender:
    """Owns both descriptors. Of a memory that is all zeros at first nothing is kept."""

    def __init__(self, memory: int, plug: socket.socket) -> None:
        self._memory, self._plug = memory, plug
        self._sent = [_NOTHING] * (os.fstat(memory).st_size // PIECE)

    async def send_while_it_runs(self) -> None:
        """Returns when little is left, or when more rounds would not help. Raises Unavailable."""
        for _ in range(_ROUNDS):
            if await self.send() <= _FEW:
                return

    async def send(self) -> int:
        """Sends what has changed; how many pieces. They have arrived. Raises Unavailable."""
        sending = asyncio.ensure_future(asyncio.to_thread(self._round))
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            self._hang_up()  # ends the thread, which must be gone before the descriptors are
            await asyncio.gather(sending, return_exceptions=True)
            raise
        except OSError as broken:
            text = "The other host did not take the guest's memory."
            raise Unavailable(text, internal=repr(broken)) from None

    def _round(self) -> int:
        changed = 0
        for n, sent in enumerate(self._sent):
            piece = os.pread(
                self._memory, PIECE, n * PIECE
            )  # of a hole nothing is made, as by a map
            if piece != sent:
                self._sent[n] = _NOTHING if piece == _NOTHING else piece
                self._plug.sendall(_AT.pack(n * PIECE) + piece)
                changed += 1
        self._plug.sendall(_AT.pack(_END))
        if self._plug.recv(1) != _DONE:
            raise ConnectionResetError("no answer at the end of a round")
        return changed

    def close(self) -> None:
        self._hang_up()
        self._plug.close()
        os.close(self._memory)

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._plug.shutdown(socket.SHUT_RDWR)


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

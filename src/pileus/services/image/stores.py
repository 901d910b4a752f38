"""Where images' bytes are kept. One interface, so that others than the local disk can come."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import msgspec

from pileus.host import files, sparse, uploads
from pileus.kernel.faults import TooLarge, Unavailable
from pileus.kernel.resources import FilePart

_CHUNK = 1 << 20
_TURN = 4  # chunks that are hashed at once: each turn of two threads costs a millisecond where all are busy
_TURNS = 3  # that wait or are under way
_FLUSHED = 32 << 20  # bytes; what is on the disk already is not waited for at the end


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What was written. Digests are hexadecimal."""

    size: int
    md5: str
    sha512: str


class Blob(Protocol):
    """Bytes being read; deleting them meanwhile does not disturb the reader."""

    def chunks(self, start: int, length: int) -> AsyncIterable[bytes]: ...
    def close(self) -> None: ...


class Incoming(Protocol):
    """Bytes that were written and that nobody can read by key yet."""

    stored: Stored
    path: Path  # where they can be inspected

    async def keep(self, key: str) -> None:
        """Makes them what `key` names, durably, instead of what it named before."""

    async def drop(self) -> None: ...


class ImageStore(Protocol):
    async def receive(self, name: str, chunks: AsyncIterable[bytes], limit: int) -> Incoming:
        """Writes all of the chunks. If it does not end well, nothing is left. Raises TooLarge, Unavailable."""

    async def adopt(self, key: str) -> Incoming:
        """What `key` names, to be kept under another one. Raises FileNotFoundError."""

    async def open(self, key: str) -> Blob:
        """Raises FileNotFoundError."""

    async def delete(self, key: str) -> None:
        """Nothing happens if it isn't there. Raises Unavailable."""

    async def keys(self, older_than_s: float) -> list[str]:
        """Every key whose bytes are older."""

    async def sweep(self, alive: Collection[str], older_than_s: float) -> None:
        """Drops what was being written by others than these, and was not touched for so long.

        The writer is the second word of the name that `receive` was given.
        """


class _Part(FilePart):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        with self.file:
            end, file = self.offset + self.count, self.file.fileno()
            for at in range(self.offset, end, _CHUNK):
                yield await asyncio.to_thread(os.pread, file, min(_CHUNK, end - at), at)


@dataclass
class _File:
    file: IO[bytes]

    def chunks(self, start: int, length: int) -> AsyncIterable[bytes]:
        return _Part(self.file, start, length)

    def close(self) -> None:
        self.file.close()


@dataclass
class _Received:
    folder: Path
    path: Path
    stored: Stored

    async def keep(self, key: str) -> None:
        await asyncio.to_thread(files.settle, self.path, self.folder / key)

    async def drop(self) -> None:
        await asyncio.to_thread(self.path.unlink, missing_ok=True)


class _Writer:
    """Three threads, none of which waits for another: one writes and has a digest, one has the other, one flushes."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("xb", buffering=0)
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.sha512 = hashlib.sha512()
        self.size = self.flushed = 0
        self.threads = ThreadPoolExecutor(1), ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self.flushing: Future[None] | None = None

    def write(self, chunks: list[bytes]) -> None:
        for data in chunks:
            sparse.write(self.file.fileno(), self.size, data)
            self.md5.update(data)
            self.size += len(data)
        if self.size > self.flushed + _FLUSHED and (not self.flushing or self.flushing.done()):
            self._flush()

    def _flush(self) -> None:
        if self.flushing:
            self.flushing.result()  # the kernel tells an error once
        self.flushed = self.size
        self.flushing = self.threads[2].submit(os.fdatasync, self.file.fileno())

    def digest(self, chunks: list[bytes]) -> None:
        for data in chunks:
            self.sha512.update(data)

    def take(self, chunks: list[bytes]) -> asyncio.Future[tuple[None, None]]:
        run, (one, other, _) = asyncio.get_running_loop().run_in_executor, self.threads
        return asyncio.gather(run(one, self.write, chunks), run(other, self.digest, chunks))

    def finish(self) -> Stored:
        if self.flushing:
            self.flushing.result()
        self.file.truncate(self.size)  # zeros at its end are a hole too
        os.fsync(self.file.fileno())
        self.close()
        return Stored(size=self.size, md5=self.md5.hexdigest(), sha512=self.sha512.hexdigest())

    def close(self) -> None:
        """Once no thread is at work any more, whoever cancelled us."""
        for thread in self.threads:
            thread.shutdown(cancel_futures=True)
        self.file.close()


class FileStore:
    """A folder: one file per image, named by its id, and `incoming/` for those not complete yet."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.folder, self.incoming, self.clock = folder, folder / "incoming", clock
        self.incoming.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def receive(self, name: str, chunks: AsyncIterable[bytes], limit: int) -> _Received:
        path = self.incoming / name
        writer = None
        waiting: list[bytes] = []
        under_way: deque[asyncio.Future[tuple[None, None]]] = deque()
        try:
            writer = await asyncio.to_thread(_Writer, path)
            async for data in uploads.gathered(_limited(chunks, limit)):
                waiting.append(data)
                if len(waiting) < _TURN:
                    continue
                if len(under_way) == _TURNS:
                    await under_way.popleft()
                under_way.append(writer.take(waiting))
                waiting = []
            under_way.append(writer.take(waiting))
            await asyncio.gather(*under_way)
            return _Received(self.folder, path, await asyncio.to_thread(writer.finish))
        except BaseException as e:
            if writer is not None:
                await asyncio.to_thread(writer.close)
                await asyncio.gather(*under_way, return_exceptions=True)
            with contextlib.suppress(OSError):  # a store that refuses this too is swept later
                path.unlink(missing_ok=True)
            if isinstance(e, OSError):
                raise _fault(e) from e
            raise

    async def adopt(self, key: str) -> _Received:
        path = self.folder / key
        size = (await asyncio.to_thread(path.stat)).st_size
        return _Received(self.folder, path, Stored(size=size, md5="", sha512=""))

    async def open(self, key: str) -> _File:
        return _File(await asyncio.to_thread((self.folder / key).open, "rb"))

    async def delete(self, key: str) -> None:
        try:
            await asyncio.to_thread((self.folder / key).unlink, missing_ok=True)
        except OSError as e:
            raise _fault(e) from e

    async def keys(self, older_than_s: float) -> list[str]:
        return [p.name for p in await asyncio.to_thread(self._old, self.folder, older_than_s)]

    async def sweep(self, alive: Collection[str], older_than_s: float) -> None:
        for path in await asyncio.to_thread(self._old, self.incoming, older_than_s):
            if not set(path.name.split(".")[1:2]).intersection(alive):
                await asyncio.to_thread(path.unlink, missing_ok=True)

    def _old(self, folder: Path, older_than_s: float) -> list[Path]:
        before = self.clock.time() - older_than_s
        found = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False) and entry.stat().st_mtime < before:
                    found.append(Path(entry.path))
        return found


class Clock(Protocol):
    def time(self) -> float: ...


async def _limited(chunks: AsyncIterable[bytes], limit: int) -> AsyncIterator[bytes]:
    """Raises TooLarge past the limit."""
    total = 0
    async for chunk in chunks:
        total += len(chunk)
        if total > limit:
            raise TooLarge(f"The incoming image is too large: it may have {limit} bytes at most.")
        yield chunk


def _fault(e: OSError) -> Exception:
    if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return TooLarge("Image storage media is full: there is not enough room for this image.")
    return Unavailable("The image storage cannot be written at the moment.", internal=repr(e))

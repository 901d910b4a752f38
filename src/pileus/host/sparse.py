"""Files without their holes: where they have more than zeros, and how they travel so.

A stream is pieces in order: where each belongs and how many bytes it has, eight bytes each, big-endian, and those bytes.
They begin with a block of 64 KiB. What lies between them is zeros; one without bytes ends it and says how long all is.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from pileus.kernel.faults import Invalid

BLOCK = 1 << 16
AT_ONCE = 16 * BLOCK  # no piece has more
KIND = "application/x-pileus-sparse"
_HEAD = struct.Struct(">QQ")
_ZEROS = bytes(BLOCK)

Run = tuple[int, int]  # where it begins and ends


def extents(descriptor: int, at: int, end: int) -> Iterator[Run]:
    """Where the file has data, holes apart. A file system that knows of no holes has data everywhere."""
    while at < end:
        try:
            begin = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as reason:
            if reason.errno != errno.ENXIO:
                raise
            return  # there is no more
        if begin >= end:
            return
        at = min(end, os.lseek(descriptor, begin, os.SEEK_HOLE))
        yield begin, at


def blocks(runs: Iterable[Run], end: int) -> Iterator[Run]:
    """The blocks that those touch, in order, joined where they meet; the last one ends at `end`."""
    first = last = 0
    for begin, until in runs:
        begin -= begin % BLOCK
        if begin > last:
            if last > first:
                yield first, last
            first = begin
        last = max(last, min(end, -(-until // BLOCK) * BLOCK))
    if last > first:
        yield first, last


def packed(runs: Iterable[Run], size: int, read: Callable[[int, int], bytes]) -> Iterator[bytes]:
    """A stream of those runs; `read` is given where, and how many bytes, and answers so many."""
    for begin, end in runs:
        for at in range(begin, end, AT_ONCE):
            count = min(AT_ONCE, end - at)
            yield _HEAD.pack(at, count) + read(at, count)
    yield _HEAD.pack(size, 0)


class Pieces(Protocol):
    """Cuts a stream into pieces. `size` is -1 until its end is known."""

    size: int

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Those that are complete by now, and where each belongs. Raises Invalid."""
        ...

    def finish(self) -> Iterator[tuple[int, bytes]]:
        """There is no more. Raises Invalid if there should be."""
        ...


class Unpacked:
    """Of a stream as above."""

    def __init__(self) -> None:
        self.size, self._at, self._waiting = -1, 0, bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        self._waiting += data
        while len(self._waiting) >= _HEAD.size:
            at, count = _HEAD.unpack_from(self._waiting)
            if self.size >= 0 or not self._may_follow(at, count):
                text = f"A piece of {count} bytes at {at} cannot follow what ends at {self._at}"
                raise Invalid(f"{text}; up to {AT_ONCE} bytes from the beginning of a block can.")
            if len(self._waiting) < _HEAD.size + count:
                return
            piece = bytes(memoryview(self._waiting)[_HEAD.size : _HEAD.size + count])
            del self._waiting[: _HEAD.size + count]
            self._at = at + count
            if count:
                yield at, piece
            else:
                self.size = at

    def _may_follow(self, at: int, count: int) -> bool:
        """Only the end comes after a part of a block."""
        if self._at % BLOCK:
            return at == self._at and not count
        return at >= self._at and count <= AT_ONCE and (at % BLOCK == 0 or not count)

    def finish(self) -> Iterator[tuple[int, bytes]]:
        if self.size < 0 or self._waiting:
            raise Invalid("The bytes end in the middle, before the piece that says their length.")
        yield from ()


class Plain:
    """Of bytes as they are."""

    def __init__(self) -> None:
        self.size, self._at, self._waiting = -1, 0, bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        self._waiting += data
        while len(self._waiting) >= AT_ONCE:
            yield self._next()

    def finish(self) -> Iterator[tuple[int, bytes]]:
        if self._waiting:
            yield self._next()
        self.size = self._at

    def _next(self) -> tuple[int, bytes]:
        at, piece = self._at, bytes(memoryview(self._waiting)[:AT_ONCE])
        del self._waiting[:AT_ONCE]
        self._at += len(piece)
        return at, piece


def pieces(content_type: str) -> Pieces:
    return Unpacked() if content_type == KIND else Plain()


def write(descriptor: int, at: int, data: bytes) -> None:
    """Blocks of zeros stay the holes that they are."""
    begin = 0
    for block in range(0, len(data), BLOCK):
        if data.startswith(_ZEROS[: len(data) - block], block):
            _put(descriptor, at, data, begin, block)
            begin = block + BLOCK
    _put(descriptor, at, data, begin, len(data))


def _put(descriptor: int, at: int, data: bytes, begin: int, end: int) -> None:
    while begin < end:
        begin += os.pwrite(descriptor, memoryview(data)[begin:end], at + begin)


def begin_writeback(descriptor: int, at: int, count: int) -> None:
    """What was written there goes to the disk from now on: whoever flushes the file at its end waits for less."""
    os.posix_fadvise(descriptor, at, count, os.POSIX_FADV_DONTNEED)

"""The files of backups: a whole one has a volume's bytes, another what changed since the one that it stands on.

What is not in a file is a hole. One that is not whole ends in a map, a bit for each block that is its own; where that
begins, and what it stands on, only its record says: nothing that a guest wrote is taken for it.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from pileus.host import sparse
from pileus.host.sparse import AT_ONCE, BLOCK, Run


class Piece(msgspec.Struct, frozen=True):
    """A file, and of how many bytes of a volume it is."""

    path: Path
    size: int
    is_whole: bool = True


class Chain:
    """What files that stand on each other say together, the newest first; without any all is zeros. It blocks."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        """Raises FileNotFoundError."""
        self._files: list[tuple[BinaryIO, Piece, bytes]] = []
        try:
            for piece in pieces:
                file = piece.path.open("rb")
                own = b"" if piece.is_whole else os.pread(file.fileno(), _map(piece), piece.size)
                self._files.append((file, piece, own))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for file, _, _ in self._files:
            file.close()

    def runs(self, begin: int, end: int) -> Iterator[Run]:
        """Of whole blocks, where there may be more than zeros."""
        found = (
            sparse.extents(file.fileno(), begin, min(end, piece.size))
            for file, piece, _ in self._files
        )
        return sparse.blocks(heapq.merge(*found), end)

    def read(self, offset: int, count: int) -> bytes:
        """From the beginning of a block; zeros past the end."""
        if len(self._files) < 2:
            return self._of_newest(offset, count)
        blocks = range(offset, offset + count, BLOCK)
        return b"".join(self._block(at, min(BLOCK, offset + count - at)) for at in blocks)

    def _of_newest(self, offset: int, count: int) -> bytes:
        """Of the only one, which is whole, if there is any."""
        found = b""
        for file, _, _ in self._files:
            found = os.pread(file.fileno(), count, offset)
        return found.ljust(count, b"\0")

    def _block(self, offset: int, count: int) -> bytes:
        byte, bit = divmod(offset // BLOCK, 8)
        for file, piece, own in self._files:
            if piece.is_whole or (offset < piece.size and own[byte] >> bit & 1):
                found = os.pread(file.fileno(), min(count, max(0, piece.size - offset)), offset)
                return found.ljust(count, b"\0")
        return bytes(count)


class Growing:
    """A file that is being written in order: of each block only what `behind` has not. It blocks.

    A whole one has nothing behind it, so that its zeros are holes.
    """

    def __init__(self, path: Path, behind: Chain, pieces: sparse.Pieces, *, is_whole: bool) -> None:
        self._behind, self._pieces, self._is_whole = behind, pieces, is_whole
        self._size, self._own = 0, bytearray()
        path.touch(0o600)
        self._file = path.open("r+b", buffering=0)

    def close(self) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        """What came of the stream. Raises Invalid."""
        for at, piece in self._pieces.feed(data):
            self._store(at, piece)

    def finish(self) -> None:
        """Raises Invalid for a stream that has no end."""
        for at, piece in self._pieces.finish():
            self._store(at, piece)
        size = self._pieces.size
        self._leave(size)
        os.truncate(self._file.fileno(), size)
        if not self._is_whole:
            own = self._own.ljust(-(-size // (8 * BLOCK)), b"\0")
            os.pwrite(self._file.fileno(), own, size)
        os.fsync(self._file.fileno())

    def _store(self, at: int, piece: bytes) -> None:
        self._leave(at)
        if self._is_whole:
            sparse.write(self._file.fileno(), at, piece)
        else:
            self._store_changed(at, piece)
        self._size = at + len(piece)
        sparse.begin_writeback(self._file.fileno(), at, len(piece))

    def _leave(self, until: int) -> None:
        """Zeros come before that: a change of what is behind, if that has others."""
        for begin, end in self._behind.runs(self._size, until):
            for at in range(begin, end, AT_ONCE):
                self._store_changed(at, bytes(min(AT_ONCE, end - at)))

    def _store_changed(self, at: int, new: bytes) -> None:
        old = self._behind.read(at, len(new))
        if new == old:
            return
        for begin in range(0, len(new), BLOCK):
            if not new.startswith(old[begin : begin + BLOCK], begin):
                sparse.write(self._file.fileno(), at + begin, new[begin : begin + BLOCK])
                byte, bit = divmod((at + begin) // BLOCK, 8)
                self._own.extend(bytes(max(0, byte + 1 - len(self._own))))
                self._own[byte] |= 1 << bit


def _map(piece: Piece) -> int:
    """The bytes of its map."""
    return -(-piece.size // (8 * BLOCK))

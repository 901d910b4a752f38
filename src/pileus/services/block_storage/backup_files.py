"""The files of backups: a whole one has a volume's bytes, another what changed since the one that it stands on.

What is not in a file is a hole. One that is not whole ends in a map, a bit for each block that is its own; where that
begins, and what it stands on, only its record says: nothing that a guest wrote is taken for it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

BLOCK = 1 << 16
AT_ONCE = 16 * BLOCK


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

    def __init__(self, path: Path, behind: Chain, *, is_whole: bool) -> None:
        self.path, self._behind, self._is_whole = path, behind, is_whole
        self.size, self._waiting, self._own = 0, bytearray(), bytearray()
        path.touch(0o600)

    def write(self, data: bytes) -> None:
        self._waiting += data
        if len(self._waiting) >= AT_ONCE:
            self._store(len(self._waiting) // BLOCK * BLOCK)

    def finish(self) -> None:
        self._store(len(self._waiting))
        with self.path.open("ab") as file:
            os.truncate(file.fileno(), self.size)
            if not self._is_whole:
                file.write(self._own)
            file.flush()
            os.fsync(file.fileno())

    def _store(self, count: int) -> None:
        new = bytes(self._waiting[:count])
        del self._waiting[:count]
        old = self._behind.read(self.size, count)
        if new != old:
            self._store_changed(new, old)
        self.size += count
        self._own.extend(bytes(-(-self.size // (8 * BLOCK)) - len(self._own)))

    def _store_changed(self, new: bytes, old: bytes) -> None:
        with self.path.open("r+b") as file:
            for at in range(0, len(new), BLOCK):
                block = new[at : at + BLOCK]
                if block != old[at : at + BLOCK]:
                    os.pwrite(file.fileno(), block, self.size + at)
                    byte, bit = divmod((self.size + at) // BLOCK, 8)
                    self._own.extend(bytes(max(0, byte + 1 - len(self._own))))
                    self._own[byte] |= 1 << bit


def _map(piece: Piece) -> int:
    """The bytes of its map."""
    return -(-piece.size // (8 * BLOCK))

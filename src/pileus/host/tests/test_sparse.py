"""Files that travel without their holes."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from pileus.host import sparse
from pileus.host.sparse import AT_ONCE, BLOCK
from pileus.kernel.faults import Invalid


def holed(path: Path, size: int, *data: tuple[int, int]) -> bytes:
    """A file of that size with random bytes at those places, and what it reads as."""
    chance = random.Random(3)
    with path.open("wb") as file:
        file.truncate(size)
        for at, count in data:
            file.seek(at)
            file.write(chance.randbytes(count))
    return path.read_bytes()


def stream(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        runs = sparse.blocks(sparse.extents(file.fileno(), 0, size), size)
        return b"".join(
            sparse.packed(runs, size, lambda at, count: os.pread(file.fileno(), count, at))
        )


def unpacked(path: Path, data: bytes, step: int) -> int:
    """What came of a stream in steps is in a file by then; its size."""
    cut = sparse.pieces(sparse.KIND)
    path.touch()
    with path.open("r+b") as file:
        for at in range(0, len(data), step):
            for where, piece in cut.feed(data[at : at + step]):
                sparse.write(file.fileno(), where, piece)
        assert list(cut.finish()) == []
        file.truncate(cut.size)
    return cut.size


@pytest.mark.parametrize("step", [7_001, BLOCK, 3 * AT_ONCE])
@pytest.mark.parametrize(
    "data",
    [
        (),
        ((0, 9 * AT_ONCE + 5),),
        ((3 * BLOCK + 17, 5), (AT_ONCE * 4 - 1, 2), (9 * AT_ONCE, 5)),
    ],
)
def test_a_file_arrives_as_it_was_and_its_holes_are_neither_sent_nor_kept(
    tmp_path: Path, data: tuple[tuple[int, int], ...], step: int
) -> None:
    size, out = 9 * AT_ONCE + 5, tmp_path / "out"
    whole = holed(tmp_path / "file", size, *data)
    sent = stream(tmp_path / "file", size)
    assert unpacked(out, sent, step) == size and out.read_bytes() == whole
    touched = sum(count + 2 * BLOCK for _, count in data)
    assert len(sent) < touched + 1000 and out.stat().st_blocks * 512 <= touched


def test_only_the_part_that_counts_is_sent(tmp_path: Path) -> None:
    whole = holed(tmp_path / "file", 5 * BLOCK, (0, 2 * BLOCK), (4 * BLOCK, BLOCK))
    assert unpacked(tmp_path / "out", stream(tmp_path / "file", BLOCK + 9), BLOCK) == BLOCK + 9
    assert (tmp_path / "out").read_bytes() == whole[: BLOCK + 9]


@pytest.mark.parametrize(
    "pieces",
    [
        [(BLOCK, 3)],  # without an end
        [(0, BLOCK), (0, BLOCK), (BLOCK, 0)],  # backwards
        [(5, BLOCK), (9 * BLOCK, 0)],  # within a block
        [(0, 5), (BLOCK, 0)],  # more after a part of a block
        [(0, AT_ONCE + 1), (AT_ONCE + 1, 0)],  # too much at once
        [(0, 0), (0, 0)],  # more after the end
    ],
)
def test_a_stream_that_makes_no_sense_is_refused(pieces: list[tuple[int, int]]) -> None:
    head = sparse._HEAD
    data = b"".join(head.pack(at, count) + b"x" * count for at, count in pieces)
    cut = sparse.pieces(sparse.KIND)
    with pytest.raises(Invalid):
        _ = [*cut.feed(data), *cut.finish()]
    cut = sparse.pieces(sparse.KIND)
    with pytest.raises(Invalid, match="middle"):
        _ = [*cut.feed(head.pack(0, 9) + b"half"), *cut.finish()]


def test_bytes_as_they_are_come_in_pieces_and_zeros_among_them_are_holes(tmp_path: Path) -> None:
    data = b"head" + bytes(AT_ONCE) + b"tail" + bytes(3 * BLOCK)
    cut = sparse.pieces("application/octet-stream")
    path = tmp_path / "file"
    path.touch()
    with path.open("r+b") as file:
        for at, piece in [*cut.feed(data[:9]), *cut.feed(data[9:]), *cut.finish()]:
            sparse.write(file.fileno(), at, piece)
        file.truncate(cut.size)
    assert path.read_bytes() == data and path.stat().st_blocks * 512 <= 3 * BLOCK

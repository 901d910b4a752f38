"""A memory that is written to while it is sent, without a QEMU."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pileus.host import qemu_pages
from pileus.host.qemu_pages import PIECE, Sender
from pileus.kernel.faults import Unavailable

PIECES = 64


def memory() -> int:
    descriptor = os.memfd_create("memory")
    os.ftruncate(descriptor, PIECES * PIECE)
    return descriptor


def all_of(descriptor: int) -> bytes:
    return os.pread(descriptor, PIECES * PIECE, 0)


@contextmanager
def sending(here: int, there: int) -> Iterator[Sender]:
    ours, theirs = socket.socketpair()
    taker = threading.Thread(target=qemu_pages.take, args=(theirs, there))
    taker.start()
    sender = Sender(os.dup(here), ours)
    try:
        yield sender
    finally:
        sender.close()
        taker.join()
        theirs.close()


def test_what_was_written_since_is_sent_and_nothing_else() -> None:
    here, there = memory(), memory()
    os.pwrite(here, os.urandom(3 * PIECE), PIECE)
    os.pwrite(there, b"of another sender", 40 * PIECE)
    with sending(here, there) as sender:

        async def story() -> None:
            assert await sender.send() == 3
            os.pwrite(here, bytes(PIECE), 2 * PIECE)  # a page that is nothing again
            os.pwrite(here, b"x", PIECES * PIECE - 1)
            assert await sender.send() == 2
            assert await sender.send() == 0

        asyncio.run(story())
    assert all_of(here) == all_of(there)
    assert os.fstat(here).st_blocks * 512 < PIECES * PIECE // 2, "reading fills no hole"


def test_a_memory_that_is_written_all_the_time_ends_in_a_last_round() -> None:
    here, there = memory(), memory()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            os.pwrite(here, os.urandom(PIECES * PIECE), 0)

    writer = threading.Thread(target=write)
    writer.start()
    with sending(here, there) as sender:

        async def story() -> None:
            await sender.send_while_it_runs()
            stop.set()
            writer.join()
            await sender.send()

        asyncio.run(story())
    assert all_of(here) == all_of(there)


def test_a_host_that_hangs_up_is_unavailable() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    sender = Sender(memory(), ours)
    with pytest.raises(Unavailable, match="did not take the guest's memory"):
        asyncio.run(sender.send())
    sender.close()


@pytest.mark.parametrize("at", [1, PIECES * PIECE, 1 << 62])
def test_nothing_is_written_beside_a_memory(at: int) -> None:
    there, (ours, theirs) = memory(), socket.socketpair()
    with ours, theirs, pytest.raises(ValueError, match="bytes at"):
        ours.sendall(at.to_bytes(8, "big") + b"x" * PIECE)
        ours.shutdown(socket.SHUT_WR)
        qemu_pages.take(theirs, there)
    assert os.fstat(there).st_size == PIECES * PIECE

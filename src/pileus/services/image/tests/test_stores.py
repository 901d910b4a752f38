"""The folder that images are in: uploads that end badly."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from pileus.host import sparse
from pileus.kernel.faults import Unavailable
from pileus.kernel.world import World
from pileus.services.image import stores
from pileus.services.image.tests.given import pieces, random_bytes
from pileus.testing.alone import in_loop

MIB = 1 << 20


@in_loop
async def test_an_upload_that_is_broken_off_closes_its_file_after_its_last_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stores.FileStore(tmp_path, World().clock)
    begun, slow, failed = asyncio.Event(), threading.Event(), []
    loop, write = asyncio.get_running_loop(), sparse.write

    def slowly(fd: int, at: int, data: bytes) -> None:
        loop.call_soon_threadsafe(begun.set)
        slow.wait(0.05)
        try:
            write(fd, at, data)
        except OSError as error:
            failed.append(error)

    monkeypatch.setattr(sparse, "write", slowly)
    coming = asyncio.create_task(store.receive("x", pieces(*[random_bytes(MIB)] * 8), 1 << 30))
    await begun.wait()
    coming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await coming
    await asyncio.sleep(0.5)
    assert not failed
    assert not list(store.incoming.iterdir())


@in_loop
async def test_a_disk_that_fails_before_the_end_of_an_upload_fails_the_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stores.FileStore(tmp_path, World().clock)

    def fails(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(stores, "_FLUSHED", MIB)
    monkeypatch.setattr(os, "fdatasync", fails)
    with pytest.raises(Unavailable):
        await store.receive("x", pieces(*[random_bytes(MIB)] * 9), 1 << 30)
    assert not list(store.incoming.iterdir())

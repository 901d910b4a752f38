"""What is read from real volumes: nothing of others', nothing interpreted, and snapshots as at one moment."""

from __future__ import annotations

import asyncio
import os
import shutil
import struct
import subprocess
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pileus.host import sparse, storage_daemon, uploads
from pileus.kernel.world import World
from pileus.services.block_storage.driver import OfSnapshot, OfVolume, Source, VolumeSpec
from pileus.services.block_storage.drivers.file import FileVolumeDriver
from pileus.testing.drivers.volume import FREE
from pileus.testing.nbd import NbdClient
from pileus.testing.shelf import shelf

BLOCK, COUNT = 4096, 400

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which(storage_daemon.PROGRAM) is None, reason="needs qemu-utils"),
]


@asynccontextmanager
async def started(state: Path) -> AsyncIterator[FileVolumeDriver]:
    driver = FileVolumeDriver(state, "here")
    await driver.start_up()
    try:
        yield driver
    finally:
        await driver.close()


async def new(driver: FileVolumeDriver, source: Source | None = None) -> str:
    spec = VolumeSpec(id=World().new_id(), size_gib=1, project_id="p", source=source)
    await driver.create(spec)
    return spec.id


@asynccontextmanager
async def plugged(driver: FileVolumeDriver, id: str) -> AsyncIterator[NbdClient]:
    attachment = World().new_id()
    export = await driver.export(id, attachment, False, FREE)
    try:
        client = await asyncio.to_thread(NbdClient, export.path, export.name)
        with client:
            yield client
    finally:
        await driver.withdraw(id, attachment)


async def begins(driver: FileVolumeDriver, id: str, count: int) -> bytes:
    async with plugged(driver, id) as guest:
        return await asyncio.to_thread(guest.read, 0, count)


def test_ossa_2013_021_a_new_volume_has_nothing_of_what_was_deleted(state: Path) -> None:
    async def ask() -> None:
        async with started(state) as driver:
            for _ in range(2):
                id, snapshot = await new(driver), World().new_id()
                assert await begins(driver, id, 64 * BLOCK) == bytes(64 * BLOCK)
                async with plugged(driver, id) as guest:
                    await asyncio.to_thread(guest.write, 0, b"secret!!" * 8 * BLOCK)
                    await driver.snapshot(id, snapshot)
                    await asyncio.to_thread(guest.write, 0, b"changed!" * 8 * BLOCK)
                await driver.delete_snapshot(id, snapshot)
                await driver.delete(id)
        assert list((state / "layers").iterdir()) == []

    asyncio.run(ask())


def test_ossa_2014_033_and_2015_011_what_a_guest_writes_is_never_taken_for_a_format(
    state: Path, tmp_path: Path
) -> None:
    """A header that names a file of the host stays what it is: bytes."""
    secret, evil = tmp_path / "secret", tmp_path / "evil.qcow2"
    secret.write_bytes(b"shadow" * 100_000)
    words = ["qemu-img", "create", "-q", "-fqcow2", "-Fraw", f"-b{secret}", str(evil), "1M"]
    subprocess.run(words, check=True)
    header = evil.read_bytes()

    async def ask() -> None:
        async with started(state) as driver:
            id, snapshot = await new(driver), World().new_id()
            async with plugged(driver, id) as guest:
                await asyncio.to_thread(guest.write, 0, header)
                await driver.snapshot(id, snapshot)
            copies = [
                await new(driver, OfVolume(volume_id=id)),
                await new(driver, OfSnapshot(volume_id=id, snapshot_id=snapshot)),
            ]
            for one in (id, *copies):
                assert await begins(driver, one, len(header)) == header
            with shelf() as shop:
                await driver.send(id, snapshot, "raw", shop.takes)
                assert shop.sent[0][1][: len(header)] == header
                await driver.receive(copies[0], shop.offer(header), len(header))
                assert await begins(driver, copies[0], len(header)) == header
                await driver.send(copies[0], "", "qcow2", shop.takes)
                assert secret.read_bytes()[:600] not in shop.sent[-1][1]

    asyncio.run(ask())


def test_holes_are_neither_sent_nor_kept_and_all_else_comes_back(state: Path) -> None:
    """Of a file alone, of a chain of them while it is exported, and of a snapshot."""
    parts = {0: b"first", 700 << 20: b"middle" * BLOCK, (1 << 30) - 4: b"last"}

    async def ask() -> None:
        async with started(state) as driver:
            id, snapshot = await new(driver), World().new_id()
            with shelf() as shop:
                takes = f"{shop.takes}?{uploads.SPARSE}"
                for at, part in parts.items():
                    async with plugged(driver, id) as guest:
                        await asyncio.to_thread(guest.write, at, part)
                    await driver.send(id, "", "raw", takes)
                await driver.snapshot(id, snapshot)
                async with plugged(driver, id) as guest:
                    await asyncio.to_thread(guest.write, 1 << 20, b"later")
                    await driver.send(id, "", "raw", takes)
                assert await driver.send(id, snapshot, "raw", takes) == 1 << 30
                assert [size // BLOCK for size, _ in shop.sent] == [16, 32, 48, 64, 48]
                for _, sent in shop.sent[-2:]:
                    copy = await new(driver)
                    await driver.receive(copy, shop.offer(sent, sparse.KIND), 1 << 30)
                    async with plugged(driver, copy) as guest:
                        for at, part in parts.items():
                            assert await asyncio.to_thread(guest.read, at, len(part)) == part
                    await driver.delete(copy)
                    used = sum(p.stat().st_blocks * 512 for p in (state / "layers").iterdir())
                    assert used < 64 * sparse.BLOCK

    asyncio.run(ask())


class Journal:
    """A guest that writes one block after the other, each when the one before it was answered."""

    def __init__(self, guest: NbdClient) -> None:
        self.guest, self.stop, self.answered = guest, threading.Event(), 0

    def run(self) -> None:
        while not self.stop.is_set() and self.answered < COUNT:
            at = self.answered * 37 % COUNT * BLOCK
            self.guest.write(at, struct.pack(">Q", self.answered + 1) * (BLOCK // 8))
            self.answered += 1


def test_a_snapshot_under_writes_has_all_that_was_answered_before_and_nothing_after_a_gap(
    state: Path,
) -> None:
    """What any file system's journal relies on: of two writes in order never the second alone."""

    async def ask() -> None:
        async with started(state) as driver:
            id, taken = await new(driver), list[tuple[str, int]]()
            async with plugged(driver, id) as guest:
                journal = Journal(guest)
                writing = asyncio.create_task(asyncio.to_thread(journal.run))
                for n in range(1, 4):
                    while journal.answered < n * 15:
                        await World().clock.sleep(0.001)
                    snapshot, before = World().new_id(), journal.answered
                    await driver.snapshot(id, snapshot)
                    taken.append((snapshot, before))
                journal.stop.set()
                await writing
            for snapshot, before in taken:
                copy = await new(driver, OfSnapshot(volume_id=id, snapshot_id=snapshot))
                data = await begins(driver, copy, COUNT * BLOCK)
                there = [
                    data[n * 37 % COUNT * BLOCK :][:BLOCK]
                    == struct.pack(">Q", n + 1) * (BLOCK // 8)
                    for n in range(COUNT)
                ]
                kept = [*there, False].index(False)  # a slow snapshot has all of them
                assert kept >= before and not any(there[kept:])

    asyncio.run(ask())

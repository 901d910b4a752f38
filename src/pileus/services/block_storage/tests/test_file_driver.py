"""The driver suite on real files and daemons, and what only they can be asked; needs root and QEMU's tools."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import struct
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pileus.host import caches, storage_daemon
from pileus.host.storage_daemon import running_below
from pileus.kernel.faults import Conflict, Invalid, Unavailable
from pileus.kernel.world import World
from pileus.services.block_storage.driver import (
    Export,
    ImageBytes,
    Limits,
    OfSnapshot,
    OfVolume,
    VolumeDriver,
)
from pileus.services.block_storage.drivers.file import FileVolumeDriver
from pileus.services.block_storage.drivers.file.layers import DEEPEST, LONGEST
from pileus.services.block_storage.drivers.file.record import Kept, Layer, Record
from pileus.services.block_storage.drivers.file.serving import open_layers
from pileus.testing.drivers.volume import FREE, GIB, SUITE, Bench
from pileus.testing.nbd import NbdClient, Refused
from pileus.testing.shelf import shelf

KIB, MIB = 1 << 10, 1 << 20

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which(storage_daemon.PROGRAM) is None, reason="needs qemu-utils"),
]


@pytest.fixture
def bench(tmp_path: Path, state: Path) -> Iterator[Bench]:
    begins = random.Random(7).randbytes(256 * KIB)
    raw, good = tmp_path / "raw", tmp_path / "good"
    raw.write_bytes(begins + bytes(MIB))
    subprocess.run(["qemu-img", "convert", "-fraw", "-Oqcow2", str(raw), str(good)], check=True)
    with shelf() as shop:
        yield Bench(
            make=lambda: FileVolumeDriver(state, "here", address="127.0.0.1"),
            image=ImageBytes(id="good", url=shop.offer(good.read_bytes()), disk_format="qcow2"),
            image_begins=begins,
            shelf=shop,
            write=write,
            read=read,
        )


@contextlib.asynccontextmanager
async def exported(
    driver: VolumeDriver, volume_id: str, is_read_only: bool = False
) -> AsyncIterator[Export]:
    attachment = World().new_id()
    export = await driver.export(volume_id, attachment, is_read_only, FREE)
    try:
        yield export
    finally:
        await driver.withdraw(volume_id, attachment)


async def on(export: Export, act: Callable[[NbdClient], bytes | None]) -> bytes:
    """What a guest there gets."""

    def job() -> bytes:
        with NbdClient(export.path, export.name) as client:
            return act(client) or b""

    return await asyncio.to_thread(job)


async def write(driver: VolumeDriver, volume_id: str, data: bytes) -> None:
    """At the beginning; what is less than a sector is written with what follows."""
    async with exported(driver, volume_id) as export:
        await on(export, lambda client: _write(client, data))


def _write(client: NbdClient, data: bytes) -> None:
    whole = -(-len(data) // 512) * 512
    client.write(0, data + client.read(0, whole)[len(data) :])


async def read(driver: VolumeDriver, volume_id: str, count: int) -> bytes:
    async with exported(driver, volume_id, True) as export:
        return (await on(export, lambda client: client.read(0, -(-count // 512) * 512)))[:count]


@pytest.mark.parametrize("ask", SUITE, ids=lambda ask: ask.__name__)
def test_files_keep_the_promises_of_a_driver(
    ask: Callable[[Bench], Coroutine[None, None, None]], bench: Bench
) -> None:
    asyncio.run(ask(bench))


async def eventually(is_so: Callable[[], object]) -> None:
    world = World()
    end = world.clock.monotonic() + 30
    while not await asyncio.to_thread(is_so):
        assert world.clock.monotonic() < end, "it did not come true"
        await world.clock.sleep(0.01)


async def daemon_of(state: Path, volume_id: str, within: str = "") -> int:
    """The process that serves a volume, as soon as there is one."""
    folder = (state / "volumes" / volume_id / within).resolve()
    await eventually(lambda: folder in running_below(state))
    return running_below(state)[folder]


class Writer:
    """A guest that writes blocks here and there, each time another number, and repeats what was not answered.

    It writes from when it is entered until it is stopped or left, whatever happens meanwhile.
    """

    def __init__(self, export: Export) -> None:
        self.export, self._stop, self.times = export, threading.Event(), 0
        self.count = 0
        self.written: dict[int, int] = {}

    async def __aenter__(self) -> Writer:
        self._writing = asyncio.create_task(asyncio.to_thread(self._run))
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        self._stop.set()
        await self._writing

    def _run(self) -> None:
        chance, offset = random.Random(1), 0
        while not self._stop.wait(0.005):
            with (
                contextlib.suppress(OSError, Refused),
                NbdClient(self.export.path, self.export.name) as c,
            ):
                self.times += 1
                while not self._stop.is_set():
                    c.write(offset, struct.pack(">Q", self.count + 1) * 512)
                    self.count += 1
                    self.written[offset] = self.count
                    offset = chance.randrange(2000) * 100 * KIB


def age(state: Path, volume_id: str) -> None:
    """Make a copy what an earlier version made of it: a qcow2."""
    note = state / "volumes" / volume_id / "volume.json"
    record = msgspec.json.decode(note.read_bytes(), type=Record)
    over, behind = record.chain
    path, back = state / over.name, f"../{behind.name}"
    made = ["qemu-img", "create", "-q", "-fqcow2", f"-F{behind.format}", f"-b{back}", str(path)]
    subprocess.run([*made, str(LONGEST)], check=True)
    chain = (msgspec.structs.replace(over, format="qcow2"), behind)
    note.write_bytes(msgspec.json.encode(msgspec.structs.replace(record, chain=chain)))


@pytest.mark.parametrize("kind", ["blank", "copy", "aged copy"])
def test_nothing_that_was_written_is_lost_when_daemons_are_killed_and_guests_go_on(
    kind: str, bench: Bench, state: Path
) -> None:
    async def ask() -> None:
        spec = bench.spec(None if kind == "blank" else bench.image)
        async with bench.driver() as driver:
            await driver.create(spec)
        if kind == "aged copy":
            await asyncio.to_thread(age, state, spec.id)
        async with bench.driver() as driver:
            attachment = bench.world.new_id()
            export = await driver.export(spec.id, attachment, False, FREE)
            async with Writer(export) as writer:
                for kill in range(1, 4):
                    await eventually(lambda: min(writer.times * 60, writer.count) >= 60 * kill)  # noqa: B023
                    os.kill(await daemon_of(state, spec.id), 9)
                await eventually(lambda: writer.times >= 4)
            os.kill(await daemon_of(state, spec.id), 9)
            await driver.withdraw(spec.id, attachment)
            async with exported(driver, spec.id, True) as export:
                found = await on(export, lambda c: b"".join(c.read(o, 8) for o in writer.written))
            numbers = struct.unpack(f">{len(writer.written)}Q", found)
            assert numbers == tuple(writer.written.values())

    asyncio.run(ask())


def test_a_guest_goes_on_writing_while_its_volume_is_snapshot_copied_sent_and_grown(
    bench: Bench,
) -> None:
    async def ask() -> None:
        async with bench.driver() as driver:
            volume_id, attachment = await bench.volume(driver, b"first"), bench.world.new_id()
            export = await driver.export(volume_id, attachment, False, FREE)
            await driver.snapshot(volume_id, "kept")
            copy = bench.spec(OfVolume(volume_id=volume_id), 2)
            with NbdClient(export.path, export.name) as client:
                await asyncio.to_thread(_write, client, b"again")
                assert (await driver.extend(volume_id, 2)).size_gib == 2
                await driver.send(volume_id, "", "qcow2", bench.shelf.takes)
                larger = await driver.export(volume_id, attachment, False, FREE)
                assert larger.name != export.name, "one of another size"
                with NbdClient(larger.path, larger.name) as moved:
                    assert moved.size == 2 * GIB
                    assert (await asyncio.to_thread(moved.read, 0, 512))[:5] == b"again"
                    await asyncio.to_thread(moved.write, GIB, b"x" * 512)
                    await asyncio.to_thread(moved.flush)
                assert (await asyncio.to_thread(client.read, 0, 512))[:5] == b"again"
            await driver.create(copy)
            assert await read(driver, copy.id, 5) == b"again"
            await driver.withdraw(volume_id, attachment)
            await driver.revert(volume_id, "kept")
            assert await read(driver, volume_id, 5) == b"first"

    asyncio.run(ask())


def test_where_a_daemon_may_not_use_io_uring_threads_serve_its_layers() -> None:
    opened: list[str] = []

    class Refusing(storage_daemon.StorageDaemon):
        def __init__(self) -> None:
            """It needs no process."""

        async def execute(self, command: str, **node: Any) -> None:
            opened.append(node["file"]["aio"])
            if opened[-1] == "io_uring":
                raise Unavailable("QEMU did not accept blockdev-add.")

    asyncio.run(open_layers(Refusing(), (Layer("layers/1", "raw"),)))
    assert opened == ["io_uring", "threads"]


def test_a_daemon_has_its_memory_at_hand_for_every_request(bench: Bench, state: Path) -> None:
    def faults(pid: int) -> int:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[7])

    async def ask() -> None:
        async with bench.driver() as driver:
            volume_id = await bench.volume(driver, b"content")
            async with exported(driver, volume_id) as export:
                daemon = await daemon_of(state, volume_id)
                with NbdClient(export.path, export.name) as client:

                    def go() -> None:
                        for n in range(50):
                            client.write(n * MIB, bytes(MIB))
                            client.read(n * MIB, 256 * KIB)

                    await asyncio.to_thread(go)
                    before = faults(daemon)
                    await asyncio.to_thread(go)
                    assert faults(daemon) - before < 1000, "of the 16,000 that all its pages are"

    asyncio.run(ask())


def test_an_export_that_may_only_be_read_takes_no_writes(bench: Bench) -> None:
    async def ask() -> None:
        async with bench.driver() as driver:
            volume_id = await bench.volume(driver, b"content")
            async with exported(driver, volume_id, True) as export:
                with pytest.raises(Refused):
                    await on(export, lambda client: client.write(0, bytes(512)))

    asyncio.run(ask())


def test_limits_hold_and_can_be_lifted_under_a_guest(bench: Bench) -> None:
    async def ask() -> None:
        async with bench.driver() as driver:
            spec, attachment = bench.spec(), bench.world.new_id()
            await driver.create(spec)
            took = {}
            for iops in (20, 0):
                limits = Limits(total_iops_sec=iops)
                export = await driver.export(spec.id, attachment, False, limits)
                begun = bench.world.clock.monotonic()
                await on(export, lambda c: b"".join(c.read(0, 512) for _ in range(20)))
                took[iops] = bench.world.clock.monotonic() - begun
            assert took[20] > 0.5 and took[0] < took[20] / 2

    asyncio.run(ask())


def test_other_hosts_come_in_by_tls_with_the_key_of_an_attachment_and_no_other(
    bench: Bench, state: Path, tmp_path: Path
) -> None:
    def from_elsewhere(export: Export, secret: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "keys.psk").write_text(f"{export.attachment_id}:{secret}\n")
        tls = f"tls-creds-psk,id=tls,endpoint=client,dir={tmp_path},username={export.attachment_id}"
        at = f"server.type=inet,server.host={export.address},server.port={export.port}"
        image = f"driver=nbd,{at},export={export.name}"
        words = ["qemu-io", "--object", tls, "--image-opts", "-c", "read -v 0 8"]
        image += ",tls-creds=tls" if secret else ""
        return subprocess.run([*words, image], capture_output=True, text=True, timeout=20)

    async def ask() -> None:
        async with bench.driver() as driver:
            volume_id, attachment = await bench.volume(driver, b"longhaul"), bench.world.new_id()
            local = await driver.export(volume_id, attachment, False, FREE)
            assert (local.port, local.secret) == (0, "")
            export = await driver.export(volume_id, attachment, False, FREE, True)
            assert (
                "longhaul"
                in (await asyncio.to_thread(from_elsewhere, export, export.secret)).stdout
            )
            for secret in ("", "ab" * 32):
                refused = await asyncio.to_thread(from_elsewhere, export, secret)
                assert refused.returncode != 0 and "longhaul" not in refused.stdout
            os.kill(await daemon_of(state, volume_id, "gate"), 9)
            await eventually(lambda: from_elsewhere(export, export.secret).returncode == 0)
            # As when a guest came from another host to the volume's own.
            stays = bench.world.new_id()
            local = await driver.export(volume_id, stays, False, FREE)
            async with asyncio.timeout(5):
                await driver.withdraw(volume_id, attachment)
            assert (await on(local, lambda client: client.read(0, 8))) == b"longhaul"
            await driver.withdraw(volume_id, stays)
            assert running_below(state) == {}

    asyncio.run(ask())


def test_an_encrypted_volume_of_an_image_is_read_by_who_has_the_passphrase(
    bench: Bench, state: Path
) -> None:
    def opened(export: Export, passphrase: str) -> subprocess.CompletedProcess[str]:
        nbd = f"file.driver=nbd,file.server.type=unix,file.server.path={export.path}"
        image = f"driver=luks,key-secret=key,{nbd},file.export={export.name}"
        words = ["qemu-io", "--object", f"secret,id=key,data={passphrase}", "--image-opts"]
        words += ["-c", "length", "-c", "read -v 0 64", image]
        return subprocess.run(words, capture_output=True, text=True, timeout=20)

    async def ask() -> None:
        plain = bench.image_begins
        async with bench.driver() as driver:
            spec = msgspec.structs.replace(bench.spec(bench.image), passphrase="open sesame")
            await driver.create(spec)
            copy = bench.spec(OfVolume(volume_id=spec.id))
            await driver.create(copy)
            for volume_id in (spec.id, copy.id):
                async with exported(driver, volume_id) as export:
                    assert export.size > GIB, "there is room for the header"
                    head = await on(export, lambda client: client.read(0, 4 * MIB))
                    assert head.startswith(b"LUKS") and plain[:64] not in head
                    good = await asyncio.to_thread(opened, export, "open sesame")
                    assert "1 GiB" in good.stdout and plain[:16].hex(" ") in good.stdout
                    assert (await asyncio.to_thread(opened, export, "wrong")).returncode

    asyncio.run(ask())
    for layer in (state / "layers").iterdir():
        with layer.open("rb") as file:
            assert bench.image_begins[:64] not in file.read(4 * MIB)
    for note in state.glob("volumes/*/*.json"):
        assert b"open sesame" not in note.read_bytes()


def test_a_copy_cannot_become_encrypted(bench: Bench) -> None:
    async def ask() -> None:
        async with bench.driver() as driver:
            volume_id = await bench.volume(driver, b"plain")
            copy = bench.spec(OfVolume(volume_id=volume_id))
            with pytest.raises(Invalid, match="not encrypted"):
                await driver.create(msgspec.structs.replace(copy, passphrase="x"))

    asyncio.run(ask())


def test_a_volume_that_stands_on_too_much_says_so_and_a_restored_one_stands_on_nothing(
    bench: Bench,
) -> None:
    async def ask() -> None:
        async with bench.driver() as driver:
            volume_id = await bench.volume(driver, b"content")
            for n in range(DEEPEST - 1):
                await driver.snapshot(volume_id, str(n))
            assert await read(driver, volume_id, 7) == b"content"
            with pytest.raises(Conflict, match="stands on 200"):
                await driver.snapshot(volume_id, "more")
            await driver.receive(volume_id, bench.shelf.offer(b"restored"), 8)
            await driver.snapshot(volume_id, "more")

    asyncio.run(ask())


def things(state: Path) -> set[Path]:
    return {path.relative_to(state) for path in state.rglob("*")}


def test_a_full_disk_is_a_conflict_and_leaves_nothing(bench: Bench, state: Path) -> None:
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "none", str(state)], check=True)
    try:
        asyncio.run(_fill(bench, state))
    finally:
        subprocess.run(["umount", str(state)], check=True)


async def _fill(bench: Bench, state: Path) -> None:
    async with bench.driver() as driver:
        spec = bench.spec()
        await driver.create(spec)
        before = things(state)
        big = bench.shelf.offer(random.Random(3).randbytes(2 * MIB))
        image = ImageBytes(id="big", url=big, size=2 * MIB)
        verbs: list[Callable[[], Awaitable[object]]] = [
            lambda: driver.create(bench.spec(image)),
            lambda: driver.create(bench.spec(msgspec.structs.replace(image, size=0))),
            lambda: driver.receive(spec.id, big, 2 * MIB),
        ]
        for verb in verbs:
            with pytest.raises(Conflict, match="No room"):
                await verb()
            assert things(state) == before


def test_what_a_process_that_died_left_half_made_is_gone(bench: Bench, state: Path) -> None:
    async def ask() -> None:
        async with bench.driver() as driver:
            volume_id = await bench.volume(driver, b"whole")
        before = things(state)
        (state / "volumes" / bench.world.new_id()).mkdir()
        (state / "volumes" / volume_id / "volume.json.part").touch()
        (state / "layers" / bench.world.new_hex()).touch()
        (state / "outgoing" / bench.world.new_hex()).touch()
        async with bench.driver() as driver:
            assert things(state) == before
            assert await read(driver, volume_id, 5) == b"whole"
            await driver.delete(volume_id)

    asyncio.run(ask())
    kept = {".claim", "images", "layers", "outgoing", "volumes"}
    assert {str(path) for path in things(state)} == kept


def test_exports_are_served_again_after_a_restart_of_the_machine(bench: Bench, state: Path) -> None:
    async def ask() -> None:
        attachment = bench.world.new_id()
        async with bench.driver() as driver:
            volume_id = await bench.volume(driver, b"content")
            await driver.export(volume_id, attachment, False, FREE)
        os.kill(await daemon_of(state, volume_id), 9)
        async with bench.driver() as driver:
            export = await driver.export(volume_id, attachment, False, FREE)
            assert (await on(export, lambda client: client.read(0, 512)))[:7] == b"content"
            await driver.withdraw(volume_id, attachment)

    asyncio.run(ask())


def test_a_snapshot_that_its_daemon_has_not_heard_of_is_one_after_a_restart(
    bench: Bench, state: Path
) -> None:
    """The process died between the record and the daemon: what is written since is in neither too much nor too little."""

    async def ask() -> None:
        attachment = bench.world.new_id()
        async with bench.driver() as driver:
            volume_id = await bench.volume(driver, b"before")
            export = await driver.export(volume_id, attachment, False, FREE)
            assert isinstance(driver, FileVolumeDriver)
            record = driver._volumes[volume_id]
            await driver._cover(record, snapshots={"kept": Kept(record.chain, 1)})
        async with bench.driver() as driver:
            await on(export, lambda client: client.write(0, b"after!" + bytes(506)))
            await driver.withdraw(volume_id, attachment)
            assert await read(driver, volume_id, 6) == b"after!"
            copy = bench.spec(OfSnapshot(volume_id=volume_id, snapshot_id="kept"))
            await driver.create(copy)
            assert await read(driver, copy.id, 6) == b"before"

    asyncio.run(ask())


def test_two_hosts_never_have_one_folder_and_the_second_goes_on_when_the_first_is_gone(
    bench: Bench, state: Path
) -> None:
    async def ask() -> None:
        attachment = bench.world.new_id()
        second = FileVolumeDriver(state, "second", address="127.0.0.1")
        async with bench.driver() as first:
            volume_id = await bench.volume(first, b"shared")
            await first.export(volume_id, attachment, False, FREE)
            with pytest.raises(Conflict, match="used by host here; host second must"):
                await second.start_up()
            assert [volume.id for volume in await first.volumes()] == [volume_id]
        os.kill(await daemon_of(state, volume_id), 9)  # with its machine
        await second.start_up()
        export = await second.export(volume_id, attachment, False, FREE)
        assert await on(export, lambda client: client.read(0, 512)) == b"shared".ljust(512, b"\0")
        await second.close()

    asyncio.run(ask())


def test_a_guest_goes_on_writing_while_its_volume_goes_to_another_back_end(
    bench: Bench, state: Path
) -> None:
    async def play(away: str) -> None:
        other = FileVolumeDriver(state.with_name(away), away, address="127.0.0.1")
        async with bench.driver() as here:
            await other.start_up()
            try:
                await goes(here, other, away)
            finally:
                await other.sweep(set())
                await other.close()
                shutil.rmtree(caches.sockets(state.with_name(away) / "volumes"))

    async def goes(here: VolumeDriver, other: FileVolumeDriver, away: str) -> None:
        one, attachment, new = await bench.volume(here, b"x"), bench.world.new_id(), bench.spec()
        export = await here.export(one, attachment, False, FREE)
        await other.create(new)
        is_remote = away != "here"
        async with Writer(export) as writer:
            await eventually(lambda: writer.count >= 100)
            heir = await other.export(new.id, attachment, False, FREE, is_remote)
            await here.hand_over(one, heir)
            await here.delete(one)
            assert await here.volumes() == []
            count = writer.count
            await eventually(lambda: writer.count >= count + 50)
            os.kill(await daemon_of(state, one), 9)
            times, count = writer.times, writer.count
            await eventually(lambda: writer.times > times and writer.count >= count + 50)
            assert one in os.listdir(state / "volumes"), "it stays as long as a guest asks for it"
        await eventually(lambda: one not in os.listdir(state / "volumes"))
        heir = await other.export(new.id, attachment, False, FREE)
        found = await on(heir, lambda c: b"".join(c.read(o, 8) for o in writer.written))
        numbers = struct.unpack(f">{len(writer.written)}Q", found)
        assert numbers == tuple(writer.written.values())
        await other.withdraw(new.id, attachment)
        used = sum(p.stat().st_blocks for p in (state.with_name(away) / "layers").iterdir())
        assert used * 512 < 300 * MIB, "holes stay holes"

    for away in ("here", "there"):
        asyncio.run(play(away))


def test_a_volume_whose_heir_fails_stays_where_it_is(bench: Bench, state: Path) -> None:
    async def play() -> None:
        async with bench.driver() as driver:
            one, attachment, new = (
                await bench.volume(driver, b"x"),
                bench.world.new_id(),
                bench.spec(),
            )
            await driver.create(new)
            export = await driver.export(one, attachment, False, FREE)
            with NbdClient(export.path, export.name) as client:
                for n in range(8):
                    client.write(n * MIB, bytes([n + 1]) * MIB)
            await driver.export(one, attachment, False, Limits(total_bytes_sec=MIB))
            heir = await driver.export(new.id, attachment, False, FREE)
            moving = asyncio.create_task(driver.hand_over(one, heir))
            await eventually(lambda: used_by(state) > 9 * MIB)
            await driver.withdraw(new.id, attachment)
            with pytest.raises(Conflict, match="could not be copied"):
                await moving
            assert await driver.stay(one)
            await driver.delete(new.id)
            await driver.withdraw(one, attachment)
            assert await read(driver, one, 2) == bytes([1, 1])

    asyncio.run(play())


def used_by(state: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in (state / "layers").iterdir())

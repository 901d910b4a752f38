"""Volumes by iSCSI: QEMU's own initiator asks tgtd, which asks the daemons of a volume."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from pileus.host import fuse_disks, iscsi_target
from pileus.host.qemu import UNPRIVILEGED
from pileus.host.storage_daemon import running_below
from pileus.kernel.faults import Conflict, Unavailable
from pileus.kernel.world import Clock, World
from pileus.services.block_storage.driver import Export, Limits, OfVolume, VolumeSpec
from pileus.services.block_storage.drivers.file import FileVolumeDriver
from pileus.services.block_storage.drivers.file.gates import free_port
from pileus.services.block_storage.tests.test_file_driver import daemon_of

GIB, KIB = 1 << 30, 1 << 10
FREE = Limits()
WRITES = 300

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture
def served(state: Path) -> Iterator[Path]:
    """The folder of the driver's volumes; what still shows them goes."""
    yield state
    for pid in iscsi_target.running_below(state):
        os.kill(pid, 9)
    for pid in running_below(state).values():
        os.kill(pid, 9)
    for folder in state.glob("volumes/*/target"):
        fuse_disks.remove(folder)


def url(export: Export, user: str = "", secret: str = "") -> str:
    who = f"{user or export.attachment_id}%{secret or export.secret}@"
    return f"iscsi://{who}{export.address}:{export.port}/{export.name}/1"


async def io(at: str, *commands: str, is_read_only: bool = False) -> str:
    """What qemu-io says of these commands, one after the other."""

    def job() -> str:
        words = [part for command in commands for part in ("-c", command)]
        argv = ["qemu-io", "-f", "raw", *(["-r"] if is_read_only else []), *words, at]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    return await asyncio.to_thread(job)


async def offered(
    driver: FileVolumeDriver, *, is_copy: bool = False, is_read_only: bool = False
) -> Export:
    """A volume of 1 GiB, a raw file or layers, to one who speaks iSCSI."""
    world = World()
    spec = VolumeSpec(id=world.new_id(), size_gib=1, project_id="p")
    await driver.create(spec)
    volume_id = spec.id
    if is_copy:
        volume_id = world.new_id()
        copy = VolumeSpec(
            id=volume_id, size_gib=1, project_id="p", source=OfVolume(volume_id=spec.id)
        )
        await driver.create(copy)
    return await driver.export_target(volume_id, world.new_id(), is_read_only, FREE)


def volume_of(driver_state: Path, export: Export) -> str:
    """The id of the volume that has the export."""
    for note in driver_state.glob("volumes/*/volume.json"):
        if export.attachment_id in note.read_text():
            return note.parent.name
    raise AssertionError(f"no volume is exported for {export.attachment_id}")


def run(state: Path, ask: Callable[[FileVolumeDriver], Awaitable[None]]) -> None:
    async def job() -> None:
        driver = FileVolumeDriver(state, "here", address="127.0.0.1")
        await driver.start_up()
        try:
            await ask(driver)
        finally:
            await driver.close()

    asyncio.run(job())


def test_who_has_the_password_of_an_attachment_reads_and_writes_and_nobody_else(
    served: Path,
) -> None:
    async def ask(driver: FileVolumeDriver) -> None:
        one, other = await offered(driver), await offered(driver, is_copy=True)
        said = await io(url(one), "write -P 65 0 64k", "flush", "discard 1M 1M", "read -P 65 0 64k")
        assert said.count("65536/65536") == 2 and "failed" not in said
        assert "failed" not in await io(url(other), "write -P 66 1M 4k", "read -P 66 1M 4k")
        for wrong in (
            url(one, secret="wrong-password-0"),
            url(one, other.attachment_id, other.secret),
            url(one).replace(f"{one.attachment_id}%{one.secret}@", ""),
        ):
            assert "Authentication failure" in await io(wrong, "read 0 512")
        again = await driver.export_target(volume_of(served, one), one.attachment_id, False, FREE)
        assert again == one

    run(served, ask)


def test_an_attachment_for_reading_takes_no_writes(served: Path) -> None:
    async def ask(driver: FileVolumeDriver) -> None:
        export = await offered(driver, is_read_only=True)
        assert "512/512" in await io(url(export), "read -P 0 0 512", is_read_only=True)
        assert "write protected" in await io(url(export), "write -P 65 0 512")

    run(served, ask)


def test_a_volume_that_is_given_back_is_served_no_more_and_nothing_runs_on(served: Path) -> None:
    async def ask(driver: FileVolumeDriver) -> None:
        export = await offered(driver)
        volume_id = volume_of(served, export)
        by_nbd = await driver.export(volume_id, World().new_id(), False, FREE)
        assert iscsi_target.running_below(served), "it is asked for"
        await driver.withdraw(volume_id, export.attachment_id)
        assert not iscsi_target.running_below(served)
        assert len(running_below(served)) == 1, "its guest goes on"
        assert "can't open" in await io(url(export), "read 0 512")
        await driver.withdraw(volume_id, by_nbd.attachment_id)
        await driver.delete(volume_id)
        assert not running_below(served)
        mounted = await asyncio.to_thread(Path("/proc/mounts").read_text)
        assert str(served) not in mounted

    run(served, ask)


def test_a_host_that_starts_anew_takes_up_its_targets(served: Path) -> None:
    found: list[Export] = []

    async def first(driver: FileVolumeDriver) -> None:
        found.append(await offered(driver, is_copy=True))

    async def again(driver: FileVolumeDriver) -> None:
        assert iscsi_target.running_below(served) == before, "the same that ran"
        assert "failed" not in await io(url(found[0]), "write -P 67 0 4k", "read -P 67 0 4k")
        volume_id = volume_of(served, found[0])
        await driver.withdraw(volume_id, found[0].attachment_id)
        assert not iscsi_target.running_below(served)

    run(served, first)
    before = iscsi_target.running_below(served)
    assert len(before) == 1
    run(served, again)


class Initiator:
    """Writes another number to each of many places, slowly, while things happen."""

    def __init__(self, export: Export) -> None:
        self._url = url(export)

    async def __aenter__(self) -> Initiator:
        words = [f"write -P {self._number(n)} {n * 64}k 64k\nsleep 5" for n in range(WRITES)]
        self._io = await asyncio.create_subprocess_exec(
            "qemu-io", "-f", "raw", self._url, stdin=-1, stdout=-1, stderr=-2
        )
        self._end = asyncio.create_task(self._io.communicate("\n".join(words).encode()))
        return self

    async def __aexit__(self, *reason: object) -> None:
        """Every one was answered as written, and is there."""
        said, _ = await asyncio.wait_for(self._end, 90)
        assert said.count(b"wrote 65536/65536") == WRITES, said[-2000:]
        reads = [f"read -P {self._number(n)} {n * 64}k 64k" for n in range(WRITES)]
        found = await io(self._url, *reads)
        assert found.count("read 65536/65536") == WRITES and "failed" not in found

    @staticmethod
    def _number(n: int) -> int:
        return n % 250 + 1


@pytest.mark.parametrize("is_copy", [False, True], ids=["blank", "copy"])
def test_nothing_written_is_lost_and_no_write_fails_when_what_serves_it_is_killed(
    is_copy: bool, served: Path
) -> None:
    async def ask(driver: FileVolumeDriver) -> None:
        export = await offered(driver, is_copy=is_copy)
        volume_id = volume_of(served, export)
        async with Initiator(export):
            for within in ("tgtd", "target", ""):
                await asyncio.sleep(0.7)
                if within == "tgtd":
                    (pid,) = iscsi_target.running_below(served)
                else:  # a target's two processes are started anew together
                    pid = await daemon_of(served, volume_id, within)
                os.kill(pid, 9)

    run(served, ask)


def test_a_volume_grows_while_it_is_written_and_who_logs_in_sees_it(served: Path) -> None:
    async def ask(driver: FileVolumeDriver) -> None:
        export = await offered(driver)
        volume_id = volume_of(served, export)
        async with Initiator(export):
            await asyncio.sleep(0.5)
            await driver.extend(volume_id, 2)
        assert "failed" not in await io(url(export), "write -P 9 1536M 64k", "read -P 9 1536M 64k")

    run(served, ask)


def test_a_host_without_tgt_says_which_package_it_needs(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(driver: FileVolumeDriver) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(Conflict, match="apt-get install tgt"):
            await driver.export_target("v", World().new_id(), False, FREE)

    run(served, ask)


def test_what_a_tgtd_refuses_is_said_and_it_goes(served: Path) -> None:
    served.mkdir()
    os.chown(served, UNPRIVILEGED, UNPRIVILEGED)
    who, at = ("reader", "secret-of-reader"), ("127.0.0.1", free_port("127.0.0.1", set()))
    target = iscsi_target.Target("iqn.2026-11.x:1", "not-there", *who, serial="0" * 32)
    with pytest.raises(Unavailable) as caught:
        asyncio.run(iscsi_target.launch(served, *at, [target], UNPRIVILEGED, Clock()))
    assert "error 17 of NEW UNIT" in caught.value.internal
    assert "secret-of-reader" not in caught.value.internal
    assert not iscsi_target.running_below(served)

"""The driver suite on real QEMUs, and what only they can be asked; needs root, QEMU, patience."""

from __future__ import annotations

import asyncio
import fcntl
import functools
import hashlib
import http.server
import os
import shutil
import socket
import struct
import sys
import termios
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from pileus.host import caches, process, qemu
from pileus.host.netns import Namespaces
from pileus.host.storage_daemon import running_below
from pileus.host.testimage import build
from pileus.kernel.faults import Conflict
from pileus.kernel.world import Clock, World
from pileus.services.block_storage.driver import ImageBytes
from pileus.services.compute.driver import (
    CRASHED,
    RUNNING,
    SHUTDOWN,
    ComputeDriver,
    ImageSource,
    Nic,
)
from pileus.services.compute.drivers.guest_folder import CONSOLE_KEPT, CONSOLE_LIMIT, GuestFolder
from pileus.services.compute.drivers.qemu import QemuComputeDriver
from pileus.services.compute.plugged_volume import Plugged
from pileus.testing.drivers.compute import SUITE, Bench, eventually, has_login_prompt
from pileus.testing.drivers.guest_volumes import VOLUMES
from pileus.testing.drivers.moves import MOVES
from pileus.testing.volume_store import Store

BOOT_S = 180  # a loaded machine without KVM

SUITE_NICS = Bench.nics

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which(qemu.PROGRAM) is None, reason="needs qemu-system-x86"),
]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ImageSource, ImageSource]]:
    """The test image and a lying one, behind an HTTP server."""
    good = asyncio.run(build(caches.testimage()))
    served = tmp_path_factory.mktemp("served")
    shutil.copy(good, served / "good")
    lie = bytearray(good.read_bytes()[:4096])
    lie[8:20] = struct.pack(">QI", 1024, 11)
    (served / "lie").write_bytes(lie)
    handler = functools.partial(QuietHandler, directory=str(served))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    digest = hashlib.sha512(good.read_bytes()).hexdigest()
    yield (
        ImageSource(id="good", url=f"{url}/good", checksum_sha512=digest, disk_format="qcow2"),
        ImageSource(id="lie", url=f"{url}/lie", disk_format="raw"),
    )
    server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    taken: ClassVar[list[bytes]] = []

    def do_PUT(self) -> None:
        """Takes what a driver sends."""
        self.taken.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: the test's output is for failures."""


async def on_console(driver: ComputeDriver, guest_id: str, *commands: str) -> None:
    """Log in at the serial console and type. The greeting, which may come twice, has a "password:" of its own.

    A guest reads a few letters at a time, and what it has not read is lost with the connection.
    """
    (guest,) = [guest for guest in await driver.guests() if guest.id == guest_id]
    path = Path(guest.serial_socket)
    plug = socket.socket(socket.AF_UNIX)
    with qemu.reachable(path.parent) as folder:
        plug.connect(f"{folder}/{path.name}")
    reader, writer = await asyncio.open_unix_connection(sock=plug)
    for line, answer in (("", b"login: "), ("cirros", b"Password: "), ("gocubsgo", b"$ ")):
        writer.write(line.encode() + b"\n")
        await asyncio.wait_for(reader.readuntil(answer), BOOT_S)
    for command in commands:
        writer.write(command.encode() + b"\n")
    await writer.drain()

    async def is_read() -> bool:
        return not any(fcntl.ioctl(plug, termios.TIOCOUTQ, bytes(4)))

    await eventually(is_read, "it read what was typed", within_s=BOOT_S, world=World())
    writer.close()


async def power_off_inside(driver: ComputeDriver, guest_id: str) -> None:
    await on_console(driver, guest_id, "sudo poweroff")


@pytest.fixture(scope="session")
def netns() -> Iterator[str]:
    """A namespace with the taps of the suite's NICs."""
    name = f"computetest{os.getpid()}"
    namespaces = Namespaces()

    async def make() -> None:
        await namespaces.create(name)
        for nic in SUITE_NICS:
            await namespaces.call(name, functools.partial(_make_tap, nic.device))

    asyncio.run(make())
    yield name
    asyncio.run(namespaces.remove(name))
    namespaces.close()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    state = tmp_path_factory.mktemp("store")
    yield Store(state)
    for pid in running_below(state).values():
        os.kill(pid, 9)
    shutil.rmtree(caches.sockets(state / "volumes"))


@pytest.fixture(scope="session")
def volumes(store: Store) -> Plugged:
    async def made() -> Plugged:
        driver = store.driver()
        await driver.start_up()
        both = await store.make(driver), await store.make(driver)
        await driver.close()
        return both

    return asyncio.run(made())


@contextmanager
def bench_in(
    folder: Path, images: tuple[ImageSource, ImageSource], netns: str, volumes: Plugged
) -> Iterator[Bench]:
    """Its guests go with the block."""
    state, other = folder / "state", folder / "other"
    yield Bench(
        make=lambda: QemuComputeDriver(state, netns=netns),
        image=images[0],
        lying_image=images[1],
        takes=images[0].url,
        sent=QuietHandler.taken,
        power_off_inside=power_off_inside,
        boot_s=BOOT_S,
        make_other=lambda: QemuComputeDriver(other, netns=netns),
        volumes=volumes,
    )
    for guests in (state / "guests", other / "guests"):
        for pid in qemu.running_in(guests).values():
            os.kill(pid, 9)


@pytest.fixture
def bench(
    tmp_path: Path, images: tuple[ImageSource, ImageSource], netns: str, volumes: Plugged
) -> Iterator[Bench]:
    with bench_in(tmp_path, images, netns, volumes) as found:
        yield found


@pytest.mark.parametrize("ask", SUITE + MOVES + VOLUMES, ids=lambda ask: ask.__name__)
def test_qemu_driver(ask: Callable[[Bench], Awaitable[None]], bench: Bench) -> None:
    async def asked() -> None:
        await ask(bench)

    asyncio.run(asked())


def test_a_password_goes_to_the_guests_agent_and_what_it_says_comes_back(bench: Bench) -> None:
    async def story() -> None:
        driver = bench.make()
        await driver.start_up()
        spec = bench.spec()
        await driver.spawn(spec)
        await has_login_prompt(bench, driver, spec.id)
        with pytest.raises(Conflict, match=r"refused guest-set-user-password.*'passwd'"):
            await driver.set_password(spec.id, "root", "secret")  # the test image has no passwd
        await driver.destroy(spec.id)
        await driver.close()

    asyncio.run(story())


def test_a_snapshot_that_a_dead_process_left_half_or_nobody_wants_is_ended(
    bench: Bench, tmp_path: Path, netns: str
) -> None:
    async def story() -> None:
        driver = QemuComputeDriver(tmp_path / "state", netns=netns)
        await driver.start_up()
        spec = bench.spec()
        await driver.spawn(spec)
        folder = tmp_path / "state/guests" / spec.id
        dead, unwanted = bench.world.new_id(), bench.world.new_id()
        part = folder / f"snapshot-{dead}.qcow2.part"
        await process.run(["qemu-img", "create", "-q", "-f", "qcow2", str(part), "1G"])
        os.chown(part, qemu.UNPRIVILEGED, qemu.UNPRIVILEGED)
        emulator = driver._residents[spec.id].emulator
        assert emulator is not None
        file = {"driver": "file", "filename": part.name}
        target = {"driver": "qcow2", "node-name": "snapshot", "file": file}
        job = {"job-id": "snapshot", "device": "disk0", "target": "snapshot", "sync": "full"}
        await emulator.execute("blockdev-add", **target)
        await emulator.execute("blockdev-backup", **job, speed=65536)
        await driver.close()
        again = QemuComputeDriver(tmp_path / "state", netns=netns)
        await again.start_up()
        for _ in range(2):
            assert await again.snapshot(spec.id, dead) == "qcow2"
        await again.drop_snapshot(spec.id, dead)
        taking = asyncio.create_task(again.snapshot(spec.id, unwanted))
        for _ in range(10):
            await asyncio.sleep(0)  # it has begun, and qemu-img takes longer than this
        await again.drop_snapshot(spec.id, unwanted)
        with pytest.raises(Conflict, match="given up"):
            await taking
        assert list(folder.glob("snapshot-*")) == []
        assert await again.snapshot(spec.id, unwanted) == "qcow2", "nothing is in its way"
        await again.destroy(spec.id)
        await again.close()

    asyncio.run(story())


def test_ossa_2014_001_a_snapshot_is_for_nobodys_eyes(bench: Bench, tmp_path: Path) -> None:
    async def story() -> None:
        driver = bench.make()
        await driver.start_up()
        spec = bench.spec()
        await driver.spawn(spec)
        name = bench.world.new_id()
        await driver.snapshot(spec.id, name)
        folder = tmp_path / "state/guests" / spec.id
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
        assert modes[f"snapshot-{name}.qcow2"] == 0o600
        assert folder.stat().st_mode & 0o066 == 0, "others may neither list it nor write there"
        assert [n for n, mode in modes.items() if mode & 0o022] == []
        await driver.destroy(spec.id)
        await driver.close()

    asyncio.run(story())


def test_a_killed_qemu_is_reported_as_crashed(bench: Bench, tmp_path: Path) -> None:
    async def story() -> list[int]:
        driver = bench.make()
        await driver.start_up()
        seen: list[int] = []
        driver.watch(lambda guest: seen.append(guest.power_state))
        spec = bench.spec()
        await driver.spawn(spec)
        (pid,) = qemu.running_in(tmp_path / "state/guests").values()
        await process.kill(pid)

        async def is_reported() -> bool:
            return bool(seen)

        await eventually(is_reported, "the report", within_s=20, world=World())
        assert (await driver.start(spec.id)).power_state == RUNNING
        await driver.destroy(spec.id)
        await driver.close()
        return seen

    assert asyncio.run(story()) == [CRASHED]


def status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def test_qemu_runs_as_nobody_in_a_sandbox(bench: Bench, tmp_path: Path) -> None:
    async def story() -> dict[str, str]:
        driver = bench.make()
        await driver.start_up()
        spec = bench.spec()
        await driver.spawn(spec)
        (pid,) = qemu.running_in(tmp_path / "state/guests").values()
        lines = status_of(pid).splitlines()
        await driver.destroy(spec.id)
        await driver.close()
        return {key: rest.strip() for key, _, rest in (line.partition(":") for line in lines)}

    status = asyncio.run(story())
    assert status["Uid"].split() == [str(qemu.UNPRIVILEGED)] * 4
    assert status["Groups"] == ""
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_a_missing_tap_is_a_conflict_that_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    async def story() -> None:
        driver = bench.make()
        await driver.start_up()
        nic = Nic(port_id="0badf00d-0000", network_id="n", mac="fa:16:3e:00:00:01")
        with pytest.raises(Conflict, match="tap0badf00d-00 does not exist"):
            await driver.spawn(bench.spec(nics=(nic,)))
        assert await driver.guests() == []
        await driver.close()

    asyncio.run(story())
    assert list((tmp_path / "state/guests").iterdir()) == []


def test_a_guest_opens_its_tap_in_the_named_namespace(bench: Bench, netns: str) -> None:
    async def story() -> None:
        namespaces = Namespaces()
        driver = bench.make()
        await driver.start_up()
        nic = bench.nics[0]
        spec = bench.spec(nics=(nic,))
        await driver.spawn(spec)
        with pytest.raises(Conflict, match="another process has it open"):
            await namespaces.call(netns, lambda: qemu.open_tap(nic.device))
        await driver.stop(spec.id, 0)
        os.close(await namespaces.call(netns, lambda: qemu.open_tap(nic.device)))
        await driver.destroy(spec.id)
        await driver.close()
        namespaces.close()

    asyncio.run(story())


def _make_tap(name: str) -> None:
    with open("/dev/net/tun", "r+b", buffering=0) as tun:
        fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1002))
        fcntl.ioctl(tun, 0x400454CB, 1)


def test_guests_half_made_or_running_without_a_record_are_swept(
    bench: Bench, tmp_path: Path
) -> None:
    async def story() -> None:
        driver = bench.make()
        await driver.start_up()
        stray, half = bench.spec(), bench.spec()
        await driver.spawn(stray)
        await driver.close()
        guests = tmp_path / "state/guests"
        (guests / stray.id / "spec.json").unlink()
        (guests / half.id).mkdir()
        again = bench.make()
        await again.start_up()
        assert await again.guests() == []
        assert await again.sweep(set()) == sorted([stray.id, half.id])
        assert qemu.running_in(guests) == {}
        assert list(guests.iterdir()) == []
        await again.close()

    asyncio.run(story())


def test_spawn_goes_on_where_a_dead_process_left_it(bench: Bench, tmp_path: Path) -> None:
    async def story() -> None:
        driver = bench.make()
        await driver.start_up()
        spec = bench.spec(config_drive=True, metadata={"openstack/latest/user_data": "#!/bin/sh\n"})
        await driver.spawn(spec)
        await driver.stop(spec.id, 0)
        await driver.close()
        folder = tmp_path / "state/guests" / spec.id
        (folder / "made").unlink()
        (folder / "config.iso").rename(folder / "config.iso.part")
        again = bench.make()
        await again.start_up()
        assert [guest.power_state for guest in await again.guests()] == [0]
        assert (await again.spawn(spec)).power_state == RUNNING
        assert (folder / "made").exists()
        await again.destroy(spec.id)
        await again.close()

    asyncio.run(story())


def test_a_guest_whose_monitor_somebody_holds_is_adopted_by_the_spare_one(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        driver = bench.make()
        await driver.start_up()
        spec = bench.spec()
        before = await driver.spawn(spec)
        monkeypatch.setattr(qemu, "FOUND_S", 5)  # a busy one answers, though not at once
        again = bench.make()
        await again.start_up()
        assert await again.guests() == [before]
        monkeypatch.setattr(qemu, "FOUND_S", 1)
        third = bench.make()
        await third.start_up()
        assert [guest.power_state for guest in await third.guests()] == [CRASHED]
        assert await driver.guests() == [before]
        await third.close()
        await again.destroy(spec.id)
        await again.close()
        await driver.close()

    asyncio.run(story())


def test_an_image_without_a_guest_is_dropped_after_a_day(bench: Bench, tmp_path: Path) -> None:
    class Tomorrow(Clock):
        def time(self) -> float:
            return super().time() + 90_000

    async def story() -> None:
        driver = bench.make()
        await driver.start_up()
        spec = bench.spec()
        await driver.spawn(spec)
        await driver.close()
        again = QemuComputeDriver(tmp_path / "state", clock=Tomorrow())
        await again.start_up()
        assert await again.drop_images() == []
        assert os.listdir(tmp_path / "state/images")
        await again.destroy(spec.id)
        assert await again.drop_images() == ["good"]
        assert os.listdir(tmp_path / "state/images") == []
        await again.close()

    asyncio.run(story())


SPAWNER = """
import asyncio, sys, pathlib, msgspec
from pileus.services.compute.driver import GuestSpec
from pileus.services.compute.drivers.qemu import QemuComputeDriver
async def main():
    driver = QemuComputeDriver(pathlib.Path(sys.argv[1]), accelerator="tcg")
    await driver.start_up()
    print("up", flush=True)
    await driver.spawn(msgspec.json.decode(sys.argv[2], type=GuestSpec))
    print("spawned", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("delay_s", [0.01, 0.05, 0.1, 0.2, 0.4, 1.5])
def test_a_killed_process_leaves_nothing_that_a_repeated_spawn_cannot_repair(
    bench: Bench, tmp_path: Path, delay_s: float
) -> None:
    async def story() -> None:
        spec = bench.spec(config_drive=True, metadata={"openstack/latest/user_data": "x"})
        arguments = [str(tmp_path / "state"), msgspec.json.encode(spec).decode()]
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SPAWNER, *arguments, stdout=asyncio.subprocess.PIPE
        )
        assert child.stdout
        while b"up\n" not in await child.stdout.readline():
            assert not child.stdout.at_eof()
        await asyncio.sleep(delay_s)
        child.kill()
        await child.wait()
        driver = bench.make()
        await driver.start_up()
        assert (await driver.spawn(spec)).power_state == RUNNING
        assert list(qemu.running_in(tmp_path / "state/guests")) == [spec.id]
        await driver.destroy(spec.id)
        assert qemu.running_in(tmp_path / "state/guests") == {}
        await driver.close()

    asyncio.run(story())
    assert list((tmp_path / "state/guests").iterdir()) == []


def test_a_guest_reads_its_config_drive_and_its_disks(bench: Bench) -> None:
    meta = {"uuid": "u1", "hostname": "deep.thought", "public_keys": {"k": "ssh-ed25519 AAAA me"}}
    user_data = "#!/bin/sh\necho answer-$((6 * 7)) > /dev/console\n"

    async def story() -> str:
        driver = bench.make()
        await driver.start_up()
        spec = bench.spec(
            root_gib=2,
            ephemeral_gib=1,
            swap_mib=64,
            config_drive=True,
            metadata={
                "openstack/latest/meta_data.json": msgspec.json.encode(meta).decode(),
                "openstack/latest/user_data": user_data,
            },
        )
        await driver.spawn(spec)
        await has_login_prompt(bench, driver, spec.id)
        console = await driver.console_log(spec.id, None)
        assert (await driver.stop(spec.id, BOOT_S)).power_state == SHUTDOWN
        await driver.destroy(spec.id)
        await driver.close()
        return console

    console = asyncio.run(story())
    assert "answer-42" in console and "deep login:" in console
    for disk, sectors in (("vda", 4194304), ("vdb", 2097152), ("vdc", 131072)):
        assert f"disk {disk} {sectors} sectors" in console


async def shown(driver: ComputeDriver, guest_id: str, words: str) -> None:
    async def asks() -> bool:
        return words in await driver.console_log(guest_id, None)

    await eventually(asks, f"{words!r} on the console", within_s=BOOT_S, world=World())


def test_a_guest_starts_from_a_volume_made_of_an_image(bench: Bench, store: Store) -> None:
    async def story() -> None:
        driver, volumes = bench.make(), store.driver()
        await driver.start_up()
        await volumes.start_up()
        image = ImageBytes(id="good", url=bench.image.url, disk_format="qcow2")
        volume = await store.make(volumes, source=image)
        spec = bench.spec(image=None, root_gib=0, volumes=(volume,))
        await driver.spawn(spec)
        await has_login_prompt(bench, driver, spec.id)
        assert len((await driver.diagnostics(spec.id)).disks) == 1
        await driver.destroy(spec.id)
        await driver.close()
        await volumes.close()

    asyncio.run(story())


def test_a_console_is_cut_at_its_head_only(tmp_path: Path) -> None:
    folder = GuestFolder(tmp_path, "g", None)
    folder.path.mkdir()
    log = folder.path / "console.log"
    text = "".join(f"line {n}\n" for n in range(200_000))
    log.write_text(text)
    assert len(text) > CONSOLE_LIMIT
    folder.trim_logs()
    kept = log.read_text()
    assert CONSOLE_KEPT <= len(kept) <= CONSOLE_KEPT + 4096
    assert text.endswith(kept)

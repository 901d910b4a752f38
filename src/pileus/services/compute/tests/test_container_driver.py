"""The driver suite on real containers, and what only they can be asked; needs root and runc."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import http.server
import os
import shutil
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from pileus.host import caches, files, runc
from pileus.host.netlink import Netlink, add_tap
from pileus.host.netns import Namespaces
from pileus.host.rootfs import FIRST_ID
from pileus.host.testroot import build
from pileus.kernel.faults import Conflict
from pileus.services.compute.driver import (
    CONTAINER_FORMAT,
    CRASHED,
    RUNNING,
    SHUTDOWN,
    ComputeDriver,
    ImageSource,
    Route,
)
from pileus.services.compute.drivers.container import ContainerComputeDriver
from pileus.services.compute.drivers.guest_folder import CONSOLE_LIMIT
from pileus.services.compute.tests.test_qemu_driver import QuietHandler
from pileus.testing.drivers.compute import SUITE, Bench, has_login_prompt

T = TypeVar("T")
SUITE_NICS = Bench.nics
QCOW2 = b"QFI\xfb\0\0\0\3" + bytes(4096)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which(runc.PROGRAM) is None, reason="needs runc"),
]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ImageSource, ImageSource]]:
    """The test root file system and a lying image, behind an HTTP server."""
    served = tmp_path_factory.mktemp("roots")
    good = asyncio.run(build(caches.testroot()))
    shutil.copy(good, served / "good")
    (served / "lie").write_bytes(QCOW2)
    handler = functools.partial(QuietHandler, directory=str(served))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    digest = hashlib.sha512(good.read_bytes()).hexdigest()
    yield (
        source("good", f"{url}/good", digest),
        source("lie", f"{url}/lie"),
    )
    server.shutdown()


def source(id: str, url: str, checksum: str = "") -> ImageSource:
    return ImageSource(id=id, url=url, checksum_sha512=checksum, container_format=CONTAINER_FORMAT)


@pytest.fixture(scope="session")
def netns() -> Iterator[str]:
    """A namespace with the taps of the suite's NICs."""
    name = f"containertest{os.getpid()}"
    namespaces = Namespaces()

    async def make() -> None:
        await namespaces.create(name)
        for nic in SUITE_NICS:
            await namespaces.call(name, functools.partial(add_tap, nic.device, owner=None))

    asyncio.run(make())
    yield name
    asyncio.run(namespaces.remove(name))
    namespaces.close()


async def power_off_inside(driver: ComputeDriver, guest_id: str) -> None:
    assert isinstance(driver, ContainerComputeDriver)
    with suppress(Conflict):  # it is killed itself
        await driver._runc.execute(guest_id, "kill", "-PWR", "1")


@pytest.fixture
def bench(tmp_path: Path, images: tuple[ImageSource, ImageSource], netns: str) -> Iterator[Bench]:
    state = tmp_path / "state"

    def make() -> ComputeDriver:
        return ContainerComputeDriver(state, netns=netns)

    yield Bench(
        make=make,
        image=images[0],
        lying_image=images[1],
        takes=images[0].url,
        sent=QuietHandler.taken,
        power_off_inside=power_off_inside,
        lacks=frozenset(("suspend", "inject_nmi", "console", "plug_volume")),
        boot_s=20,
    )

    async def clear() -> None:
        driver = make()
        await driver.start_up()
        await driver.sweep(set())
        await driver.close()

    asyncio.run(clear())


@pytest.mark.parametrize("ask", SUITE, ids=lambda ask: ask.__name__)
def test_container_driver(ask: Callable[[Bench], Awaitable[None]], bench: Bench) -> None:
    async def asked() -> None:
        await ask(bench)

    asyncio.run(asked())


async def inside(driver: ContainerComputeDriver, guest_id: str, command: str) -> str:
    """What root in the container gets of it, errors included."""
    said = await driver._runc.execute(guest_id, "sh", "-c", f"({command}) 2>&1; true")
    return said.decode().strip()


def told(bench: Bench, story: Callable[[ContainerComputeDriver, str], Awaitable[None]]) -> None:
    """Of a running container; what is left of it is cleared away by the bench."""

    async def tell() -> None:
        driver = bench.make()
        assert isinstance(driver, ContainerComputeDriver)
        await driver.start_up()
        spec = bench.spec()
        await driver.spawn(spec)
        await has_login_prompt(bench, driver, spec.id)
        await story(driver, spec.id)
        await driver.close()

    asyncio.run(tell())


def test_a_container_has_no_rights_on_its_host(bench: Bench) -> None:
    async def story(driver: ContainerComputeDriver, id: str) -> None:
        life = driver._residents[id].life
        assert life is not None
        assert os.stat(f"/proc/{life.pid}").st_uid == FIRST_ID
        status = await inside(driver, id, "cat /proc/self/status")
        for line in ("NoNewPrivs:\t1", "Seccomp:\t2", "CapInh:\t0000000000000000"):
            assert line in status
        refused = {
            "mount -t tmpfs x /mnt": "permission denied",
            "mknod /tmp/sda b 8 0": "Operation not permitted",
            "echo 1 > /proc/sys/kernel/panic": "Read-only file system",
            "echo x > /sys/power/state": "Read-only file system",
            "unshare -m true": "Operation not permitted",
            "unshare -U true": "Operation not permitted",
            "hwclock -w": "can't open",
            "wc -c < /proc/timer_list": "0",
            "ls /sys/firmware | wc -l": "0",
        }
        seen = {command: await inside(driver, id, command) for command in refused}
        assert {c: said for c, said in seen.items() if refused[c] not in said} == {}
        assert (await inside(driver, id, "ls -d /proc/[0-9]*")).count("/proc/") < 10

    told(bench, story)


def test_a_container_has_the_memory_and_the_disk_of_its_flavor_and_no_more(bench: Bench) -> None:
    async def story(driver: ContainerComputeDriver, id: str) -> None:
        fill = "dd if=/dev/zero of=/full bs=1M count=1100; rm /full"
        assert "No space left" in await inside(driver, id, fill)
        seen: list[int] = []
        driver.watch(lambda guest: seen.append(guest.power_state))
        life = driver._residents[id].life
        assert life is not None and life.follower is not None
        await inside(driver, id, "dd if=/dev/zero of=/dev/shm/full bs=1M count=500; sleep 1")
        runc.kill(life.pidfd, signal.SIGKILL)
        await life.follower
        assert seen == [CRASHED]

    told(bench, story)


def test_a_console_that_is_filled_stays_within_bounds_and_on_the_guests_disk(bench: Bench) -> None:
    async def story() -> None:
        driver = bench.make()
        assert isinstance(driver, ContainerComputeDriver)
        await driver.start_up()
        flood = "sh -c 'yes | head -c 8000000; echo login: > /dev/stdout; exec sleep 1000'"
        spec = bench.spec(image=msgspec.structs.replace(bench.image, command=flood))
        await driver.spawn(spec)
        await has_login_prompt(bench, driver, spec.id)
        folder = driver._residents[spec.id].folder
        assert folder.console_log.stat().st_dev != folder.path.stat().st_dev
        folder.trim_logs()
        assert folder.console_log.stat().st_size <= CONSOLE_LIMIT
        assert await driver.console_log(spec.id, 1) == ""
        await driver.destroy(spec.id)
        await driver.close()

    asyncio.run(story())


def test_what_a_dead_process_left_half_is_cleared_away(bench: Bench) -> None:
    """A container that nobody started, one that no guest stands for, and one held for a copy."""

    async def story(driver: ContainerComputeDriver, id: str) -> None:
        folder = driver._residents[id].folder
        await driver._runc.hold(id)
        part = folder.snapshot(bench.world.new_id())
        part.with_name(part.name + files.PART).touch()
        half, stray = bench.spec(), bench.world.new_id()
        await driver.spawn(half)
        await driver.stop(half.id, 0)
        for one in (half.id, stray):
            await driver._runc.create(
                one, driver._residents[half.id].folder.path, folder.path / "x"
            )
        await driver.close()
        again = bench.make()
        await again.start_up()
        states = {guest.id: guest.power_state for guest in await again.guests()}
        assert states == {id: RUNNING, half.id: SHUTDOWN}
        assert await again.sweep({id}) == sorted((half.id, stray))
        assert (await again.guests())[0].power_state == RUNNING
        await again.close()

    told(bench, story)


def test_what_limits_a_port_limits_the_card_of_its_container(bench: Bench, netns: str) -> None:
    """And the tap when it stands there again: whoever asks for the same once more changes nothing."""
    nic, namespaces = SUITE_NICS[0], Namespaces()

    def limit(link: Netlink) -> tuple[int, str]:
        before = link.changes
        link.want_rates(nic.device, {1: (125_000, 80_000)})
        link.want_aside(nic.device, "aside", incoming=True)
        seen = link.link(nic.device)
        assert seen is not None
        return link.changes - before, seen.kind

    async def asked(job: Callable[[Netlink], T]) -> T:
        def work() -> T:
            with closing(Netlink()) as link:
                return job(link)

        return await namespaces.call(netns, work)

    async def story() -> None:
        driver = bench.make()
        await driver.start_up()
        await asked(lambda link: link.add_plain("aside", mtu=1500))
        assert (await asked(limit))[0] > 0
        spec = bench.spec(nics=(nic,))
        await driver.spawn(spec)
        assert await asked(limit) == (0, "veth")
        await driver.stop(spec.id, 0)
        assert await asked(limit) == (0, "tun")
        await driver.destroy(spec.id)
        await driver.close()
        await asked(lambda link: link.delete_all((nic.device, "aside")))
        await namespaces.call(netns, functools.partial(add_tap, nic.device, owner=None))

    asyncio.run(story())
    namespaces.close()


def test_files_that_a_guest_is_told_of_itself_are_there(bench: Bench) -> None:
    async def story() -> None:
        driver = bench.make()
        assert isinstance(driver, ContainerComputeDriver)
        await driver.start_up()
        nic = msgspec.structs.replace(
            SUITE_NICS[0],
            addresses=("10.5.0.7/24", "fd00::7/64"),
            routes=(Route(destination="0.0.0.0/0", nexthop="10.5.0.1"),),
            nameservers=("10.5.0.2",),
        )
        meta = {"openstack/latest/meta_data.json": "{}"}
        spec = bench.spec(hostname="named", nics=(nic,), config_drive=True, metadata=meta)
        await driver.spawn(spec)
        wanted = {
            "hostname; cat /etc/hostname": "named\nnamed",
            "cat /etc/resolv.conf": "nameserver 10.5.0.2",
            "tail -n 1 /etc/hosts": "10.5.0.7 named",
            "ip route | head -n 1": "default via 10.5.0.1 dev eth0",
            "ip addr show eth0 | grep -c -e 10.5.0.7/24 -e fd00::7/64": "2",
            "cat /var/lib/cloud/seed/config_drive/openstack/latest/meta_data.json": "{}",
        }
        seen = {command: await inside(driver, spec.id, command) for command in wanted}
        assert seen == wanted
        with pytest.raises(Conflict, match="refused chpasswd: there is no such program"):
            await driver.set_password(spec.id, "cirros", "secret")
        script = "printf '#!/bin/sh\\ncat > /root/said' > /bin/chpasswd; chmod 755 /bin/chpasswd"
        assert await inside(driver, spec.id, script) == ""
        await driver.set_password(spec.id, "cirros", "secret")
        assert await inside(driver, spec.id, "cat /root/said") == "cirros:secret"
        with pytest.raises(Conflict, match="line break"):
            await driver.set_password(spec.id, "cirros", "secret\nroot:secret")
        await driver.destroy(spec.id)
        await driver.close()

    asyncio.run(story())

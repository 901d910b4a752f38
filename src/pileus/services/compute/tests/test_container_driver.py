"""The driver suite on real containers, and what only they can be asked; needs root and runc."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import http.server
import os
import shutil
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from pileus.host import runc
from pileus.host.netlink import add_tap
from pileus.host.netns import Namespaces
from pileus.host.testroot import build
from pileus.services.compute.driver import CONTAINER_FORMAT, ComputeDriver, ImageSource
from pileus.services.compute.drivers.container import ContainerComputeDriver
from pileus.services.compute.tests.test_qemu_driver import QuietHandler
from pileus.testing.drivers.compute import SUITE, Bench

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
    good = asyncio.run(build(served / "good"))
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
        lacks=frozenset(("suspend", "inject_nmi", "console")),
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

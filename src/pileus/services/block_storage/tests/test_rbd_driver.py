"""The driver suite on a Ceph of one machine; needs `make setup-ceph`, and takes minutes."""

from __future__ import annotations

import asyncio
import random
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pileus.host.process import run
from pileus.host.rbd import Place, RbdImage
from pileus.kernel.world import World
from pileus.services.block_storage.driver import ImageBytes, VolumeDriver
from pileus.services.block_storage.drivers.rbd import RbdVolumeDriver
from pileus.testing import ceph_server
from pileus.testing.drivers.volume import FREE, SUITE, Bench
from pileus.testing.shelf import shelf

KIB, MIB = 1 << 10, 1 << 20
LACKS = ceph_server.lacks()

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.skipif(bool(LACKS), reason=LACKS)]


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with ceph_server.ceph() as conf:
        yield Place(pool=ceph_server.POOL, user=ceph_server.USER, conf=str(conf))


@pytest.fixture
def bench(tmp_path: Path, place: Place) -> Iterator[Bench]:
    """What a guest does is done by QEMU's tools, which open what a guest's QEMU would."""
    begins = random.Random(7).randbytes(256 * KIB)
    raw, good = tmp_path / "raw", tmp_path / "good"
    raw.write_bytes(begins + bytes(MIB))
    subprocess.run(["qemu-img", "convert", "-fraw", "-Oqcow2", str(raw), str(good)], check=True)

    @asynccontextmanager
    async def opened(driver: VolumeDriver, volume_id: str) -> AsyncIterator[str]:
        attachment = found.world.new_id()
        export = await driver.export(volume_id, attachment, False, FREE)
        assert isinstance(export.rbd, RbdImage)
        image = {**place.options(export.rbd.image), "namespace": export.rbd.namespace}
        yield ",".join(f"{key}={value}" for key, value in image.items())
        await driver.withdraw(volume_id, attachment)

    async def write(driver: VolumeDriver, volume_id: str, data: bytes) -> None:
        (tmp_path / "data").write_bytes(data)
        command = f"write -s {tmp_path / 'data'} 0 {len(data)}"
        async with opened(driver, volume_id) as image:
            await run(["qemu-io", "--image-opts", "-c", command, image])

    async def read(driver: VolumeDriver, volume_id: str, count: int) -> bytes:
        words = ["bs=512", f"count={-(-count // 512)}", f"of={tmp_path / 'out'}"]
        async with opened(driver, volume_id) as image:
            await run(["qemu-img", "dd", "--image-opts", "-Oraw", f"if={image}", *words])
        return (tmp_path / "out").read_bytes()[:count]

    with shelf() as shop:
        host = f"host-{World().new_hex()}"
        found = Bench(
            make=lambda: RbdVolumeDriver(tmp_path / "state", host, place),
            image=ImageBytes(id="good", url=shop.offer(good.read_bytes()), disk_format="qcow2"),
            image_begins=begins,
            shelf=shop,
            write=write,
            read=read,
        )
        yield found


@pytest.mark.parametrize("ask", SUITE, ids=lambda ask: ask.__name__)
def test_ceph_keeps_the_promises_of_a_driver(
    ask: Callable[[Bench], Coroutine[None, None, None]], bench: Bench
) -> None:
    asyncio.run(ask(bench))

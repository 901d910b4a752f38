"""The driver suite on a Ceph of one machine; needs `make setup-ceph`, and takes minutes."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from pileus.host.process import ProcessFailed, run
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
            hands_over=False,
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


def test_what_is_received_leaves_holes_where_zeros_are(bench: Bench, place: Place) -> None:
    async def ask() -> None:
        async with bench.driver() as driver:
            assert isinstance(driver, RbdVolumeDriver)
            id = await bench.volume(driver, b"was" * 8 * MIB)
            await driver.receive(id, bench.shelf.offer(b"is"), 2)
            assert await bench.read(driver, id, 4096) == b"is".ljust(4096, b"\0")
            who = ["--conf", place.conf, "--name", f"client.{place.user}", "--format", "json"]
            spec = f"{place.pool}/{driver.place.namespace}/volume-{id}"
            (used,) = json.loads(await run(["rbd", *who, "du", spec]))["images"]
            assert used["used_size"] <= 4 * MIB

    asyncio.run(ask())


def test_an_encrypted_volume_of_an_image_is_read_by_who_has_the_passphrase(
    bench: Bench, place: Place
) -> None:
    async def ask() -> None:
        async with bench.driver() as driver:
            assert isinstance(driver, RbdVolumeDriver)
            spec = msgspec.structs.replace(bench.spec(bench.image), passphrase="open sesame")
            assert (await driver.create(spec)).size_gib == 1
            assert (await bench.read(driver, spec.id, 4)) == b"LUKS"
            inner = driver.place.options(f"volume-{spec.id}").items()
            image = ",".join(f"file.{key}={value}" for key, value in inner)
            words = ["-c", "length", "-c", "read -v 0 64", f"driver=luks,key-secret=key,{image}"]
            secret = ["qemu-io", "--image-opts", "--object", "secret,id=key,data="]
            said = (await run([*secret[:-1], f"{secret[-1]}open sesame", *words])).decode()
            assert "1 GiB" in said and bench.image_begins[:16].hex(" ") in said
            with pytest.raises(ProcessFailed):
                await run([*secret[:-1], f"{secret[-1]}close sesame", *words])

    asyncio.run(ask())

"""The driver suite on the fake."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest

from pileus.services.block_storage.driver import ImageBytes, VolumeDriver
from pileus.services.block_storage.drivers.fake import FakeVolumeDriver
from pileus.testing.drivers.volume import SUITE, Bench
from pileus.testing.shelf import shelf


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """What a guest does is done by sending and receiving: the fake has no devices."""

    async def write(driver: VolumeDriver, volume_id: str, data: bytes) -> None:
        await driver.receive(volume_id, shop.offer(data), len(data))

    async def read(driver: VolumeDriver, volume_id: str, count: int) -> bytes:
        await driver.send(volume_id, "", "raw", shop.takes)
        return shop.sent[-1][1].ljust(count, b"\0")[:count]

    with shelf() as shop:
        yield Bench(
            make=lambda: FakeVolumeDriver(tmp_path, "here"),
            image=ImageBytes(id="good", url=shop.offer(bytes(1 << 20))),
            image_begins=b"image good",
            shelf=shop,
            write=write,
            read=read,
        )


@pytest.mark.parametrize("ask", SUITE, ids=lambda ask: ask.__name__)
def test_the_fake_keeps_the_promises_of_a_driver(
    ask: Callable[[Bench], Coroutine[None, None, None]], bench: Bench
) -> None:
    asyncio.run(ask(bench))

"""Two drivers on one host, each a fake: who makes a guest, and who is asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import msgspec
import pytest

from pileus.kernel.faults import NotFound
from pileus.services.compute.driver import (
    CONTAINER_FORMAT,
    CONTAINER_TRAIT,
    RUNNING,
    SHUTDOWN,
    ComputeDriver,
    Guest,
    GuestSpec,
    ImageSource,
)
from pileus.services.compute.drivers.fake import FakeComputeDriver
from pileus.services.compute.drivers.several import SeveralComputeDrivers
from pileus.services.compute.tests.test_drivers import GOOD, LIAR, power_off_inside, probe
from pileus.testing.drivers.compute import SUITE, Bench

ROOT = msgspec.structs.replace(GOOD, container_format=CONTAINER_FORMAT)
WHICH = pytest.mark.parametrize("image", [GOOD, ROOT], ids=["machines", "containers"])


class Both(SeveralComputeDrivers):
    def __init__(self, machines: FakeComputeDriver, containers: FakeComputeDriver) -> None:
        super().__init__(machines, containers)
        self.machines, self.containers = machines, containers


def both(folder: Path) -> Both:
    return Both(
        FakeComputeDriver(folder / "machines", probe=probe),
        FakeComputeDriver(folder / "containers", probe=probe),
    )


async def power_off(driver: ComputeDriver, guest_id: str) -> None:
    pair = cast(Both, driver)
    for one in (pair.machines, pair.containers):
        if guest_id in {guest.id for guest in await one.guests()}:
            await power_off_inside(one, guest_id)


@WHICH
@pytest.mark.parametrize("ask", SUITE, ids=lambda ask: ask.__name__)
def test_two_drivers_are_one(
    ask: Callable[[Bench], Awaitable[None]], image: ImageSource, tmp_path: Path
) -> None:
    sent: list[bytes] = []

    async def deliver(url: str, data: bytes) -> None:
        sent.append(data)

    def make() -> ComputeDriver:
        folders = (tmp_path / "machines", tmp_path / "containers")
        made = (FakeComputeDriver(f, probe=probe, deliver=deliver) for f in folders)
        return cast(ComputeDriver, Both(*made))

    bench = Bench(make=make, sent=sent, image=image, lying_image=LIAR, power_off_inside=power_off)

    async def asked() -> None:
        await ask(bench)

    asyncio.run(asked())


def test_a_guest_is_made_by_whom_its_image_says_and_stays_there_over_a_restart(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        pair = both(tmp_path)
        await pair.start_up()
        plain = GuestSpec(id="vm", name="a", project_id="p", vcpus=1, ram_mib=64, image=GOOD)
        root = msgspec.structs.replace(plain, id="ct", image=ROOT)
        for spec in (plain, root):
            await pair.spawn(spec)
        await pair.close()
        again = both(tmp_path)
        await again.start_up()
        assert [g.id for g in await again.machines.guests()] == ["vm"]
        assert [g.id for g in await again.containers.guests()] == ["ct"]
        stopped: Guest = await again.stop("ct", 0)
        assert stopped.power_state == SHUTDOWN
        assert [g.power_state for g in await again.guests()] == [SHUTDOWN, RUNNING]
        with pytest.raises(NotFound, match="elsewhere"):
            await again.start("elsewhere")
        assert CONTAINER_TRAIT in (await again.inventory()).traits
        assert await again.sweep({"vm"}) == ["ct"]

    asyncio.run(story())

"""The driver suite, run on the fake, and what only the fake can be asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pileus.host.images import ImageFacts
from pileus.kernel.faults import Unavailable
from pileus.services.compute.driver import RUNNING, SHUTDOWN, ComputeDriver, GuestSpec, ImageSource
from pileus.services.compute.drivers.fake import FakeComputeDriver, Trouble
from pileus.testing.drivers.compute import SUITE, Bench
from pileus.testing.drivers.guest_volumes import VOLUMES
from pileus.testing.drivers.moves import MOVES

GOOD = ImageSource(id="good", url="", disk_format="qcow2")
LIAR = ImageSource(id="liar", url="", disk_format="raw")


async def probe(image: ImageSource) -> ImageFacts:
    if image is LIAR:
        return ImageFacts("qcow2", 1 << 20, "it has a backing file")
    return ImageFacts("qcow2", 1 << 20)


async def power_off_inside(driver: ComputeDriver, guest_id: str) -> None:
    assert isinstance(driver, FakeComputeDriver)
    driver.happen(guest_id, SHUTDOWN)


@pytest.mark.parametrize("ask", SUITE + MOVES + VOLUMES, ids=lambda ask: ask.__name__)
def test_fake_driver(ask: Callable[[Bench], Awaitable[None]], tmp_path: Path) -> None:
    sent: list[bytes] = []

    async def deliver(url: str, data: bytes) -> None:
        sent.append(data)

    bench = Bench(
        make=lambda: FakeComputeDriver(tmp_path, probe=probe, deliver=deliver),
        sent=sent,
        image=GOOD,
        lying_image=LIAR,
        power_off_inside=power_off_inside,
        make_other=lambda: FakeComputeDriver(tmp_path / "other", probe=probe, deliver=deliver),
    )

    async def asked() -> None:
        await ask(bench)

    asyncio.run(asked())


def spec(guest_id: str) -> GuestSpec:
    return GuestSpec(id=guest_id, name="a", project_id="p", vcpus=1, ram_mib=64)


def test_a_torn_last_record_of_the_journal_loses_only_that_change(tmp_path: Path) -> None:
    async def story() -> list[str]:
        driver = FakeComputeDriver(tmp_path)
        await driver.start_up()
        await driver.spawn(spec("one"))
        await driver.spawn(spec("two"))
        await driver.close()
        journal = tmp_path / "guests.journal"
        journal.write_bytes(journal.read_bytes()[:-3])
        again = FakeComputeDriver(tmp_path)
        await again.start_up()
        return [guest.id for guest in await again.guests()]

    assert asyncio.run(story()) == ["one"]


def test_a_long_journal_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        driver = FakeComputeDriver(tmp_path)
        await driver.start_up()
        await driver.spawn(spec("one"))
        for _ in range(100):
            await driver.stop("one", 0)
            await driver.start("one")
        await driver.close()

    monkeypatch.setattr("pileus.services.compute.drivers.fake_guests.JOURNAL_SLACK", 1000)
    asyncio.run(story())
    assert (tmp_path / "guests.journal").stat().st_size < 2000


def test_trouble_strikes_the_named_verb_once() -> None:
    async def story() -> None:
        trouble = Trouble(failures={"spawn": [Unavailable("The host is busy.")]})
        driver = FakeComputeDriver(trouble=trouble)
        await driver.start_up()
        with pytest.raises(Unavailable, match="busy"):
            await driver.spawn(spec("one"))
        assert (await driver.spawn(spec("one"))).power_state == RUNNING

    asyncio.run(story())


def test_destroyed_guests_leave_no_locks_behind() -> None:
    async def story() -> int:
        driver = FakeComputeDriver()
        for n in range(10):
            await driver.spawn(spec(str(n)))
        await asyncio.gather(*(driver.destroy(str(n % 10)) for n in range(30)))
        return len(driver.turns)

    assert asyncio.run(story()) == 0

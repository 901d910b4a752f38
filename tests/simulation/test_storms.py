"""Whole clouds in bad weather: whatever is lost, late, doubled or killed, in the end nothing is left over."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from pileus.testing.cloud import _admin
from pileus.testing.grounds import Ground
from pileus.testing.grounds.compute import ready
from pileus.testing.held import broken, held
from pileus.testing.simloop import simulate
from tests.simulation.town import Town
from tests.simulation.weather import Storm, User, all_is_said_well, calm, delete_all, wrong

HOSTS = ["fake-1", "fake-2", "fake-3"]
STORM_S = 240.0


async def built(folder: Path) -> tuple[Town, Ground]:
    """A town in which all is well."""
    town = Town(folder)
    await town.start_control()
    for name in HOSTS:
        await town.start_host(name)
    cloud = town.cloud()
    cloud.admin = await _admin(cloud.client)
    return town, await ready(cloud)


def people(town: Town, ground: Ground) -> list[User]:
    done = Counter[str]()
    return [User(town, ground.member, ground.cloud.admin, ground.ids, done) for _ in range(3)]


def test_after_a_storm_nothing_is_left_over(folder: Path, seed: int) -> None:
    async def scene() -> None:
        town, ground = await built(folder)
        await calm(town)
        empty = await held(town.runtime, town.every_host())
        storm = Storm(town, HOSTS)
        users = people(town, ground)
        await asyncio.gather(storm.blow(STORM_S), *(u.live(STORM_S) for u in users))
        await storm.over()
        await all_is_said_well(ground.cloud.admin)
        await calm(town)
        await town.world.clock.sleep(120)  # reconcilers look around
        problems = await wrong(town, ground)
        assert problems == [], problems
        assert sum(len(u.mine) for u in users) > 10 and storm.kills
        await delete_all(town, ground)
        await town.world.clock.sleep(120)
        assert await broken(town.runtime) == []
        assert await held(town.runtime, town.every_host()) == empty
        await town.stop()

    simulate(seed, scene())


def test_in_fair_weather_nothing_fails(folder: Path, seed: int) -> None:
    async def scene() -> None:
        town, ground = await built(folder)
        users = people(town, ground)
        await asyncio.gather(*(u.live(60) for u in users))
        await calm(town)
        await town.world.clock.sleep(60)
        problems = await wrong(town, ground)
        assert problems == [], problems
        assert [r for u in users for r in u.refused] == []
        shown = await ground.member.get("/compute/v2.1/servers/detail")
        assert "ERROR" not in {s["status"] for s in shown.json["servers"]}
        await town.stop()

    simulate(seed, scene())

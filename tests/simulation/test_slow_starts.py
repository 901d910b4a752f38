"""Hosts that are away for longer than their lease and come back: who waits for them, and when nobody does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pileus.testing.grounds import Ground
from pileus.testing.grounds.compute import SERVERS, create
from pileus.testing.simloop import simulate
from tests.simulation.test_storms import HOSTS, built
from tests.simulation.town import Town
from tests.simulation.weather import calm

VOLUMES = "/volume/v3/volumes"
AWAY_S, SLOW_S = 300.0, 18.0


async def settled(town: Town, ground: Ground, id: str, url: str = SERVERS) -> Any:
    """The server or volume, once it is no longer being built."""
    while True:
        (shown,) = (await ground.member.get(f"{url}/{id}")).json.values()
        if shown["status"] not in ("BUILD", "creating"):
            return shown
        await town.world.clock.sleep(0.5)


def test_servers_and_volumes_get_their_place_once_hosts_that_start_slowly_are_there(
    folder: Path, seed: int
) -> None:
    async def scene() -> None:
        town, ground = await built(folder)
        asked = [await create(ground) for _ in range(3)]
        for name in ["control", *HOSTS]:
            await town.kill(name)
        await town.world.clock.sleep(AWAY_S)
        await town.start_control()
        asked.append(await create(ground))
        made = await ground.ask("POST", VOLUMES, {"volume": {"size": 1}})
        await town.world.clock.sleep(SLOW_S)
        for name in HOSTS:
            await town.start_host(name)
        for id in asked:
            shown = await settled(town, ground, id)
            assert shown["status"] == "ACTIVE", shown.get("fault")
        volume = await settled(town, ground, made.json["volume"]["id"], VOLUMES)
        assert volume["status"] == "available"
        await calm(town)
        await town.stop()

    simulate(seed, scene())


def test_a_host_that_is_lost_while_others_serve_is_not_waited_for(folder: Path, seed: int) -> None:
    async def scene() -> None:
        town, ground = await built(folder)
        ground.member = ground.cloud.admin  # who may ask for a host
        await town.kill(HOSTS[0])
        await town.world.clock.sleep(AWAY_S)
        began = town.world.clock.monotonic()
        id = await create(ground, availability_zone=f"nova:{HOSTS[0]}")
        shown = await settled(town, ground, id)
        assert "1 host: down" in shown["fault"]["message"], shown["fault"]
        assert town.world.clock.monotonic() - began < 5
        await town.stop()

    simulate(seed, scene())

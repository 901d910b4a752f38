"""What goes wrong in a simulated cloud, and the people who use it meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from pileus.kernel.sagas import JOURNAL
from pileus.testing.client import Client, Reply
from pileus.testing.grounds import Ground
from pileus.testing.grounds.compute import FLAVOR, SERVERS
from pileus.testing.held import broken, guests
from tests.simulation.town import ConnectionLost, Town

ACTIONS: tuple[Any, ...] = (
    {"os-stop": None},
    {"os-start": None},
    {"reboot": {"type": "SOFT"}},
    {"reboot": {"type": "HARD"}},
)
END_S = 3600.0  # of calm, within which everything must have come to rest


@dataclass
class Storm:
    """Mishaps on the bus, and kills now and then."""

    town: Town
    hosts: list[str]
    kills: list[str] = field(default_factory=list)

    async def blow(self, seconds: float) -> None:
        """Then it is calm, and every node is up."""
        town, random = self.town, self.town.random
        end = town.world.clock.monotonic() + seconds
        while town.world.clock.monotonic() < end:
            town.mishaps.drop = random.choice((0.0, 0.02, 0.1))
            town.mishaps.duplicate = random.choice((0.0, 0.1))
            town.mishaps.delay = random.choice((0.0, 0.3))
            town.mishaps.longest_delay_s = random.choice((0.5, 4.0))
            town.mishaps.cut = (
                {f"*.*.{random.choice(self.hosts)}"} if random.random() < 0.2 else set()
            )
            await town.world.clock.sleep(random.uniform(1, 15))
            if random.random() < 0.4:
                await self._kill(random.choice([*self.hosts, "control"]))
        town.mishaps.drop = town.mishaps.duplicate = town.mishaps.delay = 0.0
        town.mishaps.cut = set()

    async def _kill(self, name: str) -> None:
        town = self.town
        self.kills.append(name)
        await town.kill(name)
        await town.world.clock.sleep(town.random.uniform(0, 40))
        starting = town.start_control() if name == "control" else town.start_host(name)
        if name == "control":
            await starting
            return
        # A host joins when it is heard: that may take until the weather is better.
        task = asyncio.create_task(starting)
        self._joining = [*getattr(self, "_joining", []), task]

    async def over(self) -> None:
        """Returns when every host has joined."""
        await asyncio.gather(*getattr(self, "_joining", []), return_exceptions=True)


@dataclass
class User:
    """Makes, uses and deletes servers, and does not mind errors."""

    town: Town
    client: Client
    ids: dict[str, str]
    mine: set[str] = field(default_factory=set)
    refused: list[Reply] = field(default_factory=list)

    async def live(self, seconds: float) -> None:
        clock, random = self.town.world.clock, self.town.random
        end = clock.monotonic() + seconds
        while clock.monotonic() < end:
            try:
                await self._do(random.random())
            except ConnectionLost:
                await clock.sleep(2)
            await clock.sleep(random.expovariate(0.4))

    async def _do(self, what: float) -> None:
        random = self.town.random
        if what < 0.45 or not self.mine:
            await self._create(random.randint(1, 3))
            return
        id = random.choice(sorted(self.mine))
        if what < 0.7:
            self._note(await self.client.delete(f"{SERVERS}/{id}"))
        else:
            action = random.choice(ACTIONS)
            self._note(await self.client.post(f"{SERVERS}/{id}/action", action))

    async def _create(self, count: int) -> None:
        body = {
            "name": "sim",
            "imageRef": self.ids["image"],
            "flavorRef": FLAVOR,
            "networks": [{"uuid": self.ids["network"]}],
            "min_count": 1,
            "max_count": count,
        }
        reply = self._note(await self.client.post(SERVERS, {"server": body}))
        if reply.status == 202:
            self.mine.add(reply.json["server"]["id"])

    def _note(self, reply: Reply) -> Reply:
        if reply.status >= 500:
            self.refused.append(reply)
        return reply


async def calm(town: Town) -> None:
    """Returns when no saga is under way any more. Raises AssertionError if that takes too long."""
    clock = town.world.clock
    end = clock.monotonic() + END_S
    while True:
        await town.runtime.store.sync()
        live = [e for e in await JOURNAL.all(town.runtime.store) if not e.parked]
        if not live:
            return
        left = [(e.saga, e.record_id, e.step, e.undoing, e.waits_for) for e in live]
        assert clock.monotonic() < end, f"sagas that do not end: {left}"
        await clock.sleep(5)


async def wrong(town: Town, ground: Ground) -> list[str]:
    """What must be true after a storm and is not. A parked saga owes its clean-up until the server is deleted."""
    owed = {e.record_id for e in await town.runtime.sagas.parked()}
    found = [p for p in await broken(town.runtime) if not any(id in p for id in owed)]
    servers = {s["id"]: s for s in await _servers(ground)}
    for s in servers.values():
        if s["status"] not in ("ACTIVE", "SHUTOFF", "ERROR"):
            found.append(f"server {s['id']} is {s['status']}")
        if s["status"] == "ERROR" and not s.get("fault"):
            found.append(f"server {s['id']} is in ERROR and does not say why")
    return (
        found + await _wrong_guests(town, servers, owed) + await _wrong_ports(ground, servers, owed)
    )


async def _wrong_guests(town: Town, servers: dict[str, Any], owed: set[str]) -> list[str]:
    where = await guests(town.every_host())
    at = {s["id"]: s["OS-EXT-SRV-ATTR:host"] for s in servers.values()}
    orphans = [
        f"guest {id} on {host} has no server there ({id in servers and servers[id]['status']})"
        for host, ids in where.items()
        for id in ids
        if at.get(id) != host and id not in owed
    ]
    placed = {id for ids in where.values() for id in ids}
    bodiless = [
        f"server {id} is ACTIVE and has no guest"
        for id, s in servers.items()
        if s["status"] == "ACTIVE" and id not in placed
    ]
    return orphans + bodiless


async def _wrong_ports(ground: Ground, servers: dict[str, Any], owed: set[str]) -> list[str]:
    ports = (await ground.cloud.admin.get("/network/v2.0/ports")).json["ports"]
    return [
        f"port {p['id']} is left of server {p['device_id']}"
        for p in ports
        if p["device_owner"].startswith("compute:") and p["device_id"] not in {*servers, *owed}
    ]


async def _servers(ground: Ground) -> list[Any]:
    shown = await ground.cloud.admin.get(f"{SERVERS}/detail?all_tenants=1")
    assert shown.status == 200, shown
    return list(shown.json["servers"])


async def delete_all(town: Town, ground: Ground) -> None:
    """Every server, as its user would; again where it failed."""
    for _ in range(20):
        left = await _servers(ground)
        if not left:
            return
        for s in left:
            await ground.cloud.admin.delete(f"{SERVERS}/{s['id']}")
        await calm(town)
    raise AssertionError(f"servers that cannot be deleted: {left}")

"""What goes wrong in a simulated cloud, and the people who use it meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pileus.kernel.sagas import JOURNAL
from pileus.testing.client import Client, Reply
from pileus.testing.grounds import Ground
from pileus.testing.grounds.compute import FLAVOR, SERVERS
from pileus.testing.held import broken
from tests.e2e import books
from tests.e2e.deeds import DEEDS, EVACUATE, MICROVERSION, Deed, Things
from tests.simulation.town import ConnectionLost, Town

BASES = {"compute": "/compute/v2.1", "network": "/network", "image": "/image"}
BASES |= {"placement": "/placement", "block-storage": "/volume/v3"}
# What one's own user may not do.
FOR_ADMINISTRATORS = {"migrate", "os-migrateLive", EVACUATE, "shelveOffload"}
LARGER = "84"
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
    admin: Client
    ids: dict[str, str]
    done: Counter[str]  # deeds that were accepted
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
        if what < 0.4 or not self.mine:
            await self._create(random.randint(1, 3))
            return
        id = random.choice(sorted(self.mine))
        shown = await self.client.get(f"{SERVERS}/{id}", **MICROVERSION)
        if what < 0.55 or shown.status != 200:
            self._note(await self.client.delete(f"{SERVERS}/{id}"))
            return
        row = shown.json["server"]
        fits = [deed for deed in DEEDS if row["status"] in deed.statuses]
        if fits:
            await self._ask(random.choice(fits), row)

    async def _ask(self, deed: Deed, row: Any) -> None:
        """Much is refused: the server is busy, or something else goes on."""
        things = Things(self.ids["image"], (FLAVOR, LARGER), self.ids["network"])
        client = self.admin if deed.name in FOR_ADMINISTRATORS else self.client
        if deed.name == EVACUATE or deed.name.startswith("detach"):
            told = await books.read(getter(self.admin))
            things.ports, things.hosts = told.ports_of, await hosts(self.admin)
            row = told.servers.get(row["id"], {**row, "OS-EXT-SRV-ATTR:host": None})
        for method, path, body in deed.asks(row, things):
            url = BASES["compute"] + path
            reply = await client.request(method, url, body, headers=MICROVERSION)
            if reply.status not in deed.refused:
                self._note(reply)
            self.done[deed.name] += reply.status < 300

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
    told = await books.read(getter(ground.cloud.admin))
    more = books.differences(told) + books.strange_guests(books.pretended(town.folder), told)
    return found + [p for p in more if not any(id in p for id in owed)]


def getter(admin: Client) -> books.Get:
    """As the books are read. Usage is looked at elsewhere: it is each project's."""

    async def get(service: str, path: str) -> Any:
        if service == "" or path == "/limits":
            return {"wrong": [], "limits": {"absolute": {}}}
        reply = await admin.get(BASES[service] + path, **MICROVERSION)
        assert reply.status == 200, (path, reply)
        return reply.json

    return get


async def hosts(admin: Client) -> dict[str, str]:
    """The id of each host's compute service."""
    found = await getter(admin)("compute", "/os-services?binary=nova-compute")
    return {service["host"]: service["id"] for service in found["services"]}


async def all_is_said_well(admin: Client) -> None:
    """No host is said to be lost any more."""
    for id in (await hosts(admin)).values():
        body = {"forced_down": False}
        url = f"{BASES['compute']}/os-services/{id}"
        await admin.request("PUT", url, body, headers=MICROVERSION)


async def _servers(ground: Ground) -> list[Any]:
    shown = await ground.cloud.admin.get(f"{SERVERS}/detail?all_tenants=1")
    assert shown.status == 200, shown
    return list(shown.json["servers"])


async def delete_all(town: Town, ground: Ground) -> None:
    """Every server, as its user would, again where it failed; and the images that were made of them."""
    admin = ground.cloud.admin
    for _ in range(20):
        left = await _servers(ground)
        if not left:
            for image in (await admin.get("/image/v2/images?limit=1000")).json["images"]:
                if image["id"] != ground.ids["image"]:
                    await admin.delete(f"/image/v2/images/{image['id']}")
            return
        for s in left:
            await ground.cloud.admin.delete(f"{SERVERS}/{s['id']}")
        await calm(town)
    raise AssertionError(f"servers that cannot be deleted: {left}")

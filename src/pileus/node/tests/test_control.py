"""Controls on one database: leases, and the sagas of those that let theirs run out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pileus.kernel.agents import CONTROL, Agents
from pileus.kernel.auth import TOKENS
from pileus.kernel.bus import MemoryBus
from pileus.kernel.events import after, emit
from pileus.kernel.hosts import HOST_REGISTRY
from pileus.kernel.runtime import Provided
from pileus.kernel.sagas import JOURNAL
from pileus.kernel.sqlite import SqliteStore
from pileus.kernel.store import Store
from pileus.kernel.tests.databases import PostgresDatabase
from pileus.kernel.tests.toy import CREATE, SERVICE, THINGS, AnyProject, Ground, Thing
from pileus.kernel.world import Clock, World
from pileus.node.control import LEASES, Control
from pileus.testing.postgres_server import postgres, programs

TOY = replace(SERVICE, provides=(Provided(TOKENS, lambda runtime: AnyProject()),))


class Set(Clock):
    """Wall time that a test moves."""

    at = 1_000_000.0

    def time(self) -> float:
        return self.at


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    if programs() is None:
        pytest.skip("PostgreSQL is not installed (Debian package postgresql)")
    with postgres() as url:
        yield url


@asynccontextmanager
async def control(store: Store, world: World, folder: Path, ground: Ground) -> Any:
    bus = MemoryBus(world)
    await bus.start()
    made = Control(
        world, store, bus, Agents(bus), folder, "http://x", services=[TOY], settings={"toy": ground}
    )
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
        await bus.stop()


async def begin(c: Control, id: str) -> None:
    """A saga that was begun and that nobody runs."""
    async with c.store.tx() as tx:
        thing = Thing(id=id, project_id="p1", name=id)
        await c.runtime.sagas.begin(tx, CREATE, thing)


def test_a_control_whose_lease_ran_out_is_followed_by_another(
    postgres_url: str, tmp_path: Path
) -> None:
    async def scene() -> None:
        database, clock, ground = PostgresDatabase(postgres_url), Set(), Ground()
        world = World(clock=clock)
        stores = [await database.store(world), await database.store(world)]
        async with (
            control(stores[0], world, tmp_path, ground) as a,
            control(stores[1], world, tmp_path, ground) as b,
        ):
            await a.runtime.reconcilers.stop()
            await b.runtime.reconcilers.stop()
            await begin(a, "t1")
            await a._adopt("")
            assert a.runtime.sagas.running == 1, "it found its own"
            await a.runtime.sagas.settled()
            await b._adopt("")
            await begin(a, "t2")
            clock.at += 9.9
            await b._adopt("")
            assert {e.owner for e in await JOURNAL.all(b.store)} == {a.runtime.sagas.me}
            clock.at += 0.2
            await b._adopt("")
            await b.runtime.sagas.settled()
            await b.store.sync()
            assert (await THINGS.get(b.store, "t2")).status == "available"
            assert await JOURNAL.all(b.store) == []
            assert len(await LEASES.all(b.store)) == 2
            clock.at += 3601
            await b._adopt("")
            assert [lease.id for lease in await LEASES.all(b.store)] == [b.runtime.sagas.me]

    asyncio.run(scene())


def test_a_control_follows_at_once_who_ran_out_of_its_folder_and_tells_the_hosts(
    postgres_url: str, tmp_path: Path
) -> None:
    async def scene() -> None:
        database, ground, world = PostgresDatabase(postgres_url), Ground(), World(clock=Set())
        stores = [await database.store(world), await database.store(world)]
        async with control(stores[0], world, tmp_path, ground) as dead:
            await dead.runtime.reconcilers.stop()
            await begin(dead, "t1")
            other = control(stores[1], world, tmp_path / "elsewhere", ground)
            async with other as c:
                assert c.runtime.sagas.alive == {c.runtime.sagas.me, dead.runtime.sagas.me}
                told = asyncio.Event()
                await c.agents.on_hint(HOST_REGISTRY, CONTROL, told.set)
                again = Control(
                    world, c.store, c.bus, c.agents, tmp_path, "http://x", services=[TOY]
                )
                await again._succeed()
                await c._adopt("")
                await c.runtime.sagas.settled()
                await c.store.sync()
                assert (await THINGS.get(c.store, "t1")).status == "available"
                await asyncio.wait_for(told.wait(), 5)

    asyncio.run(scene())


def test_what_a_killed_control_began_goes_on_at_the_next_start(tmp_path: Path) -> None:
    async def scene() -> None:
        ground, world = Ground(), World()
        for turn in range(2):
            store = SqliteStore(str(tmp_path / "cloud.sqlite"), world)
            async with control(store, world, tmp_path, ground) as c:
                if turn == 0:
                    await begin(c, "t1")
                    continue
                await c.runtime.sagas.settled()
                await store.sync()
                assert (await THINGS.get(store, "t1")).status == "available"

    asyncio.run(scene())


def test_old_events_and_tombstones_are_swept(tmp_path: Path) -> None:
    async def scene() -> None:
        clock = Set()
        world = World(clock=clock)
        store = SqliteStore(str(tmp_path / "cloud.sqlite"), world)
        async with control(store, world, tmp_path, Ground()) as c:
            await c.runtime.reconcilers.stop()
            async with store.tx() as tx:
                thing = await THINGS.insert(tx, Thing(id="t", project_id="p1", name="n"))
                await THINGS.delete(tx, thing)
                for n in range(2500):
                    await emit(tx, f"toy.{n}", "p1")
            for later, events_left, stones_left in ((599, 100, 1), (2, 1, 1), (3000, 1, 0)):
                clock.at += later
                await c._sweep("")
                await store.sync()
                assert len(await after(store, (0, 0))) == events_left
                stone = await THINGS.find(store, "t", deleted=True)
                assert (stone is not None) == bool(stones_left)

    asyncio.run(scene())

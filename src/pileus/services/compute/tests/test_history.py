"""A server costs the database the same work however many were before it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pileus.kernel.sqlite import SqliteStore
from pileus.testing.cloud import cloud
from pileus.testing.grounds import Ground
from pileus.testing.grounds.compute import FLAVOR, SERVERS, ready

AT_ONCE = 8
BATCHES_BETWEEN = 20
STEP = 10  # instructions of SQLite's machine between two ticks


class Work:
    """Counts what SQLite executes: figures that no other process on the machine can change."""

    def __init__(self, store: SqliteStore) -> None:
        self.ticks = 0
        for connection in (store._write, store._read):
            connection.set_progress_handler(self._tick, STEP)

    def _tick(self) -> int:
        self.ticks += 1
        return 0

    async def of(self, act: Callable[[Ground], Awaitable[None]], ground: Ground) -> int:
        """The least of some turns: what else a cloud does falls into one turn or another."""
        found = []
        for _ in range(3):
            self.ticks = 0
            await act(ground)
            found.append(self.ticks)
        return min(found)


async def boot_and_delete(ground: Ground) -> None:
    body = {
        "name": "many",
        "imageRef": ground.ids["image"],
        "flavorRef": FLAVOR,
        "networks": [{"uuid": ground.ids["network"]}],
        "min_count": AT_ONCE,
    }
    await ground.ask("POST", SERVERS, {"server": body})
    await ground.cloud.settle()
    servers = (await ground.ask("GET", SERVERS + "/detail")).json["servers"]
    assert [s["status"] for s in servers] == ["ACTIVE"] * AT_ONCE
    for server in servers:
        await ground.ask("DELETE", f"{SERVERS}/{server['id']}")
    await ground.cloud.settle()
    assert (await ground.ask("GET", SERVERS)).json["servers"] == []


async def list_often(ground: Ground) -> None:
    for _ in range(60):
        await ground.ask("GET", SERVERS)


async def ask_for_news_often(ground: Ground) -> None:
    now = ground.cloud.runtime.world.clock.now()
    for _ in range(60):
        await ground.ask("GET", f"{SERVERS}?changes-since={now}")


@pytest.mark.sqlite
def test_servers_that_are_gone_make_no_work_for_those_that_come() -> None:
    async def scene() -> None:
        async with cloud() as c:
            assert isinstance(c.runtime.store, SqliteStore)
            ground, work = await ready(c), Work(c.runtime.store)
            await boot_and_delete(ground)
            acts = (boot_and_delete, list_often, ask_for_news_often)
            before = [await work.of(act, ground) for act in acts]
            for _ in range(BATCHES_BETWEEN):
                await boot_and_delete(ground)
            after = [await work.of(act, ground) for act in acts]
            assert min(before) > 20
            assert all(a < b * 1.25 for b, a in zip(before, after, strict=True)), (
                f"ticks of {STEP} instructions: {before} became {after}"
            )

    asyncio.run(scene())

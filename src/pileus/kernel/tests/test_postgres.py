"""What only PostgreSQL's store has: connections that break, and transactions it has given up."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from pileus.kernel.faults import Stale, Unavailable
from pileus.kernel.postgres import PostgresStore
from pileus.kernel.store import Page
from pileus.kernel.tests.databases import PostgresDatabase, started
from pileus.kernel.tests.test_store import CUPS, Cup, put
from pileus.kernel.world import World


@pytest.fixture
def database(postgres_url: str) -> PostgresDatabase:
    return PostgresDatabase(postgres_url)


async def cut_all(store: Any) -> None:
    """The server closes every connection of this database."""
    c = await asyncpg.connect(store.url)
    await c.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await c.close()


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    store = PostgresStore("postgresql://nobody@127.0.0.1:9/none", World(), size=1)
    with pytest.raises(Unavailable, match="database cannot be reached"):
        await store.start()


async def test_a_lost_connection_is_unavailable_at_most_once_and_made_anew(
    database: PostgresDatabase,
) -> None:
    async with started(database) as store:
        await put(store, Cup(id="1", name="a"))
        await cut_all(store)
        lost = 0
        for _ in range(8):  # more than the pool has
            try:
                await CUPS.count(store, Page())
            except Unavailable:
                lost += 1
        assert lost <= 1
        assert await CUPS.count(store, Page()) == 1
        await put(store, Cup(id="2", name="b"))


async def test_a_connection_lost_inside_a_transaction_is_unavailable_and_writes_nothing(
    database: PostgresDatabase,
) -> None:
    async with started(database) as store:
        with pytest.raises(Unavailable):
            async with store.tx() as tx:
                await CUPS.insert(tx, Cup(id="1", name="a"))
                await cut_all(store)
                await CUPS.insert(tx, Cup(id="2", name="b"))
        with pytest.raises(Unavailable):
            async with store.tx() as tx:
                await CUPS.insert(tx, Cup(id="1", name="a"))
                await cut_all(store)
        await put(store, Cup(id="3", name="c"))
        assert await CUPS.count(store, Page()) == 1


async def test_of_two_that_wait_for_each_other_one_is_stale(database: PostgresDatabase) -> None:
    async with started(database) as store:
        one, two = await put(store, Cup(id="1", name="a"), Cup(id="2", name="b"))
        both = asyncio.Barrier(2)

        async def change(first: Cup, second: Cup) -> None:
            async with store.tx() as tx:
                await CUPS.change(tx, first, size=7)
                await both.wait()
                await CUPS.change(tx, second, size=7)

        ends = await asyncio.gather(change(one, two), change(two, one), return_exceptions=True)
        assert sorted(type(e).__name__ for e in ends) == ["NoneType", "Stale"]
        assert {c.size for c in await CUPS.all(store)} == {7}


async def test_others_see_nothing_before_the_commit(database: PostgresDatabase) -> None:
    async with started(database) as store, started(database) as other:
        async with store.tx() as tx:
            await CUPS.insert(tx, Cup(id="1", name="a"))
            assert await CUPS.find(store, "1") is None
            assert await CUPS.find(other, "1") is None
        assert await CUPS.find(other, "1") is not None


async def test_a_lock_holds_across_controls(database: PostgresDatabase) -> None:
    async with started(database) as store, started(database) as other:
        order: list[str] = []

        async def second() -> None:
            async with other.tx() as tx:
                await tx.lock("x")
                order.append("second")

        async with store.tx() as tx:
            await tx.lock("x")
            async with other.tx() as free:
                await free.lock("y")
            task = asyncio.create_task(second())
            await asyncio.sleep(0.05)
            order.append("first")
        await task
        assert order == ["first", "second"]


async def test_more_transactions_than_connections_take_turns(database: PostgresDatabase) -> None:
    async with started(database) as store:
        await asyncio.gather(*(put(store, Cup(id=str(n), name=f"n{n}")) for n in range(30)))
        assert await CUPS.count(store, Page()) == 30


async def test_controls_that_start_at_once_shape_the_tables_once(postgres_url: str) -> None:
    database = PostgresDatabase(postgres_url)
    first = await database.store()
    stores = [first, *[await database.store() for _ in range(3)]]
    c = await asyncpg.connect(first.url)  # type: ignore[attr-defined]
    await c.execute("DROP TABLE test_cups CASCADE")
    await c.close()
    await asyncio.gather(*(s.start() for s in stores))
    await put(first, Cup(id="1", name="a"))
    for s in stores:
        await s.stop()


async def test_sync_waits_for_the_unwaited_even_with_the_server_lost_in_between(
    database: PostgresDatabase,
) -> None:
    async with started(database) as store:
        async with store.tx(wait=False) as tx:
            await CUPS.insert(tx, Cup(id="1", name="a"))
        await cut_all(store)
        for _ in range(8):
            try:
                await store.sync()
                break
            except Unavailable:
                continue
        assert await CUPS.find(store, "1") is not None


async def test_a_stale_write_in_a_transaction_leaves_the_pool_usable(
    database: PostgresDatabase,
) -> None:
    async with started(database) as store:
        (cup,) = await put(store, Cup(id="1", name="a"))
        async with store.tx() as tx:
            await CUPS.change(tx, cup, size=2)
        for _ in range(12):
            with pytest.raises(Stale):
                async with store.tx() as tx:
                    await CUPS.change(tx, cup, size=3)
        await put(store, Cup(id="2", name="b"))

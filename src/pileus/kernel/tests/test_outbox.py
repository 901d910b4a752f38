"""Events on both databases: in order, none missed, whoever reads and whatever fails."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import asyncpg
import pytest

from pileus.kernel import events
from pileus.kernel.events import CURSORS, START, Event, Outbox, Watch, after, emit, newest, prune
from pileus.kernel.faults import Fault, Stale, Unavailable
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Store
from pileus.kernel.tests.databases import Database, PostgresDatabase, started
from pileus.kernel.tests.toy import toy


async def tell(store: Store, kind: str, **payload: Any) -> None:
    async with store.tx() as tx:
        await emit(tx, kind, "p1", **payload)


async def test_events_keep_what_they_tell(database: Database) -> None:
    async with started(database) as store:
        async with store.tx() as tx:
            await emit(tx, "toy.a.end", "p1", id="1", text="ä", more=[1, None])
            at = tx.now
        (event,) = await after(store, START)
        assert (event.kind, event.project_id, event.at) == ("toy.a.end", "p1", at)
        assert event.payload == {"id": "1", "text": "ä", "more": [1, None]}
        assert await newest(store) == event.position


async def test_events_count_on_when_all_that_were_told_are_old(database: Database) -> None:
    async with started(database) as store:
        for n in range(3):
            await tell(store, f"k{n}")
        last = await newest(store)
        dropped = []
        for _ in range(3):
            async with store.tx() as tx:
                dropped.append(await prune(tx, tx.now + "~", limit=1))
        assert dropped == [1, 1, 0], "the newest stays"
        await tell(store, "k3")
        assert [e.kind for e in await after(store, last)] == ["k3"]


async def test_a_page_of_events_is_as_long_as_asked(database: Database) -> None:
    async with started(database) as store:
        async with store.tx() as tx:
            for n in range(7):
                await emit(tx, f"k{n}", "p1")
        first = await after(store, START, 3)
        assert [e.kind for e in first] == ["k0", "k1", "k2"]
        rest = await after(store, first[-1].position)
        assert [e.kind for e in rest] == ["k3", "k4", "k5", "k6"]


async def test_an_event_of_an_older_transaction_that_commits_later_is_not_missed(
    postgres_url: str,
) -> None:
    async with started(PostgresDatabase(postgres_url)) as store:
        position = START
        async with store.tx() as slow:
            await emit(slow, "slow", "p1")
            await tell(store, "fast")
            early = await after(store, position)
            position = early[-1].position if early else position
        late = await after(store, position)
        assert sorted(e.kind for e in early + late) == ["fast", "slow"]


class Noted:
    """A watch that notes what it hears."""

    def __init__(self, prefix: str = "toy.") -> None:
        self.heard: list[str] = []
        self.news: asyncio.Queue[str] = asyncio.Queue()
        self.watch = Watch("noted", (prefix,), self.run)

    async def run(self, runtime: Runtime, event: Event) -> None:
        self.heard.append(event.kind)
        self.news.put_nowait(event.kind)

    async def next(self) -> str:
        async with asyncio.timeout(10):
            return await self.news.get()


async def test_a_watch_goes_on_behind_what_it_has_heard(database: Database) -> None:
    async with started(database) as store:
        for turn in range(3):
            async with toy(_kept(store)) as (r, _):
                noted = Noted()
                outbox = Outbox(r, [noted.watch])
                await outbox.start()
                for n in range(3):
                    await tell(store, f"toy.{turn}.{n}")
                assert [await noted.next() for _ in range(3)] == [
                    f"toy.{turn}.{n}" for n in range(3)
                ]
                await outbox.stop()
                await store.sync()
                cursor = await CURSORS.get(store, "noted")
                assert (cursor.epoch, cursor.seq) == await newest(store)


async def test_two_controls_each_hear_everything_and_neither_stops_the_other(
    database: Database,
) -> None:
    async with started(database) as store, toy(_kept(store)) as (a, _), toy(_kept(store)) as (b, _):
        first, second = Noted(), Noted()
        boxes = [Outbox(a, [first.watch]), Outbox(b, [second.watch])]
        for box in boxes:
            await box.start()
        for n in range(5):
            await tell(store, f"toy.{n}")
        for noted in (first, second):
            assert [await noted.next() for _ in range(5)] == [f"toy.{n}" for n in range(5)]
        await asyncio.gather(*(box.stop() for box in boxes))
        await store.sync()
        cursor = await CURSORS.get(store, "noted")
        assert (cursor.epoch, cursor.seq) == await newest(store)


async def test_what_was_written_here_is_heard_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_POLL_S", 600)
    monkeypatch.setattr(events, "_SAVE_S", 600)
    async with started(database) as store, toy(_kept(store)) as (r, _):
        noted = Noted()
        outbox = Outbox(r, [noted.watch])
        await outbox.start()
        await asyncio.sleep(0.05)  # nothing to do: it waits
        await tell(store, "toy.a")
        assert await noted.next() == "toy.a"
        await outbox.stop()


async def test_a_control_that_is_behind_does_not_take_the_place_of_one_ahead(
    database: Database,
) -> None:
    async with started(database) as store, toy(_kept(store)) as (a, _), toy(_kept(store)) as (b, _):
        reached, go = asyncio.Event(), asyncio.Event()

        async def slow(runtime: Runtime, event: Event) -> None:
            reached.set()
            await go.wait()

        await tell(store, "toy.first")
        behind = Outbox(a, [Watch("noted", ("toy.first",), slow)])
        await behind.start()
        await reached.wait()
        await behind.stop()  # in the middle of the first event: its place is before it
        noted = Noted()
        ahead = Outbox(b, [noted.watch])
        await ahead.start()
        await tell(store, "toy.second")
        assert [await noted.next(), await noted.next()] == ["toy.first", "toy.second"]
        await ahead.stop()
        await store.sync()
        await behind._save()
        await store.sync()
        cursor = await CURSORS.get(store, "noted")
        assert (cursor.epoch, cursor.seq) == await newest(store)


async def noted_place(store: Store) -> int:
    """The generation of the place that is noted, once there is one."""
    for _ in range(1000):
        if (cursor := await CURSORS.find(store, "noted")) is not None:
            return cursor.generation
        await asyncio.sleep(0.01)
    raise AssertionError("no place was noted")


async def test_places_are_noted_now_and_then_and_not_after_every_event(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_SAVE_S", 60)
    async with started(database) as store, toy(_kept(store)) as (r, _):
        noted = Noted()
        outbox = Outbox(r, [noted.watch])
        await outbox.start()
        generations = set[int]()
        for n in range(4):
            await tell(store, f"toy.{n}")
            await noted.next()
            generations.add(await noted_place(store))
            await asyncio.sleep(0.03)
            await store.sync()
            generations.add(await noted_place(store))
        assert generations == {1}, "the first at once, the next seconds later"
        await outbox.stop()
        await store.sync()
        assert (await CURSORS.get(store, "noted")).generation == 2


async def test_an_outbox_without_news_writes_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_SAVE_S", 0.02)
    async with started(database) as store, toy(_kept(store)) as (r, _):
        noted, commits = Noted(), list[int]()
        outbox = Outbox(r, [noted.watch])
        await outbox.start()
        await tell(store, "toy.a")
        await noted.next()
        await noted_place(store)
        await asyncio.sleep(0.1)  # who noted it has not heard yet that it is done
        store.on_commit(lambda: commits.append(1))
        await asyncio.sleep(0.2)
        assert commits == []
        await outbox.stop()


async def test_what_another_control_wrote_is_heard_soon(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing wakes us then: on a shared store we look every second, on one's own seldom."""
    async with started(database) as store, toy(_kept(store)) as (r, _):
        monkeypatch.setattr(store, "on_commit", lambda wake: None)
        noted = Noted()
        outbox = Outbox(r, [noted.watch])
        await outbox.start()
        await asyncio.sleep(0.05)
        await tell(store, "toy.a")
        try:
            async with asyncio.timeout(2):
                heard = await noted.next()
        except TimeoutError:
            heard = ""
        assert heard == ("toy.a" if store.shared else "")
        await outbox.stop()


async def test_the_outbox_outlives_the_absence_of_its_store(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with toy() as (r, _):
        noted = Noted()
        outbox = Outbox(r, [noted.watch])
        await outbox.start()
        rows, away = r.store.rows, True

        async def fails(sql: Any, values: Any) -> Any:
            if away:
                raise Unavailable("gone", internal="the database is away")
            return await rows(sql, values)

        monkeypatch.setattr(r.store, "rows", fails)
        with caplog.at_level(logging.WARNING):
            await tell(r.store, "toy.a")
            await asyncio.sleep(0.1)
        assert "the database is away" in caplog.text and noted.heard == []
        away = False
        assert await noted.next() == "toy.a"
        await outbox.stop()


@pytest.mark.parametrize("passing", [Unavailable("away"), Stale("changed")], ids=["away", "stale"])
async def test_a_watch_whose_rows_changed_or_were_away_is_asked_again(
    database: Database, monkeypatch: pytest.MonkeyPatch, passing: Fault
) -> None:
    monkeypatch.setattr(events, "_POLL_S", 0.02)
    async with started(database) as store, toy(_kept(store)) as (r, _):
        noted, other = Noted(), Noted()

        async def late(runtime: Runtime, event: Event) -> None:
            if event.kind == "toy.b" and "toy.c" not in other.heard:  # which waits for nobody
                raise passing
            await noted.run(runtime, event)

        outbox = Outbox(r, [Watch("late", ("toy.",), late), other.watch])
        await outbox.start()
        for kind in ("toy.a", "toy.b", "toy.c"):
            await tell(store, kind)
        while await noted.next() != "toy.c":
            continue
        while await other.next() != "toy.c":
            continue
        await outbox.stop()
        assert list(dict.fromkeys(noted.heard)) == ["toy.a", "toy.b", "toy.c"]


async def test_without_watches_nothing_runs() -> None:
    async with toy() as (r, _):
        outbox = Outbox(r, [])
        before = len(asyncio.all_tasks())
        await outbox.start()
        assert len(asyncio.all_tasks()) == before
        await outbox.stop()


async def test_a_lost_server_of_the_database_is_waited_for(postgres_url: str) -> None:
    database = PostgresDatabase(postgres_url)
    async with started(database) as store, toy(_kept(store)) as (r, _):
        noted = Noted()
        outbox = Outbox(r, [noted.watch])
        await outbox.start()
        await tell(store, "toy.a")
        await noted.next()
        c = await asyncpg.connect(store.url)  # type: ignore[attr-defined]
        await c.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await c.close()
        for _ in range(10):
            try:
                await tell(store, "toy.b")
                break
            except Unavailable:
                continue
        assert await noted.next() == "toy.b"
        await outbox.stop()


def _kept(store: Store) -> Any:
    """The store, which those who use it do not start or stop."""
    from pileus.kernel.tests.saga_bench import _Kept

    return _Kept(store)

"""The outbox and the watch stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pileus.kernel import events, watch
from pileus.kernel.auth import revise
from pileus.kernel.events import CURSORS, START, Cursor, Event, Outbox, Watch, after, emit
from pileus.kernel.faults import Forbidden, Invalid, RateLimited, Unauthenticated
from pileus.kernel.query import Query
from pileus.kernel.runtime import Runtime
from pileus.kernel.tests.toy import toy
from pileus.kernel.watch import Streams


async def tell(runtime: Runtime, kind: str, project: str = "p1", **payload: Any) -> None:
    async with runtime.store.tx() as tx:
        await emit(tx, kind, project, **payload)


async def heard(stream: AsyncIterator[bytes]) -> str:
    async with asyncio.timeout(5):
        return (await anext(stream)).decode()


async def test_events_come_in_order_and_only_those_behind_a_position() -> None:
    async with toy() as (r, _):
        for n in range(5):
            await tell(r, f"toy.{n}.end", n=n)
        found = await after(r.store, START)
        assert [e.kind for e in found] == [f"toy.{n}.end" for n in range(5)]
        assert [e.payload["n"] for e in await after(r.store, found[2].position)] == [3, 4]
        assert await events.newest(r.store) == found[-1].position


async def test_an_event_goes_with_its_transaction() -> None:
    async with toy() as (r, _):
        with pytest.raises(KeyError):
            async with r.store.tx() as tx:
                await emit(tx, "toy.lost.end", "p1")
                raise KeyError
        await r.store.sync()
        assert await after(r.store, START) == []


async def test_a_watch_hears_its_kinds_even_after_one_that_it_cannot_bear() -> None:
    got: list[str] = []
    news: asyncio.Queue[str] = asyncio.Queue()

    async def run(runtime: Runtime, event: Event) -> None:
        got.append(event.kind)
        news.put_nowait(event.kind)
        if event.kind == "toy.bad":
            raise RuntimeError("too much")

    async with toy() as (r, _):
        outbox = Outbox(r, [Watch("w", ("toy.",), run)])
        await outbox.start()
        for kind in ("toy.bad", "other.kind", "toy.good"):
            await tell(r, kind)
        async with asyncio.timeout(5):
            await news.get(), await news.get()
        await outbox.stop()
        assert got == ["toy.bad", "toy.good"]
        await tell(r, "toy.later")
        again = Outbox(r, [Watch("w", ("toy.",), run)])
        await again.start()
        async with asyncio.timeout(5):
            await news.get()
        await again.stop()
        assert got[2:] == ["toy.later"]


async def test_old_events_are_pruned() -> None:
    async with toy() as (r, _):
        await tell(r, "toy.old")
        await tell(r, "toy.newest")
        async with r.store.tx() as tx:
            assert await events.prune(tx, "0") == 0
            assert await events.prune(tx, tx.now + "~") == 1
        assert [e.kind for e in await after(r.store, START)] == ["toy.newest"]


async def test_a_watch_that_read_further_than_events_go_reads_from_the_start() -> None:
    news: asyncio.Queue[str] = asyncio.Queue()

    async def run(runtime: Runtime, event: Event) -> None:
        news.put_nowait(event.kind)

    async with toy() as (r, _):
        async with r.store.tx() as tx:
            await CURSORS.insert(tx, Cursor(id="w", seq=14_006))
        await tell(r, "toy.first")
        outbox = Outbox(r, [Watch("w", ("toy.",), run)])
        await outbox.start()
        async with asyncio.timeout(5):
            assert await news.get() == "toy.first"
        await outbox.stop()


async def test_a_stream_gives_a_project_its_own_events_and_resumes_where_it_broke_off() -> None:
    async with toy() as (r, _):
        streams = Streams(r)
        streams.start()
        await tell(r, "toy.before")
        stream = await streams.follow("p1:member", Query(""), "")
        assert await heard(stream) == ": watching\n\n"
        await tell(r, "toy.theirs", "p2")
        await tell(r, "toy.mine", n=7)
        text = await heard(stream)
        assert "event: toy.mine\n" in text and '"n":7' in text and "theirs" not in text
        last = text.split("\n")[0].removeprefix("id: ")
        await tell(r, "toy.next")
        resumed = await streams.follow("p1:member", Query(""), last)
        await heard(resumed)
        assert "event: toy.next\n" in await heard(resumed)


async def test_a_stream_is_for_who_may_and_for_ids_that_are_some() -> None:
    async with toy() as (r, _):
        streams = Streams(r)
        with pytest.raises(Unauthenticated):
            await streams.follow("", Query(""), "")
        with pytest.raises(Forbidden, match="administrator"):
            await streams.follow("p1:member", Query("all_projects"), "")
        with pytest.raises(Forbidden, match="no project"):
            await streams.follow(":member", Query(""), "")
        with pytest.raises(Invalid, match="'x-1'"):
            await streams.follow("p1:member", Query(""), "x-1")
        everything = await streams.follow("p1:admin", Query("all_projects&since=0-0"), "")
        await heard(everything)
        await tell(r, "toy.theirs", "p2")
        assert "event: toy.theirs" in await heard(everything)


async def test_a_stream_may_begin_in_the_past_and_an_administrator_without_a_project_sees_all() -> (
    None
):
    async with toy() as (r, _):
        streams = Streams(r)
        await tell(r, "toy.first")
        (first,) = await after(r.store, START)
        await tell(r, "toy.second", "p2")
        since = f"since={first.epoch}-{first.seq}&all_projects"
        stream = await streams.follow(":admin", Query(since), "")
        await heard(stream)
        text = await heard(stream)
        assert "event: toy.second\n" in text and "toy.first" not in text
        both = await streams.follow(":admin", Query(since), "0-0")
        await heard(both)
        text = await heard(both)
        assert text.index("toy.first") < text.index("toy.second"), "Last-Event-ID goes first"


async def test_a_stream_breathes_and_ends_when_its_token_is_revoked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "_BREATH_S", 0.05)
    async with toy() as (r, _):
        streams = Streams(r)
        streams.start()
        stream = await streams.follow("p1:member", Query(""), "")
        await heard(stream)
        assert streams._open == 1
        for _ in range(3):
            assert await heard(stream) == ":\n\n"
        r.callers.source = Refusing()
        async with r.store.tx() as tx:
            await revise(tx, "auth")
        with pytest.raises(StopAsyncIteration):
            await heard(stream)
            await heard(stream)
        assert streams._open == 0 and not streams._waiting


class Refusing:
    """Knows no token any more."""

    async def caller(self, token: str, late: bool) -> Any:
        raise Unauthenticated("revoked")


async def test_only_so_many_streams_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_MOST", 2)
    async with toy() as (r, _):
        streams = Streams(r)
        held = [await streams.follow("p1:member", Query(""), "") for _ in range(2)]
        for stream in held:
            await heard(stream)
        with pytest.raises(RateLimited, match="2 streams are open already"):
            await streams.follow("p1:member", Query(""), "")

"""Rows that are read again and again: only what changed is decoded, and nothing that is not so any more is given."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pileus.kernel.store import Match, Page, Store
from pileus.kernel.tests.databases import SqliteDatabase, started
from pileus.kernel.tests.test_store import CUPS, GRAVES, Cup, put
from pileus.services.network import memory as memory_module
from pileus.services.network.memory import Memory


@asynccontextmanager
async def remembering(folder: Path) -> AsyncIterator[tuple[Store, Memory]]:
    async with started(SqliteDatabase(folder / "test.sqlite")) as store:
        yield store, Memory(store)


async def seen(memory: Memory, store: Store, **filters: Any) -> str:
    """Names, in order, which a list gives too."""
    found = await memory.rows(GRAVES, **filters)
    assert found == await GRAVES.list(store, Page(filters, (("id", False),)))
    return " ".join(c.name for c in found)


def some(count: int) -> list[Cup]:
    return [Cup(id=str(n), name=f"n{n}") for n in range(count)]


def test_what_is_remembered_is_what_a_list_gives(tmp_path: Path) -> None:
    async def scene() -> None:
        async with remembering(tmp_path) as (store, memory):
            assert await seen(memory, store) == ""
            a, b, _ = await put(store, *some(3), table=GRAVES)
            assert await seen(memory, store) == "n0 n1 n2"
            async with store.tx() as tx:
                a = await GRAVES.change(tx, a, name="A")
                await GRAVES.delete(tx, b)
            assert await seen(memory, store) == "A n2"
            assert await seen(memory, store, name=Match("ne", "A")) == "n2"
            async with store.tx() as tx:
                await GRAVES.change(tx, a, name="Z")
            assert await seen(memory, store, name=["Z", "n2"]) == "Z n2"

    asyncio.run(scene())


def test_only_rows_that_changed_are_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    inner = GRAVES.decode

    def decode(text: Any) -> Cup:
        cup = inner(text)
        decoded.append(cup.id)
        return cup

    async def scene() -> None:
        async with remembering(tmp_path) as (store, memory):
            a, *_ = await put(store, *some(4), table=GRAVES)
            await memory.rows(GRAVES)
            assert sorted(decoded) == ["0", "1", "2", "3"]
            await memory.rows(GRAVES)
            async with store.tx() as tx:
                await GRAVES.change(tx, a, name="new")
            await memory.rows(GRAVES)
            assert sorted(decoded) == ["0", "0", "1", "2", "3"]

    monkeypatch.setattr(GRAVES, "decode", decode)
    asyncio.run(scene())


def test_a_row_made_anew_under_an_old_id_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    async def scene() -> None:
        async with remembering(tmp_path) as (store, memory):
            (old,) = await put(store, Cup(id="again", name="old"))
            assert [c.name for c in await memory.rows(CUPS)] == ["old"]
            async with store.tx() as tx:
                await CUPS.delete(tx, old)
            assert await memory.rows(CUPS) == []
            await put(store, Cup(id="again", name="new"))
            assert [c.name for c in await memory.rows(CUPS)] == ["new"]

    asyncio.run(scene())


def test_what_is_gone_is_forgotten_and_what_is_in_use_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "_LEAST", 10)

    async def scene() -> None:
        async with remembering(tmp_path) as (store, memory):
            (kept,) = await put(store, Cup(id="kept", name="kept"), table=GRAVES)
            for n in range(100):
                (cup,) = await put(store, Cup(id=f"{n}", name=f"n{n}"), table=GRAVES)
                assert await seen(memory, store) == f"n{n} kept"
                async with store.tx() as tx:
                    await GRAVES.delete(tx, cup)
            assert len(memory.of(GRAVES)) < 30
            assert memory.of(GRAVES).known([("kept", 1, kept.created_at)]) == {"kept": kept}

    asyncio.run(scene())


def test_a_memory_gives_every_row_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "_LEAST", 3)

    async def scene() -> None:
        async with remembering(tmp_path) as (store, memory):
            await put(store, *some(9), table=GRAVES)
            for _ in range(3):
                assert len((await seen(memory, store)).split()) == 9

    asyncio.run(scene())


def test_a_long_answer_is_given_whole_and_not_remembered(tmp_path: Path) -> None:
    async def scene() -> None:
        async with started(SqliteDatabase(tmp_path / "test.sqlite")) as store:
            memory = Memory(store, most=3)
            await put(store, *some(4), table=GRAVES)
            assert len(await memory.list(GRAVES, Page())) == 4
            assert len(memory.of(GRAVES)) == 0
            assert len(await memory.list(GRAVES, Page(limit=3))) == len(memory.of(GRAVES)) == 3

    asyncio.run(scene())


def test_json_is_kept_until_its_record_is_another_and_of_so_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "_RENDERED", 2)

    async def scene() -> None:
        async with remembering(tmp_path) as (store, memory):
            a, b, c = await put(store, *some(3), table=GRAVES)
            shelves = memory.of(GRAVES)
            shelves.parts(a)["one"] = b"a"
            assert shelves.parts(await GRAVES.get(store, a.id)) == {"one": b"a"}
            async with store.tx() as tx:
                a = await GRAVES.change(tx, a, name="new")
            assert shelves.parts(a) == {}
            shelves.parts(a)["one"] = b"new"
            for record in (b, c):
                shelves.parts(record)["one"] = b"other"
            assert shelves.parts(c) == {"one": b"other"}
            assert shelves.parts(a) == {}

    asyncio.run(scene())


def test_what_lists_remember_goes_with_their_store(tmp_path: Path) -> None:
    async def scene() -> None:
        async with started(SqliteDatabase(tmp_path / "test.sqlite")) as store:
            await put(store, *some(2), table=GRAVES)
            assert len(await memory_module.lists(store).list(GRAVES, Page())) == 2
            assert len(memory_module.lists(store).of(GRAVES)) == 2

    before = len(memory_module._LISTS)
    asyncio.run(scene())
    gc.collect()
    assert len(memory_module._LISTS) <= before

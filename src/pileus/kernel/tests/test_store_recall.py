"""Rows that are read again and again: only what changed is decoded, and nothing that is not so any more is given."""

from __future__ import annotations

from typing import Any

import pytest

from pileus.kernel import store as store_module
from pileus.kernel.store import Match, Page, Store, Table
from pileus.kernel.tests.databases import Database, started
from pileus.kernel.tests.test_store import CUPS, GRAVES, Cup, put

BY_ID = (("id", False),)


@pytest.fixture(autouse=True)
def _forgetful() -> None:
    """A table's memory outlives its store, which only tests have several of."""
    CUPS._seen.clear()
    GRAVES._seen.clear()


def decoded_of(table: Table[Cup], patch: pytest.MonkeyPatch) -> list[str]:
    """The ids of what the table decodes from now on."""
    decoded: list[str] = []
    inner = table.decode

    def decode(text: Any) -> Cup:
        cup = inner(text)
        decoded.append(cup.id)
        return cup

    patch.setattr(table, "decode", decode)
    return decoded


async def seen(store: Store, table: Table[Cup], **filters: Any) -> str:
    """Names, in order, which a list gives too."""
    page = Page(filters, BY_ID)
    recalled = await table.recall(store, page)
    assert recalled == await table.list(store, page)
    return " ".join(c.name for c in recalled)


async def test_what_is_recalled_is_what_a_list_gives(database: Database) -> None:
    async with started(database) as store:
        assert await seen(store, GRAVES) == ""
        a, b, _ = await put(
            store, Cup(id="1", name="a"), Cup(id="2", name="b"), Cup(id="3", name="c"), table=GRAVES
        )
        assert await seen(store, GRAVES) == "a b c"
        async with store.tx() as tx:
            a = await GRAVES.change(tx, a, name="A")
            await GRAVES.delete(tx, b)
        assert await seen(store, GRAVES) == "A c"
        assert await seen(store, GRAVES, name=Match("ne", "A")) == "c"
        async with store.tx() as tx:
            await GRAVES.change(tx, a, name="Z")
        assert await seen(store, GRAVES, name=["Z", "c"]) == "Z c"


async def test_only_rows_that_changed_are_decoded_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = decoded_of(GRAVES, monkeypatch)
    async with started(database) as store:
        a, *_ = await put(store, *(Cup(id=str(n), name=f"n{n}") for n in range(4)), table=GRAVES)
        for wanted in (["0", "1", "2", "3"], []):
            decoded.clear()
            await GRAVES.recall(store, Page({}, BY_ID))
            assert sorted(decoded) == wanted
        async with store.tx() as tx:
            await GRAVES.change(tx, a, name="new")
        await GRAVES.recall(store, Page({}, BY_ID))
        assert decoded == ["0"]


async def test_a_row_made_anew_under_an_old_id_is_not_taken_for_the_old_one(
    database: Database,
) -> None:
    async with started(database) as store:
        (old,) = await put(store, Cup(id="again", name="old"))
        assert await seen(store, CUPS) == "old"
        async with store.tx() as tx:
            await CUPS.delete(tx, old)
        await put(store, Cup(id="again", name="new"))
        assert await seen(store, CUPS) == "new"


async def test_a_memory_that_is_full_forgets_and_still_gives_every_row(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_REMEMBERED", 3)
    async with started(database) as store:
        await put(store, *(Cup(id=str(n), name=f"n{n}") for n in range(5)), table=GRAVES)
        assert await seen(store, GRAVES) == "n0 n1 n2 n3 n4"
        await put(store, Cup(id="5", name="n5"), table=GRAVES)
        assert await seen(store, GRAVES) == "n0 n1 n2 n3 n4 n5"
        assert len(GRAVES._seen) == 6

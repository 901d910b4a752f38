"""Rows on both databases: compare-and-swap, uniqueness, tombstones, filters, pages."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from typing import Any

import asyncpg
import pytest

from pileus.kernel.faults import Conflict, Invalid, NotFound, Stale
from pileus.kernel.store import METADATA, Column, Many, Match, Page, Record, Store, Table, Unique
from pileus.kernel.tests.databases import Database, PostgresDatabase, SqliteDatabase, started


class Cup(Record, kw_only=True, frozen=True):
    name: str
    owner: str = "o1"
    size: int = 1
    is_hot: bool = False
    lid: str | None = None
    tags: list[str] = []


CUPS = Table(
    "test_cups",
    Cup,
    columns=("name", "owner", "size", "is_hot", "lid", Column("shout", lambda c: c.name.upper())),
    unique=(Unique(("owner", "name"), lambda c: f"{c.owner} has a cup {c.name}.", "cup.taken"),),
    many=(Many("tags", lambda c: c.tags),),
    indexes=(("owner", "created_at", "id"),),
    noun="Cup",
)
GRAVES = Table(
    "test_graves",
    Cup,
    many=(Many("tags", lambda c: c.tags),),
    tombstone_s=60,
    columns=("name",),
    indexes=(("created_at", "id"),),
    unique=(Unique(("name",), lambda c: f"{c.name} lies here."),),
)
SAUCERS = Table(
    "saucers_whose_table_has_a_name_that_leaves_no_room",
    Cup,
    columns=("name", "size"),
    unique=(Unique(("name", "size"), lambda c: f"A saucer {c.name} of {c.size} is there."),),
)


async def put(store: Store, *cups: Cup, table: Table[Cup] = CUPS) -> list[Cup]:
    async with store.tx() as tx:
        return [await table.insert(tx, cup) for cup in cups]


def ids(cups: list[Cup]) -> list[str]:
    return [c.id for c in cups]


async def found(store: Store, **filters: Any) -> str:
    """The ids of what matches, in order."""
    page = Page(filters, (("id", False),))
    cups = await CUPS.list(store, page)
    assert await CUPS.count(store, page) == len(cups)
    return "".join(c.id for c in cups)


# Writing


async def test_what_was_inserted_is_read_back_with_its_first_generation(database: Database) -> None:
    async with started(database) as store:
        (cup,) = await put(store, Cup(id="1", name="ä'\"%_\\", tags=["x"], is_hot=True))
        assert cup.generation == 1 and cup.created_at and not cup.updated_at
        assert await CUPS.get(store, "1") == cup


async def test_a_creation_time_that_is_given_stays(database: Database) -> None:
    async with started(database) as store:
        (cup,) = await put(store, Cup(id="1", name="a", created_at="2020-01-01T00:00:00.000000Z"))
        assert cup.created_at == "2020-01-01T00:00:00.000000Z"


async def test_a_row_that_is_not_there_is_not_found_in_its_nouns_name(database: Database) -> None:
    async with started(database) as store:
        with pytest.raises(NotFound, match=r"^Cup nobody could not be found\.$"):
            await CUPS.get(store, "nobody")
        assert await CUPS.find(store, "nobody") is None


async def test_a_change_raises_the_generation_and_notes_the_time(database: Database) -> None:
    async with started(database) as store:
        (cup,) = await put(store, Cup(id="1", name="a"))
        async with store.tx() as tx:
            changed = await CUPS.change(tx, cup, size=5)
            assert changed.updated_at == tx.now
        assert (changed.generation, changed.size, changed.name) == (2, 5, "a")
        assert await CUPS.get(store, "1") == changed
        assert await found(store, size=5) == "1"


async def test_a_change_may_keep_the_time_of_the_last_one(database: Database) -> None:
    async with started(database) as store:
        (cup,) = await put(store, Cup(id="1", name="a"))
        async with store.tx() as tx:
            assert (await CUPS.change(tx, cup, size=5, updated_at="")).updated_at == ""


async def test_a_change_of_an_old_generation_is_stale_and_changes_nothing(
    database: Database,
) -> None:
    async with started(database) as store:
        (old,) = await put(store, Cup(id="1", name="a"))
        async with store.tx() as tx:
            new = await CUPS.change(tx, old, size=2)
        with pytest.raises(Stale, match="Cup 1 changed under this request"):
            async with store.tx() as tx:
                await CUPS.change(tx, old, size=3)
        assert await CUPS.get(store, "1") == new


async def test_a_deletion_of_an_old_generation_is_stale(database: Database) -> None:
    async with started(database) as store:
        (old,) = await put(store, Cup(id="1", name="a"))
        async with store.tx() as tx:
            await CUPS.change(tx, old, size=2)
        with pytest.raises(Stale, match="Cup 1 changed under this request"):
            async with store.tx() as tx:
                await CUPS.delete(tx, old)
        assert await CUPS.find(store, "1") is not None


async def test_a_deleted_row_is_gone_with_its_tags(database: Database) -> None:
    async with started(database) as store:
        (cup,) = await put(store, Cup(id="1", name="a", tags=["x"]))
        async with store.tx() as tx:
            await CUPS.delete(tx, cup)
        assert await CUPS.find(store, "1", deleted=None) is None
        await put(store, Cup(id="1", name="a", tags=["x"]))  # its side rows are not in the way


async def test_a_second_row_of_an_id_is_refused(database: Database) -> None:
    async with started(database) as store:
        await put(store, Cup(id="1", name="a"))
        with pytest.raises(Conflict, match="Cup 1 already exists"):
            await put(store, Cup(id="1", name="b"))


async def test_a_transaction_cannot_commit_after_a_refused_row(database: Database) -> None:
    """PostgreSQL answers such a COMMIT with ROLLBACK and no error: that must not pass for success."""
    async with started(database) as store:
        await put(store, Cup(id="1", name="a"))
        with pytest.raises(RuntimeError, match="after a refused statement"):
            async with store.tx() as tx:
                await CUPS.insert(tx, Cup(id="2", name="b"))
                with pytest.raises(Conflict):
                    await CUPS.insert(tx, Cup(id="1", name="c"))
        assert await found(store) == "1"
        await put(store, Cup(id="3", name="c"))


@pytest.mark.parametrize("verb", ["read", "write"])
async def test_a_transaction_cannot_go_on_after_a_refused_row(
    database: Database, verb: str
) -> None:
    async with started(database) as store:
        await put(store, Cup(id="1", name="a"))
        with pytest.raises(RuntimeError, match="after a refused statement"):
            async with store.tx() as tx:
                with pytest.raises(Conflict):
                    await CUPS.insert(tx, Cup(id="2", name="a"))
                if verb == "read":
                    await CUPS.find(tx, "1")
                else:
                    await CUPS.insert(tx, Cup(id="3", name="c"))
        assert await found(store) == "1"
        await put(store, Cup(id="4", name="d"))


async def test_live_rows_may_not_share_unique_columns_and_the_declaration_words_it(
    database: Database,
) -> None:
    async with started(database) as store:
        _, other = await put(store, Cup(id="1", name="a"), Cup(id="2", name="b"))
        await put(store, Cup(id="3", name="a", owner="o2"))
        with pytest.raises(Conflict, match="o1 has a cup a") as refused:
            await put(store, Cup(id="4", name="a"))
        assert refused.value.code == "cup.taken"
        with pytest.raises(Conflict, match="o1 has a cup a"):
            async with store.tx() as tx:
                await CUPS.change(tx, other, name="a")
        assert await found(store) == "123"


async def test_a_unique_index_may_have_a_longer_name_than_the_database_allows(
    database: Database,
) -> None:
    async with started(database) as store:
        await put(store, Cup(id="1", name="a", size=3), table=SAUCERS)
        await put(store, Cup(id="2", name="a", size=4), table=SAUCERS)
        with pytest.raises(Conflict, match="A saucer a of 4 is there"):
            await put(store, Cup(id="3", name="a", size=4), table=SAUCERS)


async def test_a_transaction_that_raises_leaves_nothing_and_others_unharmed(
    database: Database,
) -> None:
    async with started(database) as store:

        async def one(n: int) -> None:
            async with store.tx() as tx:
                await CUPS.insert(tx, Cup(id=str(n), name=f"n{n}", tags=["t"]))
                if n % 2:
                    raise ValueError(n)

        ends = await asyncio.gather(*(one(n) for n in range(8)), return_exceptions=True)
        assert [type(e) for e in ends] == [type(None), ValueError] * 4
        assert await found(store) == "0246"
        assert await found(store, tags=Match("any", ["t"])) == "0246"


async def test_of_many_who_change_one_generation_one_wins(database: Database) -> None:
    async with started(database) as store:
        (cup,) = await put(store, Cup(id="1", name="a", size=0))

        async def one(n: int) -> Cup:
            async with store.tx() as tx:
                return await CUPS.change(tx, cup, size=n)

        ends = await asyncio.gather(*(one(n) for n in range(1, 11)), return_exceptions=True)
        won = [e for e in ends if isinstance(e, Cup)]
        assert len(won) == 1 and sum(isinstance(e, Stale) for e in ends) == 9
        assert await CUPS.get(store, "1") == won[0]


async def test_a_transaction_reads_its_own_writes_and_others_only_committed_ones(
    database: Database,
) -> None:
    async with started(database) as store:
        async with store.tx() as tx:
            await CUPS.insert(tx, Cup(id="1", name="a"))
            assert await CUPS.find(tx, "1") is not None
            if database.kind == "sqlite":  # reads of the store do not suspend: they are allowed
                assert await CUPS.find(store, "1") is None
        assert await CUPS.find(store, "1") is not None


async def test_an_unwaited_commit_is_there_after_sync_and_kept_in_order(
    database: Database,
) -> None:
    async with started(database) as store:
        for n in range(3):
            async with store.tx(wait=False) as tx:
                await CUPS.insert(tx, Cup(id=str(n), name=f"n{n}"))
        await store.sync()
        assert await found(store) == "012"
        await store.sync()  # with nothing to wait for


async def test_a_waited_commit_carries_the_unwaited_ones_before_it(database: Database) -> None:
    async with started(database) as store:
        async with store.tx(wait=False) as tx:
            await CUPS.insert(tx, Cup(id="1", name="a"))
        async with store.tx() as tx:
            await CUPS.insert(tx, Cup(id="2", name="b"))
        assert await found(store) == "12"


async def test_every_commit_wakes_whoever_asked(database: Database) -> None:
    async with started(database) as store:
        woken: list[int] = []
        store.on_commit(lambda: woken.append(1))
        await put(store, Cup(id="1", name="a"))
        assert len(woken) == 1
        with pytest.raises(ValueError, match="no"):
            async with store.tx() as tx:
                raise ValueError("no")
        async with store.tx(wait=False) as tx:
            await CUPS.insert(tx, Cup(id="2", name="b"))
        await store.sync()
        assert len(woken) >= 2


async def test_what_was_committed_is_there_for_the_next_start(database: Database) -> None:
    async with started(database) as store:
        await put(store, Cup(id="1", name="a", tags=["x"]))
        async with store.tx(wait=False) as tx:
            await CUPS.insert(tx, Cup(id="2", name="b"))
    async with started(database) as store:
        assert await found(store) == "12"


async def test_a_lock_serialises_those_who_read_before_they_write(database: Database) -> None:
    async with started(database) as store:

        async def one(n: int) -> None:
            async with store.tx() as tx:
                await tx.lock("cups")
                if await CUPS.count(tx, Page()) < 3:
                    await CUPS.insert(tx, Cup(id=str(n), name=f"n{n}"))

        await asyncio.gather(*(one(n) for n in range(8)))
        assert await CUPS.count(store, Page()) == 3


# Tombstones


async def test_a_tombstone_can_be_asked_for_until_it_is_swept(database: Database) -> None:
    async with started(database) as store:
        dead, _ = await put(
            store, Cup(id="1", name="a", tags=["x"]), Cup(id="2", name="b"), table=GRAVES
        )
        async with store.tx() as tx:
            await GRAVES.delete(tx, dead)
            died = tx.now
        stone = await GRAVES.find(store, "1", deleted=True)
        assert stone is not None and stone.deleted_at == died and stone.generation == 2
        assert await GRAVES.find(store, "1", deleted=None) == stone
        assert await GRAVES.find(store, "1") is None
        with pytest.raises(NotFound):
            await GRAVES.get(store, "1")
        assert ids(await GRAVES.list(store, Page())) == ["2"]
        assert ids(await GRAVES.list(store, Page(deleted=True))) == ["1"]
        counts = [await GRAVES.count(store, Page(deleted=d)) for d in (None, False, True)]
        assert counts == [2, 1, 1]
        assert await GRAVES.find(store, "2", deleted=True) is None
        async with store.tx() as tx:
            assert await GRAVES.sweep(tx, died) == 0, "it is not older than itself"
            assert await GRAVES.sweep(tx, died + "~") == 1
        assert await GRAVES.find(store, "1", deleted=None) is None
        assert ids(await GRAVES.list(store, Page(deleted=None))) == ["2"]
        await put(store, Cup(id="1", name="c", tags=["x"]), table=GRAVES)


async def test_a_sweep_takes_the_oldest_tombstones_first_and_no_more_than_asked(
    database: Database,
) -> None:
    async with started(database) as store:
        for cup in await put(store, *(Cup(id=n, name=n, tags=["x"]) for n in "abcd"), table=GRAVES):
            async with store.tx() as tx:
                await GRAVES.delete(tx, cup)
        left = []
        for _ in range(3):
            async with store.tx() as tx:
                await GRAVES.sweep(tx, tx.now + "~", limit=3)
            left.append(sorted(ids(await GRAVES.list(store, Page(deleted=True)))))
        assert left == [["d"], [], []]
        await put(store, Cup(id="a", name="a", tags=["x"]), table=GRAVES)


async def test_a_tombstone_is_outside_uniqueness_and_cannot_be_deleted_twice(
    database: Database,
) -> None:
    async with started(database) as store:
        (dead,) = await put(store, Cup(id="1", name="a"), table=GRAVES)
        async with store.tx() as tx:
            await GRAVES.delete(tx, dead)
        await put(store, Cup(id="2", name="a"), table=GRAVES)
        with pytest.raises(Stale):
            async with store.tx() as tx:
                await GRAVES.delete(tx, dead)
        with pytest.raises(Conflict, match="a lies here"):
            await put(store, Cup(id="3", name="a"), table=GRAVES)


# Filters

SHELF = (
    Cup(id="1", name="ant", size=1, tags=["r", "g"], lid="tin"),
    Cup(id="2", name="bee", size=2, tags=["r"], owner="o2"),
    Cup(id="3", name="Bat", size=3, tags=["g", "b"], is_hot=True),
    Cup(id="4", name="b%t", size=4, owner="o3", lid=""),
)


FILTERS: list[tuple[dict[str, Any], str]] = [
    ({"name": "bee"}, "2"),
    ({"name": "BEE"}, ""),
    ({"name": ["bee", "ant", "nobody"]}, "12"),
    ({"name": []}, ""),
    ({"size": 3}, "3"),
    ({"size": [1, 4]}, "14"),
    ({"is_hot": True}, "3"),
    ({"is_hot": 0}, "124"),
    ({"is_hot": [True]}, "3"),
    ({"lid": ""}, "234"),
    ({"lid": "tin"}, "1"),
    ({"shout": "BAT"}, "3"),
    ({"owner": "o1", "size": 3}, "3"),
    ({"owner": "o1", "size": 2}, ""),
    ({"size": Match("eq", 2)}, "2"),
    ({"size": Match("ne", 2)}, "134"),
    ({"name": Match("ne", ["bee", "ant"])}, "34"),
    ({"size": Match("gt", 2)}, "34"),
    ({"size": Match("ge", 2)}, "234"),
    ({"size": Match("lt", 2)}, "1"),
    ({"size": Match("le", 2)}, "12"),
    ({"name": Match("gt", "Z")}, "124"),
    ({"name": Match("regex", "^b.t$")}, "4"),
    ({"name": Match("regex", "e+")}, "2"),
    ({"name": Match("prefix", "b%")}, "4"),
    ({"name": Match("prefix", "b")}, "24"),
    ({"name": Match("prefix", "")}, "1234"),
    ({"tags": "r"}, "12"),
    ({"tags": Match("any", ["r", "b"])}, "123"),
    ({"tags": Match("any", [])}, ""),
    ({"tags": Match("all", ["r", "g"])}, "1"),
    ({"tags": Match("all", ["g", "g"])}, "13"),
    ({"tags": Match("all", ["g"])}, "13"),
    ({"tags": Match("not_any", ["r", "b"])}, "4"),
    ({"tags": Match("not_any", ["b"])}, "124"),
    ({"tags": Match("not_all", ["r", "g"])}, "234"),
    ({"tags": Match("not_all", ["g"])}, "24"),
    ({"id": ["1", "2", "9"]}, "12"),
]


async def test_filters_pick_rows(database: Database) -> None:
    async with started(database) as store:
        await put(store, *SHELF)
        for filters, answer in FILTERS:
            assert await found(store, **filters) == answer, filters


async def test_a_regular_expression_the_database_cannot_read_is_invalid(
    database: Database,
) -> None:
    async with started(database) as store:
        await put(store, *SHELF)
        try:
            assert await found(store, name=Match("regex", "(?P<x>b)")) in ("2", "24")
        except Invalid as refused:
            assert "regular expression" in refused.message


async def test_changed_tags_are_found_and_dropped_ones_not(database: Database) -> None:
    async with started(database) as store:
        cup, *_ = await put(store, *SHELF)
        async with store.tx() as tx:
            cup = await CUPS.change(tx, cup, tags=["g", "new", "new"])
        assert await found(store, tags="r") == "2"
        assert await found(store, tags="g") == "13"
        assert await found(store, tags="new") == "1"
        async with store.tx() as tx:
            await CUPS.change(tx, cup, tags=[])
        assert await found(store, tags=Match("any", ["r", "g", "new"])) == "23"


async def test_scopes_are_alternatives_that_filters_cannot_widen(database: Database) -> None:
    async with started(database) as store:
        await put(store, *SHELF)

        async def seen(*scopes: dict[str, Any], **filters: Any) -> str:
            page = Page(filters, (("id", False),), scopes=scopes)
            listed = await CUPS.list(store, page)
            assert await CUPS.count(store, page) == len(listed)
            return "".join(c.id for c in listed)

        assert await seen({"owner": "o2"}, {"is_hot": 1}) == "23"
        assert await seen({"owner": "o2"}, {"is_hot": 1}, owner="o1") == "3"
        assert await seen({"owner": "o2", "size": 9}, {"tags": Match("any", ["b"])}) == "3"
        assert await seen({"owner": ["o2", "o3"]}, size=Match("gt", 2)) == "4"
        assert await seen({}) == "1234"


async def test_one_and_all_read_live_rows_oldest_first(database: Database) -> None:
    async with started(database) as store:
        await put(store, Cup(id="2", name="a"), Cup(id="1", name="b"))
        assert ids(await CUPS.all(store, owner="o1")) == ["1", "2"], "one time, then by id"
        await put(store, Cup(id="0", name="c"))
        assert ids(await CUPS.all(store)) == ["1", "2", "0"]
        first = await CUPS.one(store, owner="o1")
        assert first is not None and first.id == "0", "the default order is newest first"
        assert await CUPS.one(store, owner="nobody") is None


# Pages

COLUMNS = ("name", "size", "owner")


def mixes() -> list[tuple[tuple[str, bool], ...]]:
    """Every one or two columns in every direction, with the id as the tie-break in both."""
    found: list[tuple[tuple[str, bool], ...]] = []
    for n in (1, 2):
        for columns in itertools.permutations(COLUMNS, n):
            for downs in itertools.product((False, True), repeat=n + 1):
                found.append(tuple(zip((*columns, "id"), downs, strict=True)))
    return found


async def test_pages_cover_every_row_once_in_all_mixes_of_sorts_and_backwards(
    database: Database,
) -> None:
    many = [
        Cup(id=f"{n:02}", name=f"n{n}", size=n % 3, owner=f"o{n % 2}", lid=None) for n in range(13)
    ]
    async with started(database) as store:
        await put(store, *many)
        for sorts in mixes():
            wanted = many
            for column, down in reversed(sorts):
                wanted = sorted(wanted, key=lambda c: getattr(c, column), reverse=down)
            seen: list[str] = []
            while page := await CUPS.list(
                store, Page(sorts=sorts, limit=5, marker=seen[-1] if seen else "")
            ):
                assert len(page) <= 5
                seen += ids(page)
            assert seen == ids(wanted), sorts
            back = await CUPS.list(store, Page(sorts=sorts, limit=4, marker=seen[9], reverse=True))
            assert ids(back) == seen[5:9], f"the four before the marker, in order: {sorts}"


async def test_a_marker_keeps_its_place_with_filters_and_scopes(database: Database) -> None:
    async with started(database) as store:
        await put(store, *(Cup(id=str(n), name=f"n{n}", owner=f"o{n % 2}") for n in range(8)))
        by_id = (("id", False),)
        assert ids(await CUPS.list(store, Page({"owner": "o1"}, by_id, marker="3"))) == ["5", "7"]
        page = Page({}, by_id, marker="3", scopes=({"owner": "o0"},), limit=1)
        assert ids(await CUPS.list(store, page)) == ["4"]


async def test_an_unknown_marker_is_not_found(database: Database) -> None:
    async with started(database) as store:
        with pytest.raises(NotFound, match=r"marker \[nobody\] not found"):
            await CUPS.list(store, Page(marker="nobody"))


async def test_a_page_may_select_columns_only(database: Database) -> None:
    async with started(database) as store:
        await put(store, *SHELF)
        rows = await CUPS.page(
            store, Page({"size": Match("le", 2)}, (("id", True),)), select=("id", "shout")
        )
        assert [tuple(r) for r in rows] == [("2", "BEE"), ("1", "ANT")]


async def test_text_sorts_by_its_bytes_on_both_databases(database: Database) -> None:
    names = ["b", "A", "a", "B", "é", "Z", "", "_"]
    async with started(database) as store:
        await put(store, *(Cup(id=str(n), name=name) for n, name in enumerate(names)))
        listed = await CUPS.list(store, Page(sorts=(("name", False), ("id", False))))
        assert [c.name for c in listed] == sorted(names, key=str.encode)


# Shape


async def test_a_column_declared_later_is_filled_from_the_documents(database: Database) -> None:
    async with started(database) as store:
        await put(store, *SHELF)
    await _run_sql(
        database,
        [
            "DROP INDEX uq_test_cups_owner_name",
            'ALTER TABLE test_cups DROP COLUMN "shout"',
            'ALTER TABLE test_cups DROP COLUMN "size"',
            'ALTER TABLE test_cups DROP COLUMN "name"',
        ],
    )
    async with started(database) as store:
        assert await found(store, shout="BEE", size=2, name="bee") == "2"
        assert await found(store, size=Match("gt", 0)) == "1234"
        with pytest.raises(Conflict, match="o1 has a cup ant"):
            await put(store, Cup(id="9", name="ant"))


async def test_an_index_that_is_no_longer_declared_goes(database: Database) -> None:
    async with started(database):
        pass
    old = "CREATE INDEX ix_test_cups_size ON test_cups (size)"
    await _run_sql(database, [old])
    async with started(database) as store:
        await put(store, *SHELF)
    await _run_sql(database, [old])


async def _run_sql(database: Database, statements: list[str]) -> None:
    if isinstance(database, SqliteDatabase):
        with sqlite3.connect(database.path) as c:
            for text in statements:
                c.execute(text)
        c.close()
    if isinstance(database, PostgresDatabase):
        store: Any = await database.store()
        p = await asyncpg.connect(store.url)
        for text in statements:
            await p.execute(text)
        await p.close()


def test_no_column_of_the_kernels_tables_may_be_null() -> None:
    assert [c for t in METADATA.sorted_tables for c in t.c if c.nullable] == []

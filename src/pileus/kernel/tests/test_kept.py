"""Documents that SQLite's store remembers: never older than the last commit, never more than so many."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pileus.kernel import store as store_module
from pileus.kernel.faults import NotFound
from pileus.kernel.sqlite import SqliteStore
from pileus.kernel.tests.test_sqlite import opened
from pileus.kernel.tests.test_store import CUPS, GRAVES, Cup, put


async def reads(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that it runs from now on."""
    seen: list[str] = []
    rows = store.rows

    async def noted(sql: store_module.Sql, values: dict[str, object]) -> object:
        seen.append(sql.text)
        return await rows(sql, values)

    monkeypatch.setattr(store, "rows", noted)
    return seen


async def test_a_row_is_read_once_and_again_after_a_commit_that_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as store:
        one, two = await put(store, Cup(id="c1", name="a"), Cup(id="c2", name="b"))
        seen = await reads(store, monkeypatch)
        for _ in range(3):
            assert (await CUPS.get(store, one.id)).name == "a"
            assert (await CUPS.get(store, two.id)).name == "b"
        assert len(seen) == 2
        async with store.tx() as tx:
            await CUPS.change(tx, one, name="c")
        assert (await CUPS.get(store, one.id)).name == "c"
        assert (await CUPS.get(store, two.id)).name == "b"
        assert len(seen) == 3


async def test_a_transaction_reads_its_own_writes_and_others_the_committed_row(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as store:
        (cup,) = await put(store, Cup(id="c1", name="a"))
        await CUPS.get(store, cup.id)
        async with store.tx() as tx:
            await CUPS.change(tx, cup, name="b")
            assert (await CUPS.get(tx, cup.id)).name == "b"
        assert (await CUPS.get(store, cup.id)).name == "b"


async def test_what_was_undone_is_not_remembered(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        (cup,) = await put(store, Cup(id="c1", name="a"))
        await CUPS.get(store, cup.id)
        with pytest.raises(ZeroDivisionError):
            async with store.tx() as tx:
                await CUPS.change(tx, cup, name="b")
                raise ZeroDivisionError
        assert (await CUPS.get(store, cup.id)).name == "a"


@pytest.mark.parametrize("table", [CUPS, GRAVES])
async def test_a_deleted_row_is_gone_at_once(
    tmp_path: Path, table: store_module.Table[Cup]
) -> None:
    async with opened(tmp_path) as store:
        (cup,) = await put(store, Cup(id="c1", name="a"), table=table)
        await table.get(store, cup.id)
        async with store.tx() as tx:
            await table.delete(tx, cup)
        with pytest.raises(NotFound):
            await table.get(store, cup.id)
        stone = await table.find(store, cup.id, deleted=None)
        assert (stone is not None) == bool(table.tombstone_s)
        async with store.tx() as tx:
            swept = await table.sweep(tx, "9") if table.tombstone_s else 0
        assert swept == (1 if table.tombstone_s else 0)
        assert await table.find(store, cup.id, deleted=None) is None


async def test_two_who_read_the_same_row_share_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await put(store, Cup(id="c1", name="a", tags=["blue"]))
        (await CUPS.get(store, "c1")).tags.append("broken")
        assert (await CUPS.get(store, "c1")).tags == ["blue"]


async def test_only_so_many_and_none_that_is_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_KEPT", 3)
    monkeypatch.setattr(store_module, "_LONGEST", 300)
    async with opened(tmp_path) as store:
        cups = await put(store, *(Cup(id=f"c{n}", name=f"n{n}") for n in range(5)))
        await put(store, msgspec.structs.replace(cups[0], id="long", name="x" * 300))
        for cup in [*cups, *cups]:
            assert (await CUPS.get(store, cup.id)).name == cup.name
        assert (await CUPS.get(store, "long")).name == "x" * 300
        assert list(store.kept) == [("test_cups", f"c{n}") for n in (2, 3, 4)]

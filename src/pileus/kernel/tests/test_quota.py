"""Quotas on both databases: usage moves with the rows, and the limit holds when many ask at once."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from pileus.kernel import quota
from pileus.kernel.faults import OverQuota
from pileus.kernel.quota import DEFAULTS, Quota
from pileus.kernel.store import Record, Store, Table
from pileus.kernel.tests.databases import Database, started


class Crate(Record, kw_only=True, frozen=True):
    project_id: str = "p"
    size: int = 1


CRATES = Table(
    "test_crates",
    Crate,
    columns=("project_id",),
    quotas=(
        Quota("dock", "crates", 10),
        Quota("dock", "tons", 100, lambda c: c.size),
        Quota("dock", "all", project=lambda c: "everybody"),
    ),
)
KEPT = Table("test_kept", Crate, quotas=(Quota("dock", "kept", 1),), tombstone_s=60)


async def put(store: Store, *crates: Crate, table: Table[Crate] = CRATES) -> list[Crate]:
    async with store.tx() as tx:
        return [await table.insert(tx, c) for c in crates]


async def used(store: Store, project: str = "p") -> dict[str, int]:
    return await quota.usage(store, "dock", project)


async def test_usage_follows_inserts_changes_and_deletions(database: Database) -> None:
    async with started(database) as store:
        crate, _ = await put(store, Crate(id="1", size=5), Crate(id="2", size=7))
        assert await used(store) == {"crates": 2, "tons": 12}
        async with store.tx() as tx:
            crate = await CRATES.change(tx, crate, size=2)
        assert await used(store) == {"crates": 2, "tons": 9}
        async with store.tx() as tx:
            await CRATES.delete(tx, crate)
        assert await used(store) == {"crates": 1, "tons": 7}
        assert await used(store, "everybody") == {"all": 1}


async def test_a_row_that_moves_to_another_project_moves_its_usage(database: Database) -> None:
    async with started(database) as store:
        (crate,) = await put(store, Crate(id="1", size=5))
        async with store.tx() as tx:
            await CRATES.change(tx, crate, project_id="q", size=6)
        assert await used(store) == {"crates": 0, "tons": 0}
        assert await used(store, "q") == {"crates": 1, "tons": 6}


async def test_a_transaction_undone_undoes_its_usage(database: Database) -> None:
    async with started(database) as store:
        with pytest.raises(ValueError, match="no"):
            async with store.tx() as tx:
                await CRATES.insert(tx, Crate(id="1"))
                raise ValueError("no")
        assert await used(store) == {}


async def test_a_tombstone_costs_nothing(database: Database) -> None:
    async with started(database) as store:
        (crate,) = await put(store, Crate(id="1"), table=KEPT)
        async with store.tx() as tx:
            await KEPT.delete(tx, crate)
        assert (await used(store))["kept"] == 0
        await put(store, Crate(id="2"), table=KEPT)


async def test_over_the_limit_says_what_was_asked_and_used_and_writes_nothing(
    database: Database,
) -> None:
    async with started(database) as store:
        (crate,) = await put(store, Crate(id="1", size=90))
        with pytest.raises(OverQuota) as refused:
            await put(store, Crate(id="2", size=11))
        e = refused.value
        assert (e.resource, e.asked, e.used, e.limit) == ("tons", 11, 90, 100)
        with pytest.raises(OverQuota):
            async with store.tx() as tx:
                await CRATES.change(tx, crate, size=101)
        assert await used(store) == {"crates": 1, "tons": 90}
        async with store.tx() as tx:  # to the limit exactly, and down again
            crate = await CRATES.change(tx, crate, size=100)
            await CRATES.change(tx, crate, size=1)


async def test_the_projects_limit_goes_before_the_operators_and_that_before_the_declared(
    database: Database,
) -> None:
    async with started(database) as store:

        async def limit(project: str = "p") -> int:
            return await quota.limit_of(store, "dock", "crates", project, 10)

        assert await limit() == 10
        async with store.tx() as tx:
            await quota.set_limits(tx, "dock", DEFAULTS, {"crates": 5})
        assert await limit() == 5
        async with store.tx() as tx:
            await quota.set_limits(tx, "dock", "p", {"crates": 2, "tons": 9})
            await quota.set_limits(tx, "dock", "p", {"crates": 3})
        assert (await limit(), await limit("q")) == (3, 5)
        assert await quota.limits(store, "dock", "p") == {"crates": 3, "tons": 9}
        assert await quota.limits(store, "dock", DEFAULTS) == {"crates": 5}
        assert await quota.limits(store, "shipyard", "p") == {}
        async with store.tx() as tx:
            await quota.clear_limits(tx, "dock", "p")
        assert await limit() == 5 and await quota.limits(store, "dock", "p") == {}


async def test_a_limit_or_a_usage_of_one_service_is_not_anothers(database: Database) -> None:
    async with started(database) as store:
        async with store.tx() as tx:
            await quota.set_limits(tx, "shipyard", "p", {"crates": 0})
            await quota.set_limits(tx, "dock", "p", {"tons": 7})
            await quota.add_usage(tx, "shipyard", "crates", "p", 99)
        await put(store, Crate(id="1"))
        assert await used(store) == {"crates": 1, "tons": 1}
        assert await quota.limit_of(store, "dock", "crates", "p", 10) == 10
        assert await quota.limit_of(store, "dock", "tons", "q", 100) == 100
        async with store.tx() as tx:
            await quota.clear_limits(tx, "dock", "p")
        assert await quota.limits(store, "shipyard", "p") == {"crates": 0}


async def test_the_last_free_unit_can_be_used_and_not_one_more(database: Database) -> None:
    async with started(database) as store:
        (crate,) = await put(store, Crate(id="1", size=99))
        (one,) = await put(store, Crate(id="2", size=1))
        for old in (crate, one):
            with pytest.raises(OverQuota) as refused:
                async with store.tx() as tx:
                    await CRATES.change(tx, old, size=old.size + 1)
            assert (refused.value.asked, refused.value.used) == (1, 100)


@pytest.mark.parametrize(("limit", "fit"), [(0, 0), (1, 1), (-1, 15)])
async def test_zero_means_none_and_minus_one_no_limit(
    database: Database, limit: int, fit: int
) -> None:
    async with started(database) as store:
        async with store.tx() as tx:
            await quota.set_limits(tx, "dock", "p", {"crates": limit})
        ends = [await _tried(store, str(n)) for n in range(15)]
        assert ends.count("") == fit


async def test_less_may_always_be_used_also_above_a_limit_that_sank(database: Database) -> None:
    async with started(database) as store:
        (crate,) = await put(store, Crate(id="1", size=50))
        async with store.tx() as tx:
            await quota.set_limits(tx, "dock", "p", {"tons": 10})
        async with store.tx() as tx:
            crate = await CRATES.change(tx, crate, size=40)
            await CRATES.change(tx, crate, size=40)
        assert (await used(store))["tons"] == 40


async def test_of_fifty_creates_at_once_ten_fit(database: Database) -> None:
    async with started(database) as store, _another(database, store) as other:
        creates = (_tried(store if n % 2 else other, str(n)) for n in range(50))
        ends = await asyncio.gather(*creates)
        assert ends.count("") == 10 and ends.count("OverQuota") == 40
        assert (await used(store))["crates"] == len(await CRATES.all(store)) == 10


def _another(database: Database, store: Store) -> Any:
    """A second control's store where there can be one."""
    return started(database) if store.shared else _Same(store)


class _Same(msgspec.Struct):
    store: Any

    async def __aenter__(self) -> Any:
        return self.store

    async def __aexit__(self, *error: object) -> None:
        """It is closed by whoever opened it."""


async def _tried(store: Store, id: str) -> str:
    try:
        await put(store, Crate(id=id))
    except OverQuota as e:
        return type(e).__name__
    return ""

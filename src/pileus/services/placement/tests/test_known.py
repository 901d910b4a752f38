"""Providers in memory: never stale, never too many."""

from __future__ import annotations

import pytest

from pileus.kernel.faults import Stale
from pileus.kernel.store import Page, Reader, Tx
from pileus.services.placement import SERVICE
from pileus.services.placement.fit import Stock
from pileus.services.placement.known import Known
from pileus.services.placement.providers import PROVIDERS, ResourceProvider, revise
from pileus.testing.alone import alone, in_loop

OLDEST = Page(sorts=(("created_at", False), ("id", False)))


async def made(tx: Tx, *names: str) -> list[ResourceProvider]:
    return [
        await PROVIDERS.insert(tx, ResourceProvider(id=n, name=n, root_id=n)) for n in sorted(names)
    ]


async def seen(known: Known, db: Reader) -> list[ResourceProvider]:
    found = [p async for some in known.slices(db, PROVIDERS, OLDEST, 2) for p in some]
    assert found == await PROVIDERS.all(db), "memory and the table say the same"
    return found


@in_loop
async def test_what_changed_is_decoded_anew_and_the_rest_is_the_same_object() -> None:
    async with alone(SERVICE) as cloud:
        known, store = Known(), cloud.runtime.store
        async with store.tx() as tx:
            await made(tx, *"abcde")
        before = await seen(known, store)
        async with store.tx() as tx:
            await revise(tx, before[1], inventories={"VCPU": Stock(total=4)})
        after = await seen(known, store)
        assert [a is b for a, b in zip(after, before, strict=True)] == [1, 0, 1, 1, 1]


@in_loop
async def test_one_made_again_under_its_id_is_not_taken_for_the_one_before() -> None:
    async with alone(SERVICE) as cloud:
        known, store = Known(), cloud.runtime.store
        async with store.tx() as tx:
            (first,) = await made(tx, "a")
        await seen(known, store)
        async with store.tx() as tx:
            await PROVIDERS.delete(tx, first)
            await PROVIDERS.insert(tx, ResourceProvider(id="a", name="other", root_id="a"))
        (again,) = await seen(known, store)
        assert again.generation == first.generation and again.name == "other"


@in_loop
async def test_no_more_are_remembered_than_is_allowed_and_all_are_found() -> None:
    async with alone(SERVICE) as cloud:
        known, store = Known(most=3), cloud.runtime.store
        async with store.tx() as tx:
            await made(tx, *"abcdefg")
        for _ in range(2):
            assert [p.id for p in await seen(known, store)] == list("abcdefg")
            assert len(known) == 3


@in_loop
async def test_a_search_whose_place_was_deleted_is_begun_again() -> None:
    async with alone(SERVICE) as cloud:
        store = cloud.runtime.store
        async with store.tx() as tx:
            _, second, _ = await made(tx, *"abc")
        slices = Known().slices(store, PROVIDERS, OLDEST, 2)
        assert [p.id for p in await anext(slices)] == ["a", "b"]
        async with store.tx() as tx:
            await PROVIDERS.delete(tx, second)
        with pytest.raises(Stale):
            await anext(slices)


@in_loop
async def test_an_order_that_changes_while_it_is_read_leaves_nobody_out() -> None:
    async with alone(SERVICE) as cloud:
        store = cloud.runtime.store
        stock = {"MEMORY_MB": Stock(total=100)}
        async with store.tx() as tx:
            for one in await made(tx, *"abcdefghij"):
                await PROVIDERS.change(tx, one, inventories=stock)
        emptiest = Page(sorts=(("memory_room", True), ("id", True)))
        found: list[str] = []
        async for some in Known().ranked(store, PROVIDERS, emptiest, 2):
            found += [p.id for p in some]
            async with store.tx() as tx:  # the last one is no longer where it was
                last = await PROVIDERS.get(tx, some[-1].id)
                used = {"MEMORY_MB": Stock(total=100, used=90)}
                await PROVIDERS.change(tx, last, inventories=used)
        assert sorted(found) == list("abcdefghij")

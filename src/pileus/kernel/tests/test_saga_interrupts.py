"""Undos that fail, and requests that take the place of what is under way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pileus.kernel.faults import Conflict, Stale, Unavailable
from pileus.kernel.runtime import Runtime
from pileus.kernel.sagas import JOURNAL, Journal, Run
from pileus.kernel.tests.saga_bench import (
    NOTHING,
    Patch,
    Toy,
    begin,
    failed,
    hanging,
    in_simulation,
    instead,
    made,
    on,
    thing,
    until_it_hangs,
)
from pileus.kernel.tests.toy import CREATE, DELETE, GROW, THINGS, Thing

# Undos that fail


@in_simulation
async def test_an_undo_that_fails_a_few_times_is_tried_again(t: Toy) -> None:
    t.ground.broken |= {"build", "tear_down"}
    async with on(t) as (r, _):
        await begin(r, CREATE, thing())
        await asyncio.sleep(2)
        t.ground.broken.discard("tear_down")
        await r.sagas.settled()
    assert await t.all_held() == failed("t1")
    assert 2 <= t.ground.calls.count("tear_down") <= 5


async def parked(t: Toy, r: Runtime, id: str = "t1") -> Journal:
    """A create whose undo failed for good."""
    t.ground.broken |= {"build", "tear_down"}
    await begin(r, CREATE, thing(id))
    await r.sagas.settled()
    await r.store.sync()
    (entry,) = await r.sagas.parked()
    t.ground.broken.clear()
    return entry


@in_simulation
async def test_an_undo_that_fails_for_good_is_parked_with_its_step_and_the_record_told(
    t: Toy,
) -> None:
    async with on(t) as (r, _):
        entry = await parked(t, r)
        assert (entry.parked, entry.step, entry.record_id) == ("build", 1, "t1")
        assert t.ground.calls.count("tear_down") == 5
        one = await THINGS.get(r.store, "t1")
        assert one.status == "error" and "internal error" in one.fault
        assert await r.sagas.adopt(frozenset({r.sagas.me})) == 0, "nobody tries for ever"
        assert t.ground.held == {"t1"}, "earlier steps are undone after it, not before"


@in_simulation
async def test_a_delete_cleans_up_what_was_parked(t: Toy) -> None:
    async with on(t) as (r, _):
        await parked(t, r)
        await begin(r, DELETE, await THINGS.get(r.store, "t1"))
        await r.sagas.settled()
        await r.store.sync()
        assert await r.sagas.parked() == []
    assert await t.all_held() == NOTHING


@in_simulation
async def test_other_verbs_wait_until_the_parked_is_cleaned_up(t: Toy) -> None:
    async with on(t) as (r, _):
        await parked(t, r)
        one = await THINGS.get(r.store, "t1")
        async with r.store.tx() as tx:
            one = await THINGS.change(tx, one, status="available")  # an administrator's reset
        with pytest.raises(Conflict, match="Cannot 'grow' t1 while another operation"):
            await begin(r, GROW, one, becoming=one)


# Interrupts


@pytest.mark.parametrize("at", range(2))
@pytest.mark.parametrize("after", [False, True], ids=["before its effect", "after it"])
@in_simulation
async def test_a_delete_during_a_create_undoes_it_first(t: Toy, at: int, after: bool) -> None:
    patch = Patch()
    async with on(t) as (r, _):
        reached = hanging(patch, CREATE, at, after=after, undo=False)
        await begin(r, CREATE, thing())
        await until_it_hangs(r, reached)
        patch.undo()
        busy = await begin(r, DELETE, await THINGS.get(r.store, "t1"))
        assert busy.status == "deleting"
        began = r.world.clock.monotonic()
        await r.sagas.settled()
        assert r.world.clock.monotonic() - began < 0.5, "it was told, and did not have to look"
    assert await t.all_held() == NOTHING
    kinds = await t.kinds()
    assert kinds.index("toy.create.error") < kinds.index("toy.delete.end")
    undone = t.ground.calls.index("let_go")
    assert t.ground.calls[undone + 1 :] == ["tear_down", "let_go"], "undo first, then the delete"


@in_simulation
async def test_a_delete_at_any_moment_of_a_create_wins(t: Toy) -> None:
    async with on(t) as (r, _):
        for n in range(12):
            id = f"t{n}"
            await begin(r, CREATE, thing(id))
            await asyncio.sleep(r.world.random.uniform(0, 0.02))
            while True:
                try:
                    await begin(r, DELETE, await THINGS.get(r.store, id))
                    break
                except Stale:
                    await r.store.sync()
            await r.sagas.settled()
    assert await t.all_held() == NOTHING


@in_simulation
async def test_a_delete_does_not_wait_out_the_patience_with_a_lost_host(t: Toy) -> None:
    async def away(run: Run[Thing]) -> None:
        raise Unavailable("the host is away")

    patch = Patch()
    async with on(t) as (r, _):
        instead(patch, CREATE, 1, away, patience_s=10_000)
        await begin(r, CREATE, thing())
        await asyncio.sleep(100)
        patch.undo()
        before = r.world.clock.monotonic()
        await begin(r, DELETE, await THINGS.get(r.store, "t1"))
        await r.sagas.settled()
        assert r.world.clock.monotonic() - before < 2
    assert await t.all_held() == NOTHING


@in_simulation
async def test_a_delete_goes_on_when_the_undo_it_waits_for_fails_for_good(t: Toy) -> None:
    patch = Patch()
    async with on(t) as (r, _):
        reached = hanging(patch, CREATE, 1, after=True, undo=False)
        await begin(r, CREATE, thing())
        await until_it_hangs(r, reached)
        t.ground.broken.add("tear_down")
        await begin(r, DELETE, await THINGS.get(r.store, "t1"))
        while t.ground.calls.count("tear_down") < 5:
            await t.world.clock.sleep(0.1)
        t.ground.broken.clear()
        async with asyncio.timeout(60):
            await r.sagas.settled()
        patch.undo()
    assert await t.all_held() == NOTHING


@in_simulation
async def test_a_delete_whose_control_dies_while_it_waits_is_taken_up(t: Toy) -> None:
    patch = Patch()
    async with on(t) as (r, _):
        reached = hanging(patch, CREATE, 1, after=True, undo=False)
        undoing = hanging(patch, CREATE, 0, after=False, undo=True)
        await begin(r, CREATE, thing())
        await until_it_hangs(r, reached)
        await begin(r, DELETE, await THINGS.get(r.store, "t1"))
        await until_it_hangs(r, undoing)
    patch.undo()
    async with on(t) as (r, _):
        await r.sagas.settled()
    assert await t.all_held() == NOTHING


@in_simulation
async def test_a_delete_on_another_control_tells_the_one_that_creates(t: Toy) -> None:
    patch, go, reached = Patch(), asyncio.Event(), asyncio.Event()
    inner = CREATE.steps[0].do

    async def slow(run: Run[Thing]) -> Any:
        reached.set()
        await go.wait()
        return await inner(run)

    async with on(t) as (a, _), on(t) as (b, _):
        instead(patch, CREATE, 0, slow)
        await begin(a, CREATE, thing())
        await until_it_hangs(a, reached)
        patch.undo()
        await begin(b, DELETE, await THINGS.get(b.store, "t1"))
        go.set()
        await asyncio.gather(a.sagas.settled(), b.sagas.settled())
    assert await t.all_held() == NOTHING


@in_simulation
async def test_a_second_delete_is_told_that_one_is_under_way(t: Toy) -> None:
    patch = Patch()
    async with on(t) as (r, _):
        reached = hanging(patch, DELETE, 0, after=False, undo=False)
        one = await made(r)
        await begin(r, DELETE, one)
        await until_it_hangs(r, reached)
        with pytest.raises(Conflict, match="'delete' of t1 is already under way"):
            await begin(r, DELETE, await THINGS.get(r.store, "t1"))
        patch.undo()


@in_simulation
async def test_a_verb_that_does_not_interrupt_is_refused_meanwhile(t: Toy) -> None:
    patch = Patch()
    async with on(t) as (r, _):
        one = await made(r)
        reached = hanging(patch, GROW, 0, after=False, undo=False)
        await begin(r, GROW, one, becoming=one)
        await until_it_hangs(r, reached)
        busy = await THINGS.get(r.store, "t1")
        with pytest.raises(Conflict, match="Cannot 'grow' t1 while it is in status growing"):
            await begin(r, GROW, busy, becoming=busy)
        with pytest.raises(Stale):  # who has not seen what is under way: he may wait for its end
            await begin(r, GROW, one, becoming=one)
        patch.undo()


@in_simulation
async def test_whoever_waits_for_a_saga_hears_of_its_end_and_of_its_parking(t: Toy) -> None:
    async with on(t) as (r, _):
        assert await r.sagas.over("nobody") is None
        patch = Patch()
        reached = hanging(patch, CREATE, 0, after=False, undo=False)
        await begin(r, CREATE, thing())
        await until_it_hangs(r, reached)
        (entry,) = await JOURNAL.all(r.store)
        waiting = [asyncio.create_task(r.sagas.over(entry.id)) for _ in range(2)]
        await asyncio.sleep(5)
        assert not any(w.done() for w in waiting)
        patch.undo()
        await begin(r, DELETE, await THINGS.get(r.store, "t1"))
        assert await asyncio.gather(*waiting) == [None, None]
        await r.sagas.settled()
        owing = await parked(t, r, "t2")
        found = await r.sagas.over(owing.id)
        assert found is not None and found.parked == "build"
        assert not r.sagas._ended, "nothing is remembered of those who waited"

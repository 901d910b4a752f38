"""A control may die in any step of a saga, and of its undo: another goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from pileus.kernel import quota
from pileus.kernel.faults import Conflict
from pileus.kernel.sagas import JOURNAL, Run, Saga
from pileus.kernel.tests.databases import Database, started
from pileus.kernel.tests.saga_bench import (
    NOTHING,
    Patch,
    Toy,
    begin,
    failed,
    hanging,
    healthy,
    in_simulation,
    instead,
    made,
    on,
    thing,
    until_it_hangs,
)
from pileus.kernel.tests.toy import CREATE, DELETE, GROW, THINGS, Ground, Thing


@pytest.mark.parametrize("after", [False, True], ids=["before its effect", "after it"])
@pytest.mark.parametrize(
    ("saga", "at"), [(CREATE, 0), (CREATE, 1), (GROW, 0), (DELETE, 0), (DELETE, 1)],
    ids=lambda x: x.verb if isinstance(x, Saga) else str(x),
)  # fmt: skip
@in_simulation
async def test_a_control_that_dies_in_a_step_is_followed_by_one_that_goes_on(
    t: Toy, saga: Saga[Any], at: int, after: bool
) -> None:
    patch = Patch()
    async with on(t) as (r, _):
        one = thing() if saga is CREATE else await made(r)
        reached = hanging(patch, saga, at, after=after, undo=False)
        becoming = msgspec.structs.replace(one, size=8) if saga is GROW else None
        await begin(r, saga, one, becoming=becoming)
        await until_it_hangs(r, reached)
    patch.undo()
    (left,) = await JOURNAL.all(t.store)
    assert (left.step, left.attempt, left.undoing) == (at, 1, False)
    if saga is GROW:
        assert (await quota.usage(t.store, "toy", "p1"))["gigabytes"] == 8, "reserved"
    async with on(t) as (r, _):
        assert r.sagas.running == 1
        (taken,) = await JOURNAL.all(t.store)
        assert (taken.owner, taken.attempt) == (r.sagas.me, 2)
        await r.sagas.settled()
    ends = {CREATE: healthy("t1"), GROW: healthy("t1", size=8), DELETE: NOTHING}
    assert await t.all_held() == ends[saga]


@pytest.mark.parametrize("at", range(2))
@pytest.mark.parametrize("after", [False, True], ids=["before its effect", "after it"])
@in_simulation
async def test_a_control_that_dies_in_an_undo_is_followed_by_one_that_goes_on(
    t: Toy, at: int, after: bool
) -> None:
    patch = Patch()
    t.ground.broken.add("build")
    reached = hanging(patch, CREATE, at, after=after, undo=True)
    async with on(t) as (r, _):
        await begin(r, CREATE, thing())
        await until_it_hangs(r, reached)
    patch.undo()
    (left,) = await JOURNAL.all(t.store)
    assert (left.step, left.undoing) == (at, True) and "internal error" in left.error
    t.ground.broken.clear()
    async with on(t) as (r, _):
        await r.sagas.settled()
    assert await t.all_held() == failed("t1"), "a saga that turned back does not turn again"
    assert "internal error" in (await THINGS.get(t.store, "t1")).fault


@in_simulation
async def test_a_control_that_dies_between_commit_and_launch_loses_nothing(t: Toy) -> None:
    async with on(t) as (r, _), r.store.tx() as tx:
        await r.sagas.begin(tx, CREATE, thing())
    async with on(t) as (r, _):
        await r.sagas.settled()
    assert await t.all_held() == healthy("t1")


@in_simulation
async def test_a_step_that_is_stopped_with_the_control_is_not_a_failure(t: Toy) -> None:
    patch = Patch()
    reached = hanging(patch, CREATE, 0, after=False, undo=False)
    async with on(t) as (r, _):
        await begin(r, CREATE, thing())
        await until_it_hangs(r, reached)
        await r.sagas.stop()
        r.sagas.launch(*await JOURNAL.all(r.store))
        assert r.sagas.running == 0, "a control that stops begins nothing"
    patch.undo()
    assert (await THINGS.get(t.store, "t1")).status == "creating"
    assert "let_go" not in t.ground.calls


# Adoption


@in_simulation
async def test_only_the_sagas_of_dead_controls_are_adopted(t: Toy) -> None:
    patch = Patch()
    async with on(t) as (a, _), on(t) as (b, _):
        reached = hanging(patch, CREATE, 0, after=False, undo=False)
        await begin(a, CREATE, thing())
        await until_it_hangs(a, reached)
        patch.undo()
        assert await b.sagas.adopt(frozenset({a.sagas.me, b.sagas.me})) == 0
        assert await a.sagas.adopt(frozenset({a.sagas.me})) == 0, "it runs already"
        assert await b.sagas.adopt(frozenset({b.sagas.me})) == 1
        await b.sagas.settled()
        assert await t.all_held() == healthy("t1")


@in_simulation
async def test_one_of_many_controls_adopts(t: Toy) -> None:
    async with on(t) as (dead, _), dead.store.tx() as tx:
        await dead.sagas.begin(tx, CREATE, thing())
    async with on(t) as (a, _), on(t) as (b, _), on(t) as (c, _):
        controls = (a, b, c)
        await asyncio.gather(*(x.sagas.adopt(frozenset({x.sagas.me})) for x in controls))
        await asyncio.gather(*(x.sagas.settled() for x in controls))
    assert await t.all_held() == healthy("t1")
    assert await t.kinds() == ["toy.create.start", "toy.create.end"]


@in_simulation
async def test_a_runner_that_was_replaced_writes_nothing_more(t: Toy) -> None:
    """A control that was thought dead comes back to life in the middle of its step."""
    patch, go, reached = Patch(), asyncio.Event(), asyncio.Event()

    async def slow(run: Run[Thing]) -> dict[str, Any]:
        reached.set()
        await go.wait()
        return {"place": "by the dead"}

    async with on(t) as (a, _), on(t) as (b, _):
        instead(patch, CREATE, 0, slow)
        await begin(a, CREATE, thing())
        await until_it_hangs(a, reached)
        patch.undo()
        assert await b.sagas.adopt(frozenset({b.sagas.me})) == 1
        await b.sagas.settled()
        go.set()
        await a.sagas.settled()
    assert await t.all_held() == healthy("t1")
    assert (await THINGS.get(t.store, "t1")).place == "here"
    assert await t.kinds() == ["toy.create.start", "toy.create.end"]


@in_simulation
async def test_a_replaced_runner_that_fails_does_not_undo_the_others_work(t: Toy) -> None:
    patch, go, reached = Patch(), asyncio.Event(), asyncio.Event()

    async def slow(run: Run[Thing]) -> None:
        reached.set()
        await go.wait()
        raise Conflict("attempt 1 was replaced by attempt 2")

    async with on(t) as (a, _), on(t) as (b, _):
        instead(patch, CREATE, 1, slow)
        await begin(a, CREATE, thing())
        await until_it_hangs(a, reached)
        patch.undo()
        await b.sagas.adopt(frozenset({b.sagas.me}))
        await b.sagas.settled()
        go.set()
        await a.sagas.settled()
    assert await t.all_held() == healthy("t1")


async def test_a_dead_controls_sagas_are_adopted_on_either_database(database: Database) -> None:
    ground = Ground()
    async with started(database) as first:
        t = Toy(first, None, ground)
        async with on(t) as (dead, _):
            for n in range(5):
                async with dead.store.tx() as tx:
                    await dead.sagas.begin(tx, CREATE, thing(f"t{n}"))
        async with on(t) as (a, _), on(t) as (b, _):
            await asyncio.gather(
                *(x.sagas.adopt(frozenset({a.sagas.me, b.sagas.me})) for x in (a, b))
            )
            await asyncio.gather(a.sagas.settled(), b.sagas.settled())
        assert await t.all_held() == healthy(*(f"t{n}" for n in range(5)))
        assert (await t.kinds()).count("toy.create.end") == 5

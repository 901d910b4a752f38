"""Who may act for a saga, and when: attempts, what is on disk before a call, who takes up what, what is owed."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any, Protocol

import msgspec
import pytest

from pileus.kernel import quota
from pileus.kernel.contracts import Contract
from pileus.kernel.faults import Conflict, Stale
from pileus.kernel.runtime import Runtime
from pileus.kernel.sagas import Run, Saga, Step
from pileus.kernel.tests.saga_bench import (
    NOTHING,
    Patch,
    Toy,
    begin,
    hanging,
    healthy,
    in_simulation,
    instead,
    made,
    on,
    thing,
    until_it_hangs,
)
from pileus.kernel.tests.toy import CREATE, DELETE, GROW, LIFECYCLE, THINGS, Thing
from pileus.kernel.turns import BACKGROUND


class Crane(Protocol):
    async def lift(self, id: str) -> str: ...


CRANE = Contract("crane", Crane)  # type: ignore[type-abstract]


class Kept:
    """A crane that notes what of the thing was on disk when it was asked."""

    def __init__(self, r: Runtime) -> None:
        self.r, self.saw = r, list[str]()

    async def lift(self, id: str) -> str:
        self.saw.append((await THINGS.get(self.r.store, id)).place)
        return id


@in_simulation
async def test_a_step_is_work_in_the_background_and_the_request_that_began_it_is_not(
    t: Toy,
) -> None:
    seen: list[bool] = []
    patch = Patch()

    async def look(run: Run[Thing]) -> None:
        seen.append(BACKGROUND.get())

    async with on(t) as (r, _):
        instead(patch, CREATE, 0, look)
        await begin(r, CREATE, thing())
        await r.sagas.settled()
        patch.undo()
    assert seen == [True] and not BACKGROUND.get()


# Calls to agents


@in_simulation
async def test_an_agent_is_called_when_what_led_there_is_on_disk(t: Toy) -> None:
    async def lift(run: Run[Thing]) -> None:
        await (await run.agent(CRANE, on="far")).lift(run.record.id)

    patch = Patch()
    async with on(t) as (r, _):
        crane = Kept(r)
        await r.agents.serve(CRANE, crane, "far")
        instead(patch, CREATE, 1, lift)
        await begin(r, CREATE, thing())
        await r.sagas.settled()
        patch.undo()
    assert crane.saw == ["here"], "the first step's changes were read before the second's call"


@in_simulation
async def test_an_agent_refuses_the_runner_that_was_replaced(t: Toy) -> None:
    patch, go, reached = Patch(), asyncio.Event(), asyncio.Event()
    ends: list[str] = []

    async def lift(run: Run[Thing]) -> None:
        if run.entry.attempt == 1:
            reached.set()
            await go.wait()
        try:
            await (await run.agent(CRANE, on="far")).lift(run.record.id)
        except Conflict as e:
            ends.append(e.message.replace(run.id, "X"))
            raise
        ends.append(f"attempt {run.entry.attempt} lifted")

    async with on(t) as (a, _), on(t) as (b, _):
        crane = Kept(b)
        await b.agents.serve(CRANE, crane, "far")
        a.agents = b.agents
        instead(patch, CREATE, 1, lift)
        await begin(a, CREATE, thing())
        await until_it_hangs(a, reached)
        assert await b.sagas.adopt(frozenset({b.sagas.me})) == 1
        await b.sagas.settled()
        go.set()
        await a.sagas.settled()
        patch.undo()
    assert ends == ["attempt 2 lifted", "attempt 1 of saga X was replaced by attempt 2"]
    assert (await THINGS.get(t.store, "t1")).status == "available"


@in_simulation
async def test_a_runner_that_was_replaced_leaves_at_its_next_look(t: Toy) -> None:
    patch, go, reached = Patch(), asyncio.Event(), asyncio.Event()

    async def slow(run: Run[Thing]) -> None:
        reached.set()
        await go.wait()

    async with on(t) as (a, _), on(t) as (b, _):
        instead(patch, CREATE, 0, slow)
        await begin(a, CREATE, thing())
        await until_it_hangs(a, reached)
        patch.undo()
        building = hanging(patch, CREATE, 1, after=True, undo=False)
        assert await b.sagas.adopt(frozenset({b.sagas.me})) == 1
        await until_it_hangs(b, building)
        go.set()
        await a.sagas.settled()
        assert (a.sagas.running, b.sagas.running) == (0, 1)
        assert t.ground.calls.count("build") == 1, "nobody else takes the new runner's step"
        patch.undo()


# Adoption


@in_simulation
async def test_a_control_takes_up_what_it_began_and_never_launched(t: Toy) -> None:
    async with on(t) as (r, _):
        async with r.store.tx() as tx:
            await r.sagas.begin(tx, CREATE, thing())
        assert r.sagas.running == 0
        assert await r.sagas.adopt(frozenset({r.sagas.me})) == 1
        await r.sagas.settled()
    assert await t.all_held() == healthy("t1")


@in_simulation
async def test_what_is_launched_twice_runs_once(t: Toy) -> None:
    async with on(t) as (r, _):
        async with r.store.tx() as tx:
            _, entry = await r.sagas.begin(tx, CREATE, thing())
        r.sagas.launch(entry, entry)
        await r.sagas.settled()
    assert t.ground.calls == ["hold", "build"]


@in_simulation
async def test_a_runner_that_loses_to_news_looks_at_once_and_then_in_growing_pauses(
    t: Toy,
) -> None:
    looks: list[float] = []
    patch = Patch()
    async with on(t) as (r, _):
        inner = r.sagas._drive

        async def loses(entry: Any) -> None:
            looks.append(r.world.clock.monotonic())
            if len(looks) < 6:
                raise Stale("somebody was first")
            await inner(entry)

        patch.setattr(r.sagas, "_drive", loses)
        await begin(r, CREATE, thing())
        await r.sagas.settled()
        patch.undo()
    pauses = [round(b - a, 1) for a, b in pairwise(looks)]
    assert pauses == [0, 0.2, 0.5, 1, 2]


# Interrupts


@in_simulation
async def test_a_create_that_another_control_told_to_stop_takes_no_further_step(t: Toy) -> None:
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
        await begin(b, DELETE, await THINGS.get(b.store, "t1"))
        go.set()
        await asyncio.gather(a.sagas.settled(), b.sagas.settled())
        patch.undo()
    assert "build" not in t.ground.calls
    assert "toy.create.error" in await t.kinds()
    assert await t.all_held() == NOTHING


@in_simulation
async def test_a_record_that_is_being_deleted_keeps_that_state_when_its_create_is_undone(
    t: Toy,
) -> None:
    patch = Patch()
    async with on(t) as (r, _):
        reached = hanging(patch, CREATE, 1, after=True, undo=False)
        await begin(r, CREATE, thing())
        await until_it_hangs(r, reached)
        patch.undo()
        deleting = hanging(patch, DELETE, 0, after=False, undo=False)
        await begin(r, DELETE, await THINGS.get(r.store, "t1"))
        await until_it_hangs(r, deleting)
        one = await THINGS.get(r.store, "t1")
        assert (one.status, one.fault) == ("deleting", "")
        assert "let_go" in t.ground.calls, "the create is undone by now"
        patch.undo()


@in_simulation
async def test_an_undo_after_an_interrupt_runs_as_if_nobody_had_cancelled(t: Toy) -> None:
    """Or whatever asks `cancelling()` there (a call whose host starts anew) would take itself for stopped."""
    left: list[int] = []
    patch = Patch()

    async def undo(run: Run[Thing]) -> None:
        task = asyncio.current_task()
        assert task is not None
        left.append(task.cancelling())
        t.ground.held.discard(run.record.id)

    async with on(t) as (r, _):
        instead(patch, CREATE, 0, undo=undo)
        reached = hanging(patch, CREATE, 1, after=False, undo=False)
        await begin(r, CREATE, thing())
        await until_it_hangs(r, reached)
        await begin(r, DELETE, await THINGS.get(r.store, "t1"))
        await r.sagas.settled()
        patch.undo()
    assert left == [0]


@in_simulation
async def test_a_control_that_stops_while_it_interrupts_leaves_the_undo_to_the_next(
    t: Toy,
) -> None:
    patch = Patch()
    async with on(t) as (r, _):
        reached = hanging(patch, CREATE, 0, after=True, undo=False)
        await begin(r, CREATE, thing())
        await until_it_hangs(r, reached)
        await begin(r, DELETE, await THINGS.get(r.store, "t1"))
        await r.sagas.stop()
        patch.undo()
        assert "let_go" not in t.ground.calls
    async with on(t) as (r, _):
        await r.sagas.settled()
    assert await t.all_held() == NOTHING


# Quota of what is to become, and what a parked saga owes


@in_simulation
async def test_one_more_is_reserved_as_any_other_growth(t: Toy) -> None:
    async with on(t) as (r, _):
        one = await made(r)
        with pytest.raises(ValueError, match="enough"):
            async with r.store.tx() as tx:
                more = msgspec.structs.replace(one, size=4)
                _, entry = await r.sagas.begin(tx, GROW, one, becoming=more)
                assert entry.reserved == {"gigabytes": 1}
                assert (await quota.usage(tx, "toy", "p1"))["gigabytes"] == 4
                raise ValueError("enough")


async def stuck(run: Run[Thing]) -> None:
    raise Conflict("it does not move")


STUCK = Saga("toy.stuck", THINGS, LIFECYCLE, "grow", Step(stuck, stuck))


@in_simulation
async def test_a_saga_that_is_parked_gives_back_once_what_it_reserved(t: Toy) -> None:
    async with on(t) as (r, _):
        r.sagas.register(STUCK)
        one = await made(r)
        busy = await begin(r, STUCK, one, becoming=msgspec.structs.replace(one, size=50))
        assert busy.status == "growing" and await r.sagas.parked() == []
        await r.sagas.settled()
        await r.store.sync()
        (entry,) = await r.sagas.parked()
        assert (entry.parked, entry.reserved) == ("stuck", {})
        assert (await t.all_held())["usage"] == {"things": 1, "gigabytes": 3}
        await begin(r, DELETE, await THINGS.get(r.store, "t1"))
        await r.sagas.settled()
        r.sagas.register(GROW)
    assert await t.all_held() == NOTHING


@in_simulation
async def test_a_record_in_deletion_stays_so_when_the_undo_is_parked(t: Toy) -> None:
    patch = Patch()
    async with on(t) as (r, _):
        reached = hanging(patch, CREATE, 1, after=True, undo=False)
        await begin(r, CREATE, thing())
        await until_it_hangs(r, reached)
        patch.undo()
        t.ground.broken.add("tear_down")
        deleting = hanging(patch, DELETE, 0, after=False, undo=False)
        await begin(r, DELETE, await THINGS.get(r.store, "t1"))
        await until_it_hangs(r, deleting)
        one = await THINGS.get(r.store, "t1")
        assert (one.status, one.fault) == ("deleting", "")
        patch.undo()


@in_simulation
async def test_a_step_that_gave_nothing_changes_nothing_of_the_record(t: Toy) -> None:
    async def nothing(run: Run[Thing]) -> None:
        seen.append(run.record.generation)

    seen: list[int] = []
    patch = Patch()
    async with on(t) as (r, _):
        instead(patch, CREATE, 0, nothing)
        instead(patch, CREATE, 1, nothing)
        await begin(r, CREATE, thing())
        await r.sagas.settled()
        patch.undo()
        await r.store.sync()
        assert seen == [1, 1] and (await THINGS.get(r.store, "t1")).generation == 2

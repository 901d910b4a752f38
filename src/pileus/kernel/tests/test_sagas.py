"""Sagas on the toy service: begun in one transaction, undone when they fail, patient with what is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from pileus.kernel import events
from pileus.kernel.auth import Caller
from pileus.kernel.faults import Conflict, Fault, OverQuota, Stale, Unavailable
from pileus.kernel.sagas import JOURNAL, Run, Saga, Step
from pileus.kernel.states import Lifecycle, Verb
from pileus.kernel.store import Record, Table
from pileus.kernel.tests.saga_bench import (
    NOTHING,
    SAGAS,
    Do,
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
from pileus.kernel.tests.toy import CREATE, DELETE, GROW, THINGS, Thing

# To the end


@in_simulation
async def test_a_saga_takes_its_record_from_new_to_stable(t: Toy) -> None:
    async with on(t) as (r, _):
        caller = Caller(user_id="u", roles=frozenset({"member"}), token="secret")
        begun = await begin(r, CREATE, thing(), caller=caller, request_id="req-1")
        assert begun.status == "creating" and begun.generation == 1
        (entry,) = await JOURNAL.all(r.store)
        assert (entry.saga, entry.record_id, entry.owner) == ("toy_things.create", "t1", r.sagas.me)
        assert entry.request_id == "req-1" and entry.caller["user_id"] == "u"
        assert "secret" not in str(entry)
        assert r.sagas.running == 1
        await r.sagas.settled()
        assert r.sagas.running == 0
    assert await t.all_held() == healthy("t1")
    assert t.ground.calls == ["hold", "build"]
    assert (await THINGS.get(t.store, "t1")).place == "here"
    assert await t.kinds() == ["toy.create.start", "toy.create.end"]


@in_simulation
async def test_a_delete_leaves_a_tombstone_and_nothing_else(t: Toy) -> None:
    async with on(t) as (r, _):
        await begin(r, DELETE, await made(r))
        await r.sagas.settled()
    assert await t.all_held() == NOTHING
    assert await THINGS.find(t.store, "t1", deleted=True) is not None
    assert (await t.kinds())[2:] == ["toy.delete.start", "toy.delete.end"]


@in_simulation
async def test_a_step_sees_the_record_the_becoming_and_the_caller(t: Toy) -> None:
    patch = Patch()
    with patch.context():
        seen: list[Any] = []

        async def do(run: Run[Thing]) -> dict[str, Any]:
            seen.append((run.record.size, run.becoming.size, run.caller.user_id, run.step, run.id))
            return {"size": run.becoming.size}

        instead(patch, GROW, 0, do)
        async with on(t) as (r, _):
            one = await made(r)
            await begin(
                r,
                GROW,
                one,
                becoming=msgspec.structs.replace(one, size=8),
                caller=Caller(user_id="u"),
            )
            (entry,) = await JOURNAL.all(r.store)
            await r.sagas.settled()
            assert seen == [(3, 8, "u", "grow", entry.id)]
        patch.undo()


@in_simulation
async def test_done_and_the_last_steps_changes_are_written_with_the_end(t: Toy) -> None:
    async with on(t) as (r, _):
        one = await made(r)
        patch = Patch()
        patch.setattr(GROW, "done", lambda record, now: {"place": f"done {now[:4]}"})
        await begin(r, GROW, one, becoming=msgspec.structs.replace(one, size=8))
        await r.sagas.settled()
        patch.undo()
        await r.store.sync()
        grown = await THINGS.get(r.store, "t1")
        assert (grown.size, grown.place, grown.status) == (8, "done 2026", "available")
        assert grown.generation == one.generation + 2, "busy, and the end: one write each"


@in_simulation
async def test_done_is_written_into_the_tombstone_of_what_is_deleted(t: Toy) -> None:
    patch = Patch()
    async with on(t) as (r, _):
        patch.setattr(DELETE, "done", lambda record, now: {"place": "grave"})
        await begin(r, DELETE, await made(r))
        await r.sagas.settled()
        patch.undo()
    await t.store.sync()
    stone = await THINGS.find(t.store, "t1", deleted=True)
    assert stone is not None and stone.place == "grave"


# Failures


def _noting(failures: list[Any]) -> Callable[[Thing, Any], dict[str, Any]]:
    def told(record: Thing, failure: Any) -> dict[str, Any]:
        failures.append(failure)
        return {"fault": failure.message}

    return told


@pytest.mark.parametrize("at", range(2))
@pytest.mark.parametrize("after", [False, True], ids=["before its effect", "after it"])
@in_simulation
async def test_a_step_that_fails_has_everything_undone(t: Toy, at: int, after: bool) -> None:
    inner = CREATE.steps[at].do

    async def fails(run: Run[Thing]) -> None:
        if after:
            await inner(run)
        raise Conflict("there is no room")

    patch = Patch()
    instead(patch, CREATE, at, fails)
    async with on(t) as (r, _):
        await begin(r, CREATE, thing())
        await r.sagas.settled()
    patch.undo()
    assert await t.all_held() == failed("t1")
    assert (await THINGS.get(t.store, "t1")).fault == "there is no room"
    *_, last = await events.after(t.store, events.START)
    assert (last.kind, last.project_id) == ("toy.create.error", "p1")
    assert last.payload == {"id": "t1", "reason": "there is no room"}
    undone = [c for c in t.ground.calls if c in ("tear_down", "let_go")]
    assert undone == ["tear_down", "let_go"][1 - at :], "backwards, from the step that failed"


@in_simulation
async def test_an_unexpected_error_keeps_its_story_from_the_user(t: Toy) -> None:
    t.ground.broken.add("build")
    failures: list[Any] = []
    patch = Patch()
    patch.setattr(CREATE, "failed", _noting(failures))
    async with on(t) as (r, _):
        await begin(r, CREATE, thing())
        await r.sagas.settled()
    patch.undo()
    (failure,) = failures
    assert failure.message == "An internal error occurred; the log has the details."
    assert "RuntimeError: build is broken" in failure.detail and "Traceback" in failure.detail
    assert failure.code == 500 and failure.at.startswith("2026-")


@in_simulation
async def test_a_fault_says_what_it_says_and_its_inside_to_administrators(t: Toy) -> None:
    async def fails(run: Run[Thing]) -> None:
        raise Conflict("no room", internal="host a: full")

    failures: list[Any] = []
    patch = Patch()
    instead(patch, CREATE, 1, fails)
    patch.setattr(CREATE, "failed", _noting(failures))
    async with on(t) as (r, _):
        await begin(r, CREATE, thing())
        await r.sagas.settled()
    patch.undo()
    (failure,) = failures
    assert (failure.message, failure.detail, failure.code) == ("no room", "host a: full", 409)


def test_the_log_has_an_unexpected_error_with_its_trace_and_a_fault_without(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @in_simulation
    async def scene(t: Toy) -> None:
        t.ground.broken.add("build")
        async with on(t) as (r, _):
            await begin(r, CREATE, thing())
            await r.sagas.settled()

    with caplog.at_level(logging.INFO, "pileus.kernel.sagas"):
        scene(tmp_path)
    errors = [x for x in caplog.records if x.levelno == logging.ERROR]
    assert errors and all(x.exc_info for x in errors)
    assert "toy_things.create of t1 failed at build" in errors[0].getMessage()


@pytest.mark.parametrize("saga", SAGAS, ids=lambda s: s.verb)
@in_simulation
async def test_every_step_may_run_twice(t: Toy, saga: Saga[Any]) -> None:
    patch = Patch()
    for at, step in enumerate(saga.steps):

        async def twice(run: Run[Thing], inner: Do = step.do) -> Any:
            await inner(run)
            return await inner(run)

        instead(patch, saga, at, twice)
    async with on(t) as (r, _):
        one = await made(r)
        if saga is GROW:
            await begin(r, GROW, one, becoming=msgspec.structs.replace(one, size=8))
        if saga is DELETE:
            await begin(r, DELETE, one)
        await r.sagas.settled()
    patch.undo()
    ends = {CREATE: healthy("t1"), GROW: healthy("t1", size=8), DELETE: NOTHING}
    assert await t.all_held() == ends[saga]


# Quota of what a record is to become


@in_simulation
async def test_what_a_record_will_cost_is_charged_at_the_beginning(t: Toy) -> None:
    patch = Patch()
    async with on(t) as (r, _):
        one = await made(r)
        with pytest.raises(OverQuota):
            await begin(r, GROW, one, becoming=msgspec.structs.replace(one, size=101))
        reached = hanging(patch, GROW, 0, after=False, undo=False)
        await begin(r, GROW, one, becoming=msgspec.structs.replace(one, size=99))
        await until_it_hangs(r, reached)
        with pytest.raises(OverQuota):
            await begin(r, CREATE, thing("t2", size=2))
        patch.undo()
    async with on(t) as (r, _):
        await r.sagas.settled()
    assert await t.all_held() == healthy("t1", size=99)


@in_simulation
async def test_a_failure_gives_the_reserved_back(t: Toy) -> None:
    async with on(t) as (r, _):
        one = await made(r)
        t.ground.broken.add("grow")
        await begin(r, GROW, one, becoming=msgspec.structs.replace(one, size=50))
        await r.sagas.settled()
    assert (await t.all_held())["usage"] == {"things": 1, "gigabytes": 3}
    assert (await THINGS.get(t.store, "t1")).status == "error"


@in_simulation
async def test_a_delete_during_a_growth_gives_the_reserved_back(t: Toy) -> None:
    patch = Patch()
    async with on(t) as (r, _):
        one = await made(r)
        reached = hanging(patch, GROW, 0, after=True, undo=False)
        await begin(r, GROW, one, becoming=msgspec.structs.replace(one, size=50))
        await until_it_hangs(r, reached)
        patch.undo()
        await begin(r, DELETE, await THINGS.get(r.store, "t1"))
        await r.sagas.settled()
    assert await t.all_held() == NOTHING


@in_simulation
async def test_what_becomes_smaller_reserves_nothing_and_ends_cheaper(t: Toy) -> None:
    async with on(t) as (r, _):
        one = await made(r)
        await begin(r, GROW, one, becoming=msgspec.structs.replace(one, size=1))
        (entry,) = await JOURNAL.all(r.store)
        assert entry.reserved == {}
        await r.sagas.settled()
    assert await t.all_held() == healthy("t1", size=1)


# What a step gives cannot be written


@pytest.mark.parametrize("at", range(2))
@in_simulation
async def test_a_step_whose_changes_are_refused_is_undone(t: Toy, at: int) -> None:
    inner = CREATE.steps[at].do
    patch = Patch()

    async def too_big(run: Run[Thing]) -> dict[str, Any]:
        await inner(run)
        return {"size": 200}

    instead(patch, CREATE, at, too_big)
    async with on(t) as (r, _):
        await begin(r, CREATE, thing())
        await r.sagas.settled()
    patch.undo()
    assert await t.all_held() == failed("t1")
    assert "Quota exceeded for gigabytes" in (await THINGS.get(t.store, "t1")).fault


# Patience


@in_simulation
async def test_an_absent_host_is_waited_for_and_then_given_up(t: Toy) -> None:
    calls: list[float] = []

    async def away(run: Run[Thing]) -> None:
        calls.append(run.runtime.world.clock.monotonic())
        raise Unavailable("the host is away")

    patch = Patch()
    instead(patch, CREATE, 1, away, patience_s=20)
    async with on(t) as (r, _):
        await begin(r, CREATE, thing())
        await r.sagas.settled()
    patch.undo()
    assert await t.all_held() == failed("t1")
    assert 20 < calls[-1] - calls[0] < 60 and len(calls) > 5


@pytest.mark.parametrize("passing", [Unavailable("away"), Stale("changed")], ids=["away", "stale"])
@in_simulation
async def test_an_absent_host_that_comes_back_is_no_failure(t: Toy, passing: Fault) -> None:
    inner, tries = CREATE.steps[1].do, list[int]()

    async def away(run: Run[Thing]) -> Any:
        tries.append(1)
        if len(tries) % 4:
            raise passing
        return await inner(run)

    patch = Patch()
    instead(patch, CREATE, 1, away)
    async with on(t) as (r, _):
        await begin(r, CREATE, thing())
        await r.sagas.settled()
    patch.undo()
    assert await t.all_held() == healthy("t1")


@pytest.mark.parametrize(("answers", "ends"), [(3, healthy), (1000, failed)], ids=["ends", "never"])
@in_simulation
async def test_a_host_slower_than_the_bus_waits_is_asked_again_for_as_long_as_the_step_may_take(
    t: Toy, answers: int, ends: Callable[[str], Any]
) -> None:
    inner, tries = CREATE.steps[1].do, list[int]()

    async def late(run: Run[Thing]) -> Any:
        tries.append(1)
        if len(tries) >= answers:
            return await inner(run)
        await run.runtime.world.clock.sleep(120)
        raise Unavailable("A part of the cloud did not answer within 120 s.")

    patch = Patch()
    instead(patch, CREATE, 1, late, patience_s=60, timeout_s=1000)
    async with on(t) as (r, _):
        await begin(r, CREATE, thing())
        await r.sagas.settled()
    patch.undo()
    assert await t.all_held() == ends("t1") and (len(tries) == answers or 6 < len(tries) < 10)


@in_simulation
async def test_a_step_that_takes_too_long_fails_and_says_so(t: Toy) -> None:
    async def slow(run: Run[Thing]) -> None:
        await asyncio.sleep(1000)

    patch = Patch()
    instead(patch, CREATE, 1, slow, timeout_s=30)
    async with on(t) as (r, _):
        await begin(r, CREATE, thing())
        await r.sagas.settled()
        assert r.world.clock.monotonic() < 100
    patch.undo()
    assert await t.all_held() == failed("t1")
    assert (await THINGS.get(t.store, "t1")).fault == "build did not end within 30 s."


@in_simulation
async def test_an_undo_that_takes_too_long_is_tried_again(t: Toy) -> None:
    tries: list[int] = []

    async def slow(run: Run[Thing]) -> None:
        tries.append(1)
        if len(tries) < 3:
            await asyncio.sleep(1000)

    t.ground.broken.add("build")
    patch = Patch()
    instead(patch, CREATE, 0, undo=slow, timeout_s=30)
    async with on(t) as (r, _):
        await begin(r, CREATE, thing())
        await r.sagas.settled()
    patch.undo()
    assert len(tries) == 3 and (await t.all_held())["journal"] == []


# A store that fails meanwhile


@in_simulation
async def test_a_saga_outlives_a_disk_that_is_full_for_a_while(t: Toy) -> None:
    class Full:
        """The write connection of a full disk."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def execute(self, text: str, *args: Any) -> Any:
            if text.startswith("COMMIT"):
                import sqlite3

                raise sqlite3.OperationalError("database or disk is full")
            return self.inner.execute(text, *args)

    store: Any = t.store
    patch, reached = Patch(), asyncio.Event()
    inner = CREATE.steps[0].do

    async def fills(run: Run[Thing]) -> Any:
        if not reached.is_set():
            store._write = Full(store._write)
            reached.set()
        return await inner(run)

    async with on(t) as (r, _):
        instead(patch, CREATE, 0, fills)
        await begin(r, CREATE, thing())
        await reached.wait()
        await asyncio.sleep(60)
        store._write = store._write.inner
        await r.sagas.adopt(frozenset({r.sagas.me}))  # as a control does now and then
        await r.sagas.settled()
        patch.undo()
    assert await t.all_held() == healthy("t1")


# Beginning


@in_simulation
async def test_a_record_in_the_wrong_state_or_generation_begins_nothing(t: Toy) -> None:
    async with on(t) as (r, _):
        one = await made(r)
        async with r.store.tx() as tx:
            await THINGS.change(tx, one, tags=["x"])
        with pytest.raises(Stale):
            await begin(r, GROW, one, becoming=one)
        one = await THINGS.get(r.store, "t1")
        t.ground.broken.add("grow")
        await begin(r, GROW, one, becoming=one)
        await r.sagas.settled()
        await r.store.sync()
        broken = await THINGS.get(r.store, "t1")
        with pytest.raises(Conflict, match="status error; it must be available"):
            await begin(r, GROW, broken, becoming=broken)
        assert await JOURNAL.all(r.store) == []


@in_simulation
async def test_a_saga_of_a_transaction_that_nobody_waited_for_runs_at_once(t: Toy) -> None:
    async with on(t) as (r, _):
        async with r.store.tx(wait=False) as tx:
            _, entry = await r.sagas.begin(tx, CREATE, thing())
        r.sagas.launch(entry)
        began = r.world.clock.monotonic()
        await r.sagas.settled()
        assert r.world.clock.monotonic() - began < 0.1
    assert await t.all_held() == healthy("t1")


@in_simulation
async def test_many_records_may_begin_in_one_transaction(t: Toy) -> None:
    async with on(t) as (r, _):
        with pytest.raises(OverQuota):
            async with r.store.tx() as tx:
                for n in range(11):
                    await r.sagas.begin(tx, CREATE, thing(f"t{n}"))
        assert await t.all_held() == NOTHING
        async with r.store.tx() as tx:
            begun = [await r.sagas.begin(tx, CREATE, thing(f"t{n}")) for n in range(10)]
        r.sagas.launch(*(entry for _, entry in begun))
        await r.sagas.settled()
    assert await t.all_held() == healthy(*(f"t{n}" for n in range(10)))


# Records with no step, and states of two fields


class Plain(Record, kw_only=True, frozen=True):
    state: str = ""
    task: str = ""


PLAINS = Table("test_plains", Plain)
TWO = Lifecycle(
    {
        "make": Verb(frozenset(), "making", "active", "error"),
        "poke": Verb({"active"}, "poking", "=", "="),
        "drop": Verb({"active", "error"}, "dropping", None, "=", interrupts=True),
    },
    stable="state",
    busy="task",
)


@in_simulation
async def test_a_verb_may_keep_the_stable_state_whether_it_fails_or_not(t: Toy) -> None:
    async def make(run: Run[Plain]) -> None:
        pass

    async def poke(run: Run[Plain]) -> None:
        if run.caller.user_id == "bad":
            raise Conflict("ouch")

    make_saga = Saga("plain.make", PLAINS, TWO, "make", Step(make))
    poke_saga = Saga("plain.poke", PLAINS, TWO, "poke", Step(poke))
    drop_saga = Saga("plain.drop", PLAINS, TWO, "drop", Step(poke))
    async with on(t) as (r, _):
        r.sagas.register(make_saga, poke_saga, drop_saga)
        await begin(r, make_saga, Plain(id="p1"))
        await r.sagas.settled()
        for user in ("good", "bad"):
            await r.store.sync()
            plain = await PLAINS.get(r.store, "p1")
            assert (plain.state, plain.task) == ("active", "")
            busy: Any = await begin(r, poke_saga, plain, caller=Caller(user_id=user))
            assert (busy.state, busy.task) == ("active", "poking")
            await r.sagas.settled()
        await r.store.sync()
        plain = await PLAINS.get(r.store, "p1")
        await begin(r, drop_saga, plain)
        await r.sagas.settled()
        await r.store.sync()
        assert await PLAINS.find(r.store, "p1", deleted=None) is None

"""Sagas on the toy service: whatever fails, dies or is interrupted at whatever step, nothing is left behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest

from pileus.kernel import events, quota
from pileus.kernel.auth import Caller
from pileus.kernel.faults import Conflict, Fault, OverQuota, Stale, Unavailable
from pileus.kernel.runtime import Runtime
from pileus.kernel.sagas import JOURNAL, Journal, Run, Saga, Step
from pileus.kernel.sqlite import SqliteStore
from pileus.kernel.states import Lifecycle, Verb
from pileus.kernel.store import Record, Store, Table
from pileus.kernel.tests.databases import Database, started
from pileus.kernel.tests.toy import CREATE, DELETE, GROW, THINGS, Ground, Thing, toy
from pileus.testing.simloop import SimLoop, SimWorld, simulated

SAGAS = (CREATE, GROW, DELETE)
Patch = pytest.MonkeyPatch
Do = Callable[[Run[Any]], Awaitable[Any]]


@dataclass
class Toy:
    """The toy with its store kept open, so that controls can die and be born on it."""

    store: Store
    world: Any
    ground: Ground

    async def all_held(self) -> dict[str, Any]:
        """Everything that a saga can leak, in one place."""
        await self.store.sync()
        things = await THINGS.all(self.store)
        return {
            "held": sorted(self.ground.held),
            "built": dict(self.ground.built),
            "journal": [e.saga for e in await JOURNAL.all(self.store)],
            "usage": {k: v for k, v in (await quota.usage(self.store, "toy", "p1")).items() if v},
            "things": {t.id: (t.status, t.size) for t in things},
        }

    async def kinds(self) -> list[str]:
        return [e.kind for e in await events.after(self.store, events.START)]


def healthy(*ids: str, size: int = 3) -> dict[str, Any]:
    """What is held when these things stand."""
    n = len(ids)
    return {
        "held": sorted(ids),
        "built": dict.fromkeys(ids, size),
        "journal": [],
        "usage": {"things": n, "gigabytes": n * size} if n else {},
        "things": {i: ("available", size) for i in ids},
    }


NOTHING = healthy()


def failed(id: str, size: int = 3, status: str = "error") -> dict[str, Any]:
    """What is held when the thing could not be made: its row and what that costs."""
    return healthy() | {
        "usage": {"things": 1, "gigabytes": size},
        "things": {id: (status, size)},
    }


class _Kept:
    """A store whose start and stop are somebody else's business."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def start(self) -> None:
        """It runs already."""

    async def stop(self) -> None:
        await self._store.sync()


def on(t: Toy) -> Any:
    """A control on the toy's store: `async with on(t) as (runtime, client)`."""
    return toy(_Kept(t.store), world=t.world, ground=t.ground)


def in_simulation(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Runs `test(toy, ...)` under a few seeds, each on a database of its own."""

    async def run(tmp_path: Any, **more: Any) -> None:
        world, loop = SimWorld(), asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        store = SqliteStore(str(tmp_path / f"{loop.seed}.sqlite"), world)
        await store.start()
        try:
            await test(Toy(store, world, Ground()), **more)
        finally:
            await store.stop()

    simulated_run = simulated(seeds=4)(run)

    def call(tmp_path: Any, **more: Any) -> None:
        simulated_run(tmp_path, **more)

    call.__name__ = test.__name__
    call.__signature__ = _signature(test)  # type: ignore[attr-defined]
    return call


def _signature(test: Callable[..., Any]) -> Any:
    import inspect

    own = list(inspect.signature(test).parameters.values())[1:]
    path = inspect.Parameter("tmp_path", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return inspect.Signature([path, *own])


def thing(id: str = "t1", size: int = 3, **more: Any) -> Thing:
    return Thing(id=id, project_id="p1", name=more.pop("name", f"thing {id}"), size=size, **more)


async def begin(r: Runtime, saga: Saga[Any], record: Any, **more: Any) -> Any:
    async with r.store.tx() as tx:
        got, entry = await r.sagas.begin(tx, saga, record, **more)
    r.sagas.launch(entry)
    return got


async def made(r: Runtime, id: str = "t1", **more: Any) -> Thing:
    await begin(r, CREATE, thing(id, **more))
    await r.sagas.settled()
    await r.store.sync()
    return await THINGS.get(r.store, id)


def instead(patch: Patch, saga: Saga[Any], at: int, do: Do | None = None, **more: Any) -> None:
    """Another `do`, `undo` or patience for one step."""
    steps = list(saga.steps)
    if do is not None:
        do.__name__ = steps[at].name
        more["do"] = do
    steps[at] = replace(steps[at], **more)
    patch.setattr(saga, "steps", tuple(steps))


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


# Deaths


async def until_it_hangs(r: Runtime, reached: asyncio.Event) -> None:
    async with asyncio.timeout(60):
        await reached.wait()
    await r.store.sync()


def hanging(patch: Patch, saga: Saga[Any], at: int, *, after: bool, undo: bool) -> asyncio.Event:
    """The step never ends, before its effect or after; the event says that it was reached."""
    reached = asyncio.Event()
    step = saga.steps[at]
    inner = step.undo if undo else step.do
    assert inner is not None

    async def hangs(run: Run[Any]) -> Any:
        if after:
            await inner(run)
        reached.set()
        await asyncio.Event().wait()

    hangs.__name__ = inner.__name__
    steps = list(saga.steps)
    steps[at] = replace(step, undo=hangs) if undo else replace(step, do=hangs)
    patch.setattr(saga, "steps", tuple(steps))
    return reached


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


async def parked(t: Toy, r: Runtime) -> Journal:
    """A create whose undo failed for good."""
    t.ground.broken |= {"build", "tear_down"}
    await begin(r, CREATE, thing())
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
        await r.sagas.settled()
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
        patch.undo()


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

"""The toy on a store that outlives its controls, and ways to spoil the steps of its sagas."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from pileus.kernel import events, quota
from pileus.kernel.runtime import Runtime
from pileus.kernel.sagas import JOURNAL, Run, Saga
from pileus.kernel.sqlite import SqliteStore
from pileus.kernel.store import Store
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

"""Every saga of every service, sabotaged at every step: it fails, runs twice, or its control dies.

What it leaves is compared with what an undisturbed run leaves, or, where it fails, with a run that failed at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pileus.kernel.faults import Conflict
from pileus.kernel.resources import Service
from pileus.kernel.runtime import Runtime
from pileus.kernel.sagas import Run, Saga, Sagas, Step
from pileus.testing.cloud import Cloud
from pileus.testing.grounds import Ground, Scenario
from pileus.testing.held import Held, broken, held

Do = Callable[[Run[Any]], Awaitable[Any]]
TWICE, FAILS, DIES = "runs twice", "fails", "dies"
WHY = "sabotage"


@dataclass(frozen=True)
class Sabotage:
    """What goes wrong, at which step (-1: all of them), before its effect or after."""

    saga: Saga[Any]
    what: str
    at: int = -1
    after: bool = False

    @property
    def id(self) -> str:
        if self.at < 0:
            return f"{self.saga.name} {self.what}"
        when = "after" if self.after else "before"
        return f"{self.saga.name} {self.what} {when} {self.saga.steps[self.at].name}"


def sabotages(services: Sequence[Service]) -> Iterator[tuple[Service, Sabotage]]:
    for service in services:
        for saga in service.all_sagas():
            yield service, Sabotage(saga, TWICE)
            for at in range(len(saga.steps)):
                for what in (FAILS, DIES):
                    for after in (False, True):
                        yield service, Sabotage(saga, what, at, after)


@contextmanager
def sabotaged(one: Sabotage) -> Iterator[asyncio.Event]:
    """The saga's steps replaced meanwhile; the event says that the place was reached."""
    reached, honest = asyncio.Event(), one.saga.steps
    one.saga.steps = tuple(
        _bad(step, one, reached) if one.at in (-1, n) else step for n, step in enumerate(honest)
    )
    try:
        yield reached
    finally:
        one.saga.steps = honest


def _bad(step: Step[Any], one: Sabotage, reached: asyncio.Event) -> Step[Any]:
    inner: Do = step.do

    async def do(run: Run[Any]) -> Any:
        if one.after or one.what == TWICE:
            await inner(run)
        reached.set()
        if one.what == TWICE:
            return await inner(run)
        if one.what == FAILS:
            raise Conflict(WHY)
        return await asyncio.Event().wait()

    do.__name__ = step.name
    return replace(step, do=do)


async def another_control(runtime: Runtime) -> None:
    """As if the control died and another came: sagas are left where they stand and found in the journal."""
    known = list(runtime.sagas.known.values())
    await runtime.sagas.stop()
    await runtime.store.sync()
    runtime.sagas = Sagas(runtime, runtime.world.new_id())
    runtime.sagas.register(*known)
    await runtime.sagas.adopt(frozenset({runtime.sagas.me}))


@dataclass
class Bench:
    """Plays scenarios on one cloud and sees what each adds to what it holds."""

    ground: Ground

    @property
    def cloud(self) -> Cloud:
        return self.ground.cloud

    async def left_by(self, scenario: Scenario, one: Sabotage | None = None) -> Held:
        """What is held more after the saga than before it, by the kind of thing; it is cleaned up afterwards.

        Raises AssertionError if the sabotaged step was never reached, if what must be true is not, or if the
        clean-up leaves anything.
        """
        empty = await self._held()
        id = await scenario.before(self.ground)
        await self.cloud.settle()
        before = await self._held()
        id = await self._disturbed(scenario, id, one)
        after = await self._held()
        await scenario.clean(self.ground, id)
        await self._expect(await self._held(), empty, "after the clean-up")
        return difference(before, after)

    async def _disturbed(self, scenario: Scenario, id: str, one: Sabotage | None) -> str:
        if one is None:
            id = await scenario.begin(self.ground, id)
            await self.cloud.settle()
            return id
        with sabotaged(one) as reached:
            asked = asyncio.create_task(scenario.begin(self.ground, id))
            async with asyncio.timeout(30):
                if one.what == DIES:
                    await reached.wait()
                else:
                    await asyncio.wait([asked])
                    await self.cloud.settle()
        assert reached.is_set(), f"{one.id}: the step was never reached: {asked}"
        if one.what == DIES:
            await another_control(self.cloud.runtime)
            await self.cloud.settle()
        return await self._answered(asked, id)

    async def _answered(self, asked: asyncio.Task[str], id: str) -> str:
        """The record's id; requests that wait for their saga may have been answered with its failure."""
        if not asked.done():
            asked.cancel()
        (answer,) = await asyncio.gather(asked, return_exceptions=True)
        if isinstance(answer, str):
            return answer
        assert id, f"the record was never made: {answer!r}"
        return id

    async def _held(self) -> Held:
        await self.cloud.settle()
        problems = await broken(self.cloud.runtime)
        assert problems == [], problems
        return await held(self.cloud.runtime, self.cloud.hosts)

    async def _expect(self, got: Held, wanted: Held, when: str) -> None:
        more = difference(wanted, got)
        assert more == {}, f"{when} there is left: {more}"


def difference(before: Held, after: Held) -> Held:
    """What changed between two, in numbers."""
    found: Held = {}
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, 0), after.get(name, 0)
        if old != new:
            found[name] = _less(new, old)
    return found


def _less(new: Any, old: Any) -> Any:
    if isinstance(new, dict) or isinstance(old, dict):
        new, old = new or {}, old or {}
        moved = {k: new.get(k, 0) - old.get(k, 0) for k in new.keys() | old.keys()}
        return {k: n for k, n in sorted(moved.items(), key=str) if n}
    return new - old

"""Standing facts: what must hold for ever is looked at from the start on, every period, and at once
when somebody hints at news.

A reconciler takes no input but the key of the hint ("" means everything). For one key one run goes
at a time, hints that come meanwhile become one more run, and a run that fails is tried again with
growing pauses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec

from .faults import Fault
from .turns import BACKGROUND
from .world import World

log = logging.getLogger(__name__)
RunOnce = Callable[[str], Awaitable[None]]
_PAUSES_S = (0.5, 1, 2, 5, 10, 30)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How a reconciler fares, for `pileus status`. `error` is what its last run met, "" if nothing."""

    name: str
    runs: int
    failures: int
    error: str


@dataclass
class _Reconciler:
    name: str
    period_s: float
    run: RunOnce
    wanted: set[str] = field(default_factory=set)
    going: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    runs: int = 0
    failures: int = 0
    errors: dict[str, str] = field(default_factory=dict)


class Reconcilers:
    """The reconcilers of one process."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._known: dict[str, _Reconciler] = {}
        self._tickers: list[asyncio.Task[None]] = []
        self._running = False

    def add(self, name: str, period_s: float, run: RunOnce) -> None:
        """`period_s` 0: only on hints."""
        if name in self._known:
            raise ValueError(f"two reconcilers are named {name}")
        self._known[name] = _Reconciler(name, period_s, run)

    def hint(self, name: str, key: str = "") -> None:
        """There is news for the reconciler; cheap, and may come from anywhere on the loop."""
        one = self._known.get(name)
        if one is None or not self._running:
            return
        one.wanted.add(key)
        if key not in one.going:
            task = asyncio.create_task(self._work(one, key), name=f"reconcile {name} {key}")
            one.going[key] = task

    async def start(self) -> None:
        self._running = True
        for one in self._known.values():
            if one.period_s:
                task = asyncio.create_task(self._tick(one), name=f"reconcile {one.name}")
                self._tickers.append(task)

    async def stop(self) -> None:
        """Cancels what runs: the next start looks at everything anyway."""
        self._running = False
        going = [t for one in self._known.values() for t in one.going.values()]
        for task in (*self._tickers, *going):
            task.cancel()
        await asyncio.gather(*self._tickers, *going, return_exceptions=True)
        self._tickers.clear()

    def status(self) -> list[Report]:
        return [
            Report(
                name=one.name,
                runs=one.runs,
                failures=one.failures,
                error=next(iter(one.errors.values()), ""),
            )
            for one in self._known.values()
        ]

    async def settled(self) -> None:
        """Returns when nothing hinted at is left to do (tests)."""
        while going := [t for one in self._known.values() for t in one.going.values()]:
            await asyncio.wait(going)

    async def _tick(self, one: _Reconciler) -> None:
        while True:
            self.hint(one.name)
            await self.world.clock.sleep(one.period_s * self.world.random.uniform(0.9, 1.1))

    async def _work(self, one: _Reconciler, key: str) -> None:
        BACKGROUND.set(True)
        failed = 0
        try:
            while key in one.wanted:
                one.wanted.discard(key)
                one.runs += 1
                try:
                    await one.run(key)
                except Exception as e:  # one of the three places
                    text = e.message if isinstance(e, Fault) else repr(e)
                    if one.errors.get(key) != text:
                        trace = not isinstance(e, Fault)
                        log.error("%s %s failed: %s", one.name, key, text, exc_info=trace)
                    one.errors[key], one.failures = text, one.failures + 1
                    one.wanted.add(key)
                    pause = _PAUSES_S[min(failed, len(_PAUSES_S) - 1)]
                    await self.world.clock.sleep(pause * self.world.random.uniform(0.8, 1.2))
                    failed += 1
                else:
                    one.errors.pop(key, None)
                    failed = 0
        finally:
            one.going.pop(key, None)

"""Who goes first for what there are few of: a caller who waits, before work that runs by itself.

Without it two thousand sagas that start at once keep everybody else from the database: users' reads, and the
heartbeats without which every host would be taken for dead.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import ContextVar
from typing import Generic, TypeVar

T = TypeVar("T")
BACKGROUND: ContextVar[bool] = ContextVar("background", default=False)
"""Set in a task (a saga's, a reconciler's) that nobody waits for; what it calls inherits it."""


class Turns(Generic[T]):
    """A pool whose takers wait in two lines; the second moves only when the first is empty."""

    def __init__(self) -> None:
        self._free: list[T] = []
        self._lines: tuple[deque[asyncio.Future[T]], ...] = (deque(), deque())

    def __len__(self) -> int:
        """How many are free."""
        return len(self._free)

    def give(self, one: T) -> None:
        """Puts one (back) in; whoever waits longest in the first line that has somebody gets it."""
        for line in self._lines:
            while line:
                taker = line.popleft()
                if not taker.done():
                    taker.set_result(one)
                    return
        self._free.append(one)

    async def take(self) -> T:
        """The one given back last, so that few are used when few are needed."""
        if self._free:
            return self._free.pop()
        taker: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._lines[BACKGROUND.get()].append(taker)
        try:
            return await taker
        except asyncio.CancelledError:
            if taker.done() and not taker.cancelled():
                self.give(taker.result())
            raise

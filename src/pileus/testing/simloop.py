"""A deterministic event loop: virtual time, and a seed that orders our own tasks.

`simulate(seed, main())` runs a whole cloud in one thread without sockets. Nothing waits: when no
task can run, the clock jumps to the next timer. Tasks that are ready at once run in an order drawn
from the seed, so races show up without time passing, and the same seed shows them again. Tasks of
libraries keep asyncio's order, which they may rely on.

Work for threads (`asyncio.to_thread`, `run_in_executor`) runs on the loop at one instant, a moment
of virtual time later. It must not wait for the loop: that would never end.

Two processes give the same trace if they also agree on PYTHONHASHSEED, which orders sets of text.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import random
import sysconfig
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from pileus.kernel.world import Clock, World

T = TypeVar("T")

EPOCH_S = 1_767_225_600.0
"""Every simulation starts at 2026-01-01T00:00:00Z."""

_SPIN_LIMIT = 100_000
_THREAD_S = 0.002
_LIBRARIES = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))
_PILEUS = str(Path(__file__).parent.parent)


class SimulationError(RuntimeError):
    """The simulation itself cannot go on: a deadlock, a loop without end, an attempt to go out."""


class SimTask(asyncio.Task[T]):
    """Hashes by its number, so that sets of tasks iterate alike in every run."""

    number: int
    is_own: bool

    def __hash__(self) -> int:
        return self.number


class _Jump:
    """Stands where a selector would: moves the clock instead of waiting."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[object]:
        if timeout is None:
            raise SimulationError(f"Deadlock: no task can run and no timer is set.{_stuck()}")
        if timeout > 0:
            self._loop.jump()
        return []


class SimLoop(asyncio.BaseEventLoop):
    """asyncio's own loop, its selector and its order of tasks replaced. Use `simulate`."""

    def __init__(self, seed: int, *, limit_s: float = 7 * 86_400) -> None:
        super().__init__()
        self.seed = seed
        self.now_s = 0.0
        self.unhandled: list[BaseException] = []
        self._order = random.Random(f"order {seed}")
        self._limit_s = limit_s
        self._numbers = 0
        self._spins = 0
        self._selector = _Jump(self)
        self.set_task_factory(self._new_task)
        self.set_exception_handler(self._note_unhandled)

    def time(self) -> float:
        """Virtual seconds since the start."""
        return self.now_s

    def jump(self) -> None:
        """Sets the clock to the next timer. Raises SimulationError beyond the limit."""
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        self.now_s = max(self.now_s, timers[0].when())
        self._spins = 0
        if self.now_s > self._limit_s:
            raise SimulationError(f"Not finished after {self._limit_s} virtual s.{_stuck()}")

    def _new_task(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, T] | Generator[Any, None, T],
        context: contextvars.Context | None = None,
    ) -> SimTask[T]:
        task: SimTask[T] = SimTask.__new__(SimTask)
        self._numbers += 1
        task.number = self._numbers  # before asyncio puts it into a set
        task.is_own = _is_own(coroutine)
        task.__init__(coroutine, loop=loop, context=context)  # type: ignore[misc]
        return task

    def _note_unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, BaseException):
            self.unhandled.append(error)
        else:
            self.unhandled.append(SimulationError(context["message"]))

    def _run_once(self) -> None:
        self._spins += 1
        if self._spins > _SPIN_LIMIT:
            raise SimulationError(f"{_SPIN_LIMIT} turns without time passing.{_stuck()}")
        self._reorder()
        super()._run_once()  # type: ignore[misc]

    def _reorder(self) -> None:
        """Permutes our tasks among their places. By number first: the order of arrival may stem
        from a set's, and must not count."""
        ready: Any = self._ready  # type: ignore[attr-defined]
        places = [i for i, handle in enumerate(ready) if _own_task(handle)]
        if len(places) < 2:
            return
        handles = sorted((ready[i] for i in places), key=_number)
        self._order.shuffle(handles)
        for place, handle in zip(places, handles, strict=True):
            ready[place] = handle

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Runs `func` on the loop; as in a thread, a caller that gives up does not stop it."""
        return asyncio.shield(self.create_task(self._as_thread(func, *args)))

    async def _as_thread(self, func: Callable[..., T], *args: Any) -> T:
        await asyncio.sleep(self._order.uniform(0, _THREAD_S))
        return func(*args)

    async def getaddrinfo(self, host: Any, port: Any, **hints: Any) -> Any:
        raise SimulationError(f"A simulation has no network, and {host}:{port} was asked for.")

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> Any:
        raise SimulationError("A simulation starts no processes.")

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> Any:
        raise SimulationError("A simulation starts no processes.")

    def _process_events(self, event_list: list[object]) -> None:
        """There are none: asyncio asks after each select."""

    def _write_to_self(self) -> None:
        """Wakes a waiting selector; ours never waits."""


@functools.lru_cache(maxsize=4096)
def _is_own_file(filename: str) -> bool:
    return filename.startswith(_PILEUS) or not filename.startswith(_LIBRARIES)


def _is_own(coroutine: object) -> bool:
    code = getattr(coroutine, "cr_code", None) or getattr(coroutine, "gi_code", None)
    return code is not None and _is_own_file(code.co_filename)


def _own_task(handle: asyncio.Handle) -> bool:
    task = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
    return isinstance(task, SimTask) and task.is_own


def _number(handle: asyncio.Handle) -> int:
    number: int = handle._callback.__self__.number  # type: ignore[attr-defined]
    return number


def _stuck() -> str:
    """Where each unfinished task waits."""
    lines = []
    for task in asyncio.all_tasks():
        stack = task.get_stack(limit=1)
        place = f"{stack[-1].f_code.co_filename}:{stack[-1].f_lineno}" if stack else "?"
        lines.append(
            f"\n  {task.get_name()}: {getattr(task.get_coro(), '__qualname__', '')} at {place}"
        )
    return "".join(sorted(lines))


class SimClock(Clock):
    """The loop's virtual time; wall time starts at EPOCH_S."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def time(self) -> float:
        return EPOCH_S + self._loop.time()

    def monotonic(self) -> float:
        return self._loop.time()


class SimWorld(World):
    """The world inside a running simulation. Chance has a seed of its own: to draw more or less of
    it does not change the order of tasks."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, SimLoop):
            raise SimulationError("A SimWorld is made inside simulate().")
        super().__init__(clock=SimClock(loop), random=random.Random(f"world {loop.seed}"))


class _Noting(AbstractContextManager[None]):
    """Adds the seed to an error that passes by."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            error.add_note(f"in the simulation with seed {self._seed}")


def simulate(seed: int, main: Coroutine[Any, Any, T], *, limit_s: float = 7 * 86_400) -> T:
    """Runs `main` to its end in virtual time; what it left running is cancelled.

    Raises what it raises, SimulationError for a deadlock or past `limit_s`, and an ExceptionGroup
    of the errors of tasks that nobody awaited.
    """
    loop = SimLoop(seed, limit_s=limit_s)
    with _Noting(seed):
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            result = runner.run(main)
        if loop.unhandled:
            raise BaseExceptionGroup("errors that nobody awaited", loop.unhandled)
        return result


def simulated(*, seeds: int = 10) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Makes an `async def test_...` a test that runs under the first `seeds` seeds."""

    def wrap(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(*args: Any, **kwargs: Any) -> None:
            for seed in range(seeds):
                simulate(seed, test(*args, **kwargs))

        return run

    return wrap

"""The bus wakes people up and carries calls to hosts; the truth is in the store.

Two ways to speak, kept apart by the transports:
- `request` to whoever `serve`s a subject. Members of one queue group share the work; without a
  group every server acts and the first answer counts.
- `publish` a hint to all who `subscribe`. Hints may come late, twice, out of order or not at all.

Subjects are words joined by dots; in `subscribe`, `*` stands for one word and a final `>` for one
or more. A message holds at most LIMIT_BYTES: larger things go over HTTP. A request that times out
may still be carried out: servers must take the same request twice.

`MemoryBus` works in one process, with mishaps on demand for simulations; `NatsBus` over NATS stands
in a module of its own.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from pileus.kernel.faults import Bug, TooLarge, Unavailable
from pileus.kernel.world import World

log = logging.getLogger(__name__)

LIMIT_BYTES = 256 * 1024
AT_ONCE = 1024  # handlers of one bus; more requests are refused, more hints dropped
PATIENCE_S = 5.0  # how long `stop` waits for handlers to end before it cancels them

Server = Callable[[bytes], Awaitable[bytes]]
Listener = Callable[[str, bytes], Awaitable[None]]  # gets the subject and the payload


class Subscription(Protocol):
    async def stop(self) -> None:
        """No new message reaches the handler; those under way end. A second stop does nothing."""


class Bus(Protocol):
    async def start(self) -> None:
        """Returns when messages can be sent."""

    async def stop(self) -> None:
        """Ends all subscriptions and waits for handlers under way."""

    async def serve(self, subject: str, handler: Server, *, queue: str = "") -> Subscription: ...

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        """The first answer. Raises Unavailable if nobody serves or answers in time, TooLarge, and
        Bug if the handler raised."""

    async def publish(self, subject: str, payload: bytes) -> None:
        """Sends a hint, or logs that it could not. Raises TooLarge."""

    async def subscribe(self, subject: str, handler: Listener) -> Subscription: ...


@dataclass(frozen=True)
class Reply:
    """What comes back: `status` 0 with the answer, 503 or 500 with a reason."""

    payload: bytes = b""
    status: int = 0
    reason: str = ""

    def open(self, subject: str) -> bytes:
        if self.status == 0:
            return self.payload
        if self.status == 503:
            raise unavailable(f"A part of the cloud is {self.reason}; try again.", subject)
        raise Bug(internal=f"the server of {subject} failed: {self.reason}")


def unavailable(message: str, subject: str) -> Unavailable:
    return Unavailable(message, internal=f"request to {subject}")


def late(subject: str, timeout_s: float) -> Unavailable:
    return unavailable(f"A part of the cloud did not answer within {timeout_s:g} s.", subject)


def nobody(subject: str) -> Unavailable:
    return unavailable("A part of the cloud is not there to answer; try again later.", subject)


SUBJECT = re.compile(r"[\w-]+(\.[\w-]+)*", re.ASCII)
PATTERN = re.compile(r"(([\w-]+|\*)\.)*([\w-]+|\*|>)", re.ASCII)


def check(subject: str, payload: bytes = b"", form: re.Pattern[str] = SUBJECT) -> None:
    if not form.fullmatch(subject):
        raise Bug(internal=f"{subject!r} is not a subject: words of [A-Za-z0-9_-] and dots")
    if len(payload) > LIMIT_BYTES:
        raise TooLarge(
            f"A message of {len(payload)} bytes is too large; at most {LIMIT_BYTES} bytes fit.",
            internal=f"message to {subject}",
        )


class Handlers:
    """Runs each handler in a task of its own, a bounded number at once, and logs what it raises."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_killed = False

    def answer(self, subject: str, handler: Server, payload: bytes) -> asyncio.Future[Reply]:
        """The reply to a request; the future never fails."""
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        if len(self._tasks) >= AT_ONCE:
            reply.set_result(Reply(status=503, reason="too busy"))
            return reply
        task = self._start(_serve(subject, handler, payload))
        task.add_done_callback(partial(self._settle, subject, reply))
        return reply

    def hear(self, subject: str, handler: Listener, payload: bytes) -> None:
        if len(self._tasks) >= AT_ONCE:
            log.warning("Dropped a hint on %s: %s handlers run already.", subject, AT_ONCE)
            return
        task = self._start(_listen(subject, handler, payload))
        task.add_done_callback(partial(_log_failure, subject))

    def _start(self, job: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _settle(
        self, subject: str, reply: asyncio.Future[Reply], task: asyncio.Task[bytes]
    ) -> None:
        _log_failure(subject, task)
        if self._is_killed or reply.cancelled():
            return
        if task.cancelled():
            reply.set_result(Reply(status=503, reason="stopping"))
        elif (error := task.exception()) is not None:
            reply.set_result(Reply(status=500, reason=f"{type(error).__name__}: {error}"[:500]))
        else:
            reply.set_result(Reply(task.result()))

    async def finish(self) -> None:
        """Waits for what runs, but not for ever: then cancels it."""
        tasks = self._tasks - {asyncio.current_task()}
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=PATIENCE_S)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    def kill(self) -> None:
        """As when the process dies: nothing ends and nobody gets an answer."""
        self._is_killed = True
        for task in self._tasks:
            task.cancel()


async def _serve(subject: str, handler: Server, payload: bytes) -> bytes:
    answer = await handler(payload)
    check(subject, answer)
    return answer


async def _listen(subject: str, handler: Listener, payload: bytes) -> None:
    await handler(subject, payload)


def _log_failure(subject: str, task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("The handler of %s failed.", subject, exc_info=error)


@dataclass
class Mishaps:
    """What goes wrong on the way, as probabilities per message and direction; for simulations.

    Delays overtake each other, so `delay` also reorders. Subjects that match a pattern of `cut` are
    lost, as when the net is split.
    """

    drop: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.0
    longest_delay_s: float = 1.0
    cut: set[str] = field(default_factory=set)


@dataclass(eq=False)
class _Seat:
    """One subscription in process."""

    pattern: str
    handlers: Handlers
    seats: list[_Seat]
    server: Server | None = None
    listener: Listener | None = None
    queue: str = ""

    async def stop(self) -> None:
        if self in self.seats:
            self.seats.remove(self)


class Exchange:
    """The wire between the memory buses of one process."""

    def __init__(self, world: World, mishaps: Mishaps | None = None) -> None:
        self.world = world
        self.mishaps = mishaps or Mishaps()
        self.servers: dict[str, list[_Seat]] = {}
        self.listeners: list[_Seat] = []
        self._on_the_way: set[asyncio.Task[None]] = set()

    def servers_of(self, subject: str) -> list[_Seat]:
        """One server of each queue group, drawn by lot, and all those without a group."""
        groups: dict[str, list[_Seat]] = {}
        for number, seat in enumerate(self.servers.get(subject, ())):
            groups.setdefault(seat.queue or f"\0{number}", []).append(seat)
        choose = self.world.random.choice
        return [seats[0] if len(seats) == 1 else choose(seats) for seats in groups.values()]

    def carry(self, subject: str, arrive: Callable[[], None]) -> None:
        """Calls `arrive` once; with mishaps perhaps later, twice or never."""
        mishaps, random = self.mishaps, self.world.random
        if any(matches(pattern, subject) for pattern in mishaps.cut):
            return
        if mishaps.drop and random.random() < mishaps.drop:
            return
        copies = 2 if mishaps.duplicate and random.random() < mishaps.duplicate else 1
        for _ in range(copies):
            if mishaps.delay and random.random() < mishaps.delay:
                self._later(random.uniform(0, mishaps.longest_delay_s), arrive)
            else:
                arrive()

    def _later(self, delay_s: float, arrive: Callable[[], None]) -> None:
        async def wait() -> None:
            await self.world.clock.sleep(delay_s)
            arrive()

        task = asyncio.get_running_loop().create_task(wait())
        self._on_the_way.add(task)
        task.add_done_callback(self._on_the_way.discard)


def matches(pattern: str, subject: str) -> bool:
    """NATS's rule: `*` is one word, a final `>` one or more."""
    wanted, words = pattern.split("."), subject.split(".")
    for number, word in enumerate(wanted):
        if word == ">":
            return len(words) > number
        if number >= len(words) or word not in ("*", words[number]):
            return False
    return len(wanted) == len(words)


class MemoryBus:
    """A bus in process. Those of several nodes in one process share an exchange."""

    def __init__(self, world: World, exchange: Exchange | None = None) -> None:
        self._exchange = exchange or Exchange(world)
        self._handlers = Handlers()
        self._seats: list[_Seat] = []
        self._is_open = False

    async def start(self) -> None:
        self._is_open = True

    async def stop(self) -> None:
        await self._leave()
        await self._handlers.finish()

    async def kill(self) -> None:
        """For simulations: this node dies in the midst of whatever it does."""
        await self._leave()
        self._handlers.kill()

    async def _leave(self) -> None:
        self._is_open = False
        for seat in self._seats:
            await seat.stop()
        self._seats.clear()

    async def serve(self, subject: str, handler: Server, *, queue: str = "") -> Subscription:
        check(subject)
        seats = self._exchange.servers.setdefault(subject, [])
        return self._sit(_Seat(subject, self._handlers, seats, server=handler, queue=queue))

    async def subscribe(self, subject: str, handler: Listener) -> Subscription:
        check(subject, form=PATTERN)
        seats = self._exchange.listeners
        return self._sit(_Seat(subject, self._handlers, seats, listener=handler))

    def _sit(self, seat: _Seat) -> Subscription:
        seat.seats.append(seat)
        self._seats.append(seat)
        return seat

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        check(subject, payload)
        if not self._is_open:
            raise nobody(subject)
        servers = self._exchange.servers_of(subject)
        if not servers:
            raise nobody(subject)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        for seat in servers:
            self._exchange.carry(subject, partial(self._ask, seat, payload, reply))
        try:
            async with asyncio.timeout(timeout_s):
                answer = await reply
        except TimeoutError:
            raise late(subject, timeout_s) from None
        return answer.open(subject)

    def _ask(self, seat: _Seat, payload: bytes, reply: asyncio.Future[Reply]) -> None:
        if seat.server is None or seat not in seat.seats:
            return  # left while the message was on its way
        answer = seat.handlers.answer(seat.pattern, seat.server, payload)
        answer.add_done_callback(partial(self._carry_back, seat.pattern, reply))

    def _carry_back(
        self, subject: str, reply: asyncio.Future[Reply], answer: asyncio.Future[Reply]
    ) -> None:
        def arrive() -> None:
            if not reply.done():
                reply.set_result(answer.result())

        self._exchange.carry(subject, arrive)

    async def publish(self, subject: str, payload: bytes) -> None:
        check(subject, payload)
        if not self._is_open:
            log.warning("Dropped a hint on %s: the bus is not started.", subject)
            return
        for seat in list(self._exchange.listeners):
            if matches(seat.pattern, subject):
                self._exchange.carry(subject, partial(_tell, seat, subject, payload))


def _tell(seat: _Seat, subject: str, payload: bytes) -> None:
    if seat.listener is not None and seat in seat.seats:
        seat.handlers.hear(subject, seat.listener, payload)

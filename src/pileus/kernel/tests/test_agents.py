"""Calls to hosts that start anew before they have answered."""

from __future__ import annotations

import asyncio
from typing import Protocol

import pytest

from pileus.kernel.agents import Agents
from pileus.kernel.bus import MemoryBus
from pileus.kernel.contracts import Contract
from pileus.kernel.faults import Unavailable
from pileus.kernel.world import World


class Worker(Protocol):
    async def work(self, name: str) -> str: ...


WORKER = Contract("worker", Worker)  # type: ignore[type-abstract]


class Slow:
    def __init__(self) -> None:
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def work(self, name: str) -> str:
        self.asked.set()
        await self.may_answer.wait()
        return name.upper()


async def two_sides() -> tuple[Agents, Slow]:
    """Control's end, and a host's implementation at `far`."""
    bus = MemoryBus(World())
    await bus.start()
    slow = Slow()
    await Agents(bus).serve(WORKER, slow, "far")
    return Agents(bus), slow


def test_a_call_to_a_host_that_starts_anew_is_unavailable_at_once() -> None:
    async def main() -> None:
        agents, slow = await two_sides()
        call = asyncio.ensure_future(agents.proxy(WORKER, "far").work("x"))
        await slow.asked.wait()
        agents.restarted("far")
        with pytest.raises(Unavailable, match="started anew"):
            await asyncio.wait_for(call, 1)

    asyncio.run(main())


def test_a_call_to_another_host_goes_on() -> None:
    async def main() -> None:
        agents, slow = await two_sides()
        call = asyncio.ensure_future(agents.proxy(WORKER, "far").work("x"))
        await slow.asked.wait()
        agents.restarted("near")
        slow.may_answer.set()
        assert await asyncio.wait_for(call, 1) == "X"
        agents.restarted("far")  # nothing waits any more
        assert not agents._waiting, "nothing is remembered of calls that ended"

    asyncio.run(main())


def test_of_two_calls_that_wait_the_one_that_ends_leaves_the_other_to_be_told() -> None:
    async def main() -> None:
        agents, slow = await two_sides()
        first = asyncio.ensure_future(agents.proxy(WORKER, "far").work("x"))
        second = asyncio.ensure_future(agents.proxy(WORKER, "far").work("y"))
        await slow.asked.wait()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        agents.restarted("far")
        with pytest.raises(Unavailable, match="started anew"):
            await asyncio.wait_for(second, 1)

    asyncio.run(main())


def test_a_caller_that_is_cancelled_is_cancelled_and_not_told_of_a_restart() -> None:
    async def main() -> None:
        agents, slow = await two_sides()
        call = asyncio.ensure_future(agents.proxy(WORKER, "far").work("x"))
        await slow.asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(main())

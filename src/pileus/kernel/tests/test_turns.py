"""Two lines for what there are few of."""

from __future__ import annotations

import asyncio

import pytest

from pileus.kernel.turns import BACKGROUND, Turns


async def _taker(turns: Turns[str], name: str, order: list[str], *, background: bool) -> None:
    BACKGROUND.set(background)
    one = await turns.take()
    order.append(name)
    turns.give(one)


async def test_who_waits_goes_before_work_that_runs_by_itself() -> None:
    turns: Turns[str] = Turns()
    order: list[str] = []
    names = [("saga-1", True), ("saga-2", True), ("user-1", False), ("user-2", False)]
    tasks = [
        asyncio.create_task(_taker(turns, name, order, background=late)) for name, late in names
    ]
    await asyncio.sleep(0)
    turns.give("connection")
    await asyncio.gather(*tasks)
    assert order == ["user-1", "user-2", "saga-1", "saga-2"]
    assert len(turns) == 1


async def test_a_taker_who_gives_up_loses_nothing() -> None:
    turns: Turns[str] = Turns()
    waiting = asyncio.create_task(turns.take())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    turns.give("connection")
    assert await turns.take() == "connection"


async def test_a_taker_cancelled_at_the_moment_of_its_turn_gives_it_on() -> None:
    turns: Turns[str] = Turns()
    first, second = asyncio.create_task(turns.take()), asyncio.create_task(turns.take())
    await asyncio.sleep(0)
    turns.give("connection")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second == "connection"


async def test_the_one_given_back_last_is_taken_first() -> None:
    turns: Turns[int] = Turns()
    turns.give(1)
    turns.give(2)
    assert await turns.take() == 2

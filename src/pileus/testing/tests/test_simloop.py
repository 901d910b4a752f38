"""The simulator: equal seeds give equal runs, time is virtual, races and stuck tasks are found."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pileus.kernel.world import World
from pileus.testing.simloop import EPOCH_S, SimulationError, SimWorld, simulate, simulated

Trace = list[tuple[float, int, str]]


async def busy_world(trace: Trace) -> None:
    """Twenty tasks that sleep, time out, use threads and get cancelled."""
    world = SimWorld()

    async def node(number: int) -> None:
        for turn in range(20):
            await world.clock.sleep(world.random.expovariate(1 / 60))
            trace.append((world.clock.monotonic(), number, world.new_hex()))
            if turn % 5 == 0:
                trace.append((world.clock.monotonic(), number, await asyncio.to_thread(str, turn)))
            if turn % 7 == 0:
                try:
                    async with asyncio.timeout(5):
                        await world.clock.sleep(world.random.uniform(0, 10))
                except TimeoutError:
                    trace.append((world.clock.monotonic(), number, "timeout"))

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(node(number))


def trace_of(seed: int) -> Trace:
    trace: Trace = []
    simulate(seed, busy_world(trace))
    return trace


def test_the_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    first = [trace_of(seed) for seed in range(5)]
    assert first == [trace_of(seed) for seed in range(5)]
    assert len({str(trace) for trace in first}) == 5


def test_another_process_gives_the_same_trace() -> None:
    program = (
        "import asyncio, pileus.testing.tests.test_simloop as t; print(hash(str(t.trace_of(3))))"
    )
    command = [sys.executable, "-c", program]
    env = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    answers = {
        subprocess.run(command, env=env, capture_output=True, check=True).stdout for _ in "ab"
    }
    assert len(answers) == 1


def test_an_hour_of_virtual_time_passes_at_once() -> None:
    async def main() -> tuple[float, str]:
        world = SimWorld()
        await world.clock.sleep(3600)
        return world.clock.time(), world.clock.now()

    started = time.monotonic()
    assert simulate(0, main()) == (EPOCH_S + 3600, "2026-01-01T01:00:00.000000Z")
    assert time.monotonic() - started < 1


async def lost_update() -> int:
    value = 0

    async def bump() -> None:
        nonlocal value
        seen = value
        await asyncio.sleep(0)
        value = seen + 1

    async def late_bump() -> None:
        await asyncio.sleep(0)
        await bump()

    await asyncio.gather(bump(), late_bump())
    return value


def test_some_seed_finds_a_lost_update_and_some_does_not() -> None:
    assert {simulate(seed, lost_update()) for seed in range(20)} == {1, 2}


def test_cancelling_a_set_of_tasks_is_ordered_by_the_seed_alone() -> None:
    async def main() -> list[int]:
        ended: list[int] = []

        async def sleeper(number: int) -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                ended.append(number)

        tasks = {asyncio.create_task(sleeper(number)) for number in range(20)}
        await asyncio.sleep(1)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return ended

    ballast = []
    orders = []
    for number in range(5):
        ballast.append([object() for _ in range(number * 7)])  # other addresses, other hashes
        orders.append(simulate(4, main()))
    assert all(order == orders[0] for order in orders)
    assert orders[0] != simulate(5, main())


def test_the_order_of_waking_does_not_stem_from_who_was_woken_first() -> None:
    async def main(step: int) -> list[int]:
        loop = asyncio.get_running_loop()
        gates = [loop.create_future() for _ in range(20)]
        order: list[int] = []

        async def waits(number: int) -> None:
            await gates[number]
            order.append(number)

        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(waits(number))
            await asyncio.sleep(1)
            for gate in gates[::step]:
                gate.set_result(None)
        return order

    assert simulate(4, main(1)) == simulate(4, main(-1))


def test_a_set_of_tasks_iterates_alike_in_every_run() -> None:
    async def main() -> list[str]:
        ballast = [object() for _ in range(len(kept) * 7)]  # other addresses
        kept.append(ballast)
        tasks = {asyncio.create_task(asyncio.sleep(1), name=str(n)) for n in range(50)}
        await asyncio.wait(tasks)
        return [task.get_name() for task in tasks]

    kept: list[object] = []
    assert len({tuple(simulate(1, main())) for _ in range(5)}) == 1


def test_a_loop_that_lets_no_time_pass_is_stopped() -> None:
    async def spins() -> None:
        for _ in range(10_000_000):
            await asyncio.sleep(0)

    with pytest.raises(SimulationError, match=r"without time passing(.|\n)*spins"):
        simulate(0, spins())


async def order_of_appends(
    append: Callable[[list[int], int], Coroutine[Any, Any, None]],
) -> list[int]:
    order: list[int] = []
    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(append(order, number))
    return order


async def own(order: list[int], number: int) -> None:
    order.append(number)


def test_tasks_of_libraries_keep_their_order_and_ours_do_not() -> None:
    names: dict[str, Any] = {}
    source = "async def append(order, number): order.append(number)"
    exec(compile(source, sysconfig.get_path("stdlib") + "/library.py", "exec"), names)
    assert simulate(1, order_of_appends(names["append"])) == list(range(20))
    ours = simulate(1, order_of_appends(own))
    assert ours != list(range(20))
    assert sorted(ours) == list(range(20))


def test_thread_work_runs_inline_a_moment_later_and_hands_back_errors() -> None:
    async def main() -> tuple[bool, bool]:
        loop = asyncio.get_running_loop()
        here = threading.get_ident()
        before = loop.time()
        same = await asyncio.to_thread(threading.get_ident) == here
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, divmod, 1, 0)
        return same, loop.time() > before

    assert simulate(0, main()) == (True, True)


@simulated(seeds=20)
async def test_thread_work_goes_on_when_its_caller_gives_up() -> None:
    done: list[int] = []
    caller = asyncio.create_task(asyncio.to_thread(done.append, 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert done == [], "it ran before the caller gave up"
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await asyncio.sleep(1)
    assert done == [1]


def test_a_deadlock_names_the_tasks_that_wait() -> None:
    async def waits_for_ever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(SimulationError, match=r"Deadlock(.|\n)*waits_for_ever") as caught:
        simulate(77, waits_for_ever())
    assert "seed 77" in caught.value.__notes__[0]


def test_a_simulation_past_its_limit_stops() -> None:
    async def ticks() -> None:
        for _ in range(1000):
            await asyncio.sleep(1)

    with pytest.raises(SimulationError, match=r"60 virtual s(.|\n)*ticks"):
        simulate(0, ticks(), limit_s=60)


def test_an_error_in_a_task_that_nobody_awaits_fails_the_simulation() -> None:
    async def fails() -> None:
        raise LookupError("lost")

    async def main() -> None:
        task = asyncio.create_task(fails())
        await asyncio.sleep(1)
        del task

    with pytest.raises(ExceptionGroup) as caught:
        simulate(0, main())
    assert [str(error) for error in caught.value.exceptions] == ["lost"]


def test_tasks_left_over_are_cancelled_at_the_end() -> None:
    ended: list[str] = []

    async def serves() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("serves")

    async def main() -> None:
        main.task = asyncio.create_task(serves())  # type: ignore[attr-defined]
        await asyncio.sleep(1)

    simulate(0, main())
    assert ended == ["serves"]


def test_network_and_processes_are_out_of_reach() -> None:
    async def connect() -> None:
        await asyncio.open_connection("localhost", 80)

    async def run() -> None:
        await asyncio.create_subprocess_exec("true")

    with pytest.raises(SimulationError, match="localhost:80"):
        simulate(0, connect())
    with pytest.raises(SimulationError, match="processes"):
        simulate(0, run())


def test_a_sim_world_outside_a_simulation_is_refused() -> None:
    async def main() -> World:
        return SimWorld()

    with pytest.raises(SimulationError, match=r"inside simulate"):
        asyncio.run(main())

"""One suite for both buses, then what only the one in memory has: mishaps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from pileus.kernel.bus import (
    AT_ONCE,
    LIMIT_BYTES,
    PATIENCE_S,
    Bus,
    Exchange,
    MemoryBus,
    Mishaps,
    matches,
)
from pileus.kernel.faults import Bug, TooLarge, Unavailable
from pileus.kernel.nats_bus import NatsBus, NatsSettings
from pileus.kernel.world import World
from pileus.testing.nats_server import NatsServer, nats_server
from pileus.testing.simloop import SimWorld, simulate, simulated

NewBus = Callable[[], Bus]
Scenario = Callable[[NewBus], Awaitable[None]]
Play = Callable[[Scenario], None]


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = nats_server(tmp_path_factory.mktemp("nats"))
    yield server
    server.stop()


@pytest.fixture(params=["memory", "nats"])
def play(request: pytest.FixtureRequest) -> Play:
    """Runs a scenario with buses that reach each other, and stops them."""
    if request.param == "memory":
        return lambda scenario: simulate(1, _in_memory(scenario))
    server: NatsServer = request.getfixturevalue("nats")
    return lambda scenario: asyncio.run(_over_nats(scenario, server.settings()))


async def _in_memory(scenario: Scenario) -> None:
    world = SimWorld()
    exchange = Exchange(world)
    await _with_buses(scenario, lambda: MemoryBus(world, exchange))


async def _over_nats(scenario: Scenario, settings: NatsSettings) -> None:
    await _with_buses(scenario, lambda: NatsBus(World(), settings))


async def _with_buses(scenario: Scenario, new: NewBus) -> None:
    made: list[Bus] = []

    def new_and_noted() -> Bus:
        made.append(new())
        return made[-1]

    try:
        await scenario(new_and_noted)
    finally:
        for bus in made:
            await bus.stop()


async def echo(payload: bytes) -> bytes:
    return b"echo " + payload


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (there is no event to wait for)
            await asyncio.sleep(0.01)


async def two(new: NewBus) -> tuple[Bus, Bus]:
    here, there = new(), new()
    await here.start()
    await there.start()
    return here, there


def test_a_request_gets_the_servers_answer(play: Play) -> None:
    async def scenario(new: NewBus) -> None:
        here, there = await two(new)
        await there.serve("host.h1.compute", echo)
        assert await here.request("host.h1.compute", b"hi", timeout_s=5) == b"echo hi"
        assert await there.request("host.h1.compute", b"", timeout_s=5) == b"echo "

    play(scenario)


def test_a_request_that_nobody_serves_is_unavailable_at_once(play: Play) -> None:
    async def scenario(new: NewBus) -> None:
        here, there = await two(new)
        serving = await there.serve("host.h1", echo)
        with pytest.raises(Unavailable, match="not there") as caught:
            await here.request("host.h2", b"", timeout_s=60)
        assert "host.h2" in caught.value.internal
        await serving.stop()
        await serving.stop()
        with pytest.raises(Unavailable, match="not there"):
            await here.request("host.h1", b"", timeout_s=60)

    play(scenario)


def test_a_request_without_an_answer_in_time_is_unavailable(play: Play) -> None:
    async def scenario(new: NewBus) -> None:
        here, there = await two(new)

        async def slow(payload: bytes) -> bytes:
            await asyncio.sleep(0.5)
            return payload

        await there.serve("slow", slow)
        with pytest.raises(Unavailable, match=r"within 0\.1 s"):
            await here.request("slow", b"", timeout_s=0.1)

    play(scenario)


def test_a_slow_request_does_not_hold_up_the_next(play: Play) -> None:
    async def scenario(new: NewBus) -> None:
        here, there = await two(new)
        gate = asyncio.Event()

        async def gated(payload: bytes) -> bytes:
            if payload == b"wait":
                await gate.wait()
            return payload

        await there.serve("gated", gated)
        waiting = asyncio.create_task(here.request("gated", b"wait", timeout_s=5))
        assert await here.request("gated", b"go", timeout_s=5) == b"go"
        assert not waiting.done()
        gate.set()
        assert await waiting == b"wait"

    play(scenario)


def test_a_handler_that_raises_is_a_bug_told_at_once_and_logged(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(new: NewBus) -> None:
        here, there = await two(new)

        async def fails(payload: bytes) -> bytes:
            raise LookupError("no ünit\nhere")

        await there.serve("fails", fails)
        with pytest.raises(Bug) as caught:
            await here.request("fails", b"", timeout_s=60)
        assert "LookupError: no ünit" in caught.value.internal
        assert "LookupError" not in caught.value.message

    play(scenario)
    assert "The handler of fails failed" in caplog.text


def test_a_queue_group_shares_requests_and_each_goes_to_one_member(play: Play) -> None:
    async def scenario(new: NewBus) -> None:
        here, there = await two(new)
        seen: list[tuple[str, bytes]] = []

        def member(name: str) -> Callable[[bytes], Awaitable[bytes]]:
            async def handle(payload: bytes) -> bytes:
                seen.append((name, payload))
                return name.encode()

            return handle

        await here.serve("work", member("a"), queue="workers")
        await there.serve("work", member("b"), queue="workers")
        for number in range(40):
            await here.request("work", str(number).encode(), timeout_s=5)
        assert len(seen) == 40
        assert {name for name, _ in seen} == {"a", "b"}

    play(scenario)


def test_without_a_group_every_server_acts_and_the_first_answer_counts(play: Play) -> None:
    async def scenario(new: NewBus) -> None:
        here, there = await two(new)
        seen: list[str] = []

        async def quick(payload: bytes) -> bytes:
            seen.append("quick")
            return b"quick"

        async def slow(payload: bytes) -> bytes:
            await asyncio.sleep(0.2)
            seen.append("slow")
            return b"slow"

        await here.serve("both", slow)
        await there.serve("both", quick)
        assert await here.request("both", b"", timeout_s=5) == b"quick"
        await until(lambda: seen == ["quick", "slow"])

    play(scenario)


def test_hints_reach_every_subscriber_whose_pattern_matches(play: Play) -> None:
    async def scenario(new: NewBus) -> None:
        here, there = await two(new)
        heard: dict[str, list[tuple[str, bytes]]] = {}

        async def listen(bus: Bus, pattern: str) -> None:
            notes = heard.setdefault(pattern, [])

            async def note(subject: str, payload: bytes) -> None:
                notes.append((subject, payload))

            await bus.subscribe(pattern, note)

        for pattern in ("saga.p1.ready", "saga.*.ready", "saga.>", "*.p1.*", "saga.*", ">"):
            await listen(there, pattern)
        await here.publish("saga.p1.ready", b"1")
        await here.publish("saga.p2.done", b"2")
        await here.publish("end", b"3")
        await until(lambda: sum(map(len, heard.values())) == 8)
        one, other, end = ("saga.p1.ready", b"1"), ("saga.p2.done", b"2"), ("end", b"3")
        assert {pattern: sorted(notes) for pattern, notes in heard.items()} == {
            "saga.p1.ready": [one],
            "saga.*.ready": [one],
            "saga.>": [one, other],
            "*.p1.*": [one],
            "saga.*": [],
            ">": sorted([one, other, end]),
        }

    play(scenario)


def test_requests_and_hints_on_one_subject_do_not_mix(play: Play) -> None:
    async def scenario(new: NewBus) -> None:
        here, there = await two(new)
        heard: list[bytes] = []

        async def note(subject: str, payload: bytes) -> None:
            heard.append(payload)

        await there.subscribe("same", note)
        with pytest.raises(Unavailable, match="not there"):
            await here.request("same", b"request", timeout_s=60)
        await there.serve("same", echo)
        await here.publish("same", b"hint")
        await until(lambda: bool(heard))
        assert heard == [b"hint"]

    play(scenario)


def test_a_listener_that_raises_is_logged_and_hears_the_next_hint(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(new: NewBus) -> None:
        here, there = await two(new)
        heard: list[bytes] = []

        async def note(subject: str, payload: bytes) -> None:
            heard.append(payload)
            raise LookupError(payload)

        await there.subscribe("hints", note)
        await here.publish("hints", b"1")
        await here.publish("hints", b"2")
        await until(lambda: len(heard) == 2)

    play(scenario)
    assert caplog.text.count("The handler of hints failed") == 2


def test_messages_over_256_kib_are_refused_in_both_directions(play: Play) -> None:
    async def scenario(new: NewBus) -> None:
        here, there = await two(new)

        async def grow(payload: bytes) -> bytes:
            return payload + b"x"

        await there.serve("grow", grow)
        full = b"x" * (LIMIT_BYTES - 1)
        assert len(await here.request("grow", full, timeout_s=5)) == LIMIT_BYTES
        with pytest.raises(TooLarge, match="262145 bytes is too large; at most 262144"):
            await here.request("grow", full + b"xx", timeout_s=5)
        with pytest.raises(TooLarge, match="262145"):
            await here.publish("grow", full + b"xx")
        with pytest.raises(Bug) as caught:
            await here.request("grow", full + b"x", timeout_s=5)
        assert "262145 bytes is too large" in caught.value.internal

    play(scenario)


@pytest.mark.parametrize("subject", ["", "a..b", "a b", ".a", "a.", "a.*", ">", "a\r\nPUB b", "é"])
def test_a_bad_subject_is_a_bug(play: Play, subject: str) -> None:
    async def scenario(new: NewBus) -> None:
        here, _ = await two(new)
        with pytest.raises(Bug):
            await here.serve(subject, echo)
        with pytest.raises(Bug):
            await here.request(subject, b"", timeout_s=1)
        with pytest.raises(Bug):
            await here.publish(subject, b"")

    play(scenario)


@pytest.mark.parametrize("pattern", ["", "a..b", ">.a", "a.>.b", "a*", "*b.c", "a b", "a\r\nSUB"])
def test_a_bad_pattern_is_a_bug(play: Play, pattern: str) -> None:
    async def scenario(new: NewBus) -> None:
        here, _ = await two(new)

        async def listen(subject: str, payload: bytes) -> None:
            raise AssertionError(subject)

        with pytest.raises(Bug):
            await here.subscribe(pattern, listen)

    play(scenario)


def test_a_stop_lets_requests_under_way_end_and_takes_no_more(play: Play) -> None:
    async def scenario(new: NewBus) -> None:
        here, there = await two(new)
        begun = asyncio.Event()

        async def slow(payload: bytes) -> bytes:
            begun.set()
            await asyncio.sleep(0.2)
            return b"done"

        await there.serve("slow", slow)
        asked = asyncio.create_task(here.request("slow", b"", timeout_s=5))
        await begun.wait()
        await there.stop()
        assert await asked == b"done"
        with pytest.raises(Unavailable):
            await here.request("slow", b"", timeout_s=5)
        with pytest.raises(Unavailable):
            await there.request("slow", b"", timeout_s=5)

    play(scenario)


@pytest.mark.parametrize(
    ("pattern", "subject", "answer"),
    [
        ("a", "a", True),
        ("a", "a.b", False),
        ("a.b", "a", False),
        ("*", "a.b", False),
        ("a.*", "a", False),
        ("a.>", "a", False),
        ("a.>", "a.b.c", True),
        ("*.>", "a.b", True),
        (">", "a", True),
    ],
)
def test_wildcards_match_as_in_nats(pattern: str, subject: str, answer: bool) -> None:
    assert matches(pattern, subject) is answer


# Mishaps


async def tally(mishaps: Mishaps) -> tuple[int, int]:
    """Of 200 requests, how many were answered and how often the server acted."""
    world = SimWorld()
    bus = MemoryBus(world, Exchange(world, mishaps))
    await bus.start()
    acted = 0

    async def act(payload: bytes) -> bytes:
        nonlocal acted
        acted += 1
        return payload

    await bus.serve("act", act)
    asked = (bus.request("act", str(n).encode(), timeout_s=10) for n in range(200))
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(answer, bytes | Unavailable) for answer in answers)
    await bus.stop()
    return sum(isinstance(answer, bytes) for answer in answers), acted


def test_without_mishaps_every_request_is_served_once() -> None:
    assert simulate(3, tally(Mishaps())) == (200, 200)


def test_dropped_messages_lose_requests_and_answers_alike() -> None:
    answered, acted = simulate(3, tally(Mishaps(drop=0.2)))
    assert 100 < answered < acted < 190, "one in five is lost each way"
    assert (answered, acted) == simulate(3, tally(Mishaps(drop=0.2)))
    assert (answered, acted) != simulate(4, tally(Mishaps(drop=0.2)))


def test_duplicated_requests_act_twice_and_answer_once() -> None:
    answered, acted = simulate(3, tally(Mishaps(duplicate=0.3)))
    assert answered == 200
    assert 220 < acted < 300, "three in ten came twice"


def test_delays_beyond_the_timeout_are_unavailable_and_still_act() -> None:
    answered, acted = simulate(3, tally(Mishaps(delay=0.5, longest_delay_s=20)))
    assert answered < 200
    assert acted > answered


@simulated(seeds=5)
async def test_delayed_hints_arrive_out_of_order() -> None:
    world = SimWorld()
    bus = MemoryBus(world, Exchange(world, Mishaps(delay=1.0, longest_delay_s=2)))
    heard: list[int] = []

    async def note(subject: str, payload: bytes) -> None:
        heard.append(int(payload))

    await bus.start()
    await bus.subscribe("hint", note)
    for number in range(20):
        await bus.publish("hint", str(number).encode())
    await world.clock.sleep(3)
    assert sorted(heard) == list(range(20))
    assert heard != sorted(heard)


@simulated(seeds=3)
async def test_a_cut_subject_is_lost_until_it_heals() -> None:
    world = SimWorld()
    exchange = Exchange(world)
    bus = MemoryBus(world, exchange)
    await bus.start()
    await bus.serve("host.h1.compute", echo)
    exchange.mishaps.cut.add("host.h1.>")
    with pytest.raises(Unavailable, match="within"):
        await bus.request("host.h1.compute", b"", timeout_s=3)
    assert world.clock.monotonic() == 3
    exchange.mishaps.cut.clear()
    assert await bus.request("host.h1.compute", b"", timeout_s=3) == b"echo "


@simulated(seeds=3)
async def test_a_message_on_its_way_to_a_server_that_left_is_lost() -> None:
    world = SimWorld()
    bus = MemoryBus(world, Exchange(world, Mishaps(delay=1.0, longest_delay_s=2)))
    await bus.start()
    acted: list[bytes] = []

    async def act(payload: bytes) -> bytes:
        acted.append(payload)
        return payload

    serving = await bus.serve("act", act)
    asked = asyncio.create_task(bus.request("act", b"", timeout_s=10))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await serving.stop()
    with pytest.raises(Unavailable, match="within 10 s"):
        await asked
    assert acted == []


@simulated(seeds=3)
async def test_a_node_that_stopped_reaches_nobody_though_others_are_there() -> None:
    world = SimWorld()
    exchange = Exchange(world)
    here, there = MemoryBus(world, exchange), MemoryBus(world, exchange)
    await here.start()
    await there.start()
    acted: list[bytes] = []

    async def act(payload: bytes) -> bytes:
        acted.append(payload)
        return payload

    async def listen(subject: str, payload: bytes) -> None:
        acted.append(payload)

    await there.serve("act", act)
    await there.subscribe("news", listen)
    await here.stop()
    with pytest.raises(Unavailable, match="not there to answer"):
        await here.request("act", b"asked", timeout_s=10)
    await here.publish("news", b"told")
    await asyncio.sleep(1)
    assert acted == []


@simulated(seeds=3)
async def test_a_stop_cancels_handlers_that_do_not_end() -> None:
    world = SimWorld()
    exchange = Exchange(world)
    here, there = MemoryBus(world, exchange), MemoryBus(world, exchange)
    await here.start()
    await there.start()

    async def never(payload: bytes) -> bytes:
        await asyncio.Event().wait()
        return payload

    await there.serve("never", never)
    asked = asyncio.create_task(here.request("never", b"", timeout_s=60))
    await world.clock.sleep(1)
    await there.stop()
    assert world.clock.monotonic() == 1 + PATIENCE_S
    with pytest.raises(Unavailable, match="is stopping; try again"):
        await asked


@simulated(seeds=1)
async def test_more_than_so_many_at_once_are_refused_and_hints_dropped() -> None:
    world = SimWorld()
    bus = MemoryBus(world)
    await bus.start()
    gate = asyncio.Event()
    heard: list[bytes] = []

    async def gated(payload: bytes) -> bytes:
        await gate.wait()
        return payload

    async def note(subject: str, payload: bytes) -> None:
        heard.append(payload)

    await bus.serve("gated", gated)
    await bus.subscribe("hint", note)
    asked = [bus.request("gated", b"", timeout_s=60) for _ in range(AT_ONCE + 1)]
    answers = asyncio.gather(*asked, return_exceptions=True)
    await world.clock.sleep(1)
    await bus.publish("hint", b"lost")
    gate.set()
    refused = [answer for answer in await answers if answer != b""]
    assert [str(answer) for answer in refused] == ["A part of the cloud is too busy; try again."]
    await bus.publish("hint", b"heard")
    await world.clock.sleep(1)
    assert heard == [b"heard"]
    await bus.stop()


@simulated(seeds=3)
async def test_a_killed_node_ends_nothing_and_answers_nobody() -> None:
    world = SimWorld()
    exchange = Exchange(world)
    here, there = MemoryBus(world, exchange), MemoryBus(world, exchange)
    await here.start()
    await there.start()
    ended: list[bytes] = []

    async def slow(payload: bytes) -> bytes:
        await world.clock.sleep(1)
        ended.append(payload)
        return payload

    await there.serve("slow", slow)
    asked = asyncio.create_task(here.request("slow", b"", timeout_s=5))
    await world.clock.sleep(0.5)
    await there.kill()
    with pytest.raises(Unavailable, match="within 5 s"):
        await asked
    with pytest.raises(Unavailable, match="not there to answer"):
        await here.request("slow", b"later", timeout_s=5)
    assert ended == []

"""Contracts across processes, on both buses: typed both ways, faults as they were raised, old attempts refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Protocol

import msgspec
import pytest

from pileus.kernel import agents as agents_module
from pileus.kernel.agents import CONTROL, Agents, Fence
from pileus.kernel.bus import Bus, Exchange, MemoryBus
from pileus.kernel.contracts import Contract, Contracts
from pileus.kernel.faults import Bug, Conflict, Fault, Invalid, NotFound, Unavailable
from pileus.kernel.nats_bus import NatsBus
from pileus.kernel.world import World
from pileus.testing.nats_server import NatsServer, nats_server


class Load(msgspec.Struct, frozen=True):
    name: str
    weights: tuple[int, ...] = ()


class Dock(Protocol):
    async def lift(self, load: Load, height: int) -> Load: ...
    async def refuse(self, kind: str) -> None: ...
    async def nothing(self) -> None: ...
    async def maybe(self, name: str | None) -> Load | None: ...


DOCK = Contract("dock", Dock)  # type: ignore[type-abstract]
REFUSALS: dict[str, Fault] = {
    "NotFound": NotFound("no crane", code="Crane", internal="bay 3"),
    "Conflict": Conflict("busy"),
    "Invalid": Invalid("too heavy"),
}


class Kept:
    """The dock at one address."""

    def __init__(self, name: str = "") -> None:
        self.name, self.calls = name, list[Any]()

    async def lift(self, load: Load, height: int) -> Load:
        self.calls.append((load, height))
        return Load(self.name + load.name.upper(), (*load.weights, height))

    async def refuse(self, kind: str) -> None:
        if kind in REFUSALS:
            raise REFUSALS[kind]
        raise RuntimeError("the rope is torn")

    async def nothing(self) -> None:
        self.calls.append("nothing")

    async def maybe(self, name: str | None) -> Load | None:
        return None if name is None else Load(name)


NewBus = Callable[[], Bus]
Play = Callable[[Callable[[NewBus], Awaitable[None]]], None]


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = nats_server(tmp_path_factory.mktemp("nats"))
    yield server
    server.stop()


@pytest.fixture(params=["memory", "nats"])
def play(request: pytest.FixtureRequest) -> Play:
    """Runs a scene with buses that reach each other, and stops them."""
    server: NatsServer | None = None
    if request.param == "nats":
        server = request.getfixturevalue("nats")

    def run(scene: Callable[[NewBus], Awaitable[None]]) -> None:
        asyncio.run(_with_buses(scene, server))

    return run


async def _with_buses(
    scene: Callable[[NewBus], Awaitable[None]], server: NatsServer | None
) -> None:
    made: list[Bus] = []
    exchange = Exchange(World())

    def new() -> Bus:
        bus: Bus = (
            MemoryBus(World(), exchange) if server is None else NatsBus(World(), server.settings())
        )
        made.append(bus)
        return bus

    try:
        async with asyncio.timeout(20):
            await scene(new)
    finally:
        for bus in made:
            await bus.stop()


async def ends(new: NewBus, kept: Kept, address: str = "far") -> tuple[Agents, Agents]:
    """Two processes: the caller's, and the one that keeps the dock."""
    buses = new(), new()
    for bus in buses:
        await bus.start()
    here, there = Agents(buses[0], timeout_s=5), Agents(buses[1], timeout_s=5)
    await there.serve(DOCK, kept, address)
    return here, there


def test_arguments_and_answers_keep_their_types(play: Play) -> None:
    async def scene(new: NewBus) -> None:
        kept = Kept()
        here, _ = await ends(new, kept)
        dock = here.proxy(DOCK, "far")
        assert await dock.lift(Load("box", (1, 2)), 3) == Load("BOX", (1, 2, 3))
        assert await dock.lift(height=9, load=Load("x")) == Load("X", (9,))
        assert await dock.lift(Load("y"), height=1) == Load("Y", (1,))
        assert kept.calls[0] == (Load("box", (1, 2)), 3)
        await dock.nothing()
        assert await dock.maybe(None) is None
        assert await dock.maybe("m") == Load("m")

    play(scene)


@pytest.mark.parametrize("kind", list(REFUSALS))
def test_a_fault_comes_across_as_itself(play: Play, kind: str) -> None:
    async def scene(new: NewBus) -> None:
        here, _ = await ends(new, Kept())
        with pytest.raises(type(REFUSALS[kind])) as raised:
            await here.proxy(DOCK, "far").refuse(kind)
        wanted, got = REFUSALS[kind], raised.value
        assert (got.message, got.code, got.internal) == (
            wanted.message,
            wanted.code,
            wanted.internal,
        )
        assert type(got) is type(wanted) and got.headers == {}

    play(scene)


def test_an_unexpected_error_on_the_far_side_is_a_bug_here(play: Play) -> None:
    async def scene(new: NewBus) -> None:
        here, _ = await ends(new, Kept())
        with pytest.raises(Bug):
            await here.proxy(DOCK, "far").refuse("otherwise")

    play(scene)


def test_nobody_at_the_address_is_unavailable(play: Play) -> None:
    async def scene(new: NewBus) -> None:
        here, _ = await ends(new, Kept())
        with pytest.raises(Unavailable):
            await here.proxy(DOCK, "elsewhere").nothing()

    play(scene)


def test_a_call_to_ones_own_process_does_not_leave_it() -> None:
    async def scene() -> None:
        bus = MemoryBus(World())
        here = Agents(bus)  # the bus was never started
        kept = Kept()
        await here.serve(DOCK, kept, "near")
        load = Load("box")
        await here.proxy(DOCK, "near").lift(load, 1)
        assert kept.calls[0][0] is load
        with pytest.raises(NotFound, match="no crane"):
            await here.proxy(DOCK, "near").refuse("NotFound")

    asyncio.run(scene())


def test_controls_share_the_calls_to_them(play: Play) -> None:
    async def scene(new: NewBus) -> None:
        kept = [Kept(), Kept()]
        here, _ = await ends(new, kept[0], CONTROL)
        bus = new()
        await bus.start()
        await Agents(bus).serve(DOCK, kept[1], CONTROL)
        for _ in range(40):
            await here.proxy(DOCK, CONTROL).nothing()
        counts = [len(k.calls) for k in kept]
        assert sum(counts) == 40 and min(counts) > 0, "each call is taken once, by either"

    play(scene)


@pytest.mark.parametrize("where", ["near", "far"])
def test_an_older_attempt_of_a_saga_is_refused(play: Play, where: str) -> None:
    async def scene(new: NewBus) -> None:
        kept = Kept()
        here, there = await ends(new, kept)
        caller = here if where == "far" else there

        async def attempt(saga: str, number: int) -> None:
            await caller.proxy(DOCK, "far", Fence(saga, number)).nothing()

        await attempt("s1", 1)
        await attempt("s1", 1)
        await attempt("s1", 3)
        with pytest.raises(Conflict, match="attempt 2 of saga s1 was replaced by attempt 3"):
            await attempt("s1", 2)
        await attempt("s1", 3)
        await attempt("s2", 1)
        await caller.proxy(DOCK, "far").nothing()
        assert len(kept.calls) == 6

    play(scene)


def test_only_so_many_sagas_are_remembered_and_the_latest_the_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agents_module, "_REMEMBERED", 3)

    async def scene() -> None:
        here = Agents(MemoryBus(World()))
        await here.serve(DOCK, Kept(), "near")

        async def attempt(saga: str, number: int) -> None:
            await here.proxy(DOCK, "near", Fence(saga, number)).nothing()

        for saga in ("a", "b", "c"):
            await attempt(saga, 5)
        await attempt("a", 5)
        for saga in "efghi":
            await attempt(saga, 1)  # nothing can be older
        await attempt("d", 5)  # "b" is forgotten now
        with pytest.raises(Conflict):
            await attempt("a", 4)
        with pytest.raises(Conflict):
            await attempt("c", 4)
        await attempt("b", 4)

    asyncio.run(scene())


def test_a_method_that_the_contract_lacks_is_no_method() -> None:
    here = Agents(MemoryBus(World()))
    with pytest.raises(AttributeError, match="dock has no method sink"):
        here.proxy(DOCK, "far").sink  # type: ignore[attr-defined]  # noqa: B018


def test_hints_reach_whoever_listens_at_the_address(play: Play) -> None:
    async def scene(new: NewBus) -> None:
        here, there = await ends(new, Kept())
        woken = asyncio.Event()
        others: list[int] = []
        await there.on_hint(DOCK, "far", woken.set)
        await there.on_hint(DOCK, "elsewhere", lambda: others.append(1))
        for _ in range(50):  # a hint before the subscription is known may be lost
            await here.hint(DOCK, "far")
            try:
                async with asyncio.timeout(0.1):
                    await woken.wait()
                break
            except TimeoutError:
                continue
        assert woken.is_set() and others == []

    play(scene)


def test_a_contract_that_no_service_keeps_is_unavailable_by_name() -> None:
    contracts = Contracts()
    assert not contracts.has(DOCK)
    with pytest.raises(Unavailable, match="The dock service is not enabled in this cloud"):
        contracts.get(DOCK)
    kept = Kept()
    contracts.provide(DOCK, kept)
    assert contracts.has(DOCK) and contracts.get(DOCK) is kept

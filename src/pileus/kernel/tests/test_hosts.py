"""Hosts: a heartbeat is a lease."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pileus.kernel.agents import Agents
from pileus.kernel.contracts import Contract
from pileus.kernel.faults import Unavailable
from pileus.kernel.hosts import HOSTS, LEASE_S, Beat, Host, HostRegistry, Registry, hosts_of
from pileus.kernel.tests.toy import toy
from pileus.kernel.world import Clock, World


class Set(Clock):
    """A clock that stands."""

    at = 1000.0

    def time(self) -> float:
        return self.at


ENGINE = Contract("engine", object)
WINGS = Contract("wings", object)


def beat(name: str, *contracts: str, **facts: Any) -> Beat:
    return Beat(host=name, contracts=dict.fromkeys(contracts, 1), address="::1", facts=facts)


async def test_the_first_beat_makes_a_host_and_later_ones_renew_it() -> None:
    clock = Set()
    async with toy(world=World(clock=clock)) as (r, _):
        registry: HostRegistry = Registry(r)
        await registry.beat([beat("a", "engine", cores=4)], True)
        first = await HOSTS.get(r.store, "a")
        assert (first.contracts, first.address, first.facts) == ({"engine": 1}, "::1", {"cores": 4})
        assert (first.seen_at, first.started) == (1000.0, 1)
        clock.at += 7
        await registry.beat([beat("a", "engine", "wings", cores=8)], False)
        assert (await HOSTS.get(r.store, "a")).seen_at == 1000.0, "no disk is waited for"
        await r.store.sync()
        again = await HOSTS.get(r.store, "a")
        assert (again.seen_at, again.started, again.facts) == (1007.0, 1, {"cores": 8})
        assert set(again.contracts) == {"engine", "wings"}


async def test_a_host_that_joins_anew_is_counted() -> None:
    async with toy() as (r, _):
        registry = Registry(r)
        for _n in range(3):
            await registry.beat([beat("a")], True)
        await registry.beat([beat("a")], False)
        await r.store.sync()
        assert (await HOSTS.get(r.store, "a")).started == 3


class Engine:
    """Never answers."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def run(self, speed: int) -> None:
        self.asked.set()
        await asyncio.Event().wait()


async def test_calls_to_a_host_end_when_it_joins_anew_and_only_then() -> None:
    contract = Contract("motor", Engine)
    async with toy() as (r, _):
        registry, engine = Registry(r), Engine()
        await registry.start()
        await Agents(r.bus).serve(contract, engine, "a")
        call = asyncio.create_task(r.agents.proxy(contract, "a").run(1))
        await engine.asked.wait()
        await registry.beat([beat("a")], False)
        await registry.beat([beat("b")], True)
        await asyncio.wait([call], timeout=0.05)
        assert not call.done(), "it lives, and another's start is not its own"
        await registry.beat([beat("b"), beat("a")], True)
        with pytest.raises(Unavailable, match="started anew"):
            await asyncio.wait_for(call, 1)


def test_a_host_is_up_while_its_lease_lasts() -> None:
    host = Host(id="a", contracts={}, seen_at=100.0)
    assert host.is_up(100.0) and host.is_up(100.0 + LEASE_S - 0.1)
    assert not host.is_up(100.0 + LEASE_S)


async def test_one_message_may_speak_for_many_hosts_and_those_of_a_contract_are_found() -> None:
    async with toy() as (r, _):
        await Registry(r).beat([beat("b", "engine"), beat("a", "engine", "wings"), beat("c")], True)
        assert [h.id for h in await hosts_of(r.store, ENGINE)] == ["a", "b"]
        assert [h.id for h in await hosts_of(r.store, WINGS)] == ["a"]


async def test_one_host_of_a_process_speaks_for_those_that_joined_with_it() -> None:
    clock = Set()
    async with toy(world=World(clock=clock)) as (r, _):
        registry = Registry(r)
        first = beat("a", "engine")
        follower = Beat(host="b", contracts={"engine": 1}, speaker="a")

        async def up() -> list[str]:
            await r.store.sync()
            return [h.id for h in await hosts_of(r.store, ENGINE) if h.is_up(clock.at)]

        await registry.beat([first, follower], True)
        clock.at += 2 * LEASE_S
        assert await up() == []
        await registry.beat([first], False)
        assert await up() == ["a", "b"]
        await registry.beat([first], True)
        clock.at += LEASE_S - 1
        assert await up() == ["a"], "the process started anew without b"

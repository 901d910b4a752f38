"""A host's process dies at any moment between two changes of the machine: nothing of it may stay, or be in the way."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import time
from multiprocessing.connection import Connection

import msgspec
import pytest

from pileus.services.network.driver import HostNetwork
from pileus.services.network.drivers.linux import LinuxNetworkDriver, Options
from pileus.services.network.tests.linux_bench import LinuxBench, echo
from pileus.services.network.tests.test_linux_gateways import BACK, SECOND, back_door
from pileus.services.network.tests.test_linux_shaping import TEN_MBIT, Play, limits, play
from pileus.testing.drivers.network import (
    DB,
    FLOATING,
    FROM_WEB,
    OTHER_NET,
    STRANGER,
    WEB,
    document,
    floating,
    guest,
    network,
    public,
    router,
)

__all__ = ["play"]  # the fixture
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
_LIVES_TO_A_CHECK = 10


def _documents() -> list[HostNetwork]:
    """What a host may be told one after the other: all of it, another half, nothing."""
    web, db = guest(WEB, "10.0.0.11"), guest(DB, "10.0.0.12", FROM_WEB)
    slow = limits(TEN_MBIT, "egress", "ingress")
    gate = router(msgspec.structs.replace(floating(FLOATING, "10.0.0.11"), limits=slow))
    wide = msgspec.structs.replace(gate, more_gateways=(SECOND,), spread=True)
    second = network(id=OTHER_NET, segment=102)
    other = guest(STRANGER, "10.0.0.11", network_id=OTHER_NET)
    nets = (network(), public(), back_door())
    assert BACK in {n.id for n in nets}
    held_up = msgspec.structs.replace(web, limits=slow)
    return [
        document(held_up, db, networks=nets, routers=(wide,)),
        document(web, other, networks=(network(), second, public()), routers=(gate,)),
        HostNetwork(host="h1", revision=1),
    ]


def live(options: Options, documents: list[HostNetwork], told: Connection) -> None:
    """One life of a host's process: it makes each of the documents true."""

    async def whole() -> None:
        driver = LinuxNetworkDriver(echo, options=options)
        await driver.start_up()
        told.send("up")
        for n, desired in enumerate(documents):
            await driver.apply(msgspec.structs.replace(desired, revision=n + 1))
        await driver.sweep()
        told.send("done")

    asyncio.run(whole())


def _lives(options: Options, documents: list[HostNetwork], after_s: float) -> float:
    """How long a life lasted that is killed so long after it began to work."""
    here, there = multiprocessing.Pipe()
    spawned = multiprocessing.get_context("forkserver").Process(
        target=live, args=(options, documents, there)
    )
    spawned.start()
    assert here.poll(60) and here.recv() == "up"
    begun = time.monotonic()
    here.poll(after_s)
    spawned.kill()
    spawned.join()
    return time.monotonic() - begun


def _kills(play: Play, count: int) -> None:
    chance = random.Random(20261127)

    async def scenario(bench: LinuxBench) -> None:
        documents = _documents()
        options = bench.options_of("h1")
        span = await asyncio.to_thread(_lives, options, documents, 60)
        for number in range(1, count + 1):
            order = chance.sample(documents, len(documents))
            await asyncio.to_thread(_lives, options, order, chance.uniform(0, span))
            if number % _LIVES_TO_A_CHECK and number != count:
                continue
            seen = await bench.apply(documents[0])
            assert seen.errors == {}, number
            assert await bench.reaches("", FLOATING, "tcp", 22), number
            await bench.apply(documents[2])
            await bench.sweep("h1")
            assert await bench.leftovers("h1") == [], number
            await bench.drivers.pop("h1").close()

    play(scenario)


def test_a_handful_of_kills_between_changes_of_the_machine_leaves_nothing(play: Play) -> None:
    _kills(play, 5)


@pytest.mark.slow
def test_two_hundred_kills_between_changes_of_the_machine_leave_nothing(play: Play) -> None:
    _kills(play, 200)

"""A router whose host's process is no more, by packets: two hosts share their outside by a cable, and each has the router."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import msgspec
import pytest

from pileus.services.network.driver import HostNetwork, RemotePort
from pileus.services.network.drivers.linux import LinuxNetworkDriver, Options
from pileus.services.network.tests.linux_bench import LinuxBench, echo, run
from pileus.services.network.tests.test_linux_segments import HERE, THERE, cabled
from pileus.services.network.tests.test_linux_shaping import Play, play
from pileus.testing.drivers.network import (
    FLOATING,
    GATEWAY_IP,
    PUBLIC,
    REMOTE,
    ROUTER,
    document,
    floating,
    guest,
    network,
    public,
    router,
    uuid,
)

__all__ = ["play"]  # the fixture
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
TENURE_S, RENEWED_S = 6.0, 0.5
IN_TIME_S = 30.0  # a busy machine takes ten to start a process
_OUTSIDE = msgspec.structs.replace(public(), physical="rack")
_GATE = router(floating(FLOATING, "10.0.0.31"))
_LEG = RemotePort(id=uuid(2, 0x21), mac="fa:16:3e:00:00:01", ips=("10.0.0.1",), host=HERE)
_GUEST = guest(REMOTE, "10.0.0.31")
_AFAR = RemotePort(id=REMOTE, mac=_GUEST.mac, ips=("10.0.0.31",), host=THERE)


def _has(host: str, routers: bool) -> HostNetwork:
    """The guest is there; the router is where it is said to be."""
    apart = (_AFAR,) if host == HERE else () if routers else (_LEG,)
    return document(
        *((_GUEST,) if host == THERE else ()),
        host=host,
        networks=(network(remote_ports=apart), *((_OUTSIDE,) if routers else ())),
        routers=(_GATE,) if routers else (),
    )


def _live(options: Options, tenure_s: float, held: object) -> None:
    """A host's process that has the router for so long, again and again."""

    async def whole() -> None:
        driver = LinuxNetworkDriver(echo, options=options)
        await driver.start_up()
        while True:
            await driver.hold(time.monotonic() + tenure_s, [ROUTER])
            await driver.apply(_has(HERE, routers=True))
            held.set()  # type: ignore[attr-defined]
            await asyncio.sleep(RENEWED_S)

    asyncio.run(whole())


async def _started(bench: LinuxBench, tenure_s: float = TENURE_S) -> ForkServerProcess:
    context = multiprocessing.get_context("forkserver")
    held = context.Event()
    spawned = context.Process(target=_live, args=(bench.options_of(HERE), tenure_s, held))
    spawned.start()
    assert await asyncio.to_thread(held.wait, 60)
    return spawned


async def _outside(bench: LinuxBench) -> None:
    """Somebody at the bridge of the first host's outside, who looks through `eye`."""
    await cabled(bench)
    bench.options |= {"gateway_here": False}
    await bench.apply(_has(HERE, routers=True))
    bridge = bench.drivers[HERE]._names.external(PUBLIC)
    ip = ("ip", "-n", bench.name(HERE))
    await run(*ip, "link", "add", "eye", "type", "veth", "peer", "pupil")
    await run(*ip, "link", "set", "pupil", "up", "master", bridge)
    await run(*ip, "link", "set", "eye", "up")
    await run(*ip, "addr", "add", f"{GATEWAY_IP}/24", "dev", "eye")
    await bench.drivers.pop(HERE).close()
    await bench.apply(_has(THERE, routers=False))


async def _answers(bench: LinuxBench) -> int:
    """How often one question for the floating address's owner is answered, by whomever."""
    asking = ("busybox", "arping", "-b", "-c1", "-w2", "-I", "eye", FLOATING)
    told = await run("ip", "netns", "exec", bench.name(HERE), *asking, check=False)
    return len(re.findall("reply from", told))


def _stands(bench: LinuxBench) -> bool:
    folder = Path(bench.options_of(HERE).namespaces)
    return any(folder.glob("*router*"))


async def _heard(bench: LinuxBench) -> int:
    """As `_answers`, as soon as there is one: a busy machine may take its time."""
    for _ in range(5):
        if count := await _answers(bench):
            return count
    return 0


@asynccontextmanager
async def _lived(bench: LinuxBench) -> AsyncIterator[list[ForkServerProcess]]:
    """The lives of the first host's process; what they left of the router goes with its next document."""
    lives: list[ForkServerProcess] = []
    try:
        yield lives
        assert _stands(bench), "the router's namespace lives on"
    finally:
        for living in lives:
            living.kill()
            living.join()
        await bench.apply(_has(HERE, routers=False))
    assert not _stands(bench)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_what_a_lost_process_left_falls_silent_before_another_host_speaks(
    play: Play, end: signal.Signals
) -> None:
    async def scenario(bench: LinuxBench) -> None:
        await _outside(bench)
        async with _lived(bench) as lives:
            lives.append(await _started(bench))
            assert await _answers(bench) == 1
            assert await bench.reaches("", FLOATING, "icmp", 8)
            await asyncio.sleep(2 * RENEWED_S)
            assert lives[0].pid is not None
            os.kill(lives[0].pid, end)
            begun = asked = time.monotonic()
            while count := await _answers(bench):
                assert count == 1
                assert asked < begun + TENURE_S
                asked = time.monotonic()
            assert not await bench.reaches("", FLOATING, "icmp", 8)

            await bench.apply(_has(THERE, routers=True))
            assert await _heard(bench) == 1
            assert await bench.reaches("", FLOATING, "icmp", 8)

    play(scenario)


def test_a_process_that_starts_anew_in_time_breaks_no_flow(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        await _outside(bench)
        async with _lived(bench) as lives:
            lives.append(await _started(bench, IN_TIME_S))
            asking = ("ip", "netns", "exec", bench.name(HERE), "ping", "-i0.05", "-c400", FLOATING)
            pinging = asyncio.create_task(run(*asking, check=False))
            for _ in range(2):
                await asyncio.sleep(1)
                lives[-1].kill()
                lives[-1].join()
                lives.append(await _started(bench, IN_TIME_S))
            assert "400 received" in await pinging

    play(scenario)


def test_a_router_that_nobody_else_could_have_outlives_its_process(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        await _outside(bench)
        async with _lived(bench) as lives:
            for tenure_s, count in ((1.0, 0), (inf, 1)):
                lives.append(await _started(bench, tenure_s))
                lives[-1].kill()
                lives[-1].join()
                await asyncio.sleep(1.5)
                assert await _answers(bench) == count
            assert await bench.reaches("", FLOATING, "icmp", 8)

    play(scenario)

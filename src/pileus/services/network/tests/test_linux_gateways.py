"""A router of several gateways, by real packets."""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec
import pytest

from pileus.services.network.driver import FloatingSpec, NetworkSpec, RouterGateway
from pileus.services.network.drivers.linux.routers import outer_device
from pileus.services.network.tests.linux_bench import LinuxBench, run
from pileus.services.network.tests.test_linux_shaping import Play, play
from pileus.testing.drivers.network import (
    DB,
    FLOATING,
    GATEWAY_IP,
    OUTSIDE_IP,
    ROUTER,
    WEB,
    document,
    floating,
    guest,
    network,
    public,
    router,
    subnet,
    uuid,
)

__all__ = ["play"]  # the fixture
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
BACK, BACK_DOOR, BACK_FLOATING = uuid(1, 8), "172.24.5.1", "172.24.5.10"
WORLD = [f"198.51.100.{n}" for n in range(101, 117)]
SECOND = RouterGateway(
    port_id=uuid(2, 0x23),
    network_id=BACK,
    mac="fa:16:3e:00:05:02",
    addresses=("172.24.5.2/24",),
    nexthops=(BACK_DOOR,),
)


def back_door() -> NetworkSpec:
    """A second external network."""
    block = subnet(8, "172.24.5.0/24", BACK_DOOR, dhcp=False)
    return NetworkSpec(id=BACK, external=True, mtu=1500, subnets=(block,))


async def _sent(space: Sequence[str], port_id: str) -> int:
    """Packets that left by the gateway's device."""
    told = await run(*space, "ip", "-s", "link", "show", outer_device(port_id))
    return int(told.splitlines()[-1].split()[1])


def test_a_router_leads_out_by_all_its_gateways_and_past_those_that_are_silent(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        behind = FloatingSpec(
            id=uuid(6, 2), floating_ip=BACK_FLOATING, fixed_ip="10.0.0.12", network_id=BACK
        )
        gate = router(floating(FLOATING, "10.0.0.11"), behind, more_gateways=(SECOND,))
        desired = document(
            guest(WEB, "10.0.0.11"),
            guest(DB, "10.0.0.12"),
            networks=(network(), public(), back_door()),
            routers=(gate,),
        )
        assert (await bench.apply(desired)).errors == {}
        for ip in (FLOATING, BACK_FLOATING):
            assert await bench.reaches("", ip, "tcp", 22)
        assert await bench.reaches("", "172.24.5.2", "icmp", 8)
        assert await bench.reaches(WEB, OUTSIDE_IP, "tcp", 80)

        for ip in WORLD:
            await run("ip", "-n", bench.name("out"), "addr", "add", f"{ip}/24", "dev", "switch")
        wide = msgspec.structs.replace(gate, floating_ips=(), spread=True, tried=True)
        both = msgspec.structs.replace(desired, routers=(wide,), revision=2)
        assert (await bench.apply(both)).errors == {}
        driver = bench.drivers["h1"]
        assert await driver.examine([ROUTER], []) == {}
        names, spaces = driver._names, driver._machine.namespaces
        space = ("nsenter", f"--net={spaces.path(names.router_namespace(ROUTER))}")
        ports = [g.port_id for g in wide.gateways]
        before = [await _sent(space, p) for p in ports]
        for ip in WORLD:
            assert await bench.reaches(WEB, ip, "icmp", 8)
        after = [await _sent(space, p) for p in ports]
        assert all(b - a >= 2 for a, b in zip(before, after, strict=True)), (before, after)

        host = bench.name("h1")
        bridge = names.external(public().id)
        await run("ip", "-n", host, "addr", "del", f"{GATEWAY_IP}/24", "dev", bridge)
        await run(*space, "ip", "neigh", "flush", "all")
        for ip in WORLD:
            await bench.reaches(WEB, ip, "icmp", 8)  # the silence is noticed by asking
        assert [ip for ip in WORLD if not await bench.reaches(WEB, ip, "icmp", 8)] == []

        alone = msgspec.structs.replace(wide, gateway=SECOND, more_gateways=())
        left = msgspec.structs.replace(both, routers=(alone,), revision=3)
        assert (await bench.apply(left)).errors == {}
        assert await bench.reaches(WEB, OUTSIDE_IP, "tcp", 80)
        assert await driver.examine([ROUTER], []) == {}

    play(scenario)

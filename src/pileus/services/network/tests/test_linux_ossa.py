"""Published advisories on Neutron's agents and os-vif, asked of real packets."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from pileus.services.network.driver import (
    GroupSpec,
    HostNetwork,
    NetworkSpec,
    PortSpec,
    RouterInterface,
    RouterSpec,
    RuleSpec,
    SubnetSpec,
)
from pileus.services.network.drivers.linux.names import Names
from pileus.services.network.permission import permits
from pileus.services.network.tests.linux_bench import LinuxBench, run, udp_frame
from pileus.testing.drivers.network import (
    CLOSED,
    DB,
    FLOATING,
    GROUPS,
    STRANGER,
    WEB,
    document,
    floating,
    guest,
    network,
    public,
    router,
    uuid,
)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

UDP = 17
MODES = ("", "slaac", "dhcpv6-stateful", "dhcpv6-stateless")
BOUND_S = 10


def play(scratch: Path, scenario: Callable[[LinuxBench], Awaitable[None]]) -> None:
    async def run_it() -> None:
        bench = LinuxBench(scratch)
        try:
            await bench.open()
            await scenario(bench)
        finally:
            await bench.close()

    asyncio.run(run_it())


def other_router(number: int, ra_mode: str, address_mode: str) -> tuple[NetworkSpec, RouterSpec]:
    """Somebody else's network, with one IPv6 subnet of these modes, behind a router of its own."""
    block = SubnetSpec(
        id=uuid(5, 0x100 + number),
        cidr=f"fd00:{number:x}::/64",
        ip_version=6,
        gateway=f"fd00:{number:x}::1",
        ra_mode=ra_mode,
        address_mode=address_mode,
        dns_servers=("fd00::53",),
    )
    net = NetworkSpec(id=uuid(1, 0x100 + number), segment=1000 + number, subnets=(block,))
    inner = RouterInterface(
        port_id=uuid(2, 0x100 + number),
        network_id=net.id,
        mac=f"fa:16:3e:01:00:{number:02x}",
        addresses=(f"fd00:{number:x}::1/64",),
    )
    return net, RouterSpec(id=uuid(4, 0x100 + number), interfaces=(inner,))


def beside(others: list[tuple[NetworkSpec, RouterSpec]], *addresses: str) -> HostNetwork:
    """A guest behind a router with these floating addresses, which the host makes after the others."""
    given = [floating(ip, "10.0.0.11", n) for n, ip in enumerate(addresses, 1)]
    return document(
        guest(WEB, "10.0.0.11"),
        networks=(*(net for net, _ in others), network(), public()),
        routers=(*(theirs for _, theirs in others), router(*given)),
    )


async def applied_in_time(bench: LinuxBench, desired: HostNetwork) -> dict[str, str]:
    """The errors of an apply that had to end in good time."""
    began = time.perf_counter()
    errors = (await bench.apply(desired)).errors
    assert time.perf_counter() - began < BOUND_S
    return errors


def test_ossa_2014_019_no_ipv6_subnet_of_anybody_keeps_a_floating_address_waiting(
    tmp_path: Path,
) -> None:
    modes = [(ra, address) for ra in MODES for address in MODES]
    others = [other_router(n, *both) for n, both in enumerate(modes, 1)]

    async def scenario(bench: LinuxBench) -> None:
        assert await applied_in_time(bench, beside(others)) == {}
        assert await applied_in_time(bench, beside(others, FLOATING)) == {}
        assert await bench.reaches("", FLOATING, "tcp", 22)

    play(tmp_path, scenario)


def test_ossa_2015_001_routers_that_cannot_be_made_keep_no_other_waiting(tmp_path: Path) -> None:
    others = [other_router(n, "slaac", "slaac") for n in range(1, 10)]

    async def scenario(bench: LinuxBench) -> None:
        names = Names("pl")
        taken = [tmp_path / "netns-h1" / names.router_namespace(their.id) for _, their in others]
        for path in taken:  # a folder stands where the router's namespace should
            path.mkdir(parents=True)
        errors = await applied_in_time(bench, beside(others))
        assert errors.keys() == {their.id for _, their in others}
        errors = await applied_in_time(bench, beside(others, FLOATING))
        assert errors.keys() == {their.id for _, their in others}
        assert await bench.reaches("", FLOATING, "tcp", 22)
        for path in taken:
            path.rmdir()
        assert await applied_in_time(bench, beside(others, FLOATING)) == {}

    play(tmp_path, scenario)


def overlapping(chance: random.Random, sources: list[str]) -> list[RuleSpec]:
    """Ingress rules whose ranges of ports and of addresses lie across each other."""
    rules = []
    for _ in range(chance.randrange(4, 12)):
        low = chance.randrange(1, 60)
        with_ports = chance.random() < 0.9
        rules.append(
            RuleSpec(
                direction="ingress",
                protocol=chance.choice(["udp", "17", "tcp", "udp"]),
                port_min=low if with_ports else None,
                port_max=chance.randrange(low, 64) if with_ports else None,
                cidr=chance.choice(["", *sources]),
            )
        )
    return rules


async def heard(bench: LinuxBench, desired: HostNetwork, source: str, ports: list[int]) -> set[int]:
    """The UDP ports at which the guest DB hears the source, each asked from a port of its own."""
    known = {p.id: p for p in desired.ports}
    ours, theirs = known[source], known[DB]
    frames = {
        udp_frame(ours.mac, theirs.mac, ours.fixed_ips[0].ip, "10.0.0.12", b"?", (4000 + n, n)): n
        for n in ports
    }
    seen = await bench.arrivals(source, DB, list(frames))
    return {frames[frame] for frame in seen}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ossa_2019_002_overlapping_rules_mean_what_they_say_and_go_in_any_order(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    sources = ["10.0.0.11/32", "10.0.0.8/29", "10.0.0.0/28", "10.0.0.13/32"]
    groups = {id: overlapping(chance, sources) for id in (CLOSED, uuid(3, 0x31), uuid(3, 0x32))}
    asked = sorted(chance.sample(range(1, 64), 24))

    def wanted() -> HostNetwork:
        specs = [GroupSpec(id=id, rules=tuple(rules)) for id, rules in groups.items()]
        worn = msgspec.structs.replace(guest(DB, "10.0.0.12"), groups=tuple(groups))
        ports = (guest(WEB, "10.0.0.11"), worn, guest(STRANGER, "10.0.0.13"))
        return document(*ports, groups=(GROUPS[0], *specs))

    def expected(desired: HostNetwork, source: PortSpec) -> set[int]:
        known = {g.id: g for g in desired.groups}
        (port,) = [p for p in desired.ports if p.id == DB]
        peer = source.fixed_ips[0].ip
        return {n for n in asked if permits(port, known, "ingress", peer, UDP, n)}

    async def scenario(bench: LinuxBench) -> None:
        while True:
            desired = wanted()
            assert (await bench.apply(desired)).errors == {}
            for source in desired.ports:
                if source.id in (WEB, STRANGER):
                    meant = expected(desired, source)
                    assert await heard(bench, desired, source.id, asked) == meant
            left = [id for id, rules in groups.items() if rules]
            if not left:
                return
            for _ in range(3):  # several go at once, in any order
                rules = groups[chance.choice(left)]
                if rules:
                    rules.pop(chance.randrange(len(rules)))

    play(tmp_path, scenario)


def test_ossa_2019_004_what_two_guests_say_to_each_other_reaches_no_third(tmp_path: Path) -> None:
    ports = (guest(WEB, "10.0.0.11"), guest(DB, "10.0.0.12"), guest(STRANGER, "10.0.0.13"))

    async def overheard(bench: LinuxBench) -> int:
        frames = [
            udp_frame(ports[0].mac, ports[1].mac, "10.0.0.11", "10.0.0.12", b"?", (5000 + n, 22))
            for n in range(20)
        ]
        return len(await bench.arrivals(WEB, STRANGER, frames))

    async def scenario(bench: LinuxBench) -> None:
        await bench.apply(document(*ports))
        assert await bench.reaches(WEB, "10.0.0.12", "tcp", 22)
        assert await overheard(bench) == 0
        bridge = (
            "ip",
            "-n",
            bench.name("h1"),
            "link",
            "set",
            Names("pl").bridge(ports[0].network_id),
        )
        await run(
            *bridge, "type", "bridge", "ageing_time", "0"
        )  # so that we know the third has ears
        await run(*bridge, "type", "bridge", "fdb_flush")
        assert await overheard(bench) == 20

    play(tmp_path, scenario)

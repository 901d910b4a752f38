"""What QoS, trunks and stateless groups do to real packets."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from pileus.services.network.driver import (
    FixedIP,
    GroupSpec,
    Limit,
    NetworkSpec,
    PortSpec,
    RouterInterface,
    RouterSpec,
    RuleSpec,
    tap_name,
)
from pileus.services.network.tests.linux_bench import LinuxBench, run, udp_frame
from pileus.testing.drivers.network import (
    CLOSED,
    DB,
    GROUPS,
    OPEN,
    OTHER_NET,
    OUTSIDE_IP,
    REMOTE,
    STRANGER,
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

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Callable[[LinuxBench], Awaitable[None]]], None]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[LinuxBench]:
        bench = LinuxBench(tmp_path)
        try:
            await bench.open()
            yield bench
        finally:
            await bench.close()

    def play_it(scenario: Callable[[LinuxBench], Awaitable[None]]) -> None:
        async def whole() -> None:
            async with opened() as bench:
                await scenario(bench)

        asyncio.run(whole())

    return play_it


Play = Callable[[Callable[[LinuxBench], Awaitable[None]]], None]


async def arrived(bench: LinuxBench, source: str, target: str, count: int = 100) -> int:
    """How many of so many datagrams of 1000 bytes arrive; `bench.sending_s` says how long the sending took."""
    here, there = bench._guests[source].port, bench._guests[target].port
    frames = [
        udp_frame(here.mac, there.mac, here.fixed_ips[0].ip, there.fixed_ips[0].ip,
                  n.to_bytes(4, "big") * 240)
        for n in range(count)
    ]  # fmt: skip
    return len(await bench.arrivals(source, target, frames))


async def carried_each_way(
    bench: LinuxBench, port: PortSpec, peer: PortSpec, *, tag: int
) -> tuple[bool, bool]:
    """Does what the trunk's guest sends as a port that it carries reach the other, and the other it, under the tag?"""
    parent, mine, theirs = port.parent, port.fixed_ips[0].ip, peer.fixed_ips[0].ip
    out = udp_frame(port.mac, peer.mac, mine, theirs, os.urandom(8))
    there = await bench.arrivals(parent, peer.id, [tagged(out, tag)], [out])
    back = udp_frame(peer.mac, port.mac, theirs, mine, os.urandom(8), (9, 10))
    return bool(there), await bench.tag_heard(peer.id, parent, back) == tag


async def carries(bench: LinuxBench, port: PortSpec, peer: PortSpec, *, tag: int) -> bool:
    return await carried_each_way(bench, port, peer, tag=tag) == (True, True)


def trunked() -> tuple[NetworkSpec, PortSpec, PortSpec]:
    """A network that the guest WEB has under tag 7, the port by which it has it, and another guest there."""
    carried = guest(
        REMOTE,
        "10.0.0.31",
        network_id=OTHER_NET,
        device_owner="trunk:subport",
        parent=WEB,
        vlan=7,
    )
    peer = guest(STRANGER, "10.0.0.32", network_id=OTHER_NET)
    return network(id=OTHER_NET, segment=102), carried, peer


def tagged(frame: bytes, tag: int) -> bytes:
    return frame[:12] + b"\x81\x00" + tag.to_bytes(2, "big") + frame[12:]


TEN_MBIT = 1_250_000  # bytes a second


def limits(rate: int = TEN_MBIT, *directions: str) -> tuple[Limit, ...]:
    return tuple(Limit(direction=d, rate=rate, burst=80_000) for d in directions)


async def goodput(ends: tuple[socket.socket, socket.socket], *, seconds: float = 2.0) -> float:
    """Bytes a second that TCP carries from one end to the other, once a burst is over."""
    sender, receiver = ends
    loop = asyncio.get_running_loop()

    async def send() -> None:
        while True:
            await loop.sock_sendall(sender, bytes(16_384))

    sending, count, begun = asyncio.create_task(send()), 0, 0.0
    until = loop.time() + 2.0  # a busy machine takes its time with a burst
    try:
        async with asyncio.timeout(10 * seconds):
            while (now := loop.time()) < until or not begun:
                if now >= until:
                    begun, until, count = now, now + seconds, 0
                count += len(await loop.sock_recv(receiver, 1 << 20))
    finally:
        sending.cancel()
        await asyncio.wait({sending})
    return count / (loop.time() - begun)


def test_tcp_gets_what_a_bandwidth_limit_grants_either_way_and_a_change_keeps_it(
    play: Play,
) -> None:
    async def scenario(bench: LinuxBench) -> None:
        revision = 0

        async def limited(*which: Limit) -> None:
            nonlocal revision
            revision += 1
            ports = (guest(WEB, "10.0.0.11", limits=which), guest(DB, "10.0.0.12"))
            assert (await bench.apply(document(*ports, revision=revision))).errors == {}

        for way in ("egress", "ingress"):
            await limited(*limits(TEN_MBIT, way))
            source, target, ip = (
                (WEB, DB, "10.0.0.12") if way == "egress" else (DB, WEB, "10.0.0.11")
            )
            ends = await bench.connected(source, target, ip)
            found = await goodput(ends)
            assert 0.85 * TEN_MBIT <= found <= 1.05 * TEN_MBIT
            await limited(*limits(TEN_MBIT // 2, way))
            assert 0.85 <= await goodput(ends) / (TEN_MBIT // 2) <= 1.05
            await limited()
            assert await goodput(ends, seconds=1) > 1.5 * TEN_MBIT
            for end in ends:
                end.close()

    play(scenario)


def test_a_limit_is_made_of_any_state_and_goes_with_its_port(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        space, limiter = bench.name("h1"), f"pll{WEB[:11]}"
        own = limits(TEN_MBIT, "egress", "ingress")
        wanted = document(guest(WEB, "10.0.0.11", limits=own))
        await bench.apply(wanted)
        tap = tap_name(WEB)
        await run("tc", "-n", space, "qdisc", "del", "dev", tap, "root")
        await run("ip", "-n", space, "link", "del", limiter)
        await bench.restart("h1")
        await bench.apply(wanted)
        told = await run("tc", "-n", space, "class", "show", "dev", tap)
        assert "rate 10Mbit" in told
        told = await run("tc", "-n", space, "filter", "show", "dev", tap, "ingress")
        assert f"Redirect to device {limiter}" in told
        await bench.restart("h1")
        await bench.apply(wanted)
        assert bench.changes("h1") == 3, "the tables, which a new process writes whole"
        await bench.restart("h1")
        await bench.apply(document(guest(WEB, "10.0.0.11")))
        told = await run("tc", "-n", space, "qdisc", "show")
        assert "htb" not in told
        assert limiter not in await run("ip", "-n", space, "link")
        await bench.apply(wanted)
        await bench.apply(document(revision=2))
        assert limiter not in await run("ip", "-n", space, "link")

    play(scenario)


def test_what_is_beyond_a_bandwidth_limit_does_not_arrive_either_way(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        limit = Limit(direction="egress", rate=1000, burst=20_000)
        ports = (guest(WEB, "10.0.0.11", limits=(limit,)), guest(DB, "10.0.0.12"))
        assert (await bench.apply(document(*ports))).errors == {}
        assert 15 <= await arrived(bench, WEB, DB) <= 25 + 125 * bench.sending_s
        assert await arrived(bench, DB, WEB) == 100
        inward = msgspec.structs.replace(limit, direction="ingress")
        ports = (guest(WEB, "10.0.0.11", limits=(inward,)), guest(DB, "10.0.0.12"))
        await bench.apply(document(*ports, revision=2))
        assert await arrived(bench, WEB, DB) == 100
        assert 15 <= await arrived(bench, DB, WEB) <= 25 + 125 * bench.sending_s

    play(scenario)


def test_a_packet_rate_limit_counts_packets(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        limit = Limit(direction="egress", rate=1, burst=10, packets=True)
        ports = (guest(WEB, "10.0.0.11", limits=(limit,)), guest(DB, "10.0.0.12"))
        assert (await bench.apply(document(*ports))).errors == {}
        found = await arrived(bench, WEB, DB)  # what its kernel says of itself counts too
        assert 3 <= found <= 12 + 1000 * bench.sending_s

    play(scenario)


def test_what_a_guest_sends_bears_its_dscp_mark(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        ports = (guest(WEB, "10.0.0.11", dscp=10), guest(DB, "10.0.0.12"))
        assert (await bench.apply(document(*ports))).errors == {}
        web, db = ports[0], ports[1]
        frame = udp_frame(web.mac, db.mac, "10.0.0.11", "10.0.0.12", b"marked")
        marked = bytearray(frame)
        marked[15] = 10 << 2
        before = int.from_bytes(frame[24:26], "big")
        marked[24:26] = (before - (10 << 2)).to_bytes(2, "big")
        assert await bench.arrivals(WEB, DB, [frame], [bytes(marked)]) == {bytes(marked)}

    play(scenario)


def test_a_floating_address_has_a_limit_of_its_own(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        slow = Limit(direction="egress", rate=1, burst=1, packets=True)
        fip = msgspec.structs.replace(floating("172.24.4.10", "10.0.0.11"), limits=(slow,))
        ports = (guest(WEB, "10.0.0.11"), guest(DB, "10.0.0.12"))
        routed = document(*ports, networks=(network(), public()), routers=(router(fip),))
        assert (await bench.apply(routed)).errors == {}
        assert await bench.reaches(DB, OUTSIDE_IP, "tcp", 80)
        answers = [await bench.reaches(WEB, OUTSIDE_IP, "icmp", 8) for _ in range(4)]
        assert not all(answers)

    play(scenario)


def test_a_floating_address_and_all_others_of_a_gateway_get_what_their_limits_grant(
    play: Play,
) -> None:
    async def scenario(bench: LinuxBench) -> None:
        both = ("egress", "ingress")
        fip = floating("172.24.4.10", "10.0.0.11")
        fip = msgspec.structs.replace(fip, limits=limits(TEN_MBIT, *both))
        plain = router(fip)
        assert plain.gateway is not None
        half = limits(TEN_MBIT // 2, *both)
        through = msgspec.structs.replace(plain.gateway, limits=half)
        ports = (guest(WEB, "10.0.0.11"), guest(DB, "10.0.0.12"))

        async def apply(routed: RouterSpec, revision: int) -> None:
            wanted = document(
                *ports, networks=(network(), public()), routers=(routed,), revision=revision
            )
            assert (await bench.apply(wanted)).errors == {}

        await apply(msgspec.structs.replace(plain, gateway=through), 1)
        inward = await bench.connected("", WEB, "172.24.4.10")
        assert 0.85 <= await goodput(inward) / TEN_MBIT <= 1.05
        assert 0.85 <= await goodput(inward[::-1]) / TEN_MBIT <= 1.05
        outward = await bench.connected(DB, "", OUTSIDE_IP)
        assert 0.85 <= await goodput(outward) / (TEN_MBIT // 2) <= 1.05
        assert 0.85 <= await goodput(outward[::-1]) / (TEN_MBIT // 2) <= 1.05
        await apply(router(floating("172.24.4.10", "10.0.0.11")), 2)
        assert await goodput(outward, seconds=1) > TEN_MBIT
        for end in (*inward, *outward):
            end.close()

    play(scenario)


def test_address_scopes_meet_only_their_like(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        far = network(id=OTHER_NET, segment=102, subnets=(subnet(2, "10.0.5.0/24", "10.0.5.1"),))
        there = guest(
            REMOTE,
            "10.0.5.31",
            network_id=OTHER_NET,
            fixed_ips=(FixedIP(subnet_id=uuid(5, 2), ip="10.0.5.31"),),
        )
        near = router().interfaces[0]
        leg = RouterInterface(
            port_id=uuid(2, 0x23), network_id=OTHER_NET, mac="fa:16:3e:00:00:05",
            addresses=("10.0.5.1/24",), scopes=("a", ""),
        )  # fmt: skip

        async def apply(own: str, outer: str, revision: int) -> None:
            gateway = router().gateway
            assert gateway is not None
            routed = router(
                interfaces=(msgspec.structs.replace(near, scopes=(own, "")), leg),
                gateway=msgspec.structs.replace(gateway, scope=outer),
            )
            nets, ports = (network(), far, public()), (guest(WEB, "10.0.0.11"), there)
            wanted = document(*ports, networks=nets, routers=(routed,), revision=revision)
            assert (await bench.apply(wanted)).errors == {}

        await apply("a", "", 1)
        assert await bench.reaches(WEB, "10.0.5.31", "tcp", 80)
        assert await bench.reaches(WEB, OUTSIDE_IP, "tcp", 80)
        space = bench.name("h1")
        await run("ip", "-n", space, "route", "add", "10.0.5.0/24", "via", "172.24.4.2")
        assert not await bench.reaches("", "10.0.5.31", "tcp", 80)
        await apply("b", "a", 2)
        assert not await bench.reaches(WEB, "10.0.5.31", "tcp", 80)
        assert await bench.reaches(WEB, OUTSIDE_IP, "tcp", 80)
        assert await bench.reaches("", "10.0.5.31", "tcp", 80)

    play(scenario)


def test_a_trunk_carries_another_network_under_a_tag(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        second, carried, peer = trunked()
        slow = limits(TEN_MBIT, "egress", "ingress")
        ports = (carried, guest(WEB, "10.0.0.11", limits=slow), guest(DB, "10.0.0.12"), peer)
        seen = await bench.apply(document(*ports, networks=(network(), second)))
        assert (seen.errors, seen.ports[REMOTE]) == ({}, True)
        assert await bench.reaches(WEB, "10.0.0.12", "tcp", 80)
        assert not await bench.reaches(WEB, "10.0.0.32", "tcp", 80)
        assert await carries(bench, carried, peer, tag=7)
        assert not await carries(bench, carried, peer, tag=8)
        assert not await carries(bench, carried, ports[2], tag=7), "that is the parent's network"
        liar = msgspec.structs.replace(carried, mac=peer.mac)
        assert not await carries(bench, liar, peer, tag=7)
        moved = msgspec.structs.replace(carried, vlan=8)
        ports = (moved, *ports[1:])
        desired = document(*ports, networks=(network(), second), revision=2)
        assert (await bench.apply(desired)).errors == {}
        assert await carries(bench, moved, peer, tag=8)
        assert not await carries(bench, moved, peer, tag=7)
        closed = msgspec.structs.replace(moved, groups=(CLOSED,))
        ports = (closed, *ports[1:])
        await bench.apply(document(*ports, networks=(network(), second), revision=3))
        out, back = await carried_each_way(bench, closed, peer, tag=8)
        assert (out, back) == (True, False), "its groups' rules are its own"

    play(scenario)


def test_a_stateless_group_must_let_answers_in_too(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        out = [r for r in GROUPS[0].rules if r.direction == "egress"]
        closed = GroupSpec(id=CLOSED, rules=tuple(out))
        web = guest(WEB, "10.0.0.11", CLOSED, stateless=True)
        ports = (web, guest(DB, "10.0.0.12", OPEN))
        await bench.apply(document(*ports, groups=(GROUPS[0], closed)))
        assert not await bench.reaches(WEB, "10.0.0.12", "tcp", 80)
        answers = RuleSpec(direction="ingress", protocol="tcp", port_min=1024, port_max=65535)
        wider = GroupSpec(id=CLOSED, rules=(*out, answers))
        await bench.apply(document(*ports, groups=(GROUPS[0], wider), revision=2))
        assert await bench.reaches(WEB, "10.0.0.12", "tcp", 80)

    play(scenario)


def test_an_object_that_cannot_be_shaped_is_refused_alone(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        odd = guest(WEB, "10.0.0.11", limits=(Limit(direction="up", rate=1, burst=1),))
        lost = guest(REMOTE, "10.0.0.13", parent=uuid(2, 77), vlan=5000)
        seen = await bench.apply(document(odd, lost, guest(DB, "10.0.0.12")))
        assert seen.errors.keys() == {WEB, REMOTE}
        assert seen.ports[DB]

    play(scenario)

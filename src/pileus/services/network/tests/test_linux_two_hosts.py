"""What one host promises, kept between two over VXLAN: each by packets from the one's guest to the other's."""

from __future__ import annotations

import os

import msgspec
import pytest

from pileus.services.network.driver import (
    FixedIP,
    ForwardingSpec,
    HostNetwork,
    Limit,
    NetworkSpec,
    PortSpec,
    RemotePort,
)
from pileus.services.network.drivers.linux.filters import link_local
from pileus.services.network.tests.linux_bench import LinuxBench, advert_frame, arp_frame, udp_frame
from pileus.services.network.tests.test_linux_shaping import Play, arrived, play
from pileus.testing.drivers.network import (
    CLOSED,
    DB,
    FLOATING,
    FROM_WEB,
    OTHER_NET,
    OUTSIDE_IP,
    REMOTE,
    SECOND_FLOATING,
    STRANGER,
    WEB,
    WEB_ONLY,
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
HERE, THERE = "h1", "h2"
ROUTED = ("10.0.0.1", "fa:16:3e:00:00:01")


async def _stretch(
    bench: LinuxBench, here: tuple[PortSpec, ...], there: tuple[PortSpec, ...], **first: object
) -> None:
    """A network over two hosts; the first has what `first` says besides: its router."""
    net = first.pop("net", None) or network()
    assert isinstance(net, NetworkSpec)
    outer = (public(),) if "routers" in first else ()
    for host, own, others, at in ((HERE, here, there, THERE), (THERE, there, here, HERE)):
        remote = [_remote(p, at) for p in others]
        if "routers" in first and host == THERE:
            leg = RemotePort(id=uuid(2, 0x21), mac=ROUTED[1], ips=(ROUTED[0],), host=HERE)
            remote.append(leg)
        stretched = msgspec.structs.replace(net, remote_ports=tuple(remote))
        more = first if host == HERE else {}
        wanted: HostNetwork = document(
            *own, host=host, networks=(stretched, *(outer if more else ())), **more
        )
        assert (await bench.apply(wanted)).errors == {}


def _remote(port: PortSpec, at: str) -> RemotePort:
    ips = tuple(f.ip for f in port.fixed_ips)
    return RemotePort(id=port.id, mac=port.mac, ips=ips, host=at, hostname=port.hostname)


def test_rules_and_groups_hold_for_a_guest_of_the_other_host(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        web, stranger = guest(WEB, "10.0.0.11", WEB_ONLY), guest(STRANGER, "10.0.0.13")
        await _stretch(bench, (web, stranger), (guest(REMOTE, "10.0.0.31", FROM_WEB),))
        assert await bench.reaches(WEB, "10.0.0.31", "tcp", 22), "a member of the group it names"
        assert not await bench.reaches(STRANGER, "10.0.0.31", "tcp", 22)
        assert await bench.reaches(REMOTE, "10.0.0.11", "tcp", 80)
        assert not await bench.reaches(REMOTE, "10.0.0.11", "tcp", 22)

    play(scenario)


def test_a_guest_leaves_and_is_reached_through_a_router_on_the_other_host(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        forwarded = ForwardingSpec(
            floating_ip=SECOND_FLOATING, protocol="tcp", low=8080, high=8080,
            fixed_ip="10.0.0.31", fixed_low=80,
        )  # fmt: skip
        gate = router(floating(FLOATING, "10.0.0.32"), forwardings=(forwarded,))
        there = (guest(REMOTE, "10.0.0.31"), guest(DB, "10.0.0.32", WEB_ONLY))
        await _stretch(bench, (guest(WEB, "10.0.0.11"),), there, routers=(gate,))
        assert await bench.reaches(REMOTE, OUTSIDE_IP, "tcp", 80), "by the router's address"
        assert await bench.reaches("", SECOND_FLOATING, "tcp", 8080)
        assert not await bench.reaches("", SECOND_FLOATING, "tcp", 22)
        assert await bench.reaches("", FLOATING, "tcp", 80)
        assert not await bench.reaches("", FLOATING, "tcp", 22), "its group has no such rule"
        assert await bench.reaches(REMOTE, FLOATING, "tcp", 80), "by the router and back"

    play(scenario)


def test_both_hosts_serve_addresses_and_names_and_the_router_advertises_to_both(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        v6 = subnet(6, "fd00:1::/64", "fd00:1::1", ip_version=6, ra_mode="slaac")
        inner = router(gateway=None).interfaces[0]
        inner = msgspec.structs.replace(inner, addresses=("10.0.0.1/24", "fd00:1::1/64"))
        made = "fd00:1::f816:3eff:fe00:31f"  # what the MAC fa:16:3e:00:03:1f makes of the prefix
        remote = guest(REMOTE, "10.0.0.31")
        auto = FixedIP(subnet_id=v6.id, ip=made)
        remote = msgspec.structs.replace(remote, fixed_ips=(*remote.fixed_ips, auto))
        await _stretch(
            bench,
            (guest(WEB, "10.0.0.11"),),
            (remote,),
            net=network(subnets=(*network().subnets, v6)),
            routers=(router(gateway=None, interfaces=(inner,)),),
        )
        for port, ip in ((WEB, "10.0.0.11"), (REMOTE, "10.0.0.31")):
            lease = await bench.lease(port)
            assert lease is not None and (lease.ip, lease.mtu) == (ip, 1450)
        assert await bench.resolve(REMOTE, "vm-11") == "10.0.0.11"
        await bench.run_in(REMOTE, "ip", "addr", "flush", "dev", "eth0", "scope", "global")
        await bench.run_in(REMOTE, "ip", "link", "set", "eth0", "down")
        await bench.run_in(REMOTE, "ip", "link", "set", "eth0", "up")
        assert made in await bench.eventually(
            REMOTE, ("ip", "-6", "addr", "show", "dev", "eth0"), made
        )

    play(scenario)


def test_what_the_mtu_allows_arrives_whole_on_the_other_host_and_no_more(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        await _stretch(bench, (guest(WEB, "10.0.0.11"),), (guest(REMOTE, "10.0.0.31"),))
        for size, word in ((1450 - 28, " 1 received"), (1450 - 27, "message too long")):
            command = ("ping", "-c1", "-W2", "-M", "do", "-s", str(size), "10.0.0.31")
            told = await bench.run_in(WEB, "sh", "-c", " ".join(command) + " 2>&1")
            assert word in told.lower(), told

    play(scenario)


def test_a_limit_drops_what_is_beyond_it_on_the_way_to_the_other_host(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        out = Limit(direction="egress", rate=1000, burst=20_000)
        here, there = guest(WEB, "10.0.0.11", limits=(out,)), guest(REMOTE, "10.0.0.31")
        await _stretch(bench, (here,), (there,))
        assert 15 <= await arrived(bench, WEB, REMOTE) <= 25 + 125 * bench.sending_s
        assert await arrived(bench, REMOTE, WEB) == 100

    play(scenario)


def test_a_lie_about_who_one_is_does_not_cross(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        web, remote = guest(WEB, "10.0.0.11"), guest(REMOTE, "10.0.0.31")
        await _stretch(bench, (web, guest(DB, "10.0.0.12")), (remote,))
        assert await bench.sends_as(WEB, REMOTE, mac=web.mac, ip="10.0.0.11")
        assert not await bench.sends_as(WEB, REMOTE, mac=web.mac, ip="10.0.0.12")
        assert not await bench.sends_as(WEB, REMOTE, mac="fa:16:3e:00:02:0c", ip="10.0.0.12")
        own = link_local(web.mac)
        assert not await bench.passes(
            WEB, REMOTE, advert_frame(web.mac, remote.mac, own, link_local(remote.mac))
        )
        lie = arp_frame(web.mac, "10.0.0.12", remote.mac, "10.0.0.31")
        assert not await bench.passes(WEB, REMOTE, lie)
        rogue = udp_frame(web.mac, remote.mac, "10.0.0.11", "10.0.0.31", b"rogue", (67, 68))
        assert not await bench.passes(WEB, REMOTE, rogue)

    play(scenario)


def test_two_networks_with_the_same_addresses_stay_apart_on_the_way(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        second = network(id=OTHER_NET, segment=102)
        web, twin = guest(WEB, "10.0.0.11"), guest(STRANGER, "10.0.0.11", network_id=OTHER_NET)
        remote = guest(REMOTE, "10.0.0.31")
        closed = guest(DB, "10.0.0.31", CLOSED, network_id=OTHER_NET)
        for host, own, others, at in (
            (HERE, (web, twin), (remote, closed), THERE),
            (THERE, (remote, closed), (web, twin), HERE),
        ):
            nets = tuple(
                msgspec.structs.replace(
                    n,
                    remote_ports=tuple(_remote(p, at) for p in others if p.network_id == n.id),
                )
                for n in (network(), second)
            )
            assert (await bench.apply(document(*own, host=host, networks=nets))).errors == {}
        assert await bench.reaches(WEB, "10.0.0.31", "tcp", 22)
        assert not await bench.reaches(STRANGER, "10.0.0.31", "tcp", 22), "that one is closed"
        assert await bench.reaches(DB, "10.0.0.11", "tcp", 22)

    play(scenario)

"""What one host promises, kept between two over VXLAN: each by packets from the one's guest to the other's."""

from __future__ import annotations

import asyncio
import logging
import os

import msgspec
import pytest

from pileus.services.network.driver import (
    ISOLATED,
    PROMISCUOUS,
    AddressPair,
    FixedIP,
    ForwardingSpec,
    GroupSpec,
    HostNetwork,
    Limit,
    LogSpec,
    Meter,
    MeterRule,
    NetworkSpec,
    PortSpec,
    RemotePort,
    RuleSpec,
)
from pileus.services.network.drivers.linux.filters import link_local
from pileus.services.network.tests.linux_bench import (
    LinuxBench,
    advert_frame,
    arp_frame,
    run,
    udp_frame,
)
from pileus.services.network.tests.test_linux_shaping import Play, arrived, carries, play, trunked
from pileus.testing.drivers.network import (
    CLOSED,
    DB,
    FLOATING,
    FROM_WEB,
    GROUPS,
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


async def stretch(
    bench: LinuxBench, here: tuple[PortSpec, ...], there: tuple[PortSpec, ...], **first: object
) -> None:
    """A network over two hosts; the first has what `first` says besides: its router."""
    net = first.pop("net", None) or network()
    assert isinstance(net, NetworkSpec)
    groups = first.pop("groups", GROUPS)
    outer = (public(),) if "routers" in first else ()
    for host, own, others, at in ((HERE, here, there, THERE), (THERE, there, here, HERE)):
        remote = [_remote(p, at) for p in others]
        if "routers" in first and host == THERE:
            leg = RemotePort(id=uuid(2, 0x21), mac=ROUTED[1], ips=(ROUTED[0],), host=HERE)
            remote.append(leg)
        stretched = msgspec.structs.replace(net, remote_ports=tuple(remote))
        more = first if host == HERE else {}
        nets = (stretched, *(outer if more else ()))
        wanted: HostNetwork = document(*own, host=host, networks=nets, groups=groups, **more)
        assert (await bench.apply(wanted)).errors == {}


def _remote(port: PortSpec, at: str) -> RemotePort:
    ips = tuple(f.ip for f in port.fixed_ips)
    return RemotePort(
        id=port.id, mac=port.mac, ips=ips, host=at, hostname=port.hostname, pvlan=port.pvlan,
        other_macs=tuple(p.mac for p in port.allowed_address_pairs),
    )  # fmt: skip


def test_rules_and_groups_hold_for_a_guest_of_the_other_host(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        web, stranger = guest(WEB, "10.0.0.11", WEB_ONLY), guest(STRANGER, "10.0.0.13")
        await stretch(bench, (web, stranger), (guest(REMOTE, "10.0.0.31", FROM_WEB),))
        assert await bench.reaches(WEB, "10.0.0.31", "tcp", 22), "a member of the group it names"
        assert not await bench.reaches(STRANGER, "10.0.0.31", "tcp", 22)
        assert await bench.reaches(REMOTE, "10.0.0.11", "tcp", 80)
        assert not await bench.reaches(REMOTE, "10.0.0.11", "tcp", 22)

    play(scenario)


def test_an_isolated_port_hears_the_promiscuous_of_the_other_host_alone(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        here = (guest(WEB, "10.0.0.11", pvlan=ISOLATED), guest(DB, "10.0.0.12", pvlan=PROMISCUOUS))
        await stretch(bench, here, (guest(REMOTE, "10.0.0.31", pvlan=ISOLATED),))
        assert await bench.reaches(DB, "10.0.0.31", "tcp", 80)
        assert await bench.reaches(REMOTE, "10.0.0.12", "tcp", 80)
        assert not await bench.reaches(REMOTE, "10.0.0.11", "tcp", 80)
        assert not await bench.reaches(WEB, "10.0.0.31", "tcp", 80)
        shared = AddressPair(cidr="10.0.0.99", mac="fa:16:3e:00:00:99")
        for part, arrives in ((PROMISCUOUS, True), (ISOLATED, False)):
            remote = guest(REMOTE, "10.0.0.31", pvlan=part, allowed_address_pairs=(shared,))
            await stretch(bench, here, (remote,))
            heard = await bench.sends_as(REMOTE, WEB, mac=shared.mac, ip=shared.cidr)
            assert heard is arrives

    play(scenario)


def test_no_router_brings_an_isolated_port_what_another_sends_it(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        (ip, mac), web = ROUTED, guest(WEB, "10.0.0.11", pvlan=PROMISCUOUS)
        remote = guest(REMOTE, "10.0.0.31", pvlan=ISOLATED)
        for part, arrives in ((PROMISCUOUS, True), (ISOLATED, False)):
            web = msgspec.structs.replace(web, pvlan=part)
            await stretch(bench, (web,), (remote,), routers=(router(gateway=None),))
            assert await bench.reaches(REMOTE, ip, "icmp", 8)
            assert await bench.reaches(WEB, ip, "icmp", 8)
            there = (remote.fixed_ips[0].ip, part.encode())
            sent = udp_frame(web.mac, mac, web.fixed_ips[0].ip, *there)
            back = _a_hop_later(udp_frame(mac, remote.mac, web.fixed_ips[0].ip, *there))
            assert bool(await bench.arrivals(WEB, REMOTE, [sent], [back])) is arrives

    play(scenario)


def _a_hop_later(frame: bytes) -> bytes:
    checksum = int.from_bytes(frame[24:26]) + 0x100
    folded = (checksum & 0xFFFF) + (checksum >> 16)
    return frame[:22] + bytes([frame[22] - 1, frame[23]]) + folded.to_bytes(2) + frame[26:]


def test_a_guest_leaves_and_is_reached_through_a_router_on_the_other_host(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        forwarded = ForwardingSpec(
            floating_ip=SECOND_FLOATING, protocol="tcp", low=8080, high=8080,
            fixed_ip="10.0.0.31", fixed_low=80,
        )  # fmt: skip
        gate = router(floating(FLOATING, "10.0.0.32"), forwardings=(forwarded,))
        there = (guest(REMOTE, "10.0.0.31"), guest(DB, "10.0.0.32", WEB_ONLY))
        await stretch(bench, (guest(WEB, "10.0.0.11"),), there, routers=(gate,))
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
        await stretch(
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


def test_a_rule_taken_away_ends_a_connection_to_a_shared_address_of_the_other_host(
    play: Play,
) -> None:
    async def scenario(bench: LinuxBench) -> None:
        ssh = RuleSpec(direction="ingress", protocol="tcp", port_min=22, port_max=22)
        there = guest(REMOTE, "10.0.0.31", CLOSED)
        shared = (AddressPair(cidr="10.0.0.99", mac=there.mac),)
        there = msgspec.structs.replace(there, allowed_address_pairs=shared)
        for rules in ((*GROUPS[1].rules, ssh), GROUPS[1].rules):
            groups = (GROUPS[0], GroupSpec(id=CLOSED, rules=rules))
            await stretch(bench, (guest(WEB, "10.0.0.11"),), (there,), groups=groups)
            if ssh in rules:
                await bench.run_in(REMOTE, "ip", "addr", "add", "10.0.0.99/24", "dev", "eth0")
                ours, theirs = await bench.connected(WEB, REMOTE, "10.0.0.99")
            ours.send(b"word")
            assert await bench.heard(theirs) == (b"word" if ssh in rules else None)
        for opened in (ours, theirs):
            opened.close()

    play(scenario)


def test_a_router_that_has_moved_here_is_heard_and_the_one_that_its_last_host_still_has_is_not(
    play: Play,
) -> None:
    async def scenario(bench: LinuxBench) -> None:
        (ip, mac), web, remote = ROUTED, guest(WEB, "10.0.0.11"), guest(REMOTE, "10.0.0.31")
        for host, own, other, at in ((THERE, remote, web, HERE), (HERE, web, remote, THERE)):
            net = network(remote_ports=(_remote(other, at),))
            gate = router(gateway=None)
            wanted: HostNetwork = document(own, host=host, networks=(net,), routers=(gate,))
            assert (await bench.apply(wanted)).errors == {}
        asks = arp_frame(web.mac, "10.0.0.11", "ff:ff:ff:ff:ff:ff", ip, operation=1)
        answer = arp_frame(mac, ip, web.mac, "10.0.0.11")
        assert await bench.replies(WEB, asks, answer) == 1
        assert await bench.reaches(WEB, ip, "icmp", 8)

    play(scenario)


def test_what_the_mtu_allows_arrives_whole_on_the_other_host_and_no_more(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        await stretch(bench, (guest(WEB, "10.0.0.11"),), (guest(REMOTE, "10.0.0.31"),))
        for size, word in ((1450 - 28, " 1 received"), (1450 - 27, "message too long")):
            command = ("ping", "-c1", "-W2", "-M", "do", "-s", str(size), "10.0.0.31")
            told = await bench.run_in(WEB, "sh", "-c", " ".join(command) + " 2>&1")
            assert word in told.lower(), told

    play(scenario)


def test_a_limit_drops_what_is_beyond_it_on_the_way_to_the_other_host(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        out = Limit(direction="egress", rate=1000, burst=20_000)
        here, there = guest(WEB, "10.0.0.11", limits=(out,)), guest(REMOTE, "10.0.0.31")
        await stretch(bench, (here,), (there,))
        assert 15 <= await arrived(bench, WEB, REMOTE) <= 25 + 125 * bench.sending_s
        assert await arrived(bench, REMOTE, WEB) == 100

    play(scenario)


def test_a_stateless_group_must_let_answers_from_the_other_host_in_too(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        out = tuple(r for r in GROUPS[0].rules if r.direction == "egress")
        answers = RuleSpec(direction="ingress", protocol="tcp", port_min=1024, port_max=65535)
        web = guest(WEB, "10.0.0.11", CLOSED, stateless=True)
        for rules, works in ((out, False), ((*out, answers), True)):
            groups = (GROUPS[0], GroupSpec(id=CLOSED, rules=rules))
            await stretch(bench, (web,), (guest(REMOTE, "10.0.0.31"),), groups=groups)
            assert await bench.reaches(WEB, "10.0.0.31", "tcp", 80) is works

    play(scenario)


def test_an_address_group_lets_in_its_prefixes_from_the_other_host_and_no_others(
    play: Play,
) -> None:
    async def scenario(bench: LinuxBench) -> None:
        listed = uuid(3, 9)
        named = RuleSpec(direction="ingress", protocol="tcp", remote_group=listed)
        there = (guest(REMOTE, "10.0.0.31"), guest(STRANGER, "10.0.0.41"))
        for prefix, let_in in (("10.0.0.24/29", REMOTE), ("10.0.0.40/29", STRANGER)):
            groups = (
                GROUPS[0],
                GroupSpec(id=CLOSED, rules=(named,)),
                GroupSpec(id=listed, members=(prefix,)),
            )
            await stretch(bench, (guest(WEB, "10.0.0.11", CLOSED),), there, groups=groups)
            for source in (REMOTE, STRANGER):
                assert await bench.reaches(source, "10.0.0.11", "tcp", 80) is (source == let_in)

    play(scenario)


def test_scopes_and_labels_hold_for_a_guest_whose_router_is_on_the_other_host(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        label = Meter(id=uuid(7, 1), rules=(MeterRule(direction="egress", source="10.0.0.31/32"),))
        near, outer = router().interfaces[0], router().gateway
        assert outer is not None
        there = (guest(REMOTE, "10.0.0.31"),)
        space = bench.name(HERE)
        for own in ("a", "b"):
            gate = router(
                interfaces=(msgspec.structs.replace(near, scopes=(own, "")),),
                gateway=msgspec.structs.replace(outer, scope="b"),
                meters=(label,),
            )
            await stretch(bench, (guest(WEB, "10.0.0.11"),), there, routers=(gate,))
            await run("ip", "-n", space, "route", "replace", "10.0.0.0/24", "via", "172.24.4.2")
            driver = bench.drivers[HERE]
            await driver.metered()
            if own == "a":
                assert await bench.reaches(REMOTE, OUTSIDE_IP, "icmp", 8)
                assert await driver.metered() == {label.id: (1, 84)}
            inward = await bench.reaches("", "10.0.0.31", "tcp", 80)
            assert inward is (own == "b"), "what is of one scope goes in as it is"
            assert (label.id in await driver.metered()) is inward, "its answers are counted"

    play(scenario)


def test_a_trunk_carries_a_network_whose_other_guest_is_on_the_other_host(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        second, carried, peer = trunked()
        for host, own, other, at in (
            (HERE, (guest(WEB, "10.0.0.11"), carried), peer, THERE),
            (THERE, (peer,), carried, HERE),
        ):
            far = msgspec.structs.replace(second, remote_ports=(_remote(other, at),))
            wanted = document(*own, host=host, networks=(network(), far))
            assert (await bench.apply(wanted)).errors == {}
        assert await carries(bench, carried, peer, tag=7)
        assert not await carries(bench, carried, peer, tag=8)

    play(scenario)


def test_a_log_names_who_on_the_other_host_was_let_in_and_who_was_not(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pileus.packets")

    async def scenario(bench: LinuxBench) -> None:
        both = LogSpec(id="log-1", project_id="one", accepted=True, dropped=True)
        web = guest(WEB, "10.0.0.11", WEB_ONLY, logs=(both,))
        await stretch(bench, (web,), (guest(REMOTE, "10.0.0.31"),))
        assert await bench.reaches(REMOTE, "10.0.0.11", "tcp", 80)
        assert not await bench.reaches(REMOTE, "10.0.0.11", "tcp", 22)
        await asyncio.sleep(0.3)
        told = [r.getMessage() for r in caplog.records if r.name == "pileus.packets"]
        for decision, number in (("ACCEPT", 80), ("DROP", 22)):
            ends = "src=10.0.0.31, dst=10.0.0.11, proto=tcp"
            lines = [line for line in told if ends in line and f"dst_port={number})" in line]
            assert lines and all(line.startswith(f"action={decision} ") for line in lines)

    play(scenario)


def test_a_lie_about_who_one_is_does_not_cross(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        web, remote = guest(WEB, "10.0.0.11"), guest(REMOTE, "10.0.0.31")
        await stretch(bench, (web, guest(DB, "10.0.0.12")), (remote,))
        assert await bench.sends_as(WEB, REMOTE, mac=web.mac, ip="10.0.0.11")
        assert not await bench.sends_as(WEB, REMOTE, mac=web.mac, ip="10.0.0.12")
        assert not await bench.sends_as(WEB, REMOTE, mac="fa:16:3e:00:02:0c", ip="10.0.0.12")
        own = link_local(web.mac)
        assert not await bench.passes(
            WEB, REMOTE, advert_frame(web.mac, remote.mac, own, link_local(remote.mac))
        )
        assert await bench.passes(WEB, REMOTE, advert_frame(web.mac, remote.mac, own, own))
        assert not await bench.passes(
            WEB, REMOTE, advert_frame(web.mac, remote.mac, own, own, kind=134)
        ), "no guest is a router"
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

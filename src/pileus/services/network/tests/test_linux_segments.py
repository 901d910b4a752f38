"""Networks on a physical network, by packets: two hosts joined by a cable, and a witness at its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from pileus.host.netlink import Netlink
from pileus.services.network.driver import NetworkSpec, PortSpec
from pileus.services.network.drivers.linux.machine import no_ipv6
from pileus.services.network.tests.linux_bench import LinuxBench, arp_frame, run, udp_frame
from pileus.services.network.tests.test_linux_shaping import Play, play, tagged
from pileus.services.network.tests.test_linux_two_hosts import stretch
from pileus.testing.drivers.network import (
    CLOSED,
    GROUPS,
    NET,
    OTHER_NET,
    PUBLIC,
    REMOTE,
    STRANGER,
    WEB,
    document,
    guest,
    network,
    public,
    router,
    subnet,
)

__all__ = ["play"]  # the fixture
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
HERE, THERE = "h1", "h2"
_CUSTOMER, _SERVICE = 0x8100, 0x88A8


def vlan(tag: int = 100, **changes: object) -> NetworkSpec:
    return network(**{"segment": 0, "physical": "rack", "vlan": tag, "mtu": 1500, **changes})


async def cabled(bench: LinuxBench, *, apart: bool = False) -> None:
    """`eth1` of each host leads to the other's."""
    bench.is_apart = apart
    bench.options = {"physical": {"rack": "eth1"}}
    there = bench.spaces.path(bench.name(THERE))

    def join(link: Netlink) -> None:
        link.add_veth("eth1", peer="eth1", namespace=there, mac="", mtu=1500, alias="")

    await bench.inside(bench.name(HERE), join)
    for host in (HERE, THERE):  # which says nothing by itself
        await bench.spaces.call(bench.name(host), lambda: no_ipv6("eth1"))


async def both(bench: LinuxBench, net: NetworkSpec, *more: tuple[PortSpec, ...]) -> None:
    here, there = more or ((guest(WEB, "10.0.0.11"),), (guest(REMOTE, "10.0.0.31"),))
    for host, own in ((HERE, here), (THERE, there)):
        seen = await bench.apply(document(*own, host=host, networks=(net,)))
        assert seen.errors == {}


async def witnessed(
    bench: LinuxBench, doing: Callable[[], Awaitable[object]]
) -> set[tuple[int, int]]:
    """The tags, as (EtherType, number), of what comes to the second host's end of the cable; (0, 0): of none."""

    def listen() -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        opened.bind(("eth1", 3))
        opened.setsockopt(263, 8, 1)  # tell of tags
        opened.setblocking(False)
        return opened

    found = set()
    with await bench.spaces.call(bench.name(THERE), listen) as ears:
        await doing()
        await asyncio.sleep(0.1)
        with contextlib.suppress(BlockingIOError):
            while True:
                _, notes, _, sender = ears.recvmsg(2048, 100)
                status, number, kind = struct.unpack("=I12xHH", notes[0][2][:20])
                if sender[2] != socket.PACKET_OUTGOING:
                    found.add((kind, number & 0xFFF) if status & 0x10 else (0, 0))
    return found


@pytest.mark.parametrize("apart", [False, True])
def test_a_vlan_network_bears_its_tag_between_hosts_and_keeps_others_out(
    play: Play, apart: bool
) -> None:
    async def scenario(bench: LinuxBench) -> None:
        await cabled(bench, apart=apart)
        second = vlan(101, id=OTHER_NET)
        twin = guest(STRANGER, "10.0.0.11", network_id=OTHER_NET)
        here, there = guest(WEB, "10.0.0.11"), guest(REMOTE, "10.0.0.31")
        for host, own in ((HERE, (here, twin)), (THERE, (there,))):
            seen = await bench.apply(document(*own, host=host, networks=(vlan(), second)))
            assert seen.errors == {}
        tags = await witnessed(bench, lambda: bench.reaches(WEB, "10.0.0.31", "tcp", 80))
        assert tags - {(_CUSTOMER, 101)} == {(_CUSTOMER, 100)}
        assert await bench.reaches(REMOTE, "10.0.0.11", "tcp", 22)
        assert not await bench.reaches(STRANGER, "10.0.0.31", "tcp", 80), "it is on another VLAN"
        for size, word in ((1500 - 28, " 1 received"), (1500 - 27, "message too long")):
            command = ("ping", "-c1", "-W2", "-M", "do", "-s", str(size), "10.0.0.31")
            told = await bench.run_in(WEB, "sh", "-c", " ".join(command) + " 2>&1")
            assert word in told.lower(), told
        lease = await bench.lease(WEB)
        assert lease is not None and lease.mtu == 1500

    play(scenario)


def test_a_flat_network_is_the_physical_one_without_a_tag(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        await cabled(bench)
        await both(bench, vlan(0))
        tags = await witnessed(bench, lambda: bench.reaches(WEB, "10.0.0.31", "tcp", 80))
        assert tags == {(0, 0)}
        assert await bench.reaches(WEB, "10.0.0.31", "tcp", 22)

    play(scenario)


def test_a_flat_network_leaves_a_device_with_addresses_of_the_machine_alone(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        await cabled(bench)
        await bench._addresses(bench.name(HERE), "eth1", {"192.0.2.7/24"})
        seen = await bench.apply(document(guest(WEB, "10.0.0.11"), networks=(vlan(0),)))
        assert "192.0.2.7/24" in seen.errors[NET]
        both_may = await bench.apply(document(guest(WEB, "10.0.0.11"), networks=(vlan(),)))
        assert both_may.errors == {}, "a VLAN takes its own frames only"

    play(scenario)


def test_what_leads_nowhere_is_said(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        await cabled(bench)
        bench.options = {"physical": {"rack": "eth9"}}
        seen = await bench.apply(document(guest(WEB, "10.0.0.11"), networks=(vlan(),)))
        assert "no device eth9" in seen.errors[NET]
        await bench.restart(HERE)
        elsewhere = vlan(physical="attic")
        seen = await bench.apply(document(guest(WEB, "10.0.0.11"), networks=(elsewhere,)))
        assert "no physical network attic" in seen.errors[WEB] and seen.ports[WEB] is False

    play(scenario)


def test_a_router_leads_out_by_an_external_vlan_whose_gateway_is_not_this_machine(
    play: Play,
) -> None:
    async def scenario(bench: LinuxBench) -> None:
        await cabled(bench)
        outside = msgspec.structs.replace(public(), physical="rack", vlan=200)
        inside = document(
            guest(WEB, "10.0.0.11"), networks=(network(), outside), routers=(router(),)
        )
        assert (await bench.apply(inside)).errors == {}
        block = subnet(1, "172.24.4.0/24", None)
        far = vlan(200, subnets=(block,))
        gateway = guest(REMOTE, "172.24.4.1")
        assert (await bench.apply(document(gateway, host=THERE, networks=(far,)))).errors == {}
        assert await bench.reaches(WEB, "172.24.4.1", "tcp", 80), "by the router's own address"
        own = await run("ip", "-n", bench.name(HERE), "-o", "addr", "show", "to", "172.24.4.1")
        assert own == "", PUBLIC

    play(scenario)


@pytest.mark.parametrize(
    ("net", "on_the_way"),
    [
        (network(), None),
        (vlan(), (_CUSTOMER, 100)),
        (vlan(qinq=True), (_SERVICE, 100)),
    ],
)
def test_guests_own_tags_pass_between_hosts(
    play: Play, net: NetworkSpec, on_the_way: tuple[int, int] | None
) -> None:
    async def scenario(bench: LinuxBench) -> None:
        await cabled(bench)
        here, there = guest(WEB, "10.0.0.11"), guest(REMOTE, "10.0.0.31")
        if on_the_way is None:
            await stretch(bench, (here,), (there,))
        else:
            await both(bench, net, (here,), (there,))
        frames = [
            udp_frame(here.mac, there.mac, "10.0.0.11", "10.0.0.31", os.urandom(8)),
            udp_frame(here.mac, there.mac, "10.0.0.11", "10.0.0.31", os.urandom(8)),
            arp_frame(here.mac, "10.0.0.11", there.mac, "10.0.0.31"),
        ]
        heard: list[int | None] = []

        async def send() -> None:
            heard.append(await bench.tag_heard(WEB, REMOTE, frames[0]))
            for frame in frames[1:]:
                heard.append(await bench.tag_heard(WEB, REMOTE, frame, tagged(frame, 7)))

        if on_the_way is None:
            await send()
        else:
            assert await witnessed(bench, send) == {on_the_way}
        assert heard == [0, 7, 7]
        lie = udp_frame(here.mac, there.mac, "10.0.0.12", "10.0.0.31", os.urandom(8))
        assert await bench.tag_heard(WEB, REMOTE, lie, tagged(lie, 7)) is None

    play(scenario)


def test_groups_and_their_states_hold_for_what_guests_tag_themselves(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        here, there = guest(WEB, "10.0.0.11", CLOSED), guest(REMOTE, "10.0.0.31")
        await stretch(bench, (here,), (there,))
        ask = udp_frame(here.mac, there.mac, "10.0.0.11", "10.0.0.31", os.urandom(8))
        answer = udp_frame(there.mac, here.mac, "10.0.0.31", "10.0.0.11", os.urandom(8), (9, 4000))
        assert await bench.tag_heard(REMOTE, WEB, answer, tagged(answer, 7)) is None
        assert await bench.tag_heard(WEB, REMOTE, ask, tagged(ask, 7)) == 7
        assert await bench.tag_heard(REMOTE, WEB, answer, tagged(answer, 7)) == 7

    play(scenario)


def test_nothing_of_a_vlan_stays_at_the_device_that_leads_to_it(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        await cabled(bench)
        await both(bench, vlan())
        await both(bench, vlan(102))
        at = ("tc", "-n", bench.name(HERE), "filter", "show", "dev", "eth1", "ingress")
        assert (await run(*at)).count(" pref 102 ") and " pref 100 " not in await run(*at)
        await bench.restart(HERE)
        gone = document(host=HERE, networks=(), ports=(), groups=GROUPS)
        assert (await bench.apply(gone)).errors == {}
        await bench.sweep(HERE)
        assert await run(*at) == ""
        left = await bench.leftovers(HERE)
        assert [d for d in left if d not in ("eth1",) and "pileus" not in d] == []

    play(scenario)

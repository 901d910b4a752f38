"""What every network driver must do, as one suite: the fake's answers and real packets are asked
the same questions.

A driver's tests subclass `NetworkDriverSuite` and give it a `Bench`: some hosts under the driver,
and a way to ask what a guest or an outsider meets there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import msgspec

from pileus.services.network.driver import (
    ISOLATED,
    PROMISCUOUS,
    AddressPair,
    DhcpOption,
    FixedIP,
    FloatingSpec,
    ForwardingSpec,
    GroupSpec,
    HostNetwork,
    NetworkSpec,
    Observed,
    Peer,
    PortSpec,
    RemotePort,
    RouterGateway,
    RouterInterface,
    RouterSpec,
    RuleSpec,
    SubnetSpec,
)

# The tools with which the real bench looks, none of them the driver's own.
DEBIAN_PACKAGES = ("bind9-dnsutils", "busybox", "iproute2", "iputils-ping", "nftables")


@dataclass(frozen=True)
class LeaseSeen:
    """What DHCP told a guest."""

    ip: str
    prefix: int
    gateway: str | None
    dns_servers: tuple[str, ...]
    mtu: int
    domain: str


class Bench(Protocol):
    """Hosts h1, h2 under test, and the eyes of their guests. A guest is named by its port."""

    async def apply(self, desired: HostNetwork) -> Observed: ...
    async def sweep(self, host: str) -> None: ...
    async def restart(self, host: str) -> None:
        """Kill the driver without a word and start a new one over what it left."""

    def changes(self, host: str) -> int: ...
    async def leftovers(self, host: str) -> list[str]: ...
    async def lease(self, port_id: str) -> LeaseSeen | None: ...
    async def resolve(self, port_id: str, name: str) -> str | None: ...
    async def fetch(self, port_id: str, path: str) -> tuple[int, bytes] | None: ...
    async def reaches(self, source: str, ip: str, protocol: str, number: int) -> bool:
        """From a port, or from the underlay when `source` is empty; guests listen on 22 and 80."""

    async def sends_as(self, source: str, target: str, *, mac: str, ip: str) -> bool:
        """Does a frame from `source` with these sender addresses arrive at port `target`?"""


def uuid(kind: int, number: int) -> str:
    return f"{kind:04x}{number:04x}-{kind:04x}-4000-8000-{number:012x}"


NET, OTHER_NET, PUBLIC = uuid(1, 1), uuid(1, 2), uuid(1, 9)
WEB, DB, REMOTE, STRANGER, SERVICE = (uuid(2, n) for n in (1, 2, 3, 4, 9))
OPEN, CLOSED, WEB_ONLY, FROM_WEB = (uuid(3, n) for n in (1, 2, 3, 4))
ROUTER = uuid(4, 1)
OUTSIDE_IP = "198.51.100.1"  # somebody in the world beyond the underlay
HOST_IP, GATEWAY_IP = "198.51.100.2", "172.24.4.1"  # the machine itself
FLOATING, SECOND_FLOATING = "172.24.4.10", "172.24.4.11"
_ANY = [RuleSpec(direction=d, ethertype=e) for d in ("ingress", "egress") for e in ("IPv4", "IPv6")]
_OUT = _ANY[2:]
GROUPS = (
    GroupSpec(id=OPEN, rules=tuple(_ANY)),
    GroupSpec(id=CLOSED, rules=tuple(_OUT)),
    GroupSpec(
        id=WEB_ONLY,
        rules=(
            *_OUT,
            RuleSpec(direction="ingress", protocol="tcp", port_min=80, port_max=80),
            RuleSpec(direction="ingress", protocol="icmp", port_min=8, port_max=0, cidr="10.0.0.0/24"),
        ),
        members=("10.0.0.11",),
    ),
    GroupSpec(
        id=FROM_WEB,
        rules=(*_OUT, RuleSpec(direction="ingress", protocol="tcp", remote_group=WEB_ONLY)),
    ),
)  # fmt: skip


def subnet(number: int, cidr: str, gateway: str | None, **changes: object) -> SubnetSpec:
    spec = SubnetSpec(id=uuid(5, number), cidr=cidr, gateway=gateway)
    return msgspec.structs.replace(spec, **changes)


def network(**changes: object) -> NetworkSpec:
    spec = NetworkSpec(id=NET, segment=101, subnets=(subnet(1, "10.0.0.0/24", "10.0.0.1"),))
    return msgspec.structs.replace(spec, **changes)


def public() -> NetworkSpec:
    block = subnet(9, "172.24.4.0/24", GATEWAY_IP, dhcp=False)
    return NetworkSpec(id=PUBLIC, external=True, mtu=1500, subnets=(block,))


def guest(id: str, ip: str, group: str = OPEN, **changes: object) -> PortSpec:
    last = int(ip.rsplit(".", 1)[1])
    spec = PortSpec(
        id=id,
        network_id=NET,
        mac=f"fa:16:3e:00:{int(id[6:8], 16):02x}:{last:02x}",
        fixed_ips=(FixedIP(subnet_id=uuid(5, 1), ip=ip),),
        device_owner="compute:nova",
        hostname=f"vm-{last}",
        groups=(group,),
    )
    return msgspec.structs.replace(spec, **changes)


def service(ip: str = "10.0.0.2") -> PortSpec:
    fixed = (FixedIP(subnet_id=uuid(5, 1), ip=ip),)
    mac = "fa:16:3e:00:00:02"
    owner = "network:dhcp"
    return PortSpec(id=SERVICE, network_id=NET, mac=mac, fixed_ips=fixed, device_owner=owner)


def router(*floating: FloatingSpec, **changes: object) -> RouterSpec:
    inner = RouterInterface(
        port_id=uuid(2, 0x21), network_id=NET, mac="fa:16:3e:00:00:01", addresses=("10.0.0.1/24",)
    )
    outer = RouterGateway(
        port_id=uuid(2, 0x22),
        network_id=PUBLIC,
        mac="fa:16:3e:00:04:02",
        addresses=("172.24.4.2/24",),
        nexthops=(GATEWAY_IP,),
    )
    spec = RouterSpec(id=ROUTER, interfaces=(inner,), gateway=outer, floating_ips=floating)
    return msgspec.structs.replace(spec, **changes)


def floating(ip: str, fixed_ip: str, number: int = 1) -> FloatingSpec:
    return FloatingSpec(id=uuid(6, number), floating_ip=ip, fixed_ip=fixed_ip)


def document(*ports: PortSpec, **changes: object) -> HostNetwork:
    """Host h1 with one network, its service and these ports."""
    spec = HostNetwork(
        host="h1",
        revision=1,
        peers=(Peer(host="h1", address="198.51.100.2"), Peer(host="h2", address="198.51.100.3")),
        networks=(network(),),
        ports=(service(), *ports),
        groups=GROUPS,
    )
    return msgspec.structs.replace(spec, **changes)


Scenario = Callable[[Bench], Awaitable[None]]


class NetworkDriverSuite:
    """Subclass it and give it a bench."""

    def bench(self) -> AbstractAsyncContextManager[Bench]:
        raise NotImplementedError

    def play(self, scenario: Scenario) -> None:
        async def run() -> None:
            async with self.bench() as bench:
                await scenario(bench)

        asyncio.run(run())

    def test_a_guest_gets_its_address_name_service_and_metadata(self) -> None:
        async def scenario(bench: Bench) -> None:
            seen = await bench.apply(document(guest(WEB, "10.0.0.11"), guest(DB, "10.0.0.12")))
            assert seen == Observed(revision=1, ports={SERVICE: True, WEB: True, DB: True})
            lease = await bench.lease(WEB)
            expected = ("10.0.0.2",)
            assert lease == LeaseSeen("10.0.0.11", 24, "10.0.0.1", expected, 1450, "openstacklocal")
            assert await bench.resolve(WEB, "vm-12") == "10.0.0.12"
            assert await bench.resolve(WEB, "VM-12.openstacklocal") == "10.0.0.12"
            assert await bench.resolve(WEB, "vm-99.openstacklocal") is None
            named = guest(DB, "10.0.0.12", zone="p.example.org")
            await bench.apply(document(guest(WEB, "10.0.0.11"), named, revision=2))
            assert await bench.resolve(WEB, "vm-12.p.Example.org") == "10.0.0.12"
            assert await bench.resolve(WEB, "vm-12.openstacklocal") == "10.0.0.12"
            answer = await bench.fetch(WEB, "/latest/meta-data/")
            assert answer == (200, f"{WEB} /latest/meta-data/".encode())
            answer = await bench.fetch(DB, "/openstack")
            assert answer == (200, f"{DB} /openstack".encode())

        self.play(scenario)

    def test_a_subnet_without_dhcp_gives_no_lease(self) -> None:
        async def scenario(bench: Bench) -> None:
            quiet = network(subnets=(subnet(1, "10.0.0.0/24", "10.0.0.1", dhcp=False),))
            await bench.apply(document(guest(WEB, "10.0.0.11"), networks=(quiet,)))
            assert await bench.lease(WEB) is None
            assert await bench.fetch(WEB, "/openstack") == (200, f"{WEB} /openstack".encode())

        self.play(scenario)

    def test_security_groups_allow_what_they_name_and_nothing_else(self) -> None:
        async def scenario(bench: Bench) -> None:
            web, db = guest(WEB, "10.0.0.11", WEB_ONLY), guest(DB, "10.0.0.12", FROM_WEB)
            stranger = guest(STRANGER, "10.0.0.13", CLOSED)
            await bench.apply(document(web, db, stranger))
            assert await bench.reaches(STRANGER, "10.0.0.11", "tcp", 80)
            assert not await bench.reaches(STRANGER, "10.0.0.11", "tcp", 22)
            assert await bench.reaches(STRANGER, "10.0.0.11", "icmp", 8)
            assert not await bench.reaches(WEB, "10.0.0.13", "icmp", 8)
            assert await bench.reaches(WEB, "10.0.0.12", "tcp", 22)
            assert not await bench.reaches(STRANGER, "10.0.0.12", "tcp", 22)

        self.play(scenario)

    def test_a_new_member_and_a_new_rule_take_effect_at_once(self) -> None:
        async def scenario(bench: Bench) -> None:
            ports = (guest(WEB, "10.0.0.11", CLOSED), guest(DB, "10.0.0.12", FROM_WEB))
            await bench.apply(document(*ports))
            assert await bench.reaches(WEB, "10.0.0.12", "tcp", 22)
            empty = msgspec.structs.replace(GROUPS[2], members=())
            groups = (GROUPS[0], GROUPS[1], empty, GROUPS[3])
            await bench.apply(document(*ports, groups=groups, revision=2))
            assert not await bench.reaches(WEB, "10.0.0.12", "tcp", 80)
            rule = RuleSpec(direction="ingress", protocol="tcp", port_min=80, port_max=90)
            wider = msgspec.structs.replace(GROUPS[3], rules=(*_OUT, rule))
            groups = (GROUPS[0], GROUPS[1], empty, wider)
            await bench.apply(document(*ports, groups=groups, revision=3))
            assert await bench.reaches(WEB, "10.0.0.12", "tcp", 80)
            assert not await bench.reaches(WEB, "10.0.0.12", "tcp", 22)

        self.play(scenario)

    def test_an_address_group_lets_in_its_prefixes_and_no_others(self) -> None:
        async def scenario(bench: Bench) -> None:
            listed = uuid(3, 50)
            rule = RuleSpec(direction="ingress", protocol="tcp", remote_group=listed)
            addresses = GroupSpec(id=listed, members=("10.0.0.8/29", "10.0.0.8/30", "192.0.2.7/32"))
            groups = (*GROUPS[:3], GroupSpec(id=FROM_WEB, rules=(*_OUT, rule)), addresses)
            there = (guest(WEB, "10.0.0.11"), guest(STRANGER, "10.0.0.21"))
            ports = (*there, guest(DB, "10.0.0.12", FROM_WEB))
            assert (await bench.apply(document(*ports, groups=groups))).errors == {}
            assert await bench.reaches(WEB, "10.0.0.12", "tcp", 80)
            assert not await bench.reaches(STRANGER, "10.0.0.12", "tcp", 80)
            more = msgspec.structs.replace(addresses, members=("10.0.0.8/29", "10.0.0.16/28"))
            await bench.apply(document(*ports, groups=(*groups[:4], more), revision=2))
            assert await bench.reaches(STRANGER, "10.0.0.12", "tcp", 80)

        self.play(scenario)

    def test_egress_rules_hold_back_what_a_guest_sends(self) -> None:
        async def scenario(bench: Bench) -> None:
            mute = GroupSpec(id=CLOSED, rules=())
            ports = (guest(WEB, "10.0.0.11", CLOSED), guest(DB, "10.0.0.12"))
            await bench.apply(document(*ports, groups=(GROUPS[0], mute)))
            assert (await bench.lease(WEB)) is not None
            assert not await bench.reaches(WEB, "10.0.0.12", "tcp", 80)

        self.play(scenario)

    def test_an_unresolved_group_matches_nothing(self) -> None:
        async def scenario(bench: Bench) -> None:
            dangling = RuleSpec(direction="ingress", remote_group=uuid(3, 77))
            group = GroupSpec(id=CLOSED, rules=(*_OUT, dangling))
            ports = (guest(WEB, "10.0.0.11"), guest(DB, "10.0.0.12", CLOSED))
            lost = guest(STRANGER, "10.0.0.13", uuid(3, 78))
            seen = await bench.apply(document(*ports, lost, groups=(GROUPS[0], group)))
            assert uuid(3, 78) in seen.errors[STRANGER]
            assert not await bench.reaches(WEB, "10.0.0.12", "tcp", 80)
            assert not await bench.reaches(WEB, "10.0.0.13", "tcp", 80)

        self.play(scenario)

    def test_a_guest_cannot_send_under_another_address(self) -> None:
        async def scenario(bench: Bench) -> None:
            web, db = guest(WEB, "10.0.0.11"), guest(DB, "10.0.0.12")
            await bench.apply(document(web, db, guest(STRANGER, "10.0.0.13")))
            assert await bench.sends_as(WEB, DB, mac=web.mac, ip="10.0.0.11")
            assert not await bench.sends_as(WEB, DB, mac=web.mac, ip="10.0.0.13")
            assert not await bench.sends_as(WEB, DB, mac="fa:16:3e:00:00:77", ip="10.0.0.11")

        self.play(scenario)

    def test_allowed_address_pairs_and_disabled_port_security_let_it(self) -> None:
        async def scenario(bench: Bench) -> None:
            pair = AddressPair(cidr="10.0.0.128/25")
            web = guest(WEB, "10.0.0.11", allowed_address_pairs=(pair,))
            free = guest(STRANGER, "10.0.0.13", security=False, groups=())
            await bench.apply(document(web, guest(DB, "10.0.0.12"), free))
            assert await bench.sends_as(WEB, DB, mac=web.mac, ip="10.0.0.200")
            assert not await bench.sends_as(WEB, DB, mac=web.mac, ip="10.0.0.100")
            assert await bench.sends_as(STRANGER, DB, mac="fa:16:3e:00:00:77", ip="10.9.9.9")
            assert await bench.reaches(WEB, "10.0.0.13", "tcp", 80)

        self.play(scenario)

    def test_a_floating_address_leads_to_its_guest_and_the_guest_out(self) -> None:
        async def scenario(bench: Bench) -> None:
            ports = (
                guest(WEB, "10.0.0.11"),
                guest(DB, "10.0.0.12"),
                guest(STRANGER, "10.0.0.13", CLOSED),
            )
            routed = document(
                *ports,
                networks=(network(), public()),
                routers=(
                    router(
                        floating(FLOATING, "10.0.0.11"), floating(SECOND_FLOATING, "10.0.0.13", 2)
                    ),
                ),
            )
            assert (await bench.apply(routed)).errors == {}
            assert await bench.reaches("", FLOATING, "icmp", 8)
            assert await bench.reaches("", FLOATING, "tcp", 22)
            assert not await bench.reaches("", SECOND_FLOATING, "tcp", 22)
            assert await bench.reaches(DB, OUTSIDE_IP, "tcp", 80)
            assert await bench.reaches(WEB, OUTSIDE_IP, "tcp", 80)
            assert await bench.reaches(DB, FLOATING, "tcp", 80)
            bare = msgspec.structs.replace(routed, routers=(router(),), revision=2)
            assert (await bench.apply(bare)).errors == {}
            assert not await bench.reaches("", FLOATING, "tcp", 22)

        self.play(scenario)  # fmt: skip

    def test_ports_of_a_floating_address_lead_to_several_guests(self) -> None:
        async def scenario(bench: Bench) -> None:
            ports = (guest(WEB, "10.0.0.11"), guest(DB, "10.0.0.12"))

            def forward(low: int, high: int, fixed_ip: str, fixed_low: int) -> ForwardingSpec:
                return ForwardingSpec(
                    floating_ip=FLOATING, protocol="tcp", low=low, high=high, fixed_ip=fixed_ip,
                    fixed_low=fixed_low,
                )  # fmt: skip

            def routed(*forwardings: ForwardingSpec, revision: int = 1) -> HostNetwork:
                routers = (router(forwardings=forwardings),)
                nets = (network(), public())
                return document(*ports, networks=nets, routers=routers, revision=revision)

            wanted = (forward(8022, 8022, "10.0.0.11", 22), forward(78, 80, "10.0.0.12", 78))
            assert (await bench.apply(routed(*wanted))).errors == {}
            assert await bench.reaches("", FLOATING, "tcp", 8022)
            assert await bench.reaches("", FLOATING, "tcp", 80)
            assert await bench.reaches(DB, FLOATING, "tcp", 8022)
            assert not await bench.reaches("", FLOATING, "tcp", 22)
            shifted = forward(8020, 8029, "10.0.0.11", 20)
            await bench.apply(routed(shifted, revision=2))
            assert await bench.reaches("", FLOATING, "tcp", 8022)
            assert not await bench.reaches("", FLOATING, "tcp", 80)

        self.play(scenario)

    def test_without_source_translation_or_gateway_nothing_gets_out(self) -> None:
        async def scenario(bench: Bench) -> None:
            port = guest(WEB, "10.0.0.11")
            closed = document(port, networks=(network(), public()), routers=(router(snat=False),))
            await bench.apply(closed)
            assert not await bench.reaches(WEB, OUTSIDE_IP, "tcp", 80)
            inner = document(
                port, networks=(network(), public()), routers=(router(gateway=None),), revision=2
            )
            await bench.apply(inner)
            assert not await bench.reaches(WEB, OUTSIDE_IP, "tcp", 80)

        self.play(scenario)

    def test_two_hosts_share_a_network(self) -> None:
        async def scenario(bench: Bench) -> None:
            here, there = guest(WEB, "10.0.0.11", WEB_ONLY), guest(REMOTE, "10.0.0.31", FROM_WEB)
            for host, own, other, at in (("h1", here, there, "h2"), ("h2", there, here, "h1")):
                ips = tuple(f.ip for f in other.fixed_ips)
                remote = RemotePort(
                    id=other.id, mac=other.mac, ips=ips, host=at, hostname=other.hostname
                )
                stretched = network(remote_ports=(remote,))
                seen = await bench.apply(document(own, host=host, networks=(stretched,)))
                assert seen.errors == {}
            assert (await bench.lease(WEB)) is not None
            assert (await bench.lease(REMOTE)) is not None
            assert await bench.reaches(WEB, "10.0.0.31", "tcp", 22)
            assert await bench.reaches(REMOTE, "10.0.0.11", "tcp", 80)
            assert not await bench.reaches(REMOTE, "10.0.0.11", "tcp", 22)

        self.play(scenario)

    def test_in_a_private_network_isolated_ports_and_communities_meet_whom_they_may(self) -> None:
        async def scenario(bench: Bench) -> None:
            parts = {WEB: ISOLATED, DB: ISOLATED, STRANGER: "community a", REMOTE: "community a"}

            def ports(**changed: str) -> tuple[PortSpec, ...]:
                spoken = parts | {uuid(2, 5): PROMISCUOUS, uuid(2, 6): "community b"} | changed
                return tuple(
                    guest(id, f"10.0.0.{11 + n}", pvlan=part)
                    for n, (id, part) in enumerate(spoken.items())
                )

            outside = {"networks": (network(), public()), "routers": (router(),)}
            assert (await bench.apply(document(*ports(), **outside))).errors == {}
            web, db, stranger, remote, open_to_all, other = (f"10.0.0.{n}" for n in range(11, 17))
            for source, ip, arrives in (
                (WEB, db, False),
                (WEB, stranger, False),
                (STRANGER, web, False),
                (STRANGER, remote, True),
                (STRANGER, other, False),
                (WEB, open_to_all, True),
                (uuid(2, 5), web, True),
                (uuid(2, 5), other, True),
            ):
                assert await bench.reaches(source, ip, "tcp", 80) is arrives, (source, ip)
            assert (await bench.lease(WEB)) is not None
            assert (await bench.fetch(DB, "/x")) == (200, f"{DB} /x".encode())
            assert await bench.reaches(WEB, OUTSIDE_IP, "tcp", 80), "by its router"
            await bench.apply(document(*ports(**{WEB: "community a"}), **outside, revision=2))
            assert await bench.reaches(WEB, stranger, "tcp", 80)
            assert not await bench.reaches(WEB, db, "tcp", 80)

        self.play(scenario)

    def test_tenants_with_the_same_addresses_do_not_meet(self) -> None:
        async def scenario(bench: Bench) -> None:
            second = network(id=OTHER_NET, segment=102)
            twin = guest(STRANGER, "10.0.0.12", network_id=OTHER_NET)
            asker = guest(REMOTE, "10.0.0.13", network_id=OTHER_NET, groups=(CLOSED,))
            desired = document(guest(WEB, "10.0.0.11"), guest(DB, "10.0.0.12", CLOSED), twin, asker)
            await bench.apply(msgspec.structs.replace(desired, networks=(network(), second)))
            assert not await bench.reaches(WEB, "10.0.0.12", "tcp", 80)
            assert await bench.reaches(REMOTE, "10.0.0.12", "tcp", 80)
            assert not await bench.reaches(REMOTE, "10.0.0.11", "tcp", 80)
            assert await bench.fetch(STRANGER, "/x") == (200, f"{STRANGER} /x".encode())
            assert await bench.fetch(DB, "/x") == (200, f"{DB} /x".encode())

        self.play(scenario)

    def test_one_odd_object_does_not_harm_the_others(self) -> None:
        async def scenario(bench: Bench) -> None:
            odd = guest(DB, "10.0.0.12", mac='x" drop; flush ruleset;')
            bad_rule = RuleSpec(direction="ingress", protocol="tcp", port_min=90, port_max=80)
            groups = (*GROUPS[:3], GroupSpec(id=FROM_WEB, rules=(bad_rule,)))
            bad_net = NetworkSpec(id=OTHER_NET, segment=0)
            lost = guest(REMOTE, "10.0.0.13", network_id=uuid(1, 77))
            desired = document(guest(WEB, "10.0.0.11"), odd, lost, groups=groups)
            seen = await bench.apply(
                msgspec.structs.replace(desired, networks=(network(), bad_net))
            )
            assert seen.errors.keys() == {DB, FROM_WEB, OTHER_NET, REMOTE}
            assert seen.ports == {SERVICE: True, WEB: True, DB: False, REMOTE: False}
            assert (await bench.lease(WEB)) is not None

        self.play(scenario)

    def test_an_option_that_dhcp_cannot_send_is_reported_and_the_port_works(self) -> None:
        async def scenario(bench: Bench) -> None:
            odd = (DhcpOption(name="router", value="not an address"),)
            seen = await bench.apply(document(guest(WEB, "10.0.0.11", dhcp_options=odd)))
            assert "router" in seen.errors[WEB]
            assert seen.ports[WEB]
            assert (await bench.lease(WEB)) is not None

        self.play(scenario)

    def test_a_port_that_is_down_hears_nothing(self) -> None:
        async def scenario(bench: Bench) -> None:
            up, down = guest(WEB, "10.0.0.11"), guest(DB, "10.0.0.12", admin_up=False)
            seen = await bench.apply(document(up, down))
            assert seen.ports[DB] is False
            assert not await bench.reaches(WEB, "10.0.0.12", "tcp", 80)
            await bench.apply(document(up, guest(DB, "10.0.0.12"), revision=2))
            assert await bench.reaches(WEB, "10.0.0.12", "tcp", 80)

        self.play(scenario)

    def test_applying_twice_changes_nothing(self) -> None:
        async def scenario(bench: Bench) -> None:
            desired = _full_document()
            await bench.apply(desired)
            before, held = bench.changes("h1"), await bench.leftovers("h1")
            seen = await bench.apply(msgspec.structs.replace(desired, revision=2))
            assert seen.revision == 2
            assert bench.changes("h1") == before
            assert await bench.leftovers("h1") == held

        self.play(scenario)

    def test_what_is_no_longer_desired_goes(self) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.apply(_full_document())
            assert await bench.leftovers("h1")
            seen = await bench.apply(HostNetwork(host="h1", revision=2))
            assert seen == Observed(revision=2)
            await bench.sweep("h1")
            assert await bench.leftovers("h1") == []

        self.play(scenario)

    def test_a_killed_host_comes_back_to_what_it_left_and_repairs_the_rest(self) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.apply(_full_document())
            await bench.restart("h1")
            smaller = document(
                guest(WEB, "10.0.0.11"),
                networks=(network(), public()),
                routers=(router(floating(FLOATING, "10.0.0.11")),),
                revision=2,
            )
            seen = await bench.apply(smaller)
            assert seen.errors == {}
            assert await bench.reaches("", FLOATING, "tcp", 22)
            assert (await bench.lease(WEB)) is not None
            assert await bench.fetch(WEB, "/x") == (200, f"{WEB} /x".encode())
            await bench.apply(HostNetwork(host="h1", revision=3))
            await bench.sweep("h1")
            assert await bench.leftovers("h1") == []

        self.play(scenario)

    def test_a_sweep_before_any_document_removes_an_earlier_life(self) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.apply(_full_document())
            await bench.restart("h1")
            await bench.sweep("h1")
            assert await bench.leftovers("h1") == []

        self.play(scenario)


def _full_document() -> HostNetwork:
    return document(
        guest(WEB, "10.0.0.11"),
        guest(DB, "10.0.0.12", FROM_WEB),
        networks=(network(), public()),
        routers=(router(floating(FLOATING, "10.0.0.11")),),
    )

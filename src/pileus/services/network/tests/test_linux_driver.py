"""The driver suite over real packets, and what only real packets can show."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from pileus.host import dns
from pileus.host.netlink import Netlink
from pileus.services.network.driver import (
    AddressPair,
    FixedIP,
    GroupSpec,
    HostNetwork,
    PortSpec,
    RemotePort,
    RuleSpec,
    tap_name,
)
from pileus.services.network.drivers.linux import LinuxNetworkDriver, Options
from pileus.services.network.drivers.linux.filters import link_local
from pileus.services.network.tests.linux_bench import (
    LinuxBench,
    advert_frame,
    arp_frame,
    echo,
    run,
    udp_frame,
)
from pileus.testing.drivers.network import (
    CLOSED,
    DB,
    FLOATING,
    FROM_WEB,
    GATEWAY_IP,
    GROUPS,
    HOST_IP,
    OTHER_NET,
    OUTSIDE_IP,
    PUBLIC,
    REMOTE,
    STRANGER,
    WEB,
    Bench,
    NetworkDriverSuite,
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


class TestLinuxNetworkDriver(NetworkDriverSuite):
    @pytest.fixture(autouse=True)
    def _scratch(self, tmp_path: Path) -> None:
        self.scratch = tmp_path

    def linux(self) -> AbstractAsyncContextManager[LinuxBench]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[LinuxBench]:
            bench = LinuxBench(self.scratch)
            try:
                await bench.open()
                yield bench
            finally:
                await bench.close()

        return opened()

    def bench(self) -> AbstractAsyncContextManager[Bench]:
        return self.linux()

    def play_here(self, scenario: Callable[[LinuxBench], Awaitable[None]]) -> None:
        async def run_it() -> None:
            async with self.linux() as bench:
                await scenario(bench)

        asyncio.run(run_it())

    def test_a_guest_reaches_nothing_of_the_host_itself(self) -> None:
        async def scenario(bench: LinuxBench) -> None:
            desired = document(
                guest(WEB, "10.0.0.11"), networks=(network(), public()), routers=(router(),)
            )
            await bench.apply(desired)
            heard = await bench.listen("h1", (80,))
            assert await bench.reaches("", HOST_IP, "tcp", 80)
            assert await bench.reaches(WEB, OUTSIDE_IP, "tcp", 80)
            for address in (HOST_IP, GATEWAY_IP):
                assert not await bench.reaches(WEB, address, "tcp", 80)
            for address in (HOST_IP, "198.51.100.3"):  # nor, on the underlay, any other host
                assert not await bench.reaches(WEB, address, "icmp", 8)
            await bench.run_in(WEB, "ip", "route", "add", f"{HOST_IP}/32", "dev", "eth0")
            assert not await bench.reaches(WEB, HOST_IP, "tcp", 80)
            found = await bench.run_in(WEB, "ip", "neigh", "show", HOST_IP)
            assert "lladdr" not in found, "the host answered ARP on a guest's network"
            for opened in heard:
                opened.close()

        self.play_here(scenario)

    def test_only_bridges_that_ask_for_it_pass_the_inet_hooks_unless_others_have_bridges(
        self,
    ) -> None:
        async def scenario(bench: LinuxBench) -> None:
            def said() -> str:
                return Path("/proc/sys/net/bridge/bridge-nf-call-iptables").read_text().strip()

            def of_another(link: Netlink) -> None:
                link.add_bridge("docker0", mtu=1500, alias="", filtered=False)

            alone, shared = bench.home("h1"), bench.home("h2")
            assert await bench.spaces.call(shared, said) == "1"
            await bench.inside(shared, of_another)
            for host in ("h1", "h2"):
                await bench.apply(document(guest(WEB, "10.0.0.11"), host=host))
            assert await bench.spaces.call(alone, said) == "0"
            assert await bench.spaces.call(shared, said) == "1"

        self.play_here(scenario)

    def test_only_ports_that_the_operator_opens_are_reached_on_the_host(self) -> None:
        async def scenario(bench: LinuxBench) -> None:
            bench.options = {"open_ports": (80,)}
            desired = document(
                guest(WEB, "10.0.0.11"), networks=(network(), public()), routers=(router(),)
            )
            await bench.apply(desired)
            heard = await bench.listen("h1", (80, 81))
            assert await bench.reaches(WEB, HOST_IP, "tcp", 80)
            assert not await bench.reaches(WEB, HOST_IP, "tcp", 81)
            for opened in heard:
                opened.close()

        self.play_here(scenario)

    def test_guests_speak_ipv6_within_their_groups(self) -> None:
        async def scenario(bench: LinuxBench) -> None:
            v6 = subnet(6, "fd00:1::/64", "fd00:1::1", ip_version=6)
            both = network(subnets=(*network().subnets, v6))
            here, there = (_dual(g) for g in (guest(WEB, "10.0.0.11"), guest(DB, "10.0.0.12")))
            closed = _dual(guest(STRANGER, "10.0.0.13", CLOSED))
            await bench.apply(document(here, there, closed, networks=(both,)))
            assert await bench.reaches(WEB, "fd00:1::c", "icmp", 8)
            assert await bench.reaches(WEB, "fd00:1::c", "tcp", 80)
            assert not await bench.reaches(WEB, "fd00:1::d", "tcp", 80)
            assert not await bench.reaches(WEB, "fd00:1::d", "icmp", 8)
            assert await bench.reaches(STRANGER, "fd00:1::c", "tcp", 80)
            answer = await bench.fetch_at(WEB, "fe80::a9fe:a9fe", "/openstack")
            assert answer == (200, f"{WEB} /openstack".encode())
            await bench.run_in(WEB, "ip", "addr", "add", "fd00:1::77/128", "dev", "eth0", "nodad")
            told = await bench.run_in(WEB, "ping", "-c1", "-W1", "-I", "fd00:1::77", "fd00:1::c")
            assert " 0 received" in told

        self.play_here(scenario)

    def test_a_router_advertises_prefixes_that_ask_for_it(self) -> None:
        async def scenario(bench: LinuxBench) -> None:
            v6 = subnet(6, "fd00:1::/64", "fd00:1::1", ip_version=6, ra_mode="slaac")
            both = network(subnets=(*network().subnets, v6))
            made = (
                "fd00:1::f816:3eff:fe00:10b"  # what the MAC fa:16:3e:00:01:0b makes of the prefix
            )
            port = guest(WEB, "10.0.0.11")
            fixed = (*port.fixed_ips, FixedIP(subnet_id=v6.id, ip=made))
            inner = router(gateway=None).interfaces[0]
            inner = msgspec.structs.replace(inner, addresses=("10.0.0.1/24", "fd00:1::1/64"))
            desired = document(
                port,
                networks=(both,),
                routers=(router(gateway=None, interfaces=(inner,)),),
            )
            await bench.apply(desired)
            await bench.run_in(WEB, "ip", "link", "set", "eth0", "down")
            await bench.run_in(WEB, "ip", "link", "set", "eth0", "up")
            seen = await bench.eventually(WEB, ("ip", "-6", "addr", "show", "dev", "eth0"), made)
            assert f"{made}/64" in seen
            ports = (desired.ports[0], msgspec.structs.replace(port, fixed_ips=fixed))
            routes = await bench.eventually(WEB, ("ip", "-6", "route"), "default via fe80::")
            assert "proto ra" in routes
            assert (await bench.apply(msgspec.structs.replace(desired, ports=ports))).errors == {}

        self.play_here(scenario)

    def test_ossa_2016_009_2021_001_and_2021_004_a_guest_cannot_poison_its_neighbours(self) -> None:
        """ARP and neighbour discovery under another's address, and answers of a DHCP server (R12)."""

        async def scenario(bench: LinuxBench) -> None:
            web, db = guest(WEB, "10.0.0.11"), guest(DB, "10.0.0.12")
            await bench.apply(document(web, db))
            honest = arp_frame(web.mac, "10.0.0.11", db.mac, "10.0.0.12")
            assert await bench.passes(WEB, DB, honest)
            assert not await bench.passes(
                WEB, DB, arp_frame(web.mac, "10.0.0.2", db.mac, "10.0.0.12")
            )
            own = link_local(web.mac)
            assert await bench.passes(WEB, DB, advert_frame(web.mac, db.mac, own, own))
            for other in ("fe80::a9fe:a9fe", link_local(db.mac)):
                assert not await bench.passes(WEB, DB, advert_frame(web.mac, db.mac, own, other))
            rogue = udp_frame(web.mac, db.mac, "10.0.0.11", "10.0.0.12", b"rogue", (67, 68))
            assert not await bench.passes(WEB, DB, rogue)
            tagged = b"".join((honest[:12], b"\x81\x00\x00\x07", honest[12:]))
            assert not await bench.passes(WEB, DB, tagged)

        self.play_here(scenario)

    def test_what_a_prefix_among_the_pairs_holds_may_be_claimed_and_nothing_beyond(self) -> None:
        async def scenario(bench: LinuxBench) -> None:
            blocks = ("10.0.0.128/25", "fd00:1::/64", "fd00:1::/80", "fd00:3::9/128")
            pairs = tuple(AddressPair(cidr=block) for block in blocks)
            web = guest(WEB, "10.0.0.11", allowed_address_pairs=pairs)
            db = guest(DB, "10.0.0.12")
            assert (await bench.apply(document(web, db))).errors == {}
            for ip, may in (("10.0.0.200", True), ("10.0.0.100", False)):
                claim = arp_frame(web.mac, ip, db.mac, "10.0.0.12")
                assert await bench.passes(WEB, DB, claim) is may, ip
            claims = {"fd00:1::7": True, "fd00:1:0:1::7": False, "fd00:3::9": True}
            for target, may in (claims | {"fd00:3::8": False}).items():
                for source in (link_local(web.mac), target):
                    claim = advert_frame(web.mac, db.mac, source, target)
                    assert await bench.passes(WEB, DB, claim) is may, (source, target)

        self.play_here(scenario)

    def test_the_metadata_address_works_through_the_default_route_too(self) -> None:
        async def scenario(bench: LinuxBench) -> None:
            desired = document(guest(WEB, "10.0.0.11"), routers=(router(gateway=None),))
            await bench.apply(desired)
            await bench.run_in(WEB, "ip", "route", "del", "169.254.169.254/32")
            assert await bench.fetch(WEB, "/x") == (200, f"{WEB} /x".encode())

        self.play_here(scenario)

    def test_without_port_security_a_guest_still_gets_only_its_own_metadata(self) -> None:
        async def scenario(bench: LinuxBench) -> None:
            free = guest(WEB, "10.0.0.11", security=False, groups=())
            pair = AddressPair(cidr="10.0.0.0/24")
            paired = guest(STRANGER, "10.0.0.13", allowed_address_pairs=(pair,))
            await bench.apply(document(free, guest(DB, "10.0.0.12", admin_up=False), paired))
            for port_id in (WEB, STRANGER):
                assert await bench.fetch(port_id, "/x") == (200, f"{port_id} /x".encode())
                await bench.run_in(port_id, "ip", "addr", "add", "10.0.0.12/32", "dev", "eth0")
                route = ("169.254.169.254/32", "dev", "eth0", "src", "10.0.0.12")
                await bench.run_in(port_id, "ip", "route", "replace", *route)
                assert await bench.fetch(port_id, "/x") is None

        self.play_here(scenario)

    def test_the_taps_belong_to_the_user_that_runs_guests(self) -> None:
        async def scenario(bench: LinuxBench) -> None:
            bench.options = {"tap_owner": 65534}
            await bench.apply(document(guest(WEB, "10.0.0.11")))
            told = await run("ip", "-n", bench.name("h1"), "-d", "link", "show", tap_name(WEB))
            assert "user nobody" in told or "user 65534" in told
            assert "persist on" in told

        self.play_here(scenario)

    def test_two_instances_share_a_machine_and_sweep_only_their_own(self) -> None:
        async def scenario(bench: LinuxBench) -> None:
            await bench.apply(document(guest(WEB, "10.0.0.11")))
            home = str(bench.spaces.path(bench.name("h1")))
            folder = self.scratch / "netns-h1"
            options = Options(prefix="zz9", home=home, underlay=home, namespaces=folder)
            other = LinuxNetworkDriver(echo, options=options)
            await other.start_up()
            twin = guest(STRANGER, "10.0.0.11", network_id=OTHER_NET)
            second = network(id=OTHER_NET, segment=102)
            desired = document(networks=(second,), ports=(twin,))
            assert (await other.apply(desired)).errors == {}
            assert (await bench.lease(WEB)) is not None
            await other.apply(HostNetwork(host="h1", revision=2))
            await other.sweep()
            await other.close()
            assert (await bench.lease(WEB)) is not None
            assert not [found for found in await bench.leftovers("h1") if "zz9" in found]

        self.play_here(scenario)

    def test_a_second_cloud_with_the_same_outside_says_whose_it_is_and_takes_nothing(self) -> None:
        async def scenario(bench: LinuxBench) -> None:
            outside = document(
                guest(WEB, "10.0.0.11"), networks=(network(), public()), routers=(router(),)
            )
            assert (await bench.apply(outside)).errors == {}
            home = str(bench.spaces.path(bench.name("h1")))
            folder = self.scratch / "netns-h1"
            options = Options(prefix="zz9", home=home, underlay=home, namespaces=folder)
            other = LinuxNetworkDriver(echo, options=options)
            await other.start_up()
            wanted = HostNetwork(host="h1", revision=1, networks=(public(),))
            said = (await other.apply(wanted)).errors[PUBLIC]
            assert GATEWAY_IP in said and "--underlay" in said and "device pl" in said
            assert await bench.reaches(WEB, OUTSIDE_IP, "tcp", 80), "the first goes on"
            await bench.apply(document(guest(WEB, "10.0.0.11"), revision=2))
            assert (await other.apply(wanted)).errors == {}, "its turn, once the first is gone"
            await other.apply(HostNetwork(host="h1", revision=2))
            await other.sweep()
            await other.close()

        self.play_here(scenario)

    def test_established_connections_survive_a_restart_of_the_host_process(self) -> None:
        async def scenario(bench: LinuxBench) -> None:
            desired = document(guest(WEB, "10.0.0.11"), guest(DB, "10.0.0.12", FROM_WEB))
            groups = (*GROUPS[:2], msgspec.structs.replace(GROUPS[2], members=("10.0.0.11",)))
            desired = msgspec.structs.replace(desired, groups=(*groups, GROUPS[3]))
            await bench.apply(desired)
            ours, theirs = await bench.connected(WEB, DB, "10.0.0.12")
            await bench.restart("h1")
            await bench.apply(desired)
            theirs.send(b"still here")
            assert await bench.heard(ours) == b"still here"
            for opened in (ours, theirs):
                opened.close()

        self.play_here(scenario)

    def test_ossa_2015_021_a_rule_taken_away_ends_the_connections_it_allowed_and_no_other(
        self,
    ) -> None:
        async def scenario(bench: LinuxBench) -> None:
            ssh = RuleSpec(direction="ingress", protocol="tcp", port_min=22, port_max=22)
            both = RuleSpec(direction="ingress", protocol="tcp", cidr="10.0.0.13/32")
            group = GroupSpec(id=CLOSED, rules=(*GROUPS[1].rules, ssh, both))
            ports = (guest(WEB, "10.0.0.11"), guest(DB, "10.0.0.12", CLOSED))
            desired = document(*ports, guest(STRANGER, "10.0.0.13"), groups=(GROUPS[0], group))
            await bench.apply(desired)
            ours, theirs = await bench.connected(WEB, DB, "10.0.0.12")
            others, kept = await bench.connected(STRANGER, DB, "10.0.0.12")
            less = GroupSpec(id=CLOSED, rules=(*GROUPS[1].rules, both))
            await bench.apply(msgspec.structs.replace(desired, groups=(GROUPS[0], less)))
            ours.send(b"one")
            others.send(b"two")
            assert await bench.heard(kept) == b"two"
            assert await bench.heard(theirs) is None
            for opened in (ours, theirs, others, kept):
                opened.close()

        self.play_here(scenario)

    def test_a_floating_address_taken_away_ends_the_connections_through_it(self) -> None:
        async def scenario(bench: LinuxBench) -> None:
            desired = document(
                guest(WEB, "10.0.0.11"),
                networks=(network(), public()),
                routers=(router(floating(FLOATING, "10.0.0.11")),),
            )
            await bench.apply(desired)
            ours, theirs = await bench.connected("", WEB, FLOATING)
            ours.send(b"one")
            assert await bench.heard(theirs) == b"one"
            await bench.apply(msgspec.structs.replace(desired, routers=(router(),)))
            ours.send(b"two")
            assert await bench.heard(theirs) is None
            for opened in (ours, theirs):
                opened.close()

        self.play_here(scenario)

    def test_bridges_and_underlay_may_live_in_two_namespaces(self) -> None:
        async def scenario(bench: LinuxBench) -> None:
            bench.is_apart = True
            here, there = guest(WEB, "10.0.0.11"), guest(REMOTE, "10.0.0.31")
            for host, own, other, at in (("h1", here, there, "h2"), ("h2", there, here, "h1")):
                remote = RemotePort(id=other.id, mac=other.mac, ips=("10.0.0.1",), host=at)
                stretched = network(remote_ports=(remote,))
                outer = (router(floating(FLOATING, "10.0.0.11")),) if host == "h1" else ()
                seen = await bench.apply(
                    document(own, host=host, networks=(stretched, public()), routers=outer)
                )
                assert seen.errors == {}
            assert await bench.reaches(WEB, "10.0.0.31", "tcp", 22)
            assert await bench.reaches("", FLOATING, "tcp", 22)
            assert await bench.reaches(WEB, OUTSIDE_IP, "tcp", 80)

        self.play_here(scenario)

    def test_a_guest_may_sit_directly_on_an_external_network(self) -> None:
        async def scenario(bench: LinuxBench) -> None:
            fixed = (FixedIP(subnet_id=uuid(5, 9), ip="172.24.4.20"),)
            port = guest(WEB, "10.0.0.11", network_id=PUBLIC, fixed_ips=fixed)
            seen = await bench.apply(document(port, networks=(public(),), ports=(port,)))
            assert seen.errors == {}
            assert await bench.reaches("", "172.24.4.20", "tcp", 22)
            assert await bench.reaches(WEB, OUTSIDE_IP, "tcp", 80)
            assert await bench.fetch(WEB, "/x") == (200, f"{WEB} /x".encode())

        self.play_here(scenario)

    def test_a_frame_for_the_hosts_own_bridge_is_not_heard_by_the_host(self) -> None:
        async def scenario(bench: LinuxBench) -> None:
            web = guest(WEB, "10.0.0.11")
            await bench.apply(document(web))
            links = json.loads(await run("ip", "-n", bench.name("h1"), "-j", "link"))
            bridge = next(k["address"] for k in links if k["ifname"].startswith("plb"))
            with await bench.spaces.call(bench.name("h1"), _udp_listener) as ears:
                frame = udp_frame(web.mac, bridge, "10.0.0.11", HOST_IP, b"knock")
                await bench.send(WEB, frame)
                assert await bench.heard(ears) is None

        self.play_here(scenario)

    def test_an_established_connection_opens_no_door_in_a_network_with_the_same_addresses(
        self,
    ) -> None:
        async def scenario(bench: LinuxBench) -> None:
            second = network(id=OTHER_NET, segment=102)
            twins = (
                guest(STRANGER, "10.0.0.11", network_id=OTHER_NET),
                guest(REMOTE, "10.0.0.12", CLOSED, network_id=OTHER_NET),
            )
            ours = (guest(WEB, "10.0.0.11"), guest(DB, "10.0.0.12"))
            desired = document(*ours, *twins)
            await bench.apply(msgspec.structs.replace(desired, networks=(network(), second)))
            ends = await bench.connected(WEB, DB, "10.0.0.12", source_port=40001)
            with pytest.raises(TimeoutError):
                await bench.connected(STRANGER, REMOTE, "10.0.0.12", source_port=40001)
            for opened in ends:
                opened.close()

        self.play_here(scenario)

    def test_only_its_own_hosts_service_answers_a_guest(self) -> None:
        async def scenario(bench: LinuxBench) -> None:
            here, there = guest(WEB, "10.0.0.11"), guest(REMOTE, "10.0.0.31")
            for host, own, other, at in (("h1", here, there, "h2"), ("h2", there, here, "h1")):
                remote = RemotePort(id=other.id, mac=other.mac, ips=("10.0.0.1",), host=at)
                await bench.apply(
                    document(own, host=host, networks=(network(remote_ports=(remote,)),))
                )
            question = arp_frame(
                here.mac, "10.0.0.11", "ff:ff:ff:ff:ff:ff", "10.0.0.2", operation=1
            )
            answer = bytes.fromhex("0002fa163e000002") + socket.inet_aton("10.0.0.2")
            assert await bench.replies(WEB, question, answer) == 1

        self.play_here(scenario)

    def test_names_of_the_outside_go_to_the_operators_resolver(self) -> None:
        async def scenario(bench: LinuxBench) -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
                # Port 53 of a loopback address of our own: the driver's process asks from here.
                resolver.bind(("127.53.7.1", 53))
                resolver.setblocking(False)
                bench.options = {"resolvers": ("127.53.7.1",)}
                await bench.apply(document(guest(WEB, "10.0.0.11")))
                loop = asyncio.get_running_loop()
                asking = asyncio.create_task(bench.resolve(WEB, "www.example.org"))
                async with asyncio.timeout(3):
                    packet, peer = await loop.sock_recvfrom(resolver, 512)
                question = dns.parse(packet)
                assert question is not None
                reply = dns.address_answer(question, ["203.0.113.7"])
                await loop.sock_sendto(resolver, reply, peer)
                assert await asking == "203.0.113.7"

        self.play_here(scenario)


def _udp_listener() -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind(("", 9))
    opened.setblocking(False)
    return opened


def _dual(port: PortSpec) -> PortSpec:
    """The same port with fd00:1::<last octet> as well."""
    last = int(port.fixed_ips[0].ip.rsplit(".", 1)[1])
    own = FixedIP(subnet_id=uuid(5, 6), ip=f"fd00:1::{last:x}")
    return msgspec.structs.replace(port, fixed_ips=(*port.fixed_ips, own))

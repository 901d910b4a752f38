"""A router: a namespace with an end on each of its networks, address translation, and router
advertisements.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Interface, IPv6Network, ip_address, ip_interface
from pathlib import Path

from pileus.host import nftables as nft
from pileus.host.neighbours import ALL_NODES, Advertisement, announce, solicitation_socket
from pileus.host.netlink import Hops, Netlink
from pileus.host.netns import sysctl
from pileus.host.ruleset import Fragment, Table
from pileus.services.network.checks import protocol_number
from pileus.services.network.driver import (
    FloatingSpec,
    ForwardingSpec,
    Limit,
    NetworkSpec,
    RouterGateway,
    RouterInterface,
    RouterSpec,
)
from pileus.services.network.drivers.linux.filters import over
from pileus.services.network.drivers.linux.machine import Machine, no_ipv6
from pileus.services.network.drivers.linux.names import Names
from pileus.services.network.drivers.linux.rates import want_rates_aside
from pileus.services.network.drivers.linux.segments import want_pair

ADVERTISE_EVERY_S = 60.0
LIMITER = "limits"  # where what is forwarded waits


def inner_device(port_id: str) -> str:
    return f"qr-{port_id[:11]}"


def outer_device(port_id: str) -> str:
    return f"qg-{port_id[:11]}"


def _devices(router: RouterSpec) -> list[str]:
    inner = [inner_device(i.port_id) for i in router.interfaces]
    return [*inner, *(outer_device(g.port_id) for g in router.gateways)]


def outer_devices(router: RouterSpec) -> str:
    """All that lead out, as nft's interface or set of them."""
    devices = [nft.interface(outer_device(g.port_id)) for g in router.gateways]
    return devices[0] if len(devices) == 1 else f"{{ {', '.join(devices)} }}"


def outer_ends(names: Names, router: RouterSpec) -> dict[str, RouterGateway]:
    """The gateways by what their ends at the external bridges are called."""
    ids = [router.id, *(g.port_id for g in router.more_gateways)]
    return {names.gateway(id): g for id, g in zip(ids, router.gateways, strict=False)}


def floating_of(router: RouterSpec, gateway: RouterGateway) -> list[FloatingSpec | ForwardingSpec]:
    """What stands on that gateway: the first one on its network has it."""
    first = next(g for g in router.gateways if g.network_id == gateway.network_id)
    if first is not gateway:
        return []
    wanted = ("", gateway.network_id) if gateway is router.gateway else (gateway.network_id,)
    found: list[FloatingSpec | ForwardingSpec] = [*router.floating_ips, *router.forwardings]
    return [f for f in found if f.network_id in wanted]


@dataclass(frozen=True)
class Routing:
    """A router and the networks that it touches."""

    router: RouterSpec
    networks: Mapping[str, NetworkSpec]
    queues: bool = True  # else what is beyond a limit is dropped at once

    def outer_addresses(self, gateway: RouterGateway) -> list[str]:
        """The gateway's own addresses and one /32 for each floating address that it has."""
        named = [f.floating_ip for f in floating_of(self.router, gateway)]
        floating = dict.fromkeys(f"{ip}/32" for ip in named)
        return [*gateway.addresses, *floating]

    def routes(self) -> dict[str, Hops]:
        """Default routes and the extra ones, by destination; one without a reachable next hop is
        left out.
        """
        routes: dict[str, Hops] = {}
        gateways = self.router.gateways
        for gateway in gateways if self.router.spread else gateways[:1]:
            for nexthop in gateway.nexthops:
                default = "::/0" if ":" in nexthop else "0.0.0.0/0"
                hop = (nexthop, outer_device(gateway.port_id))
                routes[default] = (*routes.get(default, ()), hop)
        for route in self.router.routes:
            if device := self._towards(route.nexthop):
                routes[route.destination] = ((route.nexthop, device),)
        return routes

    def _towards(self, nexthop: str) -> str:
        ends = [(inner_device(i.port_id), i.addresses) for i in self.router.interfaces]
        ends += [(outer_device(g.port_id), g.addresses) for g in self.router.gateways]
        for device, addresses in ends:
            if any(ip_address(nexthop) in ip_interface(a).network for a in addresses):
                return device
        return ""


async def want_router(machine: Machine, routing: Routing) -> None:
    """The namespace, its ends, addresses, routes and rules; whatever else it held is removed."""
    router, names = routing.router, machine.names
    namespace = names.router_namespace(router.id)
    await machine.namespaces.create(namespace)
    inner = machine.namespaces.path(namespace)
    await machine.inside(namespace, lambda link: _prepare(link, routing))
    for interface in router.interfaces:
        await _want_interface(machine, routing, interface, inner)
    for name, gateway in outer_ends(names, router).items():
        await _want_gateway(machine, routing, inner, name, gateway)

    def finish(link: Netlink) -> None:
        if routing.queues:
            want_rates_aside(link, LIMITER, rates(routing), _devices(router), incoming=False)
        for interface in router.interfaces:
            device = inner_device(interface.port_id)
            network = routing.networks[interface.network_id]
            link.want(device, mtu=network.mtu, mac=interface.mac, up=router.admin_up)
            link.want_addresses(device, set(interface.addresses))
        for gateway in router.gateways:
            _dress_gateway(link, routing, gateway)
        if router.admin_up:
            link.want_routes(routing.routes())

    await machine.inside(namespace, finish)


def _prepare(link: Netlink, routing: Routing) -> None:
    """Forwarding, and rules before any device: what is not meant to pass never does."""
    sysctl("net/ipv4/ip_forward", 1)
    sysctl("net/ipv6/conf/all/forwarding", 1)
    for scope in ("all", "default"):
        sysctl(f"net/ipv4/conf/{scope}/arp_ignore", 1)
        sysctl(f"net/ipv4/conf/{scope}/arp_announce", 2)
        sysctl(f"net/ipv4/conf/{scope}/rp_filter", 0)
        sysctl(f"net/ipv4/conf/{scope}/send_redirects", 0)
        sysctl(f"net/ipv6/conf/{scope}/accept_dad", 0)
        sysctl(f"net/ipv6/conf/{scope}/accept_ra", 0)
    sysctl("net/ipv4/fib_multipath_use_neigh", int(routing.router.tried))
    link.want("lo", mtu=65536)
    wanted = {*_devices(routing.router), LIMITER, "lo"}
    for name in link.links().keys() - wanted:
        link.delete(name)
    rules = nft.Nftables()
    try:
        rules.run(translation(routing).whole({"router": floating_maps(routing.router)}))
    finally:
        rules.close()


async def _want_interface(
    machine: Machine, routing: Routing, interface: RouterInterface, inner: Path
) -> None:
    network = routing.networks[interface.network_id]
    name = machine.names.interface(interface.port_id)
    alias = machine.names.alias("interface", interface.port_id)

    def attach(link: Netlink) -> None:
        want_pair(
            link,
            name,
            peer=inner_device(interface.port_id),
            namespace=inner,
            mtu=network.mtu,
            alias=alias,
            mac=interface.mac,
        )
        no_ipv6(name)
        link.want(name, mtu=network.mtu, master=machine.names.bridge(network.id), alias=alias)

    await machine.at_home(attach)


async def _want_gateway(
    machine: Machine, routing: Routing, inner: Path, name: str, gateway: RouterGateway
) -> None:
    network = routing.networks[gateway.network_id]
    names = {machine.names.gateway(routing.router.id), machine.names.gateway(gateway.port_id)}
    alias = machine.names.alias("gateway", routing.router.id, gateway.port_id[:11])
    external = machine.names.external(network.id)
    device = outer_device(gateway.port_id)

    def attach(link: Netlink) -> None:
        present = link.link(name)
        if present and present.alias != alias:
            link.delete(name)  # another gateway port: another device inside
        for other in names - {name}:
            if (stale := link.link(other)) and stale.alias == alias:
                link.delete(other)  # it was not the first gateway, or no other
        want_pair(
            link, name, peer=device, namespace=inner, mtu=network.mtu, alias=alias, mac=gateway.mac
        )
        no_ipv6(name)
        link.want(name, mtu=network.mtu, master=external, alias=alias)

    await machine.at_underlay(attach)


def _dress_gateway(link: Netlink, routing: Routing, gateway: RouterGateway) -> None:
    device = outer_device(gateway.port_id)
    network = routing.networks[gateway.network_id]
    link.want(device, mtu=network.mtu, mac=gateway.mac, up=routing.router.admin_up)
    before = link.changes
    addresses = routing.outer_addresses(gateway)
    link.want_addresses(device, set(addresses))
    if link.changes != before and routing.router.admin_up:
        plain = [a.split("/")[0] for a in addresses]
        announce(device, gateway.mac, [a for a in plain if ":" not in a])


def floating_maps(router: RouterSpec) -> Fragment:
    """Floating addresses, both ways."""
    pairs = [(nft.block(f.floating_ip), nft.block(f.fixed_ip)) for f in router.floating_ips]
    return Fragment(
        elements={
            "fixed_of": frozenset(f"{floating} : {fixed}" for floating, fixed in pairs),
            "floating_of": frozenset(f"{fixed} : {floating}" for floating, fixed in pairs),
        }
    )


def translation(routing: Routing) -> Table:
    """Floating addresses (from inside too: hairpin), source translation, and what is not forwarded.

    Link-local addresses never leave a network: the machine's own may be a cloud's metadata service.
    With source translation on, the outside can begin nothing but connections to floating addresses.
    """
    router = routing.router
    forward = ["ip daddr 169.254.0.0/16 drop", "ip saddr 169.254.0.0/16 drop", *_apart(router)]
    chains: dict[str, tuple[str, ...]] = {}
    if router.gateway and router.admin_up:
        source = [f"oifname {outer_devices(router)} snat ip to ip saddr map @floating_of"]
        for gateway in router.gateways:
            _outside(router, gateway, source, forward)
        inside, own = _inside(router), _own(router.gateway)
        if inside:
            hairpin = f"ip saddr {{ {', '.join(inside)} }} ct status dnat"
            source.append(f"{hairpin} snat ip to ip saddr map @floating_of")
            source += [f"{hairpin} snat ip to {own}"] if own else []
        chains["arriving"] = (
            "type nat hook prerouting priority dstnat; policy accept;",
            "dnat ip to ip daddr map @fixed_of",
            *map(_forwarded, router.forwardings),
        )
        chains["leaving"] = ("type nat hook postrouting priority srcnat; policy accept;", *source)
    elif not router.admin_up:
        forward = ["drop"]
    if router.admin_up:
        forward = [*_limits(routing), *forward]
    chains["passing"] = ("type filter hook forward priority filter; policy accept;", *forward)
    return Table(
        family="inet",
        name="pileus",
        sets={
            "fixed_of": "type ipv4_addr : ipv4_addr;",
            "floating_of": "type ipv4_addr : ipv4_addr;",
        },
        chains=chains,
    )


def _own(gateway: RouterGateway) -> str:
    """The address that stands for whoever has none."""
    addresses = [a.split("/")[0] for a in gateway.addresses]
    return next((nft.block(a) for a in addresses if ":" not in a), "")


def _outside(
    router: RouterSpec, gateway: RouterGateway, source: list[str], forward: list[str]
) -> None:
    """What one gateway makes of sources, and lets in."""
    outer, own = nft.interface(outer_device(gateway.port_id)), _own(gateway)
    if plain := _as_they_are(router, gateway):
        source.append(f"oifname {outer} ip saddr {plain} accept")
        forward.append(f"iifname {outer} ip daddr {plain} accept")
    if own and router.snat:
        source.append(f"oifname {outer} meta nfproto ipv4 snat ip to {own}")
        forward += [
            f"iifname {outer} ct state established,related accept",
            f"iifname {outer} ct status dnat accept",
            f"iifname {outer} meta nfproto ipv4 drop",
        ]


def _apart(router: RouterSpec) -> list[str]:
    """Networks of different address scopes do not meet."""
    words = []
    for one in router.interfaces:
        for other in router.interfaces:
            for family, a, b in zip(("ipv4", "ipv6"), one.scopes, other.scopes, strict=True):
                if a != b:
                    ends = (nft.interface(inner_device(e.port_id)) for e in (one, other))
                    came, leaves = ends
                    words.append(f"iifname {came} oifname {leaves} meta nfproto {family} drop")
    return words


def _as_they_are(router: RouterSpec, gateway: RouterGateway) -> str:
    """The inner subnets that are of the gateway's address scope, as nft's set; "" if there are none."""
    scope = gateway.scope
    same = [i for i in router.interfaces if scope and i.scopes[0] == scope]
    networks = [ip_interface(a).network for i in same for a in i.addresses]
    blocks = sorted({nft.block(str(n)) for n in networks if n.version == 4})
    return f"{{ {', '.join(blocks)} }}" if blocks else ""


def _limits(routing: Routing) -> Iterator[str]:
    """What is beyond is dropped, or gets the number of the rate at which it waits."""
    waiting = rates(routing)
    for number, (words, limit) in _limited(routing.router).items():
        yield f"{words} {f'meta priority set 1:{number:x}' if number in waiting else over(limit)}"


def rates(routing: Routing) -> dict[int, tuple[int, int]]:
    limited = _limited(routing.router).items() if routing.queues else ()
    return {number: (n.rate, n.burst) for number, (_, n) in limited if not n.packets}


def _limited(router: RouterSpec) -> dict[int, tuple[str, Limit]]:
    """Floating addresses, each with limits of its own, and all else that goes through a gateway: by numbers from 2, as
    the first rate is for packets without one.
    """
    found = []
    others = ", ".join(sorted(nft.block(f.fixed_ip) for f in router.floating_ips))
    for gateway in router.gateways:
        outer = nft.interface(outer_device(gateway.port_id))
        for floating in router.floating_ips:
            own = nft.block(floating.fixed_ip)
            found += [(f"{_crossing(n, outer)} {own}", n) for n in floating.limits]
        for n in gateway.limits:
            rest = f"{_crossing(n, outer)} != {{ {others} }}" if others else _way(n, outer)
            found.append((rest, n))
    return dict(enumerate(found, 2))


def _way(limit: Limit, outer: str) -> str:
    return f"{'oifname' if limit.direction == 'egress' else 'iifname'} {outer}"


def _crossing(limit: Limit, outer: str) -> str:
    """Forwarded packets bear inner addresses either way."""
    return f"{_way(limit, outer)} ip {'saddr' if limit.direction == 'egress' else 'daddr'}"


def _forwarded(spec: ForwardingSpec) -> str:
    """A forwarding's ports keep their numbers, or each has another."""
    protocol = nft.number(protocol_number(spec.protocol) or 0, 255)
    ports, to = nft.span(spec.low, spec.high), nft.block(spec.fixed_ip)
    if spec.low != spec.fixed_low:
        shift = spec.fixed_low - spec.low
        pairs = ", ".join(f"{n} : {n + shift}" for n in range(spec.low, spec.high + 1))
        to += f" : th dport map {{ {pairs} }}" if spec.high > spec.low else f":{spec.fixed_low}"
    return f"ip daddr {nft.block(spec.floating_ip)} meta l4proto {protocol} th dport {ports} dnat ip to {to}"


def _inside(router: RouterSpec) -> list[str]:
    networks = [ip_interface(a).network for i in router.interfaces for a in i.addresses]
    return sorted({nft.block(str(n)) for n in networks if n.version == 4})


def advertisements(routing: Routing) -> dict[str, Advertisement]:
    """What each inner device tells its guests about IPv6; only for subnets whose `ra_mode` asks for
    it.
    """
    out = {}
    for interface in routing.router.interfaces if routing.router.admin_up else ():
        network = routing.networks[interface.network_id]
        own = [IPv6Interface(a) for a in interface.addresses if ":" in a]
        modes: dict[str, str] = {}
        servers: list[IPv6Address] = []
        for subnet in network.subnets:
            if subnet.ip_version == 6 and subnet.ra_mode:
                modes[subnet.cidr] = subnet.ra_mode
                servers += [IPv6Address(s) for s in subnet.dns_servers if ":" in s]
        told = [(IPv6Network(c), m) for c, m in modes.items()]
        prefixes = [(n, m != "dhcpv6-stateful") for n, m in told if any(o in n for o in own)]
        if prefixes:
            out[inner_device(interface.port_id)] = Advertisement(
                mac=interface.mac,
                mtu=network.mtu,
                prefixes=tuple(prefixes),
                managed="dhcpv6-stateful" in modes.values(),
                other="dhcpv6-stateless" in modes.values(),
                dns_servers=tuple(servers),
            )
    return out


class Advertiser:
    """Answers router solicitations in one router's namespace, and advertises unasked now and then."""

    def __init__(self) -> None:
        self._told: dict[str, Advertisement] = {}
        self._sockets: dict[str, socket.socket] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def replace(self, machine: Machine, routing: Routing) -> None:
        told = advertisements(routing)
        namespace = machine.names.router_namespace(routing.router.id)
        loop = asyncio.get_running_loop()
        for device in self._sockets.keys() - told.keys():
            self._drop(device)
        for device in told.keys() - self._sockets.keys():
            opening = functools.partial(solicitation_socket, device)
            opened = await machine.namespaces.call(namespace, opening)
            self._sockets[device] = opened
            loop.add_reader(opened, self._on_solicitation, device)
        self._told = told
        self._tick()

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        for device in list(self._sockets):
            self._drop(device)

    def _drop(self, device: str) -> None:
        opened = self._sockets.pop(device)
        asyncio.get_running_loop().remove_reader(opened)
        opened.close()

    def _tick(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = None
        for device in self._told:
            self._advertise(device)
        if self._told:
            self._timer = asyncio.get_running_loop().call_later(ADVERTISE_EVERY_S, self._tick)

    def _on_solicitation(self, device: str) -> None:
        with contextlib.suppress(OSError):
            self._sockets[device].recv(2048)
            self._advertise(device)

    def _advertise(self, device: str) -> None:
        with contextlib.suppress(OSError):  # the device may be down just now: the next one will do
            self._sockets[device].sendto(self._told[device].packet(), (ALL_NODES, 0))

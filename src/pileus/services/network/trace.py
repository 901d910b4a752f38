"""What stops a packet: an administrator's question, and not of upstream's API.

    GET /v2.0/pileus/trace?port_id=P&ip_address=A[&port=80][&protocol=tcp][&source_ip=S]

The rows are asked first, in the order in which the packet would meet what they stand for; then the
hosts on its way, whether what the rows want of them is really there.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, NoReturn

import msgspec

from pileus.kernel.agents import Agents
from pileus.kernel.faults import Fault, Invalid
from pileus.kernel.hosts import hosts_of
from pileus.kernel.query import Query
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.runtime import Runtime

from .checks import WITH_PORTS, protocol_number
from .desired import host_document
from .driver import (
    METADATA_IPV4,
    GroupSpec,
    HostRoute,
    NetworkSpec,
    PortSpec,
    RouterSpec,
    meets,
)
from .floating_ip import FLOATING_IPS
from .memory import Memory
from .permission import permitting
from .port import FLOATING_IP, PORTS, ROUTER_OWNERS, Port
from .router import ROUTERS
from .settings import settings_of
from .wiring import NETWORK_HOST

_MOST_ROUTERS = 16  # a packet's own limit is higher, but routers in a circle are one answer
_PING = 8  # the type of an ICMP request
_ICMP = (1, 58)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """`at` is what was asked (port, router, host, ... and its id), `says` its answer."""

    at: str
    says: str
    passes: bool = True


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """`number` is the port that it is for, or the type of ICMP."""

    source: str
    target: str
    protocol: int
    number: int

    def __str__(self) -> str:
        names = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}
        return f"{names.get(self.protocol, self.protocol)}/{self.number}"


class Stopped(Exception):
    """The packet goes no further; the last step says why."""


class Traces(Resource[Any]):
    rules = {}

    @operation("GET", "/pileus/trace", "admin_only")
    async def show(self, ctx: Context) -> Any:
        port = await PORTS.get(ctx.runtime.store, ctx.query.get("port_id"))
        trace = Trace(ctx.runtime)
        stopped_by = ""
        try:
            await trace.leave(port, _packet(ctx.query))
            await trace.look()
        except Stopped:
            stopped_by = f"{trace.steps[-1].at}: {trace.steps[-1].says}"
        steps = msgspec.to_builtins(trace.steps)
        return {"trace": {"allowed": not stopped_by, "stopped_by": stopped_by, "steps": steps}}


def _packet(query: Query) -> Packet:
    """Raises Invalid."""
    words = {n: query.get(n) for n in ("ip_address", "source_ip", "protocol", "port")}
    try:
        target = ip_address(words["ip_address"])
        source = str(ip_address(words["source_ip"])) if words["source_ip"] else ""
        protocol = protocol_number(words["protocol"] or "tcp") or 0
        if protocol == 1 and target.version == 6:
            protocol = 58
        number = int(words["port"] or (_PING if protocol in _ICMP else 0))
    except ValueError as strange:
        raise Invalid(f"The packet cannot be told: {strange}.") from strange
    if protocol in WITH_PORTS and not 0 < number < 65536:
        raise Invalid(
            f"Port {number} is none; a {words['protocol'] or 'tcp'} packet has 1 to 65535."
        )
    return Packet(source=source, target=str(target), protocol=protocol, number=number)


class Trace:
    """The way of one packet, as far as it comes."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime, self.store, self.steps = runtime, runtime.store, list[Step]()
        self._memory = Memory(runtime.store)
        self._on: dict[str, dict[str, None]] = {}  # what is asked of each host, in order
        self._ports: dict[str, PortSpec] = {}
        self._groups: dict[str, GroupSpec] = {}
        self._networks: dict[str, NetworkSpec] = {}
        self._routers: dict[str, RouterSpec] = {}
        self._answering: set[str] = set()  # the last address that somebody has to answer for

    async def leave(self, row: Port, packet: Packet) -> None:
        """From the guest's port on, or from the router's."""
        if row.device_owner in ROUTER_OWNERS:
            await self._router(row.device_id)
            return await self._learn(row.host, row.network_id)
        port = await self._guest(row)
        at, version = f"port {port.id}", ip_address(packet.target).version
        own = [f.ip for f in port.fixed_ips if ip_address(f.ip).version == version]
        source = packet.source or (own[0] if own else "")
        if not source:
            self._stop(at, f"has no IPv{version} address to send from")
        allowed = [*(f.ip for f in port.fixed_ips), *(p.cidr for p in port.allowed_address_pairs)]
        if port.security and not any(_holds(cidr, source) for cidr in allowed):
            self._stop(at, f"anti-spoofing: it may send from {', '.join(allowed)}, not {source}")
        packet = msgspec.structs.replace(packet, source=source)
        self._judge(port, "egress", packet)
        if packet.target == METADATA_IPV4:
            return self._pass(at, "is answered by its host's metadata service")
        network, subnet_ids = self._networks[port.network_id], {f.subnet_id for f in port.fixed_ips}
        subnets = [s for s in network.subnets if s.id in subnet_ids and s.ip_version == version]
        if any(_holds(s.cidr, packet.target) for s in subnets):
            return await self._deliver(port.network_id, packet, port.pvlan)
        nexthop = _longest((r for s in subnets for r in s.host_routes), packet.target)
        nexthop = nexthop or next((s.gateway for s in subnets if s.gateway), "")
        if not nexthop:
            names = ", ".join(s.id for s in subnets)
            self._stop(f"subnet {names}", f"has neither gateway nor host route to {packet.target}")
        await self._forward(port.network_id, nexthop, packet, 0)

    async def look(self) -> None:
        """At the hosts: is what they should hold really there?"""
        names = list(self._on)
        now = self.runtime.world.clock.time()
        up = {h.id for h in await hosts_of(self.store, NETWORK_HOST, id=names) if h.is_up(now)}
        agents: Agents = self.runtime.agents
        for name in names:
            at, ids = f"host {name}", list(self._on[name])
            if name not in up:
                self._stop(at, "is not up: nothing of what it holds is mended or changed")
            try:
                amiss = await agents.proxy(NETWORK_HOST, name).examine(ids, sorted(self._answering))
            except Fault as fault:
                self._stop(at, f"does not answer: {fault.message}")
            for id, text in amiss.items():
                self._stop(at, f"{id}: {text}")
            self._pass(at, f"has the devices, rules and routes of {', '.join(ids)}")

    async def _deliver(self, network_id: str, packet: Packet, sender: str = "") -> None:
        """To whoever has the address on that network. `sender`: its part there, if it is private."""
        row = await self._holder(network_id, packet.target)
        if row is None:
            self._stop(f"network {network_id}", f"no port has the address {packet.target}")
        if row.device_owner in ROUTER_OWNERS:
            return self._pass(f"router {row.device_id}", f"answers itself for {packet.target}")
        if row.device_owner == FLOATING_IP:
            return await self._translate(network_id, packet)
        port = await self._guest(row)
        if not meets(sender, port.pvlan):
            text = f"a private network: being {port.pvlan}, it hears none that is {sender}"
            self._stop(f"port {port.id}", text)
        self._judge(port, "ingress", packet)
        self._answering = {packet.target}
        self._pass(f"port {port.id}", f"receives {packet} from {packet.source}")

    async def _forward(self, network_id: str, nexthop: str, packet: Packet, passed: int) -> None:
        """By the router that has the address `nexthop` on that network."""
        leg = await self._holder(network_id, nexthop)
        if leg is None and self._is_ours(network_id, nexthop):
            return self._pass(f"network {network_id}", f"leaves the cloud by {nexthop}")
        if leg is None or leg.device_owner not in ROUTER_OWNERS:
            who = f"is guest port {leg.id}'s" if leg else "is nobody's: no router has an interface"
            self._stop(f"network {network_id}", f"the next hop {nexthop} {who}")
        router = await self._router(leg.device_id)
        at = f"router {router.id}"
        if passed == _MOST_ROUTERS:
            self._stop(at, f"is the {passed}th on the way: the routes lead in a circle")
        if packet.target in {f.floating_ip for f in router.floating_ips}:
            outer = _outer_source(router, packet) or packet.source
            packet = msgspec.structs.replace(packet, source=outer)
            return await self._translate("", packet)
        scopes = {i.network_id: i.scopes for i in router.interfaces}
        for interface in router.interfaces:
            if any(_holds(cidr, packet.target) for cidr in interface.addresses):
                n = ip_address(packet.target).version // 6
                mine, other = scopes.get(network_id), interface.scopes[n]
                if mine is not None and mine[n] != other:
                    self._stop(at, f"does not join address scopes {mine[n]!r} and {other!r}")
                self._pass(at, f"forwards to network {interface.network_id}")
                return await self._deliver(interface.network_id, packet)
        if nexthop := _longest(router.routes, packet.target):
            next_id = self._towards(router, nexthop)
            if not next_id:
                self._stop(at, f"its route's next hop {nexthop} is in none of its networks")
            self._pass(at, f"forwards by its own route to {nexthop}")
            return await self._forward(next_id, nexthop, packet, passed + 1)
        await self._go_out(router, packet, passed)

    async def _go_out(self, router: RouterSpec, packet: Packet, passed: int) -> None:
        """Through the router's external gateway, under an outer address."""
        at, gateway = f"router {router.id}", router.gateway
        version = ip_address(packet.target).version
        if gateway is None:
            self._stop(
                at,
                f"has no route to {packet.target}: no interface in its subnet, no route of its own, "
                "no external gateway",
            )
        source = _outer_source(router, packet)
        how = f"as {source}" if source else "under its own address, to which answers need a route"
        self._pass(at, f"sends it out through network {gateway.network_id} {how}")
        packet = msgspec.structs.replace(packet, source=source or packet.source)
        if any(_holds(a, packet.target) for a in gateway.addresses):
            return await self._deliver(gateway.network_id, packet)
        nexthops = [n for n in gateway.nexthops if ip_address(n).version == version]
        if not nexthops:
            text = f"has no IPv{version} gateway for {packet.target}"
            self._stop(f"network {gateway.network_id}", text)
        await self._forward(gateway.network_id, nexthops[0], packet, passed + 1)

    async def _translate(self, network_id: str, packet: Packet) -> None:
        """A floating address: to the port that it is associated with, or that the forwarding names."""
        scope = {"floating_network_id": network_id} if network_id else {}
        row = await FLOATING_IPS.one(self.store, floating_ip_address=packet.target, **scope)
        at = f"floating IP {packet.target}"
        if row is None:
            self._stop(at, "is gone")
        if not row.router_id:
            self._stop(at, "is associated with no port")
        router = await self._router(row.router_id)
        fixed, number = row.fixed_ip_address, packet.number
        if not row.port_id:
            fitting = [
                f
                for f in router.forwardings
                if f.floating_ip == packet.target
                and protocol_number(f.protocol) == packet.protocol
                and f.low <= number <= f.high
            ]
            if not fitting:
                self._stop(at, f"has no port forwarding for {packet}")
            fixed, number = fitting[0].fixed_ip, number - fitting[0].low + fitting[0].fixed_low
        self._pass(at, f"leads to {fixed} behind router {row.router_id}")
        packet = msgspec.structs.replace(packet, target=fixed, number=number)
        network_id = self._towards(router, fixed)
        if not network_id:
            self._stop(f"router {router.id}", f"has no interface in the subnet of {fixed}")
        await self._deliver(network_id, packet)

    def _judge(self, port: PortSpec, direction: str, packet: Packet) -> None:
        at, words = f"port {port.id}", ("from", packet.source)
        if direction == "egress":
            words = ("to", packet.target)
        if not port.security:
            return self._pass(at, f"has no port security: {direction} is free")
        fitting = (packet.protocol, packet.number)
        group = permitting(port, self._groups, direction, words[1], *fitting)
        if not group:
            worn = ", ".join(port.groups) or "none"
            text = f"none of its security groups ({worn}) has an {direction} rule for"
            self._stop(at, f"{text} {packet} {' '.join(words)}")
        self._pass(at, f"security group {group} lets {packet} {' '.join(words)} pass ({direction})")

    async def _guest(self, row: Port) -> PortSpec:
        at = f"port {row.id}"
        if not row.host:
            self._stop(at, "is bound to no host: no server that runs has it")
        await self._learn(row.host, row.id, row.network_id)
        port = self._ports.get(row.id)
        if port is None:
            self._stop(at, f"is no guest's but of {row.device_owner or 'nobody'}")
        if not port.admin_up:
            self._stop(at, "is administratively down (admin_state_up is false)")
        if not self._networks[port.network_id].admin_up:
            self._stop(f"network {port.network_id}", "is administratively down")
        return port

    async def _router(self, id: str) -> RouterSpec:
        row = await ROUTERS.get(self.store, id)
        if not row.host:
            self._stop(f"router {id}", "lives on no host: none is up, or it was taken from its own")
        await self._learn(row.host, id)
        if not row.admin_state_up:
            self._stop(f"router {id}", "is administratively down (admin_state_up is false)")
        return self._routers[id]

    async def _learn(self, host: str, *ids: str) -> None:
        """What that host should hold."""
        if host not in self._on:
            domain = settings_of(self.runtime).dns_domain
            wanted = (await host_document(self._memory, host, domain)).network
            self._ports |= {p.id: p for p in wanted.ports}
            self._groups |= {g.id: g for g in wanted.groups}
            self._networks |= {n.id: n for n in wanted.networks}
            self._routers |= {r.id: r for r in wanted.routers}
        self._on.setdefault(host, {}).update(dict.fromkeys(ids))

    async def _holder(self, network_id: str, address: str) -> Port | None:
        """The port with that address, or the first that may send from it too."""
        among = {"network_id": network_id}
        found = await PORTS.all(self.store, fixed_ips=f"ip_address={address}", **among)
        found = found or [
            p
            for p in await PORTS.all(self.store, **among)
            if any(_holds(a.ip_address, address) for a in p.allowed_address_pairs)
        ]
        return found[0] if found else None

    def _is_ours(self, network_id: str, nexthop: str) -> bool:
        """Is it the gateway of an external network, which the machine has?"""
        network = self._networks[network_id]
        return network.external and any(s.gateway == nexthop for s in network.subnets)

    def _towards(self, router: RouterSpec, address: str) -> str:
        """The network of the router's in which that address is; "" for none."""
        ends = [(i.network_id, i.addresses) for i in router.interfaces]
        ends += [(g.network_id, g.addresses) for g in router.gateways]
        return next((id for id, own in ends if any(_holds(a, address) for a in own)), "")

    def _pass(self, at: str, says: str) -> None:
        self.steps.append(Step(at=at, says=says))

    def _stop(self, at: str, says: str) -> NoReturn:
        self.steps.append(Step(at=at, says=says, passes=False))
        raise Stopped


def _outer_source(router: RouterSpec, packet: Packet) -> str:
    """What the router makes of the packet's source on the way out; "" leaves it."""
    outer = {f.fixed_ip: f.floating_ip for f in router.floating_ips}
    own = [a.split("/")[0] for a in router.gateway.addresses] if router.gateway else []
    translated = own if router.snat and ":" not in packet.target else []
    return outer.get(packet.source) or next((a for a in translated if ":" not in a), "")


def _holds(block: str, address: str) -> bool:
    """`block` is an address, a CIDR or an address with its prefix."""
    return ip_address(address) in ip_interface(block).network


def _longest(routes: Iterable[HostRoute], target: str) -> str:
    """The next hop of the most specific of the routes that hold the target; "" for none."""
    fitting = [r for r in routes if _holds(r.destination, target)]
    return (
        max(fitting, key=lambda r: ip_network(r.destination).prefixlen).nexthop if fitting else ""
    )

"""The network driver without a network: the same promises, kept in memory, in microseconds.

What a packet would meet is worked out from the applied documents: `reaches`, `lease`, `resolve` and
`fetch` answer as the real driver's data plane does. Hosts that share a `Wire` see each other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address, ip_interface, ip_network
from math import inf
from types import MappingProxyType

from pileus.host.metadata import Answer, Request
from pileus.kernel.faults import Invalid
from pileus.services.network.checks import flaws, protocol_number, refusal, unsound
from pileus.services.network.driver import (
    DHCP_OWNER,
    UNKNOWN,
    GroupSpec,
    HostNetwork,
    Metadata,
    NetworkSpec,
    Observed,
    PortSpec,
    RouterSpec,
    SubnetSpec,
    is_guest,
    meets,
)
from pileus.services.network.permission import ICMP, ICMPV6, permits


@dataclass(frozen=True)
class Lease:
    """What DHCP told a guest."""

    ip: str
    prefix: int
    gateway: str | None
    dns_servers: tuple[str, ...]
    mtu: int
    domain: str


@dataclass
class Wire:
    """The underlay between fake hosts."""

    hosts: dict[str, FakeNetworkDriver] = field(default_factory=dict)


async def _nothing(port_id: str, request: Request) -> Answer:
    return 404, "text/plain", b""


class FakeNetworkDriver:
    """`applied` is the document in force; `changes` counts the objects made, altered and removed."""

    def __init__(
        self,
        metadata: Metadata = _nothing,
        *,
        wire: Wire | None = None,
        physical: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._metadata = metadata
        self._physical = physical
        self._wire = wire or Wire()
        self.applied = HostNetwork(host="", revision=0)
        self.observed = Observed(revision=0)
        self.changes = 0
        self.traffic: dict[str, tuple[int, int]] = {}  # as a test has it: no packet passes here
        self.held_until, self.held = inf, frozenset[str]()
        self._objects: dict[str, object] = {}

    async def start_up(self) -> None:
        return None

    async def apply(self, desired: HostNetwork) -> Observed:
        errors = unsound(desired, partial(refusal, physical=self._physical))
        objects: dict[str, object] = {}
        for kind in (desired.networks, desired.groups, desired.ports, desired.routers):
            objects.update({spec.id: spec for spec in kind if spec.id not in errors})
        known = self._objects
        self.changes += sum(known.get(id) != spec for id, spec in objects.items())
        self.changes += len(known.keys() - objects.keys())
        self._objects, self.applied = objects, desired
        self._wire.hosts[desired.host] = self
        ports = {p.id: p.admin_up and p.id in objects for p in desired.ports}
        errors = flaws(desired) | errors
        self.observed = Observed(revision=desired.revision, ports=ports, errors=errors)
        return self.observed

    async def metered(self) -> dict[str, tuple[int, int]]:
        found, self.traffic = self.traffic, {}
        return found

    async def hold(self, until: float, routers: Collection[str]) -> None:
        self.held_until, self.held = until, frozenset(routers)

    async def sweep(self) -> None:
        wanted = {s.id for kind in _kinds(self.applied) for s in kind}
        self._objects = {id: s for id, s in self._objects.items() if id in wanted}

    async def examine(self, ids: Sequence[str], addresses: Sequence[str]) -> dict[str, str]:
        missing = {id: UNKNOWN for id in ids if id not in self._objects}
        return missing | {id: text for id, text in self.observed.errors.items() if id in ids}

    async def close(self) -> None:
        self._wire.hosts.pop(self.applied.host, None)

    def restarted(self) -> FakeNetworkDriver:
        """A new driver over what a killed one left on the machine."""
        fresh = FakeNetworkDriver(self._metadata, wire=self._wire, physical=self._physical)
        fresh._objects = dict(self._objects)
        return fresh

    # What guests and outsiders would meet.

    def knows(self, port_id: str) -> bool:
        """Is the port in the document in force, well made or not?"""
        return any(p.id == port_id for p in self.applied.ports)

    def leftovers(self) -> list[str]:
        """Everything of ours that the machine holds."""
        return sorted(self._objects)

    def port(self, id: str) -> PortSpec | None:
        port = self._objects.get(id)
        return port if isinstance(port, PortSpec) and port.admin_up else None

    def network(self, id: str) -> NetworkSpec | None:
        network = self._objects.get(id)
        return network if isinstance(network, NetworkSpec) and network.admin_up else None

    def group(self, id: str) -> GroupSpec | None:
        group = self._objects.get(id)
        return group if isinstance(group, GroupSpec) else None

    def routers(self) -> Iterable[RouterSpec]:
        return [s for s in self._objects.values() if isinstance(s, RouterSpec) and s.admin_up]

    async def lease(self, port_id: str) -> Lease | None:
        """The IPv4 lease that the port's guest gets."""
        port = self.port(port_id)
        network = self.network(port.network_id) if port else None
        if port is None or network is None:
            return None
        for fixed in port.fixed_ips:
            subnet = _subnet(network, fixed.subnet_id)
            if subnet and subnet.dhcp and subnet.ip_version == 4:
                servers = subnet.dns_servers or self._service_addresses(network)
                prefix = ip_network(subnet.cidr).prefixlen
                dns = tuple(s for s in servers if ip_address(s).version == 4)
                domain = network.dns_domain
                return Lease(fixed.ip, prefix, subnet.gateway, dns, network.mtu, domain)
        return None

    async def resolve(self, port_id: str, name: str) -> str | None:
        """The IPv4 address of another port of the network by its name."""
        asker = self.port(port_id)
        network = self.network(asker.network_id) if asker else None
        for port in self._ports() if network else ():
            same = asker and port.network_id == asker.network_id and port.hostname
            names = {port.hostname, f"{port.hostname}.{port.zone}"}
            names |= {f"{port.hostname}.{network.dns_domain}" if network else ""}
            if same and name.rstrip(".").lower() in {n.lower() for n in names}:
                return _own(port, 4)
        return None

    async def fetch(self, port_id: str, path: str) -> tuple[int, bytes] | None:
        """What 169.254.169.254 answers the port's guest."""
        if self.port(port_id) is None:
            return None
        status, _, body = await self._metadata(port_id, Request(path))
        return status, body

    def reaches(self, source: str, ip: str, protocol: str = "icmp", number: int = 8) -> bool:
        """Does a new connection of port `source` (empty: the underlay) arrive at `ip`?"""
        if not source:
            return self._arrives(None, ip, "172.24.4.1", protocol, number)
        port = self.port(source)
        address = _own(port, ip_address(ip).version) if port else None
        if port is None or address is None or not is_guest(port):
            return False
        if not self._allows(port, "egress", ip, protocol, number):
            return False
        local = self._on_link(port.network_id, ip)
        if local is not None:
            driver, target = local
            if not meets(port.pvlan, target.pvlan):
                return False
            return driver._admits(target, address, protocol, number)
        return self._arrives(port, ip, address, protocol, number)

    def sends_as(self, source: str, *, mac: str, ip: str) -> bool:
        """Is a frame from the port with these sender addresses let onto the network?"""
        port = self.port(source)
        if port is None or not port.security:
            return port is not None
        pairs = [(p.mac or port.mac, p.cidr) for p in port.allowed_address_pairs]
        pairs += [(port.mac, f.ip) for f in port.fixed_ips]
        address = ip_address(ip)
        return any(
            m == mac and ip_interface(c).network.version == address.version
            and address in ip_interface(c).network
            for m, c in pairs
        )  # fmt: skip

    def _ports(self) -> list[PortSpec]:
        return [s for s in self._objects.values() if isinstance(s, PortSpec) and s.admin_up]

    def _service_addresses(self, network: NetworkSpec) -> tuple[str, ...]:
        ports = [p for p in self._ports() if p.network_id == network.id]
        return tuple(f.ip for p in ports if p.device_owner == DHCP_OWNER for f in p.fixed_ips)

    def _on_link(self, network_id: str, ip: str) -> tuple[FakeNetworkDriver, PortSpec] | None:
        """The port that holds `ip` on this segment, on this host or on one whose entry we were
        given.
        """
        network = self.network(network_id)
        if network is None:
            return None
        found = [p for p in self._ports() if p.network_id == network_id and _holds(p, ip)]
        if found:
            return self, found[0]
        for remote in network.remote_ports:
            driver = self._wire.hosts.get(remote.host)
            port = driver.port(remote.id) if driver else None
            if driver and port and ip in remote.ips and _holds(port, ip):
                return driver, port
        return None

    def _arrives(
        self, port: PortSpec | None, ip: str, address: str, protocol: str, number: int
    ) -> bool:
        """Through a router: to another of its networks, to a floating address, or out."""
        if port is None:
            return self._floats(ip, address, protocol, number)
        for router in self.routers():
            inside = {i.network_id for i in router.interfaces}
            if port.network_id not in inside:
                continue
            for network_id in inside:
                if local := self._on_link(network_id, ip):
                    return local[0]._admits(local[1], address, protocol, number)
            if router.gateway is None:
                continue
            sender = _translated(router, address)
            if any(ip in _outer(r) for r in self.routers()):
                return self._floats(ip, sender, protocol, number)
            return sender != address and not self._is_inside(ip)
        return False

    def _floats(self, ip: str, sender: str, protocol: str, number: int) -> bool:
        """From the external network to a floating address."""
        for router in self.routers():
            fixed_ip, number = _behind(router, ip, protocol, number)
            if not fixed_ip or router.gateway is None:
                continue
            for interface in router.interfaces:
                if local := self._on_link(interface.network_id, fixed_ip):
                    return local[0]._admits(local[1], sender, protocol, number)
        return False

    def _is_inside(self, ip: str) -> bool:
        blocks = [s.cidr for n in self.applied.networks if not n.external for s in n.subnets]
        return any(ip_address(ip) in ip_network(c) for c in blocks)

    def _admits(self, port: PortSpec, sender: str, protocol: str, number: int) -> bool:
        if port.device_owner == DHCP_OWNER:
            return protocol == "icmp"
        return self._allows(port, "ingress", sender, protocol, number)

    def _allows(
        self, port: PortSpec, direction: str, peer: str, protocol: str, number: int
    ) -> bool:
        groups = {id: s for id, s in self._objects.items() if isinstance(s, GroupSpec)}
        given = protocol_number(protocol) or 0
        if given == ICMP and ip_address(peer).version == 6:
            given = ICMPV6
        return permits(port, groups, direction, peer, given, number)


def _kinds(
    desired: HostNetwork,
) -> Iterable[Iterable[NetworkSpec | GroupSpec | PortSpec | RouterSpec]]:
    return desired.networks, desired.groups, desired.ports, desired.routers


def _subnet(network: NetworkSpec, id: str) -> SubnetSpec | None:
    return next((s for s in network.subnets if s.id == id), None)


def _own(port: PortSpec, version: int) -> str | None:
    return next((f.ip for f in port.fixed_ips if ip_address(f.ip).version == version), None)


def _holds(port: PortSpec, ip: str) -> bool:
    return any(f.ip == ip for f in port.fixed_ips)


def _outer(router: RouterSpec) -> set[str]:
    """The addresses by which its inside can be reached."""
    floating = {f.floating_ip for f in router.floating_ips}
    return floating | {f.floating_ip for f in router.forwardings}


def _behind(router: RouterSpec, ip: str, protocol: str, number: int) -> tuple[str, int]:
    """Where an outer address and port lead to; "" for nowhere."""
    for f in router.forwardings:
        if (f.floating_ip, f.protocol) == (ip, protocol) and f.low <= number <= f.high:
            return f.fixed_ip, f.fixed_low + number - f.low
    return {f.floating_ip: f.fixed_ip for f in router.floating_ips}.get(ip, ""), number


def _translated(router: RouterSpec, address: str) -> str:
    """The sender's address outside the router: its floating one, or the router's by SNAT."""
    for floating in router.floating_ips:
        if floating.fixed_ip == address:
            return floating.floating_ip
    if router.gateway is None:
        raise Invalid(f"Router {router.id} has no gateway.")
    outer = [a.split("/")[0] for a in router.gateway.addresses]
    same = [a for a in outer if ip_address(a).version == ip_address(address).version]
    return same[0] if router.snat and same else address

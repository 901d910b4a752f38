"""DHCP, DNS and metadata for the guests of one network on this host, by this process.

A namespace per network, tied to its bridge by a pair, holds the network's service addresses; the
sockets are opened inside and served by the main loop. Every host serves its own guests, under the
same addresses.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import zlib
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network

import msgspec

from pileus.host import dhcp, dns
from pileus.host.metadata import Answer, MetadataServer, Request
from pileus.host.netlink import Hops, Netlink
from pileus.host.netns import sysctl
from pileus.kernel.faults import Invalid
from pileus.services.network.driver import (
    METADATA_IPV4,
    METADATA_IPV6,
    DhcpOption,
    FixedIP,
    Metadata,
    NetworkSpec,
    PortSpec,
    SubnetSpec,
)
from pileus.services.network.drivers.linux.filters import link_local
from pileus.services.network.drivers.linux.forwarding import Forwarder
from pileus.services.network.drivers.linux.machine import Machine, no_ipv6
from pileus.services.network.drivers.linux.segments import want_pair

_DEVICE = "eth0"
_BURST = 64  # datagrams taken per wake-up, so that one noisy network does not starve the loop


@dataclass(frozen=True)
class Offer:
    """What one network's service knows: the network, its service port and the guests here."""

    network: NetworkSpec
    service: PortSpec | None
    guests: tuple[PortSpec, ...]

    @property
    def mac(self) -> str:
        return service_mac(self.network, self.service)

    @property
    def speaks_ipv6(self) -> bool:
        """The kernel has no IPv6 on a device of a smaller MTU."""
        return self.network.mtu >= 1280

    @property
    def wiring(self) -> object:
        """What the namespace and its addresses depend on."""
        return msgspec.structs.replace(self.network, remote_ports=()), self.service

    def addresses(self) -> set[str]:
        """The service's addresses as ip/prefix."""
        lengths = {s.id: ip_network(s.cidr).prefixlen for s in self.network.subnets}
        fixed = self.service.fixed_ips if self.service else ()
        own = {f"{f.ip}/{lengths[f.subnet_id]}" for f in fixed if f.subnet_id in lengths}
        own |= {f"{METADATA_IPV4}/32", f"{METADATA_IPV6}/64"}
        return {address for address in own if self.speaks_ipv6 or ":" not in address}

    def routes(self) -> dict[str, Hops]:
        """On-link routes to the subnets in which the service has no address."""
        covered = {f.subnet_id for f in self.service.fixed_ips} if self.service else set()
        subnets = [s for s in self.network.subnets if self.speaks_ipv6 or s.ip_version == 4]
        return {s.cidr: (("", _DEVICE),) for s in subnets if s.id not in covered}


def service_mac(network: NetworkSpec, service: PortSpec | None) -> str:
    """The DHCP port's MAC, or one made of the network's id when there is no such port."""
    if service:
        return service.mac
    digits = f"{zlib.crc32(network.id.encode()) & 0xFFFFFF:06x}"
    return f"fa:16:3f:{digits[:2]}:{digits[2:4]}:{digits[4:]}"


async def want_service_namespace(machine: Machine, offer: Offer) -> None:
    """The namespace, the pair, and the addresses."""
    network, names = offer.network, machine.names
    namespace = names.service_namespace(network.id)
    await machine.namespaces.create(namespace)
    inner = machine.namespaces.path(namespace)
    name, alias = names.service(network.id), names.alias("service", network.id)
    bridge = names.bridge(network.id)

    def attach(link: Netlink) -> None:
        want_pair(
            link, name, peer=_DEVICE, namespace=inner, mtu=network.mtu, alias=alias, mac=offer.mac
        )
        no_ipv6(name)
        link.want(name, mtu=network.mtu, master=bridge, alias=alias)

    def dress(link: Netlink) -> None:
        sysctl("net/ipv4/ip_forward", 0)
        for key in ("accept_dad", "accept_ra", "autoconf") if offer.speaks_ipv6 else ():
            sysctl(f"net/ipv6/conf/{_DEVICE}/{key}", 0)
        link.want("lo", mtu=65536)
        link.want(_DEVICE, mtu=network.mtu, mac=offer.mac)
        link.want_addresses(_DEVICE, offer.addresses())
        link.want_routes(offer.routes())

    await machine.at_home(attach)
    await machine.inside(namespace, dress)


@dataclass
class _Sockets:
    dhcp: socket.socket
    raw: socket.socket
    dns: list[socket.socket] = field(default_factory=list)
    http: list[socket.socket] = field(default_factory=list)


def _open_sockets(families: tuple[socket.AddressFamily, ...]) -> _Sockets:
    """In the helper thread, inside the network's namespace. All or none."""
    with contextlib.ExitStack() as undo:

        def opened(family: int, kind: int, protocol: int = 0) -> socket.socket:
            made = undo.enter_context(socket.socket(family, kind, protocol))
            made.setblocking(False)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            return made

        sockets = _Sockets(
            opened(socket.AF_INET, socket.SOCK_DGRAM), opened(socket.AF_PACKET, socket.SOCK_DGRAM)
        )
        device = _DEVICE.encode()
        sockets.dhcp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
        sockets.dhcp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sockets.dhcp.bind(("", dhcp.SERVER_PORT))
        sockets.raw.bind((_DEVICE, 0))
        index = socket.if_nametoindex(_DEVICE)
        web_at = {
            socket.AF_INET: (METADATA_IPV4, 80),
            socket.AF_INET6: (METADATA_IPV6, 80, 0, index),
        }
        for family in families:
            names = opened(family, socket.SOCK_DGRAM)
            names.bind(("", 53))
            sockets.dns.append(names)
            web = opened(family, socket.SOCK_STREAM)
            web.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            web.bind(web_at[family])
            web.listen(64)
            sockets.http.append(web)
        undo.pop_all()
        return sockets


class NetworkService:
    """Answers the guests of one network; `offer` may be replaced at any time."""

    def __init__(self, offer: Offer, metadata: Metadata, forwarder: Forwarder) -> None:
        self._metadata = metadata
        self._forwarder = forwarder
        self._servers: list[MetadataServer] = []
        self._sockets: _Sockets | None = None
        self.offer = offer
        self.replace(offer)

    def replace(self, offer: Offer) -> None:
        self.offer = offer
        self._by_mac = {port.mac: port for port in offer.guests}
        self._by_ip = {f.ip: port for port in offer.guests for f in port.fixed_ips}
        self._by_ip |= {link_local(port.mac): port for port in offer.guests}
        self._names = _names(offer)
        self._reverse = {ip: name for name, ips in self._names.items() for ip in ips if "." in name}

    async def start(self, machine: Machine) -> None:
        namespace = machine.names.service_namespace(self.offer.network.id)
        families = (socket.AF_INET, socket.AF_INET6)[: 2 if self.offer.speaks_ipv6 else 1]
        sockets = await machine.namespaces.call(namespace, lambda: _open_sockets(families))
        self._sockets = sockets
        loop = asyncio.get_running_loop()
        loop.add_reader(sockets.dhcp, self._on_dhcp)
        for listening in sockets.dns:
            loop.add_reader(listening, self._on_dns, listening)
        for listening in sockets.http:
            server = MetadataServer(self._on_http)
            await server.start(listening)
            self._servers.append(server)

    async def close(self) -> None:
        sockets, self._sockets = self._sockets, None
        for server in self._servers:
            await server.close()
        self._servers = []
        if sockets is None:
            return
        loop = asyncio.get_running_loop()
        for reading in (sockets.dhcp, *sockets.dns):
            loop.remove_reader(reading)
        for opened in (sockets.dhcp, sockets.raw, *sockets.dns):
            opened.close()

    def _on_dhcp(self) -> None:
        for _ in range(_BURST):
            if self._sockets is None:
                return
            try:
                packet = self._sockets.dhcp.recv(2048)
            except BlockingIOError:
                return
            request = dhcp.parse(packet)
            lease = self._lease(request.mac) if request else None
            if request and lease:
                self._send_dhcp(self._sockets, request, lease)

    def _send_dhcp(self, sockets: _Sockets, request: dhcp.Request, lease: dhcp.Lease) -> None:
        reply = dhcp.answer(request, lease)
        if reply is None:
            return
        with contextlib.suppress(OSError):  # a full queue or a guest gone: the client asks again
            if dhcp.reachable(request, reply):
                sockets.dhcp.sendto(reply, (str(request.client), dhcp.CLIENT_PORT))
                return
            mac = bytes.fromhex(request.mac.replace(":", ""))
            target = lease.address if reply[28:34] == mac else IPv4Address("255.255.255.255")
            packet = dhcp.frame(reply, source=lease.server, target=target)
            sockets.raw.sendto(packet, (_DEVICE, 0x0800, 0, 0, mac))

    def _lease(self, mac: str) -> dhcp.Lease | None:
        port = self._by_mac.get(mac)
        subnets = {s.id: s for s in self.offer.network.subnets if s.dhcp and s.ip_version == 4}
        for fixed in port.fixed_ips if port else ():
            if port and fixed.subnet_id in subnets:
                return lease_of(self.offer, port, subnets[fixed.subnet_id], fixed)
        return None

    def _on_dns(self, listening: socket.socket) -> None:
        for _ in range(_BURST):
            try:
                packet, peer = listening.recvfrom(dns.LONGEST)
            except (BlockingIOError, ConnectionError):
                return
            except OSError:
                return  # closed under us by `close`
            question = dns.parse(packet)
            if question is None or str(peer[0]).split("%")[0] not in self._by_ip:
                continue
            reply = self._resolve(question)
            if reply is None:
                self._forwarder.ask(packet, question, listening, peer)
                continue
            with contextlib.suppress(OSError):
                listening.sendto(reply, peer)

    def _resolve(self, question: dns.Question) -> bytes | None:
        """Our own answer, or None when the question is about the world outside."""
        if (addresses := self._names.get(question.name)) is not None:
            return dns.address_answer(question, addresses)
        address = dns.reverse_address(question.name)
        if address is not None and (name := self._reverse.get(str(address))):
            return dns.name_answer(question, name)
        blocks = [ip_network(s.cidr) for s in self.offer.network.subnets]
        ours = address is not None and any(address in block for block in blocks)
        domain = self.offer.network.dns_domain.rstrip(".").lower()
        in_domain = bool(domain) and question.name.endswith((f".{domain}",))
        if ours or in_domain or "." not in question.name:
            return dns.failure(question, dns.NO_SUCH_NAME)
        return None

    async def _on_http(self, peer: str, request: Request) -> Answer:
        port = self._by_ip.get(peer)
        if port is None:
            return 404, "text/plain", b"Not found\n"
        return await self._metadata(port.id, request)


def lease_of(offer: Offer, port: PortSpec, subnet: SubnetSpec, fixed: FixedIP) -> dhcp.Lease:
    """What a guest's port is told about its first IPv4 address."""
    own = {f.subnet_id: f.ip for f in offer.service.fixed_ips} if offer.service else {}
    server = IPv4Address(own.get(subnet.id, METADATA_IPV4))
    servers = [IPv4Address(s) for s in subnet.dns_servers if ip_address(s).version == 4]
    if subnet.dns_servers == ("0.0.0.0",):
        servers = []  # Neutron's way of saying: no name servers at all
    elif not servers:
        servers = [server]
    nexthop = server if subnet.id in own else IPv4Address(0)
    routes = [(IPv4Network(f"{METADATA_IPV4}/32"), nexthop)]
    routes += [(IPv4Network(r.destination), IPv4Address(r.nexthop)) for r in subnet.host_routes]
    return dhcp.Lease(
        address=IPv4Address(fixed.ip),
        network=IPv4Network(subnet.cidr),
        server=server,
        mtu=offer.network.mtu,
        gateway=IPv4Address(subnet.gateway) if subnet.gateway else None,
        dns_servers=tuple(servers),
        hostname=port.hostname or default_hostname(fixed.ip),
        domain=offer.network.dns_domain.rstrip("."),
        routes=tuple(routes),
        extra=tuple(dhcp.extra_option(o.name, o.value) for o in _usable(port)),
    )


def default_hostname(ip: str) -> str:
    """`host-10-0-0-5`, as Neutron names a port that has no name."""
    return "host-" + ip.replace(".", "-").replace(":", "-")


def _usable(port: PortSpec) -> list[DhcpOption]:
    usable = []
    for option in port.dhcp_options:
        with contextlib.suppress(Invalid):  # reported by `checks.flaws` when applied
            dhcp.extra_option(option.name, option.value)
            if option.ip_version == 4:
                usable.append(option)
    return usable


def _names(offer: Offer) -> dict[str, list[str]]:
    """Every name of the network, short and full, in lower case, to its addresses."""
    domain = offer.network.dns_domain.rstrip(".").lower()
    known = [(p.hostname, p.zone, [f.ip for f in p.fixed_ips]) for p in offer.guests]
    remote = (r for r in offer.network.remote_ports if r.hostname)
    known += [(r.hostname, r.zone, list(r.ips)) for r in remote]
    names: dict[str, list[str]] = {}
    for hostname, zone, ips in known:
        own = [hostname.lower()] if hostname else [default_hostname(ip) for ip in ips]
        for name in own:
            full = [f"{name}.{d}" for d in (domain, zone.lower()) if d]
            for spelled in dict.fromkeys((name, *full)):
                merged = names.setdefault(spelled, [])
                merged += [ip for ip in ips if ip not in merged]
    return names

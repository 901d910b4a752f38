"""What a host's network must look like, and the driver that makes it so.

Control renders one `HostNetwork` per host. It holds only what that host needs: the networks on
which it has ports or routers, those ports, the groups they use, the routers placed there. Objects
refer to each other by id and each stands for itself, so one changed port is one changed struct, and
a driver finds its work by comparing objects for equality.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol

import msgspec

from pileus.host.metadata import Answer, Request

DHCP_OWNER = "network:dhcp"
COMPUTE_OWNER = "compute:"
METADATA_IPV4 = "169.254.169.254"
METADATA_IPV6 = "fe80::a9fe:a9fe"
ISOLATED, PROMISCUOUS = "isolated", "promiscuous"
UNKNOWN = "is not in what this host was last told"


class Spec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of the desired document; travels as msgpack or JSON."""


class Peer(Spec, frozen=True, kw_only=True):
    """A host of this cloud and its address on the underlay; the host itself is among its peers."""

    host: str
    address: str


class RemotePort(Spec, frozen=True, kw_only=True):
    """A port of a network that lives on another host: where its frames are to be sent."""

    id: str
    mac: str
    ips: tuple[str, ...] = ()
    host: str
    hostname: str = ""
    zone: str = ""  # the domain under which it is known besides its network's
    pvlan: str = ""  # as a local port's
    other_macs: tuple[str, ...] = ()  # from which it may send too, where that matters: see `pvlan`


class HostRoute(Spec, frozen=True, kw_only=True):
    destination: str  # CIDR
    nexthop: str


class Pool(Spec, frozen=True, kw_only=True):
    start: str
    end: str


class SubnetSpec(Spec, frozen=True, kw_only=True):
    id: str
    cidr: str
    ip_version: int = 4
    gateway: str | None = None
    dhcp: bool = True
    dns_servers: tuple[str, ...] = ()  # empty: the network's own service address answers
    host_routes: tuple[HostRoute, ...] = ()
    pools: tuple[Pool, ...] = ()
    ra_mode: str = ""  # ipv6_ra_mode: slaac, dhcpv6-stateful, dhcpv6-stateless or none
    address_mode: str = ""  # ipv6_address_mode


class NetworkSpec(Spec, frozen=True, kw_only=True):
    """One layer 2 segment: of tunnels, whose VXLAN identifier is `segment`, or of a physical network, under a VLAN tag or
    bare. An external one that is neither is each host's own.
    """

    id: str
    segment: int = 0
    physical: str = ""  # the physical network's name
    vlan: int = 0  # 0: its frames bear no tag
    qinq: bool = False  # the tag is a service's (802.1ad), around what tags guests use
    mtu: int = 1450
    external: bool = False
    admin_up: bool = True
    dns_domain: str = "openstacklocal"
    subnets: tuple[SubnetSpec, ...] = ()
    remote_ports: tuple[RemotePort, ...] = ()


class FixedIP(Spec, frozen=True, kw_only=True):
    subnet_id: str
    ip: str


class AddressPair(Spec, frozen=True, kw_only=True):
    cidr: str  # an address or a CIDR
    mac: str = ""  # empty: the port's own


class DhcpOption(Spec, frozen=True, kw_only=True):
    name: str  # `mtu`, `bootfile-name`, ... or a number, as in extra_dhcp_opts
    value: str
    ip_version: int = 4


class Limit(Spec, frozen=True, kw_only=True):
    """What is beyond waits, or, of packets, is dropped. `direction` is the guest's: egress is what it sends."""

    direction: str
    rate: int  # bytes, or packets, a second
    burst: int
    packets: bool = False


class LogSpec(Spec, frozen=True, kw_only=True):
    """What is written down of a port: new connections that rules of a group let pass, or all that none does."""

    id: str
    project_id: str
    accepted: bool = False
    dropped: bool = False
    group: str = ""  # empty: any of the port's


class PortSpec(Spec, frozen=True, kw_only=True):
    """A port bound to this host, or the network's DHCP port (every host that has the network serves
    it).
    """

    id: str
    network_id: str
    mac: str
    fixed_ips: tuple[FixedIP, ...] = ()
    device_id: str = ""
    device_owner: str = ""
    hostname: str = ""
    zone: str = ""  # the domain under which it is known besides its network's
    security: bool = True  # port_security_enabled
    stateless: bool = False  # its groups' rules are asked for answers too
    groups: tuple[str, ...] = ()
    allowed_address_pairs: tuple[AddressPair, ...] = ()
    admin_up: bool = True
    dhcp_options: tuple[DhcpOption, ...] = ()
    limits: tuple[Limit, ...] = ()
    parent: str = ""  # the guest's port whose trunk carries this one, with this VLAN tag
    vlan: int = 0
    logs: tuple[LogSpec, ...] = ()
    pvlan: str = ""  # its part in a private network; a community's with its name
    dscp: int = -1  # the mark of what it sends; -1 leaves the guest's own


class RuleSpec(Spec, frozen=True, kw_only=True):
    """A security group rule. For ICMP, `port_min` is the type and `port_max` the code."""

    direction: str  # ingress or egress
    ethertype: str = "IPv4"  # or IPv6
    protocol: str = ""  # name or number; empty: any
    port_min: int | None = None
    port_max: int | None = None
    cidr: str = ""
    remote_group: str = ""


class GroupSpec(Spec, frozen=True, kw_only=True):
    """A security group. `members` are the addresses of all its ports, wherever they live.

    An address group is one without rules; its members are prefixes.
    """

    id: str
    rules: tuple[RuleSpec, ...] = ()
    members: tuple[str, ...] = ()


class RouterInterface(Spec, frozen=True, kw_only=True):
    port_id: str
    network_id: str
    mac: str
    addresses: tuple[str, ...]  # ip/prefix
    scopes: tuple[str, str] = ("", "")  # its address scopes, of IPv4 and IPv6


class RouterGateway(Spec, frozen=True, kw_only=True):
    port_id: str
    network_id: str  # an external network
    mac: str
    addresses: tuple[str, ...]  # ip/prefix; the first of each version is the SNAT address
    nexthops: tuple[str, ...] = ()  # the external subnets' gateways
    limits: tuple[Limit, ...] = ()  # of what has no floating address
    scope: str = ""  # of IPv4: what is of the same goes in and out as it is


class FloatingSpec(Spec, frozen=True, kw_only=True):
    id: str
    floating_ip: str
    fixed_ip: str
    network_id: str = ""  # which of the router's gateways has it; empty: the first
    port_id: str = ""
    limits: tuple[Limit, ...] = ()


class ForwardingSpec(Spec, frozen=True, kw_only=True):
    """Ports `low` to `high` of a floating address lead to as many of a fixed one, from `fixed_low` on."""

    floating_ip: str
    network_id: str = ""  # as of a floating address
    protocol: str
    low: int
    high: int
    fixed_ip: str
    fixed_low: int


class MeterRule(Spec, frozen=True, kw_only=True):
    """Packets through the gateway, and their inner and outer addresses as they are inside."""

    direction: str  # egress: to the outside
    source: str = ""  # a CIDR; empty: any
    destination: str = ""
    excluded: bool = False


class Meter(Spec, frozen=True, kw_only=True):
    """What is counted under a label, whichever routers it passes."""

    id: str
    rules: tuple[MeterRule, ...] = ()


class RouterSpec(Spec, frozen=True, kw_only=True):
    """The first gateway leads out; with `spread` all do, with `tried` but those whose next hop is silent."""

    id: str
    interfaces: tuple[RouterInterface, ...] = ()
    gateway: RouterGateway | None = None
    more_gateways: tuple[RouterGateway, ...] = ()
    spread: bool = False
    tried: bool = False
    snat: bool = True
    admin_up: bool = True
    routes: tuple[HostRoute, ...] = ()
    floating_ips: tuple[FloatingSpec, ...] = ()
    forwardings: tuple[ForwardingSpec, ...] = ()
    meters: tuple[Meter, ...] = ()

    @property
    def gateways(self) -> tuple[RouterGateway, ...]:
        return (self.gateway, *self.more_gateways) if self.gateway else ()


class HostNetwork(Spec, frozen=True, kw_only=True):
    """Everything one host must hold. A later `revision` replaces an earlier one whole."""

    host: str
    revision: int
    peers: tuple[Peer, ...] = ()
    networks: tuple[NetworkSpec, ...] = ()
    ports: tuple[PortSpec, ...] = ()
    groups: tuple[GroupSpec, ...] = ()
    routers: tuple[RouterSpec, ...] = ()


class Observed(Spec, frozen=True, kw_only=True):
    """What the machine holds after an apply. `errors` are sentences by the id of their object."""

    revision: int
    ports: dict[str, bool] = {}
    errors: dict[str, str] = {}


Metadata = Callable[[str, Request], Awaitable[Answer]]  # port id, request


class NetworkDriver(Protocol):
    async def start_up(self) -> None:
        """Prepare what all networks share; raises Unavailable naming what the machine lacks."""

    async def apply(self, desired: HostNetwork) -> Observed:
        """Make the machine equal to the document and forget what is not in it.

        Idempotent. The first apply reads the machine and repairs it; later ones work on what
        changed since the last. An object that cannot be made is named in `errors` and retried by
        the next apply; the others are unharmed.
        """

    async def hold(self, until: float, routers: Collection[str]) -> None:
        """From then on (of the clock's monotonic seconds) no router passes or answers anything, until this is said
        again; at once, those that are not named. It holds even if this process does not live to see it.

        Not waited for by `apply`, whose routers are held likewise; without a word they are for ever.
        """

    async def metered(self) -> dict[str, tuple[int, int]]:
        """Packets and bytes by the labels' ids, counted since this was asked last."""

    async def sweep(self) -> None:
        """Remove every namespace, device and rule of ours, on this host, that the last apply did
        not ask for.
        """

    async def examine(self, ids: Sequence[str], addresses: Sequence[str]) -> dict[str, str]:
        """What is amiss on the machine with ports, networks and routers of the last document, by id.

        It looks at the devices, rules and routes themselves, and at whether the `addresses` answered
        when a router last asked for them. Nothing is changed.
        """

    async def close(self) -> None:
        """Stop serving; devices, rules and namespaces stay, so guests keep their connections."""


def tap_name(port_id: str) -> str:
    """The device of a port of a guest: what the compute driver opens. 14 of the kernel's 15
    characters.
    """
    return f"tap{port_id[:11]}"


def is_guest(port: PortSpec) -> bool:
    return port.device_owner.startswith(COMPUTE_OWNER) or bool(port.parent)


def is_narrowed(pvlan: str) -> bool:
    """Is a port with that part in a network reached by some of its ports only?"""
    return pvlan not in ("", PROMISCUOUS)


def meets(sender: str, receiver: str) -> bool:
    """May ports with these parts in a private network speak to each other?"""
    if is_narrowed(sender) and is_narrowed(receiver):
        return sender == receiver != ISOLATED
    return True

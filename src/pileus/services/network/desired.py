"""What a host's network must be, out of the tables: the document that `driver.NetworkDriver` makes true."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_interface

import msgspec

from pileus.kernel.hosts import HOSTS
from pileus.kernel.store import Match, Page

from .address_groups import ADDRESS_GROUPS
from .addressing import block
from .driver import (
    COMPUTE_OWNER,
    AddressPair,
    DhcpOption,
    FixedIP,
    FloatingSpec,
    ForwardingSpec,
    GroupSpec,
    HostNetwork,
    HostRoute,
    Limit,
    LogSpec,
    Meter,
    MeterRule,
    NetworkSpec,
    Peer,
    Pool,
    PortSpec,
    RemotePort,
    RouterGateway,
    RouterInterface,
    RouterSpec,
    RuleSpec,
    SubnetSpec,
)
from .floating_ip import FLOATING_IPS, FloatingIp
from .memory import Memory
from .metering import LABELS, METERING_RULES, MeteringLabel
from .network import NETWORKS, Network
from .packet_log import ACCEPT, DROP, PACKET_LOGS, PacketLog
from .port import ACTIVE, PORTS, ROUTER_GATEWAY, ROUTER_OWNERS, Port, part_of
from .port_forwarding import PORT_FORWARDINGS, PortForwarding
from .qos_policy import QOS_POLICIES, QosPolicy, Rule
from .router import ROUTERS, Router
from .security_group import GROUPS, RULES, SecurityGroupRule
from .segment import VXLAN, Place, reached, wired
from .subnet import SUBNETS, Subnet
from .trunk import SUBPORT, TRUNKS
from .wiring import NETWORK_HOST

_ALL = 1 << 30


_LEAST_BURST = 80_000  # bytes
_MOST_BURST = (1 << 32) - 1


class HostDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What travels to a host. `waiting`: ports and floating IPs there that are not known to work yet."""

    network: HostNetwork
    waiting: tuple[str, ...] = ()


@dataclass
class _Facts:
    """The rows that concern one host."""

    host: str
    domain: str = ""
    peers: tuple[Peer, ...] = ()
    physical: frozenset[str] = frozenset()  # the physical networks that it has
    guests: list[Port] = field(default_factory=list)
    carried: dict[str, tuple[str, int]] = field(default_factory=dict)  # subport: parent, VLAN
    routers: list[Router] = field(default_factory=list)
    legs: list[Port] = field(default_factory=list)  # the routers' ports
    floating: list[FloatingIp] = field(default_factory=list)
    outer_of: dict[str, FloatingIp] = field(default_factory=dict)  # by id, without a port too
    forwardings: list[PortForwarding] = field(default_factory=list)
    logs: list[PacketLog] = field(default_factory=list)
    meters: list[tuple[MeteringLabel, Meter]] = field(default_factory=list)
    networks: dict[str, Network] = field(default_factory=dict)
    subnets: dict[str, Subnet] = field(default_factory=dict)
    remote: list[Port] = field(default_factory=list)
    rules: dict[str, list[SecurityGroupRule]] = field(default_factory=dict)
    members: dict[str, set[str]] = field(default_factory=dict)
    stateless: set[str] = field(default_factory=set)  # groups worn here
    policies: dict[str, QosPolicy] = field(default_factory=dict)

    def limits(self, policy_id: str) -> tuple[Limit, ...]:
        policy = self.policies.get(policy_id)
        found = (_limit(r) for r in policy.rules) if policy is not None else ()
        return tuple(n for n in found if n is not None)

    def mark(self, policy_id: str) -> int:
        policy = self.policies.get(policy_id)
        marks = (
            [r.values["dscp_mark"] for r in policy.rules if "dscp_mark" in r.values]
            if policy
            else []
        )
        return int(marks[0]) if marks else -1


async def host_document(memory: Memory, host: str, domain: str) -> HostDocument:
    """`domain` is where guests find each other by name."""
    facts = await _facts(memory, host)
    facts.domain = domain
    network = HostNetwork(
        host=host,
        revision=0,  # hosts count for themselves: they fetch one after the other
        peers=facts.peers,
        networks=tuple(_network(facts, n) for n in _sorted(facts.networks.values())),
        ports=tuple(_port(facts, p) for p in facts.guests),
        groups=tuple(_group(facts, g) for g in sorted(facts.rules)),
        routers=tuple(_router(facts, r) for r in facts.routers),
    )
    waiting = [p.id for p in (*facts.guests, *facts.legs) if p.status != ACTIVE]
    waiting += [f.id for f in facts.floating if f.status != ACTIVE]
    return HostDocument(network=network, waiting=tuple(waiting))


async def _facts(memory: Memory, host: str) -> _Facts:
    facts = _Facts(host)
    reachable = Page({"address": Match("gt", "")}, (("address", False), ("id", False)), limit=_ALL)
    hosts = await HOSTS.list(memory.db, reachable)
    serve = (h for h in hosts if NETWORK_HOST.name in h.contracts)
    facts.peers = tuple(Peer(host=h.id, address=h.address) for h in serve)
    facts.physical = await wired(memory.db, host)
    bound = await memory.rows(PORTS, host=host) + await memory.rows(PORTS, next_host=host)
    facts.guests = [p for p in bound if p.guest and p.device_owner.startswith(COMPUTE_OWNER)]
    await _trunks(memory, facts, [p for p in bound if p.device_owner == SUBPORT])
    facts.routers = await memory.rows(ROUTERS, host=host)
    ids = [r.id for r in facts.routers]
    if ids:
        legs = await memory.rows(PORTS, device_id=ids)
        facts.legs = [p for p in legs if p.device_owner in ROUTER_OWNERS]
        floating = await memory.rows(FLOATING_IPS, router_id=ids)
        facts.floating = [f for f in floating if f.port_id]
        facts.outer_of = {f.id: f for f in floating}
        facts.forwardings = await memory.rows(PORT_FORWARDINGS, router_id=ids)
        await _meters(memory, facts)
    network_ids = sorted({p.network_id for p in (*facts.guests, *facts.legs)})
    if network_ids:
        facts.networks = {n.id: n for n in await memory.rows(NETWORKS, id=network_ids)}
        subnets = await memory.rows(SUBNETS, network_id=network_ids)
        facts.subnets = {s.id: s for s in subnets}
        inner = [n.id for n in facts.networks.values() if not n.is_outer]
        others = await memory.rows(PORTS, network_id=inner) if inner else []
        facts.remote = [p for p in others if p.host and p.host != host]
    await _groups(memory, facts)
    await _policies(memory, facts)
    return facts


async def _meters(memory: Memory, facts: _Facts) -> None:
    """What is to be counted on the routers here."""
    owners = sorted({r.project_id for r in facts.routers})
    found = {n.id: n for n in await memory.rows(LABELS, project_id=owners)}
    found |= {n.id: n for n in await memory.rows(LABELS, shared=1)}
    rules: dict[str, list[MeterRule]] = {id: [] for id in found}
    for r in await memory.rows(METERING_RULES, metering_label_id=sorted(found)) if found else ():
        source, target = r.ends
        rules[r.metering_label_id].append(
            MeterRule(direction=r.direction, source=source, destination=target, excluded=r.excluded)
        )
    facts.meters = [(found[id], Meter(id=id, rules=tuple(rules[id]))) for id in sorted(found)]


async def _trunks(memory: Memory, facts: _Facts, subports: list[Port]) -> None:
    """What the trunks of guests here carry."""
    if not subports:
        return
    parents = {p.id for p in facts.guests}
    for trunk in await memory.rows(TRUNKS, sub_ports=[p.id for p in subports]):
        if trunk.port_id in parents and trunk.admin_state_up:
            tags = {s.port_id: (trunk.port_id, s.segmentation_id) for s in trunk.sub_ports}
            facts.carried |= tags
    facts.guests += [p for p in subports if p.id in facts.carried]


async def _policies(memory: Memory, facts: _Facts) -> None:
    """The QoS policies that something here is under."""
    named = {p.qos_policy_id for p in facts.guests} | {r.qos_policy_id for r in facts.routers}
    named |= {n.qos_policy_id for n in facts.networks.values()}
    named |= {f.qos_policy_id for f in facts.floating}
    if named := named - {""}:
        facts.policies = {p.id: p for p in await memory.rows(QOS_POLICIES, id=sorted(named))}


async def _groups(memory: Memory, facts: _Facts) -> None:
    """The groups that the guests wear, those that their rules name, and everybody's addresses in them."""
    worn = {g for p in facts.guests if p.port_security_enabled for g in p.security_groups}
    if not worn:
        return
    owners = sorted({p.project_id for p in facts.guests})
    facts.logs = await memory.rows(PACKET_LOGS, project_id=owners, enabled=1)
    facts.rules = {g: [] for g in worn}
    facts.stateless = {g.id for g in await memory.rows(GROUPS, id=sorted(worn), stateful=0)}
    for rule in await memory.rows(RULES, security_group_id=sorted(worn)):
        facts.rules[rule.security_group_id].append(rule)
    rules = [r for rules in facts.rules.values() for r in rules]
    named = {r.remote_group_id for r in rules} - {""}
    listed = {r.remote_address_group_id for r in rules} - {""}
    facts.rules |= {g: [] for g in (named | listed) - worn}
    facts.members = {g: set() for g in named}
    if listed:
        for found in await memory.rows(ADDRESS_GROUPS, id=sorted(listed)):
            facts.members[found.id] = set(found.addresses)
    if not named:
        return
    for port in await memory.rows(PORTS, security_groups=sorted(named)):
        addresses = {f.ip_address for f in port.fixed_ips} | set(_single(port))
        for group in port.security_groups:
            if group in facts.members:
                facts.members[group] |= addresses


def _single(port: Port) -> Iterable[str]:
    """The allowed pairs that are one address; a prefix is nobody's membership."""
    for pair in port.allowed_address_pairs:
        found = ip_interface(pair.ip_address)
        if found.network.num_addresses == 1:
            yield str(found.ip)


def _sorted(networks: Iterable[Network]) -> list[Network]:
    return sorted(networks, key=lambda n: n.id)


def _network(facts: _Facts, n: Network) -> NetworkSpec:
    """By the segment that the host is on; where it is on none, by the first, and the host says that it has it not."""
    at = max(reached(n.places, facts.physical), 0)
    place = n.places[at] if n.places else Place()
    tunnelled = place.network_type == VXLAN
    return NetworkSpec(
        id=n.id,
        segment=place.segmentation_id if tunnelled and not n.is_outer else 0,
        physical=place.physical_network,
        vlan=0 if tunnelled else place.segmentation_id,
        qinq=n.qinq,
        mtu=n.mtu,
        external=n.is_outer,
        admin_up=n.admin_state_up,
        dns_domain=facts.domain.rstrip("."),  # as upstream: a network's own is for DNS outside
        subnets=tuple(_subnet(s) for s in facts.subnets.values() if s.network_id == n.id),
        remote_ports=tuple(_remote(p) for p in facts.remote if p.network_id == n.id),
    )


def _subnet(s: Subnet) -> SubnetSpec:
    return SubnetSpec(
        id=s.id,
        cidr=s.cidr,
        ip_version=s.ip_version,
        gateway=s.gateway_ip or None,
        dhcp=s.enable_dhcp,
        dns_servers=tuple(s.dns_nameservers),
        host_routes=tuple(
            HostRoute(destination=r.destination, nexthop=r.nexthop) for r in s.host_routes
        ),
        pools=tuple(Pool(start=p.start, end=p.end) for p in s.allocation_pools),
        ra_mode=s.ipv6_ra_mode,
        address_mode=s.ipv6_address_mode,
    )


def _remote(p: Port) -> RemotePort:
    ips = tuple(f.ip_address for f in p.fixed_ips)
    pairs = {a.mac_address for a in p.allowed_address_pairs}
    return RemotePort(
        id=p.id,
        mac=p.mac_address,
        ips=ips,
        host=p.host,
        hostname=p.dns_name,
        zone=p.dns_zone.rstrip("."),
        pvlan=part_of(p),
        other_macs=tuple(sorted(pairs - {p.mac_address})) if p.pvlan_type else (),
    )


def _limit(rule: Rule) -> Limit | None:
    """A rate of 0 limits nothing. A burst holds what the kernel may hand on as one packet."""
    v = {n: int(x) for n, x in rule.values.items() if n != "direction"}
    direction = str(rule.values.get("direction", ""))
    if kbps := v.get("max_kbps"):
        burst = max((v["max_burst_kbps"] or kbps * 4 // 5) * 125, _LEAST_BURST)
        return Limit(direction=direction, rate=kbps * 125, burst=min(burst, _MOST_BURST))
    if kpps := v.get("max_kpps"):
        burst = (v["max_burst_kpps"] or kpps * 4 // 5 or 1) * 1000
        rate, burst = min(kpps * 1000, _MOST_BURST), min(burst, _MOST_BURST)
        return Limit(direction=direction, rate=rate, burst=burst, packets=True)
    return None


def _port(facts: _Facts, p: Port) -> PortSpec:
    policy = p.qos_policy_id or facts.networks[p.network_id].qos_policy_id
    pairs = [AddressPair(cidr=a.ip_address, mac=a.mac_address) for a in p.allowed_address_pairs]
    options = [
        DhcpOption(name=o.opt_name, value=o.opt_value, ip_version=o.ip_version)
        for o in p.extra_dhcp_opts
    ]
    parent, vlan = facts.carried.get(p.id, ("", 0))
    return PortSpec(
        id=p.id,
        parent=parent,
        vlan=vlan,
        network_id=p.network_id,
        mac=p.mac_address,
        fixed_ips=tuple(FixedIP(subnet_id=f.subnet_id, ip=f.ip_address) for f in p.fixed_ips),
        device_id=p.device_id,
        device_owner=p.device_owner,
        hostname=p.dns_name,
        zone=p.dns_zone.rstrip("."),
        security=p.port_security_enabled,
        stateless=p.port_security_enabled and not facts.stateless.isdisjoint(p.security_groups),
        groups=tuple(sorted(p.security_groups)) if p.port_security_enabled else (),
        allowed_address_pairs=tuple(pairs),
        admin_up=p.admin_state_up,
        dhcp_options=tuple(options),
        limits=facts.limits(policy),
        pvlan=part_of(p),
        dscp=facts.mark(policy),
        logs=_logs(facts, p) if facts.logs and p.port_security_enabled else (),
    )


def _logs(facts: _Facts, p: Port) -> tuple[LogSpec, ...]:
    """Those of the port's project that mean it."""
    found = []
    for log in facts.logs:
        groups = ("", *p.security_groups)
        if (
            log.project_id == p.project_id
            and log.resource_id in groups
            and log.target_id in ("", p.id)
        ):
            found.append(
                LogSpec(
                    id=log.id,
                    project_id=log.project_id,
                    accepted=log.event != DROP,
                    dropped=log.event != ACCEPT,
                    group=log.resource_id,
                )
            )
    return tuple(found)


def _group(facts: _Facts, id: str) -> GroupSpec:
    rules = tuple(rule_spec(r) for r in facts.rules[id])
    return GroupSpec(id=id, rules=rules, members=tuple(sorted(facts.members.get(id, ()))))


def rule_spec(r: SecurityGroupRule) -> RuleSpec:
    return RuleSpec(
        direction=r.direction,
        ethertype=r.ethertype,
        protocol=r.protocol,
        port_min=r.port_range_min,
        port_max=r.port_range_max,
        cidr=str(block(r.remote_ip_prefix)) if r.remote_ip_prefix else "",
        remote_group=r.remote_group_id or r.remote_address_group_id,
    )


def _router(facts: _Facts, r: Router) -> RouterSpec:
    legs = [p for p in facts.legs if p.device_id == r.id]
    inner = [p for p in legs if p.device_owner != ROUTER_GATEWAY]
    ports = {p.id: p for p in legs if p.device_owner == ROUTER_GATEWAY}
    outer = [ports[g.port_id] for g in r.gateways if g.port_id in ports]
    gateways = tuple(_gateway(facts, p, r.qos_policy_id) for p in outer)
    floating = [f for f in facts.floating if f.router_id == r.id] if outer else []
    return RouterSpec(
        id=r.id,
        interfaces=tuple(
            RouterInterface(
                port_id=p.id,
                network_id=p.network_id,
                mac=p.mac_address,
                addresses=_addresses(facts, p),
                scopes=_scopes(facts.networks[p.network_id]),
            )
            for p in inner
        ),
        gateway=gateways[0] if gateways else None,
        more_gateways=gateways[1:],
        spread=r.enable_default_route_ecmp,
        tried=r.enable_default_route_bfd,
        snat=r.gateway.enable_snat if r.gateway is not None else True,
        admin_up=r.admin_state_up,
        routes=tuple(HostRoute(destination=x.destination, nexthop=x.nexthop) for x in r.routes),
        floating_ips=tuple(
            FloatingSpec(
                id=f.id,
                floating_ip=f.floating_ip_address,
                network_id=_behind(outer, f),
                fixed_ip=f.fixed_ip_address,
                port_id=f.port_id,
                limits=facts.limits(f.qos_policy_id),
            )
            for f in floating
        ),
        forwardings=tuple(
            ForwardingSpec(
                floating_ip=facts.outer_of[f.floatingip_id].floating_ip_address,
                network_id=_behind(outer, facts.outer_of[f.floatingip_id]),
                protocol=f.protocol,
                low=f.external_port,
                high=f.external_last,
                fixed_ip=f.internal_ip_address,
                fixed_low=f.internal_port,
            )
            for f in facts.forwardings
            if f.router_id == r.id and outer and f.floatingip_id in facts.outer_of
        ),
        meters=tuple(m for n, m in facts.meters if n.shared or n.project_id == r.project_id),
    )


def _behind(outer: Sequence[Port], f: FloatingIp) -> str:
    """The network whose gateway has the address, if it is not the first's."""
    return "" if outer[0].network_id == f.floating_network_id else f.floating_network_id


def _gateway(facts: _Facts, p: Port, policy: str) -> RouterGateway:
    """Without a policy of its own it is under its network's."""
    policy = policy or facts.networks[p.network_id].qos_policy_id
    subnets = [facts.subnets[f.subnet_id] for f in p.fixed_ips]
    return RouterGateway(
        port_id=p.id,
        network_id=p.network_id,
        mac=p.mac_address,
        addresses=_addresses(facts, p),
        nexthops=tuple(s.gateway_ip for s in subnets if s.gateway_ip),
        limits=facts.limits(policy),
        scope=facts.networks[p.network_id].ipv4_address_scope,
    )


def _scopes(n: Network) -> tuple[str, str]:
    return n.ipv4_address_scope, n.ipv6_address_scope


def _addresses(facts: _Facts, p: Port) -> tuple[str, ...]:
    found: Sequence[tuple[str, Subnet]] = [
        (f.ip_address, facts.subnets[f.subnet_id]) for f in p.fixed_ips
    ]
    return tuple(f"{ip}/{s.block.prefixlen}" for ip, s in found)

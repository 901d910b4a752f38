"""From a desired document to what each object needs. Pure: no kernel, no sockets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from pileus.host import nftables as nft
from pileus.host.ruleset import Fragment
from pileus.kernel.faults import Invalid
from pileus.services.network.checks import Checked, flaws, refusal, unsound
from pileus.services.network.driver import (
    DHCP_OWNER,
    GroupSpec,
    HostNetwork,
    PortSpec,
    RouterInterface,
    RouterSpec,
    is_guest,
    is_narrowed,
    tap_name,
)
from pileus.services.network.drivers.linux import filters, underlay
from pileus.services.network.drivers.linux.names import Names
from pileus.services.network.drivers.linux.pvlan import senders
from pileus.services.network.drivers.linux.routers import Routing, outer_ends
from pileus.services.network.drivers.linux.segments import Segment
from pileus.services.network.drivers.linux.serving import Offer

T = TypeVar("T")
Place = tuple[int, str]  # conntrack zone, address
Legs = defaultdict[str, list[RouterInterface]]  # of routers, by network
_HIGHEST_ZONE = 65535


@dataclass
class Kept:
    """What was made of each object last time: made anew only if what it is made of has changed."""

    before: dict[str, tuple[object, Any]] = field(default_factory=dict)
    now: dict[str, tuple[object, Any]] = field(default_factory=dict)

    def turn(self) -> None:
        """What was not asked for since the last turn is forgotten."""
        self.before, self.now = self.now, {}

    def of(self, key: str, inputs: object, make: Callable[[], T]) -> T:
        known = self.before.get(key)
        self.now[key] = known if known and known[0] == inputs else (inputs, make())
        made: T = self.now[key][1]
        return made


@dataclass
class Plan:
    """The sound part of a document; `errors` names the rest. Zones are kept from one plan to the
    next.
    """

    segments: dict[str, Segment] = field(default_factory=dict)
    offers: dict[str, Offer] = field(default_factory=dict)
    guests: dict[str, PortSpec] = field(default_factory=dict)
    places: dict[Place, PortSpec] = field(default_factory=dict)  # where connections find the guests
    pairs: dict[Place, list[PortSpec]] = field(
        default_factory=dict
    )  # who may be there, or in there, too
    groups: dict[str, GroupSpec] = field(default_factory=dict)
    routings: dict[str, Routing] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    queues: bool = True  # can what is beyond a limit wait? Else it is dropped at once
    kept: Kept = field(default_factory=Kept)

    @property
    def outer(self) -> dict[str, Segment]:
        return {id: s for id, s in self.segments.items() if s.is_outer}


def plan_for(
    desired: HostNetwork,
    zones: dict[str, int],
    kept: Kept | None = None,
    *,
    queues: bool = True,
    physical: Mapping[str, str] = MappingProxyType({}),
) -> Plan:
    """`zones` (network id to conntrack zone) is completed for new networks and forgets old ones; `physical`: the devices
    that lead to physical networks.
    """
    plan = Plan(kept=kept or Kept(), queues=queues)
    plan.kept.turn()

    def refused(spec: Checked) -> str:
        return plan.kept.of(f"sound {spec.id}", spec, lambda: refusal(spec, physical))

    plan.errors = unsound(desired, refused)
    plan.hosts = tuple(peer.address for peer in desired.peers)
    local = next((p.address for p in desired.peers if p.host == desired.host), "")
    peers = tuple((p.host, p.address) for p in desired.peers if p.host != desired.host)
    good = [n for n in desired.networks if n.id not in plan.errors]
    _number(zones, [n.id for n in good])
    plan.groups = {g.id: g for g in desired.groups if g.id not in plan.errors}
    plan.guests = _guests(desired, plan.errors)
    on_network: dict[str, list[PortSpec]] = {}
    for port in plan.guests.values():
        zone = zones[port.network_id]
        plan.places |= {(zone, fixed.ip): port for fixed in port.fixed_ips}
        for pair in port.allowed_address_pairs:
            plan.pairs.setdefault((zone, nft.block(pair.cidr)), []).append(port)
        on_network.setdefault(port.network_id, []).append(port)
    services = {p.network_id: p for p in desired.ports if p.device_owner == DHCP_OWNER}
    for network in good:
        guests = tuple(on_network.get(network.id, ()))
        plan.segments[network.id] = Segment(
            network=network,
            zone=zones[network.id],
            local=local,
            peers=peers,
            has_guests=bool(guests),
            device=physical.get(network.physical, ""),
        )
        service = services.get(network.id)
        sound = service if service and service.id not in plan.errors else None
        plan.offers[network.id] = Offer(network, sound, guests)
    for router in desired.routers:
        if router.id not in plan.errors:
            plan.routings[router.id] = _routing(router, plan.segments, queues)
    plan.errors = flaws(desired) | plan.errors
    return plan


def _guests(desired: HostNetwork, errors: Mapping[str, str]) -> dict[str, PortSpec]:
    """Those that trunks carry come after their parents."""
    ordered = sorted(desired.ports, key=lambda p: bool(p.parent))
    return {p.id: p for p in ordered if p.id not in errors and is_guest(p)}


def _routing(router: RouterSpec, segments: Mapping[str, Segment], queues: bool) -> Routing:
    touched = {i.network_id for i in router.interfaces}
    touched |= {g.network_id for g in router.gateways}
    networks = {id: segments[id].network for id in touched}
    plain = {id: msgspec.structs.replace(n, remote_ports=()) for id, n in networks.items()}
    return Routing(router, plain, queues)


def _number(zones: dict[str, int], network_ids: list[str]) -> None:
    for gone in zones.keys() - set(network_ids):
        del zones[gone]
    used = set(zones.values())
    following = 1
    for id in network_ids:
        if id in zones:
            continue
        while following in used:
            following += 1
        if following > _HIGHEST_ZONE:
            raise Invalid(f"A host can hold {_HIGHEST_ZONE} networks and no more.")
        zones[id] = following
        used.add(following)


def regrouped(plan: Plan, before: HostNetwork, desired: HostNetwork) -> Plan | None:
    """The plan for a document of which only security groups differ from that of before; None where that
    is not all, or not sound.
    """
    others = msgspec.structs.replace(desired, groups=before.groups, revision=before.revision)
    if others != before or len(desired.groups) != len(before.groups):
        return None
    altered = {
        new.id: new for old, new in zip(before.groups, desired.groups, strict=True) if new != old
    }
    if not altered.keys() <= plan.groups.keys() - plan.errors.keys():
        return None
    if any(map(refusal, altered.values())):
        return None
    logged = (port for port in plan.guests.values() if port.logs)
    if not all(altered.keys().isdisjoint(port.groups) for port in logged):
        return None  # whose chains are made of their groups' rules
    return replace(plan, groups=plan.groups | altered)


def group_fragments(plan: Plan, groups: Iterable[GroupSpec]) -> dict[str, Fragment]:
    """In the bridge table, by id; those that cannot be written go to `errors`."""
    fragments = {}
    for group in groups:
        try:
            make = partial(filters.group_filter, group, plan.groups)
            named = {r.remote_group for r in group.rules} & plan.groups.keys()
            fragments[group.id] = plan.kept.of(group.id, (group, named), make)
        except Invalid as fault:
            plan.errors[group.id] = fault.message
    return fragments


def bridge_fragments(plan: Plan, names: Names) -> dict[str, Fragment]:
    """The bridge table's rules by object. Objects whose rules cannot be written go to `errors`."""
    fragments = {"every port": filters.EVERY_PORT}
    legs = _legs(plan)
    for id, segment in plan.segments.items():
        devices = [names.bridge(id), names.service(id)]
        uplink = names.uplink(id) if segment.has_uplink else ""
        devices += [uplink] if uplink else []
        devices += [names.interface(i.port_id) for i in legs[id]]
        vxlan = names.vxlan(id) if segment.is_stretched else ""
        devices += [vxlan] if vxlan else []
        ends = (vxlan or uplink, plan.offers[id].mac, [i.mac for i in legs[id]])
        fragments[id] = filters.trusted_devices(devices, *ends)
    fragments |= _private_fragments(plan, legs)
    fragments |= group_fragments(plan, plan.groups.values())
    groups = {g.id: g for g in plan.groups.values() if g.id in fragments}
    for several in worn_together(plan.guests.values(), groups):
        fragments[" ".join(several)] = filters.worn_together(several)
    macs, log_group = {id: offer.mac for id, offer in plan.offers.items()}, names.log_group
    for port in plan.guests.values():
        if port.admin_up:
            mac = macs[port.network_id]
            parts = (port, groups, mac, log_group)
            make = partial(filters.port_filter, *parts, queues=plan.queues)
            # Only where something is logged are the groups' rules written out in the port's own.
            worn: object = groups if port.logs else [g in groups for g in port.groups]
            fragments[port.id] = plan.kept.of(port.id, (port, mac, worn), make)
        else:
            fragments[port.id] = filters.silenced_port(port)
    return fragments


def _private_fragments(plan: Plan, legs: Legs) -> dict[str, Fragment]:
    """Whom the ports hear that are not to hear all of their network."""
    offers = [o for o in plan.offers.values() if any(is_narrowed(p.pvlan) for p in o.guests)]
    found = {}
    for offer in offers:
        id = offer.network.id
        own = [offer.mac, *(i.mac for i in legs[id])]
        found[f"private {id}"] = senders(offer.network, offer.guests, own)
    return found


def worn_together(ports: Iterable[PortSpec], groups: Container[str]) -> Iterable[tuple[str, ...]]:
    """What ports wear several of, each combination once."""
    worn = (tuple(g for g in p.groups if g in groups) for p in ports if len(p.groups) > 1)
    return dict.fromkeys(ids for ids in worn if len(ids) > 1)


def tracking_fragments(plan: Plan, names: Names) -> dict[str, Fragment]:
    return {
        id: filters.bridge_zone(names.bridge(id), segment.zone)
        for id, segment in plan.segments.items()
    }


def underlay_fragments(plan: Plan, names: Names) -> dict[str, Fragment]:
    out = {id: underlay.outer_rules(names.external(id), s) for id, s in plan.outer.items()}
    return {"hosts": underlay.host_rules(plan.hosts), **out}


def home_devices(plan: Plan, names: Names) -> set[str]:
    """Every device that should be where the bridges are."""
    out = {tap_name(id) for id in plan.guests}
    out |= {names.limiter(id) for id, port in plan.guests.items() if not port.parent}
    legs = _legs(plan)
    for id, segment in plan.segments.items():
        out |= {names.bridge(id)} if segment.has_bridge else set()
        out |= {names.interface(i.port_id) for i in legs[id]}
        out |= {names.service(id)} if segment.has_guests else set()
        out |= {names.vxlan(id)} if segment.is_stretched else set()
        out |= {names.uplink(id)} if segment.has_uplink else set()
    return out


def underlay_devices(plan: Plan, names: Names) -> set[str]:
    out = {names.external(id) for id in plan.outer}
    out |= {names.downlink(id) for id, s in plan.outer.items() if s.has_uplink}
    out |= {names.wire(id) for id, s in plan.outer.items() if s.device and s.network.vlan}
    return out | {end for r in plan.routings.values() for end in outer_ends(names, r.router)}


def router_ends(plan: Plan, names: Names) -> dict[str, frozenset[str]]:
    """By router, its devices at the bridges."""
    found = {}
    for id, routing in plan.routings.items():
        inner = [names.interface(i.port_id) for i in routing.router.interfaces]
        found[id] = frozenset((*inner, *outer_ends(names, routing.router)))
    return found


def namespaces(plan: Plan, names: Names) -> set[str]:
    served = {names.service_namespace(id) for id, s in plan.segments.items() if s.has_guests}
    return served | {names.router_namespace(id) for id in plan.routings}


def _legs(plan: Plan) -> Legs:
    out: Legs = defaultdict(list)
    for routing in plan.routings.values():
        for interface in routing.router.interfaces:
            out[interface.network_id].append(interface)
    return out

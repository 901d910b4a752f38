"""Is what the plan wants really on the machine? Each look ends at the first thing that is amiss."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pileus.host import nftables as nft
from pileus.host.netlink import Link, Netlink
from pileus.host.ruleset import Fragment
from pileus.services.network.driver import UNKNOWN, PortSpec, tap_name
from pileus.services.network.drivers.linux import filters
from pileus.services.network.drivers.linux.machine import Machine
from pileus.services.network.drivers.linux.plan import Plan, worn_together
from pileus.services.network.drivers.linux.rates import port_rates
from pileus.services.network.drivers.linux.routers import (
    LIMITER,
    Routing,
    floating_maps,
    inner_device,
    outer_device,
    outer_ends,
    rates,
    translation,
)

_INCOMPLETE = "0x0"  # the flags of a neighbour that was asked for and never answered


async def examine(
    machine: Machine, plan: Plan, ids: Sequence[str], addresses: Sequence[str]
) -> dict[str, str]:
    """What is amiss, by id."""
    found = {}
    for id in ids:
        if text := plan.errors.get(id) or await _look(machine, plan, id, addresses):
            found[id] = text
    return found


async def _look(machine: Machine, plan: Plan, id: str, addresses: Sequence[str]) -> str:
    if port := plan.guests.get(id):
        return await machine.at_home(partial(_port, machine, plan, port))
    if routing := plan.routings.get(id):
        return await _router(machine, routing, addresses)
    if segment := plan.segments.get(id):
        if not segment.has_bridge:
            return ""
        device = machine.names.bridge(id)
        return await machine.at_home(lambda link: _device(link, device))
    return UNKNOWN


def _device(link: Netlink, name: str, bridge: str = "") -> str:
    """Is it there, up, and in its bridge?"""
    present = link.link(name)
    if present is None:
        return f"device {name} is missing"
    if not present.up:
        return f"device {name} is down"
    master: Link | None = link.link(bridge) if bridge else None
    if bridge and (master is None or present.master != master.index):
        return f"device {name} is not in bridge {bridge}"
    return ""


def _port(machine: Machine, plan: Plan, port: PortSpec, link: Netlink) -> str:
    tap, names = tap_name(port.id), machine.names
    if text := _device(link, tap, names.bridge(port.network_id)):
        return text
    waits = plan.queues and not port.parent and port_rates(port, "egress")
    if waits and (text := _device(link, names.limiter(port.id))):
        return text
    table = filters.bridge_table(names.table)
    groups = {id: g for id, g in plan.groups.items() if id not in plan.errors}
    mac = plan.offers[port.network_id].mac
    wanted = [filters.port_filter(port, groups, mac, names.log_group, queues=plan.queues)]
    worn = [groups[id] for id in port.groups if id in groups]
    wanted += [filters.group_filter(group, plan.groups) for group in worn]
    wanted += [filters.worn_together(ids) for ids in worn_together([port], groups)]
    wanted.append(filters.EVERY_PORT)
    missing = (table.lacks(fragment, machine.home_rules) for fragment in wanted)
    return next(filter(None, missing), "")


async def _router(machine: Machine, routing: Routing, addresses: Sequence[str]) -> str:
    router, names = routing.router, machine.names
    namespace = names.router_namespace(router.id)
    if not machine.namespaces.exists(namespace):
        return f"network namespace {namespace} is missing"
    for interface in router.interfaces:
        name, bridge = names.interface(interface.port_id), names.bridge(interface.network_id)
        if text := await machine.at_home(partial(_device, name=name, bridge=bridge)):
            return text
    for name, gateway in outer_ends(names, router).items():
        bridge = names.external(gateway.network_id)
        if text := await machine.at_underlay(partial(_device, name=name, bridge=bridge)):
            return text
    return await machine.inside(namespace, partial(_inside, routing, addresses))


def _inside(routing: Routing, addresses: Sequence[str], link: Netlink) -> str:
    """In the router's namespace."""
    router = routing.router
    devices = [inner_device(i.port_id) for i in router.interfaces]
    devices += [outer_device(g.port_id) for g in router.gateways]
    devices += [LIMITER] if rates(routing) else []
    for device in devices:
        if text := _device(link, device):
            return text
    present = link.static_routes()
    for destination, hops in routing.routes().items():
        if not {via for via, _ in hops} <= {via for via, _ in present.get(destination, ())}:
            ways = ", ".join(f"{via} on {device}" for via, device in hops)
            return f"its route to {destination} by {ways} is missing"
    table = translation(routing)
    maps = floating_maps(router)
    whole = Fragment(chains=table.chains, elements=maps.elements)
    with contextlib.closing(nft.Nftables()) as rules:
        if text := table.lacks(whole, rules.run):
            return text
    for line in Path("/proc/thread-self/net/arp").read_text().splitlines()[1:]:
        address, _, flags, *_ = line.split()
        if address in addresses and flags == _INCOMPLETE:
            return f"nobody answers it for {address} (ARP): the guest is off, or not that address"
    return ""

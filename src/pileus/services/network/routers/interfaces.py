"""A router's legs on inner networks: by subnet or by port, inside a transaction that holds the networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.store import Match, Tx
from pileus.kernel.world import World

from ..addressing import address
from ..floating_ip import FLOATING_IPS
from ..network import NETWORKS
from ..port import DOWN, PORTS, ROUTER_INTERFACE, Port
from ..port_forwarding import PORT_FORWARDINGS
from ..ports.bodies import FixedRequest
from ..ports.lifecycle import add_port, remove_port, tell
from ..refusals import missing, port_in_use
from ..router import Router
from ..subnet import SUBNETS, Route, Subnet
from .bodies import bad_router
from .placement import legs


def interface_view(router: Router, port: Port) -> dict[str, Any]:
    """What adding and removing answer."""
    subnets = [f.subnet_id for f in port.fixed_ips]
    return {
        "id": router.id,
        "project_id": router.project_id,
        "tenant_id": router.project_id,
        "port_id": port.id,
        "network_id": port.network_id,
        "subnet_id": subnets[0] if subnets else None,
        "subnet_ids": subnets,
    }


async def add_by_subnet(tx: Tx, world: World, router: Router, subnet: Subnet) -> Port:
    """A new port with the subnet's gateway address. Raises Invalid, Conflict."""
    subnet = await SUBNETS.get(tx, subnet.id)
    if not subnet.gateway_ip:
        raise bad_router("Subnet for router interface must have a gateway IP")
    if subnet.ipv6_address_mode and not subnet.ipv6_ra_mode:
        raise bad_router(
            f"IPv6 subnet {subnet.id} configured to receive RAs from an external router cannot be "
            "added to Neutron Router"
        )
    await fits(tx, router, [subnet])
    network = await NETWORKS.get(tx, subnet.network_id)
    port = Port(
        id=world.new_id(),
        project_id=router.project_id,
        network_id=network.id,
        mac_address="",
        device_id=router.id,
        device_owner=ROUTER_INTERFACE,
        port_security_enabled=False,
        host=router.host,
    )
    fixed = [FixedRequest(subnet_id=subnet.id, ip_address=subnet.gateway_ip)]
    return await add_port(tx, world, network, port, fixed, wear_default=False)


async def add_by_port(tx: Tx, router: Router, port_id: str) -> Port:
    """An existing port becomes the router's. Raises Invalid, Conflict."""
    port = await PORTS.get(tx, port_id)
    if port.device_id:
        raise port_in_use(port.id, port.network_id, port.device_id)
    if not port.fixed_ips:
        raise bad_router("Router port must have at least one fixed IP")
    subnets = [await SUBNETS.get(tx, f.subnet_id) for f in port.fixed_ips]
    if sum(s.ip_version == 4 for s in subnets) > 1:
        raise bad_router("Cannot have multiple IPv4 subnets on router port")
    await fits(tx, router, subnets)
    port = await PORTS.revise(
        tx,
        port,
        device_id=router.id,
        device_owner=ROUTER_INTERFACE,
        host=router.host,
        status=DOWN,
        security_groups=[],
        port_security_enabled=False,
    )
    await tell(tx, "update", port)
    return port


async def fits(tx: Tx, router: Router, new: Sequence[Subnet], beside: str = "") -> None:
    """No two legs may lead to the same addresses, but on the network `beside`. Raises Invalid."""
    for port in await legs(tx, router.id):
        if port.network_id == beside:
            continue
        for fixed in port.fixed_ips:
            other = await SUBNETS.get(tx, fixed.subnet_id)
            for subnet in new:
                if other.id == subnet.id:
                    raise bad_router(f"Router already has a port on subnet {subnet.id}")
                if other.ip_version == subnet.ip_version and other.block.overlaps(subnet.block):
                    raise bad_router(
                        f"Cidr {subnet.cidr} of subnet {subnet.id} overlaps with cidr "
                        f"{other.cidr} of subnet {other.id}"
                    )


async def remove(tx: Tx, router: Router, subnet_id: str, port_id: str) -> Port:
    """Takes the leg away; its port goes with it. Raises NotFound, Invalid, Conflict while it is needed."""
    port = await _leg(tx, router, subnet_id, port_id)
    mine = {f.subnet_id for f in port.fixed_ips}
    if subnet_id and subnet_id not in mine:
        raise Invalid(
            f"Subnet on port {port.id} does not match the requested subnet {subnet_id}.",
            code="SubnetMismatchForPort",
        )
    for id in mine:
        subnet = await SUBNETS.get(tx, id)
        if await _floats(tx, router, subnet):
            raise _needed(router, id, "floating IPs", "RouterInterfaceInUseByFloatingIP")
        if any(address(r.nexthop) in subnet.block for r in router.routes):
            raise _needed(router, id, "routes", "RouterInterfaceInUseByRoute")
    await remove_port(tx, port)
    return port


def _needed(router: Router, subnet_id: str, what: str, code: str) -> Conflict:
    return Conflict(
        f"Router interface for subnet {subnet_id} on router {router.id} cannot be deleted, "
        f"as it is required by one or more {what}.",
        code=code,
    )


async def _leg(tx: Tx, router: Router, subnet_id: str, port_id: str) -> Port:
    inner = [p for p in await legs(tx, router.id) if p.device_owner == ROUTER_INTERFACE]
    for port in inner:
        if port_id and port.id == port_id:
            return port
        if not port_id and any(f.subnet_id == subnet_id for f in port.fixed_ips):
            return port
    if port_id:
        raise missing(
            "RouterInterfaceNotFound",
            f"Router {router.id} does not have an interface with id {port_id}",
        )
    raise missing(
        "RouterInterfaceNotFoundForSubnet",
        f"Router {router.id} has no interface on subnet {subnet_id}",
    )


async def _floats(tx: Tx, router: Router, subnet: Subnet) -> bool:
    """Does a floating IP reach its port over this subnet?"""
    for forwarding in await PORT_FORWARDINGS.all(tx, router_id=router.id):
        if address(forwarding.internal_ip_address) in subnet.block:
            return True
    for fip in await FLOATING_IPS.all(tx, router_id=router.id, port_id=Match("ne", "")):
        port = await PORTS.find(tx, fip.port_id)
        if port is not None and any(
            f.subnet_id == subnet.id and f.ip_address == fip.fixed_ip_address
            for f in port.fixed_ips
        ):
            return True
    return False


async def refuse_unconnected(tx: Tx, router: Router, routes: Sequence[Route]) -> None:
    """A route's nexthop must be a neighbour, not the router itself. Raises Invalid."""
    own = [f for p in await legs(tx, router.id) for f in p.fixed_ips]
    blocks = [(await SUBNETS.get(tx, f.subnet_id)).block for f in own]
    for route in routes:
        nexthop = address(route.nexthop)
        why = ""
        if not any(nexthop in b for b in blocks):
            why = "the nexthop is not connected with router"
        elif any(f.ip_address == str(nexthop) for f in own):
            why = "the nexthop is used by router"
        if why:
            raise Invalid(
                f"Invalid format for routes: {route.destination} via {route.nexthop}, {why}",
                code="InvalidRoutes",
            )

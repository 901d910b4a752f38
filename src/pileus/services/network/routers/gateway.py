"""A router's legs on external networks: made, changed and taken away inside a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET

from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.store import Tx
from pileus.kernel.world import World

from ..floating_ip import FLOATING_IPS
from ..network import NETWORKS
from ..port import PORTS, ROUTER_GATEWAY, Port
from ..ports.lifecycle import add_port, readdress, remove_port
from ..router import Gateway, OuterIp, Router
from ..subnet import SUBNETS
from .bodies import GatewayRequest, bad_router
from .interfaces import fits

Goal = tuple[Gateway | None, GatewayRequest | None]  # one that is there, and what it is to become


def first_gateway(router: Router, asked: GatewayRequest | None) -> list[Goal]:
    """What `external_gateway_info` means: the first gateway, those behind it stay."""
    old = router.gateway
    if old is not None and asked is not None and asked.network_id != old.network_id:
        old = None
    first: list[Goal] = [(old, asked)] if asked is not None else []
    return [*first, *((g, None) for g in router.more_gateways)]


def gateways_with(router: Router, asked: Sequence[GatewayRequest]) -> list[Goal]:
    """Those asked for behind those that are there."""
    return [*((g, None) for g in router.gateways), *((None, a) for a in asked)]


def gateways_without(router: Router, asked: Sequence[GatewayRequest]) -> list[Goal]:
    """Those that are there but for those asked for. Raises Invalid if one is not found."""
    gone = []
    for request in asked:
        found = _match(router, [g for g in router.gateways if g not in gone], request)
        if found is None:
            raise _unmatched(router, f"it has none on network {request.network_id} as described")
        gone.append(found)
    return [(g, None) for g in router.gateways if g not in gone]


def gateways_like(router: Router, asked: Sequence[GatewayRequest]) -> list[Goal]:
    """Those asked for in their order: one that is there where it fits, else a new one. Raises Invalid."""
    left, goals = router.gateways, list[Goal]()
    for request in asked:
        found = _match(router, left, request)
        left = [g for g in left if g is not found]
        goals.append((found, request))
    return goals


def _match(router: Router, among: Sequence[Gateway], asked: GatewayRequest) -> Gateway | None:
    same = [g for g in among if g.network_id == asked.network_id]
    wanted = {f.ip_address for f in asked.external_fixed_ips or ()}
    if not wanted and len(same) > 1:
        raise _unmatched(
            router, f"several are on network {asked.network_id}: name external_fixed_ips"
        )
    return next((g for g in same if not wanted or wanted & g.addresses), None)


def _unmatched(router: Router, why: str) -> Invalid:
    return Invalid(
        "Unable to match a requested gateway port to existing gateway ports for router "
        f"{router.id}: {why}.",
        code="UnableToMatchGateways",
    )


async def set_gateways(
    tx: Tx, world: World, router: Router, goals: Sequence[Goal]
) -> dict[str, Any]:
    """The router's gateways as they are to be: the changes of its record. The networks are held.

    Raises Invalid, Conflict, NotFound.
    """
    kept = [old for old, _ in goals if old is not None]
    networks = {g.network_id for g in kept} | {a.network_id for _, a in goals if a is not None}
    for old in router.gateways:
        if old not in kept:
            await drop_gateway(tx, router, old, still=old.network_id in networks)
    made = []
    for before, asked in goals:
        if asked is None:
            made += [before] if before is not None else []
        elif before is None:
            made.append(await _make(tx, world, router, asked))
        else:
            made.append(await _change(tx, world, before, asked))
    return {"gateway": made[0] if made else None, "more_gateways": made[1:]}


async def _make(tx: Tx, world: World, router: Router, asked: GatewayRequest) -> Gateway:
    network = await NETWORKS.get(tx, asked.network_id or "")
    if not network.is_outer:
        raise bad_router(f"Network {network.id} is not an external network")
    if not network.subnets:
        raise bad_router(f"No IPs available for external network {network.id}")
    await fits(tx, router, await SUBNETS.all(tx, network_id=network.id), network.id)
    port = Port(
        id=world.new_id(),
        project_id="",
        network_id=network.id,
        mac_address="",
        device_id=router.id,
        device_owner=ROUTER_GATEWAY,
        port_security_enabled=False,
        host=router.host,
    )
    wanted = asked.external_fixed_ips
    fixed = list(wanted) if wanted else None
    port = await add_port(tx, world, network, port, fixed, wear_default=False)
    return _gateway(port, asked.enable_snat is not False)


async def _change(tx: Tx, world: World, old: Gateway, asked: GatewayRequest) -> Gateway:
    port = await PORTS.get(tx, old.port_id)
    if asked.external_fixed_ips:
        addresses = await readdress(tx, world, port, asked.external_fixed_ips)
        port = await PORTS.revise(tx, port, fixed_ips=addresses)
    snat = old.enable_snat if asked.enable_snat is UNSET else bool(asked.enable_snat)
    return _gateway(port, snat)


def _gateway(port: Port, snat: bool) -> Gateway:
    ips = [OuterIp(subnet_id=f.subnet_id, ip_address=f.ip_address) for f in port.fixed_ips]
    return Gateway(
        network_id=port.network_id, port_id=port.id, enable_snat=snat, external_fixed_ips=ips
    )


async def drop_gateway(tx: Tx, router: Router, gateway: Gateway, *, still: bool = False) -> None:
    """Raises Conflict while floating IPs need it; `still`: the router keeps a leg on the same network."""
    needs = {"router_id": router.id, "floating_network_id": gateway.network_id}
    if not still and await FLOATING_IPS.one(tx, **needs) is not None:
        raise Conflict(
            f"Gateway cannot be updated for router {router.id}, since a gateway to external "
            f"network {gateway.network_id} is required by one or more floating IPs.",
            code="RouterExternalGatewayInUseByFloatingIp",
        )
    port = await PORTS.find(tx, gateway.port_id)
    if port is not None:
        await remove_port(tx, port)


def gateway_view(gateway: Gateway | None, policy_id: str) -> dict[str, Any] | None:
    if gateway is None:
        return None
    return {
        "network_id": gateway.network_id,
        "enable_snat": gateway.enable_snat,
        "qos_policy_id": policy_id or None,
        "external_fixed_ips": gateway.external_fixed_ips,
    }


def gateways_view(router: Router) -> list[dict[str, Any]]:
    return [
        {"network_id": g.network_id, "external_fixed_ips": g.external_fixed_ips}
        for g in router.gateways
    ]

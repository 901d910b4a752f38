"""A router's leg on an external network: made, changed and taken away inside a transaction."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from pileus.kernel.faults import Conflict
from pileus.kernel.store import Tx
from pileus.kernel.world import World

from ..floating_ip import FLOATING_IPS
from ..network import NETWORKS
from ..port import PORTS, ROUTER_GATEWAY, Port
from ..ports.lifecycle import add_port, readdress, remove_port
from ..router import Gateway, OuterIp, Router
from .bodies import GatewayRequest, bad_router


async def set_gateway(
    tx: Tx, world: World, router: Router, asked: GatewayRequest | None
) -> Gateway | None:
    """The router's gateway as asked for. The networks are held. Raises Invalid, Conflict, NotFound."""
    old = router.gateway
    if old is not None and (asked is None or asked.network_id != old.network_id):
        await drop_gateway(tx, router)
        old = None
    if asked is None:
        return None
    if old is None:
        return await _make(tx, world, router, asked)
    return await _change(tx, world, old, asked)


async def _make(tx: Tx, world: World, router: Router, asked: GatewayRequest) -> Gateway:
    network = await NETWORKS.get(tx, asked.network_id or "")
    if not network.is_outer:
        raise bad_router(f"Network {network.id} is not an external network")
    if not network.subnets:
        raise bad_router(f"No IPs available for external network {network.id}")
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
    fixed = None if wanted is UNSET or not wanted else list(wanted)
    port = await add_port(tx, world, network, port, fixed, wear_default=False)
    return _gateway(port, asked.enable_snat is not False)


async def _change(tx: Tx, world: World, old: Gateway, asked: GatewayRequest) -> Gateway:
    port = await PORTS.get(tx, old.port_id)
    if asked.external_fixed_ips is not UNSET and asked.external_fixed_ips:
        addresses = await readdress(tx, world, port, asked.external_fixed_ips)
        port = await PORTS.revise(tx, port, fixed_ips=addresses)
    snat = old.enable_snat if asked.enable_snat is UNSET else bool(asked.enable_snat)
    return _gateway(port, snat)


def _gateway(port: Port, snat: bool) -> Gateway:
    ips = [OuterIp(subnet_id=f.subnet_id, ip_address=f.ip_address) for f in port.fixed_ips]
    return Gateway(
        network_id=port.network_id, port_id=port.id, enable_snat=snat, external_fixed_ips=ips
    )


async def drop_gateway(tx: Tx, router: Router) -> None:
    """Raises Conflict while floating IPs need it."""
    gateway = router.gateway
    if gateway is None:
        return
    if await FLOATING_IPS.one(tx, router_id=router.id) is not None:
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
        "external_fixed_ips": [msgspec.to_builtins(ip) for ip in gateway.external_fixed_ips],
    }

"""Private networks, whose ports meet some of the others only (attributes of networks and ports; upstream's `pvlan`).

An isolated port meets promiscuous ones, a community's port those of its community too; everybody meets a promiscuous
port, as routers' are. That narrows what security groups let pass; it opens nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta
from msgspec.structs import replace

from pileus.kernel.faults import Invalid
from pileus.kernel.store import Tx

from .driver import PROMISCUOUS
from .network import Network
from .port import COMMUNITY, PORTS, Port

Part = Literal["isolated", "promiscuous", "community"]
CommunityName = Annotated[str, Meta(pattern=r"^[a-zA-Z_.][a-zA-Z_.0-9]{0,231}$")]


def cleared(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes of a port: what is no longer of a community has no community's name."""
    if changes.get("pvlan_type", COMMUNITY) != COMMUNITY:
        return {"pvlan_community": "", **changes}
    return {n: v for n, v in changes.items() if n != "pvlan_community" or v}


def taking_part(network: Network, port: Port) -> Port:
    """The port as it is to be on that network: promiscuous, where it says nothing. Raises Invalid."""
    if not network.pvlan:
        if port.pvlan_type or port.pvlan_community:
            raise Invalid(
                f"PVLAN is not enabled on network {network.id}.", code="PVLANNotEnabledOnNetwork"
            )
        return port
    if not port.port_security_enabled and not port.device_owner.startswith("network:"):
        raise Invalid(
            f"Port security is disabled for port {port.id}, cannot set PVLAN.",
            code="PVLANPortSecurityDisabled",
        )
    kind = port.pvlan_type or PROMISCUOUS
    if kind != COMMUNITY and port.pvlan_community:
        raise Invalid(
            'PVLAN community name cannot be set if port type is not "community" for this port: '
            f"{port.id}.",
            code="PVLANCannotSetCommunityName",
        )
    if kind == COMMUNITY and not port.pvlan_community:
        raise Invalid(
            f'Community name is required for ports with PVLAN type "community": {port.id}.',
            code="PVLANCommunityNameRequired",
        )
    return replace(port, pvlan_type=kind)


def private(network: Network) -> Network:
    """Raises Invalid where a network cannot be so."""
    if network.pvlan and not network.port_security_enabled:
        raise Invalid(
            f"Port security is disabled on network {network.id}, cannot enable PVLAN.",
            code="PVLANNetworkPortSecurityDisabled",
        )
    if network.pvlan and network.is_outer:
        raise Invalid(
            f"External network {network.id} cannot be private: who speaks on it is no port of this "
            "cloud."
        )
    return network


async def follow_network(tx: Tx, network: Network) -> None:
    """Its ports take part, or no longer. Raises Invalid for one that cannot."""
    for port in await PORTS.all(tx, network_id=network.id):
        plain = port if network.pvlan else replace(port, pvlan_type="", pvlan_community="")
        new = taking_part(network, plain)
        if new != port:
            await PORTS.change(
                tx, port, pvlan_type=new.pvlan_type, pvlan_community=new.pvlan_community
            )

"""What a floating IP is: an outer address that stands for a port's inner one."""

from __future__ import annotations

from pileus.kernel.events import emit
from pileus.kernel.quota import Quota
from pileus.kernel.store import Many, Tx

from .port import PORTS
from .port_forwarding import PORT_FORWARDINGS, forwards_from
from .resource import COLUMNS, Noun, Nouns


class FloatingIp(Noun, kw_only=True, frozen=True):
    """`holder_id` is the cloud's own port that holds the address on the outer network."""

    floating_network_id: str
    floating_ip_address: str
    holder_id: str
    port_id: str = ""
    fixed_ip_address: str = ""
    router_id: str = ""
    status: str = "DOWN"
    dns_name: str = ""
    dns_domain: str = ""
    qos_policy_id: str = ""


def pair_taken(f: FloatingIp) -> str:
    return (
        f"Cannot associate floating IP {f.floating_ip_address} ({f.id}) with port {f.port_id} "
        f"using fixed IP {f.fixed_ip_address}, as that fixed IP already has a floating IP on "
        f"external network {f.floating_network_id}."
    )


FLOATING_IPS = Nouns(
    "network_floating_ips",
    FloatingIp,
    columns=(
        *COLUMNS,
        "floating_network_id",
        "floating_ip_address",
        "holder_id",
        "port_id",
        "fixed_ip_address",
        "router_id",
        "status",
        "qos_policy_id",
    ),
    many=(Many("tags", lambda f: f.tags),),
    quotas=(Quota("network", "floatingip", default=50),),
    indexes=(("port_id",), ("router_id",), ("project_id", "created_at", "id")),
    noun="Floating IP",
).worded("FloatingIPNotFound", "Floating IP {id} could not be found")


async def disassociate(tx: Tx, port_id: str) -> list[FloatingIp]:
    """Takes every floating IP and forwarding from the port; the floating IPs it had."""
    found = await FLOATING_IPS.all(tx, port_id=port_id)
    for forwarding in await PORT_FORWARDINGS.all(tx, internal_port_id=port_id):
        await PORT_FORWARDINGS.delete(tx, forwarding)
        if not await forwards_from(tx, forwarding.floatingip_id):
            found.append(await FLOATING_IPS.get(tx, forwarding.floatingip_id))
    for fip in found:
        await release(tx, fip)
    return found


async def release(tx: Tx, fip: FloatingIp) -> FloatingIp:
    """The same floating IP, standing for nobody."""
    new = await FLOATING_IPS.revise(
        tx, fip, port_id="", fixed_ip_address="", router_id="", status="DOWN"
    )
    await tell_floating(tx, "update", fip)
    return new


async def tell_floating(tx: Tx, what: str, fip: FloatingIp) -> None:
    """The event, with the device behind the port that the address stands (or stood) for."""
    port = await PORTS.find(tx, fip.port_id) if fip.port_id else None
    await emit(
        tx,
        f"floatingip.{what}.end",
        fip.project_id,
        id=fip.id,
        port_id=fip.port_id,
        floating_ip_address=fip.floating_ip_address,
        device_id=port.device_id if port is not None else "",
    )

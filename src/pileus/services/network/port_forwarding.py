"""What a port forwarding is: some ports of a floating IP that lead to a port's."""

from __future__ import annotations

from typing import Any

from pileus.kernel.store import Reader

from .resource import COLUMNS, Noun, Nouns


class PortForwarding(Noun, kw_only=True, frozen=True):
    """External ports `external_port` to `external_last` lead to as many from `internal_port` on."""

    floatingip_id: str
    router_id: str = ""
    protocol: str
    external_port: int
    external_last: int
    internal_port: int
    internal_ip_address: str
    internal_port_id: str

    @property
    def internal_last(self) -> int:
        return self.internal_port + self.external_last - self.external_port


PORT_FORWARDINGS = Nouns[PortForwarding](
    "network_port_forwardings",
    PortForwarding,
    columns=(
        *COLUMNS,
        "floatingip_id",
        "router_id",
        "protocol",
        "external_port",
        "internal_port_id",
    ),
    indexes=(("floatingip_id",), ("router_id",), ("internal_port_id",)),
    noun="Port forwarding",
).worded("PortForwardingNotFound", "Port Forwarding {id} could not be found.")


async def forwards_from(db: Reader, floatingip_id: str) -> bool:
    return await PORT_FORWARDINGS.one(db, floatingip_id=floatingip_id) is not None


def forwarding_view(f: PortForwarding) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": f.id,
        "protocol": f.protocol,
        "internal_port_id": f.internal_port_id,
        "internal_ip_address": f.internal_ip_address,
        "external_port_range": f"{f.external_port}:{f.external_last}",
        "internal_port_range": f"{f.internal_port}:{f.internal_last}",
        "description": f.description,
    }
    if f.external_port == f.external_last:
        found |= {"external_port": f.external_port, "internal_port": f.internal_port}
    return found


def forwarding_in_brief(f: PortForwarding) -> dict[str, Any]:
    """As its floating IP shows it: ranges only where they are such."""
    found = forwarding_view(f)
    left_out = {"description"}
    if "external_port" in found:
        left_out |= {"external_port_range", "internal_port_range"}
    return {name: value for name, value in found.items() if name not in left_out}

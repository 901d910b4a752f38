"""Port forwardings of floating IPs (API reference: floating-ips-port-forwarding)."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context
from pileus.kernel.store import Tx

from .addressing import address
from .attributes import Attributes, changes_of
from .floating_ip import FLOATING_IPS, FloatingIp
from .floating_ips import FloatingIps, router_between
from .plain import Child
from .port import ACTIVE, PORTS
from .port_forwarding import PORT_FORWARDINGS, PortForwarding, forwarding_view
from .ports.operations import Ports
from .refusals import bad_input
from .resource import hold, kept_by, listing
from .router import ROUTERS
from .wiring import wake

_PROTOCOLS = ("tcp", "udp", "dccp", "sctp")
_FIXED = frozenset({"id"})


class CreateForwarding(Attributes):
    root: ClassVar[str] = "port_forwarding"
    fixed = _FIXED

    protocol: str
    internal_port_id: str
    internal_ip_address: str
    external_port: int | None = None
    internal_port: int | None = None
    external_port_range: str | None = None
    internal_port_range: str | None = None
    description: str = ""
    project_id: str | UnsetType = UNSET


class PortForwardings(
    Child[PortForwarding],
    below="/floatingips/{parent_id}/port_forwardings",
    create=CreateForwarding,
    update=changes_of(CreateForwarding),
):
    table = PORT_FORWARDINGS
    noun = "floatingip_port_forwarding"
    root = "port_forwarding"
    plural = "port_forwardings"
    id_param = "port_forwarding_id"
    see = "get_floatingip_port_forwarding"
    parent = FloatingIps
    parent_field = "floatingip_id"
    rules = kept_by(
        "(rule:admin_only) or (role:member and rule:ext_parent_owner)",
        "floatingip_port_forwarding",
        readers="(rule:admin_only) or (role:reader and rule:ext_parent_owner)",
    )
    listing = listing(("protocol", "internal_port_id"), False, external_port=Filter(kind=int))

    def view(self, ctx: Context, record: PortForwarding) -> dict[str, Any]:
        return forwarding_view(record)

    async def checked(
        self, ctx: Context, given: dict[str, Any], old: PortForwarding | None
    ) -> dict[str, Any]:
        found = dict(given)
        protocol = str(found.get("protocol", "tcp")).lower()
        if protocol not in _PROTOCOLS:
            raise bad_input(f"'{protocol[:20]}' is not in {list(_PROTOCOLS)}")
        if "protocol" in found:
            found["protocol"] = protocol
        ends = {side: _ports(found, side) for side in ("external", "internal")}
        if old is not None:
            kept = {
                "external": (old.external_port, old.external_last),
                "internal": (old.internal_port, old.internal_last),
            }
            ends = {side: ends[side] or kept[side] for side in ends}
        external, internal = ends["external"], ends["internal"]
        if external is None or internal is None:
            raise Invalid("Bad port_forwarding request: external and internal ports must be given.")
        if external[1] - external[0] != internal[1] - internal[0]:
            raise bad_input("The external and the internal port range must be of one length")
        found |= {"external_port": external[0], "external_last": external[1]}
        found["internal_port"] = internal[0]
        if "internal_ip_address" in found:
            ip = str(address(found["internal_ip_address"], "internal_ip_address"))
            found["internal_ip_address"] = ip
        if "internal_port_id" in found:
            await Ports().visible(ctx, found["internal_port_id"])
        return found

    async def enter(
        self, tx: Tx, new: PortForwarding, old: PortForwarding | None
    ) -> PortForwarding:
        fip = await FLOATING_IPS.get(tx, new.floatingip_id)
        await hold(tx, "networks", fip.floating_network_id)
        port = await PORTS.get(tx, new.internal_port_id)
        await _unfloated(tx, fip, new)
        subnets = [f.subnet_id for f in port.fixed_ips if f.ip_address == new.internal_ip_address]
        if not subnets:
            raise bad_input(f"Port {port.id} does not have fixed ip {new.internal_ip_address}")
        router = await router_between(tx, fip, port, subnets[0])
        if fip.router_id not in ("", router.id):
            raise bad_input(f"Floating IP {fip.id} already leads over router {fip.router_id}")
        for other in await PORT_FORWARDINGS.all(tx, floatingip_id=fip.id):
            if other.id != new.id and _collide(new, other):
                raise Invalid(
                    "Bad port_forwarding request: A duplicate port forwarding entry with same "
                    f"attributes already exists, conflicting values are {forwarding_view(other)}.",
                    code="BadRequest",
                )
        if not fip.router_id:
            await FLOATING_IPS.revise(tx, fip, router_id=router.id, status=ACTIVE)
        return replace(new, router_id=router.id)

    async def leave(self, tx: Tx, record: PortForwarding) -> None:
        fip = await FLOATING_IPS.find(tx, record.floatingip_id)
        left = await PORT_FORWARDINGS.all(tx, floatingip_id=record.floatingip_id)
        if fip is not None and len(left) < 2:
            await FLOATING_IPS.revise(tx, fip, router_id="", status="DOWN")

    async def changed(self, ctx: Context, *records: PortForwarding) -> None:
        routers = await ROUTERS.all(ctx.runtime.store, id=sorted({r.router_id for r in records}))
        await wake(ctx.runtime, {r.host for r in routers})


def _ports(found: dict[str, Any], side: str) -> tuple[int, int] | None:
    """The first and the last port of one side, by whichever attribute says so. Raises Invalid."""
    one, several = found.pop(f"{side}_port", None), found.pop(f"{side}_port_range", None)
    if one is None and not several:
        return None
    text = str(several or one)
    low, _, high = text.partition(":")
    digits = [low, high or low]
    if not all(d.isascii() and d.isdigit() and 1 <= int(d[:6]) <= 65535 for d in digits):
        raise bad_input(f"{side}_port '{text[:20]}' must be from 1 to 65535")
    if int(digits[0]) > int(digits[1]):
        raise bad_input(f"{side}_port_range '{text[:20]}' is upside down")
    return int(digits[0]), int(digits[1])


def _collide(one: PortForwarding, other: PortForwarding) -> bool:
    if one.protocol != other.protocol:
        return False
    outer = one.external_port <= other.external_last and other.external_port <= one.external_last
    same = (one.internal_port_id, one.internal_ip_address) == (
        other.internal_port_id,
        other.internal_ip_address,
    )
    inner = one.internal_port <= other.internal_last and other.internal_port <= one.internal_last
    return outer or (same and inner)


async def _unfloated(tx: Tx, fip: FloatingIp, new: PortForwarding) -> None:
    """Raises Conflict if the floating IP, or the address behind, is already one for one."""
    where = {"port_id": new.internal_port_id, "fixed_ip_address": new.internal_ip_address}
    other = fip if fip.port_id else await FLOATING_IPS.one(tx, **where)
    if other is not None:
        raise Conflict(
            f"Cannot create port forwarding to floating IP {fip.floating_ip_address} ({fip.id}) "
            f"with port {new.internal_port_id} using fixed IP {new.internal_ip_address}, as that "
            "port already has a binding floating IP.",
            code="PortHasBindingFloatingIP",
        )

"""Where a guest's port is wired: on its host, and, while it moves, on the other one (API reference: port-bindings).

There is an active binding and an inactive one at most. Compute's own moves use them by its contract; a Nova of somebody
else's by these operations.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.hosts import hosts_of
from pileus.kernel.resources import Context, Resource, operation

from ..attributes import Attributes
from ..driver import COMPUTE_OWNER
from ..port import ACTIVE, DOWN, PORTS, Port, binding_of
from ..refusals import bad_input, missing
from ..resource import SERVICE_TOO, hold, sifted
from ..trunk import carry
from ..wiring import NETWORK_HOST, wake, wake_for_ports
from .bodies import vnic_type
from .cards import worn_mac
from .lifecycle import addressed_at, tell
from .reach import refuse_unreached

INACTIVE = "INACTIVE"
_SERVICE = "rule:service_api"
_ONE = "/ports/{port_id}/bindings/{host}"


class CreateBinding(Attributes):
    root: ClassVar[str] = "binding"
    fixed = frozenset({"vif_type", "vif_details", "status"})

    host: str
    vnic_type: str | UnsetType = UNSET
    profile: dict[str, Any] | None = None
    project_id: str | UnsetType = UNSET


def _bindings(port: Port) -> list[dict[str, Any]]:
    """Raises Invalid for a port that is no guest's."""
    if not port.device_owner.startswith(COMPUTE_OWNER):
        raise bad_input(
            f"Invalid port {port.id}. Operation only valid on compute and shared filesystem ports"
        )
    next_host = port.next_host if port.next_host != port.host else ""
    moving = msgspec.structs.replace(port, host=next_host, profile=port.next_profile)
    both = ((port, ACTIVE), (moving, INACTIVE))
    return [binding_of(p) | {"host": p.host, "status": status} for p, status in both if p.host]


def _at(port: Port, host: str) -> dict[str, Any]:
    """Raises NotFound, Invalid."""
    for binding in _bindings(port):
        if binding["host"] == host:
            return binding
    raise missing(
        "PortBindingNotFound", f"Binding for port {port.id} for host {host} could not be found."
    )


class PortBindings(Resource[Port]):
    table = PORTS
    id_param = "port_id"
    see = "get_port"
    rules = {
        "get_port_binding": SERVICE_TOO,
        "create_port_binding": _SERVICE,
        "delete_port_binding": _SERVICE,
        "activate": _SERVICE,
    }

    @operation("GET", "/ports/{port_id}/bindings", "get_port_binding")
    async def index(self, ctx: Context, port: Port) -> Any:
        found = _bindings(port)
        return {"bindings": sifted(ctx, found, "host", "status", "vif_type", "vnic_type")}

    @operation("GET", _ONE, "get_port_binding")
    async def show(self, ctx: Context, port: Port, host: str) -> Any:
        return {"binding": _at(port, host)}

    @operation("POST", "/ports/{port_id}/bindings", "create_port_binding", status=201)
    async def create(self, ctx: Context, port: Port, body: CreateBinding) -> Any:
        """Active if the port is bound nowhere yet. Raises Conflict, Invalid."""
        if body.vnic_type is not UNSET and vnic_type(body.vnic_type) != port.vnic_type:
            raise bad_input(f"Port {port.id} is of vnic_type {port.vnic_type}; so are its bindings")
        if not await hosts_of(ctx.runtime.store, NETWORK_HOST, id=[body.host]):
            raise Invalid(
                f"Binding for port {port.id} on host {body.host} could not be created: no such "
                "host has joined.",
                code="PortBindingError",
            )
        for binding in _bindings(port):
            if body.host == binding["host"]:
                raise Conflict(
                    f"Binding for port {port.id} on host {body.host} already exists.",
                    code="PortBindingAlreadyExists",
                )
            if binding["status"] == INACTIVE:
                raise Conflict(
                    f"Port {port.id} has an inactive binding on host {binding['host']} already: "
                    "delete that first.",
                    code="PortBindingAlreadyExists",
                )
        which = "next_" if port.host else ""
        changes = {f"{which}host": body.host, f"{which}profile": body.profile or {}}
        return {"binding": _at(await self._write(ctx, port, changes), body.host)}

    @operation("PUT", f"{_ONE}/activate", "activate")
    async def activate(self, ctx: Context, port: Port, host: str) -> Any:
        """The active binding becomes the inactive one. Raises NotFound, Conflict."""
        if _at(port, host)["status"] == ACTIVE:
            raise Conflict(
                f"Binding for port {port.id} on host {host} is already active.",
                code="PortBindingAlreadyActive",
            )
        before = {"next_host": port.host, "next_profile": port.profile}
        changes = {"host": host, "profile": port.next_profile, **before, "status": DOWN}
        return _at(await self._write(ctx, port, changes), host)

    @operation("DELETE", _ONE, "delete_port_binding")
    async def delete(self, ctx: Context, port: Port, host: str) -> None:
        is_active = _at(port, host)["status"] == ACTIVE
        gone: dict[str, Any] = {"next_host": "", "next_profile": {}}
        await self._write(
            ctx, port, {"host": "", "profile": {}, "status": DOWN} if is_active else gone
        )

    async def _write(self, ctx: Context, port: Port, changes: dict[str, Any]) -> Port:
        async with ctx.runtime.store.tx() as tx:
            await hold(tx, "networks", port.network_id)
            changes |= await addressed_at(tx, ctx.runtime.world, port, changes.get("host", ""))
            await refuse_unreached(tx, port, changes.get("next_host", ""))
            changes |= await worn_mac(tx, ctx.runtime.world, port, changes)
            new = await PORTS.revise(tx, port, **changes)
            await carry(tx, new)
            await tell(tx, "update", new)
        await wake(ctx.runtime, {port.next_host, new.next_host})
        await wake_for_ports(ctx.runtime, port, new)
        return new

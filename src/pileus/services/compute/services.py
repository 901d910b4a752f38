"""`os-services`: the compute hosts, and control's own parts under upstream's names.

https://docs.openstack.org/api-ref/compute/#compute-services-os-services
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET, Meta, UnsetType

from pileus.kernel.faults import Conflict, Invalid, NotFound
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Page
from pileus.kernel.world import stamp
from pileus.services.compute import checks, nodes
from pileus.services.compute.checks import Flag, Name
from pileus.services.compute.mirror import mirror
from pileus.services.compute.nodes import NODES, Node, Place
from pileus.services.compute.server import SERVERS
from pileus.services.placement.contract import PLACEMENT

_RULE = "os_compute_api:os-services:"
COMPUTE = "nova-compute"
OWN = {"nova-scheduler": 1, "nova-conductor": 2}  # what a control does, as upstream names it
Reason = Annotated[str, Meta(min_length=1, max_length=255)]


class PutService(Body):
    """By id, since 2.53."""

    status: Literal["enabled", "disabled"] | UnsetType = UNSET
    disabled_reason: Reason | UnsetType = UNSET
    forced_down: Flag | UnsetType = UNSET


class PutByHost(Body):
    """By host and binary, until 2.53."""

    host: Name
    binary: Name
    disabled_reason: Reason | UnsetType = UNSET
    forced_down: Flag | UnsetType = UNSET


def _stamp(text: str) -> str | None:
    return text.removesuffix("Z") or None


def _view(ctx: Context, p: Place) -> dict[str, Any]:
    seen = stamp(p.beat.seen_at) if p.beat is not None else p.node.updated_at
    found = {
        "binary": COMPUTE,
        "host": p.node.host,
        "id": p.node.service_id if ctx.version >= (2, 53) else p.node.number,
        "zone": p.zone,
        "status": p.status,
        "state": p.state,
        "updated_at": _stamp(seen),
        "disabled_reason": p.node.disabled_reason,
    }
    return found | ({"forced_down": p.node.forced_down} if ctx.version >= (2, 11) else {})


def _own(ctx: Context) -> list[dict[str, Any]]:
    """This control: if it answers, it is up."""
    found = []
    for binary, number in OWN.items():
        one = {
            "binary": binary,
            "host": ctx.runtime.name,
            "id": f"00000000-0000-4000-8000-{number:012x}" if ctx.version >= (2, 53) else number,
            "zone": nodes.INTERNAL_ZONE,
            "status": "enabled",
            "state": "up",
            "updated_at": _stamp(ctx.runtime.world.clock.now()),
            "disabled_reason": None,
        }
        found.append(one | ({"forced_down": False} if ctx.version >= (2, 11) else {}))
    return found


class ComputeServices(Resource[Node]):
    table = NODES
    id_param = "service_id"
    rules: ClassVar[Mapping[str, str]] = {
        _RULE + "list": "rule:context_is_admin",
        _RULE + "update": "rule:context_is_admin",
        _RULE + "delete": "rule:context_is_admin",
    }

    async def load(self, ctx: Context, id: str) -> Node:
        """By the service's UUID, or its number before 2.53."""
        if ctx.version >= (2, 53):
            if not checks.is_uuid(id):
                raise Invalid(f"Invalid uuid {id}")
            found = await NODES.one(ctx.runtime.store, service_id=id)
        else:
            number = int(id) if id.isdecimal() and len(id) < 10 else -1
            found = await NODES.one(ctx.runtime.store, number=number)
        if found is None:
            raise NotFound(f"Service {id} could not be found.")
        return found

    @operation("GET", "/os-services", _RULE + "list")
    async def index(self, ctx: Context) -> dict[str, Any]:
        checks.known_only(ctx, ("host", "binary"))
        host, binary = ctx.query.get("host"), ctx.query.get("binary")
        places = await nodes.places(ctx.runtime, [host] if host else None)
        found = _own(ctx) + [_view(ctx, p) for p in places]
        shown = [
            s
            for s in found
            if (not host or s["host"] == host) and (not binary or s["binary"] == binary)
        ]
        return {"services": shown}

    @operation("PUT", "/os-services/{service_id}", _RULE + "update", since="2.53")
    async def update(self, ctx: Context, node: Node, body: PutService) -> dict[str, Any]:
        if not body.given():
            raise Invalid("At least one of status, disabled_reason and forced_down is needed.")
        changes: dict[str, Any] = {}
        if body.status is not UNSET:
            changes |= {"disabled": body.status == "disabled", "disabled_reason": None}
        if body.disabled_reason is not UNSET:
            if body.status != "disabled":
                raise Invalid("Specifying disabled_reason requires that status is set to disabled.")
            changes["disabled_reason"] = body.disabled_reason
        if body.forced_down is not UNSET:
            changes["forced_down"] = checks.flag(body.forced_down, "forced_down")
        await change(ctx, node, **changes)
        return {"service": await self._shown(ctx, node.host)}

    @operation("PUT", "/os-services/{verb}", _RULE + "update", until="2.53")
    async def old_update(self, ctx: Context, verb: str, body: PutByHost) -> dict[str, Any]:
        changes = _old_changes(verb, body, ctx)
        node = await NODES.one(ctx.runtime.store, host=body.host)
        if node is None or body.binary != COMPUTE:
            raise NotFound(f"Could not find binary {body.binary} on host {body.host}.")
        await change(ctx, node, **changes)
        found: dict[str, Any] = {"host": body.host, "binary": body.binary}
        if verb == "force-down":
            found["forced_down"] = changes["forced_down"]
        else:
            found["status"] = "disabled" if changes["disabled"] else "enabled"
        if changes.get("disabled_reason"):
            found["disabled_reason"] = changes["disabled_reason"]
        return {"service": found}

    @operation("DELETE", "/os-services/{service_id}", _RULE + "delete", status=204)
    async def delete(self, ctx: Context, node: Node) -> None:
        """Forgets a host that is gone for good."""
        async with ctx.runtime.store.tx() as tx:
            if await SERVERS.count(tx, Page({"host": node.host})):
                raise Conflict(
                    f"Unable to delete compute service that is hosting instances: {node.host}. "
                    "Migrate or delete the instances first."
                )
        if ctx.runtime.contracts.has(PLACEMENT):
            await ctx.runtime.contracts.get(PLACEMENT).forget(node.host)
        async with ctx.runtime.store.tx() as tx:
            await NODES.delete(tx, node)

    async def _shown(self, ctx: Context, host: str) -> dict[str, Any]:
        return _view(ctx, await nodes.place(ctx.runtime, host))


async def change(ctx: Context, node: Node, **changes: Any) -> None:
    """Writes what an operator says of a host; placement hears of it where it is disabled or enabled."""
    async with ctx.runtime.store.tx() as tx:
        await NODES.change(tx, node, **changes)
    await mirror(ctx.runtime, node.host, disabled=changes.get("disabled"))


def _old_changes(verb: str, body: PutByHost, ctx: Context) -> dict[str, Any]:
    if verb == "enable":
        return {"disabled": False, "disabled_reason": None}
    if verb == "disable":
        return {"disabled": True, "disabled_reason": None}
    if verb == "disable-log-reason":
        if body.disabled_reason is UNSET:
            raise Invalid("Missing disabled reason field")
        return {"disabled": True, "disabled_reason": body.disabled_reason}
    if verb == "force-down" and ctx.version >= (2, 11):
        if body.forced_down is UNSET:
            raise Invalid("Missing forced_down field")
        return {"forced_down": checks.flag(body.forced_down, "forced_down")}
    raise NotFound("Unknown action")

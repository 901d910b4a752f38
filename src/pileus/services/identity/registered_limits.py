"""Registered limits: how much of a resource a project may have where nobody said otherwise.

https://docs.openstack.org/api-ref/identity/v3/#unified-limits
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import UNSET, Meta, UnsetType

from pileus.kernel.faults import Forbidden
from pileus.kernel.query import Filter
from pileus.kernel.resources import Answer, Context, operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Tx

from .unified_limits import (
    LIMITS,
    REGISTERED_LIMITS,
    Amount,
    Description,
    RegionId,
    RegisteredLimit,
    check_place,
)
from .wire import Id, Name, Noun, changed, linked, listing


class CreateRegisteredLimit(Body, kw_only=True, forbid_unknown_fields=True):
    service_id: Id
    region_id: RegionId | None = None
    resource_name: Name
    default_limit: Amount
    description: Description | None = None


class CreateRegisteredLimits(Body, kw_only=True):
    lax: ClassVar[bool] = False
    registered_limits: Annotated[list[CreateRegisteredLimit], Meta(min_length=1)]


class UpdateRegisteredLimit(Body, kw_only=True):
    root: ClassVar[str] = "registered_limit"
    lax: ClassVar[bool] = False
    service_id: Id | UnsetType = UNSET
    region_id: RegionId | UnsetType | None = UNSET
    resource_name: Name | UnsetType = UNSET
    default_limit: Amount | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET


def view(ctx: Context, r: RegisteredLimit) -> dict[str, Any]:
    shown = {
        "id": r.id,
        "service_id": r.service_id,
        "region_id": r.region_id or None,
        "resource_name": r.resource_name,
        "default_limit": r.default_limit,
        "description": r.description,
    }
    return linked(ctx, "registered_limits", shown)


class RegisteredLimits(Noun[RegisteredLimit]):
    """They outlive the service and the region they are for, as upstream."""

    table = REGISTERED_LIMITS
    id_param = "registered_limit_id"
    rules = {
        "identity:get_registered_limit": "",
        "identity:list_registered_limits": "",
        "identity:create_registered_limits": "rule:admin_required",
        "identity:update_registered_limit": "rule:admin_required",
        "identity:delete_registered_limit": "rule:admin_required",
    }
    scopes = {
        f"identity:{name}": ("system", "project")
        for name in (
            "create_registered_limits",
            "update_registered_limit",
            "delete_registered_limit",
        )
    }
    listing = listing({"service_id": Filter(), "region_id": Filter(), "resource_name": Filter()})

    @operation("GET", "/registered_limits", "identity:list_registered_limits")
    async def index(self, ctx: Context) -> dict[str, Any]:
        return await self.index_of(ctx, "registered_limits", view)

    @operation("POST", "/registered_limits", "identity:create_registered_limits")
    async def create(self, ctx: Context, body: CreateRegisteredLimits) -> Answer:
        made = []
        async with ctx.runtime.store.tx() as tx:
            for asked in body.registered_limits:
                limit = RegisteredLimit(
                    id=ctx.runtime.world.new_hex(),
                    service_id=asked.service_id,
                    region_id=asked.region_id or "",
                    resource_name=asked.resource_name,
                    default_limit=asked.default_limit,
                    description=asked.description,
                )
                await check_place(tx, "registered_limit", limit.service_id, limit.region_id)
                made.append(await REGISTERED_LIMITS.insert(tx, limit))
                await changed(tx, "registered_limit", limit.id, "created")
        return Answer({"registered_limits": [view(ctx, r) for r in made]}, status=201)

    @operation("GET", "/registered_limits/{registered_limit_id}", "identity:get_registered_limit")
    async def show(self, ctx: Context, limit: RegisteredLimit) -> dict[str, Any]:
        return {"registered_limit": view(ctx, limit)}

    @operation(
        "PATCH", "/registered_limits/{registered_limit_id}", "identity:update_registered_limit"
    )
    async def update(
        self, ctx: Context, limit: RegisteredLimit, body: UpdateRegisteredLimit
    ) -> dict[str, Any]:
        changes = body.given()
        if "region_id" in changes:
            changes["region_id"] = changes["region_id"] or ""
        async with ctx.runtime.store.tx() as tx:
            await _refuse_used(tx, limit)
            limit = await REGISTERED_LIMITS.change(tx, limit, **changes)
            await check_place(tx, "registered_limit", limit.service_id, limit.region_id)
            await changed(tx, "registered_limit", limit.id, "updated")
        return {"registered_limit": view(ctx, limit)}

    @operation(
        "DELETE", "/registered_limits/{registered_limit_id}", "identity:delete_registered_limit"
    )
    async def delete(self, ctx: Context, limit: RegisteredLimit) -> None:
        async with ctx.runtime.store.tx() as tx:
            await _refuse_used(tx, limit)
            await REGISTERED_LIMITS.delete(tx, limit)
            await changed(tx, "registered_limit", limit.id, "deleted")


async def _refuse_used(tx: Tx, limit: RegisteredLimit) -> None:
    """Raises Forbidden while a project or domain has a limit of it."""
    if await LIMITS.one(tx, registered_limit_id=limit.id):
        raise Forbidden(
            f"Unable to update or delete registered limit {limit.id} because there are project "
            "limits associated with it."
        )

"""Limits: what one project or domain may have of a resource, instead of the registered limit.

https://docs.openstack.org/api-ref/identity/v3/#unified-limits
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from msgspec import UNSET, Meta, UnsetType, structs

from pileus.kernel.faults import Forbidden, Invalid
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Tx

from .kept import ANY_SCOPE, Kept, stored
from .settings import of
from .tree import PROJECTS
from .unified_limits import (
    LIMITS,
    MODELS,
    Amount,
    Description,
    Limit,
    RegionId,
    check_model,
    check_place,
    registered,
)
from .wire import ADMIN_OR_SYSTEM_READER, Id, Name, dropping, listing


class CreateLimit(Body, kw_only=True, forbid_unknown_fields=True):
    service_id: Id
    region_id: RegionId | None = None
    resource_name: Name
    resource_limit: Amount
    project_id: Id | UnsetType | None = UNSET
    domain_id: Id | UnsetType | None = UNSET
    description: Description | None = None


class CreateLimits(Body, kw_only=True):
    lax: ClassVar[bool] = False
    limits: Annotated[list[CreateLimit], Meta(min_length=1)]


class UpdateLimit(Body, kw_only=True):
    root: ClassVar[str] = "limit"
    lax: ClassVar[bool] = False
    resource_limit: Amount | UnsetType = UNSET
    description: Description | UnsetType | None = UNSET


def _visible(ctx: Context) -> list[dict[str, Any]]:
    """What a list is narrowed to: a project's own, a domain's with those of its projects, or (none) nothing."""
    caller = ctx.caller
    if caller.system_scope or caller.is_admin or "service" in caller.roles:
        return []
    if caller.domain_id:
        return [{"within": caller.domain_id}]
    return [{"project_id": caller.project_id}] if caller.project_id else [{"id": ""}]


class Limits(Kept[Limit]):
    table = LIMITS
    path = "limits"
    id_param = "limit_id"
    creates = updates = UpdateLimit
    made_by, may_change_nothing = (), True
    hidden = ("registered_limit_id", "within")
    follows = {"project": dropping(LIMITS, "project_id"), "domain": dropping(LIMITS, "within")}
    rules = {
        "identity:get_limit_model": "",
        "identity:get_limit": (
            f"{ADMIN_OR_SYSTEM_READER} or (domain_id:%(target.limit.domain.id)s or "
            "domain_id:%(target.limit.project.domain_id)s) or "
            "(project_id:%(target.limit.project_id)s and not None:%(target.limit.project_id)s)"
        ),
        "identity:list_limits": "",
        "identity:create_limits": "rule:admin_required",
    }
    discloses = frozenset({"identity:update_limit", "identity:delete_limit"})
    scopes = {"identity:get_limit": ANY_SCOPE}
    listing = listing(
        {
            name: Filter()
            for name in ("service_id", "region_id", "resource_name", "project_id", "domain_id")
        }
    )

    def target(self, ctx: Context, record: Limit) -> Mapping[str, object]:
        if record.domain_id:
            return {"target.limit.domain.id": record.domain_id}
        return {
            "target.limit.project_id": record.project_id,
            "target.limit.project.domain_id": record.within,
        }

    @operation("GET", "/limits/model", "identity:get_limit_model")
    async def model(self, ctx: Context) -> dict[str, Any]:
        name = of(ctx.runtime).enforcement_model
        return {"model": {"name": name, "description": MODELS[name]}}

    async def index(self, ctx: Context, **fixed: Any) -> dict[str, Any]:
        return await super().index(ctx, scopes=_visible(ctx))

    @operation("POST", "/limits", "identity:create_limits", status=201)
    async def create_all(self, ctx: Context, body: CreateLimits) -> dict[str, Any]:
        async with ctx.runtime.store.tx() as tx:
            await tx.lock("identity.limits")
            wanted = [await _wanted(ctx, tx, asked) for asked in body.limits]
            await check_model(tx, of(ctx.runtime).enforcement_model, wanted)
            made = [await self.make(ctx, tx, limit) for limit in wanted]
        return {"limits": [self.view(ctx, limit) for limit in made]}

    async def check(self, ctx: Context, tx: Tx, new: Limit, old: Limit | None) -> None:
        if old is not None:
            await tx.lock("identity.limits")
            await check_model(tx, of(ctx.runtime).enforcement_model, [new])


async def _wanted(ctx: Context, tx: Tx, asked: CreateLimit) -> Limit:
    """The limit that a body asks for. Raises Invalid, Forbidden."""
    if (asked.project_id is UNSET) == (asked.domain_id is UNSET):
        raise Invalid("Invalid limit: it must have either a project_id or a domain_id, not both.")
    await check_place(tx, "limit", asked.service_id, asked.region_id or "")
    place = await PROJECTS.find(tx, str(asked.project_id or asked.domain_id))
    if place is None or (asked.domain_id and not place.is_domain):
        noun = "project" if asked.project_id else "domain"
        raise Invalid(f"Invalid limit: there is no {noun} {asked.project_id or asked.domain_id}.")
    where = {
        "project_id": "" if place.is_domain else place.id,
        "domain_id": place.id if place.is_domain else "",
        "within": place.domain_id or place.id,
    }
    fields = {**stored(Limit, asked.given()), **where}
    limit = Limit(id=ctx.runtime.world.new_hex(), registered_limit_id="", **fields)
    default = await registered(tx, limit)
    if default is None:
        raise Forbidden(
            "Unable to create a limit that has no corresponding registered limit: there is none "
            f"for {limit.resource_name} of service {limit.service_id} in region "
            f"{limit.region_id or None}."
        )
    return structs.replace(limit, registered_limit_id=default.id)

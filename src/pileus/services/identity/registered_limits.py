"""Registered limits: how much of a resource a project may have where nobody said otherwise.

https://docs.openstack.org/api-ref/identity/v3/#unified-limits
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta

from pileus.kernel.faults import Forbidden
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Tx

from .kept import Kept, changing, stored
from .unified_limits import (
    LIMITS,
    REGISTERED_LIMITS,
    Amount,
    Description,
    RegionId,
    RegisteredLimit,
    check_place,
)
from .wire import Id, Name, listing


class CreateRegisteredLimit(Body, kw_only=True, forbid_unknown_fields=True):
    root: ClassVar[str] = "registered_limit"
    lax: ClassVar[bool] = False
    service_id: Id
    region_id: RegionId | None = None
    resource_name: Name
    default_limit: Amount
    description: Description | None = None


class CreateRegisteredLimits(Body, kw_only=True):
    lax: ClassVar[bool] = False
    registered_limits: Annotated[list[CreateRegisteredLimit], Meta(min_length=1)]


class RegisteredLimits(Kept[RegisteredLimit]):
    """They outlive the service and the region they are for, as upstream."""

    table = REGISTERED_LIMITS
    path = "registered_limits"
    id_param = "registered_limit_id"
    creates, updates = CreateRegisteredLimit, changing(CreateRegisteredLimit)
    made_by, may_change_nothing = (), True
    rules = {
        "identity:get_registered_limit": "",
        "identity:list_registered_limits": "",
        "identity:create_registered_limits": "rule:admin_required",
    }
    listing = listing({"service_id": Filter(), "region_id": Filter(), "resource_name": Filter()})

    @operation("POST", "/registered_limits", "identity:create_registered_limits", status=201)
    async def create_all(self, ctx: Context, body: CreateRegisteredLimits) -> dict[str, Any]:
        made = []
        async with ctx.runtime.store.tx() as tx:
            for asked in body.registered_limits:
                fields = stored(RegisteredLimit, asked.given())
                limit = RegisteredLimit(id=ctx.runtime.world.new_hex(), **fields)
                made.append(await self.make(ctx, tx, limit))
        return {"registered_limits": [self.view(ctx, limit) for limit in made]}

    async def check(
        self, ctx: Context, tx: Tx, new: RegisteredLimit, old: RegisteredLimit | None
    ) -> None:
        if old is not None:
            await _refuse_used(tx, old)
        await check_place(tx, "registered_limit", new.service_id, new.region_id)

    async def remove(self, ctx: Context, tx: Tx, record: RegisteredLimit) -> None:
        await _refuse_used(tx, record)
        await super().remove(ctx, tx, record)


async def _refuse_used(tx: Tx, limit: RegisteredLimit) -> None:
    """Raises Forbidden while a project or domain has a limit of it."""
    if await LIMITS.one(tx, registered_limit_id=limit.id):
        raise Forbidden(
            f"Unable to update or delete registered limit {limit.id} because there are project "
            "limits associated with it."
        )

"""Regions: https://docs.openstack.org/api-ref/identity/v3/#regions"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import UNSET, Meta, UnsetType

from pileus.kernel import auth
from pileus.kernel.faults import Conflict, Forbidden, Invalid, NotFound
from pileus.kernel.query import Filter
from pileus.kernel.resources import Answer, Context, operation
from pileus.kernel.store import Tx

from .catalog import ENDPOINTS, REGIONS, REVISION, Region
from .wire import (
    Noun,
    NounBody,
    changed,
    changes_of,
    extras,
    linked,
    listing,
    removed,
    tidied,
)

RegionId = Annotated[str, Meta(max_length=255)]


class CreateRegion(NounBody, kw_only=True):
    root: ClassVar[str] = "region"
    id: RegionId | None = None
    description: str | None = None
    parent_region_id: RegionId | None = None


class UpdateRegion(NounBody, kw_only=True):
    root: ClassVar[str] = "region"
    id: RegionId | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    parent_region_id: RegionId | UnsetType | None = UNSET


def view(ctx: Context, r: Region) -> dict[str, Any]:
    shown = {
        **r.extra,
        "id": r.id,
        "description": r.description,
        "parent_region_id": r.parent_region_id or None,
    }
    return linked(ctx, "regions", shown)


async def make(tx: Tx, region: Region) -> Region:
    """Raises Conflict, NotFound for a parent that isn't there."""
    if await REGIONS.find(tx, region.id) is not None:
        raise Conflict(f"Conflict occurred attempting to store region - Duplicate ID, {region.id}.")
    await _check_parent(tx, region)
    region = await REGIONS.insert(tx, region)
    await changed(tx, "region", region.id, "created")
    return region


async def _check_parent(tx: Tx, region: Region) -> None:
    seen, at = {region.id}, region.parent_region_id
    while at:
        if at in seen:
            raise Invalid(f"Region {region.id} cannot stand below itself.")
        seen.add(at)
        above = await REGIONS.find(tx, at)
        if above is None:
            raise NotFound(f"Could not find region: {at}.")
        at = above.parent_region_id


class Regions(Noun[Region]):
    table = REGIONS
    id_param = "region_id"
    rules = {
        "identity:get_region": "",
        "identity:list_regions": "",
        "identity:create_region": "rule:admin_required",
        "identity:update_region": "rule:admin_required",
        "identity:delete_region": "rule:admin_required",
    }
    scopes = {
        f"identity:{verb}_region": ("system", "project") for verb in ("create", "update", "delete")
    }
    listing = listing({"parent_region_id": Filter()})

    @operation("GET", "/regions", "identity:list_regions")
    async def index(self, ctx: Context) -> dict[str, Any]:
        return await self.index_of(ctx, "regions", view)

    @operation("POST", "/regions", "identity:create_region", status=201)
    async def create(self, ctx: Context, body: CreateRegion) -> dict[str, Any]:
        return await self._create(ctx, body.id or ctx.runtime.world.new_hex(), body)

    @operation("PUT", "/regions/{region_id}", "identity:create_region")
    async def put(self, ctx: Context, region_id: str, body: CreateRegion) -> Answer:
        if body.id not in (None, region_id):
            raise Invalid(f"Conflicting region IDs specified: {region_id} and {body.id}.")
        return Answer(await self._create(ctx, region_id, body), status=201)

    async def _create(self, ctx: Context, id: str, body: CreateRegion) -> dict[str, Any]:
        region = Region(
            id=id,
            description=body.description or "",
            parent_region_id=body.parent_region_id or "",
            extra=extras(ctx, body),
        )
        async with ctx.runtime.store.tx() as tx:
            region = await make(tx, region)
        return {"region": view(ctx, region)}

    @operation("GET", "/regions/{region_id}", "identity:get_region")
    async def show(self, ctx: Context, region: Region) -> dict[str, Any]:
        return {"region": view(ctx, region)}

    @operation("PATCH", "/regions/{region_id}", "identity:update_region")
    async def update(self, ctx: Context, region: Region, body: UpdateRegion) -> dict[str, Any]:
        changes = tidied(changes_of(ctx, region, body), "description", "parent_region_id")
        changes.pop("id", None)
        async with ctx.runtime.store.tx() as tx:
            region = await REGIONS.change(tx, region, **changes)
            await _check_parent(tx, region)
            await changed(tx, "region", region.id, "updated")
        return {"region": view(ctx, region)}

    @operation("DELETE", "/regions/{region_id}", "identity:delete_region")
    async def delete(self, ctx: Context, region: Region) -> None:
        async with ctx.runtime.store.tx() as tx:
            below = await _below(tx, region)
            for one in below:
                if await ENDPOINTS.one(tx, region_id=one.id):
                    raise Forbidden(
                        f"Unable to delete region {region.id} because it or its child regions "
                        "have associated endpoints."
                    )
            for one in below:
                await removed(ctx, tx, "region", one.id)
                await REGIONS.delete(tx, one)
            await auth.revise(tx, REVISION)


async def _below(tx: Tx, region: Region) -> list[Region]:
    """The region and those under it."""
    found = [region]
    for one in found:
        found += await REGIONS.all(tx, parent_region_id=one.id)
    return found

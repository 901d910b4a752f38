"""Regions: https://docs.openstack.org/api-ref/identity/v3/#regions"""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from pileus.kernel.faults import Forbidden, Invalid
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context
from pileus.kernel.store import Tx

from .catalog import ENDPOINTS, REGIONS, REVISION, Region
from .kept import Kept, changing
from .wire import NounBody, listing

RegionId = Annotated[str, Meta(max_length=255)]


class CreateRegion(NounBody, kw_only=True):
    root: ClassVar[str] = "region"
    id: RegionId | None = None
    description: str | None = None
    parent_region_id: RegionId | None = None


class Regions(Kept[Region]):
    """With a region go those below it, unless an endpoint stands in one of them."""

    table = REGIONS
    path = "regions"
    id_param = "region_id"
    creates, updates = CreateRegion, changing(CreateRegion)
    made_by = ("POST", "PUT")
    longest_id = 255
    revises = REVISION
    rules = {"identity:get_region": "", "identity:list_regions": ""}
    listing = listing({"parent_region_id": Filter()})

    async def check(self, ctx: Context, tx: Tx, new: Region, old: Region | None) -> None:
        """Raises NotFound, Invalid: the regions above must be there, and not below."""
        seen, at = {new.id}, new.parent_region_id
        while at:
            if at in seen:
                raise Invalid(f"Region {new.id} cannot stand below itself.")
            seen.add(at)
            at = (await REGIONS.get(tx, at)).parent_region_id

    async def remove(self, ctx: Context, tx: Tx, record: Region) -> None:
        for below in await REGIONS.all(tx, parent_region_id=record.id):
            await self.remove(ctx, tx, below)
        if await ENDPOINTS.one(tx, region_id=record.id):
            raise Forbidden(
                f"Unable to delete region {record.id} because it or its child regions have "
                "associated endpoints."
            )
        await super().remove(ctx, tx, record)

"""Endpoints: https://docs.openstack.org/api-ref/identity/v3/#service-catalog-and-endpoints"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET, Meta

from pileus.kernel.faults import Invalid
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context
from pileus.kernel.store import Tx

from .catalog import ENDPOINTS, PLACE, PLACES, REGIONS, REVISION, SERVICES, Endpoint, Region, rooted
from .kept import Kept, changing
from .wire import Id, NounBody, listing

Text = Annotated[str, Meta(max_length=255)]
_URL = re.compile(r"[a-zA-Z0-9+.-]+:.+")
_LONGEST = 225


class CreateEndpoint(NounBody, kw_only=True):
    root: ClassVar[str] = "endpoint"
    lax: ClassVar[bool] = False
    service_id: Id
    interface: Literal["admin", "internal", "public"]
    url: str
    region: Text | None = None
    region_id: Text | None = None
    name: Text = ""
    enabled: bool = True


def checked_url(url: str) -> str:
    """Raises Invalid: a URL may ask for the caller's project and user, and for nothing else."""
    if not _URL.fullmatch(url) or len(url) > _LONGEST:
        raise Invalid(
            f"Invalid input for field 'url': {url[:80]!r} must be a URL of at most "
            f"{_LONGEST} characters."
        )
    unknown = {m[1] for m in PLACE.finditer(url)} - PLACES
    rest = PLACE.sub("", url)
    if unknown or "$(" in rest or "%(" in rest:
        raise Invalid(
            f"Could not create endpoint with URL {url[:80]!r}: only $(project_id)s, $(tenant_id)s "
            "and $(user_id)s may be substituted."
        )
    return url


class Endpoints(Kept[Endpoint]):
    table = ENDPOINTS
    path = "endpoints"
    id_param = "endpoint_id"
    creates, updates = CreateEndpoint, changing(CreateEndpoint)
    revises = REVISION
    goes_with = {"service": "service_id"}
    listing = listing({"interface": Filter(), "service_id": Filter(), "region_id": Filter()})

    @classmethod
    def view(cls, ctx: Context, record: Endpoint) -> dict[str, Any]:
        shown = super().view(ctx, record)
        shown |= {"url": rooted(record.url, ctx.root), "region": record.region_id or None}
        if not record.name:
            del shown["name"]
        return shown

    async def fields(
        self, ctx: Context, given: dict[str, Any], old: Endpoint | None
    ) -> dict[str, Any]:
        """Raises Invalid. A region may also be given by the old key `region`."""
        region = given.pop("region", UNSET)
        if region is not UNSET and not given.get("region_id"):
            given["region_id"] = region
        if old is not None and given.get("url") == rooted(old.url, ctx.root):
            del given["url"]  # this cloud's own, as it was shown
        elif "url" in given:
            checked_url(given["url"])
        return await super().fields(ctx, given, old)

    async def check(self, ctx: Context, tx: Tx, new: Endpoint, old: Endpoint | None) -> None:
        """Service and region must be there; a region given by the old key is made. Raises Invalid."""
        if await SERVICES.find(tx, new.service_id) is None:
            raise Invalid(f"Could not find service: {new.service_id}.")
        if not new.region_id or await REGIONS.find(tx, new.region_id) is not None:
            return
        if ctx.document["endpoint"].get("region_id"):
            raise Invalid(f"Could not find region: {new.region_id}.")
        await REGIONS.insert(tx, Region(id=new.region_id))

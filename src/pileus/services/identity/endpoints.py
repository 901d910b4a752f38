"""Endpoints: https://docs.openstack.org/api-ref/identity/v3/#service-catalog-and-endpoints"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET, Meta, UnsetType

from pileus.kernel import auth
from pileus.kernel.faults import Invalid
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Tx

from .catalog import (
    ENDPOINTS,
    PLACE,
    PLACES,
    REGIONS,
    REVISION,
    SERVICES,
    Endpoint,
    Region,
    rooted,
)
from .wire import (
    ADMIN_OR_SYSTEM_READER,
    Id,
    Noun,
    NounBody,
    changed,
    changes_of,
    extras,
    linked,
    listing,
    removed,
)

Interface = Literal["admin", "internal", "public"]
RegionName = Annotated[str, Meta(max_length=255)]
_URL = re.compile(r"[a-zA-Z0-9+.-]+:.+")
_LONGEST = 225


class CreateEndpoint(NounBody, kw_only=True):
    root: ClassVar[str] = "endpoint"
    lax: ClassVar[bool] = False
    service_id: Id
    interface: Interface
    url: str
    region: RegionName | None = None
    region_id: RegionName | None = None
    name: RegionName = ""
    enabled: bool = True


class UpdateEndpoint(NounBody, kw_only=True):
    root: ClassVar[str] = "endpoint"
    lax: ClassVar[bool] = False
    service_id: Id | UnsetType = UNSET
    interface: Interface | UnsetType = UNSET
    url: str | UnsetType = UNSET
    region: RegionName | UnsetType | None = UNSET
    region_id: RegionName | UnsetType | None = UNSET
    name: RegionName | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET


def view(ctx: Context, e: Endpoint) -> dict[str, Any]:
    shown = {
        **e.extra,
        "id": e.id,
        "service_id": e.service_id,
        "interface": e.interface,
        "url": rooted(e.url, ctx.root),
        "region": e.region_id or None,
        "region_id": e.region_id or None,
        "enabled": e.enabled,
    }
    if e.name:
        shown["name"] = e.name
    return linked(ctx, "endpoints", shown)


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


async def _remove(ctx: Context, tx: Tx, endpoint: Endpoint) -> None:
    await removed(ctx, tx, "endpoint", endpoint.id)
    await ENDPOINTS.delete(tx, endpoint)


async def _with_service(ctx: Context, tx: Tx, id: str) -> None:
    for endpoint in await ENDPOINTS.all(tx, service_id=id):
        await _remove(ctx, tx, endpoint)


class Endpoints(Noun[Endpoint]):
    table = ENDPOINTS
    id_param = "endpoint_id"
    follows = {"service": _with_service}
    rules = {
        "identity:get_endpoint": ADMIN_OR_SYSTEM_READER,
        "identity:list_endpoints": ADMIN_OR_SYSTEM_READER,
        "identity:create_endpoint": "rule:admin_required",
        "identity:update_endpoint": "rule:admin_required",
        "identity:delete_endpoint": "rule:admin_required",
    }
    scopes = {name: ("system", "project") for name in rules}
    listing = listing({"interface": Filter(), "service_id": Filter(), "region_id": Filter()})

    @operation("GET", "/endpoints", "identity:list_endpoints")
    async def index(self, ctx: Context) -> dict[str, Any]:
        return await self.index_of(ctx, "endpoints", view)

    @operation("POST", "/endpoints", "identity:create_endpoint", status=201)
    async def create(self, ctx: Context, body: CreateEndpoint) -> dict[str, Any]:
        given = body.given()
        region = given.pop("region"), given.pop("region_id")
        endpoint = Endpoint(
            id=ctx.runtime.world.new_hex(),
            region_id=region[1] or region[0] or "",
            extra=extras(ctx, body),
            **given | {"url": checked_url(body.url)},
        )
        async with ctx.runtime.store.tx() as tx:
            await _check(tx, endpoint, makes_region=not region[1])
            endpoint = await ENDPOINTS.insert(tx, endpoint)
            await auth.revise(tx, REVISION)
            await changed(tx, "endpoint", endpoint.id, "created")
        return {"endpoint": view(ctx, endpoint)}

    @operation("GET", "/endpoints/{endpoint_id}", "identity:get_endpoint")
    async def show(self, ctx: Context, endpoint: Endpoint) -> dict[str, Any]:
        return {"endpoint": view(ctx, endpoint)}

    @operation("PATCH", "/endpoints/{endpoint_id}", "identity:update_endpoint")
    async def update(
        self, ctx: Context, endpoint: Endpoint, body: UpdateEndpoint
    ) -> dict[str, Any]:
        changes = changes_of(ctx, endpoint, body)
        region, region_id = changes.pop("region", UNSET), changes.pop("region_id", UNSET)
        if region is not UNSET or region_id is not UNSET:
            changes["region_id"] = region_id or region or ""
        if "url" in changes and changes["url"] != rooted(endpoint.url, ctx.root):
            changes["url"] = checked_url(changes["url"])
        else:
            changes.pop("url", None)
        async with ctx.runtime.store.tx() as tx:
            endpoint = await ENDPOINTS.change(tx, endpoint, **changes)
            await _check(tx, endpoint, makes_region=not region_id)
            await auth.revise(tx, REVISION)
            await changed(tx, "endpoint", endpoint.id, "updated")
        return {"endpoint": view(ctx, endpoint)}

    @operation("DELETE", "/endpoints/{endpoint_id}", "identity:delete_endpoint")
    async def delete(self, ctx: Context, endpoint: Endpoint) -> None:
        async with ctx.runtime.store.tx() as tx:
            await _remove(ctx, tx, endpoint)
            await auth.revise(tx, REVISION)


async def _check(tx: Tx, endpoint: Endpoint, *, makes_region: bool) -> None:
    """The service and region must be there; a region given by the old key `region` is made. Raises Invalid."""
    if await SERVICES.find(tx, endpoint.service_id) is None:
        raise Invalid(f"Could not find service: {endpoint.service_id}.")
    if not endpoint.region_id or await REGIONS.find(tx, endpoint.region_id) is not None:
        return
    if not makes_region:
        raise Invalid(f"Could not find region: {endpoint.region_id}.")
    await REGIONS.insert(tx, Region(id=endpoint.region_id))

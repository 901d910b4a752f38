"""Volume types: what volumes ask of a back end. Their extra specs, access and encryption stand beside.

https://docs.openstack.org/api-ref/block-storage/v3/#volume-types-types
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Invalid, NotFound
from pileus.kernel.query import Filter, Listing
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Match, Page

from . import checks
from .checks import Flag, Text
from .volume import VOLUMES
from .volume_type import DEFAULT, DEFAULT_TYPES, VOLUME_TYPES, VolumeType, default_type

PATH = "/types/{volume_type_id}"
GET, _SPECS = "volume_extension:type_get", "volume_extension:access_types_extra_specs"
_ACCESS = "os-volume-type-access:is_public"
_QOS = "volume_extension:access_types_qos_specs_id"
# What everybody may know of what a type asks.
_VISIBLE = frozenset(
    (
        "RESKEY:availability_zones",
        "multiattach",
        "replication_enabled",
        "provisioning:min_vol_size",
        "provisioning:max_vol_size",
    )
)


class CreateType(Body):
    root: ClassVar[str] = "volume_type"
    name: str
    description: Text = UNSET
    extra_specs: dict[str, Any] | None = None
    is_public: Flag | UnsetType = msgspec.field(name=_ACCESS, default=UNSET)


class UpdateType(Body):
    root: ClassVar[str] = "volume_type"
    name: Text = UNSET
    description: Text = UNSET
    is_public: Flag | UnsetType | None = UNSET


class OfType(Resource[VolumeType]):
    """What all that is done to one volume type shares."""

    table = VOLUME_TYPES
    id_param = "volume_type_id"

    async def load(self, ctx: Context, id: str) -> VolumeType:
        """Of those that the caller may use; `default` is the one that his volumes have."""
        store = ctx.runtime.store
        if id == "default":
            return await default_type(store, ctx.caller.project_id)
        found = await VOLUME_TYPES.find(store, id)
        if found is None or not found.serves(ctx.caller.project_id, ctx.caller.is_admin):
            raise NotFound(f"Volume type {id} could not be found.")
        return found

    def target(self, ctx: Context, record: VolumeType) -> Mapping[str, object]:
        """Types belong to nobody: the caller's own project is asked about."""
        return ctx.own


class VolumeTypes(OfType):
    listing = Listing(
        filters={"name": Filter()},
        sorts={name: name for name in ("id", "name", "created_at", "is_public")},
        colon_sort=True,
    )

    @operation("GET", "/types", "volume_extension:type_get_all")
    async def index(self, ctx: Context) -> dict[str, Any]:
        page, each = self._page(ctx), checks.each(partial(view, ctx))
        return await checks.listed(ctx, VOLUME_TYPES, page, "volume_types", each, counts=(9, 9))

    def _page(self, ctx: Context) -> Page:
        """Administrators see all or, with `is_public`, those; others what they may use."""
        page = self.listing.parse(ctx.query)
        filters, scopes = dict(page.filters), tuple[Mapping[str, Any], ...]()
        asked = ctx.query.get("is_public") or ("true" if ctx.caller.is_admin else "none")
        if ctx.caller.is_admin:
            if asked.lower() != "none":
                filters["is_public"] = int(checks.flag(asked, "is_public"))
        else:
            mine = {"projects": Match("any", [ctx.caller.project_id])}
            scopes = ({"is_public": 1}, mine)
        if ctx.query.has("extra_specs") and ctx.version >= (3, 52):
            page_of = checks.page_of(ctx, self.listing, maps=("extra_specs",))
            filters["extra_specs"] = page_of.filters["extra_specs"]
        return Page(filters, page.sorts, page.limit, page.marker, scopes)

    @operation("POST", "/types", "volume_extension:type_create", status=200)
    async def create(self, ctx: Context, body: CreateType) -> dict[str, Any]:
        made = VolumeType(
            id=ctx.runtime.world.new_id(),
            name=_name(body.name),
            description=checks.name_of(body.description),
            is_public=body.is_public is UNSET or checks.flag(body.is_public, "is_public"),
            extra_specs=checks.metadata(body.extra_specs, "extra_specs"),
        )
        async with ctx.runtime.store.tx() as tx:
            made = await VOLUME_TYPES.insert(tx, made)
        return {"volume_type": _without(view(ctx, made), "qos_specs_id")}

    @operation("GET", PATH, GET)
    async def show(self, ctx: Context, kind: VolumeType) -> dict[str, Any]:
        return {"volume_type": view(ctx, kind)}

    @operation("PUT", PATH, "volume_extension:type_update", status=200)
    async def update(self, ctx: Context, kind: VolumeType, body: UpdateType) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if not body.given() or (body.given().keys() == {"name"} and body.name is None):
            raise Invalid("Specify volume type name, description, is_public or a combination.")
        if isinstance(body.name, str):
            changes["name"] = _name(body.name)
        if body.description is not UNSET:
            changes["description"] = checks.name_of(body.description)
        if body.is_public is not UNSET and body.is_public is not None:
            changes["is_public"] = checks.flag(body.is_public, "is_public")
        shown = view(ctx, await change(ctx, kind, **changes))
        return {"volume_type": _without(shown, "qos_specs_id", _ACCESS)}

    @operation("DELETE", PATH, "volume_extension:type_delete", status=202)
    async def delete(self, ctx: Context, kind: VolumeType) -> None:
        if kind.name == DEFAULT:
            raise Invalid(f"Volume type {kind.id} deletion is not allowed: it is the default type.")
        async with ctx.runtime.store.tx() as tx:
            if await VOLUMES.count(tx, Page({"volume_type_id": kind.id})):
                raise Invalid(
                    f"Volume Type {kind.id} deletion is not allowed with volumes present with the "
                    "type."
                )
            for own in await DEFAULT_TYPES.all(tx, volume_type_id=kind.id):
                await DEFAULT_TYPES.delete(tx, own)
            await VOLUME_TYPES.delete(tx, kind)


def _name(text: str) -> str:
    name = text.strip()
    if not 1 <= len(name) <= 255:
        raise checks.wrong("name", text, "A name has 1 to 255 characters")
    return name


def _without(shown: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {k: v for k, v in shown.items() if k not in keys}


def view(ctx: Context, t: VolumeType) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": t.id,
        "name": t.name,
        "is_public": t.is_public,
        "description": t.description,
        _ACCESS: t.is_public,
    }
    if ctx.allows(_SPECS):
        found["extra_specs"] = specs_for(ctx, t)
    if ctx.allows(_QOS):
        found["qos_specs_id"] = t.qos_specs_id
    return found


def specs_for(ctx: Context, t: VolumeType) -> dict[str, str]:
    """The extra specs that the caller may know of."""
    if ctx.allows("volume_extension:types_extra_specs:read_sensitive"):
        return t.extra_specs
    return {k: v for k, v in t.extra_specs.items() if k in _VISIBLE}


async def change(ctx: Context, kind: VolumeType, **changes: Any) -> VolumeType:
    async with ctx.runtime.store.tx() as tx:
        return await VOLUME_TYPES.change(tx, kind, **changes)


async def refuse_in_use(ctx: Context, kind: VolumeType, what: str) -> None:
    """Raises Invalid while volumes have the type."""
    if await VOLUMES.count(ctx.runtime.store, Page({"volume_type_id": kind.id})):
        raise Invalid(f"Volume Type is currently in use: {what} of {kind.name} cannot change now.")

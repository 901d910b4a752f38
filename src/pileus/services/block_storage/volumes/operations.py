"""Create, show, list, change and delete volumes, and their metadata."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from pileus.kernel.events import emit
from pileus.kernel.faults import Invalid
from pileus.kernel.query import Filter, Listing
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Page

from .. import attachment, checks, snapshot
from ..checks import Map, Text
from ..states import AVAILABLE, AWAITING_TRANSFER, FAILED
from ..volume import VOLUMES, Volume
from .creation import CreateVolume, asked
from .sagas import CREATE, DELETE
from .views import brief, details, made

PATH = "/volumes/{volume_id}"
_METADATA, _ITEM = PATH + "/metadata", PATH + "/metadata/{key}"
SHOW = "volume:get"
SORTS = ("id", "name", "size", "created_at", "updated_at", "project_id", "user_id")
_DELETABLE = FAILED | {AVAILABLE}
LISTING = Listing(
    filters={
        "name": Filter(),
        "status": Filter(),
        "size": Filter(kind=int),
        "availability_zone": Filter("zone"),
        "volume_type_id": Filter(),
        "migration_status": Filter(),
        "group_id": Filter(),
        "bootable": Filter("is_bootable", bool),
        "multiattach": Filter("is_multiattach", bool),
        "source_volid": Filter(),
        "snapshot_id": Filter(),
    },
    sorts={name: name for name in SORTS}
    | {
        "status": "status",
        "availability_zone": "zone",
        "bootable": "is_bootable",
        "host": "host",
        "volume_type_id": "volume_type_id",
        "display_name": "name",
    },
    colon_sort=True,
)


class UpdateVolume(Body):
    root: ClassVar[str] = "volume"
    name: Text = UNSET
    description: Text = UNSET
    display_name: Text = UNSET
    display_description: Text = UNSET
    metadata: Map | UnsetType | None = UNSET


class MetadataBody(Body):
    metadata: dict[str, Any]


class MetaBody(Body):
    meta: dict[str, Any]


class OfVolume(Resource[Volume]):
    """What all that is done to one volume shares."""

    table = VOLUMES
    id_param = "volume_id"
    see = SHOW


class Volumes(OfVolume):
    listing = LISTING
    sagas = (CREATE, DELETE)

    @operation("POST", "/volumes", "volume:create", status=202)
    async def create(self, ctx: Context, body: CreateVolume) -> dict[str, Any]:
        volume = await checks.begin(ctx, CREATE, await asked(ctx, body))
        return {"volume": await made(ctx, volume)}

    @operation("GET", "/volumes", "volume:get_all")
    async def index(self, ctx: Context) -> dict[str, Any]:
        return await self._listed(ctx, checks.each(partial(brief, ctx)))

    @operation("GET", "/volumes/detail", "volume:get_all")
    async def detail(self, ctx: Context) -> dict[str, Any]:
        return await self._listed(ctx, partial(details, ctx))

    async def _listed(self, ctx: Context, view: Any) -> dict[str, Any]:
        return await checks.listed(ctx, VOLUMES, _page(ctx), "volumes", view)

    @operation("GET", "/volumes/summary", "volume:get_all", since="3.12")
    async def summary(self, ctx: Context) -> dict[str, Any]:
        found = await VOLUMES.list(ctx.runtime.store, _page(ctx, limit=1_000_000))
        summary: dict[str, Any] = {
            "total_count": len(found),
            "total_size": sum(v.size for v in found),
        }
        if ctx.version >= (3, 36):
            keys = {(k, v) for one in found for k, v in one.metadata.items()}
            summary["metadata"] = {
                k: sorted(v for key, v in keys if key == k) for k in sorted({k for k, _ in keys})
            }
        return {"volume-summary": summary}

    @operation("GET", PATH, SHOW)
    async def show(self, ctx: Context, volume: Volume) -> dict[str, Any]:
        return {"volume": (await details(ctx, [volume]))[0]}

    @operation("PUT", PATH, "volume:update")
    async def update(self, ctx: Context, volume: Volume, body: UpdateVolume) -> dict[str, Any]:
        if not body.given():
            raise Invalid("At least one of name, description and metadata is needed.")
        changes = checks.changed(body, "name", "description")
        if body.metadata is not UNSET:
            changes["metadata"] = checks.metadata(body.metadata)
        return {"volume": await made(ctx, await change(ctx, volume, **changes))}

    @operation("DELETE", PATH, "volume:delete", status=202)
    async def delete(self, ctx: Context, volume: Volume) -> None:
        cascade = ctx.query.flag("cascade")
        force = ctx.version >= (3, 23) and ctx.query.flag("force")
        if force:
            ctx.require("volume:force_delete", self.target(ctx, volume))
        await remove(ctx, volume, cascade=cascade, force=force)

    # Metadata

    @operation("GET", _METADATA, "volume:get_volume_metadata")
    async def metadata(self, ctx: Context, volume: Volume) -> dict[str, Any]:
        return {"metadata": volume.metadata}

    @operation("POST", _METADATA, "volume:create_volume_metadata", status=200)
    async def add_metadata(
        self, ctx: Context, volume: Volume, body: MetadataBody
    ) -> dict[str, Any]:
        return await self._describe(ctx, volume, volume.metadata | checks.metadata(body.metadata))

    @operation("PUT", _METADATA, "volume:update_volume_metadata")
    async def replace_metadata(
        self, ctx: Context, volume: Volume, body: MetadataBody
    ) -> dict[str, Any]:
        return await self._describe(ctx, volume, checks.metadata(body.metadata))

    @operation("GET", _ITEM, "volume:get_volume_metadata")
    async def meta(self, ctx: Context, volume: Volume, key: str) -> dict[str, Any]:
        return {"meta": {key: checks.known_keys(volume.metadata, key, f"Volume {volume.id}")}}

    @operation("PUT", _ITEM, "volume:update_volume_metadata")
    async def set_meta(
        self, ctx: Context, volume: Volume, key: str, body: MetaBody
    ) -> dict[str, Any]:
        if list(body.meta) != [key]:
            raise Invalid("Request body and URI mismatch")
        await self._describe(ctx, volume, volume.metadata | checks.metadata(body.meta))
        return {"meta": body.meta}

    @operation("DELETE", _ITEM, "volume:delete_volume_metadata", status=200)
    async def delete_meta(self, ctx: Context, volume: Volume, key: str) -> None:
        checks.known_keys(volume.metadata, key, f"Volume {volume.id}")
        left = {k: v for k, v in volume.metadata.items() if k != key}
        await self._describe(ctx, volume, left)

    async def _describe(
        self, ctx: Context, volume: Volume, metadata: dict[str, str]
    ) -> dict[str, Any]:
        return {"metadata": (await change(ctx, volume, metadata=metadata)).metadata}


def _page(ctx: Context, limit: int = 0) -> Page:
    maps = ("metadata", "glance_metadata") if ctx.version >= (3, 4) else ("metadata",)
    page = checks.page_of(ctx, LISTING, maps=maps)
    filters = dict(page.filters)
    if "glance_metadata" in filters:
        filters["image_metadata"] = filters.pop("glance_metadata")
    return Page(filters, page.sorts, limit or page.limit, page.marker)


async def change(ctx: Context, volume: Volume, **changes: Any) -> Volume:
    """One transaction, and the event that tells of it."""
    async with ctx.runtime.store.tx() as tx:
        volume = await VOLUMES.change(tx, volume, **changes)
        await emit(tx, "volume.update.end", volume.project_id, id=volume.id)
    return volume


async def remove(ctx: Context, volume: Volume, *, cascade: bool, force: bool = False) -> None:
    """Begins the delete. Raises Invalid for what is attached, grouped, or has snapshots that stay."""
    store = ctx.runtime.store
    if not force and volume.shown not in _DELETABLE:
        states = ", ".join(sorted(_DELETABLE))
        raise checks.unfit(
            "volume",
            f"Volume {volume.id} status must be one of {states} and must not be migrating, attached, "
            "belong to a group, have snapshots, awaiting a transfer, or be disassociated from "
            f"snapshots after volume transfer; it is {volume.shown}.",
        )
    if await attachment.of_volume(store, volume.id):
        raise checks.unfit("volume", f"Volume {volume.id} is still attached, detach it first.")
    if volume.group_id:
        raise checks.unfit("volume", f"Volume {volume.id} belongs to group {volume.group_id}.")
    if volume.status == AWAITING_TRANSFER and not force:
        raise checks.unfit("volume", f"Volume {volume.id} is awaiting a transfer.")
    if not cascade and await snapshot.count_of(store, volume.id):
        raise checks.unfit(
            "volume",
            f"Volume {volume.id} still has dependent snapshots; delete them or ask for cascade.",
        )
    await checks.begin(ctx, DELETE, volume)

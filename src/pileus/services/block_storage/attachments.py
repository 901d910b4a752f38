"""Attachments: how servers get at volumes, since 3.27.

https://docs.openstack.org/api-ref/block-storage/v3/#attachments-attachments
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Conflict, Invalid, NotFound
from pileus.kernel.query import Filter, Listing
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import Body, since

from . import attaching, checks
from .attachment import ATTACHED, ATTACHING, ATTACHMENTS, Attachment, connection_info
from .volume import VOLUMES

_ONE = "/attachments/{attachment_id}"
_SINCE = "3.27"


class CreateAttachment(Body):
    root: ClassVar[str] = "attachment"
    volume_uuid: str
    instance_uuid: str | UnsetType | None = UNSET
    connector: dict[str, Any] | UnsetType | None = UNSET
    mode: Annotated[Literal["rw", "ro"] | UnsetType, since("3.54")] = UNSET


class UpdateAttachment(Body):
    root: ClassVar[str] = "attachment"
    connector: dict[str, Any]


def _brief(a: Attachment) -> dict[str, Any]:
    return {
        "id": a.id,
        "status": a.status,
        "instance": a.server_id or None,
        "volume_id": a.volume_id,
    }


async def _view(ctx: Context, a: Attachment) -> dict[str, Any]:
    volume = await VOLUMES.get(ctx.runtime.store, a.volume_id)
    export = await attaching.opened(ctx.runtime, a)
    return _brief(a) | {
        "attached_at": checks.moment(a.attached_at) or "",
        "detached_at": "",
        "attach_mode": a.mode,
        "connection_info": connection_info(a.volume_id, export, bool(volume.sealed))
        if export
        else {},
    }


class Attachments(Resource[Attachment]):
    table = ATTACHMENTS
    id_param = "attachment_id"
    see = "volume:get"
    listing = Listing(
        filters={
            "volume_id": Filter(),
            "instance_id": Filter("server_id"),
            "status": Filter(),
            "attach_status": Filter("status"),
        },
        sorts={"id": "id", "created_at": "created_at", "status": "status"},
        colon_sort=True,
    )

    @operation("POST", "/attachments", "volume:attachment_create", since=_SINCE, status=200)
    async def create(self, ctx: Context, body: CreateAttachment) -> dict[str, Any]:
        """Reserves the volume and, given a connector, connects it."""
        volume = await VOLUMES.find(
            ctx.runtime.store, checks.uuid_of(body.volume_uuid, "volume_uuid")
        )
        if volume is None or not ctx.allows("volume:get", {"project_id": volume.project_id}):
            raise NotFound(f"Volume {body.volume_uuid} could not be found.")
        ctx.require("volume:attachment_create", {"project_id": volume.project_id})
        mode = body.mode if body.mode is not UNSET else "null"
        wanted = Attachment(
            id=ctx.runtime.world.new_id(),
            volume_id=volume.id,
            project_id=volume.project_id,
            server_id=body.instance_uuid or "",
            mode="ro" if volume.is_read_only else mode,
            connector=body.connector or {},
        )
        async with ctx.runtime.store.tx() as tx:
            made = await attaching.reserve(tx, volume.id, wanted)
        if body.connector:
            made = await self._connected(ctx, made, body.connector)
        return {"attachment": await _view(ctx, made)}

    async def _connected(
        self, ctx: Context, one: Attachment, connector: dict[str, Any]
    ) -> Attachment:
        """Before 3.44 nobody says that it is complete: it is attached at once."""
        status = ATTACHING if ctx.version >= (3, 44) else ATTACHED
        return await attaching.connect(ctx.runtime, one, connector, status)

    @operation("GET", "/attachments", "volume:get_all", since=_SINCE)
    async def index(self, ctx: Context) -> dict[str, Any]:
        return await self._listed(ctx, _brief)

    @operation("GET", "/attachments/detail", "volume:get_all", since=_SINCE)
    async def detail(self, ctx: Context) -> dict[str, Any]:
        return await self._listed(ctx, partial(_view, ctx))

    async def _listed(self, ctx: Context, view: Any) -> dict[str, Any]:
        page = checks.page_of(ctx, self.listing)
        return await checks.listed(ctx, ATTACHMENTS, page, "attachments", checks.each(view))

    @operation("GET", _ONE, "volume:get", since=_SINCE)
    async def show(self, ctx: Context, attachment: Attachment) -> dict[str, Any]:
        return {"attachment": await _view(ctx, attachment)}

    @operation("PUT", _ONE, "volume:attachment_update", since=_SINCE)
    async def update(
        self, ctx: Context, attachment: Attachment, body: UpdateAttachment
    ) -> dict[str, Any]:
        if not body.connector:
            raise Invalid("The connector must say something of the host; it is empty.")
        volume = await VOLUMES.get(ctx.runtime.store, attachment.volume_id)
        if "error" in volume.shown:
            raise Conflict(
                "Volume attachments can not be updated if the volume is in an error state. The "
                f"Volume {volume.id} currently has a status of: {volume.shown}"
            )
        made = await self._connected(ctx, attachment, body.connector)
        return {"attachment": await _view(ctx, made)}

    @operation("DELETE", _ONE, "volume:attachment_delete", since=_SINCE, status=200)
    async def delete(self, ctx: Context, attachment: Attachment) -> dict[str, Any]:
        """What a server uses is the compute service's to end (OSSA-2023-003)."""
        refuse_used(ctx, attachment)
        left = await attaching.detach(ctx.runtime, attachment.id)
        return {"attachments": [_brief(a) for a in left]}

    @operation(
        "POST",
        _ONE + "/action",
        "volume:attachment_complete",
        action="os-complete",
        since="3.44",
        status=204,
    )
    async def complete(self, ctx: Context, attachment: Attachment) -> None:
        await attaching.complete(ctx.runtime, attachment.id)


def refuse_used(ctx: Context, one: Attachment) -> None:
    """Raises Conflict for an attachment that a server uses, unless a service asks."""
    if one.is_used and "service" not in ctx.caller.service_roles | ctx.caller.roles:
        raise Conflict(f"Detach volume from instance {one.server_id} using the Compute API")

"""What is done to a volume with `POST /volumes/{id}/action`, but for attaching and moving it.

https://docs.openstack.org/api-ref/block-storage/v3/#volume-actions-volumes-action
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET, Meta, UnsetType

from pileus.kernel.faults import Conflict, Fault, Invalid
from pileus.kernel.resources import Context, operation
from pileus.kernel.sagas import Changes, Run, Saga, Step
from pileus.kernel.schema import Body, since
from pileus.kernel.store import Page
from pileus.services.image.contract import IMAGES, NewImage

from .. import attachment, checks, messages, pools, states, volume_type
from ..agent_contract import VOLUME_HOST
from ..checks import Flag, Text
from ..scheduling import Pool
from ..snapshot import SNAPSHOTS
from ..states import VOLUME
from ..volume import VOLUMES, Volume, backend_of
from ..volume_type import VOLUME_TYPES, type_named
from . import moving
from .creation import check_image_fits, check_size, image_metadata, image_named
from .operations import OfVolume, change, remove
from .sagas import EXTEND, REIMAGE, RETYPE, REVERT, becoming, chosen

ACTION = moving.ACTION
_ADMIN = "volume_extension:volume_admin_actions:"
_IMAGE = "volume_extension:volume_image_metadata:"
_COPY_S = 3600
_NOT_REMOVED = frozenset(("image_id", "image_name"))


class Extend(Body):
    root: ClassVar[str] = "os-extend"
    new_size: int | str


class ResetStatus(Body):
    root: ClassVar[str] = "os-reset_status"
    status: Text = UNSET
    attach_status: Text = UNSET
    migration_status: Text = UNSET


class SetBootable(Body):
    root: ClassVar[str] = "os-set_bootable"
    bootable: Flag


class SetReadOnly(Body):
    root: ClassVar[str] = "os-update_readonly_flag"
    readonly: Flag


class SetImageMetadata(Body):
    root: ClassVar[str] = "os-set_image_metadata"
    metadata: dict[str, Any]


class UnsetImageMetadata(Body):
    root: ClassVar[str] = "os-unset_image_metadata"
    key: Annotated[str, Meta(min_length=1, max_length=255)]


class Retype(Body):
    root: ClassVar[str] = "os-retype"
    new_type: str
    migration_policy: Literal["on-demand", "never"] | None = None


class Revert(Body):
    root: ClassVar[str] = "revert"
    snapshot_id: str | None = None


class Reimage(Body):
    root: ClassVar[str] = "os-reimage"
    image_id: str
    reimage_reserved: Flag = False


class Upload(Body):
    root: ClassVar[str] = "os-volume_upload_image"
    image_name: Annotated[str, Meta(min_length=1, max_length=255)]
    force: Flag = False
    disk_format: Literal["raw", "vmdk", "vdi", "qcow2", "vhd", "vhdx", "ploop"] = "raw"
    container_format: str = "bare"
    visibility: Annotated[
        Literal["community", "public", "private", "shared"] | UnsetType, since("3.1")
    ] = UNSET
    protected: Annotated[Flag | UnsetType, since("3.1")] = UNSET


# The saga that none but these use


async def reserve(run: Run[Volume]) -> None:
    """Again, so that there is no image without somebody who fills it."""
    await run.peer(IMAGES).reserve(run.caller, _new_image(run.record, run.becoming))


async def send(run: Run[Volume]) -> Changes:
    """Its host sends it to the image that waits for it."""
    wanted, volume = run.becoming, run.record
    kind = (wanted.image_metadata or {})["disk_format"]
    path = await run.peer(IMAGES).awaits(wanted.image_id, kind)
    if path:
        host = await run.agent(VOLUME_HOST, on=volume.host)
        await host.send(backend_of(volume), "", kind, path)
    return {}


async def discard(run: Run[Volume]) -> None:
    await run.peer(IMAGES).discard(run.becoming.image_id)
    await messages.tell(run, "VOLUME", "upload")


UPLOAD = Saga(
    "volume.upload",
    VOLUMES,
    VOLUME,
    "upload",
    Step(reserve, discard),
    Step(send, timeout_s=_COPY_S, patience_s=600),  # what broke off late is under way for a while
)


class VolumeActions(OfVolume):
    sagas = (EXTEND, RETYPE, REVERT, REIMAGE, UPLOAD)

    @operation("POST", ACTION, "volume:extend", action="os-extend", status=202)
    async def extend(self, ctx: Context, volume: Volume, body: Extend) -> None:
        size = checks.size_of(body.new_size, "new_size")
        if volume.shown == states.IN_USE and ctx.version < (3, 42):
            raise checks.unfit(
                "volume",
                f"Volume {volume.id} status must be 'available' to extend, currently in-use.",
            )
        if volume.shown == states.IN_USE:
            ctx.require("volume:extend_attached_volume", self.target(ctx, volume))
        if size <= volume.size:
            raise Invalid(
                "Invalid input received: New size for extend must be greater than current size. "
                f"(current: {volume.size}, extended: {size})."
            )
        kind = await VOLUME_TYPES.find(ctx.runtime.store, volume.volume_type_id)
        await check_size(ctx, size, kind)
        await checks.begin(ctx, EXTEND, volume, becoming=becoming(volume, size=size))

    @operation("POST", ACTION, _ADMIN + "reset_status", action="os-reset_status", status=202)
    async def reset_status(self, ctx: Context, volume: Volume, body: ResetStatus) -> None:
        if not body.given():
            raise Invalid("At least one of status, attach_status and migration_status is needed.")
        changes: dict[str, Any] = {}
        if body.status is not UNSET:
            if body.status not in states.RESET:
                raise Invalid(f"{body.status} is not one of {', '.join(sorted(states.RESET))}.")
            changes["status"] = body.status
        if body.migration_status is not UNSET:
            changes["migration_status"] = (
                None if body.migration_status in (None, "none") else body.migration_status
            )
        if body.attach_status == "detached":
            await _forget_attachments(ctx, volume)
        await change(ctx, await VOLUMES.get(ctx.runtime.store, volume.id), **changes)

    @operation("POST", ACTION, _ADMIN + "force_delete", action="os-force_delete", status=202)
    async def force_delete(self, ctx: Context, volume: Volume) -> None:
        if volume.group_id or await attachment.of_volume(ctx.runtime.store, volume.id):
            raise checks.unfit("volume", f"{volume.id} is attached or belongs to a group.")
        await remove(ctx, volume, cascade=False, force=True)

    @operation("POST", ACTION, "volume:update", action="os-set_bootable", status=200)
    async def set_bootable(self, ctx: Context, volume: Volume, body: SetBootable) -> None:
        await change(ctx, volume, is_bootable=checks.flag(body.bootable, "bootable"))

    @operation(
        "POST", ACTION, "volume:update_readonly_flag", action="os-update_readonly_flag", status=202
    )
    async def set_read_only(self, ctx: Context, volume: Volume, body: SetReadOnly) -> None:
        if volume.shown != states.AVAILABLE:
            raise checks.unfit(
                "volume",
                f"Volume {volume.id} status must be available to update readonly flag, but current "
                f"status is: {volume.shown}.",
            )
        await change(ctx, volume, is_read_only=checks.flag(body.readonly, "readonly"))

    # What its image said of guests

    @operation("POST", ACTION, _IMAGE + "show", action="os-show_image_metadata", status=200)
    async def image_metadata(self, ctx: Context, volume: Volume) -> dict[str, Any]:
        return {"metadata": volume.image_metadata or {}}

    @operation("POST", ACTION, _IMAGE + "set", action="os-set_image_metadata", status=200)
    async def set_image_metadata(
        self, ctx: Context, volume: Volume, body: SetImageMetadata
    ) -> dict[str, Any]:
        wanted = (volume.image_metadata or {}) | checks.metadata(body.metadata)
        return {"metadata": (await change(ctx, volume, image_metadata=wanted)).image_metadata}

    @operation("POST", ACTION, _IMAGE + "remove", action="os-unset_image_metadata", status=200)
    async def unset_image_metadata(
        self, ctx: Context, volume: Volume, body: UnsetImageMetadata
    ) -> None:
        known = volume.image_metadata or {}
        checks.known_keys(known, body.key, f"The image of volume {volume.id}")
        left = {k: v for k, v in known.items() if k != body.key}
        await change(ctx, volume, image_metadata=left)

    # Long work

    @operation("POST", ACTION, "volume:retype", action="os-retype", status=202)
    async def retype(self, ctx: Context, volume: Volume, body: Retype) -> None:
        kind = await type_named(ctx, body.new_type)
        if kind.id == volume.volume_type_id:
            raise Invalid(
                f"Invalid input received: New volume_type same as original: {body.new_type}."
            )
        if volume.shown not in (states.AVAILABLE, states.IN_USE):
            raise checks.unfit(
                "volume", f"Volume {volume.id} status must be available or in-use to retype."
            )
        before = await VOLUME_TYPES.get(ctx.runtime.store, volume.volume_type_id)
        multiattach = kind.wants("multiattach")
        if volume.shown == states.IN_USE and multiattach != volume.is_multiattach:
            raise Invalid(
                "Invalid input received: Changing volume type to/from multiattach requires a volume "
                "that is not attached."
            )
        if before.encryption != kind.encryption:
            raise Invalid("Invalid input received: Encryption cannot change with the type.")
        asked = becoming(volume, volume_type_id=kind.id, is_multiattach=multiattach)
        here = await pools.place_of(ctx.runtime, volume)
        pool = await _fitting(ctx, asked, here)
        if pool.is_at(here):
            await checks.begin(ctx, RETYPE, volume, becoming=asked)
        elif body.migration_policy != "on-demand":
            raise Invalid(
                f"Volume {volume.id} would have to move to {pool.place} for type {kind.name}: ask "
                "for migration_policy on-demand."
            )
        else:
            of_type = {"volume_type_id": kind.id, "is_multiattach": multiattach}
            await moving.migration(ctx, volume, pool, states.RETYPING, **of_type)

    @operation(
        "POST", ACTION, "volume:revert_to_snapshot", action="revert", status=202, since="3.40"
    )
    async def revert(self, ctx: Context, volume: Volume, body: Revert) -> None:
        newest = await SNAPSHOTS.list(ctx.runtime.store, Page({"volume_id": volume.id}, limit=1))
        if not newest:
            raise Invalid(f"Volume {volume.id} doesn't have any snapshots.")
        if newest[0].id != body.snapshot_id:
            raise Invalid(
                f"Specified snapshot {body.snapshot_id} is None or not the latest one of volume "
                f"{volume.id}."
            )
        if newest[0].size != volume.size:
            raise Invalid(
                f"Can't revert volume {volume.id} to its latest snapshot {newest[0].id}. The volume "
                "size must be equal to the snapshot size."
            )
        if newest[0].status != states.AVAILABLE or volume.shown != states.AVAILABLE:
            raise Conflict(
                f"Invalid volume: Volume {volume.id} and its snapshot must be available to revert."
            )
        wanted = becoming(volume, snapshot_id=newest[0].id)
        await checks.begin(ctx, REVERT, volume, becoming=wanted)

    @operation("POST", ACTION, "volume:reimage", action="os-reimage", status=202, since="3.68")
    async def reimage(self, ctx: Context, volume: Volume, body: Reimage) -> None:
        allowed = {states.AVAILABLE, states.ERROR}
        if checks.flag(body.reimage_reserved, "reimage_reserved"):
            allowed.add(states.RESERVED)
        if volume.shown not in allowed:
            raise checks.unfit(
                "volume",
                f"Volume {volume.id} status must be {' or '.join(sorted(allowed))}, but current "
                f"status is {volume.shown}.",
            )
        if await SNAPSHOTS.count(ctx.runtime.store, Page({"volume_id": volume.id})):
            raise checks.unfit("volume", f"Volume {volume.id} has snapshots; delete them first.")
        image = await image_named(ctx, body.image_id)
        check_image_fits(image, volume.size)
        wanted = becoming(volume, image_id=image.id, image_metadata=image_metadata(image))
        await checks.begin(ctx, REIMAGE, volume, becoming=wanted)

    @operation(
        "POST",
        ACTION,
        "volume_extension:volume_actions:upload_image",
        action="os-volume_upload_image",
        status=202,
    )
    async def upload(self, ctx: Context, volume: Volume, body: Upload) -> dict[str, Any]:
        force = checks.flag(body.force, "force")
        allowed = {states.AVAILABLE} | ({states.IN_USE} if force else set())
        if volume.shown not in allowed:
            raise checks.unfit(
                "volume",
                f"Volume {volume.id} status must be {' or '.join(sorted(allowed))}, but current "
                f"status is {volume.shown}.",
            )
        if body.visibility == "public":
            ctx.require("volume_extension:volume_actions:upload_public")
        if volume.sealed:
            raise Invalid(
                f"Volume {volume.id} is encrypted, and nobody could open an image of it: make a "
                "backup instead."
            )
        id, note = ctx.runtime.world.new_id(), {"disk_format": body.disk_format}
        wanted = becoming(volume, image_id=id, image_metadata=note, name=body.image_name)
        volume = await checks.begin(ctx, UPLOAD, volume, becoming=wanted)
        await ctx.peer(IMAGES).reserve(ctx.caller, _new_image(volume, wanted))  # there at once
        return {"os-volume_upload_image": await _uploading(ctx, volume, body, id)}


def _new_image(volume: Volume, wanted: Volume) -> NewImage:
    """It says of guests what the volume's own did."""
    own = ("image_id", "image_name", "disk_format", "container_format", "min_disk", "min_ram")
    known = volume.image_metadata or {}
    given = {k: v for k, v in known.items() if k not in (*own, "size", "checksum")}
    return NewImage(id=wanted.image_id, name=wanted.name or "", properties=given)


async def _uploading(ctx: Context, volume: Volume, body: Upload, image_id: str) -> dict[str, Any]:
    kind = await VOLUME_TYPES.find(ctx.runtime.store, volume.volume_type_id)
    found: dict[str, Any] = {
        "id": volume.id,
        "updated_at": checks.moment(volume.updated_at),
        "status": "uploading",
        "display_description": volume.description,
        "size": volume.size,
        "volume_type": _shown_type(kind),
        "image_id": image_id,
        "container_format": body.container_format,
        "disk_format": body.disk_format,
        "image_name": body.image_name,
    }
    if ctx.version >= (3, 1):
        found["visibility"] = body.visibility if body.visibility is not UNSET else "private"
        protected = body.protected if body.protected is not UNSET else False
        found["protected"] = checks.flag(protected, "protected")
    return found


def _shown_type(kind: volume_type.VolumeType | None) -> dict[str, Any] | None:
    if kind is None:
        return None
    return {
        "id": kind.id,
        "name": kind.name,
        "description": kind.description,
        "is_public": kind.is_public,
        "qos_specs_id": kind.qos_specs_id,
        "extra_specs": kind.extra_specs,
    }


async def _fitting(ctx: Context, asked: Volume, here: str) -> Pool:
    """The pool that it is in if that will do, else another."""
    try:
        return await chosen(ctx.runtime, asked, here)
    except Fault:
        return await chosen(ctx.runtime, asked, never=here)


async def _forget_attachments(ctx: Context, volume: Volume) -> None:
    """An administrator says that nothing is attached."""
    async with ctx.runtime.store.tx() as tx:
        for one in await attachment.of_volume(tx, volume.id):
            await attachment.ATTACHMENTS.delete(tx, one)

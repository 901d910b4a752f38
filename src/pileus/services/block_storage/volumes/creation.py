"""What a create asks for, checked and made a record."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Conflict, Forbidden, Invalid, NotFound, OverQuota
from pileus.kernel.quota import limit_of
from pileus.kernel.resources import Context
from pileus.kernel.runtime import Runtime
from pileus.kernel.schema import IGNORE, Body, Extra, since
from pileus.services.identity.contract import SECRETS
from pileus.services.image.contract import IMAGES, ImageInfo, ImageQuery

from .. import checks, group, pools
from ..backup import BACKUPS, Backup
from ..checks import Flag, Text
from ..snapshot import SNAPSHOTS, Snapshot
from ..states import AVAILABLE, IN_USE
from ..volume import PER_VOLUME, SERVICE, VOLUMES, Volume
from ..volume_type import VolumeType, default_type, type_named
from .sagas import check_image

_GIB = 1 << 30
Id = str | None | UnsetType


class CreateVolume(Body):
    root: ClassVar[str] = "volume"
    beside: ClassVar[tuple[str, ...]] = ("OS-SCH-HNT:scheduler_hints",)
    unknown: ClassVar[Extra] = IGNORE  # refused from 3.53 on, see `refuse_unknown`
    name: Text = UNSET
    description: Text = UNSET
    display_name: Text = UNSET
    display_description: Text = UNSET
    size: int | str | None = None
    volume_type: Text = UNSET
    availability_zone: Text = UNSET
    metadata: dict[str, Any] | None = None
    snapshot_id: Id = UNSET
    source_volid: Id = UNSET
    imageRef: Text = UNSET
    image_id: Text = UNSET
    consistencygroup_id: Id = UNSET
    multiattach: Flag | None = None
    group_id: Annotated[Id, since("3.13")] = UNSET
    backup_id: Annotated[Id, since("3.47")] = UNSET


class Origin(msgspec.Struct, frozen=True):
    """What a new volume is a copy of; at most one of them, and `of` is the volume of its snapshot."""

    snapshot: Snapshot | None = None
    of: Volume | None = None
    volume: Volume | None = None
    image: ImageInfo | None = None
    backup: Backup | None = None


def refuse_unknown(ctx: Context) -> None:
    """Raises Invalid for keys that the schema of 3.53 does not have."""
    if ctx.version < (3, 53):
        return
    known = {f.encode_name for f in msgspec.structs.fields(CreateVolume)}
    unknown = sorted(set(ctx.document["volume"]) - known - {"OS-SCH-HNT:scheduler_hints"})
    if unknown:
        raise Invalid(
            "Invalid input for field/attribute volume. Additional properties are not allowed "
            f"({', '.join(map(repr, unknown))} was unexpected)"
        )


async def asked(ctx: Context, body: CreateVolume) -> Volume:
    """The record that the body asks for. Raises Invalid, NotFound, Forbidden."""
    refuse_unknown(ctx)
    origin = await _origin(ctx, body)
    kind = await _type(ctx, body, origin)
    size = await _size(ctx, body, origin)
    await check_size(ctx, size, kind)
    if not ctx.caller.project_id:
        raise Invalid("A volume belongs to a project, and your token is not of any.")
    if body.multiattach is not None and checks.flag(body.multiattach, "multiattach"):
        raise Invalid(
            "multiattach parameter has been removed. The default behavior is to use multiattach "
            "enabled volume types. Contact your administrator to create a multiattach enabled "
            "volume type and use it to create multiattach volumes."
        )
    volume = Volume(
        id=ctx.runtime.world.new_id(),
        project_id=ctx.caller.project_id,
        user_id=ctx.caller.user_id,
        size=size,
        zone=_zone(body, origin),
        volume_type_id=kind.id,
        metadata=checks.metadata(body.metadata),
        is_multiattach=kind.wants("multiattach"),
        wanted_host=await _hinted(ctx),
        **checks.changed(body, "name", "description"),
    )
    volume = await secured(ctx.runtime, _copied(volume, origin), kind)
    return await _grouped(ctx, body, volume, kind)


async def secured(runtime: Runtime, volume: Volume, kind: VolumeType) -> Volume:
    """With a key, where its type asks for one; a copy has its source's."""
    if kind.encryption is None or volume.sealed:
        return volume
    if volume.backup_id:
        raise Invalid(
            f"Backup {volume.backup_id} is not of an encrypted volume, and type {kind.name} is of "
            "such: name another type."
        )
    secret = f"{runtime.world.random.getrandbits(256):064x}"
    sealed = await runtime.contracts.get(SECRETS).seal(secret.encode())
    return _with(volume, encryption_key_id=runtime.world.new_id(), sealed=sealed)


def _with(volume: Volume, **changes: Any) -> Volume:
    return msgspec.structs.replace(volume, **changes)


def _copied(volume: Volume, origin: Origin) -> Volume:
    """What a copy inherits."""
    if origin.volume is not None:
        return _with(volume, source_volid=origin.volume.id, **inherited(origin.volume))
    if origin.snapshot is not None and origin.of is not None:
        return _with(volume, snapshot_id=origin.snapshot.id, **inherited(origin.of))
    if origin.image is not None:
        return _with(
            volume,
            image_id=origin.image.id,
            image_metadata=image_metadata(origin.image),
            is_bootable=True,
        )
    if origin.backup is not None:
        of = origin.backup
        key = {"encryption_key_id": of.encryption_key_id, "sealed": of.sealed}
        return _with(volume, backup_id=of.id, **key)
    return volume


def inherited(source: Volume) -> dict[str, Any]:
    """What a copy is that its source was."""
    return {
        "is_bootable": source.is_bootable,
        "image_metadata": source.image_metadata,
        "sealed": source.sealed,
        "encryption_key_id": source.encryption_key_id,
    }


def image_metadata(image: ImageInfo) -> dict[str, str]:
    """What a volume remembers of its image."""
    own = {
        "image_id": image.id,
        "image_name": image.name,
        "disk_format": image.disk_format,
        "container_format": image.container_format,
        "min_disk": str(image.min_disk),
        "min_ram": str(image.min_ram),
        "size": str(image.size),
    }
    return image.properties | own


async def _origin(ctx: Context, body: CreateVolume) -> Origin:
    image_ref = body.imageRef or body.image_id
    if body.snapshot_id:
        found = await SNAPSHOTS.find(
            ctx.runtime.store, checks.uuid_of(body.snapshot_id, "snapshot_id")
        )
        if found is None or not ctx.allows("volume:get_snapshot", {"project_id": found.project_id}):
            raise NotFound(f"Snapshot {body.snapshot_id} could not be found.")
        of = await VOLUMES.get(ctx.runtime.store, found.volume_id)
        return Origin(snapshot=_usable_snapshot(found), of=of)
    if body.source_volid:
        volume = await VOLUMES.find(
            ctx.runtime.store, checks.uuid_of(body.source_volid, "source_volid")
        )
        if volume is None or not ctx.allows("volume:get", {"project_id": volume.project_id}):
            raise NotFound(f"Volume {body.source_volid} could not be found.")
        if volume.shown not in (AVAILABLE, IN_USE):
            raise checks.unfit(
                "volume",
                f"Invalid status (allowed to create from is available or in-use): {volume.shown}.",
            )
        return Origin(volume=volume)
    if body.backup_id:
        backup = await BACKUPS.find(ctx.runtime.store, checks.uuid_of(body.backup_id, "backup_id"))
        if backup is None or not ctx.allows("backup:get", {"project_id": backup.project_id}):
            raise NotFound(f"Backup {body.backup_id} could not be found.")
        if backup.status != AVAILABLE:
            raise checks.unfit("backup", f"Backup status must be available, not {backup.status}.")
        return Origin(backup=backup)
    if image_ref:
        ctx.require("volume:create_from_image")
        return Origin(image=await image_named(ctx, image_ref))
    return Origin()


def _usable_snapshot(snapshot: Snapshot) -> Snapshot:
    if snapshot.status != AVAILABLE:
        raise checks.unfit(
            "snapshot", f"Originating snapshot status must be available, not {snapshot.status}."
        )
    return snapshot


async def image_named(ctx: Context, ref: str) -> ImageInfo:
    """By id, the end of a URL, or name. Raises Invalid, Conflict."""
    images = ctx.peer(IMAGES)
    try:
        found = await images.image(ctx.caller, ref.rsplit("/", 1)[-1])
    except NotFound:
        named = await images.listed(ctx.caller, ImageQuery(limit=2, name=ref))
        if len(named) > 1:
            raise Conflict(
                f"Multiple matches found for '{ref}', use an ID to be more specific."
            ) from None
        if not named:
            raise Invalid("Invalid image identifier or unable to access requested image.") from None
        found = named[0]
    check_image(found)
    return found


async def _type(ctx: Context, body: CreateVolume, origin: Origin) -> VolumeType:
    """The one that is named, its source's, its image's, or the default."""
    if body.volume_type:
        return await type_named(ctx, body.volume_type)
    source = origin.volume or origin.of
    if source is not None:
        return await type_named(ctx, source.volume_type_id)
    if origin.image and (named := origin.image.properties.get("cinder_img_volume_type")):
        return await type_named(ctx, named)
    return await default_type(ctx.runtime.store, ctx.caller.project_id)


async def _size(ctx: Context, body: CreateVolume, origin: Origin) -> int:
    """As asked, or the source's. Raises Invalid where it would not fit."""
    source = origin.snapshot or origin.volume or origin.backup
    if body.size in (None, ""):
        if source is None:
            raise Invalid(
                "Invalid input received: Invalid volume size provided for create request: None "
                "(size argument must be an integer (or string representation of an integer) and "
                "greater than zero)."
            )
        return source.size
    size = checks.size_of(body.size)
    if source is not None and size < source.size:
        raise Invalid(
            f"Invalid input received: Volume size {size}GB cannot be smaller than the "
            f"{'snapshot' if origin.snapshot else 'original volume'} size {source.size}GB. "
            "They must be >= original size."
        )
    if origin.image is not None:
        check_image_fits(origin.image, size)
    return size


def check_image_fits(image: ImageInfo, size: int) -> None:
    """Raises Invalid."""
    needed = -(-max(image.size, image.virtual_size) // _GIB)
    if needed > size:
        raise Invalid(
            f"Invalid input received: Size of specified image {needed}GB is larger than volume "
            f"size {size}GB."
        )
    if image.min_disk > size:
        raise Invalid(
            f"Invalid input received: Volume size {size}GB cannot be smaller than the image "
            f"minDisk size {image.min_disk}GB."
        )


async def check_size(ctx: Context, size: int, kind: VolumeType | None = None) -> None:
    """Raises OverQuota for a volume larger than any may be, Invalid for what its type does not offer."""
    most = await limit_of(ctx.runtime.store, SERVICE, PER_VOLUME, ctx.caller.project_id, -1)
    if 0 <= most < size:
        raise OverQuota(PER_VOLUME, size, 0, most)
    specs = kind.extra_specs if kind else {}
    for name, is_wrong in (("min", int.__lt__), ("max", int.__gt__)):
        bound = specs.get(f"provisioning:{name}_vol_size", "")
        if bound.isdecimal() and is_wrong(size, int(bound)):
            raise Invalid(
                f"Specified volume size of '{size}' is not what type {kind and kind.name} offers: "
                f"its {name}imum is '{bound}'."
            )


def _zone(body: CreateVolume, origin: Origin) -> str:
    zone = body.availability_zone or (origin.volume.zone if origin.volume else "") or pools.ZONE
    if zone != pools.ZONE:
        raise Invalid(f"Invalid input received: Availability zone '{zone}' is invalid.")
    return zone


async def _hinted(ctx: Context) -> str:
    """A host of an administrator's wish, or of a volume that it shall be with or apart from."""
    hints = ctx.document.get("OS-SCH-HNT:scheduler_hints") or ctx.document["volume"].get(
        "OS-SCH-HNT:scheduler_hints"
    )
    if hints is not None and not isinstance(hints, dict):
        raise checks.wrong("OS-SCH-HNT:scheduler_hints", hints, "It is not an object")
    same = (hints or {}).get("same_host") or []
    for id in [same] if isinstance(same, str) else same:
        other = await VOLUMES.find(ctx.runtime.store, str(id))
        if other is not None and other.project_id == ctx.caller.project_id:
            return await pools.place_of(ctx.runtime, other)
    return ""


async def _grouped(ctx: Context, body: CreateVolume, volume: Volume, kind: VolumeType) -> Volume:
    """In its group, whose types it must have. Raises NotFound, Invalid, Forbidden."""
    wanted = body.group_id or body.consistencygroup_id
    if not wanted:
        return volume
    found = await group.GROUPS.find(ctx.runtime.store, wanted)
    if found is None or not ctx.allows("group:get", {"project_id": found.project_id}):
        raise NotFound(f"Group {wanted} could not be found.")
    if found.project_id != ctx.caller.project_id:
        raise Forbidden(f"Group {wanted} is another project's.")
    if not body.volume_type or kind.id not in found.volume_types:
        raise Invalid(
            f"Invalid input received: Invalid volume_type provided: {body.volume_type or None} "
            "(requested type must be supported by this group)."
        )
    return _with(volume, group_id=found.id, is_consistent=found.is_consistent)

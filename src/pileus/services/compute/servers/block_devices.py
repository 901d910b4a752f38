"""The disks that a create asks for: both forms of `block_device_mapping`, its image's own, and what holds for them.

https://docs.openstack.org/nova/latest/user/block-device-mapping.html
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from pileus.kernel.faults import Invalid, NotFound
from pileus.kernel.resources import Context
from pileus.kernel.world import World
from pileus.services.block_storage.contract import VOLUMES, NewVolume, VolumeInfo
from pileus.services.compute import checks
from pileus.services.compute.block_device import (
    NOT_BOOTED,
    BlockDevice,
    free_name,
    in_order,
    root_of,
)
from pileus.services.compute.flavors import Flavor
from pileus.services.compute.servers.bodies import AskedDisk, CreateServer, OldDisk
from pileus.services.image.contract import IMAGES, ImageInfo

_INVALID = "Block Device Mapping is Invalid: "
_SOURCES = ("volume", "image", "snapshot", "blank")
_DESTINATIONS = ("local", "volume")
_BUSES = frozenset(("fdc", "ide", "lxc", "sata", "scsi", "uml", "usb", "virtio", "xen"))
_DEVICE = re.compile(r"[a-zA-Z0-9._/-]{1,255}")
_EPHEMERAL = re.compile(r"ephemeral\d+")
_ROOT = "/dev/vda"
_LOCALS = 3  # disks of its host that a server may have
_LARGEST = 0x7FFFFFFF  # GiB


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """One disk asked for, in whichever form. `is_absent`: that its image's of that name is not wanted."""

    device: BlockDevice
    is_local: bool = False
    is_absent: bool = False

    @property
    def is_blank(self) -> bool:
        return self.is_local and self.device.source_type == "blank"

    @property
    def is_swap(self) -> bool:
        return self.is_blank and self.device.guest_format == "swap"


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """What a server is to have. `said_by` tells of guests: its image, or whatever its root volume is made of.

    The volumes have no ids yet but those that are there. `ephemeral` (GiB) and `swap` (MiB) as asked, None as the
    flavor has them.
    """

    volumes: list[BlockDevice]
    said_by: ImageInfo | VolumeInfo | None
    ephemeral: int | None = None
    swap: int | None = None


async def layout(
    ctx: Context, body: CreateServer, flavor: Flavor, image: ImageInfo | None, servers: int
) -> Layout:
    """All that can be known before the answer. Raises Invalid, Forbidden, OverQuota."""
    disks, is_old = asked(body, image)
    if disks:
        ctx.require("os_compute_api:servers:create:attach_volume")
    elif image is None:
        raise Invalid("Missing imageRef attribute: a server boots from an image or a volume.")
    said_by = image or await _said_by(ctx, disks)
    disks = _together(disks, said_by, is_old=is_old, boots_image=image)
    _check_order(disks)
    ephemeral, swap = _local(disks, flavor)
    volumes = [disk.device for disk in disks if not disk.is_local]
    if servers > 1 and any(not d.is_made_for_it for d in volumes):
        raise Invalid("Cannot attach one or more volumes to multiple instances")
    volumes = [await _known(ctx, device) for device in _named(volumes, flavor)]
    _check_twice(volumes)
    await _check_new(ctx, volumes, servers)
    return Layout(volumes=volumes, said_by=said_by, ephemeral=ephemeral, swap=swap)


def for_server(world: World, volumes: Sequence[BlockDevice]) -> list[BlockDevice]:
    """With the ids that one server's volumes and their attachments will have."""
    return [
        replace(d, volume_id=d.volume_id or world.new_id(), attachment_id=world.new_id())
        for d in volumes
    ]


def new_volume(server_id: str, device: BlockDevice) -> NewVolume:
    """What block storage is to make for it."""
    sources = {f"{device.source_type}_id": device.source_id} if device.source_id else {}
    return NewVolume(
        id=device.volume_id,
        name="" if sources else f"{server_id}-blank-vol",
        size=device.size,
        volume_type=device.volume_type,
        **sources,
    )


# What was said


def asked(body: CreateServer, image: ImageInfo | None) -> tuple[list[Disk], bool]:
    """The disks named by the caller; whether in the old form, which has no boot order. Raises Invalid."""
    if body.block_device_mapping and body.block_device_mapping_v2:
        raise Invalid(
            "Using different block_device_mapping syntaxes is not allowed in the same request."
        )
    if body.block_device_mapping_v2:
        found = [_in_new_form(disk, image) for disk in body.block_device_mapping_v2]
        for disk in found if image else ():
            if not (disk.is_local or disk.is_absent) and disk.device.device_name == _ROOT:
                raise Invalid(
                    "The volume cannot be assigned the same device name as the root device vda"
                )
        return found, False
    return [_in_old_form(disk) for disk in body.block_device_mapping], True


def _in_new_form(disk: AskedDisk, image: ImageInfo | None) -> Disk:
    """Of a request: the source is named by `uuid`."""
    device = _device(disk, disk.uuid or "")
    if disk.no_device:
        return Disk(device=device, is_absent=True)
    source, is_local = device.source_type, disk.destination_type == "local"
    if source == "blank" and disk.uuid:
        raise Invalid(_INVALID + "Invalid device UUID.")
    if source != "blank" and not disk.uuid:
        raise Invalid(_INVALID + "Missing device UUID.")
    if source == "image" and is_local and (image is None or device.boot_index != 0):
        raise Invalid(_INVALID + "Mapping image to local is not supported.")
    if is_local and device.volume_type:
        raise Invalid(
            _INVALID + "Specifying a volume_type with destination_type=local is not supported."
        )
    if source == "volume" and device.volume_type:
        raise Invalid(_INVALID + "Specifying volume type to existing volume is not supported.")
    if source == "image" and is_local and image and disk.uuid != image.id:
        raise Invalid(_INVALID + "its image is not that of imageRef.")
    return _placed(device, disk.destination_type)


def _of_image(disk: AskedDisk) -> Disk:
    """Of an image's property: the source is named by a field of its own."""
    device = _device(disk, str(getattr(disk, f"{disk.source_type}_id", None) or ""))
    return (
        Disk(device=device, is_absent=True)
        if disk.no_device
        else _placed(device, disk.destination_type)
    )


def _placed(device: BlockDevice, destination: str | None) -> Disk:
    """Volumes and snapshots are nowhere but in volumes; others are local unless they are told to be one."""
    is_volume = device.source_type in ("volume", "snapshot")
    if destination == "local" and is_volume:
        raise Invalid(_INVALID + f"Mapping {device.source_type} to local is not supported.")
    return Disk(device=device, is_local=not is_volume and destination != "volume")


def _in_old_form(disk: OldDisk) -> Disk:
    """Raises Invalid."""
    device, virtual = _plain(disk), disk.virtual_name or ""
    if virtual == "swap" or _EPHEMERAL.fullmatch(virtual):
        format = "swap" if virtual == "swap" else ""
        blank = replace(device, source_type="blank", guest_format=format)
        return Disk(device=blank, is_local=True)
    for source in ("snapshot", "volume"):
        if id := getattr(disk, f"{source}_id"):
            return Disk(device=_of_source(device, source, id))
    if disk.no_device:
        return Disk(device=device, is_absent=True)
    raise Invalid(_INVALID + "Unrecognized legacy format.")


def _device(disk: AskedDisk, source_id: str) -> BlockDevice:
    device = _plain(disk)
    if disk.no_device:
        return device
    if disk.source_type is None:
        raise Invalid(_INVALID + "Some required fields are missing")
    for field, value, known in (
        ("source_type", disk.source_type, _SOURCES),
        ("destination_type", disk.destination_type or "local", _DESTINATIONS),
    ):
        if value not in known:
            raise checks.wrong(field, value, f"{value!r} is not one of {list(known)}")
    if disk.disk_bus and disk.disk_bus not in _BUSES:
        raise Invalid(f"{_INVALID}The provided disk bus {disk.disk_bus} is not valid.")
    device = replace(
        device,
        boot_index=_boot_index(disk.boot_index),
        guest_format=disk.guest_format or "",
        device_type=disk.device_type or "",
        disk_bus=disk.disk_bus or "",
        tag=checks.tag_of(disk.tag) if disk.tag is not UNSET else "",
        volume_type=(disk.volume_type if disk.volume_type is not UNSET else "") or "",
    )
    return _of_source(device, disk.source_type, source_id)


def _plain(disk: OldDisk) -> BlockDevice:
    """What both forms say."""
    name = disk.device_name
    if name is not None and not _DEVICE.fullmatch(name):
        raise Invalid(_INVALID + "Device name empty or too long.")
    return BlockDevice(
        volume_id="",
        attachment_id="",
        size=_size(disk.volume_size),
        device_name="/dev/" + name.removeprefix("/dev/") if name else "",
        delete_on_termination=checks.flag(disk.delete_on_termination, "delete_on_termination"),
    )


def _of_source(device: BlockDevice, source: str, id: str) -> BlockDevice:
    if source == "volume":
        return replace(device, volume_id=id)
    return replace(device, source_type=source, source_id=id)


def _size(value: int | str | None) -> int:
    if value is None:
        return 0
    text = str(value)
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:20]) <= _LARGEST):
        raise checks.wrong("volume_size", value, f"{value!r} is not a number of 1 or more")
    return int(text)


def _boot_index(value: int | str | None) -> int:
    if value is None:
        return NOT_BOOTED
    text = str(value)
    if not re.fullmatch(r"-?[0-9]{1,9}", text):
        raise checks.wrong("boot_index", value, f"{value!r} does not match '^-?[0-9]+$'")
    return max(int(text), NOT_BOOTED)


# What it comes to


async def _said_by(ctx: Context, disks: Sequence[Disk]) -> ImageInfo | VolumeInfo | None:
    """What tells of guests where no image is named. Raises Invalid."""
    first = [d.device for d in disks if d.device.is_root or d.device.device_name == _ROOT]
    root = next(iter(first), None)
    if root is None or root.source_type == "blank":
        return None
    if root.source_type == "image":
        return await _image(ctx, root.source_id)
    volume_id = root.volume_id
    if root.source_type == "snapshot":
        volume_id = (await _snapshot(ctx, root.source_id))[0]
    volume = await _volume(ctx, volume_id, _INVALID + f"failed to get volume {volume_id}.")
    if not volume.is_bootable:
        raise Invalid(f"Block Device {volume_id} is not bootable.")
    return volume


def _together(
    disks: list[Disk],
    said_by: ImageInfo | VolumeInfo | None,
    *,
    is_old: bool,
    boots_image: ImageInfo | None,
) -> list[Disk]:
    """The caller's and those of his image, which his own of the same name replace."""
    own = _images_own(said_by) if isinstance(said_by, ImageInfo) else []
    has_root = any(d.device.is_root for d in own)
    if is_old and not has_root:
        disks = _first(disks, boots_image)
    elif has_root:
        disks = [d for d in disks if not (d.device.is_root and d.device.source_type == "image")]
    names = {d.device.device_name for d in disks} - {""}
    found = [*disks, *(d for d in own if d.device.device_name not in names)]
    return [d for d in found if not d.is_absent]


def _first(disks: list[Disk], image: ImageInfo | None) -> list[Disk]:
    """In the old form the root is called so; without one it is the image."""
    found = [
        replace(d, device=replace(d.device, boot_index=0))
        if d.device.device_name == _ROOT and not d.is_local and not d.is_absent
        else d
        for d in disks
    ]
    if image is None or any(d.device.is_root for d in found):
        return found
    root = BlockDevice(
        volume_id="", attachment_id="", source_type="image", source_id=image.id, boot_index=0
    )
    return [Disk(device=root, is_local=True), *found]


def _images_own(image: ImageInfo) -> list[Disk]:
    """As an image of a server with volumes says. Raises Invalid."""
    text = image.properties.get("block_device_mapping")
    if not text:
        return []
    try:
        said = msgspec.json.decode(text, type=list[dict[str, Any]])
        plain = [{k: v for k, v in entry.items() if v is not None} for entry in said]
        if checks.flag(image.properties.get("bdm_v2", "false"), "bdm_v2"):
            return [_of_image(disk) for disk in msgspec.convert(plain, list[AskedDisk])]
        return _first([_in_old_form(disk) for disk in msgspec.convert(plain, list[OldDisk])], None)
    except msgspec.MsgspecError as e:
        raise Invalid(f"{_INVALID}property block_device_mapping of image {image.id}: {e}") from None


def _check_order(disks: Sequence[Disk]) -> None:
    """Each that may be booted from has its number, from 0. Raises Invalid."""
    order = sorted(d.device.boot_index for d in disks if d.device.boot_index >= 0)
    if not order or order != list(range(len(order))):
        raise Invalid(
            _INVALID + "Boot sequence for the instance and image/block device mapping combination "
            "is not valid."
        )


def _local(disks: Sequence[Disk], flavor: Flavor) -> tuple[int | None, int | None]:
    """Ephemeral disk (GiB) and swap (MiB), where they are asked for. Raises Invalid."""
    swaps = [d.device.size for d in disks if d.is_swap]
    blanks = [d.device.size for d in disks if d.is_blank and not d.is_swap]
    if sum(size or flavor.ephemeral for size in blanks) > flavor.ephemeral:
        raise Invalid(
            "Ephemeral disks requested are larger than the instance type allows. If no size is "
            "given in one block device mapping, flavor ephemeral size will be used."
        )
    if len(swaps) > 1:
        raise Invalid(_INVALID + "More than one swap drive requested.")
    if swaps and swaps[0] > flavor.swap:
        raise Invalid("Swap drive requested is larger than instance type allows.")
    if sum(d.is_local for d in disks) > _LOCALS:
        raise Invalid(_INVALID + "You specified more local devices than the limit allows")
    if len(blanks) > 1:
        raise Invalid(f"{_INVALID}one ephemeral disk is served: ask for one of {sum(blanks)} GiB.")
    return (blanks[0] or None) if blanks else None, (swaps[0] or None) if swaps else None


def _named(volumes: Sequence[BlockDevice], flavor: Flavor) -> list[BlockDevice]:
    """Each with a name: as asked unless another has that, the root's first, after the disks of the host."""
    blanks = "bc"[: bool(flavor.ephemeral) + bool(flavor.swap)]
    taken = {f"/dev/vd{letter}" for letter in blanks}
    taken |= set() if root_of(volumes) else {_ROOT}
    wanted = {d.device_name for d in volumes}
    found = []
    for device in in_order(volumes):
        name = device.device_name or (_ROOT if device.is_root else "")
        if not name or name in taken:
            name = free_name({_ROOT} | taken | wanted)
        taken.add(name)
        found.append(replace(device, device_name=name))
    return found


# What must be there


async def _known(ctx: Context, device: BlockDevice) -> BlockDevice:
    """With its size, once its source was found as the caller. Raises Invalid."""
    if device.source_type == "image":
        await _image(ctx, device.source_id)
        if not device.size:
            raise Invalid(
                "Images with destination_type 'volume' need to have a non-zero size specified"
            )
    elif device.source_type == "snapshot":
        size = (await _snapshot(ctx, device.source_id))[1]
        return replace(device, size=device.size or size)
    elif device.source_type == "blank":
        if not device.size:
            raise Invalid(
                "Blank volumes (source: 'blank', dest: 'volume') need to have non-zero size"
            )
    else:
        volume = await _volume(
            ctx, device.volume_id, f"Volume {device.volume_id} could not be found."
        )
        _check_free(ctx, volume)
        return replace(device, size=volume.size)
    return device


def _check_free(ctx: Context, volume: VolumeInfo) -> None:
    """Raises Invalid."""
    if volume.is_multiattach and ctx.version < (2, 60):
        raise Invalid(
            "Multiattach volumes are only supported starting with compute API version 2.60."
        )
    free = ("available", "in-use") if volume.is_multiattach else ("available",)
    if volume.status not in free:
        raise Invalid(
            f"Invalid volume: Volume {volume.id} status must be {' or '.join(free)} to reserve, "
            f"but the current status is {volume.status}."
        )


def _check_twice(volumes: Sequence[BlockDevice]) -> None:
    ids = [d.volume_id for d in volumes if d.volume_id]
    for id in ids:
        if ids.count(id) > 1:
            raise Invalid(f"{_INVALID}volume {id} is asked for {ids.count(id)} times.")


async def _check_new(ctx: Context, volumes: Sequence[BlockDevice], servers: int) -> None:
    """Those to be made could be, for so many servers. Raises Invalid, OverQuota."""
    wanted = [new_volume("", device) for device in volumes if device.is_made_for_it]
    try:
        if wanted:
            await ctx.peer(VOLUMES).check(ctx.caller, wanted * servers)
    except NotFound as e:
        raise Invalid(e.message) from None


async def _image(ctx: Context, image_id: str) -> ImageInfo:
    try:
        return await ctx.peer(IMAGES).image(ctx.caller, image_id)
    except NotFound:
        raise Invalid(f"{_INVALID}failed to get image {image_id}.") from None


async def _snapshot(ctx: Context, snapshot_id: str) -> tuple[str, int]:
    """Its volume's id, and its size."""
    try:
        found = await ctx.peer(VOLUMES).snapshot(ctx.caller, snapshot_id)
    except NotFound:
        raise Invalid(f"{_INVALID}failed to get snapshot {snapshot_id}.") from None
    return found.volume_id, found.size


async def _volume(ctx: Context, volume_id: str, missing: str) -> VolumeInfo:
    try:
        return await ctx.peer(VOLUMES).volume(ctx.caller, volume_id)
    except NotFound:
        raise Invalid(missing) from None

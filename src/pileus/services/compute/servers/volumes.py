"""A server's volumes: attached and detached while it lives.

https://docs.openstack.org/api-ref/compute/#servers-with-volume-attachments-servers-os-volume-attachments
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Conflict, Forbidden, Invalid, NotFound, Stale
from pileus.kernel.resources import Answer, Context, operation
from pileus.kernel.sagas import Saga
from pileus.kernel.schema import Body, since
from pileus.services.block_storage.contract import VOLUMES, VolumeInfo
from pileus.services.compute import checks, nodes
from pileus.services.compute.block_device import BlockDevice, free_name
from pileus.services.compute.checks import Flag
from pileus.services.compute.driver import SUSPENDED
from pileus.services.compute.server import Server
from pileus.services.compute.servers import states
from pileus.services.compute.servers.operations import (
    MEMBER,
    READER,
    OfServer,
    begin,
    unlocked,
)
from pileus.services.compute.servers.plugging import reserve_now
from pileus.services.compute.servers.volume_sagas import ATTACH, DETACH, EXTEND, FOLLOW, SWAP

_RULE = "os_compute_api:os-volumes-attachments:"
_ALL = "/servers/{server_id}/os-volume_attachments"
_ONE = _ALL + "/{volume_id}"
_DEVICE = re.compile(r"(^/dev/x{0,1}[a-z]{0,1}d{0,1})([a-z]+)[0-9]*$")
_MOST = 26  # disks of one server
_TURNS = 100
_SHELVED = (states.SHELVED, states.OFFLOADED)

T = TypeVar("T")


class CreateVolumeAttachment(Body):
    root: ClassVar[str] = "volumeAttachment"
    volumeId: str
    device: str | UnsetType | None = UNSET
    tag: Annotated[str | UnsetType, since("2.49")] = UNSET
    delete_on_termination: Annotated[Flag | UnsetType, since("2.79")] = UNSET


class UpdateVolumeAttachment(Body):
    root: ClassVar[str] = "volumeAttachment"
    volumeId: str
    device: Annotated[str | UnsetType | None, since("2.85")] = UNSET
    tag: Annotated[str | UnsetType | None, since("2.85")] = UNSET
    delete_on_termination: Annotated[Flag | UnsetType, since("2.85")] = UNSET
    serverId: Annotated[str | UnsetType, since("2.85")] = UNSET
    id: Annotated[str | UnsetType, since("2.85")] = UNSET


class ServerVolumes(OfServer):
    rules: ClassVar[Mapping[str, str]] = {
        _RULE + "index": READER,
        _RULE + "show": READER,
        _RULE + "create": MEMBER,
        _RULE + "update": MEMBER,
        _RULE + "swap": "rule:service_or_admin",
        _RULE + "delete": MEMBER,
    }
    sagas = (ATTACH, DETACH, EXTEND, FOLLOW, SWAP)

    @operation("GET", _ALL, _RULE + "index")
    async def index(self, ctx: Context, server: Server) -> dict[str, Any]:
        checks.known_only(ctx, ("limit", "offset"))
        offset, limit = (_count(ctx, name) for name in ("offset", "limit"))
        shown = server.volumes[offset : offset + limit if limit else None]
        return {"volumeAttachments": [_view(ctx, server, d) for d in shown]}

    @operation("GET", _ONE, _RULE + "show")
    async def show(self, ctx: Context, server: Server, volume_id: str) -> dict[str, Any]:
        return {"volumeAttachment": _view(ctx, server, _device(server, volume_id))}

    @operation("POST", _ALL, _RULE + "create", status=200)
    async def create(self, ctx: Context, server: Server, body: CreateVolumeAttachment) -> Answer:
        """Answers when the volume is reserved; the guest gets it then."""
        _ready(ctx, server, ATTACH)
        wanted = _wanted(ctx, body)
        volume = await ctx.peer(VOLUMES).volume(ctx.caller, wanted.volume_id)
        _check(ctx, server, wanted, volume)
        wanted = msgspec.structs.replace(wanted, size=volume.size)
        named = await self._in_turn(ctx, server, lambda now: self._attach(ctx, now, wanted))
        if ctx.version >= (2, 101):
            return Answer(status=202)
        found: dict[str, Any] = {
            "id": named.volume_id,
            "serverId": server.id,
            "volumeId": named.volume_id,
            "device": named.device_name,
        }
        if ctx.version >= (2, 70):
            found["tag"] = named.tag or None
        if ctx.version >= (2, 79):
            found["delete_on_termination"] = named.delete_on_termination
        return Answer({"volumeAttachment": found})

    async def _attach(self, ctx: Context, server: Server, wanted: BlockDevice) -> BlockDevice:
        """Begins it; the device as it is named."""
        _ready(ctx, server, ATTACH)
        device = msgspec.structs.replace(wanted, device_name=_name(server, wanted.device_name))
        volumes = [*server.volumes, device]
        now, first = {"volumes": volumes}, partial(reserve_now, ctx, server.id, [device])
        await begin(ctx, ATTACH, server, ATTACH.verb, now, first, volumes=volumes)
        return device

    async def _in_turn(
        self, ctx: Context, server: Server, do: Callable[[Server], Awaitable[T]]
    ) -> T:
        """As often as others are first, for clients attach many volumes at once. Raises Conflict."""
        for _ in range(_TURNS):
            try:
                return await do(server)
            except Stale:
                await ctx.runtime.store.sync()
                server = await self.load(ctx, server.id)
        raise Conflict(f"Instance {server.id} changes all the time; try again later.")

    @operation("PUT", _ONE, _RULE + "swap", until="2.85", status=202)
    async def swap(
        self, ctx: Context, server: Server, volume_id: str, body: UpdateVolumeAttachment
    ) -> None:
        await self._swap(ctx, server, volume_id, body.volumeId)

    @operation("PUT", _ONE, _RULE + "update", since="2.85", status=202)
    async def update(
        self, ctx: Context, server: Server, volume_id: str, body: UpdateVolumeAttachment
    ) -> None:
        """What is said again must be as it is, but for `delete_on_termination`."""
        device = _device(server, volume_id, f"No volume Block Device Mapping with id {volume_id}.")
        known = {"id": volume_id, "serverId": server.id, "tag": device.tag or None}
        for name, value in {**known, "device": device.device_name}.items():
            if getattr(body, name) not in (UNSET, value):
                raise Invalid(f"The {name} property is not mutable")
        if body.delete_on_termination is not UNSET:
            goes = checks.flag(body.delete_on_termination, "delete_on_termination")
            changed = msgspec.structs.replace(device, delete_on_termination=goes)
            volumes = [changed if d is device else d for d in server.volumes]
            async with ctx.runtime.store.tx() as tx:
                await self.table.change(tx, server, volumes=volumes)
        if body.volumeId != volume_id:
            await self._swap(ctx, await self.load(ctx, server.id), volume_id, body.volumeId)

    async def _swap(self, ctx: Context, server: Server, volume_id: str, other_id: str) -> None:
        """As block storage asks for it where it moves a volume under a guest. Raises NotFound, Invalid, Conflict."""
        ctx.require(_RULE + "swap", {})
        old = await ctx.peer(VOLUMES).volume(ctx.caller, volume_id)
        if not old.migration_status or old.status == "migrating":  # by itself
            raise Conflict(
                f"volume {volume_id} is not migrating; this API should only be called by Cinder"
            )
        try:
            new = await ctx.peer(VOLUMES).volume(ctx.caller, other_id)
        except NotFound as e:
            raise Invalid(e.message) from None
        _ready(ctx, server, SWAP)
        _check_swap(server, old, new)
        await self._in_turn(ctx, server, lambda now: self._exchange(ctx, now, old.id, new))

    async def _exchange(
        self, ctx: Context, server: Server, old_id: str, volume: VolumeInfo
    ) -> None:
        _ready(ctx, server, SWAP)
        old = _device(server, old_id)
        new = msgspec.structs.replace(
            old,
            volume_id=volume.id,
            attachment_id=ctx.runtime.world.new_id(),
            size=volume.size,
            source_type="volume",
            source_id="",
        )

        async def first() -> None:
            await reserve_now(ctx, server.id, [new])
            await ctx.peer(VOLUMES).detaching(old.attachment_id, True)

        volumes = [new if d is old else d for d in server.volumes]
        await begin(ctx, SWAP, server, SWAP.verb, None, first, volumes=volumes)

    @operation("DELETE", _ONE, _RULE + "delete", status=202)
    async def delete(self, ctx: Context, server: Server, volume_id: str) -> None:
        _ready(ctx, server, DETACH)
        if _device(server, volume_id).is_root:
            raise Invalid("Cannot detach a root device volume")
        if server.host and not await nodes.is_serving(ctx.runtime, server.host):
            raise Conflict(
                f"Service is unavailable at this time: host {server.host} of instance {server.id} does not "
                "answer, so its guest cannot let go of the volume."
            )
        await self._in_turn(ctx, server, lambda now: self._detach(ctx, now, volume_id))

    async def _detach(self, ctx: Context, server: Server, volume_id: str) -> None:
        _ready(ctx, server, DETACH)
        device = _device(server, volume_id)
        volumes = [d for d in server.volumes if d is not device]
        first = partial(ctx.peer(VOLUMES).detaching, device.attachment_id, True)
        await begin(ctx, DETACH, server, DETACH.verb, None, first, volumes=volumes)


def _count(ctx: Context, name: str) -> int:
    text = ctx.query.get(name) or "0"
    if not text.isdecimal():
        raise checks.wrong(name, text, f"{text!r} does not match '^[0-9]*$'")
    return int(text)


def _ready(ctx: Context, server: Server, saga: Saga[Server]) -> None:
    """Raises Conflict."""
    unlocked(ctx, server)
    if server.vm_state in _SHELVED and ctx.version < (2, 20):
        raise Conflict(
            f"Cannot '{saga.verb}' instance {server.id} while it is in vm_state {server.vm_state}"
        )
    states.LIFECYCLE.check(saga.verb, server)
    if server.power_state == SUSPENDED:
        raise Conflict(
            f"Cannot '{saga.verb}' instance {server.id} while it is in vm_state {server.vm_state} with a "
            "suspended guest, which must find the devices that it had; it must be unshelved first."
        )


def _wanted(ctx: Context, body: CreateVolumeAttachment) -> BlockDevice:
    """Raises Invalid."""
    if not checks.is_uuid(body.volumeId):
        raise checks.wrong("volumeId", body.volumeId, f"{body.volumeId!r} is not a 'uuid'")
    device = body.device or ""
    if device and not _DEVICE.match(device):
        raise checks.wrong("device", device, f"{device!r} does not match {_DEVICE.pattern!r}")
    goes = body.delete_on_termination
    return BlockDevice(
        volume_id=str(uuid.UUID(body.volumeId)),
        attachment_id=ctx.runtime.world.new_id(),
        device_name=device,
        tag=checks.tag_of(body.tag) if body.tag is not UNSET else "",
        delete_on_termination=goes is not UNSET and checks.flag(goes, "delete_on_termination"),
    )


def _check(ctx: Context, server: Server, wanted: BlockDevice, volume: VolumeInfo) -> None:
    """Raises Invalid, Forbidden, Conflict."""
    theirs = dict.fromkeys(one.server_id for one in volume.attachments)
    if theirs and not volume.is_multiattach:
        raise Invalid(
            f"Invalid volume: volume {volume.id} is already attached to instances: {' '.join(theirs)}"
        )
    if server.id in theirs:
        raise Invalid(f"Invalid volume: volume {volume.id} already attached")
    if volume.is_multiattach and ctx.version < (2, 60):
        raise Invalid(
            "Multiattach volumes are only supported starting with compute API version 2.60."
        )
    if server.vm_state == states.OFFLOADED and wanted.tag:
        raise Invalid("Tagged volume attachment is not supported for shelved-offloaded instances.")
    if server.vm_state == states.OFFLOADED and volume.is_multiattach:
        raise Invalid(
            "Attaching multiattach volumes is not supported for shelved-offloaded instances."
        )
    if server.image is not None and server.image.is_for_containers:
        raise Invalid(
            f"Instance {server.id} is a container; only a virtual machine can have volumes."
        )


def _name(server: Server, asked: str) -> str:
    """The device that is asked for, or the next one after those that the server has. Raises Conflict, Forbidden."""
    taken = [d.device_name for d in server.volumes]
    local = (not server.is_on_volume, server.ephemeral_gib, server.swap_mib, server.config_drive)
    for is_there in local:
        taken += [free_name(taken)] if is_there else []
    if len(taken) >= _MOST:
        raise Forbidden(
            f"The maximum allowed number of disk devices ({_MOST}) to attach to a single instance has "
            "been exceeded."
        )
    if asked and asked in taken:
        raise Conflict(f"The supplied device path ({asked}) is in use.")
    return asked or free_name(taken)


def _check_swap(server: Server, old: VolumeInfo, new: VolumeInfo) -> None:
    """Raises Invalid."""
    if server.id not in {one.server_id for one in old.attachments}:
        raise Invalid("Invalid volume: Old volume is attached to a different instance.")
    if new.attachments:
        raise Invalid("Invalid volume: New volume must be detached in order to swap.")
    if new.size < old.size:
        raise Invalid(
            f"Invalid volume: New volume must be the same size or larger: {new.id} has {new.size} GiB, "
            f"{old.id} {old.size}."
        )
    if len([one for one in old.attachments if one.mode == "rw"]) > 1:
        raise Invalid(
            "Swapping multi-attach volumes with more than one read/write attachment is not supported."
        )


def _device(server: Server, volume_id: str, missing: str = "") -> BlockDevice:
    for device in server.volumes:
        if device.volume_id == volume_id:
            return device
    raise NotFound(missing or f"Instance {server.id} is not attached to volume {volume_id}")


def _view(ctx: Context, server: Server, device: BlockDevice) -> dict[str, Any]:
    found: dict[str, Any] = {"volumeId": device.volume_id, "serverId": server.id}
    if device.device_name:
        found["device"] = device.device_name
    if ctx.version < (2, 89):
        found["id"] = device.volume_id
    if ctx.version >= (2, 70):
        found["tag"] = device.tag or None
    if ctx.version >= (2, 79):
        found["delete_on_termination"] = device.delete_on_termination
    if ctx.version >= (2, 89):
        found["attachment_id"] = device.attachment_id
        found["bdm_uuid"] = str(uuid.uuid5(uuid.UUID(server.id), device.volume_id))
    return found

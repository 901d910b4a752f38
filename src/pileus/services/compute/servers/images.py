"""Images made of servers: snapshots, and backups that rotate.

https://docs.openstack.org/api-ref/compute/#create-image-createimage-action
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from pileus.kernel.auth import Caller
from pileus.kernel.faults import Conflict, Forbidden, Invalid
from pileus.kernel.resources import Answer, Context, operation
from pileus.kernel.sagas import Changes, Run, Saga, Step
from pileus.kernel.schema import Body
from pileus.services.block_storage.contract import VOLUMES
from pileus.services.compute import checks
from pileus.services.compute.agent_contract import COMPUTE_HOST
from pileus.services.compute.block_device import in_order
from pileus.services.compute.checks import Count, Name
from pileus.services.compute.server import Server, Snapshot
from pileus.services.compute.servers import noting, states
from pileus.services.compute.servers.operations import (
    MEMBER,
    PATH,
    RULE,
    OfServer,
    begin,
    launched,
)
from pileus.services.compute.servers.sagas import host_if_up
from pileus.services.image.contract import IMAGES, NewImage

_BACKUP = "os_compute_api:os-create-backup"
_OF_VOLUMES = ("block_device_mapping", "bdm_v2", "root_device_name")
_TAKING, _UPLOADING = "image_pending_upload", "image_uploading"
# What is true of an image's own bytes only, or of a host's cache.
_NOT_INHERITED = frozenset(("cache_in_nova", "bittorrent"))
_NOT_INHERITED_PREFIXES = ("img_signature", "cinder_encryption_key", "os_glance_")


class CreateImage(Body):
    root: ClassVar[str] = "createImage"
    name: Name
    metadata: dict[str, str] = {}


class CreateBackup(Body):
    root: ClassVar[str] = "createBackup"
    name: Name
    backup_type: str
    rotation: Count | str
    metadata: dict[str, str] = {}


# The sagas


def _wanted(run: Run[Server]) -> Snapshot:
    if run.becoming.snapshot is None:
        raise Conflict("There is no image to be made.")
    return run.becoming.snapshot


async def reserve(run: Run[Server]) -> None:
    """The image is there, empty: as a rule it is already. Raises Forbidden, OverQuota."""
    await run.peer(IMAGES).reserve(run.caller, new_image(run.caller, run.record, _wanted(run)))


async def begin_snapshot(run: Run[Server]) -> Changes:
    await reserve(run)
    return {"task_state": _TAKING}


async def take(run: Run[Server]) -> Changes:
    """The host copies the disk while the guest goes on; of volumes, block storage does."""
    server, wanted = run.record, _wanted(run)
    for volume_id, snapshot_id in wanted.of_volumes.items():
        name = f"snapshot for {wanted.name}"
        await run.peer(VOLUMES).take_snapshot(run.caller, volume_id, snapshot_id, name)
    if wanted.of_volumes:
        return {"task_state": _UPLOADING}
    host = await run.agent(COMPUTE_HOST, on=server.host)
    kind = await host.snapshot(server.id, wanted.image_id)
    await run.peer(IMAGES).awaits(wanted.image_id, kind, _container_format(server))
    return {"task_state": _UPLOADING}


def _container_format(server: Server) -> str:
    """A copy is of the kind that the server was made of."""
    return server.image.container_format if server.image else "bare"


async def discard(run: Run[Server]) -> None:
    """No image is left, nor a copy on the host: one that is down drops it with its guest."""
    server, wanted = run.record, _wanted(run)
    await run.peer(IMAGES).discard(wanted.image_id)
    for snapshot_id in wanted.of_volumes.values():
        await run.peer(VOLUMES).drop_snapshot(snapshot_id)
    if host := await host_if_up(run, server.host):
        await host.drop_snapshot(server.id, wanted.image_id)
    await noting.failure(run)


async def upload(run: Run[Server]) -> Changes:
    """An image that names snapshots has no bytes of its own."""
    if _wanted(run).of_volumes:
        await run.peer(IMAGES).leave_empty(_wanted(run).image_id)
    else:
        await send(run)
    if not _wanted(run).backup_type:
        await noting.success(run)
    return {}


async def send(run: Run[Server]) -> None:
    """The host sends its copy."""
    server, wanted = run.record, _wanted(run)
    host = await run.agent(COMPUTE_HOST, on=server.host)
    kind = await host.snapshot(server.id, wanted.image_id)  # what an earlier attempt took stays
    path = await run.peer(IMAGES).awaits(wanted.image_id, kind, _container_format(server))
    if path:
        await host.send_snapshot(server.id, wanted.image_id, path)
    await host.drop_snapshot(server.id, wanted.image_id)


async def rotate(run: Run[Server]) -> Changes:
    """The oldest backups of that type go; protected ones stay."""
    wanted, images = _wanted(run), run.peer(IMAGES)
    properties = {
        "image_type": "backup",
        "backup_type": wanted.backup_type,
        "instance_uuid": run.record.id,
    }
    found = await images.made_from(run.caller.project_id, properties)
    for image_id in found[: max(0, len(found) - wanted.keep)]:
        await images.discard(image_id)
    await noting.success(run)
    return {}


# The patience is for a control that died while it took the bytes: that is noticed when its lease has run out.
_COPY = (
    Step(begin_snapshot, discard),
    Step(take, timeout_s=1800),
    Step(upload, timeout_s=1800, patience_s=300),
)
CREATE_IMAGE = noting.saga("snapshot", "createImage", *_COPY)
CREATE_BACKUP = noting.saga("snapshot", "createBackup", *_COPY, Step(rotate))


# The operations


class ServerImages(OfServer):
    rules: ClassVar[Mapping[str, str]] = {
        RULE + "create_image": MEMBER,
        RULE + "create_image:allow_volume_backed": MEMBER,
        _BACKUP: MEMBER,
    }
    sagas = (CREATE_IMAGE, CREATE_BACKUP)

    @operation("POST", PATH, RULE + "create_image", action="createImage", status=202)
    async def create_image(self, ctx: Context, server: Server, body: CreateImage) -> Any:
        """A lock does not matter: the server stays as it is."""
        wanted = Snapshot(
            image_id=ctx.runtime.world.new_id(),
            name=checks.name(body.name),
            metadata=_metadata(ctx, body.metadata),
            of_volumes=_snapshots(ctx, server),
        )
        await make_image(ctx, CREATE_IMAGE, server, wanted)
        if ctx.version >= (2, 45):
            return {"image_id": wanted.image_id}
        return Answer(headers={"location": f"{ctx.root}/image/images/{wanted.image_id}"})

    @operation("POST", PATH, _BACKUP, action="createBackup", status=202)
    async def create_backup(self, ctx: Context, server: Server, body: CreateBackup) -> Any:
        if server.is_on_volume:
            raise Invalid("Backup is not supported for volume-backed instances.")
        wanted = Snapshot(
            image_id=ctx.runtime.world.new_id(),
            name=checks.name(body.name),
            metadata=_metadata(ctx, body.metadata),
            backup_type=body.backup_type,
            keep=_rotation(body.rotation),
        )
        await make_image(ctx, CREATE_BACKUP, server, wanted)
        if ctx.version >= (2, 45):
            return {"image_id": wanted.image_id}
        if wanted.keep == 0:
            return Answer()
        return Answer(headers={"location": f"{ctx.base}/images/{wanted.image_id}"})


def _metadata(ctx: Context, given: dict[str, str]) -> dict[str, str]:
    """Until 2.39 as many as servers may have. Raises Forbidden, Invalid."""
    if ctx.version < (2, 39) and len(given) > checks.METADATA_LIMIT:
        raise Forbidden("Image metadata limit exceeded")
    return checks.metadata(given)


def _snapshots(ctx: Context, server: Server) -> dict[str, str]:
    """The ids of those to be taken of its volumes. Raises Forbidden."""
    if not server.is_on_volume:
        return {}
    ctx.require(RULE + "create_image:allow_volume_backed", {"project_id": server.project_id})
    return {device.volume_id: ctx.runtime.world.new_id() for device in server.volumes}


def _rotation(given: int | str) -> int:
    try:
        number = int(given)
    except ValueError:
        number = -1
    if number < 0:
        raise checks.wrong("rotation", given, f"{given!r} is not a number of 0 or more")
    return number


async def make_image(ctx: Context, saga: Saga[Server], server: Server, wanted: Snapshot) -> None:
    """The image is there, empty, when this returns. Raises Conflict, Forbidden, OverQuota."""
    states.LIFECYCLE.check(saga.verb, server)
    launched(server, saga.verb)

    async def reserve() -> None:
        await ctx.peer(IMAGES).reserve(ctx.caller, new_image(ctx.caller, server, wanted))

    await begin(ctx, saga, server, saga.verb, first=reserve, snapshot=wanted)


def new_image(caller: Caller, server: Server, wanted: Snapshot) -> NewImage:
    """It inherits what its server's image says of guests, and says whose it is."""
    inherited = {
        key: value
        for key, value in (server.image.properties if server.image else {}).items()
        if key not in (*_NOT_INHERITED, *_OF_VOLUMES)
        and not key.startswith(_NOT_INHERITED_PREFIXES)
    }
    own = {
        "instance_uuid": server.id,
        "user_id": caller.user_id,
        "image_type": "backup" if wanted.backup_type else "snapshot",
        "image_location": "snapshot",
        "image_state": "available",
        "owner_id": server.project_id,
    }
    if server.image is not None:
        own["base_image_ref"] = server.image.id
    if wanted.of_volumes:
        own |= dict(zip(_OF_VOLUMES, _mapping(server, wanted), strict=True))
    if wanted.backup_type:
        own["backup_type"] = wanted.backup_type
    foreign = caller.project_id != server.project_id
    if foreign:
        own["instance_owner"] = server.project_id
    return NewImage(
        id=wanted.image_id,
        name=wanted.name,
        properties={**inherited, **own, **wanted.metadata},
        min_disk=0 if wanted.of_volumes else server.flavor.disk,
        shared_with=server.project_id if foreign else "",
    )


def _mapping(server: Server, wanted: Snapshot) -> tuple[str, str, str]:
    """The disks of a server that is made of it, as `block_devices` reads them."""
    disks = [
        {
            "source_type": "snapshot",
            "destination_type": "volume",
            "snapshot_id": wanted.of_volumes[device.volume_id],
            "volume_size": device.size or None,
            "boot_index": device.boot_index if device.boot_index >= 0 else None,
            "device_name": device.device_name,
            "delete_on_termination": device.delete_on_termination,
            "disk_bus": device.disk_bus or None,
            "device_type": device.device_type or None,
            "guest_format": None,
            "volume_id": None,
            "image_id": None,
            "no_device": None,
            "tag": None,
            "volume_type": None,
        }
        for device in in_order(server.volumes)
    ]
    return msgspec.json.encode(disks).decode(), "True", server.root_device

"""A server's disk made anew, and a server started from another disk to mend its own.

https://docs.openstack.org/api-ref/compute/#rebuild-server-rebuild-action
https://docs.openstack.org/api-ref/compute/#rescue-server-rescue-action
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pileus.kernel.faults import Conflict, Forbidden, Invalid
from pileus.kernel.resources import Answer, Context, operation
from pileus.kernel.sagas import Changes, Run, Step
from pileus.kernel.schema import Body, since, until
from pileus.services.block_storage.contract import VOLUMES
from pileus.services.compute import checks
from pileus.services.compute.agent_contract import COMPUTE_HOST
from pileus.services.compute.block_device import root_of
from pileus.services.compute.checks import Flag, Name
from pileus.services.compute.driver import RUNNING
from pileus.services.compute.keypairs import key_of
from pileus.services.compute.server import SERVERS, ImageCopy, Server
from pileus.services.compute.servers import creation, noting, states, views
from pileus.services.compute.servers.bodies import USER_DATA_LIMIT, DescribedServer
from pileus.services.compute.servers.operations import (
    MEMBER,
    PATH,
    RULE,
    OfServer,
    act,
    described,
    launched,
    password,
    plain,
    status_of,
    unlocked,
)
from pileus.services.compute.servers.plugging import complete
from pileus.services.compute.servers.provisioning import made
from pileus.services.compute.servers.sagas import failed, healed, host_if_up, image_source, spec_of

_RESCUE, _UNRESCUE = "os_compute_api:os-rescue", "os_compute_api:os-unrescue"
_NO_IMAGE = "Cannot find image for rebuild"


class RebuildServer(DescribedServer):
    root: ClassVar[str] = "rebuild"
    imageRef: str
    adminPass: str | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET
    preserve_ephemeral: Flag = False
    personality: Annotated[list[Any] | UnsetType, until("2.57")] = UNSET
    key_name: Annotated[Name | UnsetType | None, since("2.54")] = UNSET
    user_data: Annotated[
        Annotated[str, Meta(max_length=USER_DATA_LIMIT)] | UnsetType | None, since("2.57")
    ] = UNSET
    trusted_image_certificates: Annotated[list[str] | UnsetType | None, since("2.63")] = UNSET


class RescueServer(Body):
    root: ClassVar[str] = "rescue"
    adminPass: str | UnsetType = UNSET
    rescue_image_ref: str | UnsetType = UNSET


# The sagas


async def rebuild(run: Run[Server]) -> Changes:
    """What was off stays off; what was in error runs."""
    was_off = run.becoming.vm_state == states.STOPPED
    server, host = run.record, await run.agent(COMPUTE_HOST, on=run.record.host)
    if run.becoming.image and server.is_on_volume and not run.becoming.image.is_volume:
        await _reimage(run, run.becoming.image.id)
    guest = await host.rebuild(await spec_of(run), not was_off)
    await complete(run, server.volumes)
    state = states.STOPPED if was_off else states.ACTIVE
    return {"vm_state": state, "power_state": guest.power_state}


async def _reimage(run: Run[Server], image_id: str) -> None:
    """The image's bytes are in its root volume, which no host has meanwhile."""
    root = root_of(run.record.volumes)
    assert root is not None
    await (await run.agent(COMPUTE_HOST, on=run.record.host)).stop_guest(run.record.id, 0)
    await run.peer(VOLUMES).disconnect(root.attachment_id)
    await run.peer(VOLUMES).reimage(run.caller, root.volume_id, image_id)
    await made(run, root.volume_id)


async def rescue(run: Run[Server]) -> Changes:
    image = run.becoming.image
    if image is None:
        raise Conflict(f"Instance {run.record.id} has no image to be rescued with.")
    source = await image_source(run, image)
    host = await run.agent(COMPUTE_HOST, on=run.record.host)
    guest = await host.rescue(run.record.id, source)
    await noting.success(run)
    return {"power_state": guest.power_state}


async def back_to_own_disk(run: Run[Server]) -> None:
    """As it was before: running if it was."""
    server = run.record
    ran = server.vm_state == states.ACTIVE or server.power_state == RUNNING
    if host := await host_if_up(run, server.host):
        await host.unrescue(server.id, ran)
    await noting.failure(run)


async def unrescue(run: Run[Server]) -> Changes:
    host = await run.agent(COMPUTE_HOST, on=run.record.host)
    return {"power_state": (await host.unrescue(run.record.id, True)).power_state}


def _rebuilt(server: Server, now: str) -> Changes:
    return {"launched_at": now, "fault": None}


REBUILD = noting.saga(
    "rebuild", "rebuild", noting.noted(rebuild, timeout_s=1800), failed=failed, done=_rebuilt
)
RESCUE = noting.saga("rescue", "rescue", Step(rescue, back_to_own_disk, timeout_s=1800))
UNRESCUE = noting.saga("unrescue", "unrescue", noting.noted(unrescue), done=healed)


# The operations


class ServerRebuilding(OfServer):
    rules: ClassVar[Mapping[str, str]] = {
        RULE + "rebuild": MEMBER,
        RULE + "rebuild:trusted_certs": MEMBER,
        _RESCUE: MEMBER,
        _UNRESCUE: MEMBER,
    }
    sagas = (REBUILD, RESCUE, UNRESCUE)

    @operation("POST", PATH, RULE + "rebuild", action="rebuild", status=202)
    async def rebuild(self, ctx: Context, server: Server, body: RebuildServer) -> Answer:
        unlocked(ctx, server)
        states.LIFECYCLE.check("rebuild", server)
        launched(server, "rebuild")
        changes = await _changes(ctx, server, body)
        image = changes["image"]
        if server.is_on_volume:
            changes["image"], image = await _on_volume(ctx, server, image)
        await act(ctx, REBUILD, server, "rebuild", changes, image=image)
        fresh = await SERVERS.get(ctx.runtime.store, server.id)
        shown = await _view(ctx, fresh)
        shown["adminPass"] = body.adminPass if body.adminPass is not UNSET else password(ctx)
        href = checks.links(ctx, "servers", server)[0]["href"]
        return Answer({"server": shown}, headers={"location": href})

    @operation("POST", PATH, _RESCUE, action="rescue", status=200)
    async def rescue(self, ctx: Context, server: Server, body: RescueServer) -> dict[str, str]:
        unlocked(ctx, server)
        states.LIFECYCLE.check("rescue", server)
        launched(server, "rescue")
        image = server.image
        if body.rescue_image_ref is not UNSET:
            image = await _image(ctx, server, body.rescue_image_ref, "rescue_image_ref")
            if "block_device_mapping" in image.properties:
                raise Invalid(f"Requested rescue image '{image.id}' is not supported")
        if server.is_on_volume:
            _check_rescue(ctx, server, image)
        await act(ctx, RESCUE, server, "rescue", image=image)
        return {"adminPass": body.adminPass if body.adminPass is not UNSET else password(ctx)}

    unrescue = plain(_UNRESCUE, "unrescue", UNRESCUE)


async def _image(ctx: Context, server: Server, ref: str, field: str) -> ImageCopy:
    """Raises Invalid."""
    id = ref.rstrip("/").rsplit("/", 1)[-1]
    if not checks.is_uuid(id):
        raise checks.wrong(field, ref, f"{ref!r} is not a 'uuid'")
    return creation.copy_of(await creation.bootable(ctx, id, server.flavor, _NO_IMAGE))


async def _on_volume(ctx: Context, server: Server, image: ImageCopy) -> tuple[ImageCopy, ImageCopy]:
    """What is known of its root volume from now on, and what that is to hold: the same until 2.93. Raises Invalid."""
    root, known = root_of(server.volumes), server.image or image
    assert root is not None
    if ctx.version >= (2, 93):
        return msgspec.structs.replace(image, id=known.id, min_disk=0, is_volume=True), image
    volume = await ctx.peer(VOLUMES).volume(ctx.caller, root.volume_id)
    if volume.image_metadata.get("image_id") != image.id:
        raise Invalid(
            f"Image {image.id} is unacceptable: Unable to rebuild with a different image for a "
            "volume-backed server."
        )
    return known, known


def _check_rescue(ctx: Context, server: Server, image: ImageCopy | None) -> None:
    """From another disk only, which says how it is plugged. Raises Invalid."""
    says = image.properties if image and not image.is_volume else {}
    if ctx.version < (2, 87) or not {"hw_rescue_bus", "hw_rescue_device"} <= says.keys():
        raise Invalid(
            f"Instance {server.id} cannot be rescued: Cannot rescue a volume-backed instance"
        )


async def _changes(ctx: Context, server: Server, body: RebuildServer) -> dict[str, Any]:
    """What is so from the answer on, however the rebuild ends. Raises Invalid, Forbidden."""
    if body.personality not in (UNSET, []):
        raise Invalid("Injecting files is not served: use user_data instead of personality.")
    if body.trusted_image_certificates not in (UNSET, None, []):
        raise Invalid("Signed images are not served: leave out trusted_image_certificates.")
    checks.flag(body.preserve_ephemeral, "preserve_ephemeral")
    changes: dict[str, Any] = {"image": await _image(ctx, server, body.imageRef, "imageRef")}
    changes |= described(ctx, body)
    if body.metadata is not UNSET:
        if len(body.metadata) > checks.METADATA_LIMIT:
            raise Forbidden(f"Maximum number of metadata items exceeds {checks.METADATA_LIMIT}")
        changes["metadata"] = checks.metadata(body.metadata)
    if body.user_data is not UNSET:
        changes["user_data"] = creation.user_data(body.user_data)
    changes |= await _key(ctx, body)
    creation.check_drive(msgspec.structs.replace(server, **changes))
    return changes


async def _key(ctx: Context, body: RebuildServer) -> dict[str, str]:
    if body.key_name is UNSET:
        return {}
    if body.key_name is None:
        return {"key_name": "", "public_key": "", "key_type": "ssh"}
    found = await key_of(ctx.runtime.store, ctx.caller.user_id, body.key_name)
    if found is None:
        raise Invalid("Invalid key_name provided.")
    return {"key_name": found.name, "public_key": found.public_key, "key_type": found.type}


async def _view(ctx: Context, server: Server) -> dict[str, Any]:
    """PUT's, and what a rebuild may have changed besides."""
    seen = views.sight(ctx, {"project_id": server.project_id}, single=True)
    status = await status_of(ctx, server, seen)
    shown: dict[str, Any] = msgspec.to_builtins(views.updated(ctx, server, seen, status))
    if ctx.version >= (2, 54):
        shown["key_name"] = server.key_name or None
    if ctx.version >= (2, 57):
        shown.pop("OS-EXT-SRV-ATTR:user_data", None)
        shown["user_data"] = server.user_data or None
    if ctx.version >= (2, 71):
        shown["server_groups"] = views.groups_of(server)
    return shown

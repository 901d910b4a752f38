"""The older way to attach: actions on the volume, in the order reserve, initialize_connection, attach.

https://docs.openstack.org/api-ref/block-storage/v3/#attach-volume-to-a-server
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pileus.kernel.faults import Invalid, NotFound
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import IGNORE, Body, Extra

from .. import attaching, attachment, checks, states
from ..attachment import ATTACHED, ATTACHMENTS, Attachment
from ..attachments import refuse_used
from ..volume import VOLUMES, Volume, backend_of
from .moving import ACTION
from .operations import OfVolume

_RULE = "volume_extension:volume_actions:"
Name = Annotated[str, Meta(min_length=1, max_length=255)]


class Attach(Body):
    root: ClassVar[str] = "os-attach"
    mountpoint: Name
    instance_uuid: str | UnsetType = UNSET
    host_name: Annotated[str, Meta(max_length=255)] | UnsetType = UNSET
    mode: Literal["rw", "ro"] = "rw"


class Detach(Body):
    root: ClassVar[str] = "os-detach"
    attachment_id: str | None = None


class ForceDetach(Body):
    root: ClassVar[str] = "os-force_detach"
    attachment_id: str | None = None
    connector: dict[str, Any] | str | None = None


class Initialize(Body):
    root: ClassVar[str] = "os-initialize_connection"
    connector: dict[str, Any] | str


class Terminate(Body):
    root: ClassVar[str] = "os-terminate_connection"
    unknown: ClassVar[Extra] = IGNORE
    connector: dict[str, Any] | str | None


class VolumeConnecting(OfVolume):
    @operation("POST", ACTION, _RULE + "reserve", action="os-reserve", status=202)
    async def reserve(self, ctx: Context, volume: Volume) -> None:
        others = await attachment.of_volume(ctx.runtime.store, volume.id)
        attaching.check_free(volume, others, "")
        await _become(ctx, volume, states.ATTACHING)

    @operation("POST", ACTION, _RULE + "unreserve", action="os-unreserve", status=202)
    async def unreserve(self, ctx: Context, volume: Volume) -> None:
        """What is not reserved stays as it is."""
        if volume.status == states.ATTACHING:
            others = await attachment.of_volume(ctx.runtime.store, volume.id)
            await _become(ctx, volume, attaching.status_of(others))

    @operation("POST", ACTION, _RULE + "begin_detaching", action="os-begin_detaching", status=202)
    async def begin_detaching(self, ctx: Context, volume: Volume) -> None:
        if volume.shown != states.IN_USE:
            raise checks.unfit(
                "volume",
                f"Unable to detach volume. Volume status must be 'in-use' and attach_status must be "
                f"'attached' to detach; it is {volume.shown}.",
            )
        await _become(ctx, volume, states.DETACHING)

    @operation("POST", ACTION, _RULE + "roll_detaching", action="os-roll_detaching", status=202)
    async def roll_detaching(self, ctx: Context, volume: Volume) -> None:
        if volume.status == states.DETACHING:
            await _become(ctx, volume, states.IN_USE)

    @operation("POST", ACTION, _RULE + "attach", action="os-attach", status=202)
    async def attach(self, ctx: Context, volume: Volume, body: Attach) -> None:
        """Says that it is attached: it stands after the deed."""
        if body.instance_uuid is UNSET and body.host_name is UNSET:
            raise Invalid("One of instance_uuid and host_name is needed.")
        if volume.is_read_only and body.mode != "ro":
            raise checks.unfit("volume", f"{volume.id} is read-only; attach it with mode ro.")
        ready = {states.AVAILABLE, states.ATTACHING}
        ready |= {states.IN_USE} if volume.is_multiattach else set()
        if volume.shown not in ready:
            raise checks.unfit(
                "volume", f"Volume {volume.id} is {volume.shown}; it must be available."
            )
        one = Attachment(
            id=ctx.runtime.world.new_id(),
            volume_id=volume.id,
            project_id=volume.project_id,
            server_id=checks.uuid_of(body.instance_uuid, "instance_uuid")
            if body.instance_uuid is not UNSET
            else "",
            status=ATTACHED,
            mode=body.mode,
            device=body.mountpoint,
            host_name=body.host_name if body.host_name is not UNSET else None,
        )
        async with ctx.runtime.store.tx() as tx:
            one = await ATTACHMENTS.insert(tx, msgspec.structs.replace(one, attached_at=tx.now))
            await attaching.change(tx, one)

    @operation("POST", ACTION, _RULE + "detach", action="os-detach", status=202)
    async def detach(self, ctx: Context, volume: Volume, body: Detach) -> None:
        one = await self._which(ctx, volume, body.attachment_id)
        if one is None:
            await self._free(ctx, volume)
            return
        refuse_used(ctx, one)
        await attaching.detach(ctx.runtime, one.id)

    @operation(
        "POST",
        ACTION,
        "volume_extension:volume_admin_actions:force_detach",
        action="os-force_detach",
        status=202,
    )
    async def force_detach(self, ctx: Context, volume: Volume, body: ForceDetach) -> None:
        one = await self._which(ctx, volume, body.attachment_id)
        mends = states.ATTACHED_STATES
        if one is not None:
            refuse_used(ctx, one)
            await attaching.detach(ctx.runtime, one.id)
            mends |= {states.ERROR}  # set by hand: one that was never made has no attachment
        await self._free(ctx, await VOLUMES.get(ctx.runtime.store, volume.id), mends)

    async def _free(
        self, ctx: Context, volume: Volume, of: frozenset[str] = states.ATTACHED_STATES
    ) -> None:
        if volume.status in of:
            others = await attachment.of_volume(ctx.runtime.store, volume.id)
            await _become(ctx, volume, attaching.status_of(others))

    async def _which(
        self, ctx: Context, volume: Volume, attachment_id: str | None
    ) -> Attachment | None:
        """The attachment that is meant. Raises NotFound, Invalid where several could be."""
        there = await attachment.of_volume(ctx.runtime.store, volume.id)
        if attachment_id:
            for one in there:
                if one.id == attachment_id:
                    return one
            raise NotFound(f"Volume attachment could not be found with filter: {attachment_id}.")
        if len(there) > 1:
            raise checks.unfit(
                "volume", "Detach volume failed: More than one attachment, but no attachment_id."
            )
        return there[0] if there else None

    @operation(
        "POST",
        ACTION,
        _RULE + "initialize_connection",
        action="os-initialize_connection",
        status=200,
    )
    async def initialize(self, ctx: Context, volume: Volume, body: Initialize) -> dict[str, Any]:
        if not isinstance(body.connector, dict):
            raise Invalid("The connector must be an object.")
        read_only = bool(volume.is_read_only)
        export = await attaching.exported(ctx.runtime, volume, volume.id, read_only, body.connector)
        info = attachment.connection_info(volume.id, export, bool(volume.sealed))
        return {
            "connection_info": {
                "driver_volume_type": info.pop("driver_volume_type"),
                "data": info,
                "enforce_multipath": body.connector.get("enforce_multipath", False),
            }
        }

    @operation(
        "POST", ACTION, _RULE + "terminate_connection", action="os-terminate_connection", status=202
    )
    async def terminate(self, ctx: Context, volume: Volume, body: Terminate) -> None:
        if volume.host:
            host = await attaching.at(ctx.runtime, volume)
            await host.withdraw(backend_of(volume), volume.id)


async def _become(ctx: Context, volume: Volume, status: str) -> None:
    async with ctx.runtime.store.tx() as tx:
        await VOLUMES.change(tx, volume, status=status)

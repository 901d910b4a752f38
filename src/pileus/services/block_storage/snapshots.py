"""Snapshots: what a volume was at one moment.

https://docs.openstack.org/api-ref/block-storage/v3/#volume-snapshots-snapshots
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any, ClassVar, Literal

from msgspec import UNSET, UnsetType

from pileus.kernel.events import emit
from pileus.kernel.faults import Invalid, NotFound
from pileus.kernel.query import Filter, Listing
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.sagas import Run, Saga, Step
from pileus.kernel.schema import IGNORE, Body, Extra

from . import checks, messages, states
from .agent_contract import VOLUME_HOST
from .checks import Flag, Map, Text
from .snapshot import SNAPSHOTS, Snapshot, backend_name
from .volume import VOLUMES, Volume, backend_of
from .volumes.operations import MetaBody, MetadataBody

PATH = "/snapshots/{snapshot_id}"
_METADATA, _ITEM, ACTION = PATH + "/metadata", PATH + "/metadata/{key}", PATH + "/action"
_ADMIN = "volume_extension:snapshot_admin_actions:"


class CreateSnapshot(Body):
    root: ClassVar[str] = "snapshot"
    unknown: ClassVar[Extra] = IGNORE
    volume_id: str | None
    name: Text = UNSET
    description: Text = UNSET
    display_name: Text = UNSET
    display_description: Text = UNSET
    metadata: Map | None = None
    force: Flag | None = None


class UpdateSnapshot(Body):
    root: ClassVar[str] = "snapshot"
    name: Text = UNSET
    description: Text = UNSET
    display_name: Text = UNSET
    display_description: Text = UNSET


class ResetStatus(Body):
    root: ClassVar[str] = "os-reset_status"
    status: Literal["available", "creating", "deleting", "error", "error_deleting"]


class UpdateStatus(Body):
    root: ClassVar[str] = "os-update_snapshot_status"
    status: str
    progress: str | UnsetType = UNSET


# The sagas


async def take(run: Run[Snapshot]) -> None:
    """The host keeps the volume as it is now."""
    volume = await VOLUMES.get(run.runtime.store, run.record.volume_id)
    host = await run.agent(VOLUME_HOST, on=volume.host)
    await host.snapshot(backend_of(volume), backend_name(run.record))


async def drop(run: Run[Snapshot]) -> None:
    await _dropped(run)
    await messages.tell(run, "VOLUME_SNAPSHOT", "snapshot")


async def remove(run: Run[Snapshot]) -> None:
    await _dropped(run)


async def _dropped(run: Run[Snapshot]) -> None:
    volume = await VOLUMES.find(run.runtime.store, run.record.volume_id)
    if volume is not None and volume.host:
        host = await run.agent(VOLUME_HOST, on=volume.host)
        await host.delete_snapshot(backend_of(volume), backend_name(run.record))


CREATE = Saga("snapshot.create", SNAPSHOTS, states.SNAPSHOT, "create", Step(take, drop))
DELETE = Saga("snapshot.delete", SNAPSHOTS, states.SNAPSHOT, "delete", Step(remove))


# What is shown


def view(ctx: Context, s: Snapshot, *, full: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": s.id,
        "name": s.name,
        "description": s.description,
        "volume_id": s.volume_id,
        "status": s.status,
        "size": s.size,
        "created_at": checks.moment(s.created_at),
        "updated_at": checks.moment(s.updated_at),
        "metadata": s.metadata,
    }
    if full:
        done = "100%" if s.status == states.AVAILABLE else "0%"
        found["os-extended-snapshot-attributes:progress"] = s.progress or done
        found["os-extended-snapshot-attributes:project_id"] = s.project_id
    if full and ctx.version >= (3, 14):
        found["group_snapshot_id"] = s.group_snapshot_id
    if full and ctx.version >= (3, 41):
        found["user_id"] = s.user_id
    if full and ctx.version >= (3, 65):
        found["consumes_quota"] = True
    return found


def check_source(volume: Volume, *, force: bool) -> None:
    """Raises Invalid unless a snapshot may be taken of it."""
    if volume.shown == states.AVAILABLE or (force and volume.shown == states.IN_USE):
        return
    raise checks.unfit(
        "volume",
        f"Volume {volume.id} status must be available to take a snapshot, or in-use where that is "
        f"asked for, but the current status is {volume.shown}.",
    )


class OfSnapshot(Resource[Snapshot]):
    """What all that is done to one snapshot shares."""

    table = SNAPSHOTS
    id_param = "snapshot_id"
    see = "volume:get_snapshot"


class Snapshots(OfSnapshot):
    sagas = (CREATE, DELETE)
    listing = Listing(
        filters={
            "name": Filter(),
            "status": Filter(),
            "volume_id": Filter(),
            "group_snapshot_id": Filter(),
        },
        sorts={
            name: name
            for name in ("id", "name", "status", "created_at", "size", "volume_id", "user_id")
        }
        | {"display_name": "name"},
        colon_sort=True,
    )

    @operation("POST", "/snapshots", "volume:create_snapshot", status=202)
    async def create(self, ctx: Context, body: CreateSnapshot) -> dict[str, Any]:
        store = ctx.runtime.store
        asked = body.volume_id and checks.uuid_of(body.volume_id, "volume_id")
        volume = await VOLUMES.find(store, asked or "")
        if volume is None or not ctx.allows("volume:get", {"project_id": volume.project_id}):
            raise NotFound(f"Volume {body.volume_id} could not be found.")
        ctx.require("volume:create_snapshot", {"project_id": volume.project_id})
        check_source(volume, force=_forced(ctx, body))
        snapshot = Snapshot(
            id=ctx.runtime.world.new_id(),
            project_id=volume.project_id,
            user_id=ctx.caller.user_id,
            volume_id=volume.id,
            volume_type_id=volume.volume_type_id,
            size=volume.size,
            metadata=checks.metadata(body.metadata),
            **checks.changed(body, "name", "description"),
        )
        async with store.tx() as tx:  # no delete may begin meanwhile
            check_source(await VOLUMES.get(tx, volume.id), force=True)
            snapshot, entry = await ctx.runtime.sagas.begin(
                tx, CREATE, snapshot, caller=ctx.caller, request_id=ctx.request_id
            )
        ctx.runtime.sagas.launch(entry)
        return {"snapshot": view(ctx, snapshot, full=False)}

    @operation("GET", "/snapshots", "volume:get_all_snapshots")
    async def index(self, ctx: Context) -> dict[str, Any]:
        return await self._listed(ctx, full=False)

    @operation("GET", "/snapshots/detail", "volume:get_all_snapshots")
    async def detail(self, ctx: Context) -> dict[str, Any]:
        return await self._listed(ctx, full=True)

    async def _listed(self, ctx: Context, *, full: bool) -> dict[str, Any]:
        shown = checks.each(partial(view, ctx, full=full))
        maps = ("metadata",) if ctx.version >= (3, 22) else ()
        page = checks.page_of(ctx, self.listing, maps=maps)
        return await checks.listed(ctx, SNAPSHOTS, page, "snapshots", shown)

    @operation("GET", PATH, "volume:get_snapshot")
    async def show(self, ctx: Context, snapshot: Snapshot) -> dict[str, Any]:
        return {"snapshot": view(ctx, snapshot, full=True)}

    @operation("PUT", PATH, "volume:update_snapshot")
    async def update(
        self, ctx: Context, snapshot: Snapshot, body: UpdateSnapshot
    ) -> dict[str, Any]:
        changes = checks.changed(body, "name", "description")
        if not changes:
            raise Invalid("At least one of name and description is needed.")
        return {"snapshot": view(ctx, await change(ctx, snapshot, **changes), full=False)}

    @operation("DELETE", PATH, "volume:delete_snapshot", status=202)
    async def delete(self, ctx: Context, snapshot: Snapshot) -> None:
        await remove_snapshot(ctx, snapshot)

    # Metadata

    @operation("GET", _METADATA, "volume:get_snapshot_metadata")
    async def metadata(self, ctx: Context, snapshot: Snapshot) -> dict[str, Any]:
        return {"metadata": snapshot.metadata}

    @operation("POST", _METADATA, "volume:update_snapshot_metadata", status=200)
    async def add_metadata(
        self, ctx: Context, snapshot: Snapshot, body: MetadataBody
    ) -> dict[str, Any]:
        wanted = snapshot.metadata | checks.metadata(body.metadata)
        return {"metadata": (await change(ctx, snapshot, metadata=wanted)).metadata}

    @operation("PUT", _METADATA, "volume:update_snapshot_metadata")
    async def replace_metadata(
        self, ctx: Context, snapshot: Snapshot, body: MetadataBody
    ) -> dict[str, Any]:
        wanted = checks.metadata(body.metadata)
        return {"metadata": (await change(ctx, snapshot, metadata=wanted)).metadata}

    @operation("GET", _ITEM, "volume:get_snapshot_metadata")
    async def meta(self, ctx: Context, snapshot: Snapshot, key: str) -> dict[str, Any]:
        what = f"Snapshot {snapshot.id}"
        return {"meta": {key: checks.known_keys(snapshot.metadata, key, what)}}

    @operation("PUT", _ITEM, "volume:update_snapshot_metadata")
    async def set_meta(
        self, ctx: Context, snapshot: Snapshot, key: str, body: MetaBody
    ) -> dict[str, Any]:
        if list(body.meta) != [key]:
            raise Invalid("Request body and URI mismatch")
        await change(ctx, snapshot, metadata=snapshot.metadata | checks.metadata(body.meta))
        return {"meta": body.meta}

    @operation("DELETE", _ITEM, "volume:delete_snapshot_metadata", status=200)
    async def delete_meta(self, ctx: Context, snapshot: Snapshot, key: str) -> None:
        checks.known_keys(snapshot.metadata, key, f"Snapshot {snapshot.id}")
        left = {k: v for k, v in snapshot.metadata.items() if k != key}
        await change(ctx, snapshot, metadata=left)

    # Actions

    @operation("POST", ACTION, _ADMIN + "reset_status", action="os-reset_status", status=202)
    async def reset_status(self, ctx: Context, snapshot: Snapshot, body: ResetStatus) -> None:
        await change(ctx, snapshot, status=body.status)

    @operation("POST", ACTION, _ADMIN + "force_delete", action="os-force_delete", status=202)
    async def force_delete(self, ctx: Context, snapshot: Snapshot) -> None:
        if snapshot.status not in (states.AVAILABLE, states.ERROR, states.ERROR_DELETING):
            snapshot = await change(ctx, snapshot, status=states.ERROR)
        await checks.begin(ctx, DELETE, snapshot)

    @operation(
        "POST",
        ACTION,
        "snapshot_extension:snapshot_actions:update_snapshot_status",
        action="os-update_snapshot_status",
        status=202,
    )
    async def update_status(self, ctx: Context, snapshot: Snapshot, body: UpdateStatus) -> None:
        """What a hypervisor says that helps with a snapshot."""
        following = {
            states.CREATING: (states.CREATING, states.AVAILABLE, states.ERROR),
            states.DELETING: (states.DELETING, states.ERROR_DELETING),
        }
        if body.status not in following.get(snapshot.status, ()):
            raise Invalid(
                f"Snapshot status {snapshot.status} not allowed for update_snapshot_status"
                if snapshot.status not in following
                else f"Provided snapshot status {body.status} not allowed for snapshot with status "
                f"{snapshot.status}."
            )
        said = body.progress if body.progress is not UNSET else snapshot.progress
        if said and not re.fullmatch(r"[0-9]{1,3}%?", said):
            raise checks.wrong("progress", said, "It must be an integer or a percentage")
        await change(ctx, snapshot, status=body.status, progress=said)


def _forced(ctx: Context, body: CreateSnapshot) -> bool:
    """From 3.66 on it is not asked whether the volume is in use. Raises Invalid."""
    if ctx.version < (3, 66):
        return body.force is not None and checks.flag(body.force, "force")
    if body.force is not None and not checks.flag(body.force, "force"):
        raise Invalid(
            "Invalid input received: You cannot use the 'force' flag: a snapshot of a volume in use "
            "is taken anyway since 3.66."
        )
    return True


async def remove_snapshot(ctx: Context, snapshot: Snapshot) -> None:
    """Raises Invalid for one in a group's."""
    if snapshot.group_snapshot_id:
        raise checks.unfit(
            "snapshot", f"{snapshot.id} belongs to group snapshot {snapshot.group_snapshot_id}."
        )
    await checks.begin(ctx, DELETE, snapshot)


async def change(ctx: Context, snapshot: Snapshot, **changes: Any) -> Snapshot:
    async with ctx.runtime.store.tx() as tx:
        snapshot = await SNAPSHOTS.change(tx, snapshot, **changes)
        await emit(tx, "snapshot.update.end", snapshot.project_id, id=snapshot.id)
    return snapshot

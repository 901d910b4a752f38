"""Snapshots that a host has and nobody manages: given up, listed, and taken over again.

https://docs.openstack.org/api-ref/block-storage/v3/#snapshot-manage-extension-manageable-snapshots
"""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import UNSET

from pileus.kernel.events import emit
from pileus.kernel.faults import Invalid, NotFound
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import IGNORE, Body, Extra

from . import checks, pools, states
from .checks import Text
from .snapshot import SNAPSHOTS, Snapshot, backend_name
from .snapshots import ACTION, OfSnapshot, view
from .unmanaged import UNMANAGED, Unmanaged
from .volume import VOLUMES, backend_of
from .volumes.moving import manageable, reference

_LIST, _MANAGE = "snapshot_extension:list_manageable", "snapshot_extension:snapshot_manage"


class Manage(Body):
    root: ClassVar[str] = "snapshot"
    unknown: ClassVar[Extra] = IGNORE
    volume_id: str
    ref: dict[str, Any] | str
    name: Text = UNSET
    description: Text = UNSET
    metadata: dict[str, Any] | None = None


class SnapshotUnmanaging(OfSnapshot):
    @operation(
        "POST", ACTION, "snapshot_extension:snapshot_unmanage", action="os-unmanage", status=202
    )
    async def unmanage(self, ctx: Context, snapshot: Snapshot) -> None:
        """Its host keeps it, and we forget it."""
        async with ctx.runtime.store.tx() as tx:
            if snapshot.status != states.AVAILABLE or snapshot.group_snapshot_id:
                raise checks.unfit(
                    "snapshot", f"{snapshot.id} is {snapshot.status} or in a group's."
                )
            volume = await VOLUMES.get(tx, snapshot.volume_id)
            kept = Unmanaged(
                id=backend_name(snapshot), host=volume.host, size=snapshot.size, of=volume.id
            )
            await UNMANAGED.insert(tx, kept)
            await SNAPSHOTS.delete(tx, snapshot)
            await emit(tx, "snapshot.unmanage.end", snapshot.project_id, id=snapshot.id)


class ManageableSnapshots(Resource[Snapshot]):
    table = SNAPSHOTS

    @operation("POST", "/os-snapshot-manage", _MANAGE, status=202)
    @operation("POST", "/manageable_snapshots", _MANAGE, status=202, since="3.8")
    async def manage(self, ctx: Context, body: Manage) -> dict[str, Any]:
        """It is there at once: its host has had it all the time."""
        name = reference(body.ref).removeprefix("_").removeprefix("snapshot-")  # LVM's has the _
        async with ctx.runtime.store.tx() as tx:
            volume = await VOLUMES.find(tx, body.volume_id)
            if volume is None:
                raise NotFound(f"Volume {body.volume_id} could not be found.")
            known = await UNMANAGED.find(tx, name)
            if known is None or known.of != volume.id:
                raise Invalid(f"Manage existing snapshot failed: {volume.id} has no {name}.")
            made = Snapshot(
                id=ctx.runtime.world.new_id(),
                project_id=volume.project_id,
                user_id=ctx.caller.user_id,
                volume_id=volume.id,
                volume_type_id=volume.volume_type_id,
                size=known.size,
                status=states.AVAILABLE,
                backend_id=name,
                metadata=checks.metadata(body.metadata),
                **checks.changed(body, "name", "description"),
            )
            await UNMANAGED.delete(tx, known)
            made = await SNAPSHOTS.insert(tx, made)
        return {"snapshot": view(ctx, made, full=False)}

    @operation("GET", "/manageable_snapshots", _LIST, since="3.8")
    @operation("GET", "/os-snapshot-manage", _LIST)
    async def index(self, ctx: Context) -> dict[str, Any]:
        return {"manageable-snapshots": await self._listed(ctx, full=False)}

    @operation("GET", "/manageable_snapshots/detail", _LIST, since="3.8")
    @operation("GET", "/os-snapshot-manage/detail", _LIST)
    async def detail(self, ctx: Context) -> dict[str, Any]:
        return {"manageable-snapshots": await self._listed(ctx, full=True)}

    async def _listed(self, ctx: Context, *, full: bool) -> list[dict[str, Any]]:
        """What the host has, ours and what nobody manages."""
        store = ctx.runtime.store
        pool = await pools.known(ctx.runtime, ctx.query.get("host"))
        rows = []
        for volume in await VOLUMES.all(store, host=pool.host):
            if volume.pool not in ("", pool.name):
                continue
            ours = await SNAPSHOTS.all(store, volume_id=volume.id)
            free = await UNMANAGED.all(store, of=volume.id)
            named = [(backend_name(s), s.size, s.id) for s in ours]
            named += [(u.id, u.size, "") for u in free]
            source = {"source_reference": {"source-name": backend_of(volume)}}
            rows += [manageable(*row, full=full) | source for row in sorted(named)]
        return rows

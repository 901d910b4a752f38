"""Groups: volumes that are kept together, and snapshots of all of them.

https://docs.openstack.org/api-ref/block-storage/v3/#generic-volume-groups-groups
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pileus.kernel.faults import Invalid, NotFound
from pileus.kernel.query import Filter, Listing
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import Body

from . import checks, pools
from .checks import Flag, Text
from .group import GROUP_SNAPSHOTS, GROUP_TYPES, GROUPS, Group, GroupSnapshot
from .grouping import DELETE, DROP, TAKE, copied, delete, members, new_group, taken
from .volume import VOLUMES
from .volume_type import type_named

_PATH, _ACTION, _SINCE = "/groups/{group_id}", "/groups/{group_id}/action", "3.13"
_SNAPSHOT = "/group_snapshots/{group_snapshot_id}"
_STATUSES = ("available", "creating", "error", "deleting", "updating", "in-use", "error_deleting")


class CreateGroup(Body):
    root: ClassVar[str] = "group"
    group_type: Annotated[str, Meta(min_length=1, max_length=255)]
    volume_types: Annotated[list[str], Meta(min_length=1)]
    name: Text = UNSET
    description: Text = UNSET
    availability_zone: Text = UNSET


class CopyGroup(Body):
    root: ClassVar[str] = "create-from-src"
    name: Text = UNSET
    description: Text = UNSET
    group_snapshot_id: str | UnsetType | None = UNSET
    source_group_id: str | UnsetType | None = UNSET


class UpdateGroup(Body):
    root: ClassVar[str] = "group"
    name: Text = UNSET
    description: Text = UNSET
    add_volumes: str | UnsetType | None = UNSET
    remove_volumes: str | UnsetType | None = UNSET


class DeleteGroup(Body):
    root: ClassVar[str] = "delete"
    with_volumes: Flag = msgspec.field(name="delete-volumes", default=False)


class ResetStatus(Body):
    root: ClassVar[str] = "reset_status"
    status: str


class CreateGroupSnapshot(Body):
    root: ClassVar[str] = "group_snapshot"
    group_id: str
    name: Text = UNSET
    description: Text = UNSET


def _brief(g: Group | GroupSnapshot) -> dict[str, Any]:
    found = {"id": g.id, "name": g.name}
    return found | ({"group_type_id": g.group_type_id} if isinstance(g, GroupSnapshot) else {})


async def _view(ctx: Context, g: Group) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": g.id,
        "status": g.status,
        "availability_zone": g.zone,
        "created_at": checks.moment(g.created_at),
        "name": g.name,
        "description": g.description,
        "group_type": g.group_type_id,
        "volume_types": list(g.volume_types),
    }
    if ctx.version >= (3, 14):
        found |= {"group_snapshot_id": g.group_snapshot_id, "source_group_id": g.source_group_id}
    if ctx.version >= (3, 25) and ctx.query.flag("list_volume"):
        found["volumes"] = [v.id for v in await members(ctx, g)]
    if ctx.version >= (3, 38):
        found["replication_status"] = "disabled"
    if ctx.version >= (3, 58) and ctx.allows("group:group_project_attribute"):
        found["project_id"] = g.project_id
    return found


class Groups(Resource[Group]):
    table = GROUPS
    id_param = "group_id"
    see = "group:get"
    sagas = (DELETE,)
    listing = Listing(
        filters={"name": Filter(), "status": Filter(), "group_type_id": Filter()},
        sorts={name: name for name in ("id", "name", "status", "created_at")},
        colon_sort=True,
    )

    @operation("POST", "/groups", "group:create", since=_SINCE, status=202)
    async def create(self, ctx: Context, body: CreateGroup) -> dict[str, Any]:
        store, asked = ctx.runtime.store, body.group_type
        kind = await GROUP_TYPES.find(store, asked) or await GROUP_TYPES.one(store, name=asked)
        if kind is None:
            raise NotFound(f"Group type {asked} could not be found.")
        types = [(await type_named(ctx, name)).id for name in body.volume_types]
        if body.availability_zone and body.availability_zone != pools.ZONE:
            raise Invalid(f"Availability zone '{body.availability_zone}' is invalid.")
        said = checks.changed(body, "name", "description")
        made = new_group(ctx, kind.id, tuple(types), **said)
        async with store.tx() as tx:
            made = await GROUPS.insert(tx, made)
        return {"group": _brief(made)}

    @operation("POST", "/groups/action", "group:create", action="create-from-src", status=202)
    async def copy(self, ctx: Context, body: CopyGroup) -> dict[str, Any]:
        """A group of copies of another's volumes, or of what a group snapshot kept."""
        if bool(body.group_snapshot_id) == bool(body.source_group_id):
            raise Invalid("Either group_snapshot_id or source_group_id must be given.")
        store, kept = ctx.runtime.store, None
        if body.group_snapshot_id:
            kept = await GROUP_SNAPSHOTS.get(store, body.group_snapshot_id)
            ctx.require("group:get_group_snapshot", {"project_id": kept.project_id})
            source = await GROUPS.get(store, kept.group_id)
        else:
            source = await GROUPS.get(store, str(body.source_group_id))
        if not ctx.allows("group:get", {"project_id": source.project_id}):
            raise GROUPS.missing(source.id)
        said = checks.changed(body, "name", "description")
        return {"group": _brief(await copied(ctx, source, kept, **said))}

    @operation("GET", "/groups", "group:get_all", since=_SINCE)
    async def index(self, ctx: Context) -> dict[str, Any]:
        return await self._listed(ctx, _brief)

    @operation("GET", "/groups/detail", "group:get_all", since=_SINCE)
    async def detail(self, ctx: Context) -> dict[str, Any]:
        return await self._listed(ctx, partial(_view, ctx))

    async def _listed(self, ctx: Context, view: Any) -> dict[str, Any]:
        page = checks.page_of(ctx, self.listing, is_consistent=0)
        return await checks.listed(ctx, GROUPS, page, "groups", checks.each(view), counts=(9, 9))

    @operation("GET", _PATH, "group:get", since=_SINCE)
    async def show(self, ctx: Context, group: Group) -> dict[str, Any]:
        return {"group": await _view(ctx, group)}

    @operation("PUT", _PATH, "group:update", since=_SINCE, status=202)
    async def update(self, ctx: Context, group: Group, body: UpdateGroup) -> None:
        """Its name, its description, and which volumes are in it."""
        if not body.given():
            raise Invalid("A name, a description, add_volumes or remove_volumes is needed.")
        added, gone = _ids(body.add_volumes), _ids(body.remove_volumes)
        if set(added) & set(gone):
            raise checks.unfit("group", f"{set(added) & set(gone)} is both added and removed.")
        async with ctx.runtime.store.tx() as tx:
            for id in added:
                volume = await VOLUMES.find(tx, id)
                if volume is None or volume.project_id != group.project_id:
                    raise checks.unfit("volume", f"Volume {id} is not there to be added.")
                if volume.group_id not in (None, group.id):
                    raise checks.unfit("volume", f"Volume {id} is in group {volume.group_id}.")
                if volume.volume_type_id not in group.volume_types:
                    raise checks.unfit("volume", f"The group does not take volume {id}'s type.")
                await VOLUMES.change(tx, volume, group_id=group.id)
            for id in gone:
                volume = await VOLUMES.find(tx, id)
                if volume is None or volume.group_id != group.id:
                    raise checks.unfit("volume", f"Volume {id} is not in group {group.id}.")
                await VOLUMES.change(tx, volume, group_id=None)
            await GROUPS.change(tx, group, **checks.changed(body, "name", "description"))

    @operation("POST", _ACTION, "group:delete", action="delete", since=_SINCE, status=202)
    async def delete(self, ctx: Context, group: Group, body: DeleteGroup) -> None:
        with_volumes = checks.flag(body.with_volumes, "delete-volumes")
        await delete(ctx, group, with_volumes=with_volumes)

    @operation(
        "POST", _ACTION, "group:reset_status", action="reset_status", since="3.20", status=202
    )
    async def reset_status(self, ctx: Context, group: Group, body: ResetStatus) -> None:
        status = _status(body)
        async with ctx.runtime.store.tx() as tx:
            await GROUPS.change(tx, group, status=status)


def _ids(text: str | UnsetType | None) -> list[str]:
    return [id.strip() for id in text.split(",") if id.strip()] if text else []


def _status(body: ResetStatus) -> str:
    if body.status.lower() not in _STATUSES:
        raise Invalid(f"Invalid status: {body.status}; it must be one of {', '.join(_STATUSES)}.")
    return body.status.lower()


class GroupSnapshots(Resource[GroupSnapshot]):
    table = GROUP_SNAPSHOTS
    id_param = "group_snapshot_id"
    see = "group:get_group_snapshot"
    sagas = (TAKE, DROP)
    listing = Listing(
        filters={"name": Filter(), "status": Filter(), "group_id": Filter()},
        sorts={name: name for name in ("id", "name", "status", "created_at", "group_id")},
        colon_sort=True,
    )

    @operation("POST", "/group_snapshots", "group:create_group_snapshot", since="3.14", status=202)
    async def create(self, ctx: Context, body: CreateGroupSnapshot) -> dict[str, Any]:
        store = ctx.runtime.store
        group = await GROUPS.find(store, checks.uuid_of(body.group_id, "group_id"))
        if group is None or not ctx.allows("group:get", {"project_id": group.project_id}):
            raise NotFound(f"Group {body.group_id} could not be found.")
        made = await taken(ctx, group, **checks.changed(body, "name", "description"))
        return {"group_snapshot": _brief(made)}

    @operation("GET", "/group_snapshots", "group:get_all_group_snapshots", since="3.14")
    async def index(self, ctx: Context) -> dict[str, Any]:
        return await self._listed(ctx, _brief)

    @operation("GET", "/group_snapshots/detail", "group:get_all_group_snapshots", since="3.14")
    async def detail(self, ctx: Context) -> dict[str, Any]:
        return await self._listed(ctx, partial(self._view, ctx))

    async def _listed(self, ctx: Context, view: Any) -> dict[str, Any]:
        page = checks.page_of(ctx, self.listing, is_consistent=0)
        key = "group_snapshots"
        return await checks.listed(
            ctx, GROUP_SNAPSHOTS, page, key, checks.each(view), counts=(9, 9)
        )

    @operation("GET", _SNAPSHOT, "group:get_group_snapshot", since="3.14")
    async def show(self, ctx: Context, kept: GroupSnapshot) -> dict[str, Any]:
        return {"group_snapshot": self._view(ctx, kept)}

    def _view(self, ctx: Context, g: GroupSnapshot) -> dict[str, Any]:
        found = _brief(g) | {
            "group_id": g.group_id,
            "status": g.status,
            "created_at": checks.moment(g.created_at),
            "description": g.description,
        }
        if ctx.version >= (3, 58) and ctx.allows("group:group_snapshot_project_attribute"):
            found["project_id"] = g.project_id
        return found

    @operation("DELETE", _SNAPSHOT, "group:delete_group_snapshot", since="3.14", status=202)
    async def delete(self, ctx: Context, kept: GroupSnapshot) -> None:
        await checks.begin(ctx, DROP, kept)

    @operation(
        "POST",
        _SNAPSHOT + "/action",
        "group:reset_group_snapshot_status",
        action="reset_status",
        since="3.19",
        status=202,
    )
    async def reset_status(self, ctx: Context, kept: GroupSnapshot, body: ResetStatus) -> None:
        status = _status(body)
        async with ctx.runtime.store.tx() as tx:
            await GROUP_SNAPSHOTS.change(tx, kept, status=status)

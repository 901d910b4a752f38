"""Consistency groups and their snapshots: groups by an older name.

https://docs.openstack.org/api-ref/block-storage/v3/#consistency-groups-consistencygroups-deprecated
"""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import UNSET

from pileus.kernel.faults import Invalid
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import IGNORE, Body, Extra

from . import checks
from .checks import Flag, Text
from .group import GROUP_SNAPSHOTS, GROUPS, Group, GroupSnapshot
from .grouping import DROP, copied, delete, new_group, taken
from .groups import Groups, GroupSnapshots, UpdateGroup
from .volume_type import type_named

_PATH, _SNAPSHOT = "/consistencygroups/{group_id}", "/cgsnapshots/{group_snapshot_id}"


class CreateConsistencyGroup(Body):
    root: ClassVar[str] = "consistencygroup"
    unknown: ClassVar[Extra] = IGNORE
    volume_types: str
    name: Text = UNSET
    description: Text = UNSET


class CopyConsistencyGroup(Body):
    root: ClassVar[str] = "consistencygroup-from-src"
    unknown: ClassVar[Extra] = IGNORE
    name: Text = UNSET
    description: Text = UNSET
    cgsnapshot_id: str | None = None
    source_cgid: str | None = None


class UpdateConsistencyGroup(UpdateGroup):
    root: ClassVar[str] = "consistencygroup"


class DeleteConsistencyGroup(Body):
    root: ClassVar[str] = "consistencygroup"
    force: Flag = False


class CreateCgsnapshot(Body):
    root: ClassVar[str] = "cgsnapshot"
    unknown: ClassVar[Extra] = IGNORE
    consistencygroup_id: str
    name: Text = UNSET
    description: Text = UNSET


def _brief(g: Group | GroupSnapshot) -> dict[str, Any]:
    return {"id": g.id, "name": g.name}


def _view(g: Group) -> dict[str, Any]:
    return _brief(g) | {
        "status": g.status,
        "availability_zone": g.zone,
        "created_at": checks.moment(g.created_at),
        "description": g.description,
        "volume_types": list(g.volume_types),
    }


def _kept(g: GroupSnapshot) -> dict[str, Any]:
    return _brief(g) | {
        "consistencygroup_id": g.group_id,
        "status": g.status,
        "created_at": checks.moment(g.created_at),
        "description": g.description,
    }


class ConsistencyGroups(Resource[Group]):
    table = GROUPS
    id_param = "group_id"
    see = "group:get"

    @operation("POST", "/consistencygroups", "group:create", status=202)
    async def create(self, ctx: Context, body: CreateConsistencyGroup) -> dict[str, Any]:
        names = [name for name in body.volume_types.split(",") if name.strip()]
        if not names:
            raise Invalid("volume_types must be provided to create a consistency group.")
        types = [(await type_named(ctx, name.strip())).id for name in names]
        said = checks.changed(body, "name", "description")
        async with ctx.runtime.store.tx() as tx:
            made = new_group(ctx, "", tuple(types), is_consistent=True, **said)
            made = await GROUPS.insert(tx, made)
        return {"consistencygroup": _brief(made)}

    @operation("POST", "/consistencygroups/create_from_src", "group:create", status=202)
    async def copy(self, ctx: Context, body: CopyConsistencyGroup) -> dict[str, Any]:
        kept = None
        if bool(body.cgsnapshot_id) == bool(body.source_cgid):
            raise Invalid("Either cgsnapshot_id or source_cgid must be given.")
        if body.cgsnapshot_id:
            kept = await Cgsnapshots().visible(ctx, body.cgsnapshot_id)
        source = await self.visible(ctx, kept.group_id if kept else str(body.source_cgid))
        said = checks.changed(body, "name", "description")
        return {"consistencygroup": _brief(await copied(ctx, source, kept, **said))}

    @operation("GET", "/consistencygroups", "group:get_all")
    async def index(self, ctx: Context) -> dict[str, Any]:
        return await self._listed(ctx, _brief)

    @operation("GET", "/consistencygroups/detail", "group:get_all")
    async def detail(self, ctx: Context) -> dict[str, Any]:
        return await self._listed(ctx, _view)

    async def _listed(self, ctx: Context, one: Any) -> dict[str, Any]:
        page = checks.page_of(ctx, Groups.listing, is_consistent=1)
        return await checks.listed(
            ctx, GROUPS, page, "consistencygroups", checks.each(one), counts=(9, 9)
        )

    @operation("GET", _PATH, "group:get")
    async def show(self, ctx: Context, group: Group) -> dict[str, Any]:
        return {"consistencygroup": _view(group)}

    @operation("PUT", _PATH + "/update", "group:update", status=202)
    async def update(self, ctx: Context, group: Group, body: UpdateConsistencyGroup) -> None:
        await Groups().update(ctx, group, body)

    @operation("POST", _PATH + "/delete", "group:delete", status=202)
    async def delete(self, ctx: Context, group: Group, body: DeleteConsistencyGroup) -> None:
        await delete(ctx, group, with_volumes=checks.flag(body.force, "force"))


class Cgsnapshots(Resource[GroupSnapshot]):
    table = GROUP_SNAPSHOTS
    id_param = "group_snapshot_id"
    see = "group:get_group_snapshot"

    @operation("POST", "/cgsnapshots", "group:create_group_snapshot", status=202)
    async def create(self, ctx: Context, body: CreateCgsnapshot) -> dict[str, Any]:
        group = await Groups().visible(ctx, body.consistencygroup_id)
        made = await taken(ctx, group, **checks.changed(body, "name", "description"))
        return {"cgsnapshot": _brief(made)}

    @operation("GET", "/cgsnapshots", "group:get_all_group_snapshots")
    async def index(self, ctx: Context) -> dict[str, Any]:
        return await self._listed(ctx, _brief)

    @operation("GET", "/cgsnapshots/detail", "group:get_all_group_snapshots")
    async def detail(self, ctx: Context) -> dict[str, Any]:
        return await self._listed(ctx, _kept)

    async def _listed(self, ctx: Context, one: Any) -> dict[str, Any]:
        page = checks.page_of(ctx, GroupSnapshots.listing, is_consistent=1)
        return await checks.listed(
            ctx, GROUP_SNAPSHOTS, page, "cgsnapshots", checks.each(one), counts=(9, 9)
        )

    @operation("GET", _SNAPSHOT, "group:get_group_snapshot")
    async def show(self, ctx: Context, kept: GroupSnapshot) -> dict[str, Any]:
        return {"cgsnapshot": _kept(kept)}

    @operation("DELETE", _SNAPSHOT, "group:delete_group_snapshot", status=202)
    async def delete(self, ctx: Context, kept: GroupSnapshot) -> None:
        await checks.begin(ctx, DROP, kept)

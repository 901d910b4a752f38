"""Group types: what groups ask of a back end.

https://docs.openstack.org/api-ref/block-storage/v3/#group-types-group-types
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar

from msgspec import UNSET, Meta, UnsetType

from pileus.kernel.faults import Invalid, NotFound
from pileus.kernel.query import Listing
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import KEEP, Body, Extra
from pileus.kernel.store import Page

from . import checks
from .checks import Flag, Text
from .group import GROUP_TYPES, GROUPS, GroupType

_PATH = "/group_types/{group_type_id}"
_RULE, _SPECS = "group:group_types:", "group:group_types_specs:"
_ALL, _ONE, _SINCE = _PATH + "/group_specs", _PATH + "/group_specs/{key}", "3.11"


class CreateType(Body):
    root: ClassVar[str] = "group_type"
    name: Annotated[str, Meta(min_length=1, max_length=255)]
    description: Text = UNSET
    is_public: Flag | UnsetType = UNSET
    group_specs: dict[str, Any] | None = None


class UpdateType(Body):
    root: ClassVar[str] = "group_type"
    name: Text = UNSET
    description: Text = UNSET
    is_public: Flag | UnsetType | None = UNSET


class AddSpecs(Body):
    group_specs: dict[str, Any]


class PutSpec(Body):
    unknown: ClassVar[Extra] = KEEP


def _view(ctx: Context, t: GroupType) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": t.id,
        "name": t.name,
        "description": t.description,
        "is_public": t.is_public,
    }
    if ctx.allows("group:access_group_types_specs"):
        found["group_specs"] = t.group_specs
    return found


class GroupTypes(Resource[GroupType]):
    table = GROUP_TYPES
    id_param = "group_type_id"
    listing = Listing(
        sorts={"id": "id", "name": "name", "created_at": "created_at"}, colon_sort=True
    )

    async def load(self, ctx: Context, id: str) -> GroupType:
        found = await GROUP_TYPES.find(ctx.runtime.store, id)
        if found is None or not (found.is_public or ctx.caller.is_admin):
            raise NotFound(f"Group type {id} could not be found.")
        return found

    def target(self, ctx: Context, record: GroupType) -> Mapping[str, object]:
        """Types belong to nobody: the caller's own project is asked about."""
        return ctx.own

    @operation("GET", "/group_types", "group:get_all", since=_SINCE)
    async def index(self, ctx: Context) -> dict[str, Any]:
        page = self.listing.parse(ctx.query)
        asked = ctx.query.get("is_public") or ("true" if not ctx.caller.is_admin else "none")
        if not ctx.caller.is_admin or asked.lower() != "none":
            wanted = not ctx.caller.is_admin or checks.flag(asked, "is_public")
            page = self.listing.parse(ctx.query, is_public=int(wanted))
        each = checks.each(partial(_view, ctx))
        return await checks.listed(ctx, GROUP_TYPES, page, "group_types", each, counts=(9, 9))

    @operation("POST", "/group_types", _RULE + "create", since=_SINCE, status=202)
    async def create(self, ctx: Context, body: CreateType) -> dict[str, Any]:
        made = GroupType(
            id=ctx.runtime.world.new_id(),
            name=body.name.strip(),
            description=checks.name_of(body.description),
            is_public=body.is_public is UNSET or checks.flag(body.is_public, "is_public"),
            group_specs=checks.metadata(body.group_specs, "group_specs"),
        )
        async with ctx.runtime.store.tx() as tx:
            made = await GROUP_TYPES.insert(tx, made)
        return {"group_type": _view(ctx, made)}

    @operation("GET", _PATH, "group:get_all", since=_SINCE)
    async def show(self, ctx: Context, kind: GroupType) -> dict[str, Any]:
        return {"group_type": _view(ctx, kind)}

    @operation("PUT", _PATH, _RULE + "update", since=_SINCE, status=200)
    async def update(self, ctx: Context, kind: GroupType, body: UpdateType) -> dict[str, Any]:
        changes = checks.changed(body, "name", "description")
        if body.is_public is not UNSET and body.is_public is not None:
            changes["is_public"] = checks.flag(body.is_public, "is_public")
        if not changes or changes.get("name", "x") == "":
            raise Invalid("A name, a description or is_public is needed, and no empty name.")
        return {"group_type": _view(ctx, await self._change(ctx, kind, **changes))}

    @operation("DELETE", _PATH, _RULE + "delete", since=_SINCE, status=202)
    async def delete(self, ctx: Context, kind: GroupType) -> None:
        async with ctx.runtime.store.tx() as tx:
            if await GROUPS.count(tx, Page({"group_type_id": kind.id})):
                raise Invalid(
                    f"Target group type is still in use: group_type_id={kind.id} has groups."
                )
            await GROUP_TYPES.delete(tx, kind)

    # Specs

    @operation("GET", _ALL, _SPECS + "get_all", since=_SINCE)
    async def specs(self, ctx: Context, kind: GroupType) -> dict[str, Any]:
        return {"group_specs": kind.group_specs}

    @operation("POST", _ALL, _SPECS + "create", since=_SINCE, status=202)
    async def add_specs(self, ctx: Context, kind: GroupType, body: AddSpecs) -> dict[str, Any]:
        added = checks.metadata(body.group_specs, "group_specs")
        await self._change(ctx, kind, group_specs=kind.group_specs | added)
        return {"group_specs": body.group_specs}

    @operation("GET", _ONE, _SPECS + "get", since=_SINCE)
    async def spec(self, ctx: Context, kind: GroupType, key: str) -> dict[str, Any]:
        return {key: self._value(kind, key)}

    @operation("PUT", _ONE, _SPECS + "update", since=_SINCE)
    async def set_spec(
        self, ctx: Context, kind: GroupType, key: str, body: PutSpec
    ) -> dict[str, Any]:
        given: dict[str, Any] = ctx.document
        if list(given) != [key]:
            raise Invalid("Request body and URI mismatch")
        added = checks.metadata(given, "group_specs")
        await self._change(ctx, kind, group_specs=kind.group_specs | added)
        return given

    @operation("DELETE", _ONE, _SPECS + "delete", since=_SINCE, status=202)
    async def delete_spec(self, ctx: Context, kind: GroupType, key: str) -> None:
        self._value(kind, key)
        left = {k: v for k, v in kind.group_specs.items() if k != key}
        await self._change(ctx, kind, group_specs=left)

    def _value(self, kind: GroupType, key: str) -> str:
        if key not in kind.group_specs:
            raise NotFound(f"Group Type {kind.id} has no specs with key {key}.")
        return kind.group_specs[key]

    async def _change(self, ctx: Context, kind: GroupType, **changes: Any) -> GroupType:
        async with ctx.runtime.store.tx() as tx:
            return await GROUP_TYPES.change(tx, kind, **changes)

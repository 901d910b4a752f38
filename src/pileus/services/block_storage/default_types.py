"""Default types: the volume type that a project's volumes have to which nobody gave one.

https://docs.openstack.org/api-ref/block-storage/v3/#default-volume-types-default-types
"""

from __future__ import annotations

from typing import Any, ClassVar

from pileus.kernel.faults import NotFound
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import Body

from .volume_type import DEFAULT_TYPES, DefaultType, type_named

_ONE, _RULE, _SINCE = "/default-types/{project_id}", "volume_extension:default_", "3.62"


class SetDefault(Body):
    root: ClassVar[str] = "default_type"
    volume_type: str


def _view(d: DefaultType) -> dict[str, str]:
    return {"project_id": d.id, "volume_type_id": d.volume_type_id}


class DefaultTypes(Resource[DefaultType]):
    table = DEFAULT_TYPES

    @operation("GET", "/default-types", _RULE + "get_all", since=_SINCE)
    async def index(self, ctx: Context) -> dict[str, Any]:
        found = await DEFAULT_TYPES.all(ctx.runtime.store)
        return {"default_types": [_view(d) for d in found]}

    @operation("GET", _ONE, _RULE + "get", since=_SINCE)
    async def show(self, ctx: Context, project_id: str) -> dict[str, Any]:
        return {"default_type": _view(await self._found(ctx, project_id))}

    @operation("PUT", _ONE, _RULE + "set_or_update", since=_SINCE)
    async def update(self, ctx: Context, project_id: str, body: SetDefault) -> dict[str, Any]:
        kind = await type_named(ctx, body.volume_type)
        async with ctx.runtime.store.tx() as tx:
            known = await DEFAULT_TYPES.find(tx, project_id)
            if known is None:
                made = DefaultType(id=project_id, volume_type_id=kind.id)
                known = await DEFAULT_TYPES.insert(tx, made)
            elif known.volume_type_id != kind.id:
                known = await DEFAULT_TYPES.change(tx, known, volume_type_id=kind.id)
        return {"default_type": _view(known)}

    @operation("DELETE", _ONE, _RULE + "unset", since=_SINCE, status=204)
    async def delete(self, ctx: Context, project_id: str) -> None:
        found = await self._found(ctx, project_id)
        async with ctx.runtime.store.tx() as tx:
            await DEFAULT_TYPES.delete(tx, found)

    async def _found(self, ctx: Context, project_id: str) -> DefaultType:
        found = await DEFAULT_TYPES.find(ctx.runtime.store, project_id)
        if found is None:
            raise NotFound(f"Default type for project {project_id} could not be found.")
        return found

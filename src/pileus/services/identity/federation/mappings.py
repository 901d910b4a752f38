"""Mappings: rules that make of what a provider says a user, his groups and his projects here."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta

from pileus.kernel.faults import Conflict
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import IGNORE, Body, Extra
from pileus.kernel.store import Record

from ..wire import ADMIN_OR_SYSTEM_READER, Noun, NounTable, changed, linked, listing
from .identity_providers import check_id
from .mapping_rules import FIRST_VERSION, check_rules

_PATH = "OS-FEDERATION/mappings"


class Mapping(Record, kw_only=True, frozen=True):
    """`rules` are kept as they were sent; `mapping_rules` reads them."""

    rules: list[Any]
    schema_version: str


MAPPINGS = NounTable("identity_mappings", Mapping, noun="mapping")


class WriteMapping(Body, kw_only=True):
    root: ClassVar[str] = "mapping"
    unknown: ClassVar[Extra] = IGNORE
    rules: Annotated[list[Any], Meta(min_length=1)]
    schema_version: str | None = None


def view(ctx: Context, m: Mapping) -> dict[str, Any]:
    shown = {"id": m.id, "rules": m.rules, "schema_version": m.schema_version}
    return linked(ctx, _PATH, shown)


def _fields(body: WriteMapping) -> dict[str, Any]:
    """Raises Invalid for rules that are none of their version's."""
    version = body.schema_version or FIRST_VERSION
    check_rules(version, body.rules)
    return {"rules": body.rules, "schema_version": version}


class Mappings(Noun[Mapping]):
    table = MAPPINGS
    id_param = "mapping_id"
    rules = {
        "identity:create_mapping": "rule:admin_required",
        "identity:get_mapping": ADMIN_OR_SYSTEM_READER,
        "identity:list_mappings": ADMIN_OR_SYSTEM_READER,
        "identity:delete_mapping": "rule:admin_required",
        "identity:update_mapping": "rule:admin_required",
    }
    scopes = {name: ("system", "project") for name in rules}
    listing = listing()

    @operation("GET", f"/{_PATH}", "identity:list_mappings")
    async def index(self, ctx: Context) -> dict[str, Any]:
        return await self.index_of(ctx, "mappings", view)

    @operation("PUT", f"/{_PATH}/{{mapping_id}}", "identity:create_mapping", status=201)
    async def create(self, ctx: Context, mapping_id: str, body: WriteMapping) -> dict[str, Any]:
        mapping = Mapping(id=check_id(mapping_id), **_fields(body))
        async with ctx.runtime.store.tx() as tx:
            if await MAPPINGS.find(tx, mapping_id) is not None:
                raise Conflict(
                    "Conflict occurred attempting to store mapping - Duplicate entry found with "
                    f"ID {mapping_id}."
                )
            mapping = await MAPPINGS.insert(tx, mapping)
            await changed(tx, "mapping", mapping_id, "created")
        return {"mapping": view(ctx, mapping)}

    @operation("GET", f"/{_PATH}/{{mapping_id}}", "identity:get_mapping")
    async def show(self, ctx: Context, mapping: Mapping) -> dict[str, Any]:
        return {"mapping": view(ctx, mapping)}

    @operation("PATCH", f"/{_PATH}/{{mapping_id}}", "identity:update_mapping")
    async def update(self, ctx: Context, mapping: Mapping, body: WriteMapping) -> dict[str, Any]:
        changes = _fields(body)
        async with ctx.runtime.store.tx() as tx:
            mapping = await MAPPINGS.change(tx, mapping, **changes)
            await changed(tx, "mapping", mapping.id, "updated")
        return {"mapping": view(ctx, mapping)}

    @operation("DELETE", f"/{_PATH}/{{mapping_id}}", "identity:delete_mapping")
    async def delete(self, ctx: Context, mapping: Mapping) -> None:
        async with ctx.runtime.store.tx() as tx:
            await MAPPINGS.delete(tx, mapping)
            await changed(tx, "mapping", mapping.id, "deleted")

"""Nouns that are rows and little more: their operations, made of what they declare.

A `Plain` says which bodies make and change it, and in hooks what is peculiar: `checked` (what a body comes to, before
the transaction), `enter` and `leave` (what must hold in it), `changed` (who is to be woken). A `Child` lives below
another noun: its path begins with the parent's, as `{parent_id}`, and so do its rights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from pileus.kernel.events import emit
from pileus.kernel.faults import Invalid
from pileus.kernel.resources import Context
from pileus.kernel.schema import Bulk
from pileus.kernel.store import Tx

from .attributes import Attributes
from .rbac_policy import drop_policies, follow_flags
from .resource import N, NetworkResource, declare, owner_of, refuse_unknown


class Plain(NetworkResource[N]):
    def __init_subclass__(
        cls,
        *,
        path: str = "",
        create: type[Attributes] | None = None,
        update: type[Attributes] | None = None,
        **more: Any,
    ) -> None:
        super().__init_subclass__(path=path, **more)
        if create is not None:
            _declare_writes(cls, path, create, update)

    async def checked(self, ctx: Context, given: dict[str, Any], old: N | None) -> dict[str, Any]:
        """The attributes that a body's come to; `old` None: of a new record. Raises Invalid, NotFound."""
        return given

    async def enter(self, tx: Tx, new: N, old: N | None) -> N:
        """What is to be written; raises if it must not be."""
        return new

    async def leave(self, tx: Tx, record: N) -> None:
        """Raises if the record is in use; drops what goes with it."""

    async def changed(self, ctx: Context, *records: N) -> None:
        """After the transaction."""

    async def wanted(self, ctx: Context, body: Attributes, raw: Mapping[str, Any]) -> N:
        """The record that a body asks for."""
        owner = owner_of(ctx, getattr(body, "project_id", msgspec.UNSET))
        target = self.wish(owner, body)
        ctx.require(f"create_{self.noun}", target)
        self.guard(ctx, "create", raw, target, type(body))
        given = {n: v for n, v in body.given().items() if n != "project_id" and v is not None}
        return await self._new(ctx, owner, given)

    async def _new(self, ctx: Context, owner: str, given: dict[str, Any]) -> N:
        given = await self.checked(ctx, given, None)
        id = ctx.runtime.world.new_id()
        found: N = self.table.kind(id=id, project_id=owner, **given)
        return found

    def wish(self, owner: str, body: Attributes) -> Mapping[str, object]:
        """What policy may ask of a record that is to be."""
        shared = getattr(body, "shared", False)
        return {"project_id": owner, "shared": shared if shared is not msgspec.UNSET else False}

    async def write(self, ctx: Context, record: N, changes: dict[str, Any]) -> N:
        """One change, from check to event."""
        changes = await self.checked(ctx, _defaulted(self.table.kind, changes), record)
        async with ctx.runtime.store.tx() as tx:
            old = await self.table.get(tx, record.id)
            new = await self.enter(tx, msgspec.structs.replace(old, **changes), old)
            if self.share_type:
                await follow_flags(tx, ctx.runtime.world, self.share_type, old, new)
            fields = {n: getattr(new, n) for n in new.__struct_fields__}
            moved = {n: v for n, v in fields.items() if v != getattr(old, n)}
            revision = old.revision_number + 1
            new = await self.table.change(tx, old, **{**moved, "revision_number": revision})
            await emit(tx, f"{self.noun}.update.end", new.project_id, id=new.id)
        await self.changed(ctx, old, new)
        return new


def _defaulted(kind: type[msgspec.Struct], changes: dict[str, Any]) -> dict[str, Any]:
    """Null is what the attribute is worth when nobody sets it. Raises Invalid for one that must be set."""
    usual: dict[str, Any] = {}
    for f in msgspec.structs.fields(kind):
        if not f.required:
            is_plain = f.default_factory is msgspec.NODEFAULT
            usual[f.name] = f.default if is_plain else f.default_factory()
        elif changes.get(f.name, ...) is None:
            raise Invalid(f"Invalid input for {f.encode_name}. Reason: it must not be null.")
    return {n: usual.get(n) if v is None else v for n, v in changes.items()}


async def _insert(
    self: Plain[Any], ctx: Context, wanted: Sequence[Any], single: bool
) -> dict[str, Any]:
    made = []
    async with ctx.runtime.store.tx() as tx:
        for record in wanted:
            if self.share_type:
                await follow_flags(tx, ctx.runtime.world, self.share_type, None, record)
            made.append(await self.table.insert(tx, await self.enter(tx, record, None)))
            await emit(tx, f"{self.noun}.create.end", record.project_id, id=record.id)
    await self.changed(ctx, *made)
    return await self.made(ctx, made, single)


async def _delete(self: Plain[Any], ctx: Context, record: Any) -> None:
    self.match(ctx, record)
    async with ctx.runtime.store.tx() as tx:
        record = await self.table.get(tx, record.id)
        await self.leave(tx, record)
        if self.share_type:
            await drop_policies(tx, record.id)
        await self.table.delete(tx, record)
        await emit(tx, f"{self.noun}.delete.end", record.project_id, id=record.id)
    await self.changed(ctx, record)


async def _update(self: Plain[Any], ctx: Context, record: Any, body: Any) -> dict[str, Any]:
    self.match(ctx, record)
    self.guard(
        ctx, "update", ctx.document[self.root or self.noun], self.target(ctx, record), type(body)
    )
    return await self.one(ctx, await self.write(ctx, record, body.given()))


def _declare_writes(
    kind: type[Plain[Any]],
    path: str,
    made_of: type[Attributes],
    changed_by: type[Attributes] | None,
) -> None:
    noun, record = kind.noun, kind.table.kind

    async def create(self: Plain[Any], ctx: Context, body: Bulk[Any]) -> Any:
        pairs = zip(body.items, body.raw, strict=True)
        wanted = [await self.wanted(ctx, item, raw) for item, raw in pairs]
        return await _insert(self, ctx, wanted, body.single)

    async def update(self: Plain[Any], ctx: Context, record: Any, body: Any) -> Any:
        return await _update(self, ctx, record, body)

    async def delete(self: Plain[Any], ctx: Context, record: Any) -> None:
        await _delete(self, ctx, record)

    one = f"{path}/{{{kind.id_param}}}"
    declare(kind, "POST", path, f"create_{noun}", create, 201, body=Bulk[made_of])  # type: ignore[valid-type]
    if changed_by is not None:
        declare(kind, "PUT", one, f"update_{noun}", update, record=record, body=changed_by)
    declare(kind, "DELETE", one, f"delete_{noun}", delete, record=record)


class Child(Plain[N]):
    """`parent` is the noun it lives in, `parent_field` where the record keeps its id; it has its parent's project."""

    parent: ClassVar[type[NetworkResource[Any]]]
    parent_field: ClassVar[str]

    def __init_subclass__(
        cls,
        *,
        below: str = "",
        create: type[Attributes] | None = None,
        update: type[Attributes] | None = None,
        **more: Any,
    ) -> None:
        super().__init_subclass__(**more)
        if below and create and update:
            _declare_child(cls, below, create, update)

    def target(self, ctx: Context, record: N) -> Mapping[str, object]:
        return {"project_id": record.project_id, "ext_parent:project_id": record.project_id}

    def best_target(self, ctx: Context) -> Mapping[str, object]:
        return {**ctx.own, "ext_parent:project_id": ctx.caller.project_id}

    async def held_by(self, ctx: Context, parent_id: str, verb: str) -> Any:
        """The parent, if the caller may do this below it. Raises NotFound, Forbidden."""
        parent = await self.parent().visible(ctx, parent_id)
        owner = parent.project_id
        ctx.require(f"{verb}_{self.noun}", {"project_id": owner, "ext_parent:project_id": owner})
        return parent

    def belongs(self, record: N, parent_id: str) -> None:
        if getattr(record, self.parent_field) != parent_id:
            raise self.table.missing(record.id)


def _declare_child(
    kind: type[Child[Any]], below: str, made_of: type[Attributes], changed_by: type[Attributes]
) -> None:
    noun, record = kind.noun, kind.table.kind

    async def create(self: Child[Any], ctx: Context, parent_id: str, body: Any) -> Any:
        parent = await self.held_by(ctx, parent_id, "create")
        given = {n: v for n, v in body.given().items() if v is not None and n != "project_id"}
        given[self.parent_field] = parent_id
        return await _insert(self, ctx, [await self._new(ctx, parent.project_id, given)], True)

    async def index(self: Child[Any], ctx: Context, parent_id: str) -> Any:
        await self.held_by(ctx, parent_id, "get")
        fixed: dict[str, Any] = {self.parent_field: parent_id}
        refuse_unknown(ctx.query, self.listing.filters)
        page = self.listing.parse(ctx.query, **fixed)
        records = await self.table.list(ctx.runtime.store, page)
        return {self.plural: await self.rendered(ctx, records)}

    async def show(self: Child[Any], ctx: Context, parent_id: str, record: Any) -> Any:
        self.belongs(record, parent_id)
        return await self.one(ctx, record)

    async def update(self: Child[Any], ctx: Context, parent_id: str, record: Any, body: Any) -> Any:
        self.belongs(record, parent_id)
        return await _update(self, ctx, record, body)

    async def delete(self: Child[Any], ctx: Context, parent_id: str, record: Any) -> None:
        self.belongs(record, parent_id)
        await _delete(self, ctx, record)

    one = f"{below}/{{{kind.id_param}}}"
    declare(kind, "POST", below, f"create_{noun}", create, 201, body=made_of)
    declare(kind, "GET", below, f"get_{noun}", index)
    declare(kind, "GET", one, f"get_{noun}", show, record=record)
    declare(kind, "PUT", one, f"update_{noun}", update, record=record, body=changed_by)
    declare(kind, "DELETE", one, f"delete_{noun}", delete, record=record)

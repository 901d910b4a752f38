"""Nouns that are only kept: listed, made, shown, changed and deleted by the same five operations.

A subclass says what a record is (`table`), what makes one (`creates`), and by overriding what is special about it:
`fields` and `view` for what goes in and comes out, `check` for what must hold, `remove` for what goes with it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any, ClassVar, TypeVar, cast, get_type_hints

import msgspec
from msgspec import UNSET, UnsetType

from pileus.kernel import auth
from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.resources import Context, Operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Page, Record, Table, Tx

from .wire import (
    ADMIN_OR_SYSTEM_READER,
    AUTHENTICATED,
    Follow,
    Noun,
    changed,
    changes_of,
    dropping,
    extras,
    linked,
    page,
    refuse_immutable,
    removed,
    resource_options,
    rows_listed,
)

R = TypeVar("R", bound=Record)
ANY_SCOPE = ("system", "domain", "project")
Call = Callable[..., Awaitable[Any]]
_NAME = re.compile(r"{(\w+)}")
_KEPT_ALIKE = frozenset(Record.__struct_fields__) | {"extra"}


class Kept(Noun[R]):
    """Rules are upstream's usual ones, with its scopes: `rules` says what differs, and what everybody may has no scope."""

    path: ClassVar[str] = ""  # of the collection, below /v3
    creates: ClassVar[type[Body]] = Body
    updates: ClassVar[type[Body]] = Body
    made_by: ClassVar[tuple[str, ...]] = ("POST",)  # PUT: under a chosen id; none: in its own way
    may_change_nothing: ClassVar[bool] = False
    longest_id: ClassVar[int] = 64
    told_as: ClassVar[str] = ""  # in notifications; "": as in bodies
    hidden: ClassVar[tuple[str, ...]] = ()  # fields that no view shows
    asked_later: ClassVar[frozenset[str]] = frozenset()  # verbs whose rule its methods ask
    revises: ClassVar[str] = ""  # the revision that every change raises
    goes_with: ClassVar[Mapping[str, str]] = {}  # noun -> the column that has its id

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not cls.path:  # what several nouns have in common
            return
        usual = {cls.rule(verb): ADMIN_OR_SYSTEM_READER for verb in ("list", "get")}
        changing = ("create", "update", "delete") if cls.made_by else ("update", "delete")
        usual |= {cls.rule(verb): "rule:admin_required" for verb in changing}
        cls.rules = {**usual, **cls.rules}
        narrow = {name: ("system", "project") for name, rule in cls.rules.items() if rule}
        cls.scopes = {**narrow, **cls.scopes}
        going = {noun: cls._going_with(column) for noun, column in cls.goes_with.items()}
        cls.follows = {**cls.follows, **going}

    @classmethod
    def rule(cls, verb: str) -> str:
        return f"identity:{verb}_{cls.plural() if verb == 'list' else cls.creates.root}"

    @classmethod
    def plural(cls) -> str:
        return cls.path.rpartition("/")[2]

    @classmethod
    def kind(cls) -> str:
        return cls.told_as or cls.creates.root

    def operations(self) -> Iterator[Operation]:
        """Its own, and the five."""
        yield from super().operations()
        many, one = f"/{self.path}", f"/{self.path}/{{{self.id_param}}}"
        yield self._operation("GET", many, "list", self.index)
        for method in self.made_by:
            place = one if method == "PUT" else many
            yield self._operation(method, place, "create", self.create, self.creates)
        yield self._operation("GET", one, "get", self.show)
        yield self._operation("PATCH", one, "update", self.update, self.updates)
        yield self._operation("DELETE", one, "delete", self.delete)

    def _operation(
        self, method: str, path: str, verb: str, call: Call, body: type[Body] | None = None
    ) -> Operation:
        rule = AUTHENTICATED if verb in self.asked_later else self.rule(verb)
        loads = (self.id_param, "record") if verb in ("get", "update", "delete") else ("", "")
        status = 201 if verb == "create" else 0
        return answered_by(call, method, path, rule, loads=loads, body=body, status=status)

    async def ask(self, ctx: Context, verb: str, record: R) -> None:
        """Whether it may be shown (`get`), or changed as the body says, or deleted. Raises Forbidden."""
        if verb != "get" and "options" in self.table.kind.__struct_fields__:
            asked = ctx.document[self.updates.root] if verb == "update" else None
            refuse_immutable(self.kind(), record.id, getattr(record, "options", {}), asked)

    async def fields(self, ctx: Context, given: dict[str, Any], old: R | None) -> dict[str, Any]:
        """The record's fields that a body gives. Names that no two may have stand without spaces around. Raises Invalid."""
        found = stored(self.table.kind, given)
        if "options" in found:
            found["options"] = self.options(getattr(old, "options", {}), found["options"])
        if "name" in found and self.table.unique:
            found["name"] = found["name"].strip()
        return found

    def options(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
        """Its options after a change. Raises Invalid."""
        return resource_options(old, new)

    @classmethod
    def view(cls, ctx: Context, record: R) -> dict[str, Any]:
        return linked(ctx, cls.path, shown(record, *cls.hidden))

    @classmethod
    def viewer(cls, ctx: Context) -> Callable[[R], dict[str, Any]]:
        """`view` for a list, of which what is the same for each may be looked up once."""
        return partial(cls.view, ctx)

    async def told(self, ctx: Context, record: R, *, made: bool = False) -> dict[str, Any]:
        """What who asks for this one is told; who just `made` it may be told more."""
        return self.view(ctx, record)

    async def check(self, ctx: Context, tx: Tx, new: R, old: R | None) -> None:
        """What must hold of one that was just made or (`old`) changed. Raises what refuses it."""

    async def remove(self, ctx: Context, tx: Tx, record: R) -> None:
        """Deletes it, with all that follows it."""
        await removed(ctx, tx, self.kind(), record.id)
        await self.table.delete(tx, record)
        await self._revise(tx)

    @classmethod
    def asked(cls, ctx: Context, **fixed: Any) -> Page:
        """The page that the query asks for, with `fixed` filters that it cannot widen. Raises Invalid."""
        return page(cls.listing, ctx.query, **fixed)

    async def index(self, ctx: Context, **fixed: Any) -> dict[str, Any]:
        asked = self.asked(ctx, **fixed)
        return await rows_listed(ctx, self.plural(), self.table, asked, self.viewer(ctx))

    async def create(self, ctx: Context, body: Body, **path: str) -> dict[str, Any]:
        given = body.given()
        chosen, asked = path.get(self.id_param), given.pop("id", None)
        if chosen and asked not in (None, chosen):
            raise Invalid(f"Conflicting {body.root} IDs specified: {chosen} and {asked}.")
        chosen = chosen or asked
        if chosen:
            check_id(body.root, chosen, self.longest_id)
        fields = {"id": chosen or ctx.runtime.world.new_hex()}
        fields |= await self.fields(ctx, given, None)
        if "extra" in self.table.kind.__struct_fields__:
            fields["extra"] = self._extra(extras(ctx, body))
        async with ctx.runtime.store.tx() as tx:
            if chosen and await self.table.find(tx, chosen) is not None:
                raise Conflict(
                    f"Conflict occurred attempting to store {body.root} - Duplicate ID, {chosen}."
                )
            record = await self.make(ctx, tx, self.table.kind(**fields))
        return {body.root: await self.told(ctx, record, made=True)}

    async def make(self, ctx: Context, tx: Tx, record: R) -> R:
        """Raises Conflict, and what refuses it."""
        record = await self.table.insert(tx, record)
        await changed(tx, self.kind(), record.id, "created")
        await self.check(ctx, tx, record, None)
        await self._revise(tx)
        return record

    async def show(self, ctx: Context, record: R) -> dict[str, Any]:
        await self.ask(ctx, "get", record)
        return {self.creates.root: await self.told(ctx, record)}

    async def update(self, ctx: Context, record: R, body: Body) -> dict[str, Any]:
        await self.ask(ctx, "update", record)
        if not ctx.document[body.root] and not self.may_change_nothing:
            raise Invalid(f"Invalid input for field '{body.root}': it changes nothing.")
        given = changes_of(ctx, record, body) if hasattr(record, "extra") else body.given()
        fields = await self.fields(ctx, given, record)
        if "extra" in fields:
            fields["extra"] = self._extra(fields["extra"])
        async with ctx.runtime.store.tx() as tx:
            new = await self.table.change(tx, record, **fields)
            await changed(tx, self.kind(), new.id, "updated")
            await self.check(ctx, tx, new, record)
            await self._revise(tx)
        return {body.root: await self.told(ctx, new)}

    async def delete(self, ctx: Context, record: R) -> None:
        await self.ask(ctx, "delete", record)
        async with ctx.runtime.store.tx() as tx:
            await self.remove(ctx, tx, record)

    def _extra(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        """Keys nobody declared; but what no view shows nobody is made to believe either."""
        return {k: v for k, v in sent.items() if k not in self.hidden}

    async def _revise(self, tx: Tx) -> None:
        if self.revises:
            await auth.revise(tx, self.revises)

    @classmethod
    def _going_with(cls, column: str) -> Follow:
        async def follow(ctx: Context, tx: Tx, id: str) -> None:
            resource = cls()
            for record in await cls.table.all(tx, **{column: id}):
                await resource.remove(ctx, tx, record)

        return follow


def owned(table: Table[Any]) -> dict[str, Follow]:
    """What `follows` says of rows that go with their user and with their project."""
    return {"user": dropping(table, "user_id"), "project": dropping(table, "project_id")}


def answered_by(
    call: Call,
    method: str,
    path: str,
    rule: str,
    *,
    loads: tuple[str, str] = ("", ""),
    body: type[Body] | None = None,
    status: int = 0,
) -> Operation:
    """An operation, where several are answered by one method: it is given what stands in the path by name.

    `loads`: a name in the path, and by which name the record is given that the resource loads by it.
    """
    id_param, record = loads
    return Operation(
        method,
        path,
        rule,
        call.__name__,
        status,
        call=call,
        record_param=record,
        body_param="body" if body is not None else "",
        body=body,
        path_params=tuple(n for n in _NAME.findall(path) if n != id_param),
    )


def check_id(noun: str, id: str, longest: int = 64) -> None:
    """Ids that clients choose are free text. Raises Invalid."""
    if not 0 < len(id) <= longest or "/" in id:
        raise Invalid(
            f"Invalid {noun} id {id[:80]!r}: it must have 1 to {longest} characters and no slash."
        )


def shown(record: Record, *hidden: str) -> dict[str, Any]:
    """A record as the API shows it: keys nobody declared, then its own fields, null where it names nothing by id."""
    extra = {} if "extra" in hidden else getattr(record, "extra", {})
    found: dict[str, Any] = {**extra, "id": record.id}
    for name in record.__struct_fields__:
        if name not in _KEPT_ALIKE and name not in hidden:
            value = getattr(record, name)
            found[name] = None if value == "" and name.endswith("_id") else value
    return found


def stored(kind: type[Record], given: Mapping[str, Any]) -> dict[str, Any]:
    """What a body gives as records of that kind keep it: "" for null where they keep a text."""
    texts = _texts(kind)
    return {k: "" if v is None and k in texts else v for k, v in given.items()}


@cache
def _texts(kind: type[Record]) -> frozenset[str]:
    return frozenset(f.name for f in msgspec.structs.fields(kind) if f.type is str)


def changing(creates: type[Body], *but: str) -> type[Body]:
    """The body of a PATCH: each key that makes a noun may be given, but for those named."""
    hints = get_type_hints(creates, include_extras=True)
    names = [name for name in creates.__struct_fields__ if name not in but]
    kind = msgspec.defstruct(
        creates.__name__.replace("Create", "Update"),
        [(name, hints[name] | UnsetType, UNSET) for name in names],
        bases=creates.__bases__,  # discreet if that is
        namespace={"root": creates.root, "unknown": creates.unknown, "lax": creates.lax},
        module=creates.__module__,
        kw_only=True,
    )
    return cast("type[Body]", kind)

"""How identity spells things on the wire: links, lists, names, kept keys; and what all its nouns share.

API reference: https://docs.openstack.org/api-ref/identity/v3/
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec
from msgspec import Meta

from pileus.kernel import auth
from pileus.kernel.events import emit
from pileus.kernel.faults import Forbidden, Invalid, NotFound
from pileus.kernel.query import Filter, Listing, Query, next_link
from pileus.kernel.resources import Context, Resource
from pileus.kernel.runtime import Runtime
from pileus.kernel.schema import KEEP, Body, Extra, extras_of
from pileus.kernel.store import Match, Page, Reader, Record, Table, Tx

from .revocations import revoke

R = TypeVar("R", bound=Record)
_encode = msgspec.json.Encoder().encode

Name = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"\S")]
ShortName = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"\S")]
Id = Annotated[str, Meta(min_length=1, max_length=64)]
PlainId = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9-]{1,64}$")]  # of what a client names

DEFAULT_DOMAIN = "default"
ADMIN_OR_SYSTEM_READER = "rule:admin_required or (role:reader and system_scope:all)"
READERS = "(rule:admin_required) or (role:reader and system_scope:all)"  # as upstream spells both
SLICE = 500  # rows between two turns of the loop
EVERY = 10_000_000  # rows: all there are
_PAGE = 10_000  # a list without a limit; longer ones say `truncated`
OLDEST = (("created_at", False), ("id", False))
_INEXACT = {
    "contains": "{}",
    "icontains": "{}",
    "startswith": "^{}",
    "istartswith": "^{}",
    "endswith": "{}$",
    "iendswith": "{}$",
}


class NounTable(Table[R]):
    """A table whose missing rows are told of in Keystone's words."""

    def missing(self, id: str) -> NotFound:
        return NotFound(f"Could not find {self.noun}: {id}.")


class Discreet:
    """What holds a secret and might end in a log: it says its kind there. Comes before other bases of a Struct."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"


class NounBody(Body, kw_only=True):
    """A body in which keys nobody declared are kept."""

    unknown: ClassVar[Extra] = KEEP


Follow = Callable[[Context, Tx, str], Awaitable[None]]
AUTHENTICATED = "identity:authenticated"  # of operations that ask policy once they know the target


class Noun(Resource[R]):
    """A resource whose policy targets are Keystone's: the path's parameters and `target.<noun>.<field>`.

    `follows` says what becomes of its rows when another noun's goes: a `user`, `project`, `service`... `listed_as` is the
    target that a domain-scoped token's domain is for rules about lists.
    """

    follows: ClassVar[Mapping[str, Follow]] = {}
    listed_as: ClassVar[str] = ""

    def scope_target(self, ctx: Context, params: Mapping[str, str]) -> Mapping[str, object]:
        if self.listed_as and not params and ctx.caller.domain_id:
            return {self.listed_as: ctx.caller.domain_id}
        return dict(params)


def listing(default: Mapping[str, Filter] | None = None) -> Listing:
    """Lists in order of creation, unlimited as far as a client can tell."""
    sorts = {"id": "id"}
    if default and "name" in default:
        sorts["name"] = default["name"].column or "name"
    return Listing(default or {}, sorts, OLDEST, default_limit=_PAGE, max_limit=_PAGE)


NAME = Filter("name_key", fold=True)  # names compare without case


def page(asked: Listing, query: Query, **fixed: Any) -> Page:
    """The page a query asks for, with Keystone's inexact filters (`name__contains`) too."""
    found = asked.parse(query, **fixed)
    filters = dict(found.filters)
    for key, text in query.pairs:
        name, two, how = key.partition("__")
        declared = asked.filters.get(name)
        if two and declared is not None and declared.kind is str and how in _INEXACT:
            pattern = _INEXACT[how].format(re.escape(text.lower() if declared.fold else text))
            filters.setdefault(declared.column or name, Match("regex", pattern))
    return replace(found, filters=filters, reverse=False)


def is_asked(query: Query, name: str) -> bool:
    """Keystone's switches: any value but 0 turns one on, none too."""
    return query.has(name) and query.get(name) != "0"


def linked(ctx: Context, path: str, view: dict[str, Any]) -> dict[str, Any]:
    """The view with its `links.self`: `path` is the collection's below /v3."""
    view["links"] = {"self": f"{ctx.base}/{path}/{view['id']}"}
    return view


async def rows_listed(
    ctx: Context, key: str, table: Table[R], asked: Page, view: Callable[[R], dict[str, Any]]
) -> dict[str, Any]:
    """The list of what a page asks for; a full one links to the next."""
    parts, count, last = [], 0, ""
    async for rows in in_slices(ctx.runtime, table, asked):
        parts.append(encoded([view(one) for one in rows]))
        count, last = count + len(rows), rows[-1].id
    answer = listed(ctx, key, joined(parts))
    if last and count >= asked.limit:
        _goes_on(ctx, answer, last)
    return answer


async def in_slices(runtime: Runtime, table: Table[R], asked: Page) -> AsyncIterator[list[R]]:
    """The rows of a page, some at a time, so that others have their turns between."""
    shown: list[str] = []
    left = asked.limit
    while left > 0:
        some = replace(asked, limit=min(SLICE, left))
        rows = await _behind(runtime.store, table, some, shown)
        shown += [row.id for row in rows]
        if rows:
            yield rows
        left = left - len(rows) if len(rows) == some.limit else 0
        if left:
            await runtime.world.clock.sleep(0)


async def _behind(db: Reader, table: Table[R], asked: Page, shown: Sequence[str]) -> list[R]:
    """What follows those shown, the last of which may be gone by now."""
    for id in reversed(shown):
        try:
            return await table.list(db, replace(asked, marker=id))
        except NotFound:
            continue
    return await table.list(db, asked)


def encoded(view: dict[str, Any] | list[dict[str, Any]]) -> bytes:
    """A view or several as JSON, but for the braces or brackets around."""
    return _encode(view)[1:-1]


def joined(parts: Iterable[bytes]) -> msgspec.Raw:
    """One list of what was `encoded` part by part: all at once, a long one would keep others waiting."""
    return msgspec.Raw(b"[" + b",".join(part for part in parts if part) + b"]")


def listed(
    ctx: Context, key: str, views: list[dict[str, Any]] | msgspec.Raw, asked: Page | None = None
) -> dict[str, Any]:
    """A list as Keystone wraps it. With `asked`, a full page links to the next."""
    itself = f"{ctx.url}?{ctx.query.text}" if ctx.query.text else ctx.url
    links: dict[str, Any] = {"next": None, "self": itself, "previous": None}
    answer: dict[str, Any] = {key: views, "links": links}
    if asked is not None and isinstance(views, list) and views and len(views) >= asked.limit:
        _goes_on(ctx, answer, views[-1]["id"])
    return answer


def _goes_on(ctx: Context, answer: dict[str, Any], last: str) -> None:
    answer["truncated"] = True
    answer["links"]["next"] = next_link(ctx.url, ctx.query, last)


def extras(ctx: Context, body: Body) -> dict[str, Any]:
    """The keys that the body does not declare, as sent."""
    found = extras_of(type(body), ctx.document[body.root])
    return {k: v for k, v in found.items() if k not in ("id", "links")}


def merged(old: Mapping[str, Any], new: Mapping[str, Any] | None) -> dict[str, Any]:
    """Options after a change: null takes one away."""
    both = {**old, **(new or {})}
    return {k: v for k, v in both.items() if v is not None}


def resource_options(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a project, domain or role after a change. Raises Invalid: there is but one."""
    for name, value in new.items():
        if name != "immutable" or not (value is None or isinstance(value, bool)):
            raise Invalid(
                f"Invalid input for field 'options': {name!r} is {value!r}, but the only option is "
                "'immutable', which is true, false or null."
            )
    return merged(old, new)


def refuse_immutable(
    noun: str, id: str, options: Mapping[str, Any], asked: Mapping[str, Any] | None = None
) -> None:
    """Raises Forbidden for what is immutable, unless all that is asked is to take the option away."""
    if not options.get("immutable"):
        return
    given = (asked or {}).get("options")
    mutable = isinstance(given, Mapping) and not given.get("immutable", True)
    if mutable and len(asked or {}) == 1:
        return
    verb = "delete" if asked is None else "update"
    raise Forbidden(
        f'Unable to {verb} immutable {noun} resource: {id}. Set resource option "immutable" to '
        "false first."
    )


async def drop_all(tx: Tx, table: Table[R], **filters: Any) -> list[R]:
    """Deletes every row that matches; what they were."""
    found = await table.all(tx, **filters)
    for one in found:
        await table.delete(tx, one)
    return found


def dropping(table: Table[Any], column: str, before: str = "", *, revising: str = "") -> Follow:
    """Deletes the rows that have the id of what goes, with `before` in front, in that column.

    `revising`: a revision that is raised if there were any.
    """

    async def follow(ctx: Context, tx: Tx, id: str) -> None:
        if await drop_all(tx, table, **{column: before + id}) and revising:
            await auth.revise(tx, revising)

    return follow


async def removed(ctx: Context, tx: Tx, kind: str, id: str) -> None:
    """Lets every noun follow the removal of another, and makes tokens that stood on it worthless."""
    kinds = (kind, "project") if kind == "domain" else (kind,)  # a domain is a project, too
    nouns = [resource for resource in ctx.service.made if isinstance(resource, Noun)]
    for follow in [noun.follows[k] for k in kinds for noun in nouns if k in noun.follows]:
        await follow(ctx, tx, id)
    await changed(tx, kind, id, "deleted")
    if kind in ("user", "project", "domain"):
        await revoke(tx, kind, id)


async def changed(tx: Tx, kind: str, id: str, what: str, **more: str) -> None:
    """The notification that a noun was `created`, `updated` or `disabled`."""
    await emit(tx, f"identity.{kind}.{what}", "", resource_info=id, **more)


def own_domain(ctx: Context) -> dict[str, Any]:
    """What a list is narrowed to by a domain-scoped token."""
    return {"domain_id": ctx.caller.domain_id} if ctx.caller.domain_id else {}


def home_domain(ctx: Context, given: str | None) -> str:
    """The domain of what is created: as given, else of a domain-scoped token, else the first one; as upstream."""
    return given or ctx.caller.domain_id or DEFAULT_DOMAIN


def changes_of(ctx: Context, record: Any, body: Body) -> dict[str, Any]:
    """What a PATCH changes of a record, keys that nobody declared too. Raises Invalid for another id or domain."""
    root = body.root
    given = ctx.document[root].get("id", record.id)
    if given != record.id:
        raise Invalid(f"Cannot change {root} ID: the path says {record.id}, the body {given}.")
    changes = body.given()
    if "domain_id" in changes and (changes.pop("domain_id") or "") != record.domain_id:
        raise Invalid("Cannot change Domain ID")
    return {**changes, "extra": {**record.extra, **extras(ctx, body)}}

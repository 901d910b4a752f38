"""What bodies, lists and sagas of this API have in common."""

from __future__ import annotations

import ast
import re
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from inspect import isawaitable
from typing import Annotated, Any

import msgspec
from msgspec import Meta, UnsetType

from pileus.kernel.faults import Conflict, Invalid, NotFound, Stale
from pileus.kernel.query import Listing, boolean
from pileus.kernel.resources import Context
from pileus.kernel.sagas import Saga
from pileus.kernel.store import Match, Page, R, Record, Table
from pileus.kernel.versions import Version
from pileus.kernel.world import seconds_of, stamp

Flag = bool | str | int
Text = Annotated[str, Meta(max_length=255)] | None | UnsetType
Map = dict[str, str | None]
_KEY = re.compile(r"[a-zA-Z0-9\-_:. /]{1,255}")
_NUMBER = re.compile(r"[0-9]{1,9}")
LARGEST = 2_147_483_647


def moment(text: str) -> str | None:
    """A time as Cinder spells it: microseconds and no zone."""
    return text.removesuffix("Z") or None


def wrong(field: str, value: object, why: str) -> Invalid:
    """A 400 in jsonschema's words, which clients match on."""
    text = repr(value)
    shown = text if len(text) < 100 else text[:97] + "..."
    return Invalid(f"Invalid input for field/attribute {field}. Value: {shown}. {why}")


def flag(value: object, field: str) -> bool:
    """A boolean in any usual spelling. Raises Invalid."""
    return value if isinstance(value, bool) else boolean(str(value), field)


def name_of(value: Any) -> str | None:
    """A name or description without the spaces around it; absent is none."""
    return value.strip() if isinstance(value, str) else None


def size_of(value: object, field: str = "size") -> int:
    """A size in GiB. Raises Invalid."""
    if isinstance(value, bool) or not _NUMBER.fullmatch(str(value)) or int(str(value)) < 1:
        raise wrong(field, value, f"{value!r} is not an integer greater than 0")
    return int(str(value))


def uuid_of(value: str, field: str) -> str:
    """Raises Invalid."""
    try:
        return str(uuid.UUID(value))
    except ValueError:
        raise wrong(field, value, f"{value!r} is not a 'uuid'") from None


def metadata(values: Mapping[str, object] | None, field: str = "metadata") -> dict[str, str]:
    """Key-value pairs. Raises Invalid."""
    found = {}
    for key, value in (values or {}).items():
        if not _KEY.fullmatch(key):
            raise Invalid(
                f"Invalid input for field/attribute {field}. Additional properties are not allowed "
                f"({key!r} was unexpected): a key has 1 to 255 letters, digits, spaces or -_:./"
            )
        text = str(value) if isinstance(value, str | int | float) else None
        if text is None or len(text) > 255:
            raise wrong(f"{field}/{key}", value, "It must be text of at most 255 characters")
        found[key] = text
    return found


def known_keys(values: Mapping[str, str], key: str, what: str) -> str:
    """The value under the key. Raises NotFound in Cinder's words."""
    if key not in values:
        raise NotFound(f"{what} has no metadata with key {key}.")
    return values[key]


async def begin(ctx: Context, saga: Saga[R], record: R, *, becoming: R | None = None) -> R:
    """Starts the saga; a wrong state is Cinder's 400. Raises Invalid, OverQuota, Stale."""
    try:
        return await ctx.start(saga, record, becoming=becoming)
    except Stale:
        raise
    except Conflict as e:
        raise unfit(saga.lifecycle.noun, e.message) from None


def unfit(noun: str, why: str) -> Invalid:
    return Invalid(f"Invalid {noun.strip() or 'volume'}: {why}")


# Lists

ALL, OFFSET = "all_tenants", "offset"
_COMPARED = {"gt": "gt", "gte": "ge", "lt": "lt", "lte": "le", "eq": "eq", "neq": "ne"}


def page_of(ctx: Context, listing: Listing, *, maps: Iterable[str] = (), **fixed: Any) -> Page:
    """What a list asks for: the caller's project, or all where an administrator says so. Raises Invalid.

    `maps` are filters that hold an object of pairs.
    """
    everybody = ctx.caller.is_admin and ctx.query.flag(ALL)
    filters: dict[str, Any] = {} if everybody else {"project_id": ctx.caller.project_id}
    if everybody and ctx.query.has("project_id"):
        filters["project_id"] = ctx.query.get("project_id")
    for name in maps:
        if ctx.query.has(name):
            given = _pairs(name, ctx.query.get(name))
            filters[name] = Match("all", sorted(f"{k}={v}" for k, v in given.items()))
    for name in ("created_at", "updated_at"):
        if ctx.version >= (3, 60) and ctx.query.has(name):
            filters[name] = _time(name, ctx.query.get(name))
    for key, text in ctx.query.pairs:
        if key.endswith("~") and ctx.version >= (3, 34) and key[:-1] in listing.filters:
            column = listing.filters[key[:-1]].column or key[:-1]
            filters[column] = Match("regex", re.escape(text))
    page = listing.parse(ctx.query, **filters, **fixed)
    return replace(page, limit=page.limit + _offset(ctx))


def _offset(ctx: Context) -> int:
    text = ctx.query.get(OFFSET) or "0"
    if not _NUMBER.fullmatch(text):
        raise Invalid(f"Invalid input for query parameters 'offset'. Value: {text}.")
    return int(text)


def _pairs(name: str, text: str) -> dict[str, str]:
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        found = None
    if not isinstance(found, dict):
        raise Invalid(f"The filter {name} must be an object such as {{'key': 'value'}}.")
    return {str(k): str(v) for k, v in found.items()}


def _time(name: str, text: str) -> Match:
    """`gt:2026-11-26T12:00:00`."""
    op, _, at = text.partition(":")
    if op not in _COMPARED:
        raise Invalid(f"Invalid {name} operator: it must be one of {', '.join(_COMPARED)}.")
    try:
        return Match(_COMPARED[op], stamp(seconds_of(at)))
    except ValueError:
        raise Invalid(f"Invalid {name} value: {at} is not a time.") from None


async def listed(
    ctx: Context,
    table: Table[R],
    page: Page,
    key: str,
    view: Callable[[Sequence[R]], Awaitable[list[Any]]],
    *,
    counts: Version = (3, 45),
) -> dict[str, Any]:
    """A list with its link to what follows, and the number of all where it is asked for."""
    records: Sequence[R] = await table.list(ctx.runtime.store, page)
    following = ctx.next_page(page, records) if ctx.query.has("limit") else ""
    shown = [] if ctx.query.get("limit") == "0" else records[_offset(ctx) :]
    found: dict[str, Any] = {key: await view(shown)}
    if following and shown:
        found[f"{key}_links"] = [{"rel": "next", "href": following}]
    if ctx.version >= counts and ctx.query.flag("with_count"):
        found["count"] = await table.count(ctx.runtime.store, page)
    return found


def each(view: Callable[[R], Any]) -> Callable[[Sequence[R]], Awaitable[list[Any]]]:
    """A list's view out of one record's, which may have to be awaited."""

    async def seen(found: Sequence[R]) -> list[Any]:
        return [await v if isawaitable(v := view(one)) else v for one in found]

    return seen


def links(ctx: Context, collection: str, record: Record) -> list[dict[str, str]]:
    project = ctx.caller.project_id
    front = f"{ctx.root}{ctx.service.prefix}"
    return [
        {"rel": "self", "href": f"{ctx.base}/{project}/{collection}/{record.id}"},
        {"rel": "bookmark", "href": f"{front}/{project}/{collection}/{record.id}"},
    ]


def changed(body: msgspec.Struct, *names: str) -> dict[str, Any]:
    """Name and description as a body gives them, under the old keys (`display_name`) too."""
    found = {}
    for name in names:
        for key in (f"display_{name}", name):
            value = getattr(body, key, msgspec.UNSET)
            if value is not msgspec.UNSET:
                found[name] = name_of(value)
    return found

"""What bodies and query strings of this API have in common: spellings of values, and lists' links."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Annotated, Any

from msgspec import Meta

from pileus.kernel.faults import Invalid, NotFound
from pileus.kernel.resources import Context
from pileus.kernel.store import Match, Page, R, Record, Table
from pileus.kernel.versions import Version
from pileus.kernel.world import seconds_of, stamp

Flag = bool | str  # a boolean in one of the many spellings that Nova takes
Count = Annotated[int, Meta(ge=0, le=2_147_483_647)]
Positive = Annotated[int, Meta(ge=1, le=2_147_483_647)]
Text = Annotated[str, Meta(max_length=255)]
Name = Annotated[str, Meta(min_length=1, max_length=255)]

_TRUE = frozenset(("true", "1", "on", "yes", "y", "t"))
_FALSE = frozenset(("false", "0", "off", "no", "n", "f"))
_TAG = re.compile(r"[^,/]{1,60}")
_KEY = re.compile(r"[a-zA-Z0-9\-_:. ]{1,255}")
_HOSTNAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?")
TAG_LIMIT = 50
METADATA_LIMIT = 128


def wrong(field: str, value: object, why: str) -> Invalid:
    """A 400 in jsonschema's words, which clients match on."""
    text = repr(value)
    shown = text if len(text) < 100 else text[:97] + "..."
    return Invalid(f"Invalid input for field/attribute {field}. Value: {shown}. {why}")


def flag(value: Flag, field: str) -> bool:
    """Raises Invalid."""
    if isinstance(value, bool):
        return value
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise wrong(field, value, f"{value!r} is not a boolean; use true or false")


def name(value: str, field: str = "name") -> str:
    """A name: printable, and not between spaces. Raises Invalid."""
    if value != value.strip():
        raise wrong(field, value, "It must not begin or end with whitespace")
    if not value or not all(c.isprintable() for c in value):
        raise wrong(field, value, "It must hold printable characters only, and at least one")
    return value


def is_uuid(text: str) -> bool:
    """In any of the spellings that Nova takes for one."""
    try:
        return uuid.UUID(text).hex == text.lower().replace("-", "").strip("{}").removeprefix(
            "urn:uuid:"
        )
    except ValueError:
        return False


def address(value: str | None, version: int, field: str) -> str:
    """The canonical spelling; "" for none. Raises Invalid."""
    if not value:
        return ""
    try:
        if version == 4:
            return str(IPv4Address(value))
        return str(IPv6Address(value))
    except AddressValueError:
        raise wrong(field, value, f"{value!r} is not a 'ipv{version}'") from None


def tags(values: Iterable[str]) -> list[str]:
    """Without duplicates, in the order given. Raises Invalid."""
    found = list(dict.fromkeys(values))
    for tag in found:
        tag_of(tag)
    if len(found) > TAG_LIMIT:
        raise Invalid(f"The number of tags exceeded the per-server limit {TAG_LIMIT}")
    return found


def tag_of(text: str) -> str:
    """Raises Invalid."""
    if not _TAG.fullmatch(text):
        raise Invalid(
            f"Tag '{text}' is invalid. It must be a non empty string of at most 60 characters "
            "without characters '/' and ','."
        )
    return text


def metadata(values: dict[str, str], field: str = "metadata") -> dict[str, str]:
    """Key-value pairs as servers, flavors and aggregates keep them. Raises Invalid."""
    for key, value in values.items():
        if not _KEY.fullmatch(key):
            raise Invalid(
                f"Invalid input for field/attribute {field}. Additional properties are not allowed "
                f"({key!r} was unexpected): a key has 1 to 255 letters, digits, spaces or -_:."
            )
        if len(value) > 255:
            raise wrong(f"{field}/{key}", value, "It is too long: 255 characters are allowed")
    return values


def hostname(value: str, *, dotted: bool) -> str:
    """A label of the DNS, or several where `dotted`. Raises Invalid."""
    labels = value.split(".") if dotted else [value]
    if len(value) > 255 or not all(_HOSTNAME.fullmatch(label) for label in labels):
        raise wrong("hostname", value, "It must hold letters, digits and inner hyphens")
    return value


def regex(pattern: str, field: str) -> str:
    """A pattern that can be searched for, and in bounded time. Raises Invalid."""
    try:
        re.compile(pattern)
    except re.error as e:
        raise Invalid(f"Invalid regular expression in {field}: {e}.") from None
    if len(pattern) > _LONGEST or _explodes(pattern):
        raise Invalid(
            f"The regular expression in {field} takes too long: it may have {_LONGEST} characters, "
            f"{_REPEATS} repetitions, none of them inside another, and no back references."
        )
    return pattern


_LONGEST, _REPEATS = 255, 3
_PIECES = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]])*\]|\{\d*,?\d*\}|.", re.DOTALL)


def _explodes(pattern: str) -> bool:
    """Whether a text of some hundred characters could cost more than a moment: a look at the brackets."""
    groups, after_group, repeats = [False], False, 0  # a group that repeats or chooses is True
    for piece in _PIECES.findall(pattern):
        closed, after_group = after_group, False
        if piece[0] == "\\" and piece[1:].isdigit():
            return True
        if piece == "(":
            groups.append(False)
        elif piece == ")" and len(groups) > 1:
            after_group = groups.pop()
            groups[-1] = groups[-1] or after_group
        elif piece == "|":
            groups[-1] = True
        elif piece in "*+" or (piece[0] == "{" and len(piece) > 2):
            if closed:
                return True
            groups[-1] = True
            repeats += 1
    return repeats > _REPEATS


def known_only(ctx: Context, allowed: Iterable[str], since: Version = (2, 75)) -> None:
    """Unknown query parameters are refused from some version on. Raises Invalid."""
    if ctx.version < since:
        return
    known = set(allowed)
    for key, _ in ctx.query.pairs:
        if key not in known:
            raise Invalid(f"Additional properties are not allowed ('{key}' was unexpected)")


PAGING = ("limit", "marker", "sort_key", "sort_dir")


async def listed(ctx: Context, table: Table[R], page: Page) -> list[R]:
    """The page's records; a marker that isn't there is the caller's mistake. Raises Invalid."""
    try:
        return await table.list(ctx.runtime.store, page)
    except NotFound as e:
        raise Invalid(e.message) from None


def changed_between(ctx: Context, page: Page) -> Page:
    """Adds `changes-since` and `changes-before`, which bound the column `changed_at`. Raises Invalid."""
    low, high = (_time(ctx, key) for key in ("changes-since", "changes-before"))
    if low and high and low > high:
        raise Invalid("The value of changes-since must be less than or equal to changes-before.")
    if low:
        page = replace(page, filters={**page.filters, "changed_at": Match("ge", low)})
    if high:  # a filter has one condition for a column; the only alternative is one more
        page = replace(page, scopes=({"changed_at": Match("le", high)},))
    return page


def _time(ctx: Context, key: str) -> str:
    if not ctx.query.has(key):
        return ""
    text = ctx.query.get(key)
    try:
        return stamp(seconds_of(text))
    except ValueError:
        raise wrong(key, text, f"{text!r} is not a 'date-time'") from None


def with_links(
    ctx: Context, key: str, views: list[Any], page: Page, records: list[Any]
) -> dict[str, Any]:
    """A list and, unless it ends here, the link to what follows."""
    url = ctx.next_page(page, records)
    found: dict[str, Any] = {key: views}
    if url:
        found[f"{key}_links"] = [{"rel": "next", "href": url}]
    return found


def links(ctx: Context, collection: str, record: Record) -> list[dict[str, str]]:
    """The two links of every object: with version and without."""
    return links_to(ctx, collection, record.id)


def links_to(ctx: Context, collection: str, id: str) -> list[dict[str, str]]:
    bookmark = f"{ctx.root}{ctx.service.prefix}/{collection}/{id}"
    return [
        {"rel": "self", "href": f"{ctx.base}/{collection}/{id}"},
        {"rel": "bookmark", "href": bookmark},
    ]

"""What a list of images may be asked for, and which images a caller finds in one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from pileus.kernel.faults import Invalid
from pileus.kernel.query import Listing, Query, extended
from pileus.kernel.resources import Context
from pileus.kernel.store import Match, Page
from pileus.kernel.world import seconds_of, stamp

from ..record import MEMBER_STATUSES, VISIBILITIES, scopes_of

SORTS = (
    "name",
    "status",
    "container_format",
    "disk_format",
    "size",
    "id",
    "created_at",
    "updated_at",
)
LISTING = Listing(sorts={s: s for s in SORTS}, default_limit=25, max_limit=1000, colon_sort=True)
_CONTROL = ("limit", "marker", "sort", "sort_key", "sort_dir", "member_status", "tag")
_LISTS = ("name", "id", "status", "container_format", "disk_format")
_EXACT = ("owner", "checksum", "os_hash_value")
_NUMBERS = ("size", "min_ram", "min_disk", "virtual_size")
_TIMES = ("created_at", "updated_at")
_MEMBER_STATUSES = (*MEMBER_STATUSES, "all")
_QUOTED = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)",?|([^,]+),?|,')
_COMPARED = {"gt": "gt", "gte": "ge", "lt": "lt", "lte": "le"}


def page_of(ctx: Context) -> Page:
    """Raises Invalid for what can't be asked."""
    q = ctx.query
    if q.has("sort") and (q.has("sort_key") or q.has("sort_dir")):
        raise Invalid("Old and new sorting syntax cannot be combined")
    filters, upper = _filters(q)
    page = extended(LISTING.parse(q), **filters)
    scopes = [{**one, **upper} for one in _scopes(ctx)]
    return Page(page.filters, page.sorts, page.limit, page.marker, tuple(scopes))


def _scopes(ctx: Context) -> list[dict[str, Any]]:
    visibility, status = ctx.query.get("visibility"), ctx.query.get("member_status", "accepted")
    if visibility and visibility not in (*VISIBILITIES, "all"):
        raise Invalid(f"Invalid visibility value: {visibility}")
    if status not in _MEMBER_STATUSES:
        raise Invalid(f"Invalid status: {status}")
    return scopes_of(ctx.caller, visibility, status)


def _filters(q: Query) -> tuple[dict[str, Any], dict[str, Any]]:
    """Filters, and upper bounds of what has a lower bound too: one column is compared once in each set."""
    filters: dict[str, Any] = {"os_hidden": 0}
    upper: dict[str, Any] = {}
    properties = []
    for name, text in {k: v for k, v in q.pairs if k not in _CONTROL}.items():
        stem, _, end = name.rpartition("_")
        if stem in _NUMBERS and end in ("min", "max"):
            number = _number(text)
            if end == "min":
                filters[stem] = Match("ge", number)
            else:
                upper[stem] = Match("le", number)
        elif (one := _filter(name, text)) is not None:
            filters |= one
        else:
            properties.append(f"{name}={text}")
    if properties:
        filters["properties"] = Match("all", properties)
    if tags := [t.strip() for t in q.all("tag")]:
        filters["tags"] = Match("all", sorted(set(tags)))
    for column in upper:
        filters.setdefault(column, Match("ge", 0))  # without bytes there is no size to compare
    return filters, upper


def _filter(name: str, text: str) -> Mapping[str, Any] | None:
    """One filter on an attribute; None if the name is a property's."""
    if name == "visibility":
        return {} if text == "all" else {name: text}
    if name in ("os_hidden", "protected"):
        return {name: _boolean(name, text)}
    if name in _LISTS:
        return {name: _alternatives(text)}
    if name in _EXACT:
        return {name: text}
    if name in _NUMBERS:
        return {name: _number(text)}
    if name in _TIMES:
        return {name: _time(name, text)}
    if name == "changes-since":
        raise Invalid('The "changes-since" filter is no longer available on v2.')
    return None


def _boolean(name: str, text: str) -> int:
    if text.lower() not in ("true", "false"):
        raise Invalid(
            f"Invalid value '{text}' for '{name}' filter. Valid values are 'true' or 'false'."
        )
    return int(text.lower() == "true")


def _number(text: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text):
        raise Invalid("Unable to filter on a range with a non-numeric value.")
    return int(text)


def _alternatives(text: str) -> str | list[str]:
    """`in:a,"b,c"` -> any of them; anything else is meant as it stands. Raises Invalid."""
    op, colon, rest = text.partition(":")
    if not colon:
        return text
    if op == "eq":
        return rest
    if op != "in":
        raise Invalid(f"Unable to filter by unknown operator '{op}'.")
    if rest.count('"') % 2:
        raise Invalid(f"Invalid filter value {rest}. The quote is not closed.")
    return [a or b for a, b in _QUOTED.findall(rest)]


def _time(name: str, text: str) -> Match:
    """`gte:2026-11-26T12:00:00Z`; a time alone means that very second. Raises Invalid."""
    op, _, rest = text.partition(":")
    if op not in (*_COMPARED, "eq"):
        op, rest = "eq", text
    try:
        second = stamp(seconds_of(rest.replace(" ", "+")))[:19]
    except ValueError:
        raise Invalid(
            f'Bad "{name}" query filter format. Use ISO 8601 DateTime notation.'
        ) from None
    if op == "eq":
        return Match("prefix", second)
    return Match(_COMPARED[op], second + ("~" if op in ("gt", "lte") else ""))


def encoded(pairs: Sequence[tuple[str, str]]) -> str:
    return urlencode(pairs)

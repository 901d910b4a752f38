"""Query strings of lists: limit, marker, sorts, declared filters, fields; and the link to the next page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from re import _parser  # type: ignore[attr-defined]
from typing import Any
from urllib.parse import parse_qsl, urlencode

from .faults import Invalid
from .store import Match, Page

_TRUE = frozenset(("1", "true", "t", "yes", "y", "on"))
_FALSE = frozenset(("0", "false", "f", "no", "n", "off"))


class Query:
    """A parsed query string; keys may repeat."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.pairs = parse_qsl(text, keep_blank_values=True) if text else []
        if "\0" in text or "%00" in text:
            raise Invalid("Query strings may not contain NUL characters.")

    def get(self, name: str, default: str = "") -> str:
        """The first value."""
        return next((v for k, v in self.pairs if k == name), default)

    def all(self, name: str) -> list[str]:
        return [v for k, v in self.pairs if k == name]

    def has(self, name: str) -> bool:
        return bool(self.pairs) and any(k == name for k, _ in self.pairs)

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean in any usual spelling; a bare `?name` is true. Raises Invalid."""
        if not self.has(name):
            return default
        return boolean(self.get(name) or "true", name)


NO_QUERY = Query("")


def boolean(text: str, name: str) -> bool:
    """Raises Invalid."""
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise Invalid(f"Invalid input for {name}: '{text}' is not a boolean; use true or false.")


@dataclass(frozen=True)
class Filter:
    """One declared filter. `kind`: str, int or bool; `op` as in `store.Match`; `column` defaults to the query's name."""

    column: str = ""
    kind: type = str
    op: str = "eq"
    fold: bool = False  # compare without case: the column holds lower-case text

    def value(self, name: str, texts: Sequence[str]) -> Any:
        values = [self._one(name, t) for t in texts]
        if self.op in ("any", "all", "not_any", "not_all"):
            split = [v for text in texts for v in text.split(",") if v]
            return Match(self.op, split)
        if self.op != "eq":
            return Match(self.op, values[-1])
        return values[0] if len(values) == 1 else values

    def _one(self, name: str, text: str) -> Any:
        if self.kind is bool:
            return int(boolean(text, name))
        if self.kind is int:
            if not re.fullmatch(r"-?\d{1,18}", text):
                raise Invalid(f"Invalid input for {name}: '{text}' is not an integer.")
            return int(text)
        if self.op == "regex":
            check_pattern(name, text)
        return text.lower() if self.fold else text


def check_pattern(name: str, text: str) -> int:
    """Refuses what does not compile, and what could take for ever on one row: our loop would stand still.

    How many of its parts repeat, 3 at most: its time is that power, and one more, of a text's length. Raises Invalid.
    """
    try:
        re.compile(text)
        repeats = _repeats(_parser.parse(text), within=False)
    except (re.error, RecursionError, OverflowError) as e:
        raise Invalid(f"Invalid regular expression in {name}: {e}.") from None
    if repeats > _REPEATS:
        raise Invalid(
            f"The regular expression in {name} is too costly: repeat no group that repeats or has "
            f"alternatives, refer back to none, and use at most {_REPEATS} repetitions."
        )
    return repeats


def _repeats(parsed: Any, *, within: bool) -> int:
    """How many parts may match at many lengths; more than allowed for those whose time can explode."""
    found = 0
    for kind, value in parsed:
        if kind in (_parser.MAX_REPEAT, _parser.MIN_REPEAT, _parser.POSSESSIVE_REPEAT):
            low, high, inner = value
            if high != low:
                found += _REPEATS + 1 if within else 1
            found += _repeats(inner, within=within or high > 1)
        elif kind is _parser.BRANCH:
            found += _REPEATS + 1 if within else max(_repeats(b, within=within) for b in value[1])
        elif kind is _parser.SUBPATTERN:
            found += _repeats(value[-1], within=within)
        elif kind not in (
            _parser.LITERAL,
            _parser.NOT_LITERAL,
            _parser.ANY,
            _parser.IN,
            _parser.AT,
        ):
            found += _REPEATS + 1
    return found


_REPEATS = 3

TAG_FILTERS: Mapping[str, Filter] = {
    "tags": Filter("tags", op="all"),
    "tags-any": Filter("tags", op="any"),
    "not-tags": Filter("tags", op="not_all"),
    "not-tags-any": Filter("tags", op="not_any"),
}


@dataclass(frozen=True)
class Listing:
    """What a list may be asked. `default_limit` is the page without `limit`, `max_limit` the longest."""

    filters: Mapping[str, Filter] = field(default_factory=dict)
    sorts: Mapping[str, str] = field(default_factory=dict)  # query's name -> column
    default: tuple[tuple[str, bool], ...] = (("created_at", True), ("id", True))
    default_limit: int = 1000
    max_limit: int = 1000
    colon_sort: bool = False  # `sort=name:asc,id:desc` too (Glance, Cinder)

    def parse(
        self, query: Query, *, scopes: Sequence[Mapping[str, Any]] = (), **fixed: Any
    ) -> Page:
        """`fixed` filters and `scopes` come from policy and win over what the caller asks for. Raises Invalid."""
        filters: dict[str, Any] = {}
        for name in dict.fromkeys(k for k, _ in query.pairs):
            declared = self.filters.get(name)
            if declared is not None:
                filters[declared.column or name] = declared.value(name, query.all(name))
        for name, value in fixed.items():  # a wider filter may not replace a narrower one
            filters[name] = value
        return Page(
            filters,
            self._sorts(query),
            self._limit(query),
            query.get("marker"),
            tuple(scopes),
            reverse=query.get("page_reverse").lower() == "true",
        )

    def _limit(self, query: Query) -> int:
        if not query.has("limit"):
            return self.default_limit
        text = query.get("limit")
        if not text.isdecimal() or len(text) > 9:
            raise Invalid(
                f"Invalid input for query parameters 'limit'. Value: {text}. "
                f"'{text}' does not match '^[0-9]*$'"
            )
        return min(int(text) or self.max_limit, self.max_limit)

    def _sorts(self, query: Query) -> tuple[tuple[str, bool], ...]:
        keys, dirs = query.all("sort_key"), query.all("sort_dir")
        if self.colon_sort and query.get("sort"):
            parts = [p.partition(":") for p in query.get("sort").split(",")]
            keys, dirs = (
                [k.strip() for k, _, _ in parts],
                [d.strip() or "desc" for _, _, d in parts],
            )
        if not keys and not dirs:
            return self.default
        for key in keys:
            if key not in self.sorts:
                known = ", ".join(sorted(self.sorts))
                raise Invalid(f"Cannot sort by {key}; the sort keys are {known}.")
        for text in dirs:
            if text not in ("asc", "desc"):
                raise Invalid(f"Unknown sort direction '{text}'; it must be 'asc' or 'desc'.")
        if not keys:
            return tuple((c, dirs[0] == "desc") for c, _ in self.default)
        dirs += [dirs[-1] if dirs else self.first_direction] * (len(keys) - len(dirs))
        asked = tuple((self.sorts[k], d == "desc") for k, d in zip(keys, dirs, strict=False))
        return asked if any(c == "id" for c, _ in asked) else (*asked, ("id", asked[-1][1]))

    @property
    def first_direction(self) -> str:
        return "desc" if self.default[0][1] else "asc"


def next_link(url: str, query: Query, marker: str) -> str:
    """The same list behind `marker`."""
    kept = [(k, v) for k, v in query.pairs if k not in ("marker", "page_reverse")]
    return f"{url}?{urlencode([*kept, ('marker', marker)])}"


def extended(page: Page, **filters: Any) -> Page:
    """The page with more filters."""
    return replace(page, filters={**page.filters, **filters})

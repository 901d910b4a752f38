"""Access rules: what narrows a caller, whatever his roles, to some methods and paths of some services.

A path is as a service sees it, or whole with the service's prefix. `{name}` and `*` stand for one segment of it, `**` for
any number of them.

Rules are written by users and paths by whoever calls, so the time to compare them is that of reading the path once: a
regular expression of many `**` could take for ever.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache

import msgspec

_PARTS = re.compile(r"\{[^}]*\}|\*\*|\*|[^{}*]+|[{}]")
_KEPT_PATTERNS = 4096


class AccessRule(msgspec.Struct, frozen=True, kw_only=True):
    """`service` is a service's type; `method` an HTTP method."""

    service: str
    method: str
    path: str


def permits(
    rules: Iterable[AccessRule], types: Collection[str], method: str, paths: Iterable[str]
) -> bool:
    """Whether one of the rules lets a request pass to a service of one of `types`; `paths` are its spellings."""
    spellings = tuple(paths)
    return any(
        rule.method == method
        and rule.service in types
        and any(_pattern(rule.path).fits(path) for path in spellings)
        for rule in rules
    )


@dataclass(frozen=True)
class _Pattern:
    """Sets of places between a pattern's signs, a bit each: those behind which a character may come, and what it does."""

    by_character: dict[str, int]  # places that it leads one further
    segments: int  # places before a `*`, which takes one character of a segment or more
    anything: int  # places before a `**`, which takes any, or none
    end: int

    def fits(self, path: str) -> bool:
        at = self._without(1)
        for c in path:
            on = at & self.by_character.get(c, 0)
            stay = at & self.anything
            if c != "/":
                on |= at & self.segments
                stay |= at & self.segments << 1
            at = self._without(on << 1 | stay)
            if not at:
                return False
        return bool(at & self.end)

    def _without(self, at: int) -> int:
        """These places and those that follow if a `**` takes nothing."""
        return at | (at & self.anything) << 1


@lru_cache(_KEPT_PATTERNS)
def _pattern(path: str) -> _Pattern:
    by_character: dict[str, int] = {}
    segments = anything = 0
    place = 1
    for sign in _signs(path):
        if sign == "**":
            anything |= place
        elif sign == "*":
            segments |= place
        else:
            by_character[sign] = by_character.get(sign, 0) | place
        place <<= 1
    return _Pattern(by_character, segments, anything, place)


def _signs(path: str) -> Iterable[str]:
    """`**`, `*` and single characters; one `**` for several in a row."""
    before = ""
    for part in _PARTS.findall(path):
        if part == "**" and before == "**":
            continue
        before = "*" if part[0] == "{" and len(part) > 1 else part
        yield from [before] if before in ("*", "**") else part

"""Access rules: what narrows a caller, whatever his roles, to some methods and paths of some services.

A path is as a service sees it, or whole with the service's prefix. `{name}` and `*` stand for one segment of it, `**` for
any number of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
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
        and any(_pattern(rule.path).fullmatch(path) for path in spellings)
        for rule in rules
    )


@lru_cache(_KEPT_PATTERNS)
def _pattern(path: str) -> re.Pattern[str]:
    return re.compile("".join(_part(p) for p in _PARTS.findall(path)), re.DOTALL)


def _part(text: str) -> str:
    if text == "**":
        return ".*"
    if text == "*" or (text[0] == "{" and len(text) > 1):
        return "[^/]+"
    return re.escape(text)

"""What a query for allocation candidates asks: groups of resources, and what holds for all of them together."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pileus.kernel.faults import Invalid
from pileus.kernel.resources import Context
from pileus.kernel.versions import Version

from .answers import BAD_VALUE, DUPLICATE_KEY, MISSING_VALUE
from .matching import Wanted, require_known, traits_of, wanted
from .names import require_traits
from .providers import PROVIDERS

MOST = 100_000  # candidates in one answer, whatever the query says
MOST_TRIED = 2_000_000  # choices of one search: some seconds of a processor
_KEY = re.compile(r"(resources|required|member_of|in_tree)([a-zA-Z0-9_-]{0,64})")
_NUMBER = re.compile(r"[1-9][0-9]*")
_SINCE: dict[str, Version] = {
    "resources": (1, 10),
    "limit": (1, 16),
    "required": (1, 17),
    "member_of": (1, 21),
    "group_policy": (1, 25),
    "in_tree": (1, 31),
    "root_required": (1, 35),
    "same_subtree": (1, 36),
}
_NEVER: Version = (1 << 30, 0)
_NUMBERED, _NAMED = (1, 25), (1, 33)  # suffixes


@dataclass(frozen=True)
class Demands:
    """`groups` by suffix: that of "" may be spread over a tree, every other one is served by one provider.

    `isolated`: no provider serves two of the suffixed groups. `subtrees`: of the providers that serve the groups of
    one set, one is an ancestor of the others. `across_tree`: several providers of one tree may serve. `most_tried`:
    choices of providers after which the search is given up.
    """

    groups: dict[str, Wanted]
    limit: int = MOST
    isolated: bool = False
    root_required: frozenset[str] = frozenset()
    root_forbidden: frozenset[str] = frozenset()
    subtrees: tuple[frozenset[str], ...] = ()
    across_tree: bool = True
    most_tried: int = MOST_TRIED


async def demands(ctx: Context) -> Demands:
    """What the query string asks. Raises Invalid."""
    suffixes = _suffixes(ctx)
    subtrees = _subtrees(ctx)
    groups = {suffix: await wanted(ctx, PROVIDERS, suffix) for suffix in suffixes}
    if ctx.version >= (1, 36):
        _check_subtrees(groups, subtrees)
    else:
        _check_orphans(groups)
    await require_known(ctx.runtime.store, list(groups.values()))
    policy = ctx.query.get("group_policy")
    if policy not in ("", "none", "isolate"):
        raise Invalid(
            f"Invalid query string parameters: group_policy is 'none' or 'isolate', not '{policy}'"
        )
    if not policy and len(groups.keys() - {""}) > 1:
        raise Invalid(
            'The "group_policy" parameter is required when specifying more than one '
            '"resources{N}" parameter.'
        )
    root_required, root_forbidden = await _root_traits(ctx)
    return Demands(
        groups=groups,
        limit=_limit(ctx.query.all("limit")),
        isolated=policy == "isolate",
        root_required=root_required,
        root_forbidden=root_forbidden,
        subtrees=subtrees,
        across_tree=ctx.version >= (1, 29),
    )


def _suffixes(ctx: Context) -> Iterable[str]:
    """The suffixes of the groups, in the order of the query. Raises Invalid for a key the version doesn't know."""
    found: dict[str, None] = {}
    for key, _ in ctx.query.pairs:
        match = _KEY.fullmatch(key)
        name, suffix = match.groups() if match else (key, "")
        since = _SINCE.get(name, _NEVER)
        if suffix:
            since = max(since, _NUMBERED if _NUMBER.fullmatch(suffix) else _NAMED)
        if ctx.version < since:
            raise Invalid(
                "Invalid query string parameters: Additional properties are not allowed "
                f"('{key}' was unexpected)"
            )
        if match:
            found[suffix] = None
    if ctx.version < _NUMBERED and not ctx.query.has("resources"):
        raise Invalid("Invalid query string parameters: 'resources' is a required property")
    return found


def _check_orphans(groups: dict[str, Wanted]) -> None:
    """Before 1.36 every group asks for resources. Raises Invalid."""
    idle = {suffix: group for suffix, group in groups.items() if not group.resources}
    for word, orphans in (
        ("required", [s for s, g in idle.items() if g.required or g.forbidden]),
        ("member_of", [s for s, g in idle.items() if g.member_of or g.not_member_of]),
    ):
        if orphans:
            kind = "traits" if word == "required" else word
            raise Invalid(
                f"All {kind} parameters must be associated with resources. Found the following "
                f"orphaned {kind} keys: {', '.join(word + s for s in orphans)}"
            )
    if idle:
        raise Invalid("All request groups must specify resources.")
    if not groups:
        raise Invalid("At least one request group (`resources` or `resources{$S}`) is required.")


def _check_subtrees(groups: dict[str, Wanted], subtrees: tuple[frozenset[str], ...]) -> None:
    """Raises Invalid for a group without resources that no `same_subtree` names, and the other way round."""
    idle = {suffix for suffix, group in groups.items() if not group.resources}
    if len(idle) == len(groups):
        raise Invalid(
            "There must be at least one resources or resources[$S] parameter.", code=MISSING_VALUE
        )
    named = frozenset().union(*subtrees)
    if stray := sorted(idle - named):
        raise Invalid(
            "Resourceless suffixed group request should be specified in `same_subtree` query "
            f"param: bad group(s) - {stray}.",
            code=BAD_VALUE,
        )
    if unknown := sorted(named - groups.keys()):
        raise Invalid(
            f"Real suffixes should be specified in `same_subtree`: {unknown} not found in "
            f"{sorted(groups)}.",
            code=BAD_VALUE,
        )


def _subtrees(ctx: Context) -> tuple[frozenset[str], ...]:
    found = []
    for value in ctx.query.all("same_subtree"):
        suffixes = frozenset(s.strip() for s in value.split(","))
        if "" in suffixes:
            raise Invalid(
                "Empty string (unsuffixed group) can not be specified in `same_subtree`.",
                code=BAD_VALUE,
            )
        found.append(suffixes)
    return tuple(found)


async def _root_traits(ctx: Context) -> tuple[frozenset[str], frozenset[str]]:
    """What the tree's root must have and must not have. Raises Invalid."""
    values = ctx.query.all("root_required")
    if not values:
        return frozenset(), frozenset()
    if len(values) > 1:
        raise Invalid(
            "Query parameter 'root_required' may be specified only once.", code=DUPLICATE_KEY
        )
    required, forbidden = traits_of(values, any_of=False, forbidding=True)
    single = frozenset().union(*required)
    if both := sorted(single & forbidden):
        raise Invalid(
            f"Conflicting required and forbidden traits found in root_required: {', '.join(both)}",
            code=BAD_VALUE,
        )
    await require_traits(ctx.runtime.store, single | forbidden)
    return single, forbidden


def _limit(values: list[str]) -> int:
    if not values:
        return MOST
    if not re.fullmatch(r"[1-9][0-9]{0,17}", values[0]):
        raise Invalid(
            f"Invalid query string parameters: limit '{values[0]}' does not match '^[1-9][0-9]*$'"
        )
    return min(int(values[0]), MOST)

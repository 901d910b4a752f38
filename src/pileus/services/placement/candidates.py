"""Allocation candidates: which providers could take a demand. Placement API, "Allocation candidates" (since 1.10).

A candidate is one provider that has all that is asked. Demands spread over several providers (more than one group of
parameters, `same_subtree`, sharing providers) are not served: they answer 501 rather than a wrong list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pileus.kernel.faults import Invalid, NotImplementedYet
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.store import Page

from .answers import MISSING_VALUE, answer
from .matching import Wanted, matching, wanted
from .providers import PROVIDERS, ResourceProvider

_LIMIT = 10_000
_KEY = re.compile(r"(resources|required|member_of|in_tree)([a-zA-Z0-9_-]{0,64})")
_SINCE = {"limit": (1, 16), "required": (1, 17), "member_of": (1, 21), "in_tree": (1, 31)}
_GROUPS_SINCE, _NAMED_GROUPS_SINCE = (1, 25), (1, 33)
_ELSEWHERE = {"group_policy": (1, 25), "root_required": (1, 35), "same_subtree": (1, 36)}


class AllocationCandidates(Resource[ResourceProvider]):
    table = PROVIDERS
    rules = {"placement:allocation_candidates:list": "rule:admin_or_service_api"}

    @operation(
        "GET", "/allocation_candidates", "placement:allocation_candidates:list", since="1.10"
    )
    async def index(self, ctx: Context) -> Any:
        suffix = _group(ctx)
        limit = _limit(ctx.query.get("limit", str(_LIMIT)))
        asked = await wanted(ctx, PROVIDERS, suffix)
        found: list[ResourceProvider] = []
        async for provider in matching(ctx.runtime.store, PROVIDERS, asked):
            found.append(provider)
            if len(found) == limit:
                break
        body = {
            "allocation_requests": [_request(ctx, p, asked, suffix) for p in found],
            "provider_summaries": await _summaries(ctx, found, asked),
        }
        return answer(ctx, body)


def _group(ctx: Context) -> str:
    """The suffix of the one group of parameters. Raises Invalid, NotImplementedYet for several."""
    suffixes, with_resources = set(), set()
    for key, _ in ctx.query.pairs:
        match = _KEY.fullmatch(key)
        since = _ELSEWHERE.get(key) or _SINCE.get(match[1] if match else key, (1, 10))
        if match and match[2]:
            since = max(since, _GROUPS_SINCE if match[2].isdecimal() else _NAMED_GROUPS_SINCE)
        if ctx.version < since or not (match or key == "limit" or key in _ELSEWHERE):
            raise Invalid(
                "Invalid query string parameters: Additional properties are not allowed "
                f"('{key}' was unexpected)"
            )
        if key in ("root_required", "same_subtree"):
            raise NotImplementedYet(f"Allocation candidates with {key} are not served.")
        if match:
            suffixes.add(match[2])
            if match[1] == "resources":
                with_resources.add(match[2])
    if not with_resources:
        raise Invalid(
            "There must be at least one resources or resources[$S] parameter.", code=MISSING_VALUE
        )
    if suffixes - with_resources:
        raise Invalid("All request groups must specify resources.")
    if len(suffixes) > 1:
        raise NotImplementedYet(
            "Allocation candidates of more than one group of resources are not served; "
            "ask for one group at a time."
        )
    return suffixes.pop()


def _limit(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise Invalid(
            f"Invalid query string parameters: limit '{text}' does not match '^[1-9][0-9]*$'"
        )
    return min(int(text), _LIMIT)


def _request(
    ctx: Context, provider: ResourceProvider, asked: Wanted, suffix: str
) -> dict[str, Any]:
    if ctx.version < (1, 12):
        ref = {"resource_provider": {"uuid": provider.id}, "resources": asked.resources}
        return {"allocations": [ref]}
    shown: dict[str, Any] = {"allocations": {provider.id: {"resources": asked.resources}}}
    if ctx.version >= (1, 34):
        shown["mappings"] = {suffix: [provider.id]}
    return shown


async def _summaries(
    ctx: Context, found: list[ResourceProvider], asked: Wanted
) -> Mapping[str, Any]:
    """What is known of the candidates and, since 1.29, of the rest of their trees."""
    if ctx.version >= (1, 29) and found:
        roots = sorted({p.root_id for p in found})
        found = await PROVIDERS.list(ctx.runtime.store, Page({"root_id": roots}, limit=100_000))
    return {p.id: _summary(ctx, p, asked) for p in found}


def _summary(ctx: Context, provider: ResourceProvider, asked: Wanted) -> dict[str, Any]:
    every = ctx.version >= (1, 27)
    shown: dict[str, Any] = {
        "resources": {
            c: {"capacity": s.capacity, "used": s.used}
            for c, s in provider.inventories.items()
            if every or c in asked.resources
        }
    }
    if ctx.version >= (1, 17):
        shown["traits"] = provider.traits
    if ctx.version >= (1, 29):
        shown["parent_provider_uuid"] = provider.parent_id or None
        shown["root_provider_uuid"] = provider.root_id
    return shown

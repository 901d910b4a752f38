"""Usages: what of a provider's inventories is allocated, and what a project holds. Placement API, "Usages"."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from pileus.kernel.faults import Invalid
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Page

from .answers import answer, only
from .ledger import CONSUMERS, UNKNOWN_TYPE, Consumer
from .media_types import JsonResource
from .providers import OfProvider, ResourceProvider

_SLICE = 200
_TYPE = re.compile(r"[A-Z0-9_]{1,255}|all|unknown")
_PROJECT_USAGES = "rule:admin_or_project_reader_or_service_api"


class ProviderUsages(OfProvider):
    rules = {"placement:resource_providers:usages": "rule:admin_or_service_api"}

    @operation(
        "GET", "/resource_providers/{provider_id}/usages", "placement:resource_providers:usages"
    )
    async def index(self, ctx: Context, provider: ResourceProvider) -> Any:
        used = {c: s.used for c, s in sorted(provider.inventories.items())}
        body = {"resource_provider_generation": provider.provider_generation, "usages": used}
        return answer(ctx, body)


class Usages(JsonResource[Consumer]):
    table = CONSUMERS
    rules = {"placement:usages": _PROJECT_USAGES}

    def scope_target(self, ctx: Context, params: Mapping[str, str]) -> Mapping[str, object]:
        return {"project_id": ctx.query.get("project_id")}

    @operation("GET", "/usages", "placement:usages", since="1.9")
    async def index(self, ctx: Context) -> Any:
        by_type = ctx.version >= (1, 38)
        only(ctx, "project_id", "user_id", *(("consumer_type",) if by_type else ()))
        filters = {k: ctx.query.get(k) for k in ("project_id", "user_id") if ctx.query.has(k)}
        if "project_id" not in filters:
            raise Invalid("Invalid query string parameters: 'project_id' is a required property")
        for name, value in filters.items():
            if not 1 <= len(value) <= 255:
                raise Invalid(
                    f"Invalid query string parameters: {name} has 1 to 255 characters, "
                    f"not {len(value)}"
                )
        asked = ctx.query.get("consumer_type")
        if ctx.query.has("consumer_type") and not _TYPE.fullmatch(asked):
            raise Invalid(
                f"Invalid query string parameters: consumer_type '{asked}' is neither 'all', "
                "'unknown' nor a type of A-Z, 0-9 and _"
            )
        if asked and asked != "all":
            filters["consumer_type"] = asked
        sums = await _sums(ctx, filters)
        if by_type:
            return answer(ctx, {"usages": _merged(sums, "all") if asked == "all" else sums})
        total = _merged(sums, "all").get("all", {})
        return answer(ctx, {"usages": {c: n for c, n in total.items() if c != "consumer_count"}})


async def _sums(ctx: Context, filters: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """consumer type -> resource class (and `consumer_count`) -> how much."""
    sums: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    marker = ""
    while True:
        page = Page(filters, (("created_at", False), ("id", False)), _SLICE, marker)
        found = await CONSUMERS.list(ctx.runtime.store, page)
        for consumer in found:
            mine = sums[consumer.consumer_type or UNKNOWN_TYPE]
            mine["consumer_count"] += 1
            for amounts in consumer.allocations.values():
                for resource_class, amount in amounts.items():
                    mine[resource_class] += amount
        if len(found) < _SLICE:
            return {k: dict(v) for k, v in sums.items()}
        marker = found[-1].id
        await asyncio.sleep(0)


def _merged(sums: Mapping[str, Mapping[str, int]], name: str) -> dict[str, dict[str, int]]:
    total: dict[str, int] = defaultdict(int)
    for by_class in sums.values():
        for resource_class, amount in by_class.items():
            total[resource_class] += amount
    return {name: dict(total)} if total else {}

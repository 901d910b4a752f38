"""Aggregates of a provider: UUIDs that group providers. Placement API, "Resource provider aggregates" (since 1.1)."""

from __future__ import annotations

from typing import Any

from pileus.kernel.faults import Invalid
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Tx

from .answers import answer, as_uuid
from .providers import PROVIDERS, ResourceProvider, refuse_stale, revise

_PATH = "/resource_providers/{provider_id}/aggregates"


class SetAggregates(Body):
    lax = False
    aggregates: list[str]
    resource_provider_generation: int


def _view(ctx: Context, provider: ResourceProvider) -> Any:
    shown: dict[str, Any] = {"aggregates": provider.aggregates}
    if ctx.version >= (1, 19):
        shown["resource_provider_generation"] = provider.provider_generation
    return answer(ctx, shown)


def _checked(ids: list[str]) -> list[str]:
    found = [as_uuid(i, "aggregate") for i in ids]
    if len(set(found)) != len(found):
        raise Invalid(f"JSON does not validate: {ids} has non-unique elements")
    return sorted(found)


async def _replace(tx: Tx, provider: ResourceProvider, ids: list[str]) -> ResourceProvider:
    return await revise(tx, provider, aggregates=ids)


class ProviderAggregates(Resource[ResourceProvider]):
    table = PROVIDERS
    id_param = "provider_id"
    rules = {
        f"placement:resource_providers:aggregates:{verb}": "rule:admin_or_service_api"
        for verb in ("list", "update")
    }

    @operation("GET", _PATH, "placement:resource_providers:aggregates:list", since="1.1")
    async def index(self, ctx: Context, provider: ResourceProvider) -> Any:
        return _view(ctx, provider)

    @operation("PUT", _PATH, "placement:resource_providers:aggregates:update", since="1.19")
    async def set_all(self, ctx: Context, provider: ResourceProvider, body: SetAggregates) -> Any:
        wanted = _checked(body.aggregates)
        async with ctx.runtime.store.tx() as tx:
            provider = await PROVIDERS.get(tx, provider.id)
            refuse_stale(provider, body.resource_provider_generation)
            provider = await _replace(tx, provider, wanted)
        return _view(ctx, provider)

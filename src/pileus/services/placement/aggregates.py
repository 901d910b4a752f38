"""Aggregates of a provider: UUIDs that group providers. Placement API, "Resource provider aggregates" (since 1.1)."""

from __future__ import annotations

from typing import Any

import msgspec

from pileus.kernel.faults import Invalid, TooLarge
from pileus.kernel.resources import Context, Stream, operation
from pileus.kernel.schema import Body

from .answers import answer, as_uuid
from .providers import PROVIDERS, OfProvider, ResourceProvider, refuse_stale, revise

_LONGEST = 114_688  # bytes of a body
_PATH = "/resource_providers/{provider_id}/aggregates"


class SetAggregates(Body):
    lax = False
    aggregates: list[str]
    resource_provider_generation: int


def _view(ctx: Context, provider: ResourceProvider) -> Any:
    shown: dict[str, Any] = {"aggregates": provider.aggregates}
    if ctx.version >= (1, 19):
        shown["resource_provider_generation"] = provider.provider_generation
    return answer(ctx, shown, changed_at=provider.updated_at or provider.created_at)


def _checked(ids: list[str]) -> list[str]:
    found = [as_uuid(i) for i in ids]
    if len(set(found)) != len(found):
        raise Invalid(f"JSON does not validate: {ids} has non-unique elements")
    return found


async def _listed(body: Stream) -> list[str]:
    """The bare list that was the body before 1.19. Raises Invalid, TooLarge."""
    raw = b""
    async for chunk in body.chunks:
        raw += chunk
        if len(raw) > _LONGEST:
            raise TooLarge(f"Request is too large: the body may have {_LONGEST} bytes.")
    try:
        return msgspec.json.decode(raw, type=list[str])
    except ValueError as wrong:
        raise Invalid(f"JSON does not validate: a list of UUIDs is wanted: {wrong}") from None


class ProviderAggregates(OfProvider):
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
            provider = await revise(tx, provider, aggregates=wanted)
        return _view(ctx, provider)

    @operation(
        "PUT", _PATH, "placement:resource_providers:aggregates:update", since="1.1", until="1.19"
    )
    async def set_listed(self, ctx: Context, provider: ResourceProvider, body: Stream) -> Any:
        """Without a generation, which these versions neither ask nor count."""
        wanted = _checked(await _listed(body))
        async with ctx.runtime.store.tx() as tx:
            provider = await PROVIDERS.get(tx, provider.id)
            provider = await PROVIDERS.change(tx, provider, aggregates=wanted)
        return _view(ctx, provider)

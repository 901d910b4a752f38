"""Traits: qualities of a provider. Placement API, "Traits" and "Resource provider traits" (since 1.6)."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from msgspec import Meta

from pileus.kernel.faults import Conflict, Invalid, NotFound
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Match, Page, Reader

from . import answers
from .answers import answer, is_custom
from .media_types import JsonResource
from .names import TRAITS, CustomName, make, standard_traits, unknown_traits
from .providers import PROVIDERS, OfProvider, ResourceProvider, refuse_stale, revise

_OF_PROVIDER = "/resource_providers/{provider_id}/traits"
TraitName = Annotated[str, Meta(min_length=1, max_length=255)]


class SetTraits(Body):
    lax = False
    traits: list[TraitName]
    resource_provider_generation: int


async def _known(db: Reader, name: str) -> bool:
    return not await unknown_traits(db, (name,))


def _missing(name: str) -> NotFound:
    return NotFound(f"No such trait(s): {name}.")


class Traits(JsonResource[CustomName]):
    table = TRAITS
    rules = {
        f"placement:traits:{verb}": "rule:admin_or_service_api"
        for verb in ("list", "show", "update", "delete")
    }

    @operation("GET", "/traits", "placement:traits:list", since="1.6")
    async def index(self, ctx: Context) -> Any:
        answers.only(ctx, "name", "associated")
        store = ctx.runtime.store
        names = [*standard_traits(), *(t.id for t in await TRAITS.all(store))]
        if ctx.query.has("name"):
            names = _named(names, ctx.query.get("name"))
        if ctx.query.has("associated"):
            associated = ctx.query.get("associated").lower()
            if associated not in ("true", "false"):
                raise Invalid('The query parameter "associated" only accepts "true" or "false"')
            used = [n for n in names if await _in_use(store, n)]
            await asyncio.sleep(0)
            names = used if associated == "true" else [n for n in names if n not in set(used)]
        return answer(ctx, {"traits": names})

    @operation("GET", "/traits/{name}", "placement:traits:show", since="1.6")
    async def show(self, ctx: Context, name: str) -> Any:
        if not await _known(ctx.runtime.store, name):
            raise _missing(name)
        return answer(ctx, None, 204)

    @operation("PUT", "/traits/{name}", "placement:traits:update", since="1.6")
    async def create(self, ctx: Context, name: str) -> Any:
        if not is_custom(name):
            raise Invalid(
                "The trait is invalid. A valid trait must be no longer than 255 characters, start "
                'with the prefix "CUSTOM_" and use following characters: "A"-"Z", "0"-"9" and "_"'
            )
        async with ctx.runtime.store.tx() as tx:
            is_new = await make(tx, TRAITS, name)
        url = f"{ctx.service.prefix}/traits/{name}"
        return answer(ctx, None, 201 if is_new else 204, location=url)

    @operation("DELETE", "/traits/{name}", "placement:traits:delete", since="1.6")
    async def delete(self, ctx: Context, name: str) -> None:
        if name in standard_traits():
            raise Invalid(f"Cannot delete standard trait {name}.")
        async with ctx.runtime.store.tx() as tx:
            trait = await TRAITS.find(tx, name)
            if trait is None:
                raise _missing(name)
            if await _in_use(tx, name):
                raise Conflict(f"The trait {name} is in use by a resource provider.")
            await TRAITS.delete(tx, trait)


class ProviderTraits(OfProvider):
    rules = {
        f"placement:resource_providers:traits:{verb}": "rule:admin_or_service_api"
        for verb in ("list", "update", "delete")
    }

    @operation("GET", _OF_PROVIDER, "placement:resource_providers:traits:list", since="1.6")
    async def index(self, ctx: Context, provider: ResourceProvider) -> Any:
        return answer(ctx, _view(provider), changed_at=provider.updated_at or provider.created_at)

    @operation("PUT", _OF_PROVIDER, "placement:resource_providers:traits:update", since="1.6")
    async def set_all(self, ctx: Context, provider: ResourceProvider, body: SetTraits) -> Any:
        async with ctx.runtime.store.tx() as tx:
            provider = await PROVIDERS.get(tx, provider.id)
            refuse_stale(provider, body.resource_provider_generation)
            if unknown := await unknown_traits(tx, body.traits):
                raise Invalid(f"No such trait {', '.join(unknown)}")
            wanted = sorted(set(body.traits))
            if wanted != provider.traits:
                provider = await revise(tx, provider, traits=wanted)
        return answer(ctx, _view(provider), changed_at=provider.updated_at)

    @operation("DELETE", _OF_PROVIDER, "placement:resource_providers:traits:delete", since="1.6")
    async def delete_all(self, ctx: Context, provider: ResourceProvider) -> None:
        async with ctx.runtime.store.tx() as tx:
            provider = await PROVIDERS.get(tx, provider.id)
            if provider.traits:
                await revise(tx, provider, traits=[])


def _view(provider: ResourceProvider) -> dict[str, Any]:
    return {"traits": provider.traits, "resource_provider_generation": provider.provider_generation}


async def _in_use(db: Reader, name: str) -> bool:
    return bool(await PROVIDERS.list(db, Page({"traits": Match("any", [name])}, limit=1)))


def _named(names: list[str], asked: str) -> list[str]:
    """`in:A,B` or `startswith:P`. Raises Invalid."""
    op, colon, value = asked.partition(":")
    if op == "in" and colon:
        wanted = set(value.split(","))
        return [n for n in names if n in wanted]
    if op == "startswith" and colon:
        return [n for n in names if n.startswith(value)]
    raise Invalid(
        "Badly formatted name parameter. Expected name query string parameter in form: "
        f'?name=[in|startswith]:[name1,name2|prefix]. Got: "{asked}"'
    )

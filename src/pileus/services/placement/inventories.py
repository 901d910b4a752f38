"""Inventories: how much of a resource class a provider has. Placement API, "Resource provider inventories"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pileus.kernel.faults import Conflict, Invalid, MethodNotAllowed, NotFound
from pileus.kernel.resources import Answer, Context, operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Tx
from pileus.kernel.versions import Version

from . import answers
from .answers import answer
from .fit import MAX_INT, Stock
from .names import require_classes
from .providers import PROVIDERS, OfProvider, ResourceProvider, refuse_stale, revise

Positive = Annotated[int, Meta(ge=1, le=MAX_INT)]
Natural = Annotated[int, Meta(ge=0, le=MAX_INT)]
Ratio = Annotated[float, Meta(gt=0, le=3.40282e38)]
_FIELDS = ("total", "reserved", "min_unit", "max_unit", "step_size", "allocation_ratio")
_INVENTORIES = "/resource_providers/{provider_id}/inventories"


class InventoryBody(Body):
    lax = False
    total: Positive
    reserved: Natural = 0
    min_unit: Positive = 1
    max_unit: Positive = MAX_INT
    step_size: Positive = 1
    allocation_ratio: Ratio = 1.0

    def stock(self, used: int = 0) -> Stock:
        return Stock(**{f: getattr(self, f) for f in _FIELDS}, used=used)


class CreateInventory(InventoryBody, kw_only=True):
    resource_class: str
    resource_provider_generation: int | UnsetType = UNSET


class UpdateInventory(InventoryBody, kw_only=True):
    resource_provider_generation: int


class ListedInventory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of several, under its class. Its own generation is allowed and ignored, as upstream does."""

    total: Positive
    reserved: Natural = 0
    min_unit: Positive = 1
    max_unit: Positive = MAX_INT
    step_size: Positive = 1
    allocation_ratio: Ratio = 1.0
    resource_provider_generation: int | UnsetType = UNSET

    def stock(self, used: int = 0) -> Stock:
        return Stock(**{f: getattr(self, f) for f in _FIELDS}, used=used)


class SetInventories(Body):
    lax = False
    resource_provider_generation: int
    inventories: dict[str, ListedInventory]


def view(stock: Stock) -> dict[str, Any]:
    return {f: getattr(stock, f) for f in _FIELDS}


def _one(ctx: Context, provider: ResourceProvider, resource_class: str) -> dict[str, Any]:
    shown = view(provider.inventories[resource_class])
    return shown | {"resource_provider_generation": provider.provider_generation}


def _all(ctx: Context, provider: ResourceProvider) -> Answer:
    body = {
        "resource_provider_generation": provider.provider_generation,
        "inventories": {c: view(s) for c, s in sorted(provider.inventories.items())},
    }
    return answer(ctx, body, changed_at=provider.updated_at or provider.created_at)


def check_reserved(
    provider_id: str, stocks: Mapping[str, Stock], at: Version, verb: str = "update"
) -> None:
    """Raises Invalid for a reservation of more than there is (before 1.26: of all there is)."""
    lowest = 0 if at >= (1, 26) else 1
    for resource_class, stock in stocks.items():
        if stock.capacity < lowest:
            word = "greater than" if lowest == 0 else "greater than or equal to"
            raise Invalid(
                f"Unable to {verb} inventory for resource provider {provider_id}: Invalid "
                f"inventory for '{resource_class}' on resource provider '{provider_id}'. "
                f"The reserved value is {word} total."
            )


async def _replace(
    tx: Tx, provider: ResourceProvider, stocks: dict[str, Stock]
) -> ResourceProvider:
    """All inventories at once. Raises Conflict if one that would go is in use."""
    used = {c for c, s in provider.inventories.items() if s.used and c not in stocks}
    if used:
        raise Conflict(
            f"update conflict: Inventory for '{', '.join(sorted(used))}' on resource provider "
            f"'{provider.id}' in use.",
            code=answers.INVENTORY_IN_USE,
        )
    return await revise(tx, provider, inventories=stocks)


class Inventories(OfProvider):
    rules = {
        f"placement:resource_providers:inventories:{verb}": "rule:admin_or_service_api"
        for verb in ("list", "create", "show", "update", "delete")
    }

    @operation("GET", _INVENTORIES, "placement:resource_providers:inventories:list")
    async def index(self, ctx: Context, provider: ResourceProvider) -> Any:
        return _all(ctx, provider)

    @operation("POST", _INVENTORIES, "placement:resource_providers:inventories:create")
    async def create(self, ctx: Context, provider: ResourceProvider, body: CreateInventory) -> Any:
        name, stock = body.resource_class, body.stock()
        answers.class_names((name,))
        where = f"Unable to create inventory for resource provider {provider.id}"
        async with ctx.runtime.store.tx() as tx:
            provider = await PROVIDERS.get(tx, provider.id)
            await require_classes(tx, (name,), where)
            check_reserved(provider.id, {name: stock}, ctx.version, "create")
            if name in provider.inventories:
                raise answers.concurrent(
                    f"Update conflict: provider {provider.id} has an inventory of {name} already."
                )
            provider = await revise(tx, provider, inventories={**provider.inventories, name: stock})
        url = f"{ctx.service.prefix}/resource_providers/{provider.id}/inventories/{name}"
        return answer(
            ctx, _one(ctx, provider, name), 201, changed_at=provider.updated_at, location=url
        )

    @operation("PUT", _INVENTORIES, "placement:resource_providers:inventories:update")
    async def set_all(self, ctx: Context, provider: ResourceProvider, body: SetInventories) -> Any:
        answers.class_names(body.inventories)
        where = f"Unknown resource class in inventory for resource provider {provider.id}"
        async with ctx.runtime.store.tx() as tx:
            provider = await PROVIDERS.get(tx, provider.id)
            refuse_stale(provider, body.resource_provider_generation)
            await require_classes(tx, body.inventories, where)
            stocks = {}
            for name, given in body.inventories.items():
                known = provider.inventories.get(name)
                stocks[name] = given.stock(known.used if known else 0)
            check_reserved(provider.id, stocks, ctx.version)
            provider = await _replace(tx, provider, stocks)
        return _all(ctx, provider)

    @operation("DELETE", _INVENTORIES, "placement:resource_providers:inventories:delete")
    async def delete_all(self, ctx: Context, provider: ResourceProvider) -> None:
        if ctx.version < (1, 5):
            raise MethodNotAllowed(
                "All inventories can be deleted at once since 1.5.",
                headers={"allow": "GET, POST, PUT"},
            )
        async with ctx.runtime.store.tx() as tx:
            await _replace(tx, await PROVIDERS.get(tx, provider.id), {})

    @operation(
        "GET", _INVENTORIES + "/{resource_class}", "placement:resource_providers:inventories:show"
    )
    async def show(self, ctx: Context, provider: ResourceProvider, resource_class: str) -> Any:
        _require(provider, resource_class, "for")
        changed_at = provider.updated_at or provider.created_at
        return answer(ctx, _one(ctx, provider, resource_class), changed_at=changed_at)

    @operation(
        "PUT", _INVENTORIES + "/{resource_class}", "placement:resource_providers:inventories:update"
    )
    async def update(
        self, ctx: Context, provider: ResourceProvider, resource_class: str, body: UpdateInventory
    ) -> Any:
        async with ctx.runtime.store.tx() as tx:
            provider = await PROVIDERS.get(tx, provider.id)
            refuse_stale(provider, body.resource_provider_generation)
            known = provider.inventories.get(resource_class)
            if known is None:
                raise Invalid(
                    f"Unable to update inventory for resource provider {provider.id}: "
                    f"No inventory record with resource class {resource_class}."
                )
            stock = body.stock(known.used)
            check_reserved(provider.id, {resource_class: stock}, ctx.version)
            stocks = {**provider.inventories, resource_class: stock}
            provider = await revise(tx, provider, inventories=stocks)
        return answer(ctx, _one(ctx, provider, resource_class), changed_at=provider.updated_at)

    @operation(
        "DELETE",
        _INVENTORIES + "/{resource_class}",
        "placement:resource_providers:inventories:delete",
    )
    async def delete(self, ctx: Context, provider: ResourceProvider, resource_class: str) -> None:
        async with ctx.runtime.store.tx() as tx:
            provider = await PROVIDERS.get(tx, provider.id)
            _require(provider, resource_class, "found for delete on")
            if provider.inventories[resource_class].used:
                raise answers.concurrent(
                    f"Unable to delete inventory of class {resource_class}: Inventory for "
                    f"'{resource_class}' on resource provider '{provider.id}' in use."
                )
            rest = {c: s for c, s in provider.inventories.items() if c != resource_class}
            await revise(tx, provider, inventories=rest)


def _require(provider: ResourceProvider, resource_class: str, where: str) -> None:
    if resource_class not in provider.inventories:
        raise NotFound(f"No inventory of class {resource_class} {where} {provider.id}.")

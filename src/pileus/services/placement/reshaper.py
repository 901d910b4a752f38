"""The reshaper: inventories of several providers and the allocations of them, changed together.

How a host's providers become a tree, or one again, while servers run on it. Placement API, "Reshaper" (since 1.30).
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pileus.kernel.faults import Invalid
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Tx

from . import answers
from .allocations import NewAllocations, wish_of
from .answers import as_uuid
from .fit import Stock
from .inventories import ListedInventory, check_reserved
from .ledger import fulfil
from .media_types import JsonResource
from .names import require_classes
from .providers import PROVIDERS, ResourceProvider, refuse_stale


class ReshapedProvider(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All the inventories that the provider has from now on."""

    resource_provider_generation: int
    inventories: dict[str, ListedInventory]


class Reshape(Body):
    """`allocations`: by consumer; each is checked as a NewAllocations."""

    lax = False
    inventories: Annotated[dict[str, ReshapedProvider], Meta(min_length=1)]
    allocations: dict[str, Any]


class Reshaper(JsonResource[ResourceProvider]):
    table = PROVIDERS
    rules = {"placement:reshaper:reshape": "rule:service_api"}

    @operation("POST", "/reshaper", "placement:reshaper:reshape", since="1.30")
    async def reshape(self, ctx: Context, body: Reshape) -> None:
        wishes = [
            wish_of(ctx, consumer, NewAllocations.take(given, ctx.version), emptying=True)
            for consumer, given in body.allocations.items()
        ]
        async with ctx.runtime.store.tx() as tx:
            stocks = {
                as_uuid(id): await _stocks(ctx, tx, id, given)
                for id, given in body.inventories.items()
            }
            await fulfil(tx, wishes, stocks)


async def _stocks(
    ctx: Context, tx: Tx, provider_id: str, given: ReshapedProvider
) -> dict[str, Stock]:
    """What the provider shall have. Raises Invalid, and Conflict unless its generation is the one said."""
    provider = await PROVIDERS.find(tx, provider_id)
    if provider is None:
        raise Invalid(
            f"Resource provider {provider_id} in inventories not found: "
            f"No resource provider with uuid {provider_id} found.",
            code=answers.PROVIDER_NOT_FOUND,
        )
    refuse_stale(provider, given.resource_provider_generation)
    answers.class_names(given.inventories)
    await require_classes(tx, given.inventories, "malformed reshaper data")
    stocks = {name: inventory.stock() for name, inventory in given.inventories.items()}
    check_reserved(provider_id, stocks, ctx.version)
    return stocks

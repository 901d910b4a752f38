"""What placement does for the other services: hosts report what they have, consumers claim it and give it back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pileus.kernel.faults import NoCapacity
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Match, Page, Tx

from .contract import Demand, Inventory
from .fit import Stock, misfit
from .ledger import CONSUMERS, Consumer, Wish, drop, fulfil
from .names import make_missing
from .providers import MEMORY, PROVIDERS, ResourceProvider, revise

_FEW = 300  # hosts that are named to the store; of more, the emptiest ones are looked at in turn
_NAMED = 20  # hosts whose reason is told one by one
_INSTANCE = "INSTANCE"
_MIGRATION = "MIGRATION"


@dataclass(frozen=True)
class Claims:
    """Keeps the contract `Placement`."""

    runtime: Runtime

    async def report(
        self, host: str, inventories: dict[str, Inventory], traits: frozenset[str]
    ) -> None:
        await self.runtime.store.sync()  # claims may not be on disk yet, so not to be read
        known = await PROVIDERS.one(self.runtime.store, name=host)
        if known is not None and not _changes(known, inventories, traits):
            return
        async with self.runtime.store.tx() as tx:
            await make_missing(tx, traits, inventories)
            known = await PROVIDERS.one(tx, name=host)
            if known is None:
                id = self.runtime.world.new_id()
                known = await PROVIDERS.insert(tx, ResourceProvider(id=id, name=host, root_id=id))
            if changes := _changes(known, inventories, traits):
                await revise(tx, known, **changes)

    async def claim(
        self, consumer_id: str, demand: Demand, among: list[str], project_id: str, user_id: str
    ) -> str:
        async with self.runtime.store.tx(wait=False) as tx:  # a saga waits before it acts on it
            await tx.lock("placement.allocations")
            held = await CONSUMERS.find(tx, consumer_id)
            if held is not None:
                return await _host_of(tx, held)
            provider = await _emptiest(tx, demand, among)
            if provider is not None:
                wish = Wish(
                    consumer_id=consumer_id,
                    allocations={provider.id: demand.resources},
                    project_id=project_id,
                    user_id=user_id,
                    consumer_type=_INSTANCE,
                )
                await fulfil(tx, [wish])
                return provider.name
        raise NoCapacity(await self._why_not(demand, among))

    async def set_aside(self, consumer_id: str, aside_id: str) -> None:
        async with self.runtime.store.tx(wait=False) as tx:
            await tx.lock("placement.allocations")
            held = await CONSUMERS.find(tx, consumer_id)
            if held is not None and await CONSUMERS.find(tx, aside_id) is None:
                await fulfil(tx, [_nothing_for(held), _held_by(aside_id, held, _MIGRATION)])

    async def take_back(self, consumer_id: str, aside_id: str) -> None:
        async with self.runtime.store.tx(wait=False) as tx:
            await tx.lock("placement.allocations")
            aside = await CONSUMERS.find(tx, aside_id)
            if aside is not None:
                await fulfil(tx, [_nothing_for(aside), _held_by(consumer_id, aside, _INSTANCE)])

    async def release(self, consumer_id: str) -> None:
        async with self.runtime.store.tx(wait=False) as tx:
            consumer = await CONSUMERS.find(tx, consumer_id)
            if consumer is not None:
                await drop(tx, consumer)

    async def _why_not(self, demand: Demand, among: list[str]) -> str:
        """Each host and why it was passed over; past some twenty, how many for which reason."""
        if not among:
            return "No valid host was found: there is no host to choose from."
        named: list[str] = []
        counts: Counter[str] = Counter()
        for at in range(0, len(among), _FEW):
            names = among[at : at + _FEW]
            found = await PROVIDERS.list(
                self.runtime.store, Page({"name": names}, limit=len(names))
            )
            by_name = {p.name: p for p in found}
            for name in names:
                why = _reason(by_name.get(name), demand)
                if len(named) < _NAMED:
                    named.append(f"{name}: {why}")
                else:
                    counts[_kind(why)] += 1
            await asyncio.sleep(0)
        rest = [f"{n} more hosts: {kind}" for kind, n in counts.most_common()]
        return "No valid host was found. " + "; ".join([*named, *rest]) + "."


def _held_by(id: str, of: Consumer, kind: str) -> Wish:
    return Wish(
        consumer_id=id,
        allocations=of.allocations,
        project_id=of.project_id,
        user_id=of.user_id,
        consumer_type=kind,
    )


def _nothing_for(consumer: Consumer) -> Wish:
    return Wish(
        consumer_id=consumer.id,
        allocations={},
        project_id=consumer.project_id,
        user_id=consumer.user_id,
    )


def _reason(provider: ResourceProvider | None, demand: Demand) -> str:
    if provider is None:
        return "it has not reported what it has"
    why = _misfit(provider, demand)
    return why or "it had no room when it was asked"


def _kind(why: str) -> str:
    """A reason without its figures: `512 MEMORY_MB asked, 0 of 64 free` -> `too little MEMORY_MB`."""
    words = why.split()
    return f"too little {words[1]}" if words[0].isdecimal() else why


def _misfit(provider: ResourceProvider, demand: Demand) -> str:
    return misfit(
        provider.inventories, provider.traits, demand.resources, demand.required, demand.forbidden
    )


async def _emptiest(tx: Tx, demand: Demand, among: list[str]) -> ResourceProvider | None:
    """The host with the greatest part of its memory free, of those that can take the demand.

    Read in that order off an index, so the usual claim looks at a handful of rows however many hosts there are.
    """
    names = frozenset(among)
    filters: dict[str, object] = {
        "memory_free": Match("ge", demand.resources.get(MEMORY, 0)),
        "parent_id": "",
    }
    if len(names) <= _FEW:
        filters["name"] = sorted(names)
    page = Page(filters, (("memory_room", True), ("id", True)), limit=8)
    while True:
        found = await PROVIDERS.list(tx, page)
        for provider in found:
            if provider.name in names and not _misfit(provider, demand):
                return provider
        if len(found) < page.limit:
            return None
        page = replace(page, marker=found[-1].id, limit=min(512, page.limit * 8))


async def _host_of(tx: Tx, consumer: Consumer) -> str:
    """The root provider's name of what the consumer holds."""
    provider = await PROVIDERS.get(tx, next(iter(consumer.allocations)))
    if provider.parent_id:
        provider = await PROVIDERS.get(tx, provider.root_id)
    return provider.name


def _changes(
    provider: ResourceProvider, inventories: Mapping[str, Inventory], traits: frozenset[str]
) -> dict[str, object]:
    """What a report changes of a provider: what others said of it (traits, usage) stays."""
    stocks = {c: _stock(i, provider.inventories.get(c)) for c, i in inventories.items()}
    for gone in provider.inventories.keys() - stocks.keys():
        if provider.inventories[gone].used:  # it can't go while somebody holds some of it
            stocks[gone] = provider.inventories[gone]
    others = set(provider.traits) - set(provider.reported_traits)
    wanted: dict[str, object] = {
        "inventories": stocks,
        "traits": sorted(traits | others),
        "reported_traits": sorted(traits),
    }
    return {k: v for k, v in wanted.items() if getattr(provider, k) != v}


def _stock(said: Inventory, known: Stock | None) -> Stock:
    return Stock(
        total=said.total,
        reserved=said.reserved,
        min_unit=said.min_unit,
        max_unit=said.max_unit or said.total,
        step_size=said.step_size,
        allocation_ratio=said.allocation_ratio,
        used=known.used if known else 0,
    )

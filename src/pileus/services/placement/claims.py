"""What placement does for the other services: hosts report what they have, consumers claim it and give it back."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pileus.kernel.faults import Conflict
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Tx

from .contract import Demand, Group, Inventory, Offer, refusal
from .fit import Stock
from .ledger import CONSUMERS, Amounts, Consumer, Wish, drop, fulfil, nothing_for
from .names import make_missing
from .offers import Ahead, best_now, offers, whys
from .providers import PROVIDERS, ResourceProvider, revise

_INSTANCE = "INSTANCE"
_MIGRATION = "MIGRATION"


@dataclass(frozen=True)
class Claims:
    """Keeps the contract `Placement`."""

    runtime: Runtime
    ahead: Ahead = field(default_factory=Ahead)

    async def report(
        self,
        host: str,
        inventories: dict[str, Inventory],
        traits: frozenset[str],
        *,
        id: str = "",
        below: str = "",
    ) -> None:
        await self.runtime.store.sync()  # claims may not be on disk yet, so not to be read
        known = await PROVIDERS.one(self.runtime.store, name=host)
        if known is not None and not _changes(known, inventories, traits):
            return
        async with self.runtime.store.tx() as tx:
            await make_missing(tx, traits, inventories)
            known = await PROVIDERS.one(tx, name=host)
            if known is None:
                id = id or self.runtime.world.new_id()
                whole = await PROVIDERS.one(tx, name=below) if below else None
                if below and whole is None:
                    return
                root, parent = (whole.root_id, whole.id) if whole is not None else (id, "")
                new = ResourceProvider(id=id, name=host, root_id=root, parent_id=parent)
                known = await PROVIDERS.insert(tx, new)
            if changes := _changes(known, inventories, traits):
                await revise(tx, known, **changes)

    async def describe(
        self, host: str, traits: Mapping[str, bool], aggregates: Mapping[str, bool]
    ) -> None:
        known = await PROVIDERS.one(self.runtime.store, name=host)
        if known is not None and not _described(known, traits, aggregates):
            return
        async with self.runtime.store.tx() as tx:
            known = await PROVIDERS.one(tx, name=host)
            if known is not None and (changes := _described(known, traits, aggregates)):
                await revise(tx, known, **changes)

    async def forget(self, host: str) -> None:
        async with self.runtime.store.tx() as tx:
            await tx.lock("placement.allocations")
            root = await PROVIDERS.one(tx, name=host)
            tree = await PROVIDERS.all(tx, root_id=root.root_id) if root is not None else []
            if used := sorted(p.name for p in tree if p.in_use):
                raise Conflict(
                    f"Unable to delete resource provider {host}: Resource provider has allocations "
                    f"({', '.join(used)})."
                )
            for provider in tree:
                await PROVIDERS.delete(tx, provider)

    async def offers(
        self, demand: Demand, *, among: Collection[str] | None = None, stack: bool = False
    ) -> AsyncIterator[list[Offer]]:
        """Twice where nothing was taken: what others gave back a moment ago can be read by then."""
        store = self.runtime.store
        for _ in range(2):
            async for some in offers(store, self.ahead, demand, among, stack=stack):
                yield some
            await store.visible()

    async def take(
        self, consumer_id: str, offers: Sequence[Offer], project_id: str, user_id: str
    ) -> str:
        with self.ahead.wanted(offers) as best:
            async with self.runtime.store.tx(wait=False) as tx:  # a saga waits before it acts on it
                await tx.lock("placement.allocations")
                held = await CONSUMERS.find(tx, consumer_id)
                if held is not None:
                    return await _host_of(tx, held)
                chosen = await best_now(tx, best)
                if chosen is None:
                    return ""
                wish = Wish(
                    consumer_id=consumer_id,
                    allocations=chosen.allocations,
                    project_id=project_id,
                    user_id=user_id,
                    consumer_type=_INSTANCE,
                )
                await fulfil(tx, [wish])
                self.ahead.took(chosen)
                return chosen.host

    async def why_not(self, demand: Demand, among: Collection[str]) -> dict[str, str]:
        return await whys(self.runtime.store, demand, among)

    async def claim(
        self,
        consumer_id: str,
        demand: Demand,
        among: Collection[str],
        project_id: str,
        user_id: str,
    ) -> str:
        async for some in self.offers(demand, among=among):
            if host := await self.take(consumer_id, some, project_id, user_id):
                return host
        if host := await self.take(consumer_id, (), project_id, user_id):
            return host
        raise refusal(await self.why_not(demand, among))

    async def set_aside(
        self,
        consumer_id: str,
        aside_id: str,
        *,
        only: Collection[Group] | None = None,
        keeps: Collection[Group] = (),
    ) -> None:
        async with self.runtime.store.tx(wait=False) as tx:
            await tx.lock("placement.allocations")
            held = await CONSUMERS.find(tx, consumer_id)
            if held is None or await CONSUMERS.find(tx, aside_id) is not None:
                return
            whole = _counted(held.allocations)
            part = whole if only is None else await _part(tx, whole, only, keeps)
            rest = {id: amounts - part.get(id, Counter()) for id, amounts in whole.items()}
            stays = _held_by(consumer_id, held, held.consumer_type, rest)
            await fulfil(tx, [stays, _held_by(aside_id, held, _MIGRATION, part)])

    async def take_back(self, consumer_id: str, aside_id: str, *, besides: bool = False) -> None:
        async with self.runtime.store.tx(wait=False) as tx:
            await tx.lock("placement.allocations")
            aside = await CONSUMERS.find(tx, aside_id)
            held = await CONSUMERS.find(tx, consumer_id) if besides else None
            if aside is not None:
                whole = _counted(aside.allocations)
                for id, amounts in held.allocations.items() if held else ():
                    whole[id] = whole.get(id, Counter()) + Counter(amounts)
                wish = _held_by(consumer_id, aside, _INSTANCE, whole)
                await fulfil(tx, [nothing_for(aside), wish])

    async def release(self, consumer_id: str) -> None:
        async with self.runtime.store.tx(wait=False) as tx:
            consumer = await CONSUMERS.find(tx, consumer_id)
            if consumer is not None:
                await drop(tx, consumer)


def _counted(allocations: Amounts) -> dict[str, Counter[str]]:
    return {id: Counter(amounts) for id, amounts in allocations.items()}


async def _part(
    tx: Tx, whole: Mapping[str, Counter[str]], only: Collection[Group], keeps: Collection[Group]
) -> dict[str, Counter[str]]:
    """What of it is for these groups: of each, what one provider with its traits gave."""
    kept: Counter[str] = Counter()
    for group in keeps:
        kept.update(group.resources)
    part = {id: Counter[str]() for id in whole}
    for group in only:
        for id, amounts in whole.items():
            provider = await PROVIDERS.get(tx, id)
            free = amounts - part[id] - kept
            if group.required <= set(provider.traits) and Counter(group.resources) <= free:
                part[id].update(group.resources)
                break
    return part


def _held_by(id: str, of: Consumer, kind: str, allocations: Amounts) -> Wish:
    return Wish(
        consumer_id=id,
        allocations=allocations,
        project_id=of.project_id,
        user_id=of.user_id,
        consumer_type=kind,
    )


async def _host_of(tx: Tx, consumer: Consumer) -> str:
    """The root provider's name of what the consumer holds."""
    provider = await PROVIDERS.get(tx, next(iter(consumer.allocations)))
    if provider.parent_id:
        provider = await PROVIDERS.get(tx, provider.root_id)
    return provider.name


def _described(
    provider: ResourceProvider, traits: Mapping[str, bool], aggregates: Mapping[str, bool]
) -> dict[str, Any]:
    """What others' words change of a provider."""
    wanted = {
        "traits": sorted(_with(provider.traits, traits)),
        "aggregates": _with(provider.aggregates, aggregates),
    }
    return {k: v for k, v in wanted.items() if getattr(provider, k) != v}


def _with(there: Collection[str], wanted: Mapping[str, bool]) -> list[str]:
    more = [name for name, is_wanted in wanted.items() if is_wanted and name not in there]
    return [name for name in there if wanted.get(name, True)] + more


def _changes(
    provider: ResourceProvider, inventories: Mapping[str, Inventory], traits: frozenset[str]
) -> dict[str, Any]:
    """What a report changes of a provider: what others said of it (traits, usage) stays."""
    stocks = {c: _stock(i, provider.inventories.get(c)) for c, i in inventories.items()}
    for gone in provider.inventories.keys() - stocks.keys():
        if provider.inventories[gone].used:  # it can't go while somebody holds some of it
            stocks[gone] = provider.inventories[gone]
    others = set(provider.traits) - set(provider.reported_traits)
    wanted: dict[str, Any] = {
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

"""Consumers and what they hold: all writing of allocations, so that usage and allocations can't part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import msgspec

from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.store import Many, Match, Record, Table, Tx

from .answers import INVENTORY_IN_USE, concurrent
from .fit import NOTHING, Stock
from .names import require_classes
from .providers import PROVIDERS, ResourceProvider, revise

Amounts = Mapping[str, Mapping[str, int]]  # provider -> resource class -> amount
UNKNOWN_TYPE = "unknown"


class Consumer(Record, kw_only=True, frozen=True):
    """Who holds something; its UUID is the id. `consumer_generation` is public."""

    project_id: str
    user_id: str
    consumer_type: str = UNKNOWN_TYPE
    consumer_generation: int = 1
    allocations: dict[str, dict[str, int]] = {}


CONSUMERS = Table(
    "placement_consumers",
    Consumer,
    columns=("project_id", "user_id", "consumer_type"),
    indexes=(("project_id", "created_at", "id"),),
    many=(Many("providers", lambda c: list(c.allocations)),),
    noun="Consumer",
)


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What a consumer shall hold from now on; nothing at all makes it go.

    `expected`: the generation its writer knows (None: it does not exist yet); UNSET asks for no such check.
    """

    consumer_id: str
    allocations: Amounts
    project_id: str
    user_id: str
    consumer_type: str = ""
    expected: int | msgspec.UnsetType | None = msgspec.UNSET


async def fulfil(
    tx: Tx,
    wishes: Sequence[Wish],
    reshaped: Mapping[str, Mapping[str, Stock]] | None = None,
    *,
    counted: bool = True,
) -> None:
    """All of them, or none. Raises Invalid, and Conflict where there is no room or a generation is not the one said.

    `reshaped`: the whole new inventories of some providers, which exist. The allocations may be of what was there and
    of what will be; then what is not in the new inventories goes, and must not be in use. `counted`: whether the
    providers' public generations grow.
    """
    await tx.lock("placement.allocations")
    reshaped = reshaped or {}
    known = {w.consumer_id: await CONSUMERS.find(tx, w.consumer_id) for w in wishes}
    for wish in wishes:
        _refuse_stale(wish, known[wish.consumer_id])
    held = [c.allocations for c in known.values() if c is not None]
    providers = await _providers(tx, wishes, held, reshaped)
    changed = {
        id: {**p.inventories, **_with_usage(reshaped.get(id, {}), p)} for id, p in providers.items()
    }
    for allocations in held:
        _add(changed, allocations, -1)
    steps = _steps(wishes, known, reshaped) if counted else Counter[str]()
    for wish in wishes:
        _check_units(changed, wish.allocations)
        _add(changed, wish.allocations, 1)
    for id, inventories in changed.items():
        _check_capacity(providers[id], inventories)
        if id in reshaped:
            inventories = _final(id, inventories, reshaped[id])
        await revise(tx, providers[id], by=steps[id], inventories=inventories)
    for wish in wishes:
        await _keep(tx, wish, known[wish.consumer_id])


def _steps(
    wishes: Sequence[Wish],
    known: Mapping[str, Consumer | None],
    reshaped: Mapping[str, Mapping[str, Stock]],
) -> Counter[str]:
    """By how much each public generation grows. Clients that do sums with it expect upstream's:

    one for a provider that some consumer shall hold something of, or that one held who shall hold nothing (what a
    consumer merely lets go of is not counted); in a reshape one for each time that the inventories are set.
    """
    steps = Counter[str]()
    touched = set[str]()
    for wish in wishes:
        before = known[wish.consumer_id]
        touched.update(wish.allocations or (before.allocations if before else ()))
    steps.update(touched)
    steps.update({id: 2 if stocks else 1 for id, stocks in reshaped.items()})
    return steps


def _with_usage(stocks: Mapping[str, Stock], provider: ResourceProvider) -> dict[str, Stock]:
    before = provider.inventories
    return {
        c: msgspec.structs.replace(s, used=before[c].used if c in before else 0)
        for c, s in stocks.items()
    }


def _final(id: str, interim: Mapping[str, Stock], wanted: Mapping[str, Stock]) -> dict[str, Stock]:
    """What is left of a reshaped provider's inventories. Raises Conflict for one that would go and is in use."""
    if used := sorted(c for c, s in interim.items() if s.used and c not in wanted):
        raise Conflict(
            f"update conflict: Inventory for '{', '.join(used)}' on resource provider '{id}' in use.",
            code=INVENTORY_IN_USE,
        )
    return {c: interim[c] for c in wanted}


async def drop(tx: Tx, consumer: Consumer) -> None:
    """Gives back all that the consumer holds; it goes. Upstream does not count it, so no provider's writer is late."""
    await fulfil(tx, [nothing_for(consumer)], counted=False)


def nothing_for(consumer: Consumer) -> Wish:
    """The wish that makes it go."""
    return Wish(
        consumer_id=consumer.id,
        allocations={},
        project_id=consumer.project_id,
        user_id=consumer.user_id,
    )


async def rename_held(tx: Tx, old: str, new: str) -> None:
    """Inventories of a resource class, and what is allocated of it, go on under another name."""
    await tx.lock("placement.allocations")
    for provider in await PROVIDERS.all(tx, classes=Match("any", [old])):
        renamed = {new if c == old else c: s for c, s in provider.inventories.items()}
        await PROVIDERS.change(tx, provider, inventories=renamed)
        for consumer in await CONSUMERS.all(tx, providers=Match("any", [provider.id])):
            held = dict(consumer.allocations)
            held[provider.id] = {new if c == old else c: n for c, n in held[provider.id].items()}
            await CONSUMERS.change(tx, consumer, allocations=held)


def _refuse_stale(wish: Wish, known: Consumer | None) -> None:
    there = known.consumer_generation if known else None
    if wish.expected is not msgspec.UNSET and wish.expected != there:
        expected = "null" if there is None else there
        raise concurrent(
            f"consumer generation conflict - expected {expected} but got {wish.expected}"
        )


async def _providers(
    tx: Tx, wishes: Sequence[Wish], held: Sequence[Amounts], reshaped: Collection[str]
) -> dict[str, ResourceProvider]:
    """Every provider concerned. Raises Invalid for one that isn't there."""
    found = {}
    named = (*held, *(w.allocations for w in wishes), reshaped)
    for id in {i for amounts in named for i in amounts}:
        provider = await PROVIDERS.find(tx, id)
        if provider is None:
            raise Invalid(f"Allocation for resource provider '{id}' that does not exist.")
        found[id] = provider
    classes = {c for w in wishes for amounts in w.allocations.values() for c in amounts}
    who = ", ".join(w.consumer_id for w in wishes)
    await require_classes(tx, classes, f"Unable to allocate inventory for consumer {who}")
    return found


def _check_units(inventories: Mapping[str, Mapping[str, Stock]], asked: Amounts) -> None:
    for id, amounts in asked.items():
        for resource_class, amount in amounts.items():
            stock = inventories[id].get(resource_class)
            if stock is None:
                raise Conflict(
                    f"Unable to allocate inventory: Inventory for '{resource_class}' on "
                    f"resource provider '{id}' invalid."
                )
            if not stock.divides(amount):
                raise Conflict(
                    f"Unable to allocate inventory: Unable to create allocation for "
                    f"'{resource_class}' on resource provider '{id}'. The requested amount would "
                    f"violate inventory constraints: {amount} is not between {stock.min_unit} and "
                    f"{stock.max_unit} in steps of {stock.step_size}."
                )


def _check_capacity(before: ResourceProvider, after: Mapping[str, Stock]) -> None:
    """Raises Conflict for a class that is now used beyond its capacity, unless it was even more before."""
    for resource_class, stock in after.items():
        was = before.inventories.get(resource_class, NOTHING).used
        if stock.used > max(stock.capacity, was):
            raise Conflict(
                f"Unable to allocate inventory: Unable to create allocation for '{resource_class}' "
                f"on resource provider '{before.id}'. The requested amount would exceed the "
                f"capacity: {stock.used} of {stock.capacity} would be used."
            )


def _add(inventories: dict[str, dict[str, Stock]], amounts: Amounts, sign: int) -> None:
    for id, by_class in amounts.items():
        stocks = inventories[id]
        for resource_class, amount in by_class.items():
            stock = stocks[resource_class]
            stocks[resource_class] = msgspec.structs.replace(stock, used=stock.used + sign * amount)


async def _keep(tx: Tx, wish: Wish, known: Consumer | None) -> None:
    allocations = {p: dict(amounts) for p, amounts in wish.allocations.items() if amounts}
    if not allocations:
        if known is not None:
            await CONSUMERS.delete(tx, known)
    elif known is None:
        consumer = Consumer(
            id=wish.consumer_id,
            project_id=wish.project_id,
            user_id=wish.user_id,
            consumer_type=wish.consumer_type or UNKNOWN_TYPE,
            allocations=allocations,
        )
        await CONSUMERS.insert(tx, consumer)
    else:
        await CONSUMERS.change(
            tx,
            known,
            project_id=wish.project_id,
            user_id=wish.user_id,
            consumer_type=wish.consumer_type or known.consumer_type,
            consumer_generation=known.consumer_generation + 1,
            allocations=allocations,
        )

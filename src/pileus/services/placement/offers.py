"""What hosts could serve a demand, best first, and why the others can't: placement's part of scheduling."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from pileus.kernel.faults import NoCapacity
from pileus.kernel.store import Page, Reader, Tx

from .contract import Demand, Group, Offer
from .demands import Demands
from .matching import Wanted
from .providers import PROVIDERS, ResourceProvider
from .search import TURN, Candidate, Tree, candidates, why_not
from .trees import EMPTIEST, FULLEST, NESTED, trees

FIRST = NESTED // 2  # hosts in the first slice, of which one is usually taken
_AHEAD = 10_000  # providers remembered
_MANY = 100  # hosts that others were faster at, before one is shared


class Ahead:
    """How often this process took, or is about to take, of hosts that still look untouched.

    Many that are placed at once are all shown the same hosts, as what one takes is not read by others before it is
    committed. By this they are shown first those that are left.
    """

    def __init__(self) -> None:
        self._times: dict[
            str, tuple[int, int]
        ] = {}  # provider -> (generation it was seen at, times)
        self._wanted: Counter[str] = Counter()  # hosts

    def took(self, offer: Offer) -> None:
        if len(self._times) > _AHEAD:
            self._times.clear()
        for id, generation in offer.seen.items():
            self._times[id] = (generation, self._took(id, generation) + 1)

    def _took(self, id: str, generation: int) -> int:
        seen, times = self._times.get(id, (-1, 0))
        return times if seen == generation else 0

    def times(self, offer: Offer) -> int:
        took = max(self._took(id, generation) for id, generation in offer.seen.items())
        return took + self._wanted[offer.host]

    @contextmanager
    def wanted(self, some: Sequence[Offer]) -> Iterator[Sequence[Offer]]:
        """The offers, those first that nobody else is about to take; the first is wanted from now on."""
        best = sorted(some, key=lambda offer: self._wanted[offer.host])
        first = best[0].host if best else ""
        self._wanted[first] += 1
        try:
            yield best
        finally:
            self._wanted[first] -= 1
            if not self._wanted[first]:
                del self._wanted[first]


async def offers(
    db: Reader, ahead: Ahead, demand: Demand, among: Collection[str] | None, *, stack: bool
) -> AsyncIterator[list[Offer]]:
    """One offer of each host in turn. Raises NoCapacity where the search takes too long."""
    asked, tried = asked_of(demand), 0
    names = None if among is None else frozenset(among)
    later: list[Offer] = []
    async for some in trees(db, asked, FULLEST if stack else EMPTIEST, names, FIRST):
        found: list[Offer] = []
        for tree in some:
            for one in candidates(tree, asked):
                if one is not None:
                    offer = _offer(tree, one)
                    (later if not stack and ahead.times(offer) else found).append(offer)
                    break
                if (tried := tried + TURN) > asked.most_tried:
                    raise NoCapacity(
                        f"The search was given up after {tried} choices of providers: the flavor "
                        "asks for too many groups."
                    )
                await asyncio.sleep(0)
        if found:
            yield found
        elif len(later) > _MANY:
            for some_of_them in _shared(later, ahead):
                yield some_of_them
            later = []
        await asyncio.sleep(0)
    for some_of_them in _shared(later, ahead):
        yield some_of_them


def _shared(later: Sequence[Offer], ahead: Ahead) -> Iterator[list[Offer]]:
    """Those first that were taken least, as it is by now."""
    left = sorted(later, key=ahead.times)
    for at in range(0, len(left), FIRST):
        yield left[at : at + FIRST]


def asked_of(demand: Demand) -> Demands:
    """The demand as a query for candidates would say it."""
    groups = {"": _wanted(demand)} if demand.resources else {}
    groups |= {suffix: _wanted(group) for suffix, group in demand.groups.items()}
    return Demands(groups=groups, isolated=demand.isolated)


def _wanted(group: Group) -> Wanted:
    return Wanted(
        resources=group.resources,
        required=tuple(frozenset((t,)) for t in sorted(group.required)),
        forbidden=group.forbidden,
        member_of=group.member_of,
    )


def _offer(tree: Tree, one: Candidate) -> Offer:
    classes = {c for amounts in one.allocations.values() for c in amounts}
    return Offer(
        host=tree.root.name,
        allocations=one.allocations,
        room=_room(tree.all, classes),
        seen={p.id: p.generation for p in one.providers},
    )


def _room(providers: Sequence[ResourceProvider], classes: Collection[str]) -> dict[str, float]:
    """The free part of each class."""
    free: dict[str, int] = defaultdict(int)
    capacity: dict[str, int] = defaultdict(int)
    for provider in providers:
        for name, stock in provider.inventories.items():
            if name in classes:
                free[name] += stock.free
                capacity[name] += stock.capacity
    return {name: free[name] / (capacity[name] or 1) for name in free}


async def best_now(tx: Tx, some: Sequence[Offer]) -> Offer | None:
    """The first that is as it was seen. If all have changed: of those that still hold, the one with most room."""
    if not some:
        return None
    ids = sorted({id for offer in some for id in offer.seen})
    page = Page({"id": ids}, (("id", False),), limit=len(ids))
    now = {id: at for id, at in await PROVIDERS.page(tx, page, select=("id", "generation"))}
    for offer in some:
        if all(now.get(id) == generation for id, generation in offer.seen.items()):
            return offer
    providers = {p.id: p for p in await PROVIDERS.list(tx, page)}
    holding = [offer for offer in some if _holds(offer, providers)]
    return max(holding, key=lambda offer: _least_room(offer, providers), default=None)


def _holds(offer: Offer, providers: Mapping[str, ResourceProvider]) -> bool:
    for id, amounts in offer.allocations.items():
        stocks = providers[id].inventories if id in providers else {}
        for name, amount in amounts.items():
            if name not in stocks or not stocks[name].gives(amount):
                return False
    return True


def _least_room(offer: Offer, providers: Mapping[str, ResourceProvider]) -> float:
    rooms = (_room([providers[id]], amounts) for id, amounts in offer.allocations.items())
    return min(part for room in rooms for part in room.values())


async def whys(db: Reader, demand: Demand, among: Collection[str]) -> dict[str, str]:
    """Of each host why it can't serve the demand, or that it could now."""
    asked, found = asked_of(demand), dict.fromkeys(among, "it has not reported what it has")
    async for some in trees(db, Demands(groups={}), among=frozenset(among)):
        for tree in some:
            why = why_not(tree, asked)
            found[tree.root.name] = why or "it had no room when it was asked"
        await asyncio.sleep(0)
    return found

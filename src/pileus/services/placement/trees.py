"""Trees of providers, read in slices and in the order that is asked for: what candidates are searched in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Any

from pileus.kernel.store import Match, Page, Reader

from .demands import Demands
from .known import known
from .providers import MEMORY, PROVIDERS, ResourceProvider
from .search import SHARES, Tree, linked

Order = tuple[tuple[str, bool], ...]
OLDEST: Order = (("created_at", False), ("id", False))
EMPTIEST: Order = (("memory_room", True), ("id", True))  # by the part of its memory that is free
FULLEST: Order = (("memory_room", False), ("id", False))
NESTED = 32  # trees in the first slice: a nested one may have dozens of providers
_FEW = 300  # roots that are named to the store; of more, all are read and others left out
_EVERY = 1_000_000


async def trees(
    db: Reader,
    asked: Demands,
    order: Order = OLDEST,
    among: Collection[str] | None = None,
    first: int = 2 * NESTED,
) -> AsyncIterator[list[Tree]]:
    """The trees that could be anchors, of roots with these names (None: any).

    Traits and classes are looked at in the rows: side tables would be read whole for each slice.
    """
    remembered = known(db)
    shares = Page({"traits": Match("any", [SHARES])}, OLDEST, _EVERY)
    sharing = await remembered.every(db, PROVIDERS, shares)
    nested = await _has_children(db)
    filters = _narrowed(asked, sharing, nested=nested)
    if among is not None and len(among) <= _FEW:
        filters["name"] = sorted(among)
    first = min(first, NESTED) if nested else first
    read = remembered.slices if order == OLDEST else remembered.ranked
    async for roots in read(db, PROVIDERS, Page(filters, order), first):
        if among is not None:
            roots = [r for r in roots if r.name in among]
        members: dict[str, list[ResourceProvider]] = {r.id: [r] for r in roots}
        if nested and roots:
            below = Page({"root_id": list(members), "parent_id": Match("ne", "")}, OLDEST, _EVERY)
            for child in await remembered.every(db, PROVIDERS, below):
                members[child.root_id].append(child)
        yield [linked(r, members[r.id], sharing) for r in roots]


async def _has_children(db: Reader) -> bool:
    """Whether any provider has a parent: the greatest parent is read off an index."""
    greatest = (("parent_id", True), ("memory_room", True), ("id", True))
    found = await PROVIDERS.page(db, Page({}, greatest, limit=1), select=("parent_id",))
    return bool(found and found[0][0])


def _narrowed(asked: Demands, sharing: list[ResourceProvider], *, nested: bool) -> dict[str, Any]:
    """What a root must be for its tree to be an anchor, as far as columns of its own tell."""
    filters: dict[str, Any] = {"parent_id": ""}
    if "" in asked.groups and asked.groups[""].root_id is not None:
        filters["root_id"] = asked.groups[""].root_id
    memory = sum(g.resources.get(MEMORY, 0) for g in asked.groups.values())
    if memory and not nested and not any(MEMORY in s.inventories for s in sharing):
        filters["memory_free"] = Match("ge", memory)
    return filters

"""Providers in memory: what was decoded once is not decoded again.

The store is asked for ids and generations, off an index, and for the documents of those only that are new or have
changed. So nothing is ever stale, whoever wrote it, on either database and with any number of processes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import msgspec

from pileus.kernel.faults import NotFound, Stale
from pileus.kernel.store import Page, Reader, Row, Table

if TYPE_CHECKING:
    from .providers import ResourceProvider

MOST = 16_384  # providers that one process remembers: some 40 MB
_KEY = ("id", "created_at", "generation")
_FIRST, _LARGEST = 64, 512  # rows of one slice: a short answer reads little, a long one asks seldom


class Entry:
    """A provider as decoded, and as the last answer showed it."""

    __slots__ = ("provider", "shown")

    def __init__(self, provider: ResourceProvider) -> None:
        self.provider = provider
        self.shown: msgspec.Raw | None = None

    def is_at(self, created_at: str, generation: int) -> bool:
        """A provider that was deleted and made again under its id counts its generations anew."""
        known = self.provider
        return known.generation == generation and known.created_at == created_at


class Known:
    """The providers of one store, those asked for last."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self._kept: OrderedDict[str, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def entry(self, provider: ResourceProvider) -> Entry:
        """Where what is shown of it may be kept."""
        found = self._kept.get(provider.id)
        return found if found is not None and found.provider is provider else Entry(provider)

    async def slices(
        self, db: Reader, table: Table[ResourceProvider], page: Page, first: int = _FIRST
    ) -> AsyncIterator[list[ResourceProvider]]:
        """What the page asks for, whatever its limit, in growing slices. Raises Stale if rows went meanwhile."""
        page = replace(page, limit=first)
        while True:
            try:
                keys = await table.page(db, page, select=_KEY)
            except NotFound:
                raise Stale("Resource providers were deleted while they were searched.") from None
            yield await self._decoded(db, table, keys)
            if len(keys) < page.limit:
                return
            page = replace(page, marker=keys[-1][0], limit=min(_LARGEST, page.limit * 2))

    async def ranked(
        self, db: Reader, table: Table[ResourceProvider], page: Page, first: int
    ) -> AsyncIterator[list[ResourceProvider]]:
        """The same in an order that changes while it is read: from the top again, without those that were given."""
        given: set[str] = set()
        size = first
        while True:
            limit = len(given) + size
            keys = await table.page(db, replace(page, limit=limit), select=_KEY)
            fresh = [key for key in keys if key[0] not in given]
            for at in range(0, len(fresh), _LARGEST):
                yield await self._decoded(db, table, fresh[at : at + _LARGEST])
            if len(keys) < limit:
                return
            given.update(id for id, *_ in fresh)
            size = limit  # twice as many: all together are read twice

    async def every(
        self, db: Reader, table: Table[ResourceProvider], page: Page
    ) -> list[ResourceProvider]:
        """All that the page asks for; for sets known to be small."""
        return await self._decoded(db, table, await table.page(db, page, select=_KEY))

    async def _decoded(
        self, db: Reader, table: Table[ResourceProvider], keys: Sequence[Row]
    ) -> list[ResourceProvider]:
        kept, missing = self._kept, list[str]()
        found: dict[str, ResourceProvider | None] = {}
        for id, created_at, generation in keys:
            entry = kept.get(id)
            if entry is not None and entry.is_at(created_at, generation):
                kept.move_to_end(id)
                found[id] = entry.provider
            else:
                missing.append(id)
                found[id] = None  # keeps its place
        if missing:
            for provider in await table.list(db, Page({"id": missing}, limit=len(missing))):
                found[provider.id] = provider
                kept[provider.id] = Entry(provider)
                kept.move_to_end(provider.id)
            while len(kept) > self.most:
                kept.popitem(last=False)
        return [p for p in found.values() if p is not None]


_OF_STORE: WeakKeyDictionary[Reader, Known] = WeakKeyDictionary()


def known(db: Reader) -> Known:
    """What is remembered of a store. Not of a transaction: what it wrote may be undone."""
    found = _OF_STORE.get(db)
    if found is None:
        found = _OF_STORE[db] = Known()
    return found

"""Rows that are read again and again, of which few have changed: only those are decoded, and made JSON of.

What is remembered is what is in use, and no more than about as much again: what was used lately moves to a new
shelf, and when enough was learnt the old one is cleared and the new one is old. So what nobody asks for goes by
itself, whoever deleted it and wherever.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Generic
from weakref import WeakKeyDictionary, proxy

from pileus.kernel.store import Page, R, Reader, Table

_ALL = 1 << 30
_KEY = ("id", "generation", "created_at")
_LEAST = 200  # records learnt before any is forgotten
_LISTED = 5_000  # rows; of a longer list nothing is remembered
_RENDERED = 3_000  # records of a table whose JSON is kept
_NEVER: tuple[object, dict[Hashable, bytes]] = (None, {})


class Shelves(Generic[R]):
    """A table's records by id. One of another generation, or made at another time, is not the one."""

    def __init__(self) -> None:
        self._new: dict[str, R] = {}
        self._old: dict[str, R] = {}
        self._learnt = 0
        self._parts: dict[str, tuple[object, dict[Hashable, bytes]]] = {}

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def known(self, keys: Iterable[Sequence[Any]]) -> dict[str, R]:
        """Those of the (id, generation, time of creation) that are remembered."""
        new, old, found = self._new, self._old, dict[str, R]()
        for id, generation, created_at in keys:
            record = new.get(id)
            if record is None and (record := old.pop(id, None)) is not None:
                new[id] = record
            if record is None or record.generation != generation:
                continue
            if record.created_at == created_at:
                found[id] = record
        return found

    def learn(self, records: dict[str, R]) -> None:
        self._new |= records
        self._learnt += len(records)
        if self._learnt > max(_LEAST, len(self._new) // 2):
            self._old, self._new, self._learnt = self._new, {}, 0

    def parts(self, record: R) -> dict[Hashable, bytes]:
        """Where JSON made of it is kept, by what else that depends on, until the record is another."""
        at = record.created_at, record.generation
        of, found = self._parts.get(record.id, _NEVER)
        if of != at:
            found = {}
            self._parts[record.id] = at, found
            if len(self._parts) > _RENDERED:
                del self._parts[next(iter(self._parts))]  # the one first rendered
        return found


class Memory:
    """Reads as `Table.list` does. `most`: how many rows may be remembered of one answer."""

    def __init__(self, db: Reader, most: int = _ALL) -> None:
        self.db, self.most = db, most
        self._shelves: dict[str, Shelves[Any]] = {}

    def of(self, table: Table[R]) -> Shelves[R]:
        return self._shelves.setdefault(table.name, Shelves())

    async def rows(self, table: Table[R], **filters: Any) -> list[R]:
        """Every live row that matches, by id."""
        return await self.list(table, Page(filters, (("id", False),), limit=_ALL))

    async def list(self, table: Table[R], page: Page) -> list[R]:
        """Raises NotFound for an unknown marker."""
        keys = await table.page(self.db, page, select=_KEY)
        if len(keys) > self.most:
            return await table.list(self.db, page)
        found = self.of(table).known(keys)
        missing = [id for id, *_ in keys if id not in found]
        if missing:
            wanted = Page({"id": missing}, (("id", False),), limit=len(missing), deleted=None)
            fresh = {r.id: r for r in await table.list(self.db, wanted)}
            self.of(table).learn(fresh)
            found |= fresh
        return [
            found[id] for id, *_ in keys if id in found
        ]  # gone between the two readings: not there


_LISTS: WeakKeyDictionary[Reader, Memory] = WeakKeyDictionary()


def lists(db: Reader) -> Memory:
    """For the lists of a store. Not of a transaction: what it wrote may be undone."""
    return _LISTS.get(db) or _LISTS.setdefault(db, Memory(proxy(db), _LISTED))

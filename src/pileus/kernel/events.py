"""The outbox: an event is a row written in the transaction it tells of; publishers and watchers read it by `seq`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.sql.base import Executable

from .faults import Stale
from .sql import TEXT
from .store import METADATA, Reader, Record, Table, Tx

if TYPE_CHECKING:
    from .runtime import Runtime

log = logging.getLogger(__name__)
_SEQ = sa.BigInteger().with_variant(
    sa.Integer(), "sqlite"
)  # only INTEGER PRIMARY KEY counts up there
_COLUMNS = ("at", "kind", "project_id", "payload")
_T = sa.Table(
    "events",
    METADATA,
    sa.Column("seq", _SEQ, primary_key=True, autoincrement=True),
    *(sa.Column(c, TEXT, nullable=False) for c in _COLUMNS),
)


class Event(msgspec.Struct, frozen=True):
    """`kind` is the notification's upstream name: `compute.instance.create.end`."""

    seq: int
    at: str
    kind: str
    project_id: str
    payload: dict[str, Any]


def _insert() -> Executable:
    return sa.insert(_T).values({c: sa.bindparam(c) for c in _COLUMNS})


def _after() -> Executable:
    limit = sa.bindparam("limit", type_=sa.BigInteger())
    return sa.select(_T).where(_T.c.seq > sa.bindparam("seq")).order_by(_T.c.seq).limit(limit)


async def emit(tx: Tx, kind: str, project_id: str, **payload: Any) -> None:
    """Writes an event with the transaction."""
    text = msgspec.json.encode(payload).decode()
    values = {"at": tx.now, "kind": kind, "project_id": project_id, "payload": text}
    await tx.run(tx.sql("events.insert", _insert), values)


async def after(db: Reader, seq: int, limit: int = 100) -> list[Event]:
    """Events with a higher number, in order."""
    rows = await db.rows(db.sql("events.after", _after), {"seq": seq, "limit": limit})
    return [Event(r[0], r[1], r[2], r[3], msgspec.json.decode(r[4])) for r in rows]


async def prune(tx: Tx, before: str) -> int:
    """Drops events older than `before`; how many."""
    sql = tx.sql("events.prune", lambda: sa.delete(_T).where(_T.c.at < sa.bindparam("before")))
    return await tx.run(sql, {"before": before})


@dataclass(frozen=True)
class Watch:
    """What a service does when events of some kinds (by prefix) have happened. It may be called again for the same."""

    name: str
    prefixes: tuple[str, ...]
    run: Callable[[Runtime, Event], Awaitable[None]]


class Cursor(Record, kw_only=True, frozen=True):
    """How far a watch has read; its name is the id."""

    seq: int = 0


CURSORS = Table("event_cursors", Cursor)
_POLL_S = 1.0  # other controls write events too


class Outbox:
    """Hands each event to the watches, in order, at least once."""

    def __init__(self, runtime: Runtime, watches: Sequence[Watch]) -> None:
        self.runtime, self.watches = runtime, watches
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self.watches:
            self.runtime.store.on_commit(self._news.set)
            self._task = asyncio.create_task(self._follow(), name="outbox")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            try:
                for watch in self.watches:
                    await self._catch_up(watch)
            except Stale:
                continue  # another control reads for the same watch
            try:
                async with asyncio.timeout(_POLL_S if self.runtime.store.shared else 60):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()

    async def _catch_up(self, watch: Watch) -> None:
        store = self.runtime.store
        cursor = await CURSORS.find(store, watch.name)
        while events := await after(store, cursor.seq if cursor else 0):
            for event in events:
                if event.kind.startswith(watch.prefixes):
                    try:
                        await watch.run(self.runtime, event)
                    except (
                        Exception
                    ):  # a reconciler's part of the three places: the next event must not wait
                        log.exception(
                            "watch %s failed at event %d %s", watch.name, event.seq, event.kind
                        )
            async with store.tx(wait=False) as tx:
                if cursor is None:
                    cursor = await CURSORS.insert(tx, Cursor(id=watch.name, seq=events[-1].seq))
                else:
                    cursor = await CURSORS.change(tx, cursor, seq=events[-1].seq)
            await store.sync()

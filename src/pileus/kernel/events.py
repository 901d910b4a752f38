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

from .faults import Conflict, Stale, Unavailable
from .sql import TEXT, current_epoch, is_settled
from .store import METADATA, Reader, Record, Table, Tx

if TYPE_CHECKING:
    from .runtime import Runtime

log = logging.getLogger(__name__)
# Only INTEGER PRIMARY KEY counts up by itself in SQLite.
_SEQ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_COLUMNS = ("at", "kind", "project_id", "payload")
_T = sa.Table(
    "events",
    METADATA,
    sa.Column("seq", _SEQ, primary_key=True, autoincrement=True),
    sa.Column("epoch", sa.BigInteger(), nullable=False),
    *(sa.Column(c, TEXT, nullable=False) for c in _COLUMNS),
    sa.Index("ix_events_epoch_seq", "epoch", "seq"),
)
Position = tuple[int, int]
START: Position = (0, 0)


class Event(msgspec.Struct, frozen=True):
    """`kind` is the notification's upstream name: `compute.instance.create.end`.

    `epoch` is the writing transaction's number where several can be open at once (0 elsewhere): numbers are drawn
    before the commit, so readers who went by `seq` alone would miss what an older transaction commits later.
    """

    seq: int
    epoch: int
    at: str
    kind: str
    project_id: str
    payload: dict[str, Any]

    @property
    def position(self) -> Position:
        return self.epoch, self.seq


def _insert() -> Executable:
    given: dict[str, Any] = {c: sa.bindparam(c) for c in _COLUMNS}
    return sa.insert(_T).values({"epoch": current_epoch(), **given})


def _after() -> Executable:
    """Two questions of the index in one: SQLite would answer `(epoch, seq) > here` by its first column alone."""
    number = sa.BigInteger()
    epoch, seq, limit = (sa.bindparam(n, type_=number) for n in ("epoch", "seq", "limit"))
    rows = sa.select(_T).where(is_settled(_T.c.epoch)).order_by(_T.c.epoch, _T.c.seq).limit(limit)
    same = rows.where(_T.c.epoch == epoch, _T.c.seq > seq).subquery()
    later = rows.where(_T.c.epoch > epoch).subquery()
    both = sa.union_all(sa.select(same), sa.select(later))
    return both.order_by(sa.text("epoch"), sa.text("seq")).limit(limit)


async def emit(tx: Tx, kind: str, project_id: str, **payload: Any) -> None:
    """Writes an event with the transaction."""
    text = msgspec.json.encode(payload).decode()
    values = {"at": tx.now, "kind": kind, "project_id": project_id, "payload": text}
    await tx.run(tx.sql("events.insert", _insert), values)


async def after(db: Reader, position: Position, limit: int = 100) -> list[Event]:
    """Events behind that position, in an order in which none turns up before one already read."""
    values = {"epoch": position[0], "seq": position[1], "limit": limit}
    rows = await db.rows(db.sql("events.after", _after), values)
    return [Event(r[0], r[1], r[2], r[3], r[4], msgspec.json.decode(r[5])) for r in rows]


async def newest(db: Reader) -> Position:
    """Where the events end now."""

    def build() -> Executable:
        last = sa.select(_T.c.epoch, _T.c.seq).where(is_settled(_T.c.epoch))
        return last.order_by(_T.c.epoch.desc(), _T.c.seq.desc()).limit(1)

    rows = await db.rows(db.sql("events.newest", build), {})
    return (rows[0][0], rows[0][1]) if rows else START


def _prune() -> Executable:
    number = sa.BigInteger()
    newest_seq = sa.select(sa.func.max(_T.c.seq)).scalar_subquery()
    oldest = sa.select(_T.c.seq, _T.c.at).order_by(_T.c.seq)
    some = oldest.limit(sa.bindparam("limit", type_=number)).subquery()
    old = sa.and_(some.c.at < sa.bindparam("before"), some.c.seq < newest_seq)
    return sa.delete(_T).where(_T.c.seq.in_(sa.select(some.c.seq).where(old)))


async def prune(tx: Tx, before: str, limit: int = 1000) -> int:
    """Drops some of the events older than `before`; how many. The newest stays, as SQLite counts on from it."""
    return await tx.run(tx.sql("events.prune", _prune), {"before": before, "limit": limit})


@dataclass(frozen=True)
class Watch:
    """What a service does when events of some kinds (by prefix) happened; again for the same, too: after Stale, Unavailable."""

    name: str
    prefixes: tuple[str, ...]
    run: Callable[[Runtime, Event], Awaitable[None]]


class Cursor(Record, kw_only=True, frozen=True):
    """How far a watch has read; its name is the id."""

    epoch: int = 0
    seq: int = 0


CURSORS = Table("event_cursors", Cursor)
_POLL_S = 1.0  # other controls write events too
_SAVE_S = 5.0


class Outbox:
    """Hands each event to the watches, in order, at least once: after a kill some again, up to a few seconds' worth."""

    def __init__(self, runtime: Runtime, watches: Sequence[Watch]) -> None:
        self.runtime, self.watches = runtime, watches
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._read: dict[str, Position] = {}
        self._saved: dict[str, Position] = {}
        self._next_save = 0.0

    async def start(self) -> None:
        if not self.watches:
            return
        last = await newest(self.runtime.store)
        for watch in self.watches:
            cursor = await CURSORS.find(self.runtime.store, watch.name)
            read = (cursor.epoch, cursor.seq) if cursor else START
            # Events once counted anew from 1 when all had been dropped.
            self._read[watch.name] = read if read <= last else START
        self._saved = dict(self._read)
        self.runtime.store.on_commit(self._news.set)
        self._task = asyncio.create_task(self._follow(), name="outbox")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._save()

    async def _follow(self) -> None:
        clock = self.runtime.world.clock
        while True:
            self._news.clear()
            for watch in self.watches:
                try:
                    await self._catch_up(watch)
                except (Stale, Unavailable) as e:
                    log.warning("watch %s waits: %s", watch.name, e.internal or e.message)
                    await clock.sleep(_POLL_S)
                    self._news.set()
            if clock.monotonic() >= self._next_save and self._read != self._saved:
                self._next_save = clock.monotonic() + _SAVE_S
                await self._save()
            try:
                async with asyncio.timeout(_POLL_S if self.runtime.store.shared else _SAVE_S):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _catch_up(self, watch: Watch) -> None:
        while events := await after(self.runtime.store, self._read[watch.name]):
            for event in (e for e in events if e.kind.startswith(watch.prefixes)):
                try:
                    await watch.run(self.runtime, event)
                except (Stale, Unavailable):  # as in a saga: another time it can
                    raise
                except Exception:  # as in a reconciler: the next event must not wait
                    log.exception("watch %s failed at %d %s", watch.name, event.seq, event.kind)
            self._read[watch.name] = events[-1].position

    async def _save(self) -> None:
        """Notes how far each watch is; another control that is further keeps its place."""
        try:
            async with self.runtime.store.tx(wait=False) as tx:
                for name, (epoch, seq) in self._read.items():
                    known = await CURSORS.find(tx, name)
                    if known is None:
                        await CURSORS.insert(tx, Cursor(id=name, epoch=epoch, seq=seq))
                    elif (known.epoch, known.seq) < (epoch, seq):
                        await CURSORS.change(tx, known, epoch=epoch, seq=seq)
        except (Conflict, Unavailable) as e:
            log.info("the outbox's places are noted later: %s", e.message)
        else:
            self._saved = dict(self._read)

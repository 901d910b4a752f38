"""SQLite in WAL mode: reads on the event loop, one writer that commits in groups, with fsync, in a thread.

A transaction body is `async` for PostgreSQL's sake but never suspends here, so it runs to its end in one go. Each
has a savepoint of its own; whatever asks in the same turn of the loop, or while a commit is under way, shares the
next commit. `wait=False` leaves the group open for a moment so that a saga's small steps need no fsync each.

The file is not mapped into memory: a map grows with the file and, measured, reads no faster. The log is written back
every two seconds beside the commits; one that has grown long is written back to its end once, after a commit, while
nobody writes, for only then does SQLite begin it anew.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.base import Executable

from . import sql as spelling
from .faults import Unavailable
from .store import METADATA, Duplicate, Row, Sql, Statements, index_name, went_on

if TYPE_CHECKING:
    from .world import World

log = logging.getLogger(__name__)
_LAZY_S = 0.005  # how long an unwaited commit may be held open for others to join
_CHECKPOINT_S = 2.0
_LOG_PAGES = 4096  # a longer log is begun anew
_LOG_KEPT = 64 << 20  # bytes of its file that stay for the next log


class SqliteStore:
    shared = False

    def __init__(self, path: str, world: World) -> None:
        self.path, self.world = path, world
        self.statements = Statements(sqlite.dialect(paramstyle="qmark"))
        self._group: asyncio.Future[None] | None = None  # the open transaction's commit
        self._flushing: asyncio.Handle | None = None
        self._committing: asyncio.Future[None] | None = None
        self._turns: deque[asyncio.Future[None]] = deque()
        self._inside = False
        self._dirty = False
        self._is_long = False  # the log
        self._wakes: list[Callable[[], None]] = []
        self.memo: dict[Hashable, Any] | None = {}
        self.kept: dict[tuple[str, str], str] = {}
        self.touched: set[tuple[str, str]] = set()

    def on_commit(self, wake: Callable[[], None]) -> None:
        self._wakes.append(wake)

    def _open(self) -> sqlite3.Connection:
        c = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, cached_statements=512
        )
        c.create_function("REGEXP", 2, spelling.regexp, deterministic=True)
        for pragma in (
            "journal_mode=WAL",
            "busy_timeout=10000",
            "cache_size=-2000",  # KiB
            f"journal_size_limit={_LOG_KEPT}",
        ):
            c.execute("PRAGMA " + pragma)
        c.execute("PRAGMA synchronous=FULL")
        c.execute(
            "PRAGMA wal_autocheckpoint=0"
        )  # or a commit would now and then pay for a checkpoint
        return c

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        self._threads = ThreadPoolExecutor(2, "sqlite")  # a commit, and what is written back
        self._write, self._read, self._idle = self._open(), self._open(), self._open()
        _shape_tables(self._write, self.statements)
        self._checkpointer = asyncio.create_task(self._checkpoint())

    async def stop(self) -> None:
        """Commits what is open and closes the file."""
        try:
            await self.sync()
        finally:
            self._checkpointer.cancel()
            self._threads.shutdown(wait=True)  # or one would go on in a closed connection
            for c in (self._read, self._idle, self._write):
                c.close()

    async def _checkpoint(self) -> None:
        while True:
            await self.world.clock.sleep(_CHECKPOINT_S)
            if self._dirty:
                self._dirty = False
                pages = await self._loop.run_in_executor(self._threads, _write_back, self._idle)
                self._is_long = pages > _LOG_PAGES

    def sql(self, key: Hashable, build: Callable[[], Executable]) -> Sql:
        return self.statements.sql(key, build)

    async def rows(self, sql: Sql, values: Mapping[str, Any]) -> Sequence[Row]:
        """Of one snapshot from commit to commit; while a commit is under way, of what is committed at each read."""
        read = self._read
        if self._committing is None and not read.in_transaction:
            read.execute("BEGIN")
        return read.execute(sql.text, sql.args(values)).fetchall()

    def _let_go(self) -> None:
        """Of the snapshot: its locks cost four calls of the system at each read, but the log cannot begin anew under it."""
        if self._read.in_transaction:
            self._read.execute("COMMIT")

    def tx(self, *, wait: bool = True) -> _SqliteTx:
        return _SqliteTx(self, wait)

    async def sync(self) -> None:
        """Waits for what was written before it, not for what others go on to write."""
        pending = self._committing  # while it is under way no other group is open
        if pending is None and self._group is not None:
            pending = self._group
            self._flush_soon()
        if pending is not None:
            await asyncio.shield(pending)

    async def visible(self) -> None:
        pending = self._committing or self._group
        if pending is not None:
            await asyncio.shield(pending)

    async def _turn(self) -> None:
        """Waits until the writer is free and opens a group if none is open."""
        while self._committing is not None or self._inside:
            turn = self._loop.create_future()
            self._turns.append(turn)
            await turn
        if self._group is None:
            try:
                self._write.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as e:
                raise _disk_fault(e) from e
            self._group = self._loop.create_future()
            self._group.add_done_callback(_observed)
            self._flushing = None

    def _join(self, wait: bool) -> asyncio.Future[None]:
        assert self._group is not None
        if wait:
            self._flush_soon()
        elif self._flushing is None:
            self._flushing = self._loop.call_later(_LAZY_S, self._flush)
        self._next()
        return self._group

    def _flush_soon(self) -> None:
        if self._flushing is not None and not isinstance(self._flushing, asyncio.TimerHandle):
            return
        if self._flushing is not None:
            self._flushing.cancel()
        self._flushing = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._inside:  # somebody is in the middle; they flush when they leave
            self._flushing = self._loop.call_later(_LAZY_S, self._flush)
            return
        done, self._group, self._flushing = self._group, None, None
        if done is None:
            return
        self._committing = done
        self._dirty = True
        self._let_go()
        commit = self._loop.run_in_executor(self._threads, self._commit)
        commit.add_done_callback(lambda c: self._committed(done, c.exception()))

    def _commit(self) -> None:
        """In the commit thread. Nobody writes until it returns: a long log can be written back to its end."""
        self._write.execute("COMMIT")
        if self._is_long:
            self._is_long = False
            _write_back(self._write)

    def _committed(self, done: asyncio.Future[None], error: BaseException | None) -> None:
        self._committing, self.memo = None, {}
        for key in self.touched:
            self.kept.pop(key, None)
        self.touched.clear()
        if error is not None:
            self._lost(done, error)
            return
        done.set_result(None)
        for wake in self._wakes:
            wake()
        self._next()

    def lose_group(self, error: sqlite3.OperationalError) -> None:
        """A full disk may undo the whole open transaction: then everyone in it failed."""
        done, self._group = self._group, None
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        assert done is not None
        self._lost(done, error)

    def _lost(self, done: asyncio.Future[None], error: BaseException) -> None:
        try:
            if self._write.in_transaction:
                self._write.execute("ROLLBACK")
        finally:
            done.set_exception(_disk_fault(error))
            self._next()

    def _next(self) -> None:
        turns, self._turns = self._turns, deque()
        for turn in turns:
            if not turn.done():
                turn.set_result(None)


class _SqliteTx:
    """One savepoint of the open group."""

    memo = kept = None

    def __init__(self, store: SqliteStore, wait: bool) -> None:
        self.store, self.wait, self.sql = store, wait, store.sql
        self.now = ""

    async def __aenter__(self) -> _SqliteTx:
        store = self.store
        await store._turn()
        self._execute: Callable[..., sqlite3.Cursor] = store._write.execute
        try:
            self._execute("SAVEPOINT one")
        except sqlite3.OperationalError as e:
            store.lose_group(e)
            raise _disk_fault(e) from e
        store._inside, self._slept = True, False
        self.now = store.world.clock.now()
        self._watch = store._loop.call_soon(self._suspended)
        return self

    def _suspended(self) -> None:
        self._slept = True

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watch.cancel()
        self.store._inside = False
        is_refused, execute = self._execute is went_on, self.store._write.execute
        try:
            if error is not None or self._slept or is_refused:
                execute("ROLLBACK TO one")
            execute("RELEASE one")
        except sqlite3.OperationalError as e:
            self.store.lose_group(e)
            if error is not None:
                return
            raise _disk_fault(e) from e
        committed = self.store._join(self.wait and error is None)
        if self._slept and error is None:
            raise RuntimeError("a transaction awaited something other than its store")
        if is_refused and error is None:
            went_on()
        if self.wait and error is None:
            await asyncio.shield(committed)

    async def rows(self, sql: Sql, values: Mapping[str, Any]) -> Sequence[Row]:
        try:
            return self._execute(sql.text, sql.args(values)).fetchall()
        except sqlite3.OperationalError as e:
            raise _disk_fault(e) from e

    async def run(self, sql: Sql, values: Mapping[str, Any]) -> int:
        try:
            return self._execute(sql.text, sql.args(values)).rowcount
        except sqlite3.IntegrityError as e:
            self._execute = went_on
            raise Duplicate(_index_of(str(e))) from None
        except sqlite3.OperationalError as e:
            raise _disk_fault(e) from e

    def touch(self, table: str, *ids: str) -> None:
        self.store.touched.update((table, id) for id in ids)

    async def lock(self, name: str) -> None:
        """Nothing to do: there is one writer."""


def _observed(done: asyncio.Future[None]) -> None:
    """A failed group that nobody waited for is not an error of its own: `sync` and the next write meet it again."""
    if not done.cancelled():
        done.exception()


def _disk_fault(error: BaseException) -> BaseException:
    if isinstance(error, sqlite3.OperationalError):
        return Unavailable("The database cannot be written at the moment.", internal=str(error))
    return error


def _index_of(message: str) -> str:
    """`UNIQUE constraint failed: users.domain_id, users.name` -> `uq_users_domain_id_name`."""
    _, _, columns = message.partition(": ")
    names = [c.strip().partition(".") for c in columns.split(",")]
    return index_name("uq", names[0][0], [n for _, _, n in names])


def _write_back(c: sqlite3.Connection) -> int:
    """Copies what the log holds into the file, as far as readers allow: the pages in the log."""
    try:
        _, pages, _ = c.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    except sqlite3.OperationalError as e:
        log.warning("the database's log is written back later: %s", e)
        return 0
    return int(pages)


def _shape_tables(c: sqlite3.Connection, statements: Statements) -> None:
    """Creates what is missing and fills new columns from the documents."""
    c.execute("BEGIN IMMEDIATE")
    indexed: dict[str, list[str]] = {}
    for table_name, index in c.execute(
        "SELECT tbl_name, name FROM sqlite_master WHERE type = 'index'"
    ):
        indexed.setdefault(table_name, []).append(index)
    for table, made, indexes in spelling.creates(METADATA, statements.dialect):
        c.execute(made)
        there = {row[1] for row in c.execute(f'PRAGMA table_info("{table.name}")')}
        missing = [column for column in table.c if column.name not in there]
        for column in missing:
            c.execute(spelling.add_column(column, statements.dialect))
        if missing and "table" in table.info:
            _fill(c, table, missing)
        for text in [*spelling.unwanted(table, indexed.get(table.name, ())), *indexes]:
            c.execute(text)
    c.execute("COMMIT")


def _fill(c: sqlite3.Connection, table: Any, missing: Sequence[Any]) -> None:
    owner = table.info["table"]
    pairs = ", ".join(f'"{m.name}" = ?' for m in missing)
    for (document,) in c.execute(f'SELECT document FROM "{table.name}"').fetchall():
        values = owner.values(owner.decode(document))
        args = [*(values[m.name] for m in missing), values["id"]]
        c.execute(f'UPDATE "{table.name}" SET {pairs} WHERE id = ?', args)

"""PostgreSQL through asyncpg: a transaction is a connection of the pool, row locks do what one writer does in SQLite.

READ COMMITTED is enough because every write is a compare-and-swap and quotas are moved by an upsert, which locks.
`wait=False` commits without waiting for the disk; a later commit that waits, or `sync`, carries it along.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

import asyncpg
from sqlalchemy.dialects.postgresql import asyncpg as dialect
from sqlalchemy.sql.base import Executable

from . import sql as spelling
from .faults import Invalid, Stale, Unavailable
from .store import METADATA, Duplicate, Row, Sql, Statements, went_on
from .turns import Turns

if TYPE_CHECKING:
    from .world import World

_POOL = 12
_SCHEMA_LOCK = 0x70696C65  # of all controls that start at once, one shapes the tables
_LOCK = Sql("SELECT pg_advisory_xact_lock(hashtextextended($1::VARCHAR, 0))", ("name",), {})
_OFFLINE = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what a call meets between the server's farewell and the end of its stream
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.InsufficientResourcesError,  # a full disk, too many connections
    asyncpg.ReadOnlySQLTransactionError,
    OSError,
)


class PostgresStore:
    shared = True
    memo = kept = None

    def __init__(self, url: str, world: World, size: int = _POOL) -> None:
        self.url, self.world, self.size = url, world, size
        self.statements = Statements(dialect.dialect())  # type: ignore[no-untyped-call]
        self._free: Turns[Any] = Turns()
        self._wakes: list[Callable[[], None]] = []
        self._lazy = 0  # commits not waited for since the last one that was

    def on_commit(self, wake: Callable[[], None]) -> None:
        self._wakes.append(wake)

    async def _connect(self) -> Any:
        return await asyncpg.connect(
            self.url, statement_cache_size=512, max_cached_statement_lifetime=0, timeout=10
        )

    async def start(self) -> None:
        for _ in range(self.size):
            self._free.give(None)  # opened when first needed
        async with self.connection() as c:
            await c.execute(f"SELECT pg_advisory_lock({_SCHEMA_LOCK})")
            try:
                await _shape_tables(c, self.statements)
            finally:
                await c.execute(f"SELECT pg_advisory_unlock({_SCHEMA_LOCK})")

    async def stop(self) -> None:
        await self.sync()
        while len(self._free):
            c = await self._free.take()
            if c is not None:
                await c.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """A connection of the pool, opened again if it was lost. Raises Unavailable."""
        c = await self._free.take()
        try:
            if c is None or c.is_closed():
                c = None
                c = await self._connect()
            yield c
        except _OFFLINE as e:
            if c is not None:
                c.terminate()
            raise Unavailable(
                "The database cannot be reached at the moment.", internal=repr(e)
            ) from e
        finally:
            self._free.give(c)

    def sql(self, key: Hashable, build: Callable[[], Executable]) -> Sql:
        return self.statements.sql(key, build)

    async def rows(self, sql: Sql, values: Mapping[str, Any]) -> Sequence[Row]:
        async with self.connection() as c:
            return await _fetch(c, sql, values)

    def tx(self, *, wait: bool = True) -> _PostgresTx:
        return _PostgresTx(self, wait)

    async def sync(self) -> None:
        """A commit that waits carries all before it; it needs a transaction id to be one."""
        if self._lazy:
            lazy, self._lazy = self._lazy, 0
            try:
                async with self.connection() as c:
                    await c.execute("SELECT pg_current_xact_id()")
            except Unavailable:
                self._lazy += lazy
                raise

    async def visible(self) -> None:
        """A commit can be read at once, on disk or not."""

    def committed(self, *, waited: bool) -> None:
        self._lazy = 0 if waited else self._lazy + 1
        for wake in self._wakes:
            wake()


async def _fetch(c: Any, sql: Sql, values: Mapping[str, Any]) -> Sequence[Row]:
    try:
        found: Sequence[Row] = await c.fetch(sql.text, *sql.args(values))
    except asyncpg.InvalidRegularExpressionError as e:  # Python's and PostgreSQL's differ
        raise Invalid(f"Invalid regular expression: {e.message}.", internal=repr(e)) from e
    return found


class _PostgresTx:
    memo = kept = None

    def __init__(self, store: PostgresStore, wait: bool) -> None:
        self.store, self.wait, self.sql = store, wait, store.sql
        self.now = ""

    async def __aenter__(self) -> _PostgresTx:
        self._held = self.store.connection()
        self._c = await self._held.__aenter__()
        try:
            await self._c.execute(
                "BEGIN" if self.wait else "BEGIN; SET LOCAL synchronous_commit = off"
            )
        except BaseException as e:
            await self._held.__aexit__(type(e), e, None)
            raise
        self.now = self.store.world.clock.now()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if not self._c.is_closed():
                ended = await self._c.execute("ROLLBACK" if error is not None else "COMMIT")
                if ended == "ROLLBACK" and error is None:
                    went_on()
            elif error is None:
                raise asyncpg.InterfaceError("the connection was lost before the commit")
        except BaseException as e:
            self._c.terminate()  # nobody may meet its open transaction
            await self._held.__aexit__(type(e), e, None)
            raise
        await self._held.__aexit__(None, None, None)
        if error is None:
            self.store.committed(waited=self.wait)
        elif isinstance(error, _OFFLINE):
            raise Unavailable("The database cannot be reached at the moment.", internal=repr(error))

    async def rows(self, sql: Sql, values: Mapping[str, Any]) -> Sequence[Row]:
        try:
            return await _fetch(self._c, sql, values)
        except asyncpg.InFailedSQLTransactionError:
            went_on()
        except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError) as e:
            raise Stale("Another request changed the same rows.", internal=repr(e)) from e

    async def run(self, sql: Sql, values: Mapping[str, Any]) -> int:
        try:
            status: str = await self._c.execute(sql.text, *sql.args(values))
        except asyncpg.UniqueViolationError as e:
            raise Duplicate(e.constraint_name or "") from None
        except asyncpg.InFailedSQLTransactionError:
            went_on()
        except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError) as e:
            raise Stale("Another request changed the same rows.", internal=repr(e)) from e
        return int(status.rpartition(" ")[2])

    def touch(self, table: str, *ids: str) -> None:
        """Nothing is kept: others commit too."""

    async def lock(self, name: str) -> None:
        await self._c.fetch(_LOCK.text, name)


async def _shape_tables(c: Any, statements: Statements) -> None:
    """Creates what is missing and fills new columns from the documents."""
    there: dict[str, set[str]] = {}
    for row in await c.fetch(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema()"
    ):
        there.setdefault(row[0], set()).add(row[1])
    indexed: dict[str, list[str]] = {}
    for row in await c.fetch(
        "SELECT tablename, indexname FROM pg_indexes WHERE schemaname = current_schema()"
    ):
        indexed.setdefault(row[0], []).append(row[1])
    async with c.transaction():
        for table, made, indexes in spelling.creates(METADATA, statements.dialect):
            await c.execute(made)
            missing = [
                column
                for column in table.c
                if column.name not in there.get(table.name, {column.name})
            ]
            for column in missing:
                await c.execute(spelling.add_column(column, statements.dialect))
            if missing and "table" in table.info:
                await _fill(c, table, missing)
            for text in [*spelling.unwanted(table, indexed.get(table.name, ())), *indexes]:
                await c.execute(text)


async def _fill(c: Any, table: Any, missing: Sequence[Any]) -> None:
    owner = table.info["table"]
    pairs = ", ".join(f'"{m.name}" = ${n + 2}' for n, m in enumerate(missing))
    for row in await c.fetch(f'SELECT document FROM "{table.name}"'):
        values = owner.values(owner.decode(row[0]))
        args = (values["id"], *(values[m.name] for m in missing))
        await c.execute(f'UPDATE "{table.name}" SET {pairs} WHERE id = $1', *args)

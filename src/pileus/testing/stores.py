"""Where a test's cloud keeps its rows: SQLite in its folder; PostgreSQL with `pytest --database postgres`."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from pileus.kernel.postgres import PostgresStore
from pileus.kernel.sqlite import SqliteStore
from pileus.kernel.store import Statements, Store
from pileus.kernel.world import World

_CONNECTIONS = 6


class Places:
    """`server`: the URL of PostgreSQL's maintenance database; without one, SQLite."""

    server = ""
    _empty = b""
    _compiled: Statements | None = None  # for all clouds: they have the same tables

    @asynccontextmanager
    async def store(
        self, folder: Path, world: World, *, keep: bool = False
    ) -> AsyncIterator[Store]:
        """The same rows for the same folder; `keep` leaves them there for the next."""
        if not self.server:
            if not (path := folder / "cloud.sqlite").exists():
                path.touch(mode=0o600)
                path.write_bytes(await self._shaped(world))
            yield self._sqlite(path, world)
            return
        name = "t" + hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        await self._make(name, world)
        try:
            yield PostgresStore(self._url(name), world, size=_CONNECTIONS)
        finally:
            if not keep:
                await self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def _sqlite(self, path: Path, world: World) -> SqliteStore:
        store = SqliteStore(str(path), world)
        store.statements = self._compiled = self._compiled or store.statements
        return store

    async def _shaped(self, world: World) -> bytes:
        """A file of empty tables, which were shaped once."""
        if not self._empty:
            with tempfile.TemporaryDirectory() as folder:
                store = self._sqlite(path := Path(folder) / "empty", world)
                await store.start()
                await store.stop()
                self._empty = path.read_bytes()
        return self._empty

    async def _make(self, name: str, world: World) -> None:
        """From a template, which was shaped once: some 30 ms instead of 500."""
        there = await self._run("SELECT datname FROM pg_database")
        if "template" not in there:
            await self._run("CREATE DATABASE template")
            shaped = PostgresStore(self._url("template"), world, size=1)
            await shaped.start()
            await shaped.stop()
        if name not in there:
            await self._run(f"CREATE DATABASE {name} TEMPLATE template STRATEGY file_copy")

    async def _run(self, statement: str) -> set[str]:
        connection = await asyncpg.connect(self.server)
        try:
            return {row[0] for row in await connection.fetch(statement)}
        finally:
            await connection.close()

    def _url(self, name: str) -> str:
        return urlsplit(self.server)._replace(path=f"/{name}").geturl()


PLACES = Places()

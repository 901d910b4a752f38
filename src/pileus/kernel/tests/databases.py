"""A fresh database for a test, of either kind, and stores on it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import asyncpg

from pileus.kernel.postgres import PostgresStore
from pileus.kernel.sqlite import SqliteStore
from pileus.kernel.store import Store
from pileus.kernel.world import World

_NUMBERS = itertools.count(1)


class Database(Protocol):
    """One database. Each call of `store` is another store on it: another control, or a later start."""

    kind: str

    async def store(self, world: World | None = None) -> Store: ...


@dataclass
class SqliteDatabase:
    path: Path
    kind: str = "sqlite"

    async def store(self, world: World | None = None) -> Store:
        return SqliteStore(str(self.path), world or World())


@dataclass
class PostgresDatabase:
    """Made from a template, which was shaped once: some 30 ms instead of 500."""

    server: str  # the URL of its maintenance database
    name: str = ""
    kind: str = "postgres"

    async def store(self, world: World | None = None) -> Store:
        if not self.name:
            self.name = await _made(self.server)
        return PostgresStore(_url(self.server, self.name), world or World(), size=6)


@asynccontextmanager
async def started(database: Database, world: World | None = None) -> AsyncIterator[Store]:
    """A running store, stopped at the end."""
    store = await database.store(world)
    await store.start()
    try:
        yield store
    finally:
        await store.stop()


def _url(server: str, name: str) -> str:
    return urlsplit(server)._replace(path=f"/{name}").geturl()


async def _made(server: str) -> str:
    name = f"t{next(_NUMBERS)}"
    c = await asyncpg.connect(server)
    try:
        if not await c.fetchval("SELECT 1 FROM pg_database WHERE datname = 'template'"):
            await c.execute("CREATE DATABASE template")
            store = PostgresStore(_url(server, "template"), World(), size=1)
            await store.start()
            await store.stop()
        await c.execute(f"CREATE DATABASE {name} TEMPLATE template STRATEGY file_copy")
    finally:
        await c.close()
    return name

"""Fixtures of the kernel's tests: async tests, and one database per test on both kinds of store."""

from __future__ import annotations

import asyncio
import inspect
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pileus.kernel.tests.databases import Database, PostgresDatabase, SqliteDatabase
from pileus.testing.postgres_server import postgres, programs

PATIENCE_S = 30
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs `async def test_...` on a loop of its own, and not for ever."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    call = pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await call

    asyncio.run(bounded())
    return True


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where the machine has such a folder: hundreds of databases need no disk."""
    with tempfile.TemporaryDirectory(prefix="pileus-kernel-", dir=IN_MEMORY) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def _temporary_files_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    if IN_MEMORY:
        monkeypatch.setattr(tempfile, "tempdir", IN_MEMORY)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    if programs() is None:
        pytest.skip("PostgreSQL is not installed (Debian package postgresql)")
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Empty, and of either kind."""
    if request.param == "sqlite":
        return SqliteDatabase(tmp_path / "test.sqlite")
    return PostgresDatabase(request.getfixturevalue("postgres_url"))

"""What only SQLite's store has: group commit, one writer, a disk that fills up."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event, Timer
from typing import Any

import pytest

from pileus.kernel import sqlite as sqlite_module
from pileus.kernel import store as store_module
from pileus.kernel.events import after, prune
from pileus.kernel.faults import Conflict, Unavailable
from pileus.kernel.sqlite import SqliteStore
from pileus.kernel.store import Page
from pileus.kernel.tests.test_store import CUPS, GRAVES, Cup, put
from pileus.kernel.tests.toy import THINGS
from pileus.kernel.world import World


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(str(folder / "test.sqlite"), World())
    await store.start()
    try:
        yield store
    finally:
        await store.stop()


class Watched:
    """The write connection, with its statements noted and some of them refused."""

    def __init__(self, inner: sqlite3.Connection) -> None:
        self.inner, self.ran = inner, list[str]()
        self.refused: dict[str, str] = {}

    def execute(self, text: str, *args: Any) -> Any:
        self.ran.append(text.split()[0])
        for start, why in self.refused.items():
            if text.startswith(start):
                raise sqlite3.OperationalError(why)
        return self.inner.execute(text, *args)

    def close(self) -> None:
        self.inner.close()

    @property
    def in_transaction(self) -> bool:
        return self.inner.in_transaction


def watched(store: SqliteStore) -> Watched:
    found = Watched(store._write)
    store._write = found  # type: ignore[assignment]
    return found


async def insert(store: SqliteStore, n: int, *, wait: bool = True) -> None:
    async with store.tx(wait=wait) as tx:
        await CUPS.insert(tx, Cup(id=str(n), name=f"n{n}"))


async def count(store: SqliteStore) -> int:
    return await CUPS.count(store, Page())


async def test_transactions_of_one_moment_share_a_commit(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        seen = watched(store)
        await asyncio.gather(*(insert(store, n) for n in range(20)))
        assert await count(store) == 20
        assert seen.ran.count("COMMIT") <= 3 and seen.ran.count("SAVEPOINT") == 20


async def test_unwaited_transactions_share_a_commit_that_comes_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "_LAZY_S", 0.3)  # time enough for five
    async with opened(tmp_path) as store:
        seen = watched(store)
        for n in range(5):
            await insert(store, n, wait=False)
        assert await count(store) == 0, "nobody sees what is not committed"
        for _ in range(500):
            if await count(store):
                break
            await asyncio.sleep(0.01)
        assert await count(store) == 5 and seen.ran.count("COMMIT") == 1


async def test_a_transaction_that_awaits_something_else_is_refused_and_undone(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as store:
        with pytest.raises(RuntimeError, match="awaited something other than its store"):
            async with store.tx() as tx:
                await CUPS.insert(tx, Cup(id="1", name="a"))
                await asyncio.sleep(0)
        assert await count(store) == 0
        await insert(store, 2)
        assert await count(store) == 1


async def test_an_error_after_awaiting_something_else_is_the_one_that_is_raised(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as store:
        with pytest.raises(ValueError, match="mine"):
            async with store.tx() as tx:
                await CUPS.insert(tx, Cup(id="1", name="a"))
                await asyncio.sleep(0)
                raise ValueError("mine")
        assert await count(store) == 0


async def test_a_waiting_transaction_that_is_cancelled_holds_up_nobody(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        tasks = [asyncio.create_task(insert(store, n)) for n in range(10)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not any(t.cancelled() for t in tasks[1::2])
        found = {c.id for c in await CUPS.list(store, Page())}
        assert {str(n) for n in range(1, 10, 2)} <= found
        await insert(store, 99)


@pytest.mark.parametrize("statement", ["COMMIT", "BEGIN", "SAVEPOINT", "INSERT", "RELEASE"])
async def test_a_disk_that_refuses_is_unavailable_and_nothing_acknowledged_is_lost(
    tmp_path: Path, statement: str
) -> None:
    async with opened(tmp_path) as store:
        seen = watched(store)
        await insert(store, 0)
        seen.refused = {statement: "database or disk is full"}
        ends = await asyncio.gather(
            *(insert(store, n) for n in range(1, 6)), return_exceptions=True
        )
        assert [type(e) for e in ends] == [Unavailable] * 5
        assert all(isinstance(e, Unavailable) and "disk is full" in e.internal for e in ends)
        assert await count(store) == 1
        seen.refused = {}
        await asyncio.gather(*(insert(store, n) for n in range(6, 9)))
        assert {c.id for c in await CUPS.list(store, Page())} == {"0", "6", "7", "8"}


@pytest.mark.parametrize("statement", ["SELECT", "ROLLBACK TO"])
async def test_a_transaction_that_cannot_read_or_be_undone_leaves_nothing(
    tmp_path: Path, statement: str
) -> None:
    async with opened(tmp_path) as store:
        seen = watched(store)
        await insert(store, 0)
        seen.refused = {statement: "disk I/O error"}
        with pytest.raises(Unavailable if statement == "SELECT" else KeyError):
            async with store.tx() as tx:
                await CUPS.insert(tx, Cup(id="1", name="a"))
                await CUPS.find(tx, "1")
                raise KeyError("undo this")
        seen.refused = {}
        await insert(store, 2)
        assert {c.id for c in await CUPS.list(store, Page())} == {"0", "2"}


async def test_a_full_disk_that_undoes_the_whole_group_fails_everyone_in_it(
    tmp_path: Path,
) -> None:
    """SQLite may roll back all of an open transaction when a statement of it meets a full disk."""
    async with opened(tmp_path) as store:
        await insert(store, 0)
        limit = store._write.execute("PRAGMA page_count").fetchone()[0] + 4
        store._write.execute(f"PRAGMA max_page_count={limit}")

        async def one(n: int) -> None:
            async with store.tx() as tx:
                await CUPS.insert(tx, Cup(id=str(n), name=f"n{n}" + "x" * (20_000 if n > 3 else 0)))

        ends = await asyncio.gather(*(one(n) for n in range(1, 9)), return_exceptions=True)
        acknowledged = {str(n) for n, e in enumerate(ends, 1) if e is None}
        assert {type(e) for e in ends if e is not None} == {Unavailable}
        assert {c.id for c in await CUPS.list(store, Page())} == acknowledged | {"0"}
        store._write.execute("PRAGMA max_page_count=1000000")
        await one(20)
        assert await CUPS.find(store, "20") is not None


async def test_a_failed_unwaited_commit_is_told_by_sync(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        seen = watched(store)
        seen.refused = {"COMMIT": "database or disk is full"}
        await insert(store, 1, wait=False)
        with pytest.raises(Unavailable):
            await store.sync()
        seen.refused = {}
        await store.sync()
        assert await count(store) == 0


async def test_a_failed_commit_wakes_nobody(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        woken: list[int] = []
        store.on_commit(lambda: woken.append(1))
        seen = watched(store)
        seen.refused = {"COMMIT": "disk I/O error"}
        with pytest.raises(Unavailable):
            await insert(store, 1)
        assert woken == []
        seen.refused = {}


async def test_a_refused_row_does_not_undo_what_others_wrote_in_the_same_group(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as store:

        async def one(n: int) -> None:
            await put(store, Cup(id=str(n), name=f"n{n // 2}"))

        ends = await asyncio.gather(*(one(n) for n in range(6)), return_exceptions=True)
        assert [type(e) for e in ends] == [type(None), Conflict] * 3
        assert await count(store) == 3


async def test_the_log_is_written_back_and_the_file_is_private(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        path = tmp_path / "test.sqlite"
        assert path.stat().st_mode & 0o777 == 0o600
        pragmas = {
            p: store._write.execute(f"PRAGMA {p}").fetchone()[0]
            for p in ("synchronous", "journal_mode", "wal_autocheckpoint")
        }
        assert pragmas == {"synchronous": 2, "journal_mode": "wal", "wal_autocheckpoint": 0}
        before = path.stat().st_size
        for n in range(100):
            await insert(store, n, wait=False)
        await store.sync()
        await asyncio.sleep(2.2)
        assert path.stat().st_size > before


async def test_a_log_does_not_grow_with_what_is_written_without_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "_CHECKPOINT_S", 0.02)
    monkeypatch.setattr(sqlite_module, "_LOG_PAGES", 100)
    async with opened(tmp_path) as store:
        log = tmp_path / "test.sqlite-wal"

        async def one(n: int) -> None:
            (cup,) = await put(store, Cup(id=str(n), name=f"n{n}"))
            for turn in range(150):
                async with store.tx() as tx:
                    cup = await CUPS.change(tx, cup, name=f"n{n} {turn}" + "x" * 8_000)

        await asyncio.gather(*(one(n) for n in range(8)))
        assert log.stat().st_size < 15 << 20, "29 MB went through it"
        assert await count(store) == 8


async def test_a_log_that_cannot_be_written_back_fails_no_commit(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        seen = watched(store)
        seen.refused = {"PRAGMA wal_checkpoint": "database or disk is full"}
        store._is_long = True
        await insert(store, 1)
        assert seen.ran[-1] == "PRAGMA" and await count(store) == 1
        await insert(store, 2)
        assert seen.ran[-1] == "COMMIT", "once is enough until the log is seen to be long again"


async def test_nobody_wades_through_what_is_dead_or_read_to_find_what_is_live_or_new(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as store:
        await GRAVES.list(store, Page())
        async with store.tx() as tx:
            await GRAVES.sweep(tx, tx.now)
            await prune(tx, tx.now)
        await after(store, (0, 7))
        plans = []
        for sql in store.statements._known.values():
            asked = "EXPLAIN QUERY PLAN " + sql.text
            rows = store._write.execute(asked, [None] * len(sql.names)).fetchall()
            plans += [row[3] for row in rows if "events" in row[3] or "graves" in row[3]]
    assert plans == [
        "SCAN test_graves USING INDEX live_test_graves_created_at_id",
        "SEARCH test_graves USING INDEX ix_test_graves_deleted_at (deleted_at>? AND deleted_at<?)",
        "SEARCH events USING INTEGER PRIMARY KEY (rowid=?)",
        "SCAN events",  # its first thousand
        "SEARCH events",
        "SEARCH events USING INDEX ix_events_epoch_seq (epoch=? AND seq>?)",
        "SEARCH events USING INDEX ix_events_epoch_seq (epoch>?)",
    ]


async def test_only_so_many_statements_are_kept_and_the_oldest_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_STATEMENTS", 3)
    async with opened(tmp_path) as store:
        for limit in (1, 2):
            for column in ("name", "owner", "size", "lid"):
                assert await CUPS.list(store, Page({column: limit}, limit=limit)) == []
        shapes = [key[3] for key in store.statements._known if isinstance(key, tuple)]
        assert [shape[0][0][0] for shape in shapes] == ["owner", "size", "lid"]


async def test_stop_commits_what_is_open(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await insert(store, 1, wait=False)
    async with opened(tmp_path) as store:
        assert await count(store) == 1


async def test_a_store_that_stopped_keeps_no_file_open(tmp_path: Path) -> None:
    def held() -> list[str]:
        links = Path("/proc/self/fd").iterdir()
        return [f for link in links if (f := str(_target(link))).startswith(str(tmp_path))]

    async with opened(tmp_path) as store:
        await insert(store, 1)
        assert held()
    assert held() == []


def _target(link: Path) -> Path:
    """Where a descriptor leads; the one that lists the folder is gone by then."""
    return link.readlink() if link.is_symlink() else link


async def test_lists_of_live_rows_read_an_index_that_holds_no_tombstones(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        page = Page({"project_id": "p1"}, (("created_at", False), ("id", False)))
        asked: list[str] = []
        rows = store.rows

        async def explained(sql: Any, values: Any) -> Any:
            plan = store._read.execute("EXPLAIN QUERY PLAN " + sql.text, sql.args(values))
            asked.extend(row[3] for row in plan)
            return await rows(sql, values)

        store.rows = explained  # type: ignore[method-assign]
        await THINGS.list(store, page)
        (step,) = asked
        name = step.split("USING INDEX ")[1].split()[0]
        (made,) = store._read.execute("SELECT sql FROM sqlite_master WHERE name = ?", (name,))
        assert "WHERE deleted_at = ''" in made[0], "and it is sorted: there was one step only"


async def test_a_store_does_not_close_under_what_is_written_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that another thread is in, closed, ends the whole process."""
    begun, goes_on, ended = Event(), Event(), list[int]()

    def slow(c: sqlite3.Connection) -> int:
        begun.set()
        goes_on.wait(10)
        ended.append(c.execute("SELECT 1").fetchone()[0])
        return 0

    monkeypatch.setattr(sqlite_module, "_CHECKPOINT_S", 0)
    monkeypatch.setattr(sqlite_module, "_write_back", slow)
    async with opened(tmp_path) as store:
        await put(store, Cup(id="a", name="a"))
        assert await asyncio.to_thread(begun.wait, 10)
        Timer(0.1, goes_on.set).start()
    assert ended == [1]

"""Ten thousand boots and deletes leave memory, descriptors and rows where they were."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from bench import measure
from pileus.cli import background
from pileus.kernel.world import Clock
from tests.e2e.kills import Killer, together

pytestmark = pytest.mark.slow
BOOTS = 10_000
PART = 1_000
WARM = 400
AT_ONCE = 100
TOLERANCE = 1.2
KEPT_FOR_MINUTES = "events"  # told to late listeners for ten minutes, whatever happens


def boot_and_delete(killer: Killer, count: int) -> None:
    client = killer.client
    many = {**killer.create_body, "min_count": AT_ONCE, "max_count": AT_ONCE}
    for _ in range(count // AT_ONCE):
        client.call("POST", "compute", "/servers", {"server": many})
        asyncio.run(killer.settled())
        assert [s["status"] for s in killer.rows.values()] == ["ACTIVE"] * AT_ONCE
        asyncio.run(background.delete_servers(client, Clock()))


def cpu_of_parts(killer: Killer, pids: list[int]) -> list[float]:
    """Milliseconds of the cloud's own processor time for a boot and its deletion, by each thousand of them."""
    found = []
    for part in range(BOOTS // PART):
        before = measure.cpu_ns(pids)
        boot_and_delete(killer, PART)
        found.append((measure.cpu_ns(pids) - before) / 1e6 / PART)
        memory, own = measure.pss_mb(pids), measure.pss_mb(pids, "Pss_Anon")
        text = f"{found[-1]:.1f} ms each; {memory:.1f} MB, {own:.1f} of them not of files"
        print(f"{(part + 1) * PART}: {text}", flush=True)
    return found


def descriptors(pids: list[int]) -> int:
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)


def living_rows(state: Path) -> int:
    """Rows of all tables but the tombstones, which are kept for a set time."""
    with sqlite3.connect(f"file:{state}/cloud.sqlite?mode=ro", uri=True) as db:
        found = 0
        tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            if table == KEPT_FOR_MINUTES:
                continue
            columns = {row[1] for row in db.execute(f'PRAGMA table_info("{table}")')}
            living = " WHERE deleted_at = ''" if "deleted_at" in columns else ""
            found += db.execute(f'SELECT count(*) FROM "{table}"{living}').fetchone()[0]
    db.close()
    return found


def test_ten_thousand_boots_leave_memory_descriptors_and_rows_within_a_fifth(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"

    def sizes(pids: list[int]) -> dict[str, float]:
        memory = measure.pss_mb(pids)
        return {
            "memory in MB": memory,
            "descriptors": descriptors(pids),
            "rows": living_rows(state),
        }

    with together(state, "fake", [], None) as victims:
        killer = Killer(victims, 1, "fake", None, keeps=False)
        killer.prepare()
        boot_and_delete(killer, WARM)
        pids = measure.tree(victims.cloud.process.pid)
        before = sizes(pids)
        parts = cpu_of_parts(killer, pids)
        after = sizes(pids)
        killer.clear()
    grown = [what for what in before if after[what] > before[what] * TOLERANCE]
    assert not grown, f"{grown} grew: {before} became {after}"
    # Half again is what a busy neighbour costs; history that is waded through cost twice as much after 2,000.
    assert min(parts[-3:]) < min(parts[:3]) * 1.5, f"a boot costs more and more: {parts}"
    print(f"{before} became {after}")

"""Ten thousand boots and deletes leave memory and descriptors where they were."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bench import measure
from pileus.cli import background
from pileus.kernel.world import Clock
from tests.e2e.kills import Killer

pytestmark = pytest.mark.slow
BOOTS = 10_000
AT_ONCE = 20
TOLERANCE = 1.2


def boot_and_delete(killer: Killer, count: int) -> None:
    client = killer.client
    assert client is not None
    for _ in range(count // AT_ONCE):
        many = {**killer.create_body, "min_count": AT_ONCE, "max_count": AT_ONCE}
        client.call("POST", "compute", "/servers", {"server": many})
        asyncio.run(killer.settled())
        asyncio.run(background.delete_servers(client, Clock()))


def descriptors(pids: list[int]) -> int:
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)


def test_ten_thousand_boots_leave_memory_and_descriptors_within_a_fifth(tmp_path: Path) -> None:
    killer = Killer(tmp_path / "state", seed=1)
    try:
        killer.prepare()
        boot_and_delete(killer, 400)  # caches and pools fill once
        assert killer.cloud is not None
        pids = measure.tree(killer.cloud.process.pid)
        before = (measure.pss_mb(pids), descriptors(pids))
        boot_and_delete(killer, BOOTS)
        after = (measure.pss_mb(pids), descriptors(pids))
        killer.clear()
    finally:
        killer.end()
    assert after[0] <= before[0] * TOLERANCE, f"PSS grew from {before[0]} to {after[0]} MB"
    assert after[1] <= before[1] * TOLERANCE, f"descriptors grew from {before[1]} to {after[1]}"

"""The official suite's developer set of volumes, on a cloud of the fake driver with two hosts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pileus.testing.running import RunningCloud, running
from tests.conformance.test_first import UPSTREAM_SKIP, ledger, run_set

# What the suite itself leaves out: for features that this cloud doesn't say it has.
OWN_SKIPS = (UPSTREAM_SKIP, "Volume replication feature disabled", "Concurrency tests are disabled")


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[RunningCloud]:
    with running(tmp_path / "state") as started:
        started.wait_for_image()
        yield started


@pytest.mark.slow
def test_every_test_of_volumes_passes_but_those_in_the_ledger(
    cloud: RunningCloud, tmp_path: Path
) -> None:
    result = run_set(cloud, "dev-volume", tmp_path, "--prepare")
    tests = result["tests"]
    assert len(tests) == 264
    failed = {t: row["error"] for t, row in tests.items() if row["outcome"] == "failed"}
    assert {t: error for t, error in failed.items() if t not in ledger()} == {}
    skipped = {t: row["error"] for t, row in tests.items() if row["outcome"] == "skipped"}
    assert {t: why for t, why in skipped.items() if not why.startswith(OWN_SKIPS)} == {}
    assert len(skipped) <= 23
    assert result["cleanup_errors"] == {}

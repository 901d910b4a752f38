"""The official suite's developer set of compute, on a cloud of the fake driver with two hosts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pileus.testing.running import RunningCloud, running
from tests.conformance.test_first import UPSTREAM_SKIP, ledger, run_set

# What the suite itself leaves out: for services and features that this cloud doesn't say it has.
OWN_SKIPS = (
    UPSTREAM_SKIP,
    "SPICE console feature is disabled",
    "auto-allocated-topology extension is not available",
    "``[compute]/certified_image_ref`` required",
    "nova-network is not available",
    "Neutron allows duplicate names for security groups",
    "Neutron does not check the security group ID",
)
ABSENT = ("Barbican is not available",)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[RunningCloud]:
    with running(tmp_path / "state") as started:
        started.wait_for_image()
        yield started


@pytest.mark.slow
def test_every_test_of_compute_passes_but_those_in_the_ledger(
    cloud: RunningCloud, tmp_path: Path
) -> None:
    result = run_set(cloud, "dev-compute", tmp_path, "--prepare")
    tests = result["tests"]
    assert len(tests) == 332
    failed = {t: row["error"] for t, row in tests.items() if row["outcome"] == "failed"}
    assert {t: error for t, error in failed.items() if t not in ledger()} == {}
    skipped = {t: row["error"] for t, row in tests.items() if row["outcome"] == "skipped"}
    assert {
        t: why
        for t, why in skipped.items()
        if not why.startswith(OWN_SKIPS) and not any(words in why for words in ABSENT)
    } == {}
    assert len(skipped) <= 30
    assert result["cleanup_errors"] == {}

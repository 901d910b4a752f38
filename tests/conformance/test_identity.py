"""The official suites of identity, rules for every persona included, on a cloud that was told nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pileus.testing.running import RunningCloud, running
from tests.conformance.test_first import ledger, run_set

OWN_SKIPS = (
    "Skipping identity:create_application_credential test for ",  # of callers without a project
    "Federated Identity feature not enabled",  # they want SAML, or a Keycloak of theirs
)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[RunningCloud]:
    with running(tmp_path / "state") as started:
        yield started


@pytest.mark.slow
def test_every_test_of_identity_passes_but_those_in_the_ledger(
    cloud: RunningCloud, tmp_path: Path
) -> None:
    result = run_set(cloud, "dev-identity", tmp_path)
    tests = result["tests"]
    assert len(tests) == 1420
    failed = {t: row["error"] for t, row in tests.items() if row["outcome"] == "failed"}
    assert {t: error for t, error in failed.items() if t not in ledger()} == {}
    skipped = {t: row["error"] for t, row in tests.items() if row["outcome"] == "skipped"}
    assert {t: why for t, why in skipped.items() if not why.startswith(OWN_SKIPS)} == {}
    assert len(skipped) <= 11
    assert result["cleanup_errors"] == {}

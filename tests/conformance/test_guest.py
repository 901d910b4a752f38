"""The official suite's scenarios that log in to a guest, on QEMU: the tester sits where floating IPs can be reached."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pileus.testing.places import Place, need_root, place
from pileus.testing.running import RunningCloud, running
from tests.conformance.test_first import ledger, run_set, surprises
from tests.e2e.sweep import Scope, sweep

pytestmark = pytest.mark.e2e
# As many the suite leaves out at most, for what this cloud does not say it has.
SKIPPED = {"guest-compute": 10, "guest-network": 34, "guest-volume": 2}
LEFT_OUT = r"[.]test_change_server_password\["  # the ledger says why


@pytest.fixture
def outside() -> Iterator[Place]:
    need_root()
    with place() as here:
        yield here


@pytest.fixture
def cloud(outside: Place, tmp_path: Path) -> Iterator[RunningCloud]:
    with running(tmp_path / "state", "qemu", outside.options, outside.near) as started:
        started.wait_for_image()
        yield started


def test_the_basic_scenarios_of_network_and_server_pass(
    cloud: RunningCloud, outside: Place, tmp_path: Path
) -> None:
    passes(cloud, outside, tmp_path, 2, "--regex", r"[.]test_(server|network)_basic_ops\[")


@pytest.mark.slow
def test_every_scenario_of_the_guest_set_passes_but_those_in_the_ledger(
    cloud: RunningCloud, outside: Place, tmp_path: Path
) -> None:
    passes(cloud, outside, tmp_path, 11)


@pytest.mark.slow
@pytest.mark.parametrize("name", SKIPPED)
def test_every_test_of_a_service_with_guests_passes_but_those_in_the_ledger(
    cloud: RunningCloud,
    outside: Place,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEMPEST_IMAGE_FILE", str(cloud.state / "test-image.qcow2"))
    options = ("--guest", "--prepare", "--exclude", LEFT_OUT)
    result = run_set(cloud, name, tmp_path, *options, inside=outside)
    tests = result["tests"]
    failed = {t: row["error"] for t, row in tests.items() if row["outcome"] == "failed"}
    assert {t: error for t, error in failed.items() if t not in ledger()} == {}
    assert sum(row["outcome"] == "skipped" for row in tests.values()) <= SKIPPED[name]
    assert result["cleanup_errors"] == {}


def passes(cloud: RunningCloud, outside: Place, workspace: Path, count: int, *options: str) -> None:
    result = run_set(cloud, "guest", workspace, "--guest", *options, inside=outside)
    assert len(result["tests"]) == count
    assert surprises(result, ledger()) == []
    assert result["cleanup_errors"] == {}
    assert sweep(Scope(cloud.state, outside.prefix, outside.name), cloud.environment()) == []

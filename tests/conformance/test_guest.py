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
@pytest.mark.parametrize("name", ["guest-compute", "guest-network", "guest-volume"])
def test_every_test_of_a_service_with_guests_passes_but_those_in_the_ledger(
    cloud: RunningCloud, outside: Place, tmp_path: Path, name: str
) -> None:
    result = run_set(cloud, name, tmp_path, "--guest", inside=outside)
    assert surprises(result, ledger()) == []


def passes(cloud: RunningCloud, outside: Place, workspace: Path, count: int, *options: str) -> None:
    result = run_set(cloud, "guest", workspace, "--guest", *options, inside=outside)
    assert len(result["tests"]) == count
    assert surprises(result, ledger()) == []
    assert result["cleanup_errors"] == {}
    assert sweep(Scope(cloud.state, outside.prefix, outside.name), cloud.environment()) == []

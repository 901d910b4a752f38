"""A handful of kills in every test run; `make soak` does it by the hundred."""

from pathlib import Path

import pytest

from pileus.testing.places import need_root, place
from tests.e2e.kills import survive


def test_a_cloud_killed_whatever_its_servers_are_asked_for_loses_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    ledger = survive(tmp_path / "state", seed=1, rounds=4, keeps=True)
    assert ledger.kills == 4
    assert ledger.created, "the kills fell before anything was acknowledged: nothing was tested"


def test_a_control_and_a_host_killed_by_turns_lose_and_leave_nothing(tmp_path: Path) -> None:
    ledger = survive(tmp_path, seed=4, rounds=4, apart=True)
    assert ledger.kills == 4 and ledger.created


@pytest.mark.e2e
def test_a_cloud_killed_while_real_guests_boot_and_go_loses_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    need_root()
    with place() as outside:
        ledger = survive(tmp_path / "state", 2, rounds=3, outside=outside, driver="qemu")
    assert ledger.kills == 3 and ledger.created


@pytest.mark.e2e
def test_a_cloud_killed_while_containers_start_and_go_loses_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    need_root()
    with place() as outside:
        ledger = survive(tmp_path / "state", 3, rounds=3, outside=outside, driver="container")
    assert ledger.kills == 3 and ledger.created

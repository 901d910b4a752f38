"""A handful of kills in every test run; `make soak` does it by the hundred."""

from pathlib import Path

import pytest

from pileus.testing.places import need_root, place
from tests.e2e.volume_kills import survive


def test_a_cloud_killed_whatever_its_volumes_are_asked_for_loses_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    killer = survive(tmp_path / "state", seed=1, rounds=4)
    assert killer.kills == 4 and killer.done


@pytest.mark.e2e
def test_a_cloud_killed_while_volumes_are_written_loses_no_byte(tmp_path: Path) -> None:
    need_root()
    with place() as outside:
        killer = survive(tmp_path / "state", seed=2, rounds=4, outside=outside)
    assert killer.kills == 4 and killer.done

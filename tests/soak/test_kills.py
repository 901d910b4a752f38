"""Kills by the hundred at seeded moments."""

from pathlib import Path

import pytest

from pileus.testing.places import need_root, place
from tests.e2e.kills import survive

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", range(10))
def test_a_cloud_survives_nine_kills_a_seed(seed: int, tmp_path: Path) -> None:
    ledger = survive(tmp_path / "state", seed, rounds=9)
    assert ledger.kills == 9 and ledger.created


@pytest.mark.e2e
def test_a_cloud_of_real_guests_survives_ten_kills(tmp_path: Path) -> None:
    need_root()
    with place() as outside:
        ledger = survive(tmp_path / "state", seed=100, rounds=10, outside=outside)
    assert ledger.kills == 10 and ledger.created

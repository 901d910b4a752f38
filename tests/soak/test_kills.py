"""Kills at two hundred seeded moments, over all that servers can be asked for."""

from pathlib import Path

import pytest

from pileus.testing.places import need_root, place
from tests.e2e.deeds import DEEDS
from tests.e2e.kills import survive

pytestmark = pytest.mark.slow
# What cannot be asked where nothing that was deleted or shelved stays.
_KEEPING = {"restore", "shelveOffload"}


@pytest.mark.parametrize("apart", [False, True], ids=["one process", "control and host"])
@pytest.mark.parametrize("seed", range(5))
def test_a_cloud_survives_twenty_kills_a_seed(seed: int, apart: bool, tmp_path: Path) -> None:
    keeps = seed % 2 == 1
    wanted = {deed.name for deed in DEEDS} - (set() if keeps else _KEEPING)
    ledger = survive(tmp_path, seed, rounds=20, apart=apart, keeps=keeps, wanted=wanted)
    assert ledger.kills >= 20 and ledger.created
    assert ledger.done.keys() >= wanted, f"never asked: {wanted - ledger.done.keys()}"


@pytest.mark.e2e
def test_a_cloud_of_real_guests_survives_ten_kills(tmp_path: Path) -> None:
    need_root()
    with place() as outside:
        ledger = survive(tmp_path / "state", 100, rounds=10, outside=outside, driver="qemu")
    assert ledger.kills == 10 and ledger.created

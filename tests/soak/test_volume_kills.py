"""Kills at two hundred seeded moments, over all that volumes can be asked for."""

from pathlib import Path

import pytest

from pileus.testing.places import need_root, place
from tests.e2e.volume_kills import survive

pytestmark = pytest.mark.slow
_ALWAYS = {"create", "extend", "snapshot", "backup", "increment", "upload", "restore"}
_ALWAYS |= {
    "of volumes",
    "of snapshots",
    "delete volumes",
    "delete snapshots",
    "delete backups",
    "image",
    "of images",
}


@pytest.mark.parametrize("seed", range(5))
def test_a_cloud_of_pretended_volumes_survives_twenty_kills_a_seed(
    seed: int, tmp_path: Path
) -> None:
    wanted = _ALWAYS | {"migrate"}
    killer = survive(tmp_path / "state", seed, rounds=20, wanted=wanted)
    assert killer.kills >= 20 and killer.done.keys() >= wanted


@pytest.mark.e2e
@pytest.mark.parametrize("seed", range(100, 105))
def test_every_byte_that_was_answered_for_outlives_twenty_kills_a_seed(
    seed: int, tmp_path: Path
) -> None:
    need_root()
    wanted = _ALWAYS | {"write", "in use"}
    with place() as outside:
        killer = survive(tmp_path / "state", seed, rounds=20, outside=outside, wanted=wanted)
    assert killer.kills >= 20 and killer.done.keys() >= wanted

"""Kills at two hundred seeded moments, over all that volumes can be asked for."""

from pathlib import Path

import pytest

from pileus.testing.places import need_root, place
from tests.e2e.volume_kills import VolumeKiller, survive

pytestmark = pytest.mark.slow
_DEEDS = {"create", "extend", "snapshot", "backup", "increment", "upload", "restore"}
_DEEDS |= {
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
    killer = survive(tmp_path / "state", seed, rounds=20)
    assert killer.kills == 20 and _is_broad(killer, "migrate")


@pytest.mark.e2e
@pytest.mark.parametrize("seed", range(100, 105))
def test_every_byte_that_was_answered_for_outlives_twenty_kills_a_seed(
    seed: int, tmp_path: Path
) -> None:
    need_root()
    with place() as outside:
        killer = survive(tmp_path / "state", seed, rounds=20, outside=outside)
    assert killer.kills == 20 and _is_broad(killer, "write", "in use")


def _is_broad(killer: VolumeKiller, *also: str) -> bool:
    """On a slow machine a kill may take what one or two deeds would have needed."""
    return len((_DEEDS | {*also}) - killer.done.keys()) <= 2

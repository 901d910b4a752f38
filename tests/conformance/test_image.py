"""The official suites of image, on a cloud that may fetch from a web server beside it, with one store and with two."""

from __future__ import annotations

import configparser
from collections.abc import Iterator
from pathlib import Path

import pytest

from pileus.testing.running import RunningCloud, running
from pileus.testing.web import Web, web_server
from tests.conformance.test_first import HERE, ledger, run_set

OWN_SKIPS = (
    "No image_remote service to test against",  # a second endpoint of the same images
    "do_secure_hash is enabled",  # the other half of a pair
    "Image format testing is not configured",  # wants a collection of images
)
TWO_STORES = "MultiStores|StoreWeight|ImportCopy|MultistoreLocation"


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server({"/image": b"an image, somewhere else " * 4096}) as server:
        yield server


@pytest.fixture
def features(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the suite is told besides: where something can be fetched."""
    conf = configparser.ConfigParser(interpolation=None)
    conf.read(HERE / "features.conf")
    conf["image"].update(http_image=web.url(), http_qcow2_image=web.url())
    for name in ("manage_locations", "http_store_enabled", "store_weight_enabled"):
        conf["image-feature-enabled"][name] = "true"
    with (tmp_path / "features.conf").open("w") as file:
        conf.write(file)
    monkeypatch.setenv("YARDSTICK_FEATURES", str(tmp_path / "features.conf"))


def _cloud(web: Web, folder: Path, stores: str) -> Iterator[RunningCloud]:
    chosen = {
        "stores": stores,
        "trusted_origins": web.origin,
        "show_multiple_locations": "true",
    }
    options = [word for k, v in chosen.items() for word in ("--set", f"image.{k}={v}")]
    with running(folder / "state", options=options) as started:
        started.wait_for_image()
        yield started


@pytest.fixture
def cloud(web: Web, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RunningCloud]:
    yield from _cloud(web, tmp_path, getattr(request, "param", "local"))


@pytest.mark.slow
@pytest.mark.usefixtures("features")
def test_every_test_of_image_passes_but_those_in_the_ledger(
    cloud: RunningCloud, tmp_path: Path
) -> None:
    result = run_set(
        cloud, "dev-image", tmp_path, "--exclude", "test_delete_image_from_specific|StoreWeight"
    )
    tests = result["tests"]
    assert len(tests) == 198
    failed = {t: row["error"] for t, row in tests.items() if row["outcome"] == "failed"}
    assert {t: error for t, error in failed.items() if t not in ledger()} == {}
    skipped = {t: row["error"] for t, row in tests.items() if row["outcome"] == "skipped"}
    assert {t: why for t, why in skipped.items() if not why.startswith(OWN_SKIPS)} == {}
    assert len(skipped) <= 7
    assert result["cleanup_errors"] == {}


@pytest.mark.slow
@pytest.mark.usefixtures("features")
@pytest.mark.parametrize("cloud", ["local,spare"], indirect=True)
def test_what_wants_two_stores_passes_with_two(cloud: RunningCloud, tmp_path: Path) -> None:
    result = run_set(cloud, "dev-image", tmp_path, "--regex", TWO_STORES)
    outcomes = {t.partition("[")[0]: row["outcome"] for t, row in result["tests"].items()}
    assert len(outcomes) == 7
    wrong = {t: o for t, o in outcomes.items() if o != "passed" and "hash_false" not in t}
    assert wrong == {}

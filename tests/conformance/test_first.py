"""The official suite: all of set `first` passes on the fake driver, but for what the ledger names."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pileus.testing.places import Place
from pileus.testing.roles import two_roles
from pileus.testing.running import RunningCloud, running

HERE = Path(__file__).parent
# The suite itself skips these; nobody's cloud runs them.
UPSTREAM_SKIP = "Skipped until"


def ledger() -> set[str]:
    """The ids of the tests that are known not to pass."""
    lines = (HERE / "ledger.tsv").read_text().splitlines()
    return {line.split("\t")[0] for line in lines if line and not line.startswith("#")}


@pytest.fixture(scope="module", params=["one process, SQLite", "two processes, PostgreSQL, NATS"])
def cloud(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningCloud]:
    folder = tmp_path_factory.mktemp("conformance")
    with ExitStack() as stack:
        if request.param == "one process, SQLite":
            started = stack.enter_context(running(folder / "state"))
        else:
            started = stack.enter_context(two_roles(folder)).cloud
        started.wait_for_image()
        yield started


def run_set(
    cloud: RunningCloud, name: str, workspace: Path, *options: str, inside: Place | None = None
) -> dict[str, Any]:
    """The runner's JSON for one set of tests; it runs in the network namespace `inside`, if one is given."""
    out = workspace / f"{name}.json"
    command = [str(HERE / "run.sh"), "--set", name, "--concurrency", "2", "--out", str(out)]
    command += options
    done = subprocess.run(
        inside.inside(command) if inside else command,
        env={**os.environ, **cloud.environment(), "YARDSTICK_WORKSPACE": str(workspace)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert out.exists(), done.stdout[-3000:]
    return dict(json.loads(out.read_text()))


def surprises(result: dict[str, Any], known: set[str]) -> list[str]:
    """Failures and skips that the ledger does not name, and passes of what it does."""
    lines = []
    for test, row in sorted(result["tests"].items()):
        good = row["outcome"] == "passed" or row["error"].startswith(UPSTREAM_SKIP)
        if good == (test in known):
            lines.append(f"{row['outcome']} {test}: {row['error'] or 'strike it from the ledger'}")
    return lines


def test_every_test_of_the_first_set_passes_but_those_in_the_ledger(
    cloud: RunningCloud, tmp_path: Path
) -> None:
    result = run_set(cloud, "first", tmp_path)
    assert len(result["tests"]) == 80
    assert surprises(result, ledger()) == []
    assert result["cleanup_errors"] == {}


def test_a_surprise_is_a_failure_a_skip_or_a_needless_line_of_the_ledger() -> None:
    rows = {
        "good": {"outcome": "passed", "error": ""},
        "bad": {"outcome": "failed", "error": "boom"},
        "left out": {"outcome": "skipped", "error": "no such extension"},
        "upstream": {"outcome": "skipped", "error": "Skipped until bug 1"},
        "mended": {"outcome": "passed", "error": ""},
        "known": {"outcome": "failed", "error": "known"},
    }
    assert surprises({"tests": rows}, {"mended", "known"}) == [
        "failed bad: boom",
        "skipped left out: no such extension",
        "passed mended: strike it from the ledger",
    ]

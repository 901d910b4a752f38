"""Nothing notices a service that is not there: whoever leans on it says so, everyone else goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pileus.cli.client import Client
from pileus.testing.running import running
from tests.e2e.shell import ROOT

# A read of each service that needs no other one.
READS = {
    "identity": "/v3/projects",
    "image": "/v2/images",
    "placement": "/resource_providers",
    "network": "/v2.0/networks",
    "compute": "/flavors",
    "block-storage": "/types",
}


def answers(client: Client, absent: str) -> None:
    assert absent not in client.catalog
    for service, path in READS.items():
        if service != absent:
            assert client.call("GET", service, path) is not None, service


@pytest.mark.parametrize("absent", ["image", "placement", "network", "compute", "block-storage"])
def test_a_cloud_without_one_service_serves_the_others(absent: str, tmp_path: Path) -> None:
    with running(tmp_path / "state", options=["--off", absent]) as cloud:
        answers(cloud.client(), absent)


@pytest.fixture
def without_compute(tmp_path: Path) -> Iterator[Path]:
    """A copy of the package from which the folder of compute is deleted."""
    source = tmp_path / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__", "tests"))
    shutil.rmtree(source / "pileus" / "services" / "compute")
    yield source


def test_a_service_whose_contract_nobody_imports_can_be_deleted(
    without_compute: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from pileus.testing.running import running\n"
        "import pileus; assert pileus.__file__.startswith(sys.argv[1]), pileus.__file__\n"
        "with running(Path(sys.argv[2])) as cloud:\n"
        "    client = cloud.client()\n"
        "    print(*sorted(client.catalog))\n"
        "    client.call('GET', 'network', '/v2.0/networks')\n"
    )
    env = {**os.environ, "PYTHONPATH": str(without_compute)}
    command = [sys.executable, "-c", code, str(without_compute), str(tmp_path / "state")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "compute" not in done.stdout and "network" in done.stdout

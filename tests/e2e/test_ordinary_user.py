"""What a CI system does: `pip install .`, then a complete API cloud as a user without any privilege."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pileus.cli.background import exports
from pileus.cli.client import Client, Credentials
from pileus.testing.running import free_port
from tests.e2e.shell import ROOT

NOBODY = 65534
# A Python that every user may run; one in root's home is not.
PYTHON = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
READS = {
    "identity": "/v3/auth/projects",
    "image": "/v2/images",
    "placement": "/resource_providers",
    "network": "/v2.0/networks",
    "compute": "/flavors",
}


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """A folder that everyone may read, with a fresh `venv` of the project in it and nothing else."""
    folder = Path(tempfile.mkdtemp(prefix="pileus-user-"))
    folder.chmod(0o755)
    subprocess.run([PYTHON, "-m", "venv", str(folder / "venv")], check=True)
    pip = [str(folder / "venv" / "bin" / "pip"), "install", "--quiet", str(ROOT)]
    subprocess.run(pip, check=True, stdin=subprocess.DEVNULL)
    yield folder
    shutil.rmtree(folder)


def as_ordinary_user(command: list[str], home: Path) -> list[str]:
    """The command as nobody, if we are root; else as we are."""
    if os.geteuid() != 0:
        return command
    os.chown(home, NOBODY, NOBODY)
    drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
    return [*drop, "--inh-caps=-all", "--bounding-set=-all", *command]


def test_an_ordinary_user_gets_an_api_cloud_from_pip_install_alone(installed: Path) -> None:
    home = installed / "home"
    home.mkdir()
    pileus = str(installed / "venv" / "bin" / "pileus")
    env = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    state = ["--state", str(home / "state")]
    listen = ["--listen", f"127.0.0.1:{free_port()}"]
    up = as_ordinary_user([pileus, "up", "--driver", "fake", *state, *listen], home)
    with subprocess.Popen(up, env=env, cwd=home, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert any(line.startswith("ready ") for line in process.stdout)
            shown = subprocess.run(
                [pileus, "env", *state], env=env, capture_output=True, text=True, check=True
            )
            client = Client(Credentials.of(exports(shown.stdout)))
            for service, path in READS.items():
                assert client.call("GET", service, path), service
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    assert process.returncode == 0

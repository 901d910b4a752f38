"""The unmodified standard client against a running cloud, and a transcript of what was typed and answered."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pileus.kernel.world import Clock
from pileus.testing.running import RunningCloud

ROOT = Path(__file__).parents[2]
RUNNER = ROOT / "tests" / "conformance" / "run.sh"
TRANSCRIPTS = ROOT / ".cache" / "transcripts"
SSH_OPTIONS = "-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=5"


def client_venv() -> Path:
    """Where python-openstackclient is installed, pinned; made on the first call."""
    done = subprocess.run([str(RUNNER), "--venv"], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


class Shell:
    """A person at a prompt who sourced `pileus env`."""

    def __init__(self, cloud: RunningCloud, name: str) -> None:
        path = f"{client_venv() / 'bin'}:{os.environ['PATH']}"
        self._env = {**os.environ, **cloud.environment(), "PATH": path, "PYTHONWARNINGS": "ignore"}
        TRANSCRIPTS.mkdir(parents=True, exist_ok=True)
        self._transcript = TRANSCRIPTS / f"{name}.txt"
        self._transcript.write_text("")

    def attempt(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run one line, succeed or not."""
        done = subprocess.run(
            shlex.split(command),
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        with self._transcript.open("a") as file:
            file.write(f"$ {command}\n{done.stdout}{done.stderr}")
        return done

    def type(self, command: str) -> str:
        """Run one line, which must succeed: what it printed."""
        done = self.attempt(command)
        assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def openstack(self, arguments: str) -> Any:
        """One command of the client with its answer as data; None if it prints nothing."""
        printed = self.type(f"openstack {arguments} -f json")
        return json.loads(printed) if printed.strip() else None

    def names(self, noun: str) -> list[str]:
        return [row["Name"] for row in self.openstack(f"{noun} list")]


async def until(
    what: str, holds: Callable[[], bool], patience_s: float, seen: Callable[[], object] = str
) -> None:
    """Ask again and again, once a second at most; who gives up says what was `seen` last."""
    clock = Clock()
    deadline = clock.monotonic() + patience_s
    while not holds():
        assert clock.monotonic() < deadline, f"not after {patience_s} s: {what} {seen()}"
        await clock.sleep(1)

"""A cloud with a real guest to log in to, and what can be asked of the two."""

from __future__ import annotations

import asyncio
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pileus.cli import background, first_server
from pileus.cli.client import Client
from pileus.kernel.world import Clock
from pileus.testing.places import Place, need_root, place
from pileus.testing.ports import free_port
from pileus.testing.running import RunningCloud, start
from tests.e2e.shell import SSH_OPTIONS, until
from tests.e2e.sweep import Scope, sweep

BOOT_S = 180


@dataclass
class World:
    """A cloud with one server that can be logged in to from `outside`; `scope` is the machine of its host."""

    cloud: RunningCloud
    outside: Place
    scope: Scope
    client: Client
    guest: first_server.FirstServer
    driver: str = "qemu"

    @property
    def id(self) -> str:
        return str(self.guest.server["id"])

    def up(self, *options: str) -> None:
        """Start the cloud again."""
        port = int(self.cloud.url.rpartition(":")[2])
        self.cloud = launch(self.cloud.state, self.outside, port, *options, driver=self.driver)
        self.client = self.cloud.client()

    def server(self) -> dict[str, Any]:
        return dict(self.client.call("GET", "compute", f"/servers/{self.id}")["server"])

    def is_(self, status: str) -> None:
        """Waits until the server has that status and nothing is going on."""

        def holds() -> bool:
            server = self.server()
            return bool(server["status"] == status and server["OS-EXT-STS:task_state"] is None)

        asyncio.run(until(f"server is {status}", holds, BOOT_S, self.server))

    def act(self, action: str) -> None:
        self.call_action({action: None})

    def call_action(self, body: dict[str, Any]) -> Any:
        return self.client.call("POST", "compute", f"/servers/{self.id}/action", body)

    def log_in(self, command: str = "hostname", at: str = "", user: str = "cirros") -> str:
        """What the guest answers over its floating IP, or another one at its own; waits until it does."""
        address = at or self.guest.floating_ip
        ssh = f"ssh -i {self.guest.key} {SSH_OPTIONS} {user}@{address} {command}"
        line = self.outside.inside(shlex.split(ssh))
        tries: list[subprocess.CompletedProcess[str]] = []

        def answers() -> bool:
            tries.append(subprocess.run(line, capture_output=True, text=True, check=False))
            return tries[-1].returncode == 0

        asyncio.run(until(f"ssh to {address}", answers, BOOT_S, lambda: tries[-1].stderr))
        return tries[-1].stdout.strip()

    def is_swept(self) -> None:
        assert sweep(self.scope, self.cloud.environment()) == []


def launch(
    state: Path, outside: Place, port: int, *options: str, driver: str = "qemu"
) -> RunningCloud:
    return start(state, driver, [*outside.options, *options], port, outside.near)


def with_guest(cloud: RunningCloud, outside: Place, scope: Scope, driver: str = "qemu") -> World:
    """Boots the server that `make up` boots."""
    cloud.wait_for_image()
    client = cloud.client()
    boot = first_server.boot(client, Clock(), cloud.state / "key", lambda step: None)
    return World(cloud, outside, scope, client, asyncio.run(boot), driver)


@contextmanager
def world(state: Path, driver: str = "qemu") -> Iterator[World]:
    """All in one process; at the end every server is deleted and nothing may be left."""
    need_root()
    with place() as outside:
        cloud = launch(state, outside, free_port(), driver=driver)
        try:
            scope = Scope(state, outside.prefix, outside.name)
            found = with_guest(cloud, outside, scope, driver)
            yield found
            cloud = found.cloud
            asyncio.run(background.delete_servers(cloud.client(), Clock()))
            found.is_swept()
        finally:
            asyncio.run(background.stop(state, Clock()))
            if "container" in driver:
                forget(state)
            background.kill_leftovers(state)


def forget(state: Path) -> None:
    """Containers name no file of the state folder, so that their own driver has to look for them."""
    command = [sys.executable, "-m", "pileus.cli.main", "forget", "--state", str(state)]
    subprocess.run(command, check=True, capture_output=True)

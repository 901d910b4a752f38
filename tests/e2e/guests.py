"""A cloud with a real guest to log in to, and what can be asked of the two."""

from __future__ import annotations

import asyncio
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pileus.cli import background, first_server
from pileus.cli.client import Client
from pileus.kernel.world import Clock
from pileus.testing.places import Place, need_root, place
from pileus.testing.running import RunningCloud, free_port, start
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

    @property
    def id(self) -> str:
        return str(self.guest.server["id"])

    def up(self, *options: str) -> None:
        """Start the cloud again."""
        port = int(self.cloud.url.rpartition(":")[2])
        self.cloud = launch(self.cloud.state, self.outside, port, *options)
        self.client = self.cloud.client()

    def server(self) -> dict[str, Any]:
        return dict(self.client.call("GET", "compute", f"/servers/{self.id}")["server"])

    def is_(self, status: str) -> None:
        """Waits until the server has that status and nothing is going on."""

        def holds() -> bool:
            server = self.server()
            return bool(server["status"] == status and server["OS-EXT-STS:task_state"] is None)

        asyncio.run(until(f"server is {status}", holds, BOOT_S))

    def act(self, action: str) -> None:
        self.call_action({action: None})

    def call_action(self, body: dict[str, Any]) -> Any:
        return self.client.call("POST", "compute", f"/servers/{self.id}/action", body)

    def log_in(self, command: str = "hostname") -> str:
        """What the guest answers over its floating IP; waits until it does."""
        ssh = f"ssh -i {self.guest.key} {SSH_OPTIONS} cirros@{self.guest.floating_ip} {command}"
        said = ""

        def answers() -> bool:
            nonlocal said
            line = self.outside.inside(shlex.split(ssh))
            done = subprocess.run(line, capture_output=True, text=True, check=False)
            said = done.stdout.strip()
            return done.returncode == 0

        asyncio.run(until(f"ssh to {self.guest.floating_ip}", answers, BOOT_S))
        return said

    def is_swept(self) -> None:
        assert sweep(self.scope, self.cloud.environment()) == []


def launch(state: Path, outside: Place, port: int, *options: str) -> RunningCloud:
    return start(state, "qemu", [*outside.options, *options], port, outside.near)


def with_guest(cloud: RunningCloud, outside: Place, scope: Scope) -> World:
    """Boots the server that `make up` boots."""
    cloud.wait_for_image()
    client = cloud.client()
    boot = first_server.boot(client, Clock(), cloud.state / "key", lambda step: None)
    return World(cloud, outside, scope, client, asyncio.run(boot))


@contextmanager
def world(state: Path) -> Iterator[World]:
    """All in one process; at the end every server is deleted and nothing may be left."""
    need_root()
    with place() as outside:
        cloud = launch(state, outside, free_port())
        try:
            found = with_guest(cloud, outside, Scope(state, outside.prefix, outside.name))
            yield found
            cloud = found.cloud
            asyncio.run(background.delete_servers(cloud.client(), Clock()))
            found.is_swept()
        finally:
            if cloud.process.poll() is None:
                cloud.stop()
            background.kill_leftovers(state)

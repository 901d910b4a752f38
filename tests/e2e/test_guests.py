"""What real guests live through: their cloud restarted or killed, their own death, the machine's reboot.

After each the outside sweep must find exactly what the API says.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pileus.cli import background, first_server
from pileus.cli.client import Client
from pileus.kernel.world import Clock
from pileus.testing.places import Place, need_root, place
from pileus.testing.running import RunningCloud, free_port, start
from tests.e2e.shell import SSH_OPTIONS, until
from tests.e2e.sweep import Scope, devices, processes, sweep

pytestmark = pytest.mark.e2e
BOOT_S = 180
CRASHED = 6


@dataclass
class World:
    """A cloud with one server that can be logged in to; the cloud may be stopped and started."""

    state: Path
    outside: Place
    cloud: RunningCloud
    client: Client
    guest: first_server.FirstServer

    @property
    def id(self) -> str:
        return str(self.guest.server["id"])

    @property
    def scope(self) -> Scope:
        return Scope(self.state, self.outside.prefix, self.outside.name)

    def up(self, *options: str) -> None:
        """Start it again."""
        port = int(self.cloud.url.rpartition(":")[2])
        self.cloud = launch(self.state, self.outside, port, *options)
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
        self.client.call("POST", "compute", f"/servers/{self.id}/action", {action: None})

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


@contextmanager
def world(state: Path) -> Iterator[World]:
    need_root()
    with place() as outside:
        cloud = launch(state, outside, free_port())
        try:
            cloud.wait_for_image()
            client, clock = cloud.client(), Clock()
            boot = first_server.boot(client, clock, state / "key", lambda step: None)
            found = World(state, outside, cloud, client, asyncio.run(boot))
            yield found
            cloud = found.cloud
            asyncio.run(background.delete_servers(cloud.client(), clock))
            found.is_swept()
        finally:
            if cloud.process.poll() is None:
                cloud.stop()
            background.kill_leftovers(state)


def test_guests_live_through_whatever_happens_to_their_cloud(tmp_path: Path) -> None:
    with world(tmp_path / "state") as here:
        assert here.log_in() == "first"
        here.is_swept()
        booted = here.log_in("cat /proc/sys/kernel/random/boot_id")
        before = processes(here.scope)

        assert here.cloud.stop() == 0
        assert processes(here.scope) == before
        here.up()
        here.cloud.kill()
        here.up()
        here.is_swept()
        assert processes(here.scope) == before
        assert here.log_in("cat /proc/sys/kernel/random/boot_id") == booted

        dies_by_itself(here)
        machine_reboots(here)


def dies_by_itself(here: World) -> None:
    """Its QEMU is killed: the server is off, and can be started again."""
    os.kill(processes(here.scope)[here.id], signal.SIGKILL)
    here.is_("SHUTOFF")
    assert here.server()["OS-EXT-STS:power_state"] == CRASHED
    here.is_swept()
    here.act("os-start")
    here.is_("ACTIVE")
    here.log_in()
    here.is_swept()


def machine_reboots(here: World) -> None:
    """Nothing is left but files: servers are off until started, or resume if the operator said so."""
    power_cut(here)
    here.up()
    here.is_("SHUTOFF")
    here.is_swept()
    here.act("os-start")
    here.is_("ACTIVE")
    here.log_in()

    power_cut(here)
    here.up("--set", "compute.resume_guests=true")
    here.is_("ACTIVE")
    here.log_in()
    here.is_swept()


def power_cut(here: World) -> None:
    """The cloud, the guests, and everything that lived in the kernel."""
    here.cloud.kill()
    for pid in processes(here.scope).values():
        os.kill(pid, signal.SIGKILL)
    forget_network(here.scope)


def forget_network(scope: Scope) -> None:
    """What a reboot forgets: namespaces, links and rules of that prefix."""
    for line in _said("ip", "netns").splitlines():
        if line.startswith((f"{scope.prefix}-net-", f"{scope.prefix}-router-")):
            _said("ip", "netns", "del", line.split()[0])
    for namespace in (scope.home, scope.underlay):
        inside = ["nsenter", f"--net=/run/netns/{namespace}"] if namespace else []
        for name, _, _ in devices(scope, namespace):
            # The other end of a pair goes with the first.
            subprocess.run([*inside, "ip", "link", "del", name], check=False, capture_output=True)
        tables = _said(*inside, "nft", "list", "tables")
        for table in re.findall(rf"table (\w+ pileus_{scope.prefix}\w*)", tables):
            _said(*inside, "nft", "delete", "table", *table.split())


def _said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout

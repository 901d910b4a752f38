"""A real guest between two hosts, each a process in a network of its own: off, running, and after the loss of its host.

From outside it is reached at the same floating IP throughout. Host processes are killed in between.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pileus.cli import background
from pileus.host import qemu
from pileus.kernel.world import Clock
from pileus.testing.places import Place, need_root, place
from pileus.testing.roles import Host, TwoRoles, two_roles
from tests.e2e.guests import World, with_guest
from tests.e2e.shell import until
from tests.e2e.sweep import Scope, processes
from tests.e2e.test_two_roles import tear_down

LIVE = {"os-migrateLive": {"host": None, "block_migration": "auto"}}
VERSION = {"OpenStack-API-Version": "compute 2.30"}
MOVE_S = 240


@dataclass
class Pair:
    """`here` is the guest's world, seen from the outer network of the host that its router is on."""

    here: World
    hosts: dict[str, Host]
    scopes: dict[str, Scope]
    outsides: dict[str, Place]

    @property
    def host(self) -> str:
        return str(self.here.server()["OS-EXT-SRV-ATTR:host"])

    @property
    def other(self) -> str:
        (found,) = self.hosts.keys() - {self.host}
        return found

    def send(self, method: str, path: str, body: object) -> None:
        client = self.here.client
        client.send(method, client.catalog["compute"].rstrip("/") + path, body, VERSION)

    def act(self, body: dict[str, Any]) -> None:
        self.send("POST", f"/servers/{self.here.id}/action", body)

    def force_down(self, host: str, *, down: bool) -> None:
        body = {"host": host, "binary": "nova-compute", "forced_down": down}
        self.send("PUT", "/os-services/force-down", body)

    def migration(self) -> Any:
        path = f"/os-migrations?instance_uuid={self.here.id}"
        found = self.here.client.call("GET", "compute", path)["migrations"]
        return max(found, key=lambda m: m["id"])

    def settled(self, status: str, on: str) -> None:
        """Waits until the server is that, there, and its guest on that host alone; it is logged in to."""
        self.here.is_(status)
        assert self.host == on
        assert self.here.log_in() == "first"

    def alone(self, on: str) -> None:
        """Waits until no other host has a process of the guest."""
        (elsewhere,) = (scope for name, scope in self.scopes.items() if name != on)

        def gone() -> bool:
            return not processes(elsewhere)

        asyncio.run(until(f"nothing runs but on {on}", gone, MOVE_S))
        assert processes(self.scopes[on])

    def follow_router(self) -> None:
        """It leaves a lost host too, and each host has an outer network of its own here."""

        def answers() -> bool:
            for outside in self.outsides.values():
                line = outside.inside(["ping", "-c1", "-W1", self.here.guest.floating_ip])
                if subprocess.run(line, capture_output=True, check=False).returncode == 0:
                    self.here.outside = outside
                    return True
            return False

        asyncio.run(until("the guest answers somewhere", answers, MOVE_S))

    def uptime(self) -> float:
        return float(self.here.log_in("cat /proc/uptime").split()[0])


def _options(name: str, machine: Place, outside: Place) -> list[str]:
    named = ["--driver", "qemu", "--host-name", name, "--address", outside.far]
    return [*named, "--underlay", outside.name, "--prefix", machine.prefix]


@contextmanager
def pair(folder: Path) -> Iterator[Pair]:
    need_root()
    with ExitStack() as stack:
        stack.callback(_kill_guests, folder)  # of a walk that broke off
        places = [stack.enter_context(place()) for _ in range(4)]
        (one, one_outside), (two, two_outside) = places[:2], places[2:]
        options = _options("one", one, one_outside)
        roles: TwoRoles = stack.enter_context(two_roles(folder, options, one))
        scopes = {
            "one": Scope(folder / "host", one.prefix, one_outside.name, one.name),
            "two": Scope(folder / "second", two.prefix, two_outside.name, two.name),
        }
        here = with_guest(roles.cloud, one_outside, scopes["one"])
        second = roles.more(folder / "second", _options("two", two, two_outside), two)
        second.start()
        outsides = {"one": one_outside, "two": two_outside}
        found = Pair(here, {"one": roles.host, "two": second}, scopes, outsides)
        yield found
        asyncio.run(background.delete_servers(here.client, Clock()))
        tear_down(here)
        asyncio.run(until("no guest is left", partial(_are_empty, scopes), 60))


def _kill_guests(folder: Path) -> None:
    for guests in folder.glob("**/compute/guests"):
        for pid in qemu.running_in(guests).values():
            os.kill(pid, signal.SIGKILL)


def _are_empty(scopes: dict[str, Scope]) -> bool:
    return not any(processes(scope) for scope in scopes.values())


@pytest.mark.e2e
def test_a_guest_goes_from_host_to_host_and_is_reached_all_the_way(tmp_path: Path) -> None:
    with pair(tmp_path) as both:
        assert both.here.log_in() == "first"
        before = both.uptime()

        both.act(LIVE)
        both.settled("ACTIVE", on="two")
        both.alone(on="two")
        assert both.uptime() > before, "it did not boot anew"
        assert both.migration()["status"] == "completed"

        both.act({"migrate": None})
        both.settled("VERIFY_RESIZE", on="one")
        both.act({"revertResize": None})
        both.settled("ACTIVE", on="two")

        both.act({"migrate": None})
        both.settled("VERIFY_RESIZE", on="one")
        both.act({"confirmResize": None})
        both.settled("ACTIVE", on="one")
        both.alone(on="one")

        dies_while_it_is_sent_to(both, "two")
        is_lost(both)


def dies_while_it_is_sent_to(both: Pair, target: str) -> None:
    """The target's process is killed meanwhile: the guest lives on one side, and can go there later."""
    source, before = both.host, both.uptime()
    both.act(LIVE)

    def under_way() -> bool:
        return both.migration()["status"] in ("running", "completed", "error")

    asyncio.run(until("the guest is being sent", under_way, MOVE_S))
    both.hosts[target].kill()
    both.hosts[target].start()
    both.here.is_("ACTIVE")
    both.settled("ACTIVE", on=both.host)
    assert both.uptime() > before
    both.alone(on=both.host)
    if both.host == target:
        both.act(LIVE)
        both.settled("ACTIVE", on=source)
        both.alone(on=source)


def is_lost(both: Pair) -> None:
    """Its host's process dies; the server is made anew on the other, and the stale guest goes when the host is back."""
    lost, new = both.host, both.other
    both.hosts[lost].kill()
    both.force_down(lost, down=True)
    both.act({"evacuate": {}})
    both.here.is_("ACTIVE")
    assert both.host == new
    both.hosts[lost].start()
    both.force_down(lost, down=False)
    both.alone(on=new)
    both.follow_router()
    both.settled("ACTIVE", on=new)

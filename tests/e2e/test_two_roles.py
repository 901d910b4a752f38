"""The walk again with control and host apart: an ordinary user's process, root's process, PostgreSQL and NATS.

With QEMU the host has a network of its own: control, PostgreSQL and NATS are reached over a veth pair, and its outer network
is a third namespace.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.asyncio.client import connect

from pileus.cli import background
from pileus.kernel.world import Clock
from pileus.testing.places import need_root, place
from pileus.testing.roles import TwoRoles, two_roles
from tests.e2e.guests import World, with_guest
from tests.e2e.shell import Shell, until
from tests.e2e.sweep import Scope, folders, processes, sweep
from tests.e2e.test_cli_walk import (
    add_image,
    boot,
    clear_up,
    lay_network,
    look_around,
    stop_start_and_reboot,
)


def test_the_walk_works_with_control_and_host_apart(tmp_path: Path) -> None:
    with two_roles(tmp_path) as roles:
        roles.cloud.wait_for_image()
        shell = Shell(roles.cloud, "two_roles")
        look_around(shell)
        add_image(shell, tmp_path)
        lay_network(shell)
        address = boot(shell, tmp_path)
        stop_start_and_reboot(shell)
        clear_up(shell, address)


@pytest.mark.e2e
def test_guests_of_a_host_apart_are_reached_outlive_its_process_and_leave_nothing(
    tmp_path: Path,
) -> None:
    need_root()
    with place() as machine, place() as outside:
        scope = Scope(tmp_path / "host", machine.prefix, outside.name, machine.name)
        options = ["--driver", "qemu", "--underlay", outside.name, "--prefix", machine.prefix]
        with two_roles(tmp_path, options, machine) as roles:
            here = with_guest(roles.cloud, outside, scope)
            assert here.log_in() == "first"
            here.is_swept()

            before = processes(scope)
            roles.host.kill()
            roles.host.start()
            assert processes(scope) == before, "a guest outlives its host's process"
            here.is_("ACTIVE")
            here.is_swept()

            here.act("os-stop")
            here.is_("SHUTOFF")
            here.is_swept()
            here.act("os-start")
            here.is_("ACTIVE")
            here.log_in()
            console = here.call_action({"os-getConsoleOutput": {}})["output"]
            assert "first login:" in console

            speaks_on_its_consoles(here)
            is_put_away_and_comes_back(here)
            dies_while_spawning(here, roles)
            asyncio.run(background.delete_servers(here.client, Clock()))
            here.is_swept()
            tear_down(here)
            here.is_swept()
        assert sweep(scope, None) == []


def speaks_on_its_consoles(here: World) -> None:
    """The host calls control, which the browser has called: QEMU's own bytes come through."""
    serial = here.call_action({"os-getSerialConsole": {"type": "serial"}})["console"]["url"]
    assert b"login:" in asyncio.run(heard(serial, b"\n", b"login:"))
    page = here.call_action({"os-getVNCConsole": {"type": "novnc"}})["console"]["url"]
    parts = urlsplit(page)
    screen = f"ws://{parts.netloc}/{parse_qs(parts.query)['path'][0]}"
    assert asyncio.run(heard(screen, b"", b"RFB 003.008\n")) == b"RFB 003.008\n"


async def heard(url: str, typed: bytes, until_said: bytes) -> bytes:
    said = b""
    async with asyncio.timeout(30), connect(url, proxy=None) as console:
        await console.send(typed)
        while until_said not in said:
            part = await console.recv()
            said += part if isinstance(part, bytes) else part.encode()
    return said


def is_put_away_and_comes_back(here: World) -> None:
    """What was written to its disk is there again, at its old address; meanwhile the host has nothing of it."""
    assert here.log_in("'echo kept > mark; sync'") == ""
    before = processes(here.scope)
    here.act("shelve")
    here.is_("SHELVED_OFFLOADED")
    here.is_swept()
    assert before and not processes(here.scope)
    here.act("unshelve")
    here.is_("ACTIVE")
    assert here.log_in("cat mark") == "kept"
    here.is_swept()


def dies_while_spawning(here: World, roles: TwoRoles) -> None:
    """The host's process is killed with a guest half made: when it is back, so is the guest."""
    before = folders(here.scope)
    first = here.server()
    network = here.client.call("GET", "network", "/v2.0/networks?name=private")["networks"][0]["id"]
    body = {
        "name": "second",
        "imageRef": first["image"]["id"],
        "flavorRef": first["flavor"]["id"],
        "networks": [{"uuid": network}],
    }
    id = here.client.call("POST", "compute", "/servers", {"server": body})["server"]["id"]
    asyncio.run(until("the guest is being made", lambda: folders(here.scope) > before, 60))
    roles.host.kill()
    roles.host.start()

    def active() -> bool:
        server = here.client.call("GET", "compute", f"/servers/{id}")["server"]
        return bool(server["status"] == "ACTIVE")

    # Long before the call that the dead process took with it would have timed out.
    asyncio.run(until("the second server is ACTIVE", active, 60))
    here.is_swept()


def tear_down(here: World) -> None:
    """Floating IPs, routers and networks that the tour made."""

    def call(method: str, path: str, body: object = None) -> Any:
        return here.client.call(method, "network", f"/v2.0/{path}", body)

    for row in call("GET", "floatingips")["floatingips"]:
        call("DELETE", f"floatingips/{row['id']}")
    for row in call("GET", "routers")["routers"]:
        for port in call("GET", f"ports?device_id={row['id']}")["ports"]:
            if port["device_owner"] == "network:router_interface":
                body = {"port_id": port["id"]}
                call("PUT", f"routers/{row['id']}/remove_router_interface", body)
        call("DELETE", f"routers/{row['id']}")
    for row in call("GET", "networks?name=private")["networks"]:
        call("DELETE", f"networks/{row['id']}")

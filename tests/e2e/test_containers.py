"""Containers as servers: what they live through, what they cannot do, and a virtual machine beside them."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.guests import BOOT_S, World, world
from tests.e2e.shell import until
from tests.e2e.sweep import processes

pytestmark = pytest.mark.e2e
# Without a privilege to gain, only root may ping in a container.
PING = "\"ping -c 2 -W 5 {} | grep -o '[0-9] packets received'\""


def image_named(here: World, name: str) -> dict[str, Any]:
    path = f"/v2/images?name={name}&status=active"
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        found[:] = here.client.call("GET", "image", path)["images"]
        return bool(found)

    asyncio.run(until(f"image {name} is active", is_there, BOOT_S))
    return found[0]


def beside(here: World, name: str, image: dict[str, Any]) -> str:
    """The address of one more server: in the first one's network, behind its rules, with its key."""
    first = here.server()
    (network,) = first["addresses"]
    networks = here.client.call("GET", "network", f"/v2.0/networks?name={network}")["networks"]
    body = {
        "name": name,
        "imageRef": image["id"],
        "flavorRef": here.client.call("GET", "compute", "/flavors?minDisk=1")["flavors"][0]["id"],
        "networks": [{"uuid": networks[0]["id"]}],
        "key_name": first["key_name"],
        "security_groups": [{"name": group["name"]} for group in first["security_groups"][:1]],
    }
    made = here.client.call("POST", "compute", "/servers", {"server": body})["server"]
    shown: dict[str, Any] = {}

    def is_up() -> bool:
        shown.update(here.client.call("GET", "compute", f"/servers/{made['id']}")["server"])
        assert shown["status"] != "ERROR", shown["fault"]
        return bool(shown["status"] == "ACTIVE")

    asyncio.run(until(f"{name} is ACTIVE", is_up, BOOT_S))
    return str(shown["addresses"][network][0]["addr"])


def test_containers_live_through_whatever_happens_to_their_cloud(tmp_path: Path) -> None:
    with world(tmp_path / "state", "container") as here:
        assert here.log_in() == "first"
        here.is_swept()
        before = processes(here.scope)
        assert here.cloud.stop() == 0
        assert here.log_in() == "first", "nobody needs the cloud to reach it"
        here.up()
        here.cloud.kill()
        here.up()
        here.is_swept()
        assert processes(here.scope) == before

        copied_while_it_runs(here)
        asked_for_what_it_cannot_do(here)
        held_stopped_and_started(here)
        os.kill(processes(here.scope)[here.id], signal.SIGKILL)
        here.is_("SHUTOFF")
        here.is_swept()


def copied_while_it_runs(here: World) -> None:
    """Another server, made of the copy, is beside it and has what it wrote."""
    here.log_in("'echo mine > /home/cirros/mine; sync'")
    here.call_action({"createImage": {"name": "copied"}})
    copied = image_named(here, "copied")
    assert (copied["disk_format"], copied["container_format"]) == ("raw", "docker")
    address = beside(here, "second", copied)
    assert here.log_in(PING.format(address), user="root") == "2 packets received"
    output = here.call_action({"os-getConsoleOutput": {}})["output"]
    assert "first login:" in output


def asked_for_what_it_cannot_do(here: World) -> None:
    """It says so, and goes on."""
    here.act("suspend")
    here.is_("ACTIVE")
    actions = here.client.call("GET", "compute", f"/servers/{here.id}/os-instance-actions")
    assert ("suspend", "Error") in {(a["action"], a["message"]) for a in actions["instanceActions"]}
    assert here.log_in() == "first"


def held_stopped_and_started(here: World) -> None:
    for action, status in (
        ("pause", "PAUSED"),
        ("unpause", "ACTIVE"),
        ("os-stop", "SHUTOFF"),
        ("os-start", "ACTIVE"),
    ):
        here.act(action)
        here.is_(status)
        here.is_swept()
    assert here.log_in("cat /home/cirros/mine") == "mine"


def test_a_virtual_machine_and_a_container_on_one_network_ping_each_other(tmp_path: Path) -> None:
    with world(tmp_path / "state", "qemu,container") as here:
        machine = next(a["addr"] for a in next(iter(here.server()["addresses"].values())))
        container = beside(here, "small", image_named(here, "pileus-test-root"))
        here.is_swept()
        assert len(processes(here.scope)) == 2
        assert here.log_in(PING.format(container)) == "2 packets received"
        port = here.client.call("GET", "network", f"/v2.0/ports?fixed_ips=ip_address={container}")
        public = here.client.call("GET", "network", "/v2.0/networks?router:external=True")
        wanted = {
            "floating_network_id": public["networks"][0]["id"],
            "port_id": port["ports"][0]["id"],
        }
        path = "/v2.0/floatingips"
        made = here.client.call("POST", "network", path, {"floatingip": wanted})["floatingip"]
        address = str(made["floating_ip_address"])
        assert here.log_in(at=address) == "small"
        seen = here.log_in(PING.format(machine), at=address, user="root")
        assert seen == "2 packets received"

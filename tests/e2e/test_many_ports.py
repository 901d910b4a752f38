"""A host with thousands of ports: what it should be is far larger than a message on the bus may be."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from pileus.cli.client import Client
from pileus.testing.roles import two_roles
from tests.e2e.shell import until

PORTS = 2000
AT_ONCE = 250


@pytest.mark.slow
def test_a_host_of_two_thousand_ports_is_wired_over_the_bus(tmp_path: Path) -> None:
    options = ["--driver", "fake", "--hosts", "1"]
    room = ["--set", "compute.cpu_ratio=100"]
    with two_roles(tmp_path, options, control_options=room) as roles:
        roles.cloud.wait_for_image()
        client = roles.cloud.client()
        body = prepare(client)
        begun = time.monotonic()
        for _ in range(PORTS // AT_ONCE):
            client.call("POST", "compute", "/servers", {"server": body})
        asyncio.run(until("every port works", lambda: len(ports(client, "ACTIVE")) == PORTS, 400))
        print(f"{PORTS} servers in {time.monotonic() - begun:.1f} s")
        asyncio.run(until("every server runs", lambda: servers(client) <= {"ACTIVE", "ERROR"}, 60))
        assert servers(client) == {"ACTIVE"}
        roles.host.kill()
        roles.host.start()
        assert len(ports(client, "ACTIVE")) == PORTS


def prepare(client: Client) -> dict[str, object]:
    """Room for them all, and what each create asks for."""
    quota = {"instances": -1, "cores": -1, "ram": -1}
    client.call("PUT", "compute", f"/os-quota-sets/{client.project_id}", {"quota_set": quota})
    path = f"/v2.0/quotas/{client.project_id}"
    client.call("PUT", "network", path, {"quota": {"port": -1}})
    network = client.call("POST", "network", "/v2.0/networks", {"network": {"name": "many"}})
    id = network["network"]["id"]
    subnet = {"network_id": id, "ip_version": 4, "cidr": "10.99.0.0/16"}
    client.call("POST", "network", "/v2.0/subnets", {"subnet": subnet})
    image = client.call("GET", "image", "/v2/images?status=active")["images"][0]["id"]
    small = {"name": "small", "vcpus": 1, "ram": 1, "disk": 0}
    flavor = client.call("POST", "compute", "/flavors", {"flavor": small})["flavor"]["id"]
    return {
        "name": "many",
        "imageRef": image,
        "flavorRef": flavor,
        "networks": [{"uuid": id}],
        "min_count": AT_ONCE,
        "max_count": AT_ONCE,
    }


def ports(client: Client, status: str) -> list[str]:
    found = client.call("GET", "network", f"/v2.0/ports?fields=id&status={status}")["ports"]
    return [p["id"] for p in found]


def servers(client: Client) -> set[str]:
    """The states they are in."""
    found: set[str] = set()
    marker = ""
    while True:
        path = f"/servers/detail?limit=1000{marker}"
        rows = client.call("GET", "compute", path)["servers"]
        if not rows:
            return found
        found |= {row["status"] for row in rows}
        marker = f"&marker={rows[-1]['id']}"

"""An image that is not what it says, or that reaches for other files, never becomes a guest."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

from pileus.cli.client import Client
from pileus.node.first_image import blank_qcow2
from pileus.testing.places import Place
from pileus.testing.running import RunningCloud
from tests.e2e.shell import until
from tests.e2e.sweep import Scope, sweep


def naming(path: bytes) -> bytes:
    """A qcow2 with a backing file."""
    image = bytearray(blank_qcow2())
    struct.pack_into(">QI", image, 8, 4096, len(path))
    image[4096 : 4096 + len(path)] = path
    return bytes(image)


BAD = {
    "a backing file": ("qcow2", naming(b"/etc/shadow"), "it has a backing file"),
    "raw that is qcow2": ("raw", naming(b"/etc/shadow"), "said to be raw and is qcow2"),
    "qcow2 that is raw": ("qcow2", bytes(1 << 16), "said to be qcow2 and is raw"),
}


def test_a_bad_image_gives_a_server_in_error_that_says_why_and_leaves_nothing(
    cloud: RunningCloud, outside: Place | None
) -> None:
    client = cloud.client()
    for name, (form, data, reason) in BAD.items():
        image = upload(client, name, form, data)
        server = boot(client, image)
        assert (server["status"], server["OS-EXT-SRV-ATTR:host"]) == ("ERROR", None), name
        assert reason in server["fault"]["message"], name
        assert server["fault"]["code"] == 400, name
    assert [p for p in ports(client) if p["device_owner"].startswith("compute:")] == []
    if outside:
        assert sweep(Scope(cloud.state, outside.prefix, outside.name), cloud.environment()) == []
        images = cloud.state.glob("hosts/*/compute/images/*")
        assert list(images) == [], "what may not be used is not kept"


def upload(client: Client, name: str, form: str, data: bytes) -> str:
    body = {"name": name, "disk_format": form, "container_format": "bare"}
    image = str(client.call("POST", "image", "/v2/images", body)["id"])
    url = f"{client.catalog['image']}/v2/images/{image}/file"
    client.send("PUT", url, data, {"Content-Type": "application/octet-stream"})
    return image


def ports(client: Client) -> list[dict[str, Any]]:
    return list(client.call("GET", "network", "/v2.0/ports")["ports"])


def boot(client: Client, image: str) -> dict[str, Any]:
    """A server of that image on a network, when it is no longer being built."""
    if not client.call("GET", "network", "/v2.0/networks?name=bad")["networks"]:
        made = client.call("POST", "network", "/v2.0/networks", {"network": {"name": "bad"}})
        subnet = {"network_id": made["network"]["id"], "ip_version": 4, "cidr": "10.66.0.0/24"}
        client.call("POST", "network", "/v2.0/subnets", {"subnet": subnet})
    network = client.call("GET", "network", "/v2.0/networks?name=bad")["networks"][0]["id"]
    wanted = {
        "name": "bad",
        "imageRef": image,
        "flavorRef": "1",  # m1.tiny
        "networks": [{"uuid": network}],
    }
    id = client.call("POST", "compute", "/servers", {"server": wanted})["server"]["id"]
    server: dict[str, Any] = {}

    def built() -> bool:
        server.update(client.call("GET", "compute", f"/servers/{id}")["server"])
        return bool(server["status"] != "BUILD")

    asyncio.run(until("the server is built or not", built, 60))
    return server

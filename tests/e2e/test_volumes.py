"""Real guests that start from a volume: what one of them wrote is what the next one finds."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.guests import BOOT_S, World, world
from tests.e2e.shell import until

_TRIES = 3

pytestmark = pytest.mark.e2e


def boot(here: World, name: str, disk: dict[str, Any]) -> str:
    """A server beside the first, on that root volume; the first one's floating IP leads to it."""
    first, call = here.server(), here.client.call
    port = call("GET", "network", f"/v2.0/ports?device_id={here.id}")["ports"][0]
    root = {"boot_index": 0, "destination_type": "volume", "delete_on_termination": False}
    body = {
        "name": name,
        "flavorRef": first["flavor"]["id"],
        "key_name": first["key_name"],
        "networks": [{"uuid": port["network_id"]}],
        "security_groups": first["security_groups"],
        "block_device_mapping_v2": [root | disk],
    }
    id = str(call("POST", "compute", "/servers", {"server": body})["server"]["id"])

    def runs() -> bool:
        server = call("GET", "compute", f"/servers/{id}")["server"]
        assert server["status"] != "ERROR", server["fault"]
        return bool(server["status"] == "ACTIVE")

    asyncio.run(until(f"server {name} runs", runs, BOOT_S))
    (own,) = call("GET", "network", f"/v2.0/ports?device_id={id}")["ports"]
    (address,) = call("GET", "network", "/v2.0/floatingips")["floatingips"]
    body = {"floatingip": {"port_id": own["id"]}}
    call("PUT", "network", f"/v2.0/floatingips/{address['id']}", body)
    said = [here.log_in() for _ in range(_TRIES)]  # the first ones may still lead to the other
    assert said[-1] == name, said
    return id


def gone(here: World, id: str, volume: str) -> None:
    """The server is deleted and its volume stays."""

    def is_free() -> bool:
        shown = here.client.call("GET", "block-storage", f"/volumes/{volume}")["volume"]
        return bool(shown["status"] == "available")

    here.client.call("DELETE", "compute", f"/servers/{id}")
    asyncio.run(until(f"volume {volume} is free", is_free, BOOT_S))


def test_what_a_guest_wrote_on_its_root_volume_is_what_the_next_one_finds(tmp_path: Path) -> None:
    with world(tmp_path / "state") as here:
        image = here.server()["image"]["id"]
        writer = boot(here, "writer", {"source_type": "image", "uuid": image, "volume_size": 1})
        here.log_in("'echo I was here > kept && sync'")
        (volume,) = here.client.call("GET", "block-storage", "/volumes")["volumes"]
        gone(here, writer, volume["id"])
        reader = boot(here, "reader", {"source_type": "volume", "uuid": volume["id"]})
        assert here.log_in("cat kept") == "I was here"
        here.is_swept()
        gone(here, reader, volume["id"])
        here.client.call("DELETE", "block-storage", f"/volumes/{volume['id']}")

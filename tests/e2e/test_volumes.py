"""Real guests that start from a volume: what one of them wrote is what the next one finds."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pileus.kernel.world import Clock
from tests.e2e.guests import BOOT_S, World, world
from tests.e2e.shell import until
from tests.e2e.test_attaching import Disk

_MOMENTS, _BETWEEN = 3, 25  # snapshots, and records between two of them
# Each record is a file of its own, so that the journal has much to say; it is answered for when `fsync` was.
_WRITE = """n=0; until [ -e /tmp/stop ]; do n=$((n + 1))
    echo $n | dd of=/mnt/$n conv=fsync && echo $n > /tmp/answered.part &&
    mv /tmp/answered.part /tmp/answered || exit; done"""

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
    end = Clock().monotonic() + BOOT_S
    while (said := here.log_in()) != name:  # its host hears of it after we do
        assert Clock().monotonic() < end, f"{address} still leads to {said}"
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


class Written(Disk):
    """A volume with a file system that its guest writes to without an end."""

    def __init__(self, here: World) -> None:
        super().__init__(here)
        self.attach()
        self.ask("mkfs.ext4 -q /dev/$DISK && mount /dev/$DISK /mnt")
        self.ask(f"({_WRITE}) > /dev/null 2>&1 < /dev/null &")

    @property
    def answered(self) -> int:
        return int(self.ask("cat /tmp/answered || echo 0"))

    def goes_on(self) -> int:
        """How many records it has when it has some more."""
        first, end = self.answered, Clock().monotonic() + BOOT_S
        while (now := self.answered) < first + _BETWEEN:
            assert Clock().monotonic() < end, f"the guest wrote {now - first} records"
        return now

    def kept(self) -> str:
        """A new volume of it as it is now."""
        call, body = self.here.client.call, {"volume_id": self.id, "force": True}
        made = call("POST", "block-storage", "/snapshots", {"snapshot": body})["snapshot"]["id"]
        becomes(self.here, f"/snapshots/{made}", "available")
        body = {"snapshot_id": made, "size": 1}
        copy = call("POST", "block-storage", "/volumes", {"volume": body})["volume"]["id"]
        becomes(self.here, f"/volumes/{copy}", "available")
        call("DELETE", "block-storage", f"/snapshots/{made}")
        return str(copy)


def becomes(here: World, path: str, status: str) -> None:
    def is_so() -> bool:
        (shown,) = here.client.call("GET", "block-storage", path).values()
        assert not shown["status"].startswith("error"), shown
        return bool(shown["status"] == status)

    asyncio.run(until(f"{path} is {status}", is_so, BOOT_S))


def read_to(here: World, volume: str, path: Path) -> None:
    """What a guest of its host would see of it."""
    url, version = here.client.catalog["block-storage"], {"OpenStack-API-Version": "volume 3.71"}
    host = here.client.call("GET", "block-storage", f"/volumes/{volume}")["volume"]
    connector = {"host": host["os-vol-host-attr:host"].partition("@")[0]}
    body = {"attachment": {"volume_uuid": volume, "connector": connector}}
    made = here.client.send("POST", f"{url}/attachments", body, version).json["attachment"]
    place = made["connection_info"]
    served = f"nbd:unix:{place['path']}:exportname={place['name']}"
    subprocess.run(["qemu-img", "convert", "-fraw", "-Oraw", served, str(path)], check=True)
    here.client.send("DELETE", f"{url}/attachments/{made['id']}", None, version)


def said(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def test_a_snapshot_under_writes_checks_clean_and_has_every_record_answered_for(
    tmp_path: Path,
) -> None:
    """As after a power cut: the journal is replayed, and then there is nothing to mend."""
    with world(tmp_path / "state") as here:
        disk = Written(here)
        copies = [(disk.goes_on(), disk.kept()) for _ in range(_MOMENTS)]
        disk.goes_on()
        for before, copy in copies:
            file, tree = tmp_path / copy, tmp_path / f"{copy}.tree"
            read_to(here, copy, file)
            assert "needs_recovery" in said("dumpe2fs", "-h", str(file)), "it was being written"
            said("e2fsck", "-E", "journal_only", "-y", str(file))
            said("e2fsck", "-f", "-n", str(file))
            tree.mkdir()
            said("debugfs", "-R", f"rdump / {tree}", str(file))
            for n in range(1, before + 1):
                assert (tree / str(n)).read_text() == f"{n}\n", f"{n} of {before}"
            here.client.call("DELETE", "block-storage", f"/volumes/{copy}")
        disk.ask("touch /tmp/stop; until umount /mnt; do sleep 1; done")
        disk.detach()
        here.client.call("DELETE", "block-storage", f"/volumes/{disk.id}")

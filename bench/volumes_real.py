"""Real volumes, from their requests until they are there.

    python -m bench.volumes_real [--runs 5]

Needs root and `make setup`. A cloud with real guests and files is started in a network of its own. The image of 10 GiB
is on the host already, as after the first volume of it. A volume is attached to a guest that runs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import measure, page
from bench.containers import active, image_of, open_network
from pileus.cli import background
from pileus.cli.client import Client
from pileus.testing.places import place
from pileus.testing.running import running

LOOK_S = 0.002
PATIENCE_S = 300.0
BACKUP_MIB = 256


@dataclass
class Cloud:
    """Its client, a server that runs, and what volumes are made of."""

    client: Client
    server: str
    image: str  # of 10 GiB
    full: str  # as much as is backed up
    encrypted: str

    def settled(self, noun: str, id: str, *wanted: str) -> dict[str, Any]:
        """Raises SystemExit where it comes to nothing."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            kept: dict[str, Any] = self.client.call("GET", "block-storage", f"/{noun}s/{id}")[noun]
            if kept["status"] in wanted:
                return kept
            if kept["status"].startswith("error"):
                break
            time.sleep(LOOK_S)
        raise SystemExit(f"a {noun} is {kept['status']}, not {' or '.join(wanted)}")

    def make(self, size: int = 1, **how: object) -> str:
        wanted = {"volume": {"size": size, **how}}
        made = self.client.call("POST", "block-storage", "/volumes", wanted)["volume"]
        self.settled("volume", made["id"], "available")
        return str(made["id"])

    def created(self, size: int = 1, **how: object) -> Callable[[], float]:
        """A way to measure how many ms it takes until one is available."""

        def run() -> float:
            began = time.perf_counter()
            id = self.make(size, **how)
            took = time.perf_counter() - began
            self.client.call("DELETE", "block-storage", f"/volumes/{id}")
            return took * 1_000

        return run

    def attached(self) -> float:
        """Until it is in use, ms; it is detached again."""
        id, path = self.make(), f"/servers/{self.server}/os-volume_attachments"
        began = time.perf_counter()
        self.client.call("POST", "compute", path, {"volumeAttachment": {"volumeId": id}})
        self.settled("volume", id, "in-use")
        took = time.perf_counter() - began
        self.client.call("DELETE", "compute", f"{path}/{id}")
        self.settled("volume", id, "available")
        self.client.call("DELETE", "block-storage", f"/volumes/{id}")
        return took * 1_000

    def backed_up(self, volume: str) -> float:
        """MiB a second of what the volume holds."""
        began = time.perf_counter()
        wanted = {"backup": {"volume_id": volume}}
        made = self.client.call("POST", "block-storage", "/backups", wanted)["backup"]
        self.settled("backup", made["id"], "available")
        took = time.perf_counter() - began
        self.client.call("DELETE", "block-storage", f"/backups/{made['id']}")
        return BACKUP_MIB / took


def upload(client: Client, path: Path, disk_format: str) -> str:
    """The id of an image with that file's bytes."""
    wanted = {"name": path.name, "disk_format": disk_format, "container_format": "bare"}
    made = client.call("POST", "image", "/v2/images", wanted)
    url = client.catalog["image"].rstrip("/") + f"/v2/images/{made['id']}/file"
    client.send("PUT", url, path.read_bytes(), {"Content-Type": "application/octet-stream"})
    return str(made["id"])


def encrypted_type(client: Client) -> str:
    made = client.call("POST", "block-storage", "/types", {"volume_type": {"name": "luks"}})
    encryption = {
        "provider": "luks",
        "cipher": "aes-xts-plain64",
        "key_size": 256,
        "control_location": "front-end",
    }
    path = f"/types/{made['volume_type']['id']}/encryption"
    client.call("POST", "block-storage", path, {"encryption": encryption})
    return "luks"


def server(client: Client) -> str:
    flavor = client.call("GET", "compute", "/flavors/detail?minDisk=1")["flavors"][0]
    wanted = {
        "name": "bench",
        "imageRef": image_of(client, "bare"),
        "flavorRef": flavor["id"],
        "networks": [{"uuid": open_network(client)}],
    }
    made = client.call("POST", "compute", "/servers", {"server": wanted})["server"]
    return str(active(client, made["id"], PATIENCE_S)["id"])


@contextmanager
def cloud(folder: Path) -> Iterator[Cloud]:
    state, ten, full = folder / "state", folder / "ten", folder / "full"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(ten), "10G"], check=True)
    full.write_bytes(b"x" * (BACKUP_MIB << 20))
    try:
        with place() as here, running(state, "qemu", here.options, here.near) as up:
            client = up.client()
            ready = server(client)
            images = upload(client, ten, "qcow2"), upload(client, full, "raw")
            yield Cloud(client, ready, *images, encrypted_type(client))
    finally:
        background.kill_leftovers(state)


def rows(cloud: Cloud, runs: int) -> list[measure.Figure]:
    imaged = cloud.make(10, imageRef=cloud.image)  # the image comes to the host
    filled = cloud.make(imageRef=cloud.full)
    took = {
        "create": [cloud.created()() for _ in range(runs)],
        "clone": [cloud.created(10, imageRef=cloud.image)() for _ in range(runs)],
        "copy": [cloud.created(10, source_volid=imaged)() for _ in range(runs)],
        "luks": [cloud.created(volume_type=cloud.encrypted)() for _ in range(runs)],
        "attach": [cloud.attached() for _ in range(runs)],
        "backup": [cloud.backed_up(filled) for _ in range(runs)],
    }
    return [
        measure.Figure("create, 1 GiB: available", "ms", took["create"], 60),
        measure.Figure("create of an image of 10 GiB: available", "ms", took["clone"], 150),
        measure.Figure("create of a volume of 10 GiB: available", "ms", took["copy"], 150),
        measure.Figure("create, encrypted, 1 GiB: available", "ms", took["luks"]),
        measure.Figure("attach to a running server: in use", "ms", took["attach"], 600),
        measure.Figure(f"backup of {BACKUP_MIB} MiB written: available", "MiB/s", took["backup"]),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Real volumes.")
    parser.add_argument("--runs", type=int, default=5)
    runs, began = parser.parse_args().runs, measure.load()
    with tempfile.TemporaryDirectory() as folder, cloud(Path(folder)) as ready:
        found = rows(ready, runs)
    what = (
        "driver qemu, one process, SQLite with synchronous=FULL, volumes as files of the same disk"
    )
    text = [
        "## Real volumes\n",
        *page.circumstances(f"python -m bench.volumes_real --runs {runs}", what, began),
        "\n| figure | unit | min | median | max | runs | bar | |",
        "|---|---|--:|--:|--:|--:|--:|---|",
        *(figure.row() for figure in found),
    ]
    print("\n".join(text))
    page.write("real volumes", "\n".join(text))
    return int(any(figure.verdict == "MISSED" for figure in found))


if __name__ == "__main__":
    sys.exit(main())

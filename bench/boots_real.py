"""A real server from its request until its ssh greets, beside a QEMU started by hand from the same files.

    python -m bench.boots_real [--runs 5]

Needs root and `make setup`. Both boot the test image on the same accelerator, by turns, each from a fresh layer over it.
The bare one gets its address from QEMU's own DHCP and its data from a drive; ours from the host's DHCP and metadata.
The image is on the host already, as after the first server of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import measure, page
from bench.containers import active, greets, image_of, open_network
from pileus.cli import background
from pileus.cli.client import Client
from pileus.host import caches
from pileus.host.netns import Namespaces
from pileus.testing.places import Place, place
from pileus.testing.ports import free_port
from pileus.testing.running import RunningCloud, running

BAR = 1.3
PATIENCE_S = 300.0  # where the processor is emulated, and others use it
ACCELERATION = {"kvm": ["kvm", "host"], "tcg": ["tcg,thread=multi,tb-size=64", "max"]}


@dataclass
class Bare:
    """QEMU by hand: the fewest words that start this image."""

    folder: Path
    image: Path
    accelerator: str
    flavor: dict[str, Any]

    def __post_init__(self) -> None:
        self._drive = self.folder / "config.iso"
        tree = self.folder / "drive" / "openstack" / "latest"
        tree.mkdir(parents=True)
        data = {"uuid": "b00t", "hostname": "bare", "public_keys": {}}
        (tree / "meta_data.json").write_text(json.dumps(data))
        words = ["genisoimage", "-quiet", "-J", "-r", "-V", "config-2", "-o", str(self._drive)]
        subprocess.run([*words, str(self.folder / "drive")], check=True)

    def boot(self) -> float:
        """Seconds until it greets."""
        layer = self.folder / "layer.qcow2"
        words = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(self.image)]
        subprocess.run([*words, str(layer), f"{self.flavor['disk']}G"], check=True)
        port = free_port()
        began = time.monotonic()
        process = subprocess.Popen(self._command(layer, port), stdin=subprocess.DEVNULL)
        try:
            greets("127.0.0.1", port, PATIENCE_S)
            return time.monotonic() - began
        finally:
            process.kill()
            process.wait()

    def _command(self, layer: Path, port: int) -> list[str]:
        accelerator, processor = ACCELERATION[self.accelerator]
        return [
            "qemu-system-x86_64",
            *("-nodefaults", "-no-user-config", "-display", "none"),
            *("-machine", "q35,usb=off,hpet=off", "-accel", accelerator, "-cpu", processor),
            *("-smp", str(self.flavor["vcpus"]), "-m", str(self.flavor["ram"])),
            *("-serial", f"file:{self.folder / 'console.log'}"),
            *("-object", "rng-random,id=rng0", "-device", "virtio-rng-pci,rng=rng0"),
            *("-drive", f"file={layer},format=qcow2,if=virtio"),
            *("-drive", f"file={self._drive},format=raw,if=virtio,read-only=on"),
            *("-netdev", f"user,id=net0,hostfwd=tcp:127.0.0.1:{port}-:22"),
            *("-device", "virtio-net-pci,netdev=net0,romfile="),
        ]


@dataclass
class Ours:
    """A server on a network that lets everything in."""

    client: Client
    here: Place
    wanted: dict[str, Any]

    def boot(self) -> tuple[float, float]:
        """Seconds until it is ACTIVE, and until it greets."""
        began = time.monotonic()
        made = self.client.call("POST", "compute", "/servers", {"server": self.wanted})["server"]
        shown = active(self.client, made["id"], PATIENCE_S)
        is_active = time.monotonic()
        address = shown["addresses"]["bench"][0]["addr"]
        space = f"{self.here.prefix}-net-{self.wanted['networks'][0]['uuid']}"
        look = partial(greets, address, 22, PATIENCE_S)
        asyncio.run(Namespaces().call(space, look))
        ended = time.monotonic()
        self.client.call("DELETE", "compute", f"/servers/{made['id']}")
        time.sleep(1)
        return is_active - began, ended - began


@contextmanager
def both(folder: Path) -> Iterator[tuple[Bare, Ours]]:
    """In a cloud that has booted one already."""
    state = folder / "state"
    try:
        with place() as here, running(state, "qemu", here.options, here.near) as cloud:
            client = cloud.client()
            flavor = client.call("GET", "compute", "/flavors/detail?minDisk=1")["flavors"][0]
            wanted = {
                "name": "bench",
                "imageRef": image_of(client, "bare"),
                "flavorRef": flavor["id"],
                "networks": [{"uuid": open_network(client)}],
            }
            ours = Ours(client, here, wanted)
            ours.boot()
            yield Bare(folder / "bare", caches.testimage(), accelerator_of(cloud), flavor), ours
    finally:
        background.kill_leftovers(state)


def accelerator_of(cloud: RunningCloud) -> str:
    """What the host found out by a trial."""
    (note,) = cloud.state.glob("hosts/*/compute/accelerator.json")
    return str(json.loads(note.read_text())["accelerator"])


def main() -> int:
    parser = argparse.ArgumentParser(description="Real boots, beside QEMU by hand.")
    parser.add_argument("--runs", type=int, default=5)
    runs, began = parser.parse_args().runs, measure.load()
    bare_s, active_s, ours_s = [], [], []
    with tempfile.TemporaryDirectory() as folder, both(Path(folder)) as (bare, ours):
        for _ in range(runs):
            bare_s.append(bare.boot())
            is_active, greeted = ours.boot()
            active_s.append(is_active)
            ours_s.append(greeted)
    ratio = statistics.median(ours_s) / statistics.median(bare_s)
    command = f"python -m bench.boots_real --runs {runs}"
    what = (
        f"driver qemu, accelerator {bare.accelerator}, one process; flavor {bare.flavor['name']}; by "
        "turns, each from a fresh layer over the image, which is on the host. Bare: QEMU's own DHCP and "
        "a config drive, from its start; Pileus: its DHCP and metadata, from POST /servers"
    )
    rows = [
        measure.Figure("bare QEMU: ssh greets", "s", bare_s),
        measure.Figure("Pileus: ACTIVE", "s", active_s),
        measure.Figure("Pileus: ssh greets", "s", ours_s, BAR * statistics.median(bare_s)),
    ]
    text = [
        "## A real boot beside bare QEMU\n",
        *page.circumstances(command, what, began),
        "\n| figure | unit | min | median | max | runs | bar | |",
        "|---|---|--:|--:|--:|--:|--:|---|",
        *(row.row() for row in rows),
        f"\nRatio of the medians: {ratio:.2f}; the bar is {BAR}.",
    ]
    print("\n".join(text))
    page.write("real boot", "\n".join(text))
    return 0 if ratio <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())

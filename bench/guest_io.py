"""What a guest gets from its volumes, beside a local disk of its own, in turn in one run.

    python -m bench.guest_io [--runs 5]

Needs root and `make setup`. The guest's own `dd` writes and reads past its page cache, one request at a time, or sixteen
of them do. The local disk is its ephemeral one, a raw file; `blank` is a new volume, `copy` one made of an image, and
what is measured of either has been written before, as on a disk in use.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import measure, page
from pileus.host import caches, qemu
from pileus.host.storage_daemon import running_below
from pileus.kernel.world import World
from pileus.services.block_storage.driver import ImageBytes
from pileus.services.block_storage.drivers.file import FileVolumeDriver
from pileus.services.compute.driver import GuestSpec, ImageSource, PluggedVolume
from pileus.services.compute.drivers.qemu import QemuComputeDriver
from pileus.testing.shelf import shelf
from pileus.testing.volume_store import Store

BAR = 0.8  # of the local disk's speed
BOOT_S = 180
AREA_MIB = 256
# What is asked of each disk: name, size of a request in KiB, of all in MiB, is it a write, how many at a time.
CASES = (
    ("write 4k", 4, 16, True, 1),
    ("read 4k", 4, 16, False, 1),
    ("write 256k", 256, AREA_MIB, True, 1),
    ("read 256k", 256, AREA_MIB, False, 1),
    ("write 4k by sixteen", 4, 64, True, 16),
    ("read 4k by sixteen", 4, 64, False, 16),
)
DISKS = {"local": "vdb", "blank": "vdc", "copy": "vdd"}


@dataclass
class Console:
    """A shell at the guest's serial line."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def login(cls, path: Path) -> Console:
        plug = socket.socket(socket.AF_UNIX)
        with qemu.reachable(path.parent) as folder:
            plug.connect(f"{folder}/{path.name}")
        console = cls(*await asyncio.open_unix_connection(sock=plug))
        for line, answer in (("", "login:"), ("cirros", "Password: "), ("gocubsgo", r"\$ ")):
            await console._ask(line, answer)
        await console._ask("stty -echo; sudo -s; PS1=", "#|$")
        return console

    async def _ask(self, line: str, answer: str) -> str:
        """What came until `answer`."""
        self.writer.write(line.encode() + b"\n")
        seen = ""
        while not re.search(answer, seen):
            more = await asyncio.wait_for(self.reader.read(4096), BOOT_S)
            seen += more.decode(errors="replace")
        return seen

    async def seconds(self, command: str) -> float:
        """How long it took, by the clock of the host."""
        await self._ask("echo rea''dy", "ready")
        began = time.perf_counter()
        said = await self._ask(f"{{ {command}; }} 2>&1; echo en''d", "end")
        took = time.perf_counter() - began
        if "failed" in said:
            raise SystemExit(f"{command} said: {said}")
        return took


@dataclass
class Inside:
    """A guest with a disk and volumes, and what was measured in it."""

    console: Console
    took: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    async def prepare(self) -> None:
        for disk in DISKS.values():
            await self.console.seconds(_dd(disk, 1024, AREA_MIB, True, 1))

    async def measure(self) -> None:
        for name, kib, mib, is_write, depth in CASES:
            for label, disk in DISKS.items():
                command = _dd(disk, kib, mib, is_write, depth)
                took = await self.console.seconds(command)
                self.took.setdefault((name, label), []).append(took * 1e6 / (mib * 1024 / kib))


def _dd(disk: str, kib: int, mib: int, is_write: bool, depth: int) -> str:
    """Each of `depth` has a stretch of the disk of its own."""
    count = mib * 1024 // kib // depth
    ends = f"if=/dev/zero of=/dev/{disk} oflag=direct seek"
    if not is_write:
        ends = f"if=/dev/{disk} of=/dev/null iflag=direct skip"
    one = f"dd {ends}=$((n * {count})) bs={kib}k count={count} || echo fai''led"
    return f"for n in $(seq 0 {depth - 1}); do {{ {one}; }} & done; wait"


@asynccontextmanager
async def guest(folder: Path, image_url: str) -> AsyncIterator[Inside]:
    store, compute = Store(folder / "store"), QemuComputeDriver(folder / "compute")
    volumes = store.driver()
    await volumes.start_up()
    await compute.start_up()
    try:
        plugged = await _volumes(store, volumes, image_url)
        image = ImageSource(id="good", url=image_url, disk_format="qcow2")
        spec = GuestSpec(
            id=World().new_id(),
            name="bench",
            project_id="p",
            vcpus=1,
            ram_mib=192,
            ephemeral_gib=1,
            image=image,
        )
        seen = await compute.spawn(spec)
        inside = Inside(await Console.login(Path(seen.serial_socket)))
        for volume in plugged:
            await compute.plug_volume(spec.id, volume)
            await asyncio.sleep(2)
        yield inside
        await compute.destroy(spec.id)
    finally:
        await compute.close()
        await volumes.close()
        for pid in (
            *running_below(store.state).values(),
            *qemu.running_in(folder / "compute" / "guests").values(),
        ):
            os.kill(pid, 9)
        shutil.rmtree(caches.sockets(store.state / "volumes"))


async def _volumes(
    store: Store, driver: FileVolumeDriver, image_url: str
) -> tuple[PluggedVolume, ...]:
    image = ImageBytes(id="good", url=image_url, disk_format="qcow2")
    return await store.make(driver), await store.make(driver, source=image)


async def measured(runs: int, folder: Path) -> Inside:
    with shelf() as shop:
        url = shop.offer(await asyncio.to_thread(caches.testimage().read_bytes))
        async with guest(folder, url) as inside:
            await inside.prepare()
            for _ in range(runs):
                await inside.measure()
            return inside


def figures(inside: Inside) -> list[measure.Figure]:
    found = []
    for case, *_ in CASES:
        for label in DISKS:
            bar = None if label == "local" else statistics.median(inside.took[case, "local"]) / BAR
            found.append(measure.Figure(f"{case}, {label}", "us", inside.took[case, label], bar))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Volumes and a local disk, seen by a guest.")
    parser.add_argument("--runs", type=int, default=5)
    runs, began = parser.parse_args().runs, measure.load()
    with tempfile.TemporaryDirectory(prefix="pileus-io-") as folder:
        Path(folder).chmod(0o711)
        found = figures(asyncio.run(measured(runs, Path(folder))))
    what = (
        "past the guest's page cache, the time of one request; local: a raw file of the guest's own, "
        "blank: a new volume, copy: a volume of an image. All are written before"
    )
    text = [
        "## Volumes beside a local disk, seen by a guest\n",
        *page.circumstances(f"python -m bench.guest_io --runs {runs}", what, began),
        f"\nThe bar is {BAR:.0%} of the local disk's speed.\n",
        "| figure | unit | min | median | max | runs | bar | |",
        "|---|---|--:|--:|--:|--:|--:|---|",
        *(figure.row() for figure in found),
    ]
    print("\n".join(text))
    page.write("guest io", "\n".join(text))
    return int(any(figure.verdict == "MISSED" for figure in found))


if __name__ == "__main__":
    sys.exit(main())

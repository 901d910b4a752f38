"""A volume of a real guest: it comes, is written, grows, goes along to another host and back, and goes while the guest runs."""

from __future__ import annotations

import asyncio
import shlex
import statistics
from pathlib import Path
from typing import Any

import pytest

from pileus.kernel.world import Clock
from tests.e2e.guests import World
from tests.e2e.shell import until
from tests.e2e.test_moves import LIVE, MOVE_S, pair

pytestmark = pytest.mark.e2e
FILE = "/mnt/kept"
_ATTACHES, _BAR_S = 5, 0.6  # on a quiet machine; a busy one may take as long again as it is busy


class Disk:
    """A volume, and what the guest makes of it."""

    def __init__(self, here: World, size: int = 1) -> None:
        self.here = here
        made = here.client.call("POST", "block-storage", "/volumes", {"volume": {"size": size}})
        self.id = str(made["volume"]["id"])
        self.becomes("available")

    @property
    def shown(self) -> Any:
        return self.here.client.call("GET", "block-storage", f"/volumes/{self.id}")["volume"]

    def becomes(self, status: str) -> None:
        asyncio.run(until(f"{self.id} is {status}", lambda: self.shown["status"] == status, MOVE_S))

    def attach(self) -> float:
        """For how long it took until its host had it, in seconds."""
        clock, path = Clock(), f"/servers/{self.here.id}/os-volume_attachments"
        began = clock.monotonic()
        body = {"volumeAttachment": {"volumeId": self.id}}
        self.here.client.call("POST", "compute", path, body)
        while self.shown["status"] != "in-use":
            assert clock.monotonic() < began + MOVE_S
        return clock.monotonic() - began

    def detach(self) -> None:
        path = f"/servers/{self.here.id}/os-volume_attachments/{self.id}"
        self.here.client.call("DELETE", "compute", path)
        self.becomes("available")

    def extend(self, size: int) -> None:
        body = {"os-extend": {"new_size": size}}
        client = self.here.client
        url = client.catalog["block-storage"].rstrip("/") + f"/volumes/{self.id}/action"
        client.send("POST", url, body, {"OpenStack-API-Version": "volume 3.42"})

    def ask(self, command: str) -> str:
        """What the guest answers; DISK is the disk that has our serial number."""
        find = f"grep -l {self.id[:20]} /sys/block/*/serial | cut -d/ -f4"
        script = f"DISK=$({find}); {command}"
        return self.here.log_in(shlex.quote(f"sudo sh -c {shlex.quote(script)}"))

    @property
    def gib(self) -> int:
        """As large as the guest sees it; 0 where it sees none."""
        return int(self.ask('cat "/sys/block/$DISK/size" || echo 0').split()[-1]) >> 21

    def is_seen_with(self, gib: int) -> None:
        end = Clock().monotonic() + MOVE_S
        while self.gib != gib:
            assert Clock().monotonic() < end

    def holds(self, text: str) -> None:
        read = self.ask(f"mount /dev/$DISK /mnt && cat {FILE}; umount /mnt")
        assert read == text


def test_a_volume_is_a_guests_disk_wherever_the_guest_goes(tmp_path: Path) -> None:
    with pair(tmp_path) as both:
        both.here.log_in()
        disk = Disk(both.here)
        times = []
        for _ in range(_ATTACHES):
            times.append(disk.attach())
            assert disk.gib == 1
            disk.detach()
            assert disk.gib == 0
        print(f"attached in {min(times):.3f} {statistics.median(times):.3f} {max(times):.3f} s")
        assert min(times) < 2 * _BAR_S, times

        disk.attach()
        disk.ask(
            f"mkfs.ext4 -q /dev/$DISK && mount /dev/$DISK /mnt && echo one > {FILE}; umount /mnt"
        )
        disk.holds("one")
        disk.extend(2)
        disk.is_seen_with(2)
        disk.becomes("in-use")

        both.act(LIVE)
        both.settled("ACTIVE", on="two")
        both.alone(on="two")
        assert disk.gib == 2
        disk.ask(f"mount /dev/$DISK /mnt && echo two > {FILE}; umount /mnt")
        both.act({"migrate": None})
        both.settled("VERIFY_RESIZE", on="one")
        disk.holds("two")
        disk.ask(f"mount /dev/$DISK /mnt && echo three > {FILE}; umount /mnt")
        both.act({"revertResize": None})
        both.settled("ACTIVE", on="two")
        disk.holds("three")

        both.here.act("os-stop")
        both.here.is_("SHUTOFF")
        disk.extend(3)
        disk.becomes("in-use")
        both.here.act("os-start")
        both.here.is_("ACTIVE")
        assert disk.gib == 3
        disk.detach()
        assert disk.gib == 0
        both.here.client.call("DELETE", "block-storage", f"/volumes/{disk.id}")

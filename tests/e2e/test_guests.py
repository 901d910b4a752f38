"""What real guests live through: their cloud restarted or killed, their own death, the machine's reboot.

After each the outside sweep must find exactly what the API says.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pileus.testing.places import forget
from tests.e2e.guests import World, world
from tests.e2e.sweep import processes

pytestmark = pytest.mark.e2e
CRASHED = 6


def test_guests_live_through_whatever_happens_to_their_cloud(tmp_path: Path) -> None:
    with world(tmp_path / "state") as here:
        assert here.log_in() == "first"
        here.is_swept()
        booted = here.log_in("cat /proc/sys/kernel/random/boot_id")
        before = processes(here.scope)

        assert here.cloud.stop() == 0
        assert processes(here.scope) == before
        here.up()
        here.cloud.kill()
        here.up()
        here.is_swept()
        assert processes(here.scope) == before
        assert here.log_in("cat /proc/sys/kernel/random/boot_id") == booted

        dies_by_itself(here)
        machine_reboots(here)


def dies_by_itself(here: World) -> None:
    """Its QEMU is killed: the server is off, and can be started again."""
    os.kill(processes(here.scope)[here.id], signal.SIGKILL)
    here.is_("SHUTOFF")
    assert here.server()["OS-EXT-STS:power_state"] == CRASHED
    here.is_swept()
    here.act("os-start")
    here.is_("ACTIVE")
    here.log_in()
    here.is_swept()


def machine_reboots(here: World) -> None:
    """Nothing is left but files: servers are off until started, or resume if the operator said so."""
    power_cut(here)
    here.up()
    here.is_("SHUTOFF")
    here.is_swept()
    here.act("os-start")
    here.is_("ACTIVE")
    here.log_in()

    power_cut(here)
    here.up("--set", "compute.resume_guests=true")
    here.is_("ACTIVE")
    here.log_in()
    here.is_swept()


def power_cut(here: World) -> None:
    """The cloud, the guests, and everything that lived in the kernel."""
    here.cloud.kill()
    for pid in processes(here.scope).values():
        os.kill(pid, signal.SIGKILL)
    forget(here.outside)

"""A machine where something else has the outer network's address: `make up` says so before it waits for a server."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from pileus.cli import background, first_server
from pileus.kernel.world import Clock
from pileus.testing.places import need_root, place
from pileus.testing.ports import free_port
from tests.e2e.guests import launch

AT_ONCE_S = 30  # a few seconds, on a machine that does nothing else


@pytest.mark.e2e
def test_an_address_that_is_taken_is_told_at_once_with_the_device_that_has_it(
    tmp_path: Path,
) -> None:
    need_root()
    with place() as outside:
        for words in (
            ["link", "add", "left-over", "type", "bridge"],
            ["address", "add", "172.24.4.1/24", "dev", "left-over"],
        ):
            subprocess.run(outside.inside(["ip", *words]), check=True)
        cloud = launch(tmp_path, outside, free_port())
        try:
            clock = Clock()
            begun = clock.monotonic()
            boot = first_server.boot(cloud.client(), clock, tmp_path / "key", lambda step: None)
            with pytest.raises(first_server.Failed) as told:
                asyncio.run(boot)
            assert clock.monotonic() - begun < AT_ONCE_S
            for word in ("ip link delete left-over", "--underlay", "--set network.public_cidr"):
                assert word in told.value.message
        finally:
            asyncio.run(background.stop(tmp_path, clock))

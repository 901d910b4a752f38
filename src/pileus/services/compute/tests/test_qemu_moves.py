"""A busy guest between two QEMU hosts, hop by hop: it checks its own memory, and we look at how long it stands still."""

from __future__ import annotations

import asyncio
import re

import pytest

from pileus.services.compute.driver import RUNNING, ComputeDriver
from pileus.services.compute.tests import test_qemu_driver as real
from pileus.testing.drivers.compute import Bench, eventually, has_login_prompt
from pileus.testing.drivers.moves import sent, two_hosts

pytestmark = real.pytestmark
images, netns, store, volume, bench = (
    real.images,
    real.netns,
    real.store,
    real.volume,
    real.bench,
)

# Copies of one file in memory, each read back before the next: a page that is lost anywhere shows.
_WALK = (
    "mkdir /tmp/m; sudo mount -t tmpfs none /tmp/m; cd /tmp/m; sudo chmod 777 .",
    "dd if=/dev/urandom of=a bs=1M count=8; a=$(md5sum <a); a=${a%% *}",
    "n=0; while cat a >b; do b=$(md5sum <b); b=${b%% *}; [ x$a = x$b ] || echo T''ORN;"
    " n=$((n+1)); echo walk $n; done &",
)


async def _walks(driver: ComputeDriver, guest_id: str) -> int:
    """How often it has walked; its console says if a page was torn, or its kernel broken."""
    said = await driver.console_log(guest_id, None)
    assert not re.search("TORN|BUG:|Oops|panic|segfault", said), said[-2000:]
    return max((int(n) for n in re.findall(r"^walk (\d+)\s*$", said, re.M)), default=0)


@pytest.mark.parametrize("hops", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_a_busy_guest_loses_nothing_of_its_memory_on_its_way(bench: Bench, hops: int) -> None:
    async def story() -> None:
        async with two_hosts(bench) as hosts:
            spec = bench.spec()
            await hosts.here.spawn(spec)
            await has_login_prompt(bench, hosts.here, spec.id)
            await real.on_console(hosts.here, spec.id, *_WALK)

            async def walks() -> bool:
                return await _walks(hosts.here, spec.id) > 0

            stood_s = []
            for _ in range(hops):  # a console's log begins anew on each host
                await eventually(walks, "a walk", within_s=real.BOOT_S, world=bench.world)
                stood_s.append(await sent(hosts, spec))
                assert (await hosts.there.arrive(spec.id, True)).power_state == RUNNING
                await hosts.here.destroy(spec.id)
                hosts.here, hosts.there = hosts.there, hosts.here
            await eventually(walks, "a walk", within_s=real.BOOT_S, world=bench.world)
            print("stood still, ms:", *sorted(round(s * 1000) for s in stood_s))

    asyncio.run(story())

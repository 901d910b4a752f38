"""A busy guest between two QEMU hosts, hop by hop: it checks its own memory, and we look at how long it stands still."""

from __future__ import annotations

import asyncio
import re

import pytest

from pileus.services.compute.driver import RUNNING, ComputeDriver
from pileus.services.compute.tests import test_qemu_driver as real
from pileus.testing.drivers.compute import Bench, eventually, has_login_prompt
from pileus.testing.drivers.moves import sent, two_hosts
from pileus.testing.nbd import NbdClient
from pileus.testing.volume_store import Store

pytestmark = real.pytestmark
images, netns, store, volumes, bench = (
    real.images,
    real.netns,
    real.store,
    real.volumes,
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
            await hosts.here.suspend(spec.id)
            await hosts.here.resume(spec.id)
            walked = await _walks(hosts.here, spec.id)

            async def walks_on() -> bool:
                return await _walks(hosts.here, spec.id) > walked

            await eventually(walks_on, "a walk", within_s=real.BOOT_S, world=bench.world)
            print("stood still, ms:", *sorted(round(s * 1000) for s in stood_s))

    asyncio.run(story())


def test_a_running_guest_reads_and_writes_its_volume_at_both_ends_of_its_way(
    bench: Bench, store: Store
) -> None:
    """By a socket where it comes from, by the door for other hosts where it goes, as two attachments."""

    async def story() -> None:
        volumes, other = store.driver(), Store(store.state)
        await volumes.start_up()
        near = await store.make(volumes)
        far = await other.served(volumes, near.volume_id, True)
        write = (
            "echo {} | sudo dd of=/dev/vdb bs=512 seek={} conv=sync oflag=direct && echo di''d {}"
        )
        async with two_hosts(bench) as hosts:
            spec = bench.spec(volumes=(near,))
            await hosts.here.spawn(spec)
            await has_login_prompt(bench, hosts.here, spec.id)
            await real.on_console(hosts.here, spec.id, write.format("first", 0, 1), "exit")
            await real.shown(hosts.here, spec.id, "did 1")
            target = hosts.as_there(spec, volumes=(far,))
            there = await hosts.there.expect(target, await hosts.here.lend(spec.id))
            await hosts.here.send(spec.id, there)
            await hosts.there.destroy(spec.id)
            await hosts.here.stay(spec.id, True)
            await real.on_console(hosts.here, spec.id, write.format("stayed", 1, 2), "exit")
            await real.shown(hosts.here, spec.id, "did 2")
            there = await hosts.there.expect(target, await hosts.here.lend(spec.id))
            await hosts.here.send(spec.id, there)
            assert (await hosts.there.arrive(spec.id, True)).volumes == (near.volume_id,)
            await hosts.here.destroy(spec.id)
            await volumes.withdraw(near.volume_id, store.attachment)
            look = "sudo dd if=/dev/vdb bs=512 count=2 | tr -d '\\000'"
            await real.on_console(hosts.there, spec.id, look, write.format("went", 2, 3), "exit")
            await real.shown(hosts.there, spec.id, "stayed")
            await real.shown(hosts.there, spec.id, "did 3")
        here = await other.served(volumes, near.volume_id)
        with NbdClient(here.path, here.name) as client:
            told = await asyncio.to_thread(client.read, 0, 3 * 512)
        assert told.split(bytes(100))[0] == b"first\n", told
        assert b"stayed\n" in told and b"went\n" in told
        await volumes.withdraw(near.volume_id, other.attachment)
        await volumes.delete(near.volume_id)
        await volumes.close()

    asyncio.run(story())

"""A guest's volume that is copied to another while it writes, on real QEMUs: no word is lost, whenever we are killed."""

from __future__ import annotations

import asyncio
import re

import msgspec
import pytest

from pileus.services.compute.driver import ComputeDriver
from pileus.services.compute.tests import test_qemu_driver as real
from pileus.testing.drivers.compute import Bench, has_login_prompt
from pileus.testing.nbd import NbdClient
from pileus.testing.volume_store import Store

pytestmark = real.pytestmark
images, netns, store, bench = real.images, real.netns, real.store, real.bench
volumes = real.volumes

# Numbered sectors one after the other, each acknowledged before the next.
COUNT = (
    "sudo chmod 666 /dev/vdb",
    "(trap '' HUP; n=0; while [ ! -e /tmp/stop ]; do printf 'no %06d;' $n | dd of=/dev/vdb bs=512"
    " seek=$n conv=sync,notrunc oflag=direct && n=$((n+1)) && echo $n >/tmp/n; done 2>/dev/null) &",
)


async def _counted(driver: ComputeDriver, guest_id: str) -> int:
    """How many it was told are written, once it has stopped."""
    await real.on_console(
        driver, guest_id, "touch /tmp/stop; sleep 2; echo coun''ted-$(cat /tmp/n)-", "exit"
    )
    await real.shown(driver, guest_id, "counted-")
    said = await driver.console_log(guest_id, None)
    return max(int(n) for n in re.findall(r"counted-(\d+)-", said))


async def finds_what_it_wrote(driver: ComputeDriver, guest_id: str) -> None:
    """Every word on its disk is there."""
    written = await _counted(driver, guest_id)
    look = f"dd if=/dev/vdb bs=512 count={written} 2>/dev/null | tr -d '\\000' | md5sum"
    want = f"i=0; while [ $i -lt {written} ]; do printf 'no %06d;' $i; i=$((i+1)); done | md5sum"
    compare = f'[ "$({look})" = "$({want})" ] && echo al\'\'ike'
    await real.on_console(driver, guest_id, compare, "exit")
    await real.shown(driver, guest_id, "alike")
    assert written > 0


@pytest.mark.parametrize("kind", ["plain", "encrypted", "elsewhere"])
@pytest.mark.parametrize("dies", [False, True])
def test_a_guest_that_writes_all_the_time_finds_every_word_on_the_other_volume(
    kind: str, dies: bool, bench: Bench, store: Store
) -> None:
    async def story() -> None:
        driver, back_end, second = bench.make(), store.driver(), Store(store.state)
        await driver.start_up()
        await back_end.start_up()
        old = await store.make(back_end)
        changes = {"passphrase": "open sesame"} if kind == "encrypted" else {}
        new = await second.make(back_end, **changes)
        await back_end.extend(new.volume_id, 2)
        served = await second.served(back_end, new.volume_id, kind == "elsewhere")
        new = msgspec.structs.replace(served, passphrase=new.passphrase)
        spec = bench.spec()
        await driver.spawn(spec)
        await has_login_prompt(bench, driver, spec.id)
        await driver.plug_volume(spec.id, old)
        await real.on_console(driver, spec.id, *COUNT, "exit")
        if dies:
            swapping = asyncio.create_task(driver.swap_volume(spec.id, old.volume_id, new))
            await asyncio.sleep(0.2)
            swapping.cancel()
            await driver.close()
            driver = bench.make()
            await driver.start_up()
        await driver.swap_volume(spec.id, old.volume_id, new)
        await back_end.withdraw(old.volume_id, store.attachment)
        await real.on_console(driver, spec.id, "echo now $(cat /sys/block/vdb/size)", "exit")
        await real.shown(driver, spec.id, f"now {4 << 20}")
        await finds_what_it_wrote(driver, spec.id)
        await driver.destroy(spec.id)
        await driver.close()
        if kind == "plain":
            with NbdClient(new.path, new.name) as client:
                assert (await asyncio.to_thread(client.read, 0, 512)).startswith(b"no 000000;")
        await back_end.withdraw(new.volume_id, second.attachment)
        for volume in (old, new):
            await back_end.delete(volume.volume_id)
        await back_end.close()

    asyncio.run(story())

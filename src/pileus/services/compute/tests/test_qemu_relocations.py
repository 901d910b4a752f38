"""A guest's volume that block storage takes to another back end while it writes, on real QEMUs: no word is lost."""

from __future__ import annotations

import asyncio
import os
import shutil

import msgspec
import pytest

from pileus.host import caches
from pileus.kernel.world import World
from pileus.services.block_storage.driver import Limits, VolumeSpec
from pileus.services.block_storage.drivers.file import FileVolumeDriver
from pileus.services.compute.tests import test_qemu_driver as real
from pileus.services.compute.tests import test_qemu_swaps as swaps
from pileus.testing.drivers.compute import Bench, eventually
from pileus.testing.volume_store import Store

pytestmark = real.pytestmark
images, netns, store, volumes = real.images, real.netns, real.store, real.volumes
booted = swaps.booted


@pytest.mark.parametrize("kind", ["here", "encrypted", "elsewhere"])
def test_a_guest_that_writes_all_the_time_goes_over_to_where_its_volume_is_by_now(
    kind: str, booted: swaps.Booted, store: Store
) -> None:
    async def story(bench: Bench, guest: str) -> None:
        driver, back_end = bench.make(), store.driver()
        other = FileVolumeDriver(store.state / "other", "here", address="127.0.0.1")
        for one in (driver, back_end, other):
            await one.start_up()
        is_remote = kind == "elsewhere"
        old = await store.make(back_end, passphrase="open it" if kind == "encrypted" else "")
        if is_remote:
            served = await store.served(back_end, old.volume_id, True)
            old = msgspec.structs.replace(served, passphrase=old.passphrase)
        await driver.plug_volume(guest, old)
        await real.on_console(driver, guest, *swaps.COUNT, "exit")
        new = VolumeSpec(id=World().new_id(), size_gib=1, project_id="p", passphrase=old.passphrase)
        await other.create(new)
        heir = await other.export(new.id, store.attachment, False, Limits(), is_remote)
        await back_end.hand_over(
            old.volume_id, msgspec.structs.replace(heir, host="there" if is_remote else "here")
        )
        await back_end.delete(old.volume_id)
        assert old.volume_id in os.listdir(store.state / "volumes"), "its guest is still there"
        served = await store.served(other, new.id, is_remote)
        moved = msgspec.structs.replace(served, volume_id=old.volume_id, passphrase=old.passphrase)
        await driver.plug_volume(guest, moved)
        await eventually(
            lambda: _is_gone(store, old.volume_id), "the old one went", within_s=30, world=World()
        )
        await swaps.finds_what_it_wrote(driver, guest, new.id)
        await driver.unplug_volume(guest, old.volume_id)
        await driver.close()
        await other.withdraw(new.id, store.attachment)
        await other.delete(new.id)
        for one in (back_end, other):
            await one.close()
        shutil.rmtree(caches.sockets(store.state / "other" / "volumes"))

    asyncio.run(story(*booted))


async def _is_gone(store: Store, volume_id: str) -> bool:
    return volume_id not in os.listdir(store.state / "volumes")

"""Guests with images of Ceph's as volumes, on real QEMUs; needs `make setup-ceph`, and takes minutes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pileus.host.rbd import Place
from pileus.kernel.world import World
from pileus.services.block_storage.driver import Limits, VolumeSpec
from pileus.services.block_storage.drivers.rbd import RbdVolumeDriver
from pileus.services.compute.driver import ComputeDriver, PluggedVolume
from pileus.services.compute.tests import test_qemu_driver as real
from pileus.testing import ceph_server
from pileus.testing.drivers.compute import Bench, has_login_prompt

LACKS = ceph_server.lacks()

pytestmark = [*real.pytestmark, pytest.mark.slow, pytest.mark.skipif(bool(LACKS), reason=LACKS)]
images, netns, store = real.images, real.netns, real.store
volumes, bench = real.volumes, real.bench
SLOW = Limits(total_iops_sec=500)


async def _served(driver: RbdVolumeDriver, spec: VolumeSpec, attachment: str) -> PluggedVolume:
    export = await driver.export(spec.id, attachment, False, SLOW)
    return PluggedVolume(
        volume_id=spec.id,
        name=export.name,
        size=export.size,
        rbd=export.rbd,
        passphrase=spec.passphrase,
    )


def test_a_volume_of_ceph_is_written_by_one_guest_grows_there_and_is_read_by_another(
    bench: Bench, tmp_path: Path
) -> None:
    async def story(place: Place) -> None:
        world, guests = World(), bench.make()
        volumes = RbdVolumeDriver(tmp_path / "volumes", "here", place)
        await volumes.start_up()
        await guests.start_up()
        secrets = {"plain": "", "encrypted": "open sesame"}
        specs = [
            VolumeSpec(id=world.new_id(), size_gib=1, project_id="p", passphrase=secret)
            for secret in secrets.values()
        ]
        for spec in specs:
            await volumes.create(spec)
        for turn in ("first", "second"):
            guest = bench.spec()
            await guests.spawn(guest)
            await has_login_prompt(bench, guests, guest.id)
            for spec in specs:
                await guests.plug_volume(guest.id, await _served(volumes, spec, turn))
            if turn == "first":
                await _written_and_grown(guests, guest.id, volumes, specs)
            look = "echo 're'ad $(sudo head -c 12 /dev/vdb) $(sudo head -c 12 /dev/vdc) end"
            await real.on_console(guests, guest.id, look, "exit")
            await real.shown(guests, guest.id, "read it was vdb. it was vdc. end")
            for spec in specs:
                await guests.unplug_volume(guest.id, spec.id)
                await volumes.withdraw(spec.id, turn)
            await guests.destroy(guest.id)
        for spec in specs:
            await volumes.delete(spec.id)
        await guests.close()
        await volumes.close()

    with ceph_server.ceph() as conf:
        named = Place(pool=ceph_server.POOL, user=ceph_server.USER, conf=str(conf))
        asyncio.run(story(named))


async def _written_and_grown(
    guests: ComputeDriver, guest_id: str, volumes: RbdVolumeDriver, specs: list[VolumeSpec]
) -> None:
    write = "echo 'it was {0}.' | sudo dd of=/dev/{0} bs=512 conv=sync oflag=direct; echo 'di'd {0}"
    words = [write.format(disk) for disk in ("vdb", "vdc")]
    await real.on_console(guests, guest_id, *words, "exit")
    for disk in ("vdb", "vdc"):
        await real.shown(guests, guest_id, f"did {disk}")
    for spec in specs:
        await volumes.extend(spec.id, 2)
        await guests.plug_volume(guest_id, await _served(volumes, spec, "first"))
    look = "echo 'no'w $(cat /sys/block/vdb/size) $(cat /sys/block/vdc/size)"
    await real.on_console(guests, guest_id, look, "exit")
    await real.shown(guests, guest_id, f"now {4 << 20} {4 << 20}")

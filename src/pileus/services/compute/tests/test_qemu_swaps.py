"""Volumes of a real guest that writes to them: they are served anew, grow, and are copied to another meanwhile.

No word is lost, whenever we are killed.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator

import msgspec
import pytest

from pileus.host.storage_daemon import running_below
from pileus.kernel.world import World
from pileus.services.compute.driver import ComputeDriver, ImageSource, PluggedVolume
from pileus.services.compute.drivers.qemu import QemuComputeDriver
from pileus.services.compute.plugged_volume import Plugged
from pileus.services.compute.tests import test_qemu_driver as real
from pileus.testing.drivers.compute import Bench, eventually, has_login_prompt
from pileus.testing.nbd import NbdClient
from pileus.testing.volume_store import Store

pytestmark = real.pytestmark
images, netns, store, volumes = real.images, real.netns, real.store, real.volumes
bench = real.bench
Booted = tuple[Bench, str]

# Numbered sectors one after the other, each acknowledged before the next.
COUNT = (
    "rm -f /tmp/stop /tmp/n; sudo chmod 666 /dev/vdb",
    "(trap '' HUP; n=0; while [ ! -e /tmp/stop ]; do printf 'no %06d;' $n | dd of=/dev/vdb bs=512"
    " seek=$n conv=sync,notrunc oflag=direct && n=$((n+1)) && echo $n >/tmp/n; done 2>/dev/null) &",
)


@pytest.fixture(scope="module")
def booted(
    images: tuple[ImageSource, ImageSource],
    netns: str,
    volumes: Plugged,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Booted]:
    """The id of a guest that has booted, lent to one test after the other; its console keeps what was said in all."""
    with real.bench_in(tmp_path_factory.mktemp("booted"), images, netns, volumes) as bench:

        async def boot() -> str:
            driver, spec = bench.make(), bench.spec()
            await driver.start_up()
            await driver.spawn(spec)
            await has_login_prompt(bench, driver, spec.id)
            await driver.close()
            return spec.id

        yield bench, asyncio.run(boot())


async def says(driver: ComputeDriver, guest_id: str, command: str, mark: str) -> str:
    """What the guest answers on its console; `mark` was never there before."""
    # What was typed is on the console too, and must not be taken for the answer.
    await real.on_console(driver, guest_id, f'echo "b""egun-{mark} $({command}) ended"', "exit")
    answer, found = re.compile(rf"begun-{mark} (.*?) ended", re.S), list[str]()

    async def is_whole() -> bool:
        found[:] = answer.findall(await driver.console_log(guest_id, None))
        return bool(found)

    await eventually(is_whole, f"an answer to {command}", within_s=real.BOOT_S, world=World())
    return found[0]


async def finds_what_it_wrote(driver: ComputeDriver, guest_id: str, mark: str) -> None:
    """Every word on its disk is there, once it has stopped."""
    stop = "touch /tmp/stop; sleep 2; cat /tmp/n"
    written = int(await says(driver, guest_id, stop, f"{mark}-written"))
    look = f"dd if=/dev/vdb bs=512 count={written} 2>/dev/null | tr -d '\\000' | md5sum"
    want = f"i=0; while [ $i -lt {written} ]; do printf 'no %06d;' $i; i=$((i+1)); done | md5sum"
    found, wanted = (await says(driver, guest_id, f"{look}; {want}", f"{mark}-sums")).split("\n")
    assert found.strip() == wanted.strip() and written > 0


@pytest.mark.parametrize("kind", ["plain", "encrypted", "elsewhere"])
@pytest.mark.parametrize("dies", [False, True])
def test_a_guest_that_writes_all_the_time_finds_every_word_on_the_other_volume(
    kind: str, dies: bool, booted: Booted, store: Store
) -> None:
    async def story(bench: Bench, guest: str) -> None:
        driver, back_end, second = bench.make(), store.driver(), Store(store.state)
        await driver.start_up()
        await back_end.start_up()
        old = await store.make(back_end)
        changes = {"passphrase": "open sesame"} if kind == "encrypted" else {}
        new = await second.make(back_end, **changes)
        await back_end.extend(new.volume_id, 2)
        served = await second.served(back_end, new.volume_id, kind == "elsewhere")
        new = msgspec.structs.replace(served, passphrase=new.passphrase)
        await driver.plug_volume(guest, old)
        await real.on_console(driver, guest, *COUNT, "exit")
        if dies:
            swapping = asyncio.create_task(driver.swap_volume(guest, old.volume_id, new))
            await asyncio.sleep(0.2)
            swapping.cancel()
            await driver.close()
            driver = bench.make()
            await driver.start_up()
        await driver.swap_volume(guest, old.volume_id, new)
        await back_end.withdraw(old.volume_id, store.attachment)
        size = await says(driver, guest, "cat /sys/block/vdb/size", f"{new.volume_id}-size")
        assert size == str(4 << 20)
        await finds_what_it_wrote(driver, guest, new.volume_id)
        assert (await driver.unplug_volume(guest, new.volume_id)).volumes == ()
        await driver.close()
        if kind == "plain":
            assert (await asyncio.to_thread(_begins, new)).startswith(b"no 000000;")
        await back_end.withdraw(new.volume_id, second.attachment)
        for volume in (old, new):
            await back_end.delete(volume.volume_id)
        await back_end.close()

    asyncio.run(story(*booted))


@pytest.mark.parametrize("kind", ["here", "elsewhere"])
def test_what_a_guest_trims_is_a_hole_of_its_volumes_file(
    kind: str, bench: Bench, store: Store
) -> None:
    """Its device is asked by QEMU, so that no guest need boot."""

    def mib() -> int:
        paths = (store.state / "layers").iterdir()
        return sum(path.stat().st_blocks * 512 for path in paths) >> 20

    async def story() -> None:
        driver, back_end, spec = bench.make(), store.driver(), bench.spec()
        await driver.start_up()
        await back_end.start_up()
        id, found = (await store.make(back_end)).volume_id, [await asyncio.to_thread(mib)]
        await driver.spawn(spec)
        for grown, command in enumerate(("write 0 32M", "discard 0 16M", "discard 16M 16M")):
            await back_end.extend(id, 1 + grown)
            volume = await store.served(back_end, id, kind == "elsewhere")
            await driver.plug_volume(spec.id, volume)
            assert not await _asked(driver, spec.id, id, command)
            found.append(await asyncio.to_thread(mib) - found[0])
        assert found[1:] == [32, 16, 0]
        await driver.destroy(spec.id)
        await driver.close()
        await back_end.withdraw(id, store.attachment)
        await back_end.delete(id)
        await back_end.close()

    asyncio.run(story())


async def _asked(driver: ComputeDriver, guest_id: str, volume_id: str, command: str) -> str:
    """What QEMU says against a request of the guest's device."""
    assert isinstance(driver, QemuComputeDriver)
    emulator = driver._residents[guest_id].emulator
    assert emulator is not None
    (device,) = [one for one in await emulator.devices() if volume_id[:8] in one]
    disk = f"/machine/peripheral/{device}/virtio-backend"
    line = {"command-line": f'qemu-io -d {disk} "{command}"'}
    return str(await emulator.execute("human-monitor-command", **line))


def _begins(volume: PluggedVolume) -> bytes:
    with NbdClient(volume.path, volume.name) as client:
        return client.read(0, 512)


@pytest.mark.parametrize("kind", ["here", "elsewhere", "encrypted"])
def test_a_guest_writes_to_its_volume_sees_it_grow_and_survives_its_servers_death(
    kind: str, booted: Booted, store: Store
) -> None:
    async def story(bench: Bench, guest: str) -> None:
        driver, volumes = bench.make(), store.driver()
        await driver.start_up()
        await volumes.start_up()
        changes = {"passphrase": "open sesame"} if kind == "encrypted" else {}
        volume = await store.make(volumes, **changes)
        id = volume.volume_id
        if kind == "elsewhere":
            volume = await store.served(volumes, id, True)
        await driver.plug_volume(guest, volume)
        write = "echo it was {} | sudo dd of=/dev/vdb bs=512 conv=sync oflag=direct && echo did"
        look = "cd /sys/block/vdb; echo $(cat serial)-$(cat size)"
        assert await says(driver, guest, write.format("first"), f"{id}-first") == "did"
        assert await says(driver, guest, look, f"{id}-look") == f"{id[:20]}-{2 << 20}"
        here = await store.served(volumes, id)
        is_plain = (await asyncio.to_thread(_begins, here)).startswith(b"it was first")
        assert is_plain == (kind != "encrypted")
        for pid in running_below(store.state / "volumes" / id).values():
            os.kill(pid, 9)
        assert await says(driver, guest, write.format("again"), f"{id}-again") == "did"
        await volumes.extend(id, 2)
        larger = await store.served(volumes, id, kind == "elsewhere")
        larger = msgspec.structs.replace(larger, passphrase=volume.passphrase)
        await driver.plug_volume(guest, larger)
        size = await says(driver, guest, "cat /sys/block/vdb/size", f"{id}-size")
        assert size == str(4 << 20)
        await driver.unplug_volume(guest, id)
        await volumes.withdraw(id, store.attachment)
        await volumes.delete(id)
        await driver.close()
        await volumes.close()

    asyncio.run(story(*booted))

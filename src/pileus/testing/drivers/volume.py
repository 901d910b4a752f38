"""What every volume driver must do, asked of each alike: the fake is honest because it passes too.

A test module makes a `Bench` for its driver and runs each function of `SUITE` with it. Nothing here
knows which driver it talks to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import pytest

from pileus.host import uploads
from pileus.kernel.faults import Conflict, Invalid, NotFound
from pileus.kernel.world import World
from pileus.services.block_storage.driver import (
    ImageBytes,
    Limits,
    OfSnapshot,
    OfVolume,
    Source,
    Volume,
    VolumeDriver,
    VolumeSpec,
)
from pileus.testing.shelf import Shelf

DEBIAN_PACKAGES = ("qemu-block-extra",)  # QEMU's own initiator of iSCSI
GIB = 1 << 30
FREE = Limits()


@dataclass
class Bench:
    """A way to make the driver over one state, again and again, and what it may use.

    `write` and `read` are what a guest does at the beginning of a volume that nobody else has. `hands_over`: it is
    between guests and bytes.
    """

    make: Callable[[], VolumeDriver]
    image: ImageBytes  # of no more than 1 GiB
    image_begins: bytes
    shelf: Shelf
    write: Callable[[VolumeDriver, str, bytes], Awaitable[None]]
    read: Callable[[VolumeDriver, str, int], Awaitable[bytes]]
    hands_over: bool = True
    world: World = field(default_factory=World)

    def spec(self, source: Source | None = None, size_gib: int = 1) -> VolumeSpec:
        project = self.world.new_hex()
        return VolumeSpec(
            id=self.world.new_id(), size_gib=size_gib, project_id=project, source=source
        )

    @asynccontextmanager
    async def driver(self) -> AsyncIterator[VolumeDriver]:
        """One that is up, over the state that there is."""
        driver = self.make()
        await driver.start_up()
        try:
            yield driver
        finally:
            await driver.close()

    async def volume(self, driver: VolumeDriver, data: bytes) -> str:
        """A volume of 1 GiB that begins with those bytes."""
        spec = self.spec()
        await driver.create(spec)
        await self.write(driver, spec.id, data)
        return spec.id


async def create_makes_a_blank_volume_and_a_second_create_finds_it(bench: Bench) -> None:
    async with bench.driver() as driver:
        spec = bench.spec(size_gib=2)
        first = await driver.create(spec)
        assert first == await driver.create(spec) == Volume(id=spec.id, size_gib=2)
        assert await bench.read(driver, spec.id, 4096) == bytes(4096)
        assert await driver.volumes() == [first]


async def create_twice_at_once_makes_one_volume(bench: Bench) -> None:
    async with bench.driver() as driver:
        spec = bench.spec()
        one, two = await asyncio.gather(driver.create(spec), driver.create(spec))
        assert one == two and len(await driver.volumes()) == 1


async def volumes_of_an_image_begin_as_it_does_and_part_from_each_other(bench: Bench) -> None:
    count = len(bench.image_begins)
    async with bench.driver() as driver:
        specs = [bench.spec(bench.image, 2), bench.spec(bench.image, 1)]
        for spec in specs:
            await driver.create(spec)
            assert await bench.read(driver, spec.id, count) == bench.image_begins
        await bench.write(driver, specs[0].id, b"changed")
        assert await bench.read(driver, specs[0].id, 7) == b"changed"
        assert await bench.read(driver, specs[1].id, count) == bench.image_begins


async def an_image_that_lies_about_its_format_is_refused_and_leaves_nothing(bench: Bench) -> None:
    async with bench.driver() as driver:
        lie = b"QFI\xfb\0\0\0\3".ljust(4096, b"\0")
        spec = bench.spec(ImageBytes(id="lie", url=bench.shelf.offer(lie)))
        with pytest.raises(Invalid, match="qcow2"):
            await driver.create(spec)
        assert await driver.volumes() == [] == await driver.sweep(set())


async def a_source_that_does_not_fit_is_refused_and_leaves_nothing(bench: Bench) -> None:
    async with bench.driver() as driver:
        origin = bench.spec(size_gib=2)
        await driver.create(origin)
        await driver.snapshot(origin.id, "kept")
        of = (OfVolume(volume_id=origin.id), OfSnapshot(volume_id=origin.id, snapshot_id="kept"))
        for source in of:
            with pytest.raises(Invalid, match=str(2 * GIB)):
                await driver.create(bench.spec(source, 1))
        assert [volume.id for volume in await driver.volumes()] == [origin.id]


async def delete_is_the_end_of_it_and_needs_no_volume(bench: Bench) -> None:
    async with bench.driver() as driver:
        spec = bench.spec()
        await driver.delete(spec.id)
        await driver.create(spec)
        for _ in range(2):
            await driver.delete(spec.id)
            assert await driver.volumes() == []


async def verbs_of_an_unknown_volume_answer_not_found(bench: Bench) -> None:
    async with bench.driver() as driver:
        stranger, attachment = bench.world.new_id(), bench.world.new_id()
        of_snapshot = OfSnapshot(volume_id=stranger, snapshot_id="kept")
        verbs: list[Callable[[], Awaitable[object]]] = [
            lambda: driver.extend(stranger, 2),
            lambda: driver.snapshot(stranger, "kept"),
            lambda: driver.revert(stranger, "kept"),
            lambda: driver.export(stranger, attachment, False, FREE),
            lambda: driver.send(stranger, "", "raw", bench.shelf.takes),
            lambda: driver.receive(stranger, bench.shelf.takes, 0),
            lambda: driver.create(bench.spec(OfVolume(volume_id=stranger))),
            lambda: driver.create(bench.spec(of_snapshot)),
        ]
        for verb in verbs:
            with pytest.raises(NotFound, match=stranger):
                await verb()
        await driver.delete_snapshot(stranger, "kept")
        await driver.withdraw(stranger, attachment)
        assert await driver.volumes() == []


async def extend_grows_under_an_export_and_never_shrinks(bench: Bench) -> None:
    async with bench.driver() as driver:
        volume_id, attachment = await bench.volume(driver, b"stays"), bench.world.new_id()
        assert (await driver.export(volume_id, attachment, False, FREE)).size == GIB
        for asked in (3, 3, 2):
            assert (await driver.extend(volume_id, asked)).size_gib == 3
        assert (await driver.export(volume_id, attachment, False, FREE)).size == 3 * GIB
        await driver.withdraw(volume_id, attachment)
        assert await bench.read(driver, volume_id, 5) == b"stays"


async def a_snapshot_keeps_the_volume_as_it_was(bench: Bench) -> None:
    async with bench.driver() as driver:
        volume_id = await bench.volume(driver, b"before")
        for _ in range(2):
            await driver.snapshot(volume_id, "kept")
        await bench.write(driver, volume_id, b"after!")
        await driver.extend(volume_id, 2)
        assert await bench.read(driver, volume_id, 6) == b"after!"
        for _ in range(2):
            reverted = await driver.revert(volume_id, "kept")
            assert (reverted.size_gib, reverted.snapshots) == (2, ("kept",))
            assert await bench.read(driver, volume_id, 6) == b"before"
        with pytest.raises(NotFound, match="other"):
            await driver.revert(volume_id, "other")


async def a_volume_with_snapshots_stays_until_they_are_deleted(bench: Bench) -> None:
    async with bench.driver() as driver:
        volume_id = await bench.volume(driver, b"content")
        for snapshot in ("one", "two"):
            await driver.snapshot(volume_id, snapshot)
        with pytest.raises(Conflict, match="snapshots"):
            await driver.delete(volume_id)
        for snapshot in ("one", "one", "two", "three"):
            await driver.delete_snapshot(volume_id, snapshot)
        assert await bench.read(driver, volume_id, 7) == b"content"
        await driver.delete(volume_id)
        assert await driver.volumes() == []


async def copies_outlive_what_they_were_made_of(bench: Bench) -> None:
    async with bench.driver() as driver:
        volume_id = await bench.volume(driver, b"old")
        await driver.snapshot(volume_id, "kept")
        await bench.write(driver, volume_id, b"new")
        old = bench.spec(OfSnapshot(volume_id=volume_id, snapshot_id="kept"))
        new = bench.spec(OfVolume(volume_id=volume_id), 2)
        for spec in (old, new, old, new):
            await driver.create(spec)
        await bench.write(driver, volume_id, b"XXX")
        await driver.delete_snapshot(volume_id, "kept")
        await driver.delete(volume_id)
        assert await bench.read(driver, old.id, 3) == b"old"
        assert await bench.read(driver, new.id, 3) == b"new"
        later = bench.spec(OfVolume(volume_id=old.id))
        await driver.create(later)
        await driver.delete(old.id)
        assert await bench.read(driver, later.id, 3) == b"old"


async def an_export_stays_what_it_is_until_it_is_withdrawn(bench: Bench) -> None:
    async with bench.driver() as driver:
        volume_id, data = await bench.volume(driver, b"held"), bench.shelf.offer(b"other")
        one, two = bench.world.new_id(), bench.world.new_id()
        first = await driver.export(volume_id, one, False, FREE)
        assert (first.attachment_id, first.size, first.is_read_only) == (one, GIB, False)
        again = await driver.export(volume_id, one, False, Limits(total_iops_sec=50))
        assert msgspec.structs.replace(again, rbd=first.rbd) == first  # which has limits in it
        assert (await driver.export(volume_id, two, True, FREE)).is_read_only
        await driver.snapshot(volume_id, "kept")
        for verb in (
            lambda: driver.delete(volume_id),
            lambda: driver.revert(volume_id, "kept"),
            lambda: driver.receive(volume_id, data, 5),
        ):
            with pytest.raises(Conflict, match="export"):
                await verb()
        (found,) = await driver.volumes()
        assert found.exports == tuple(sorted((one, two)))
        for attachment in (one, one, two):
            await driver.withdraw(volume_id, attachment)
        assert (await driver.volumes())[0].exports == ()
        assert await bench.read(driver, volume_id, 4) == b"held"


async def everything_outlives_the_driver(bench: Bench) -> None:
    attachment = bench.world.new_id()
    async with bench.driver() as driver:
        volume_id = await bench.volume(driver, b"lasting")
        await driver.snapshot(volume_id, "kept")
        export = await driver.export(volume_id, attachment, False, FREE)
        found = await driver.volumes()
    async with bench.driver() as driver:
        await driver.start_up()
        assert await driver.volumes() == found
        assert await driver.export(volume_id, attachment, False, FREE) == export
        await driver.withdraw(volume_id, attachment)
        assert await bench.read(driver, volume_id, 7) == b"lasting"


async def bytes_are_sent_and_received(bench: Bench) -> None:
    async with bench.driver() as driver:
        volume_id = await bench.volume(driver, b"first")
        await driver.snapshot(volume_id, "kept")
        await driver.receive(volume_id, bench.shelf.offer(b"second"), 6)
        assert await bench.read(driver, volume_id, 6) == b"second"
        for snapshot, begins in (("", b"second"), ("kept", b"first")):
            count = await driver.send(volume_id, snapshot, "raw", bench.shelf.takes)
            taken, first = bench.shelf.sent[-1]
            assert taken == count and first.startswith(begins)
            await driver.send(volume_id, snapshot, "raw", f"{bench.shelf.takes}?{uploads.SPARSE}")
            assert bench.shelf.sent[-1][0] < 1 << 20, "holes are not sent"
        with pytest.raises(NotFound, match="other"):
            await driver.send(volume_id, "other", "raw", bench.shelf.takes)


async def a_volume_in_use_is_handed_over_with_its_bytes(bench: Bench) -> None:
    async with bench.driver() as driver:
        one, other, attachment = (
            await bench.volume(driver, b"moves"),
            bench.spec(),
            bench.world.new_id(),
        )
        await driver.create(other)
        await driver.export(one, attachment, False, FREE)
        heir = await driver.export(other.id, attachment, False, FREE)
        assert await driver.stay(one)
        if not bench.hands_over:
            with pytest.raises(Conflict, match="detached first"):
                await driver.hand_over(one, heir)
            return
        for _ in range(2):
            await driver.hand_over(one, heir)
        assert not await driver.stay(one)
    async with bench.driver() as driver:
        await driver.delete(one)
        assert [volume.id for volume in await driver.volumes()] == [other.id]
        assert await driver.export(other.id, attachment, False, FREE) == heir
        await driver.withdraw(other.id, attachment)
        assert await bench.read(driver, other.id, 5) == b"moves"


async def sweep_deletes_what_nobody_keeps(bench: Bench) -> None:
    async with bench.driver() as driver:
        kept, orphan = bench.spec(), bench.spec()
        for spec in (kept, orphan):
            await driver.create(spec)
        await driver.snapshot(orphan.id, "kept")
        await driver.export(orphan.id, bench.world.new_id(), False, FREE)
        assert await driver.sweep({kept.id}) == [orphan.id]
        assert [volume.id for volume in await driver.volumes()] == [kept.id]


async def there_is_room(bench: Bench) -> None:
    async with bench.driver() as driver:
        room = await driver.room()
        assert 0 < room.free_gib <= room.total_gib


SUITE: tuple[Callable[[Bench], Coroutine[None, None, None]], ...] = (
    create_makes_a_blank_volume_and_a_second_create_finds_it,
    create_twice_at_once_makes_one_volume,
    volumes_of_an_image_begin_as_it_does_and_part_from_each_other,
    an_image_that_lies_about_its_format_is_refused_and_leaves_nothing,
    a_source_that_does_not_fit_is_refused_and_leaves_nothing,
    delete_is_the_end_of_it_and_needs_no_volume,
    verbs_of_an_unknown_volume_answer_not_found,
    extend_grows_under_an_export_and_never_shrinks,
    a_snapshot_keeps_the_volume_as_it_was,
    a_volume_with_snapshots_stays_until_they_are_deleted,
    copies_outlive_what_they_were_made_of,
    an_export_stays_what_it_is_until_it_is_withdrawn,
    everything_outlives_the_driver,
    bytes_are_sent_and_received,
    a_volume_in_use_is_handed_over_with_its_bytes,
    sweep_deletes_what_nobody_keeps,
    there_is_room,
)

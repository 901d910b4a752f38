"""What a compute driver must do with volumes; see `compute`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest

from pileus.kernel.faults import Conflict, Invalid, NotFound
from pileus.testing.drivers.compute import Bench, has_login_prompt


async def volumes_come_and_go_and_stay_over_a_restart(bench: Bench) -> None:
    if "plug_volume" in bench.lacks:
        return
    driver, volume = bench.make(), bench.volumes[0]
    await driver.start_up()
    spec = bench.spec()
    await driver.spawn(spec)
    await has_login_prompt(bench, driver, spec.id)
    disks = len((await driver.diagnostics(spec.id)).disks)
    for _ in range(2):
        assert (await driver.plug_volume(spec.id, volume)).volumes == (volume.volume_id,)
        assert len((await driver.diagnostics(spec.id)).disks) == disks + 1
    if "suspend" not in bench.lacks:
        await driver.suspend(spec.id)
        with pytest.raises(Conflict, match="suspended"):
            await driver.unplug_volume(spec.id, volume.volume_id)
        for take in (driver.unplug, driver.unplug_volume):
            assert (await take(spec.id, "never-had")).volumes == (volume.volume_id,)
        await driver.resume(spec.id)
    for _ in range(2):
        assert (await driver.unplug_volume(spec.id, volume.volume_id)).volumes == ()
        assert len((await driver.diagnostics(spec.id)).disks) == disks
    await driver.stop(spec.id, 0)
    assert (await driver.plug_volume(spec.id, volume)).volumes == (volume.volume_id,)
    await driver.close()
    again = bench.make()
    await again.start_up()
    assert (await again.start(spec.id)).volumes == (volume.volume_id,)
    assert len((await again.diagnostics(spec.id)).disks) == disks + 1
    with pytest.raises(Invalid, match="cannot be plugged"):
        await again.plug_volume(spec.id, msgspec.structs.replace(volume, volume_id="x,y"))
    await again.destroy(spec.id)
    await again.close()


async def a_volume_takes_anothers_place_and_loses_it_while_the_guest_runs(bench: Bench) -> None:
    if "plug_volume" in bench.lacks:
        return
    driver, (one, other) = bench.make(), bench.volumes
    await driver.start_up()
    spec = bench.spec()
    await driver.spawn(spec)
    await has_login_prompt(bench, driver, spec.id)
    disks = len((await driver.diagnostics(spec.id)).disks)
    with pytest.raises(NotFound, match=one.volume_id):
        await driver.swap_volume(spec.id, one.volume_id, other)
    await driver.plug_volume(spec.id, one)
    for old, new in ((one, other), (one, other), (other, one), (other, one), (one, other)):
        has = await driver.swap_volume(spec.id, old.volume_id, new)
        assert has.volumes == (new.volume_id,)
        assert len((await driver.diagnostics(spec.id)).disks) == disks + 1
    if "suspend" not in bench.lacks:
        await driver.suspend(spec.id)
        assert (await driver.resume(spec.id)).volumes == (other.volume_id,)
    both = (other.volume_id, one.volume_id)
    assert (await driver.plug_volume(spec.id, one)).volumes == both  # whose name the other has
    assert len((await driver.diagnostics(spec.id)).disks) == disks + 2
    await driver.close()
    driver = bench.make()
    await driver.start_up()
    assert (await driver.plug_volume(spec.id, other)).volumes == both
    assert (await driver.unplug_volume(spec.id, other.volume_id)).volumes == (one.volume_id,)
    assert len((await driver.diagnostics(spec.id)).disks) == disks + 1
    await driver.stop(spec.id, 0)
    with pytest.raises(Conflict, match="started first"):
        await driver.swap_volume(spec.id, one.volume_id, other)
    await driver.start(spec.id)
    assert (await driver.swap_volume(spec.id, one.volume_id, other)).volumes == (other.volume_id,)
    await driver.destroy(spec.id)
    await driver.close()


VOLUMES: tuple[Callable[[Bench], Awaitable[None]], ...] = (
    volumes_come_and_go_and_stay_over_a_restart,
    a_volume_takes_anothers_place_and_loses_it_while_the_guest_runs,
)

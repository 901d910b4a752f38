"""What a compute driver must do with volumes; see `compute`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest

from pileus.kernel.faults import Conflict, Invalid
from pileus.testing.drivers.compute import Bench, has_login_prompt


async def volumes_come_and_go_and_stay_over_a_restart(bench: Bench) -> None:
    if "plug_volume" in bench.lacks:
        return
    driver, volume = bench.make(), bench.volume
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


VOLUMES: tuple[Callable[[Bench], Awaitable[None]], ...] = (
    volumes_come_and_go_and_stay_over_a_restart,
)

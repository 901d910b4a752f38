"""The volumes that a server is made with: made themselves where need be, promised to it, and gone with it."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from pileus.kernel.faults import Invalid
from pileus.kernel.sagas import Run
from pileus.services.block_storage.contract import VOLUMES
from pileus.services.compute.block_device import BlockDevice
from pileus.services.compute.server import Server
from pileus.services.compute.servers.block_devices import new_volume
from pileus.services.compute.servers.plugging import detach, reserve

log = logging.getLogger(__name__)
_PATIENCE_S = 1500  # an image's bytes may be many; a spawn has 1800 s in all
_PAUSES_S = (0.02, 0.1, 0.5, 2)


async def provide(run: Run[Server]) -> None:
    """All of the server's volumes are there and nobody else's. Raises Invalid, NotFound, OverQuota."""
    volumes, server = run.peer(VOLUMES), run.record
    new = [device for device in server.volumes if device.is_made_for_it]
    for device in new:
        await volumes.create(run.caller, new_volume(server.id, device))
    for device in new:
        await made(run, device.volume_id)
    await reserve(run, server.volumes)


async def made(run: Run[Server], volume_id: str) -> None:
    """Returns once the volume has all its bytes. Raises Invalid, which says why it has not."""
    clock, tries = run.runtime.world.clock, 0
    end = clock.monotonic() + _PATIENCE_S
    while True:
        status, why = await run.peer(VOLUMES).state(volume_id)
        if status not in ("creating", "downloading"):
            break
        if clock.monotonic() > end:
            why = f"It was waited for {_PATIENCE_S} s."
            break
        await clock.sleep(_PAUSES_S[min(tries, len(_PAUSES_S) - 1)])
        tries += 1
    if why or status in ("", "error"):
        raise Invalid(
            f"Volume {volume_id} did not finish being created: its status is "
            f"{status or 'deleted'}. {why}".rstrip()
        )


async def part(run: Run[Server], only: Iterable[BlockDevice]) -> None:
    """None of its volumes is the server's any longer; of these, those that go with it go."""
    move = run.record.move
    devices = [*run.record.volumes, *(move.volumes if move else ())]  # of a way not ended, too
    if not devices or not run.runtime.contracts.has(VOLUMES):
        return
    volumes = run.peer(VOLUMES)
    await detach(run, devices)
    for device in only:
        if device.delete_on_termination:
            try:
                await volumes.remove(device.volume_id)
            except Invalid as e:  # another server has it, or it has snapshots: it stays
                log.warning("server %s leaves its volume: %s", run.record.id, e.message)


async def take_back(run: Run[Server]) -> None:
    """As if the server had not been begun: what was there before stays."""
    await part(run, [device for device in run.record.volumes if device.is_made_for_it])


def left(server: Server) -> list[BlockDevice]:
    """Its volumes after `take_back`, which it may yet take with it when it is deleted."""
    return [d for d in server.volumes if not (d.is_made_for_it and d.delete_on_termination)]

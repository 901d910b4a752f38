"""A server's volumes as its host plugs them: connected to that host one by one, and let go of."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from pileus.kernel.faults import Stale, Unavailable
from pileus.kernel.resources import Context
from pileus.kernel.sagas import Run
from pileus.services.block_storage.contract import VOLUMES, Export
from pileus.services.compute.agent_contract import COMPUTE_HOST
from pileus.services.compute.block_device import BlockDevice, in_order
from pileus.services.compute.driver import PluggedVolume
from pileus.services.compute.server import Server


async def plugged_volumes(
    run: Run[Server], devices: Iterable[BlockDevice], host: str
) -> tuple[PluggedVolume, ...]:
    """Each served to `host` from now on, in the order in which the guest finds them."""
    return tuple([await plugged(run, device, host) for device in in_order(devices)])


async def plugged(run: Run[Server], device: BlockDevice, host: str) -> PluggedVolume:
    """Served to `host` from now on. Raises NotFound, Invalid."""
    volumes = run.peer(VOLUMES)
    export = await volumes.connect(device.attachment_id, host)
    passphrase = await volumes.passphrase(device.attachment_id)
    return _told(device.volume_id, export, host, passphrase)


def _told(volume_id: str, export: Export, host: str, passphrase: str) -> PluggedVolume:
    is_here = export.host == host
    return PluggedVolume(
        volume_id=volume_id,
        name=export.name,
        size=export.size,
        path=export.path if is_here else "",
        address="" if is_here else export.address,
        port=0 if is_here else export.port,
        user="" if is_here else export.attachment_id,
        secret="" if is_here else export.secret,
        passphrase=passphrase,
        is_read_only=export.is_read_only,
        rbd=export.rbd,
    )


async def plug_again(run: Run[Server], name: str, *, before: Iterable[BlockDevice] = ()) -> None:
    """The guest on that host has the volumes of the record as they are served now, and none of `before` besides."""
    server = run.record
    gone = {d.volume_id for d in before} - {d.volume_id for d in server.volumes}
    if not server.volumes and not gone:
        return
    host = await run.agent(COMPUTE_HOST, on=name)
    for volume_id in sorted(gone):
        await host.unplug_volume(server.id, volume_id)
    for volume in await plugged_volumes(run, server.volumes, name):
        await host.plug_volume(server.id, volume)
    await complete(run, server.volumes)


async def reserve(run: Run[Server], devices: Iterable[BlockDevice]) -> None:
    """Their volumes are for the server. Raises NotFound, Invalid."""
    volumes, server_id = run.peer(VOLUMES), run.record.id
    for device in devices:
        await volumes.reserve(run.caller, device.volume_id, device.attachment_id, server_id, "rw")


async def reserve_now(ctx: Context, server_id: str, devices: Iterable[BlockDevice]) -> None:
    """The same before the caller is answered, so that he is told; what hinders for a moment is left to the saga."""
    for device in devices:
        with suppress(Stale, Unavailable):
            await ctx.peer(VOLUMES).reserve(
                ctx.caller, device.volume_id, device.attachment_id, server_id, "rw"
            )


async def complete(run: Run[Server], devices: Iterable[BlockDevice]) -> None:
    """The guest has them."""
    for device in devices:
        await run.peer(VOLUMES).complete(device.attachment_id, device.device_name)


async def disconnect(run: Run[Server]) -> None:
    """No host is served any longer: nothing that is left of the guest can write to its volumes."""
    for device in run.record.volumes:
        await run.peer(VOLUMES).disconnect(device.attachment_id)


async def detach(run: Run[Server], devices: Iterable[BlockDevice]) -> None:
    """Their volumes are the server's no longer, by these attachments."""
    for device in devices:
        await run.peer(VOLUMES).detach(device.attachment_id)

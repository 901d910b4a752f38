"""A server's volumes as its host plugs them, connected to that host one by one."""

from __future__ import annotations

from collections.abc import Iterable

from pileus.kernel.sagas import Run
from pileus.services.block_storage.contract import VOLUMES, Export
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
    )

"""The volumes of a QEMU guest: as it is told of them, and those that it starts with."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable

from pileus.host import qemu_volumes
from pileus.host.qemu import Emulator
from pileus.host.qemu_memory import Layout
from pileus.host.qemu_volumes import NbdVolume
from pileus.kernel.world import Clock
from pileus.services.compute.driver import PluggedVolume
from pileus.services.compute.drivers.guest_folder import GuestFolder


def told(folder: GuestFolder, volume: PluggedVolume) -> NbdVolume:
    """What QEMU needs to know; a key for another host's door lies in the guest's folder by then."""
    keys = _keys(volume.volume_id)
    if not volume.path and not volume.rbd:
        qemu_volumes.write_keys(folder.path / keys, volume.user, volume.secret)
        for path in (folder.path / keys, folder.path / keys / qemu_volumes.KEYS):
            folder.give(path)
    return NbdVolume(
        id=volume.device,
        name=volume.name,
        size=volume.size,
        path=volume.path,
        address=volume.address,
        port=volume.port,
        keys=keys,
        user=volume.user,
        passphrase=volume.passphrase,
        is_read_only=volume.is_read_only,
        rbd=volume.rbd,
        turn=volume.turn,
    )


async def plug_all(
    emulator: Emulator,
    folder: GuestFolder,
    volumes: tuple[PluggedVolume, ...],
    saved: Layout | None,
    boots: bool,
) -> None:
    """Before a guest's first instruction: its firmware finds them, and starts from the first if it `boots` so."""
    for n, volume in enumerate(volumes):
        port = saved.volumes.get(volume.device, 0) if saved else 0
        described = await asyncio.to_thread(told, folder, volume)
        await qemu_volumes.plug(emulator, described, port=port, boot=boots and n == 0)
    if saved is None:
        await emulator.execute("system_reset")  # the firmware is told in which order only then


async def unplug(
    emulator: Emulator, folder: GuestFolder, volume: PluggedVolume, clock: Clock
) -> None:
    """The guest has let go of it by then; its key is gone."""
    await qemu_volumes.unplug(emulator, await asyncio.to_thread(told, folder, volume), clock)
    await forget(folder, volume.volume_id)


async def forget(folder: GuestFolder, volume_id: str) -> None:
    """The key of a volume that the guest had."""
    await asyncio.to_thread(shutil.rmtree, folder.path / _keys(volume_id), True)


def _keys(volume_id: str) -> str:
    return f"tls-{volume_id}"


async def swap(
    emulator: Emulator,
    folder: GuestFolder,
    new: PluggedVolume,
    keep: Callable[[], Awaitable[None]],
    clock: Clock,
) -> None:
    """`keep` is called when the copy is whole, before the guest has nothing else."""
    described = await asyncio.to_thread(told, folder, new)
    await qemu_volumes.swap(emulator, described, keep, clock)

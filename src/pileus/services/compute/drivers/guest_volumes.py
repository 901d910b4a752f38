"""The volumes of a QEMU guest: as it is told of them, and those that it starts with."""

from __future__ import annotations

from pileus.host import qemu_volumes
from pileus.host.qemu import Emulator
from pileus.host.qemu_memory import Layout
from pileus.host.qemu_volumes import NbdVolume
from pileus.services.compute.driver import GuestSpec, PluggedVolume
from pileus.services.compute.drivers.guest_folder import GuestFolder


def told(folder: GuestFolder, volume: PluggedVolume) -> NbdVolume:
    """What QEMU needs to know; a key for another host's door lies in the guest's folder by then."""
    keys = f"tls-{volume.volume_id}"
    if not volume.path:
        qemu_volumes.write_keys(folder.path / keys, volume.user, volume.secret)
        for path in (folder.path / keys, folder.path / keys / qemu_volumes.KEYS):
            folder.give(path)
    return NbdVolume(
        id=volume.volume_id,
        name=volume.name,
        size=volume.size,
        path=volume.path,
        address=volume.address,
        port=volume.port,
        keys=keys,
        user=volume.user,
        passphrase=volume.passphrase,
        is_read_only=volume.is_read_only,
    )


async def plug_all(
    emulator: Emulator, folder: GuestFolder, spec: GuestSpec, saved: Layout | None
) -> None:
    """Before a guest's first instruction: its firmware finds them, and may start from the first."""
    is_root = not (spec.image or spec.root_gib)
    for n, volume in enumerate(spec.volumes):
        port = saved.volumes.get(volume.volume_id, 0) if saved else 0
        described = told(folder, volume)
        await qemu_volumes.plug(emulator, described, port=port, boot=is_root and n == 0)
    if spec.volumes and saved is None:
        await emulator.execute("system_reset")  # the firmware is told in which order only then

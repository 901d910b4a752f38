"""Real volumes for guests of tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from pileus.kernel.world import World
from pileus.services.block_storage.driver import Limits, VolumeSpec
from pileus.services.block_storage.drivers.file import FileVolumeDriver
from pileus.services.compute.driver import PluggedVolume


class Store:
    """Volumes of 1 GiB, each served for one attachment to whoever plugs it."""

    def __init__(self, state: Path) -> None:
        self.state, self.attachment = state, World().new_id()

    def driver(self) -> FileVolumeDriver:
        return FileVolumeDriver(self.state, "here", address="127.0.0.1")

    async def make(self, driver: FileVolumeDriver, **changes: Any) -> PluggedVolume:
        spec = VolumeSpec(id=World().new_id(), size_gib=1, project_id="p", **changes)
        await driver.create(spec)
        plugged = await self.served(driver, spec.id)
        return msgspec.structs.replace(plugged, passphrase=spec.passphrase)

    async def served(
        self, driver: FileVolumeDriver, volume_id: str, is_remote: bool = False
    ) -> PluggedVolume:
        export = await driver.export(volume_id, self.attachment, False, Limits(), is_remote)
        return PluggedVolume(
            volume_id=volume_id,
            name=export.name,
            size=export.size,
            path="" if is_remote else export.path,
            address=export.address,
            port=export.port,
            user=export.attachment_id,
            secret=export.secret,
        )

"""The volume part of a host: owns the driver, keeps VOLUME_HOST, drops what nobody stands for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from pileus.host import files
from pileus.host.handover import local_address
from pileus.host.rbd import Place
from pileus.kernel.agents import CONTROL
from pileus.kernel.faults import Invalid
from pileus.kernel.hosts import HostRuntime

from .agent_contract import VOLUME_CONTROL, VolumeHost
from .driver import ImageBytes, Volume, VolumeDriver, VolumeSpec
from .settings import Settings

log = logging.getLogger(__name__)
_ASKED = frozenset(name for name in vars(VolumeHost) if not name.startswith("_"))
_AT_ONCE = 2000  # ids in one call
BACK_END = "volume_back_end"  # a note in the host's folder


def _driver(host: HostRuntime) -> VolumeDriver:
    """The back end that goes with the host's other drivers."""
    folder = host.state / "volumes"
    kind, _, place = _back_end(host).partition(":")
    if kind == "rbd":
        from .drivers.rbd import RbdVolumeDriver

        return RbdVolumeDriver(folder, host.name, Place.named(place), world=host.world)
    if host.driver != "fake":
        from .drivers.file import FileVolumeDriver

        address = local_address(host.control_url)
        return FileVolumeDriver(folder, host.name, address=address, world=host.world)
    from .drivers.fake import FakeVolumeDriver

    return FakeVolumeDriver(folder, host.name, deliver=host.deliver)


def _back_end(host: HostRuntime) -> str:
    """The one asked for; it is noted, for a host that is told nothing goes on with what it has. Raises Invalid."""
    note = host.state / BACK_END
    asked = host.settings.get("block-storage", Settings()).back_end
    if not asked:
        return note.read_text() if note.exists() else "file"
    if asked.startswith("rbd:"):
        Place.named(asked.removeprefix("rbd:"))
    elif asked != "file":
        raise Invalid(f"Back end {asked!r} is neither file nor rbd:POOL.")
    note.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(note, str(asked).encode())
    return str(asked)


class VolumeAgent:
    """Nothing is asked of the driver before control has said which volumes stay."""

    def __init__(self, host: HostRuntime, driver: VolumeDriver | None = None) -> None:
        self.host = host
        self.driver = driver or _driver(host)
        self._joined = asyncio.Event()

    async def start(self) -> dict[str, Any]:
        """Adopts the volumes, deletes those that nobody knows. May be called again."""
        self._joined.clear()
        await self.driver.start_up()
        ids = [volume.id for volume in await self.driver.volumes()]
        keep: set[str] = set()
        control = self.host.agents.proxy(VOLUME_CONTROL, CONTROL)
        for at in range(0, len(ids), _AT_ONCE):
            keep.update(await control.keep(self.host.name, ids[at : at + _AT_ONCE]))
        for gone in await self.driver.sweep(keep):
            log.warning("%s: deleted volume %s, which nobody stands for", self.host.name, gone)
        self._joined.set()
        pools = await self.driver.pools()
        return {"volume_pools": msgspec.to_builtins(pools)}

    async def stop(self) -> None:
        await self.driver.close()

    async def forget(self) -> None:
        """Deletes every volume of this host."""
        await self.driver.start_up()
        for volume in await self.driver.volumes():
            for attachment in volume.exports:
                await self.driver.withdraw(volume.id, attachment)
        await self.driver.sweep(set())
        await self.driver.close()

    # VOLUME_HOST

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        """What the driver is asked as control asked it, once the host has joined."""
        if name not in _ASKED:
            raise AttributeError(f"{type(self).__name__} has no {name}")

        async def asked(*arguments: Any) -> Any:
            await self._joined.wait()
            return await getattr(self.driver, name)(*arguments)

        return asked

    async def create(self, spec: VolumeSpec) -> Volume:
        await self._joined.wait()
        if isinstance(spec.source, ImageBytes):
            source = msgspec.structs.replace(spec.source, url=self._url(spec.source.url))
            spec = msgspec.structs.replace(spec, source=source)
        return await self.driver.create(spec)

    async def send(self, volume_id: str, snapshot_id: str, disk_format: str, url: str) -> int:
        await self._joined.wait()
        return await self.driver.send(volume_id, snapshot_id, disk_format, self._url(url))

    async def receive(self, volume_id: str, url: str, size: int) -> None:
        await self._joined.wait()
        await self.driver.receive(volume_id, self._url(url), size)

    def _url(self, path: str) -> str:
        """Under the cloud's URL; a path stays one where bytes do not go over sockets."""
        return path if self.host.deliver else self.host.control_url.rstrip("/") + path

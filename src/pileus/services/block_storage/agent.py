"""The volume part of a host: owns the drivers of its back ends, keeps VOLUME_HOST, drops what nobody stands for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec

from pileus.host.handover import local_address
from pileus.kernel.agents import CONTROL
from pileus.kernel.faults import Invalid
from pileus.kernel.hosts import HostRuntime

from .agent_contract import VOLUME_CONTROL, VolumeHost
from .back_ends import BackEnd, back_ends
from .driver import ImageBytes, OfSnapshot, OfVolume, Volume, VolumeDriver, VolumeSpec
from .settings import Settings

log = logging.getLogger(__name__)
_ASKED = frozenset(name for name in vars(VolumeHost) if not name.startswith("_"))
_AT_ONCE = 2000  # ids in one call


class Home(NamedTuple):
    """A back end of this host, and the pool that it is; what an operator named it, or ""."""

    pool: str
    name: str
    driver: VolumeDriver


def _homes(host: HostRuntime) -> list[Home]:
    found = []
    for one in back_ends(host.state, host.settings.get("block-storage", Settings()).back_ends):
        pool = "fake" if host.driver == "fake" and not (one.place or one.name) else one.pool
        found.append(Home(pool, one.name, _driver(host, one)))
    return found


def _driver(host: HostRuntime, one: BackEnd) -> VolumeDriver:
    """Files go with the host's other drivers."""
    if one.place is not None:
        from .drivers.rbd import RbdVolumeDriver

        return RbdVolumeDriver(one.folder, host.name, one.place, world=host.world)
    if host.driver != "fake":
        from .drivers.file import FileVolumeDriver

        iscsi = host.settings.get("block-storage", Settings()).iscsi_address
        ways = {"address": local_address(host.control_url), "iscsi": iscsi}
        return FileVolumeDriver(one.folder, host.name, **ways, world=host.world)
    from .drivers.fake import FakeVolumeDriver

    return FakeVolumeDriver(one.folder, host.name, deliver=host.deliver)


class VolumeAgent:
    """Nothing is asked of the driver before control has said which volumes stay."""

    def __init__(self, host: HostRuntime) -> None:
        self.host, self.homes = host, _homes(host)
        self._home: dict[str, VolumeDriver] = {}  # by volume; of others it is the first
        self._joined = asyncio.Event()

    async def start(self) -> dict[str, Any]:
        """Adopts the volumes, deletes those that nobody knows. May be called again."""
        self._joined.clear()
        pools = []
        for pool, name, driver in self.homes:
            await driver.start_up()
            ids = [volume.id for volume in await driver.volumes()]
            keep = await self._kept(ids)
            for gone in await driver.sweep(keep):
                log.warning("%s: deleted volume %s, which nobody stands for", self.host.name, gone)
            self._home |= dict.fromkeys(keep, driver)
            has = msgspec.to_builtins(await driver.room())
            pools.append({**has, "name": pool, "backend_name": name})
        self._joined.set()
        return {"volume_pools": pools}

    async def _kept(self, ids: list[str]) -> set[str]:
        """Those that somebody stands for."""
        control, keep = self.host.agents.proxy(VOLUME_CONTROL, CONTROL), set[str]()
        for at in range(0, len(ids), _AT_ONCE):
            keep.update(await control.keep(self.host.name, ids[at : at + _AT_ONCE]))
        return keep

    async def stop(self) -> None:
        for home in self.homes:
            await home.driver.close()

    async def forget(self) -> None:
        """Deletes every volume of this host."""
        for _, _, driver in self.homes:
            await driver.start_up()
            for volume in await driver.volumes():
                for attachment in volume.exports:
                    await driver.withdraw(volume.id, attachment)
            await driver.sweep(set())
            await driver.close()

    # VOLUME_HOST

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        """What the driver is asked as control asked it, once the host has joined."""
        if name not in _ASKED:
            raise AttributeError(f"{type(self).__name__} has no {name}")

        async def asked(volume_id: str, *arguments: Any) -> Any:
            driver = await self._of(volume_id)
            return await getattr(driver, name)(volume_id, *arguments)

        return asked

    async def _of(self, volume_id: str) -> VolumeDriver:
        """Where the volume lies; one that is not here is not in the first either, which will say so."""
        await self._joined.wait()
        return self._home.get(volume_id, self.homes[0].driver)

    async def create(self, spec: VolumeSpec) -> Volume:
        """Raises Invalid for a pool that this host does not have (any more)."""
        await self._joined.wait()
        pools, source = {home.pool: home.driver for home in self.homes}, spec.source
        if isinstance(source, ImageBytes):
            source = msgspec.structs.replace(source, url=self._url(source.url))
            spec = msgspec.structs.replace(spec, source=source)
        if spec.pool and spec.pool not in pools:
            raise Invalid(
                f"Host {self.host.name} has no back end {spec.pool}; it has {', '.join(pools)}."
            )
        driver = pools[spec.pool or self.homes[0].pool]
        if isinstance(source, OfVolume | OfSnapshot):
            driver = await self._of(source.volume_id)
        made = await driver.create(spec)
        self._home[spec.id] = driver
        return made

    async def delete(self, volume_id: str) -> None:
        await (await self._of(volume_id)).delete(volume_id)
        self._home.pop(volume_id, None)

    async def volumes(self) -> list[Volume]:
        await self._joined.wait()
        return [volume for home in self.homes for volume in await home.driver.volumes()]

    async def send(self, volume_id: str, snapshot_id: str, disk_format: str, url: str) -> int:
        driver = await self._of(volume_id)
        return await driver.send(volume_id, snapshot_id, disk_format, self._url(url))

    async def receive(self, volume_id: str, url: str, size: int) -> None:
        await (await self._of(volume_id)).receive(volume_id, self._url(url), size)

    def _url(self, path: str) -> str:
        """Under the cloud's URL; a path stays one where bytes do not go over sockets."""
        return path if self.host.deliver else self.host.control_url.rstrip("/") + path

"""What every driver with guests of its own keeps: who lives here, one verb at a time, images, news.

The verbs that are the same of virtual machines and containers stand here; how a guest is started
and ended is its driver's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import shutil
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec

from pileus.host.image_cache import CachedImage, ImageCache
from pileus.host.netns import Namespaces
from pileus.host.turns import Turns
from pileus.kernel.faults import Conflict, NotFound
from pileus.kernel.world import Clock
from pileus.services.compute.driver import (
    NO_STATE,
    PAUSED,
    RUNNING,
    Guest,
    GuestSpec,
    ImageSource,
    Inventory,
    Watcher,
    last_lines,
)
from pileus.services.compute.drivers import guest_sizes
from pileus.services.compute.drivers.guest_folder import GuestFolder

SOFT_REBOOT_S = 60  # how long a guest may take to go down before a soft reboot pulls the plug
TRIM_S = 5  # between two looks at the logs
IMAGES_S = 600  # between two looks for images that no guest needs
IMAGE_KEPT_S = 86_400  # of an image without a guest: another server of it may follow
F = TypeVar("F", bound=GuestFolder)
log = logging.getLogger(__name__)


@dataclass
class Inhabitant(Generic[F]):
    """A guest of this host."""

    spec: GuestSpec
    folder: F
    power_state: int = NO_STATE
    is_in_hand: bool = False  # a verb is at work; what happens now is no news


R = TypeVar("R", bound=Inhabitant[Any])


class Population(ABC, Generic[R]):
    """The guests of this host. `netns` names the namespace of the taps, `""` for our own."""

    _images: ImageCache
    _guests_dir: Path
    _strays: Collection[str]  # guests that are in no folder that tells of them

    def __init__(
        self,
        state_dir: Path,
        *,
        namespaces: Namespaces | None = None,
        netns: str = "",
        clock: Clock | None = None,
    ) -> None:
        self._state_dir = state_dir
        self._namespaces = namespaces or Namespaces()
        self._netns = netns
        self._clock = clock or Clock()
        self._residents: dict[str, R] = {}
        self._turns = Turns()
        self._copying: dict[str, asyncio.Task[None]] = {}  # guest id -> the snapshot being taken
        self._watchers: list[Watcher] = []
        self._version = 0
        self._chores: list[asyncio.Task[None]] = []

    # The driver's own

    @abstractmethod
    def _seen(self, resident: R) -> Guest: ...

    @abstractmethod
    async def _launch(self, resident: R) -> None: ...

    @abstractmethod
    async def _power_off(self, resident: R, timeout_s: float) -> None: ...

    @abstractmethod
    def _runs(self, resident: R) -> bool: ...

    @abstractmethod
    async def destroy(self, guest_id: str) -> None: ...

    @abstractmethod
    async def revert_resize(self, guest_id: str, run: bool) -> Guest: ...

    # What is the same of all

    def watch(self, callback: Watcher) -> None:
        if callback not in self._watchers:
            self._watchers.append(callback)

    async def _counted(self, hypervisor: str, traits: tuple[str, ...]) -> Inventory:
        """What the machine has. `hypervisor`: the API's word."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        disk = await asyncio.to_thread(shutil.disk_usage, self._state_dir)
        return Inventory(
            vcpus=os.cpu_count() or 1,
            ram_mib=memory >> 20,
            disk_gib=disk.total >> 30,
            hypervisor_type=hypervisor,
            hypervisor_version=self._version,
            cpu_arch=platform.machine(),
            traits=traits,
        )

    async def sweep(self, keep: set[str]) -> list[str]:
        found = {name for name in os.listdir(self._guests_dir) if is_uuid(name)}
        orphans = sorted(found.union(self._residents, self._strays) - keep)
        for guest_id in orphans:
            await self.destroy(guest_id)
        return orphans

    async def stop(self, guest_id: str, timeout_s: float) -> Guest:
        async with self._in_hand(guest_id) as resident:
            await self._power_off(resident, timeout_s)
            return self._seen(resident)

    async def reboot(self, guest_id: str, hard: bool) -> Guest:
        async with self._in_hand(guest_id) as resident:
            await self._power_off(resident, 0 if hard else SOFT_REBOOT_S)
            if hard:
                await asyncio.to_thread(resident.folder.drop_rescue)
            await self._launch(resident)
            return self._seen(resident)

    async def unrescue(self, guest_id: str, run: bool) -> Guest:
        async with self._in_hand(guest_id) as resident:
            if await asyncio.to_thread(resident.folder.read_rescue):
                await self._power_off(resident, 0)
                await asyncio.to_thread(resident.folder.drop_rescue)
            return await self._powered(resident, run)

    async def confirm_resize(self, guest_id: str) -> None:
        async with self._in_hand(guest_id) as resident:
            await asyncio.to_thread(guest_sizes.forget, resident.folder)

    async def changed(self) -> list[str]:
        folders = [resident.folder for resident in self._residents.values()]

        def look() -> list[str]:
            return [f.guest_id for f in folders if f.read_rescue() or guest_sizes.before(f)]

        return await asyncio.to_thread(look)

    async def restore(self, guest_id: str) -> Guest:
        resident = self._find(guest_id)
        run = resident.power_state in (RUNNING, PAUSED)
        if await asyncio.to_thread(resident.folder.read_rescue):
            await self.unrescue(guest_id, run)
        return await self.revert_resize(guest_id, run)

    async def console_log(self, guest_id: str, lines: int | None) -> str:
        folder = self._find(guest_id).folder
        return last_lines(await asyncio.to_thread(folder.console), lines)

    async def guests(self) -> list[Guest]:
        return [self._seen(self._residents[guest_id]) for guest_id in sorted(self._residents)]

    async def drop_images(self) -> list[str]:
        """Forget the images that no guest has needed for a day; their ids."""
        images = [r.spec.image for r in self._residents.values()]
        images += [r.folder.read_rescue() for r in self._residents.values()]
        return await self._images.forget(IMAGE_KEPT_S, {i.id for i in images if i})

    async def _trim_logs(self) -> None:
        while True:
            await self._clock.sleep(TRIM_S)
            for resident in list(self._residents.values()):
                if self._runs(resident):
                    await asyncio.to_thread(resident.folder.trim_logs)

    async def _drop_images(self) -> None:
        while True:
            await self._clock.sleep(IMAGES_S)
            for image_id in await self.drop_images():
                log.info("image %s was dropped: no guest needs it", image_id)

    async def _copied(self, guest_id: str, taking: Coroutine[Any, Any, None]) -> None:
        """Returns when the copy is whole. Raises Conflict where somebody did not want it any more."""
        self._copying[guest_id] = copying = asyncio.create_task(taking)
        copying.add_done_callback(lambda done: self._copying.pop(guest_id, None))
        try:
            await asyncio.wait([copying])
        finally:
            copying.cancel()
            await asyncio.wait([copying])
        if copying.cancelled():
            raise Conflict(f"The copy of guest {guest_id} was given up.")
        await copying

    def _stop_copying(self, guest_id: str) -> None:
        """Nobody waits for a copy that is not wanted any more."""
        if copying := self._copying.get(guest_id):
            copying.cancel()

    @asynccontextmanager
    async def _in_hand(self, guest_id: str) -> AsyncIterator[R]:
        async with self._turns.of(guest_id):
            resident = self._find(guest_id)
            with held(resident):
                yield resident

    def _find(self, guest_id: str) -> R:
        try:
            return self._residents[guest_id]
        except KeyError:
            raise NotFound(f"Guest {guest_id} is not on this host.") from None

    async def _base_of(self, image: ImageSource) -> CachedImage:
        return await self._images.get(
            image.id, image.url, image.disk_format, image.checksum_sha512, image.size
        )

    async def _rewrite(self, resident: R, **changes: object) -> None:
        """Remember for the next start what NICs or volumes the guest has."""
        spec = msgspec.structs.replace(resident.spec, **changes)
        if spec != resident.spec:
            resident.spec = spec
            await asyncio.to_thread(resident.folder.write_spec, spec)

    async def _powered(self, resident: R, run: bool) -> Guest:
        if run and not self._runs(resident):
            await self._launch(resident)
        elif not run:
            await self._power_off(resident, 0)
        return self._seen(resident)

    def _tell(self, resident: R) -> None:
        if self._residents.get(resident.spec.id) is resident:
            for callback in self._watchers:
                callback(self._seen(resident))


@contextmanager
def held(resident: Inhabitant[Any]) -> Iterator[None]:
    resident.is_in_hand = True
    try:
        yield
    finally:
        resident.is_in_hand = False


def is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False

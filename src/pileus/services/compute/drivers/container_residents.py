"""A host's containers: how one is started, followed to its end and found again."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shlex
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from pileus.host import process, runc
from pileus.host.image_cache import CachedImage
from pileus.host.netns import Namespaces
from pileus.host.rootfs import Command, RootCache
from pileus.kernel.faults import Conflict, Fault, Unavailable
from pileus.kernel.world import Clock
from pileus.services.compute.driver import (
    CRASHED,
    NO_STATE,
    PAUSED,
    RUNNING,
    SHUTDOWN,
    Guest,
    ImageSource,
    Nic,
    check_running,
)
from pileus.services.compute.drivers import container_wires as wires
from pileus.services.compute.drivers.container_folder import ContainerFolder
from pileus.services.compute.drivers.population import Inhabitant, Population

MOUNTS = Path("/run/pileus")
_INIT = ("/sbin/init",)
_STATES = {"running": RUNNING, "paused": PAUSED}
log = logging.getLogger(__name__)


class Life:
    """A container that runs, by its first process. Raises ProcessLookupError where that has ended.

    Its network is held, or its cards would be gone with it before anybody saw where they were.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.follower: asyncio.Task[None] | None = None
        try:
            self._network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            os.close(self.pidfd)
            raise ProcessLookupError from None

    def close(self) -> None:
        os.close(self.pidfd)
        os.close(self._network)


@dataclass
class Resident(Inhabitant[ContainerFolder]):
    """A guest of this host and, while it runs, its life."""

    life: Life | None = None


class ContainerResidents(Population[Resident]):
    """The containers of this host."""

    _images: RootCache

    def __init__(
        self,
        state_dir: Path,
        *,
        namespaces: Namespaces | None = None,
        netns: str = "",
        clock: Clock | None = None,
    ) -> None:
        super().__init__(state_dir, namespaces=namespaces, netns=netns, clock=clock)
        self._guests_dir = state_dir / "containers"
        own = hashlib.sha256(str(state_dir.absolute()).encode()).hexdigest()[:12]
        self._places = MOUNTS / own
        self._runc = runc.Runc(self._places / "runc")
        self._images = RootCache(state_dir / "roots", self._clock)
        self._strays: set[str] = set()  # containers without a folder

    def _runs(self, resident: Resident) -> bool:
        return resident.life is not None

    def _seen(self, resident: Resident) -> Guest:
        spec = resident.spec
        return Guest(
            id=spec.id,
            power_state=resident.power_state,
            name=spec.name,
            project_id=spec.project_id,
            vcpus=spec.vcpus,
            ram_mib=spec.ram_mib,
            disk_gib=spec.root_gib,
            ports=tuple(nic.port_id for nic in spec.nics),
        )

    def _folder(self, guest_id: str) -> ContainerFolder:
        return ContainerFolder(self._guests_dir, guest_id, self._places)

    async def _image(self, resident: Resident) -> ImageSource:
        """What it starts from now. Raises Conflict for a guest that was made of nothing."""
        rescue = await asyncio.to_thread(resident.folder.read_rescue)
        image = rescue or resident.spec.image
        if image is None:
            raise Conflict(f"Guest {resident.spec.id} has no image; a container needs one.")
        return image

    def _running(self, resident: Resident) -> Life:
        check_running(resident.spec.id, resident.power_state)
        if resident.life is None:
            raise Unavailable(f"Guest {resident.spec.id} is going down.")
        return resident.life

    async def _mount(self, resident: Resident) -> Path:
        """The tree that it starts from, over its image's."""
        spec, folder = resident.spec, resident.folder
        if spec.image is None:
            raise Conflict(f"Guest {spec.id} has no image; a container needs one.")
        base = await self._base_of(spec.image)
        tree = await asyncio.to_thread(folder.mount, spec, self._images.tree(base))
        if rescue := await asyncio.to_thread(folder.read_rescue):
            other = await self._base_of(rescue)
            tree = await asyncio.to_thread(folder.mount_rescue, self._images.tree(other))
        return tree

    async def _launch(self, resident: Resident) -> None:
        """The network is there before its first program is."""
        spec, folder = resident.spec, resident.folder
        await self._bundle(resident)
        async with AsyncExitStack() as undo:
            life = Life(await self._runc.create(spec.id, folder.path, folder.console_log))
            undo.callback(life.close)
            undo.push_async_callback(self._clear, resident)
            for n, nic in enumerate(spec.nics):
                await self._wire(life.pid, nic, f"eth{n}")
            await self._runc.start(spec.id)
            undo.pop_all()
        self._begin(resident, life)

    async def _bundle(self, resident: Resident) -> None:
        """All that it starts from, mounted and written down."""
        spec, folder = resident.spec, resident.folder
        image = await self._image(resident)
        tree = await self._mount(resident)
        command = self._command(image, await self._base_of(image))
        container = runc.Container(
            spec.id, spec.hostname, tree, command, spec.vcpus, spec.ram_mib, folder.binds(spec)
        )
        bundle = msgspec.json.encode(container.bundle())
        await asyncio.to_thread((folder.path / "config.json").write_bytes, bundle)
        await asyncio.to_thread(folder.open_console)

    def _command(self, image: ImageSource, base: CachedImage) -> Command:
        """As the image's property says, or its own configuration, or as its tree's init does."""
        command = self._images.command(base)
        if image.command:
            try:
                return msgspec.structs.replace(command, args=shlex.split(image.command))
            except ValueError as reason:
                raise Conflict(
                    f"os_command_line of image {image.id} cannot be read: {reason}."
                ) from None
        return command if command.args else msgspec.structs.replace(command, args=list(_INIT))

    async def _wire(self, pid: int, nic: Nic, card: str) -> None:
        namespace = f"/proc/{pid}/ns/net"
        await self._at_home(partial(wires.plug, nic, Path(namespace), card))
        await self._namespaces.call(namespace, partial(wires.dress, nic, card))

    async def _at_home(self, job: Callable[[], None]) -> None:
        await self._namespaces.call(self._netns, job)

    def _begin(self, resident: Resident, life: Life) -> None:
        resident.life, resident.power_state = life, RUNNING
        life.follower = asyncio.create_task(self._follow(resident, life))

    async def _follow(self, resident: Resident, life: Life) -> None:
        await self._tidied(resident, self._at_home(partial(wires.drop, resident.spec.nics)))
        await process.ended(life.pidfd)
        is_crash = await asyncio.to_thread(runc.was_out_of_memory, resident.spec.id)
        await self._tidied(resident, self._clear(resident))
        life.close()
        resident.life = None
        resident.power_state = CRASHED if is_crash else SHUTDOWN
        if not resident.is_in_hand:
            log.info("guest %s ended: %s", resident.spec.id, resident.power_state)
            self._tell(resident)

    async def _tidied(self, resident: Resident, work: Awaitable[None]) -> None:
        """What is left is cleared away by the next start."""
        try:
            await work
        except Fault as left:
            log.warning("guest %s left something: %s", resident.spec.id, left.internal)

    async def _clear(self, resident: Resident) -> None:
        """What a container leaves; taps stand again where its cards were."""
        await self._runc.delete(resident.spec.id)
        for nic in resident.spec.nics:
            await self._at_home(partial(wires.unplug, nic))

    async def _power_off(self, resident: Resident, timeout_s: float) -> None:
        """Ask, wait, kill. The state is SHUTDOWN after, however it went."""
        life = resident.life
        if life is not None and life.follower is not None:
            if resident.power_state == PAUSED:  # what is held does not even die
                await self._runc.release(resident.spec.id)
            elif timeout_s:
                runc.kill(life.pidfd, await asyncio.to_thread(_quits_at, resident.folder))
                await process.ended(life.pidfd, timeout_s)
            if resident.life is life:  # it has not ended meanwhile
                runc.kill(life.pidfd, signal.SIGKILL)
            await life.follower
        resident.power_state = SHUTDOWN

    async def _adopt(self) -> None:
        """Find the guests that an earlier process left, running or not."""
        held = await self._runc.held()
        for path in sorted(self._guests_dir.iterdir()):
            folder = self._folder(path.name)
            spec = folder.read_spec()
            if spec is None:
                continue
            resident = Resident(spec, folder, SHUTDOWN if folder.is_made else NO_STATE)
            self._residents[spec.id] = resident
            try:
                await asyncio.to_thread(folder.mount_disk)
            except (Unavailable, OSError) as reason:  # the others are none the worse
                log.warning("the disk of guest %s cannot be mounted: %s", spec.id, reason)
            if container := held.pop(spec.id, None):
                await self._adopt_one(resident, container)
        self._strays = set(held)

    async def _adopt_one(self, resident: Resident, container: runc.Held) -> None:
        """One that nobody started yet, or that has ended, is cleared away."""
        state = _STATES.get(container.status)
        if state is not None:
            with suppress(ProcessLookupError):  # it ended since we looked
                self._begin(resident, Life(container.pid))
        if resident.life is None or state is None:
            await self._clear(resident)
            return
        resident.power_state = state
        if state == PAUSED and resident.folder.is_being_copied:
            await self._runc.release(resident.spec.id)
            resident.power_state = RUNNING
        resident.folder.finish()


def _quits_at(folder: ContainerFolder) -> signal.Signals:
    """The signal at which the first process ends in order: an init's word for a failing power, or the common one."""
    bundle = msgspec.json.decode((folder.path / "config.json").read_bytes())
    args = bundle["process"]["args"]
    return signal.SIGPWR if args == list(_INIT) else signal.SIGTERM

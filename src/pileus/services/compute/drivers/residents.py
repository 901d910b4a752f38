"""A host's guests and the QEMU of each: how one is started, spoken to, followed and found again."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pileus.host import qemu, qemu_memory
from pileus.host.image_cache import CachedImage, ImageCache
from pileus.host.netns import Namespaces
from pileus.host.process import ProcessFailed, kill
from pileus.kernel.faults import Conflict, Unavailable
from pileus.kernel.world import Clock
from pileus.services.compute.driver import (
    CRASHED,
    NO_STATE,
    PAUSED,
    RUNNING,
    SHUTDOWN,
    SUSPENDED,
    Guest,
    GuestSpec,
    Nic,
    check_running,
)
from pileus.services.compute.drivers import acceleration, guest_volumes
from pileus.services.compute.drivers.guest_folder import GuestFolder
from pileus.services.compute.drivers.population import Inhabitant, Population, held
from pileus.services.compute.plugged_volume import afresh

BUTTON_S = 10  # between two presses of the power button: a guest that boots does not hear the first

_STATES = {"running": RUNNING, "paused": PAUSED, "shutdown": SHUTDOWN, "guest-panicked": CRASHED}
_STATES |= dict.fromkeys(("postmigrate", "inmigrate", "prelaunch"), PAUSED)
log = logging.getLogger(__name__)


@dataclass
class Resident(Inhabitant[GuestFolder]):
    """A guest of this host and, while it has one, its QEMU."""

    emulator: qemu.Emulator | None = None
    follower: asyncio.Task[None] | None = None


class Residents(Population[Resident]):
    """The guests of this host and their QEMUs: started, found, followed to their ends."""

    def __init__(
        self,
        state_dir: Path,
        *,
        namespaces: Namespaces | None = None,
        netns: str = "",
        clock: Clock | None = None,
        accelerator: str = "",
    ) -> None:
        super().__init__(state_dir, namespaces=namespaces, netns=netns, clock=clock)
        self.accelerator = accelerator
        self._guests_dir = state_dir / "guests"
        self._owner = qemu.UNPRIVILEGED if os.geteuid() == 0 else None
        self._images = ImageCache(state_dir / "images", self._clock)
        self._strays: dict[str, int] = {}  # QEMUs in folders that say nothing: id -> pid

    def _runs(self, resident: Resident) -> bool:
        return resident.emulator is not None

    def _seen(self, resident: Resident) -> Guest:
        spec = resident.spec
        has_sockets = resident.emulator is not None
        return Guest(
            id=spec.id,
            power_state=resident.power_state,
            name=spec.name,
            project_id=spec.project_id,
            vcpus=spec.vcpus,
            ram_mib=spec.ram_mib,
            disk_gib=spec.root_gib + spec.ephemeral_gib,
            ports=tuple(nic.port_id for nic in spec.nics),
            volumes=tuple(volume.volume_id for volume in spec.volumes),
            vnc_socket=str(resident.folder.vnc_socket) if has_sockets else "",
            serial_socket=str(resident.folder.serial_socket) if has_sockets else "",
        )

    async def _base(self, spec: GuestSpec) -> CachedImage | None:
        return await self._base_of(spec.image) if spec.image else None

    def _running(self, resident: Resident) -> qemu.Emulator:
        check_running(resident.spec.id, resident.power_state)
        if resident.emulator is None:
            raise Unavailable(f"Guest {resident.spec.id} is going down.")
        return resident.emulator

    async def _wake(self, resident: Resident) -> None:
        """The memory is dropped before the guest goes on: it never goes on from the same one twice."""
        folder = resident.folder
        await self._launch(resident, folder.read_layout())
        if resident.emulator is None:
            raise Unavailable(f"Guest {resident.spec.id} ended while it was woken.")
        try:
            await qemu_memory.load(resident.emulator, folder.memory, self._clock)
        except (Conflict, Unavailable):
            await self._power_off(resident, 0, drop=False)
            resident.power_state = SUSPENDED
            raise
        await asyncio.to_thread(folder.drop_memory)
        resident.power_state = PAUSED
        await self._command(resident, "cont", RUNNING)

    async def _launch(self, resident: Resident, saved: qemu_memory.Layout | None = None) -> None:
        if saved is None:
            await self._rewrite(resident, volumes=afresh(resident.spec.volumes))
        spec, folder = resident.spec, resident.folder
        base = await self._base(spec)
        disks = folder.disks(spec, base, self._images.folder)
        if rescue := await asyncio.to_thread(folder.read_rescue):
            behind = await self._base_of(rescue)
            disks = (folder.rescue_disk(behind, self._images.folder), *disks)
        running = await asyncio.to_thread(qemu.running_in, self._guests_dir)
        if nobodys := running.get(spec.id):  # of a dead process, or deaf
            await kill(nobodys)
        with ExitStack() as opened:
            sockets: dict[str, socket.socket] = {
                name: opened.enter_context(qemu.listen(folder.path / f"{name}.sock"))
                for name in qemu.SOCKETS
            }
            taps = await self._open_taps(spec.nics, opened)
            machine = qemu.Machine(
                id=spec.id,
                vcpus=spec.vcpus,
                ram_mib=spec.ram_mib,
                accelerator=self.accelerator,
                disks=disks,
                cards=tuple(
                    card_of(nic, tap, saved.cards.get(nic.port_id, 0) if saved else 0)
                    for nic, tap in zip(spec.nics, taps, strict=True)
                ),
                sockets={name: plug.fileno() for name, plug in sockets.items()},
                ports=saved.ports if saved else _ports(spec),
                waits=saved is not None,
                stands=bool(spec.volumes),
            )
            emulator = await qemu.Emulator.launch(
                machine,
                folder.path,
                acceleration.prefix(self._owner, self.accelerator),
                lambda event: self._heard(resident, event),
            )
        try:
            await self._take(resident, emulator)
        except Unavailable:
            await emulator.kill()
            await emulator.close()
            raise
        if spec.volumes:
            boots = not (rescue or spec.image or spec.root_gib)
            await self._furnish(resident, saved, boots)

    async def _furnish(
        self, resident: Resident, saved: qemu_memory.Layout | None, boots: bool
    ) -> None:
        """Give a guest that stands still its volumes; one that has no memory to wait for goes on.

        `boots`: it starts from the first of them.
        """
        emulator, spec = resident.emulator, resident.spec
        if emulator is None:
            raise Unavailable(f"Guest {spec.id} ended while it started.")
        try:
            await guest_volumes.plug_all(emulator, resident.folder, spec.volumes, saved, boots)
            if saved is None:
                await self._command(resident, "cont", RUNNING)
        except (Conflict, Unavailable):
            await self._power_off(resident, 0, drop=False)
            if saved is not None:
                resident.power_state = SUSPENDED
            raise

    async def _open_taps(self, nics: tuple[Nic, ...], opened: ExitStack) -> list[int]:
        def job() -> list[int]:
            return [opened.enter_context(_descriptor(qemu.open_tap(nic.device))) for nic in nics]

        return await self._namespaces.call(self._netns, job) if nics else []

    async def _take(self, resident: Resident, emulator: qemu.Emulator) -> None:
        """Speak to a QEMU, started or found, and follow it to its end."""
        await emulator.attach()
        resident.power_state = _STATES.get(await emulator.status(), RUNNING)
        resident.emulator = emulator
        resident.follower = asyncio.create_task(self._follow(resident, emulator))

    async def _follow(self, resident: Resident, emulator: qemu.Emulator) -> None:
        await emulator.ended()
        await emulator.close()
        resident.emulator = resident.follower = None
        resident.power_state = SHUTDOWN if emulator.was_asked_off else CRASHED
        if not resident.is_in_hand:
            log.info("guest %s ended: %s", resident.spec.id, resident.power_state)
            self._tell(resident)

    def _heard(self, resident: Resident, event: str) -> None:
        state = {"STOP": PAUSED, "RESUME": RUNNING}.get(event)
        if state is None or resident.is_in_hand or resident.emulator is None:
            return
        if resident.power_state != state and not resident.emulator.was_asked_off:
            resident.power_state = state
            self._tell(resident)

    async def _command(self, resident: Resident, command: str, state: int) -> None:
        if resident.emulator:
            await resident.emulator.execute(command)
            resident.power_state = state

    async def _power_off(self, resident: Resident, timeout_s: float, *, drop: bool = True) -> None:
        """Ask, wait, pull the plug. The state is SHUTDOWN after, however it went.

        `drop`: a suspended guest forgets what it had in its memory.
        """
        emulator, follower = resident.emulator, resident.follower
        if emulator is not None and follower is not None:
            if resident.power_state == RUNNING:
                await self._press_button(emulator, timeout_s)
            await emulator.kill()
            await follower
        if drop:
            await asyncio.to_thread(resident.folder.drop_memory)
        resident.power_state = SHUTDOWN

    async def _press_button(self, emulator: qemu.Emulator, timeout_s: float) -> None:
        end = self._clock.monotonic() + timeout_s
        while (left := end - self._clock.monotonic()) > 0:
            try:
                await emulator.power_button()
            except Unavailable:
                return  # it is going down already
            if await emulator.ended(min(left, BUTTON_S)):
                return

    async def _make_disks(self, resident: Resident, base: CachedImage | None) -> None:
        with making(resident.spec.id):
            await resident.folder.make_disks(resident.spec, base, self._images.folder)

    async def _destroy(self, guest_id: str) -> None:
        resident = self._residents.get(guest_id)
        if resident:
            with held(resident):
                await self._power_off(resident, 0)
            del self._residents[guest_id]
        if stray := self._strays.pop(guest_id, None):
            await kill(stray)
        folder = GuestFolder(self._guests_dir, guest_id, self._owner)
        await asyncio.to_thread(folder.remove)

    async def _adopt(self) -> None:
        """Find the guests that an earlier process left, running or not."""
        running = await asyncio.to_thread(qemu.running_in, self._guests_dir)
        for path in sorted(self._guests_dir.iterdir()):
            folder = GuestFolder(self._guests_dir, path.name, self._owner)
            spec = folder.read_spec()
            if spec is None:
                continue
            resident = Resident(spec, folder, SHUTDOWN if folder.is_made else NO_STATE)
            if folder.read_layout():
                resident.power_state = SUSPENDED
            self._residents[spec.id] = resident
            if pid := running.pop(spec.id, None):
                await self._adopt_one(resident, pid)
        self._strays = running

    async def _adopt_one(self, resident: Resident, pid: int) -> None:
        """A QEMU that does not answer is left as it is until somebody starts the guest anew.

        One whose memory is on disk in full was on its way there, or was about to read it.
        """
        if resident.power_state == SUSPENDED:
            await kill(pid)
            return
        try:
            emulator = qemu.Emulator(
                pid, resident.folder.path, lambda event: self._heard(resident, event)
            )
        except ProcessLookupError:
            return  # it ended since we looked
        try:
            await self._take(resident, emulator)
        except Unavailable as silent:
            await emulator.close()
            log.warning("guest %s does not answer: %s", resident.spec.id, silent.internal)
            resident.power_state = CRASHED
        else:
            resident.folder.finish()


@contextmanager
def making(guest_id: str) -> Iterator[None]:
    """Raises Unavailable where a command fails."""
    try:
        yield
    except ProcessFailed as failed:
        raise Unavailable(
            f"A disk of guest {guest_id} cannot be made.", internal=str(failed)
        ) from failed


def _ports(spec: GuestSpec) -> int:
    return len(spec.nics) + len(spec.volumes) + qemu.SPARE_PORTS


def card_of(nic: Nic, tap: int, port: int = 0) -> qemu.Card:
    return qemu.Card(nic.port_id, nic.mac, nic.mtu, tap, port)


@contextmanager
def _descriptor(number: int) -> Iterator[int]:
    try:
        yield number
    finally:
        os.close(number)

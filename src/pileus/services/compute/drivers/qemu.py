"""Real guests: one QEMU each, driven over QMP, living in one folder each under the state folder.

    accelerator.json      what the trial boot found, and for which QEMU
    images/               fetched images, shared by the guests that stand on them
    guests/<id>/          see `guest_folder`

The QEMUs are nobody's children for long: they outlive this process and are found again by the
folder they run in.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import platform
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import msgspec

from pileus.host import qemu, qemu_memory
from pileus.host.image_cache import CachedImage, ImageCache
from pileus.host.netns import Namespaces
from pileus.host.process import ProcessFailed, kill
from pileus.kernel.faults import Invalid, NotFound, Unavailable
from pileus.kernel.world import Clock
from pileus.services.compute.driver import (
    CRASHED,
    NO_STATE,
    PAUSED,
    RUNNING,
    SHUTDOWN,
    SUSPENDED,
    Diagnostics,
    Guest,
    GuestSpec,
    Inventory,
    Nic,
    Turns,
    Watcher,
    check_epoch,
    check_nic,
    check_root_size,
    check_running,
    check_settled,
    check_spec,
    last_lines,
)
from pileus.services.compute.drivers import acceleration, guest_folder, guest_numbers
from pileus.services.compute.drivers.guest_folder import GuestFolder

SOFT_REBOOT_S = 60  # how long a guest may take to go down before a soft reboot pulls the plug
BUTTON_S = 10  # between two presses of the power button: a guest that boots does not hear the first
TRIM_S = 5  # between two looks at the logs
IMAGES_S = 600  # between two looks for images that no guest needs
IMAGE_KEPT_S = 86_400  # of an image without a guest: another server of it may follow

_TRAITS = (
    "COMPUTE_NODE",
    "COMPUTE_IMAGE_TYPE_ISO",
    "COMPUTE_IMAGE_TYPE_QCOW2",
    "COMPUTE_IMAGE_TYPE_RAW",
    "COMPUTE_IMAGE_TYPE_VDI",
    "COMPUTE_IMAGE_TYPE_VHD",
    "COMPUTE_IMAGE_TYPE_VMDK",
    "COMPUTE_NET_VIF_MODEL_VIRTIO",
    "COMPUTE_STORAGE_BUS_VIRTIO",
    "COMPUTE_GRAPHICS_MODEL_VGA",
)
_STATES = {"running": RUNNING, "paused": PAUSED, "shutdown": SHUTDOWN, "guest-panicked": CRASHED}
_STATES |= dict.fromkeys(("postmigrate", "inmigrate", "prelaunch"), PAUSED)
log = logging.getLogger(__name__)


@dataclass
class Resident:
    """A guest of this host and, while it has one, its QEMU."""

    spec: GuestSpec
    folder: GuestFolder
    power_state: int = NO_STATE
    emulator: qemu.Emulator | None = None
    follower: asyncio.Task[None] | None = None
    is_in_hand: bool = False  # a verb is at work; what happens now is no news


class QemuComputeDriver:
    """`ComputeDriver` over QEMU. `netns` names the namespace of the taps, `""` for our own."""

    def __init__(
        self,
        state_dir: Path,
        *,
        namespaces: Namespaces | None = None,
        netns: str = "",
        clock: Clock | None = None,
        accelerator: str = "",
    ) -> None:
        self.accelerator = accelerator
        self._state_dir = state_dir
        self._guests_dir = state_dir / "guests"
        self._namespaces = namespaces or Namespaces()
        self._netns = netns
        self._clock = clock or Clock()
        self._owner = qemu.UNPRIVILEGED if os.geteuid() == 0 else None
        self._images = ImageCache(state_dir / "images", self._clock)
        self._residents: dict[str, Resident] = {}
        self._strays: dict[str, int] = {}  # QEMUs in folders that say nothing: id -> pid
        self._turns = Turns()
        self._watchers: list[Watcher] = []
        self._version = 0
        self._chores: list[asyncio.Task[None]] = []

    async def start_up(self) -> None:
        """Raises Unavailable where QEMU is missing. When it is up already, nothing happens."""
        if self._chores:
            return
        for folder in (self._state_dir, self._guests_dir, self._images.folder):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o711)
        self._images.start_up()
        await asyncio.to_thread(guest_folder.clear, self._guests_dir)
        try:
            self._version = await qemu.version()
            self.accelerator = await acceleration.settle(
                self._state_dir, self._version, self.accelerator, self._owner
            )
        except ProcessFailed as missing:
            raise Unavailable(
                "QEMU cannot run here; `make setup` installs it.", internal=missing.reason
            ) from None
        await self._adopt()
        self._chores = [
            asyncio.create_task(self._trim_logs()),
            asyncio.create_task(self._drop_images()),
        ]

    async def close(self) -> None:
        tasks = [r.follower for r in self._residents.values() if r.follower] + self._chores
        self._chores = []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for resident in self._residents.values():
            if resident.emulator:
                await resident.emulator.close()
        self._residents.clear()
        self._watchers.clear()
        await self._images.close()

    async def spawn(self, spec: GuestSpec) -> Guest:
        check_spec(spec)
        if not _is_uuid(spec.id):
            raise Invalid(f"Guest id {spec.id!r} is not a UUID with dashes; QEMU needs one.")
        async with self._turns.of(spec.id), AsyncExitStack() as undo:
            known = self._residents.get(spec.id)
            if known:
                check_epoch(spec, known.spec.epoch)
                if known.power_state != NO_STATE:
                    return self._seen(known)
            else:
                undo.push_async_callback(self._destroy, spec.id)
            await self._make(spec)
            undo.pop_all()
            return self._seen(self._residents[spec.id])

    async def destroy(self, guest_id: str) -> None:
        if _is_uuid(guest_id):  # no other guest can be here
            async with self._turns.of(guest_id):
                await self._destroy(guest_id)

    async def start(self, guest_id: str) -> Guest:
        async with self._in_hand(guest_id) as resident:
            if resident.power_state == SUSPENDED:
                await self._wake(resident)
            elif resident.emulator is None:
                await self._launch(resident)
            elif resident.power_state == PAUSED:
                await self._command(resident, "cont", RUNNING)
            return self._seen(resident)

    async def stop(self, guest_id: str, timeout_s: float) -> Guest:
        async with self._in_hand(guest_id) as resident:
            await self._power_off(resident, timeout_s)
            return self._seen(resident)

    async def reboot(self, guest_id: str, hard: bool) -> Guest:
        async with self._in_hand(guest_id) as resident:
            await self._power_off(resident, 0 if hard else SOFT_REBOOT_S)
            await self._launch(resident)
            return self._seen(resident)

    async def plug(self, guest_id: str, nic: Nic) -> Guest:
        check_nic(nic)
        async with self._in_hand(guest_id) as resident:
            check_settled(guest_id, resident.power_state)
            if resident.emulator:
                with ExitStack() as opened:
                    if f"nic-{nic.port_id}" not in await resident.emulator.devices():
                        (tap,) = await self._open_taps((nic,), opened)
                        await resident.emulator.add_card(_card(nic, tap))
            others = [other for other in resident.spec.nics if other.port_id != nic.port_id]
            await self._rewrite(resident, (*others, nic))
            return self._seen(resident)

    async def unplug(self, guest_id: str, port_id: str) -> Guest:
        async with self._in_hand(guest_id) as resident:
            check_settled(guest_id, resident.power_state)
            if resident.emulator:
                await resident.emulator.remove_card(port_id, self._clock)
            kept = tuple(nic for nic in resident.spec.nics if nic.port_id != port_id)
            await self._rewrite(resident, kept)
            return self._seen(resident)

    async def pause(self, guest_id: str) -> Guest:
        async with self._in_hand(guest_id) as resident:
            if resident.power_state == RUNNING:
                await self._command(resident, "stop", PAUSED)
            return self._seen(resident)

    async def unpause(self, guest_id: str) -> Guest:
        async with self._in_hand(guest_id) as resident:
            if resident.power_state == PAUSED:
                await self._command(resident, "cont", RUNNING)
            return self._seen(resident)

    async def suspend(self, guest_id: str) -> Guest:
        async with self._in_hand(guest_id) as resident:
            emulator, follower, folder = resident.emulator, resident.follower, resident.folder
            if emulator is not None and follower is not None:
                places = await qemu_memory.layout(emulator)
                await qemu_memory.save(emulator, folder.memory, self._clock)
                await asyncio.to_thread(folder.lay_aside, places)
                await emulator.kill()
                await follower
                resident.power_state = SUSPENDED
            return self._seen(resident)

    async def resume(self, guest_id: str) -> Guest:
        async with self._in_hand(guest_id) as resident:
            if resident.power_state == SUSPENDED:
                await self._wake(resident)
            elif resident.power_state == PAUSED:  # an attempt got so far
                await self._command(resident, "cont", RUNNING)
            return self._seen(resident)

    async def inject_nmi(self, guest_id: str) -> None:
        async with self._in_hand(guest_id) as resident:
            await self._running(resident).execute("inject-nmi")

    async def set_password(self, guest_id: str, user: str, password: str) -> None:
        secret = base64.b64encode(password.encode()).decode()
        async with self._in_hand(guest_id) as resident:
            emulator = self._running(resident)
            await emulator.ask_agent(
                "guest-set-user-password", username=user, password=secret, crypted=False
            )

    async def diagnostics(self, guest_id: str) -> Diagnostics:
        async with self._in_hand(guest_id) as resident:
            emulator = self._running(resident)
            traffic = await self._namespaces.call(self._netns, guest_numbers.traffic)
            return await guest_numbers.read(
                emulator, resident.spec, traffic, self.accelerator, self._clock.time()
            )

    async def console_log(self, guest_id: str, lines: int | None) -> str:
        folder = self._find(guest_id).folder
        return last_lines(await asyncio.to_thread(folder.console), lines)

    async def guests(self) -> list[Guest]:
        return [self._seen(self._residents[guest_id]) for guest_id in sorted(self._residents)]

    async def inventory(self) -> Inventory:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        disk = await asyncio.to_thread(shutil.disk_usage, self._state_dir)
        return Inventory(
            vcpus=os.cpu_count() or 1,
            ram_mib=memory >> 20,
            disk_gib=disk.total >> 30,
            hypervisor_type="QEMU",
            hypervisor_version=self._version,
            cpu_arch=platform.machine(),
            traits=_TRAITS,
        )

    async def sweep(self, keep: set[str]) -> list[str]:
        found = {name for name in os.listdir(self._guests_dir) if _is_uuid(name)}
        orphans = sorted((found | self._residents.keys() | self._strays.keys()) - keep)
        for guest_id in orphans:
            await self.destroy(guest_id)
        return orphans

    def watch(self, callback: Watcher) -> None:
        if callback not in self._watchers:
            self._watchers.append(callback)

    @asynccontextmanager
    async def _in_hand(self, guest_id: str) -> AsyncIterator[Resident]:
        async with self._turns.of(guest_id):
            resident = self._find(guest_id)
            with _held(resident):
                yield resident

    def _find(self, guest_id: str) -> Resident:
        try:
            return self._residents[guest_id]
        except KeyError:
            raise NotFound(f"Guest {guest_id} is not on this host.") from None

    def _seen(self, resident: Resident) -> Guest:
        spec = resident.spec
        has_sockets = resident.emulator is not None
        return Guest(
            id=spec.id,
            power_state=resident.power_state,
            name=spec.name,
            project_id=spec.project_id,
            epoch=spec.epoch,
            vcpus=spec.vcpus,
            ram_mib=spec.ram_mib,
            disk_gib=spec.root_gib + spec.ephemeral_gib,
            ports=tuple(nic.port_id for nic in spec.nics),
            vnc_socket=str(resident.folder.vnc_socket) if has_sockets else "",
            serial_socket=str(resident.folder.serial_socket) if has_sockets else "",
        )

    async def _make(self, spec: GuestSpec) -> None:
        """Folder, disks, QEMU: whatever of it is missing.

        The newest spec of an unmade guest holds.
        """
        with contextlib.ExitStack() as taps:
            await self._open_taps(spec.nics, taps)  # to fail early, before an image is fetched
        folder = GuestFolder(self._guests_dir, spec.id, self._owner)
        resident = Resident(spec, folder)
        self._residents[spec.id] = resident
        with _held(resident):
            await asyncio.to_thread(folder.create, spec)
            base = await self._base(spec)
            if base:
                check_root_size(spec, base.virtual_size)
            try:
                await folder.make_disks(spec, base, self._images.folder)
            except ProcessFailed as failed:
                raise Unavailable(
                    f"A disk of guest {spec.id} cannot be made.", internal=str(failed)
                ) from failed
            await self._launch(resident)
            await asyncio.to_thread(folder.finish)

    async def _base(self, spec: GuestSpec) -> CachedImage | None:
        image = spec.image
        if image is None:
            return None
        return await self._images.get(
            image.id, image.url, image.disk_format, image.checksum_sha512, image.size
        )

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
        except Unavailable:
            await self._power_off(resident, 0, drop=False)
            resident.power_state = SUSPENDED
            raise
        await asyncio.to_thread(folder.drop_memory)
        resident.power_state = PAUSED
        await self._command(resident, "cont", RUNNING)

    async def _launch(self, resident: Resident, saved: qemu_memory.Layout | None = None) -> None:
        spec, folder = resident.spec, resident.folder
        base = await self._base(spec)
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
                disks=folder.disks(spec, base, self._images.folder),
                cards=tuple(
                    _card(nic, tap, saved.cards.get(nic.port_id, 0) if saved else 0)
                    for nic, tap in zip(spec.nics, taps, strict=True)
                ),
                sockets={name: plug.fileno() for name, plug in sockets.items()},
                ports=saved.ports if saved else 0,
                waits=saved is not None,
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

    def _tell(self, resident: Resident) -> None:
        if self._residents.get(resident.spec.id) is resident:
            for callback in self._watchers:
                callback(self._seen(resident))

    async def _rewrite(self, resident: Resident, nics: tuple[Nic, ...]) -> None:
        """Remember the NICs for the next start."""
        if nics != resident.spec.nics:
            resident.spec = msgspec.structs.replace(resident.spec, nics=nics)
            await asyncio.to_thread(resident.folder.write_spec, resident.spec)

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

    async def _destroy(self, guest_id: str) -> None:
        resident = self._residents.get(guest_id)
        if resident:
            with _held(resident):
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

    async def drop_images(self) -> list[str]:
        """Forget the images that no guest has needed for a day; their ids."""
        specs = [resident.spec for resident in self._residents.values()]
        return await self._images.forget(IMAGE_KEPT_S, {s.image.id for s in specs if s.image})

    async def _drop_images(self) -> None:
        while True:
            await self._clock.sleep(IMAGES_S)
            for image_id in await self.drop_images():
                log.info("image %s was dropped: no guest needs it", image_id)

    async def _trim_logs(self) -> None:
        while True:
            await self._clock.sleep(TRIM_S)
            for resident in list(self._residents.values()):
                if resident.emulator:
                    await asyncio.to_thread(resident.folder.trim_logs)


def _card(nic: Nic, tap: int, port: int = 0) -> qemu.Card:
    return qemu.Card(nic.port_id, nic.mac, nic.mtu, tap, port)


@contextmanager
def _held(resident: Resident) -> Iterator[None]:
    resident.is_in_hand = True
    try:
        yield
    finally:
        resident.is_in_hand = False


@contextmanager
def _descriptor(number: int) -> Iterator[int]:
    try:
        yield number
    finally:
        os.close(number)


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False

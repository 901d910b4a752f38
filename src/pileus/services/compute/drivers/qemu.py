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
import functools
import logging
import socket
from contextlib import AsyncExitStack, ExitStack

import msgspec

from pileus.host import qemu, qemu_memory, qemu_volumes, uploads
from pileus.host.process import ProcessFailed
from pileus.kernel.faults import Invalid, NotFound, Unavailable
from pileus.services.compute.driver import (
    NO_STATE,
    PAUSED,
    RUNNING,
    SUSPENDED,
    Diagnostics,
    Guest,
    GuestSpec,
    ImageSource,
    Inventory,
    Nic,
    PluggedVolume,
    check_growth,
    check_nic,
    check_pluggable,
    check_root_size,
    check_running,
    check_settled,
    check_spec,
    check_unpluggable,
)
from pileus.services.compute.drivers import (
    acceleration,
    guest_folder,
    guest_numbers,
    guest_sizes,
    guest_snapshots,
    guest_volumes,
)
from pileus.services.compute.drivers.guest_folder import GuestFolder
from pileus.services.compute.drivers.population import held, is_uuid
from pileus.services.compute.drivers.qemu_migration import Travellers
from pileus.services.compute.drivers.residents import Resident, card_of, making
from pileus.services.compute.plugged_volume import (
    carried,
    check_volume,
    plugged,
    swapped,
    unplugged,
)

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
log = logging.getLogger(__name__)


class QemuComputeDriver(Travellers):
    """`ComputeDriver` over QEMU. `netns` names the namespace of the taps, `""` for our own."""

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
        await self._underway.close()
        self._handover.close()
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
        if not is_uuid(spec.id):
            raise Invalid(f"Guest id {spec.id!r} is not a UUID with dashes; QEMU needs one.")
        async with self._turns.of(spec.id), AsyncExitStack() as undo:
            known = self._residents.get(spec.id)
            if known and known.power_state != NO_STATE:
                return self._seen(known)
            if not known:
                undo.push_async_callback(self._destroy, spec.id)
            await self._make(spec)
            undo.pop_all()
            return self._seen(self._residents[spec.id])

    async def destroy(self, guest_id: str) -> None:
        if is_uuid(guest_id):  # no other guest can be here
            self._stop_copying(guest_id)
            await self.abandon(guest_id)
            async with self._turns.of(guest_id):
                await self._destroy(guest_id)
                self._forget_move(guest_id)
                self._made.pop(guest_id, None)

    async def start(self, guest_id: str) -> Guest:
        async with self._in_hand(guest_id) as resident:
            if resident.power_state == SUSPENDED:
                await self._wake(resident)
            elif resident.emulator is None:
                await self._launch(resident)
            elif resident.power_state == PAUSED:
                await self._command(resident, "cont", RUNNING)
            return self._seen(resident)

    async def plug(self, guest_id: str, nic: Nic) -> Guest:
        check_nic(nic)
        async with self._in_hand(guest_id) as resident:
            check_settled(guest_id, resident.power_state)
            if resident.emulator:
                with ExitStack() as opened:
                    if f"nic-{nic.port_id}" not in await resident.emulator.devices():
                        (tap,) = await self._open_taps((nic,), opened)
                        await resident.emulator.add_card(card_of(nic, tap))
            others = [other for other in resident.spec.nics if other.port_id != nic.port_id]
            await self._rewrite(resident, nics=(*others, nic))
            return self._seen(resident)

    async def unplug(self, guest_id: str, port_id: str) -> Guest:
        async with self._in_hand(guest_id) as resident:
            check_unpluggable(resident.spec, resident.power_state, port_id)
            if resident.emulator:
                await resident.emulator.remove_card(port_id, self._clock)
            kept = tuple(nic for nic in resident.spec.nics if nic.port_id != port_id)
            await self._rewrite(resident, nics=kept)
            return self._seen(resident)

    async def plug_volume(self, guest_id: str, volume: PluggedVolume) -> Guest:
        check_volume(volume)
        async with self._in_hand(guest_id) as resident:
            check_pluggable(resident.spec, resident.power_state, volume)
            volumes = plugged(resident.spec.volumes, volume)
            if resident.emulator:
                (volume,) = carried(volumes, (volume,))
                told = await asyncio.to_thread(guest_volumes.told, resident.folder, volume)
                await qemu_volumes.plug(resident.emulator, told)
            await self._rewrite(resident, volumes=volumes)
            return self._seen(resident)

    async def unplug_volume(self, guest_id: str, volume_id: str) -> Guest:
        async with self._in_hand(guest_id) as resident:
            check_unpluggable(resident.spec, resident.power_state, volume_id)
            for volume in resident.spec.volumes:
                if volume.volume_id == volume_id and resident.emulator:
                    await guest_volumes.unplug(
                        resident.emulator, resident.folder, volume, self._clock
                    )
            await self._rewrite(resident, volumes=unplugged(resident.spec.volumes, volume_id))
            return self._seen(resident)

    async def swap_volume(self, guest_id: str, volume_id: str, other: PluggedVolume) -> Guest:
        check_volume(other)

        async def swap() -> Guest:
            async with self._in_hand(guest_id) as resident:
                had = resident.spec.volumes
                volumes = swapped(had, volume_id, other)
                keep = functools.partial(self._rewrite, resident, volumes=volumes)
                if resident.emulator:
                    (new,) = carried(volumes, (other,))
                    await guest_volumes.swap(
                        resident.emulator, resident.folder, new, keep, self._clock
                    )
                elif other.volume_id not in {volume.volume_id for volume in had}:
                    check_running(guest_id, resident.power_state)
                await keep()
                await guest_volumes.forget(resident.folder, volume_id)
                return self._seen(resident)

        return await self._underway.do(guest_id, f"{volume_id} for {other.volume_id}", swap)

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

    async def rebuild(self, spec: GuestSpec, run: bool) -> Guest:
        check_spec(spec)
        async with self._in_hand(spec.id) as resident:
            base = await self._base(spec)
            if base:
                check_root_size(spec, base.virtual_size)
            await self._power_off(resident, 0)
            folder = resident.folder
            await asyncio.to_thread(folder.forget_disks)
            resident.spec = spec
            await asyncio.to_thread(folder.write_spec, spec)
            await self._make_disks(resident, base)
            if run:
                await self._launch(resident)
            return self._seen(resident)

    async def rescue(self, guest_id: str, image: ImageSource) -> Guest:
        async with self._in_hand(guest_id) as resident:
            folder = resident.folder
            known = await asyncio.to_thread(folder.read_rescue)
            if known and known.id == image.id and resident.power_state == RUNNING:
                return self._seen(resident)
            base = await self._base_of(image)
            await self._power_off(resident, 0)
            with making(guest_id):
                await folder.make_rescue(image, base, self._images.folder)
            await self._launch(resident)
            return self._seen(resident)

    async def resize(self, spec: GuestSpec, timeout_s: float, run: bool) -> Guest:
        check_spec(spec)
        async with self._in_hand(spec.id) as resident:
            folder = resident.folder
            spec = msgspec.structs.replace(spec, image=resident.spec.image)  # what it stands on
            if await asyncio.to_thread(guest_sizes.before, folder) is None:
                check_growth(resident.spec, spec)
                await self._power_off(resident, timeout_s)
                await guest_sizes.keep(folder, resident.spec)
            if guest_sizes.sizes(resident.spec) != guest_sizes.sizes(spec):
                await guest_sizes.apply(folder, spec)
                resident.spec = spec
            await self._make_disks(resident, await self._base(spec))
            return await self._powered(resident, run)

    async def revert_resize(self, guest_id: str, run: bool) -> Guest:
        async with self._in_hand(guest_id) as resident:
            old = await asyncio.to_thread(guest_sizes.before, resident.folder)
            if old is None:
                await asyncio.to_thread(guest_sizes.forget, resident.folder)
            else:
                held = {"nics": resident.spec.nics, "volumes": resident.spec.volumes}
                old = msgspec.structs.replace(old, **held)
                await self._power_off(resident, 0)
                resident.spec = old
                await asyncio.to_thread(guest_sizes.restore, resident.folder, old)
                await self._make_disks(resident, await self._base(old))
            return await self._powered(resident, run)

    async def snapshot(self, guest_id: str, name: str) -> str:
        async with self._in_hand(guest_id) as resident:
            taking = guest_snapshots.take(resident.folder, resident.emulator, name, self._clock)
            await self._copied(guest_id, taking)
            return guest_snapshots.FORMAT

    async def send_snapshot(self, guest_id: str, name: str, url: str) -> None:
        path = guest_snapshots.path_of(self._find(guest_id).folder, name)
        if not path.exists():
            raise NotFound(f"Guest {guest_id} has no snapshot {name}.")
        async with self._turns.of(f"{guest_id} {name}"):  # the guest may be worked on meanwhile
            await uploads.send(url, path)

    async def drop_snapshot(self, guest_id: str, name: str) -> None:
        self._stop_copying(guest_id)
        async with self._turns.of(guest_id):
            if resident := self._residents.get(guest_id):
                await guest_snapshots.drop(resident.folder, resident.emulator, name, self._clock)

    async def console(self, guest_id: str, kind: str) -> socket.socket:
        resident = self._find(guest_id)
        check_running(guest_id, resident.power_state)
        sockets = {"vnc": resident.folder.vnc_socket, "serial": resident.folder.serial_socket}
        return qemu.connected(sockets[kind])

    async def inventory(self) -> Inventory:
        return await self._counted("QEMU", _TRAITS)

    async def _make(self, spec: GuestSpec) -> None:
        """Folder, disks, QEMU: whatever of it is missing.

        The newest spec of an unmade guest holds.
        """
        with contextlib.ExitStack() as taps:
            await self._open_taps(spec.nics, taps)  # to fail early, before an image is fetched
        folder = GuestFolder(self._guests_dir, spec.id, self._owner)
        resident = Resident(spec, folder)
        self._residents[spec.id] = resident
        with held(resident):
            await asyncio.to_thread(folder.create, spec)
            base = await self._base(spec)
            if base:
                check_root_size(spec, base.virtual_size)
            await self._make_disks(resident, base)
            await self._launch(resident)
            await asyncio.to_thread(folder.finish)

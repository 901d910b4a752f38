"""Containers as guests: one runc each, from a root file system that an image holds.

    roots/                  unpacked images, shared by the guests whose trees lie over them
    containers/<id>/        see `container_folder`

They are nobody's children for long: they outlive this process and are found again by runc's notes.
What a container cannot do is refused by a sentence: it is not suspended, has no interrupts, one disk.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

import msgspec

from pileus.host import files, mounts, rootfs, runc, uploads
from pileus.host.process import ProcessFailed
from pileus.kernel.faults import Conflict, Invalid, NotFound, Unavailable
from pileus.services.compute.driver import (
    CONTAINER_TRAIT,
    NO_STATE,
    PAUSED,
    RUNNING,
    CpuNumbers,
    Diagnostics,
    DiskNumbers,
    Guest,
    GuestSpec,
    ImageSource,
    Inventory,
    Nic,
    PluggedVolume,
    check_growth,
    check_nic,
    check_spec,
)
from pileus.services.compute.drivers import container_wires as wires
from pileus.services.compute.drivers import guest_folder, guest_numbers, guest_sizes
from pileus.services.compute.drivers.container_folder import ContainerFolder
from pileus.services.compute.drivers.container_residents import ContainerResidents, Resident
from pileus.services.compute.drivers.population import held, is_uuid
from pileus.services.compute.drivers.settled import Settled

FORMAT = "raw"  # of a snapshot: a tar is no disk format
_TRAITS = ("COMPUTE_NODE", CONTAINER_TRAIT)
log = logging.getLogger(__name__)


class ContainerComputeDriver(ContainerResidents, Settled):
    """`ComputeDriver` over runc."""

    async def start_up(self) -> None:
        """Raises Unavailable where something is missing. When it is up already, nothing happens."""
        if self._chores:
            return
        if why := runc.what_lacks():
            raise Unavailable(f"Containers cannot run here: {why}.")
        for folder in (self._state_dir, self._guests_dir):
            folder.mkdir(parents=True, exist_ok=True)
        self._images.start_up()
        await asyncio.to_thread(guest_folder.clear, self._guests_dir)
        try:
            self._version = await runc.version()
            await self._adopt()
        except ProcessFailed as missing:
            raise Unavailable(
                "runc cannot run here; `make setup` installs it.", internal=missing.reason
            ) from None
        self._chores = [
            asyncio.create_task(self._trim_logs()),
            asyncio.create_task(self._drop_images()),
        ]

    async def close(self) -> None:
        lives = [r.life for r in self._residents.values() if r.life]
        tasks = [life.follower for life in lives if life.follower] + self._chores
        self._chores = []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for life in lives:
            life.close()
        self._residents.clear()
        self._watchers.clear()
        await self._images.close()
        for empty in (self._places / "runc", self._places):
            with suppress(OSError):  # it is not
                empty.rmdir()

    async def spawn(self, spec: GuestSpec) -> Guest:
        _check(spec)
        async with self._turns.of(spec.id), AsyncExitStack() as undo:
            known = self._residents.get(spec.id)
            if known is None:
                undo.push_async_callback(self._destroy, spec.id)
            elif known.power_state != NO_STATE:
                return self._seen(known)
            await self._make(spec)
            undo.pop_all()
            return self._seen(self._residents[spec.id])

    async def destroy(self, guest_id: str) -> None:
        if is_uuid(guest_id):  # no other guest can be here
            self._stop_copying(guest_id)
            async with self._turns.of(guest_id):
                await self._destroy(guest_id)

    async def start(self, guest_id: str) -> Guest:
        async with self._in_hand(guest_id) as resident:
            if resident.life is None:
                await self._launch(resident)
            elif resident.power_state == PAUSED:
                await self._go_on(resident)
            return self._seen(resident)

    async def plug(self, guest_id: str, nic: Nic) -> Guest:
        check_nic(nic)
        async with self._in_hand(guest_id) as resident:
            if resident.life:
                pid = resident.life.pid
                cards = await self._namespaces.call(f"/proc/{pid}/ns/net", wires.cards)
                if nic.mac.lower() not in cards:
                    await self._wire(pid, nic, wires.free_card(list(cards.values())))
                    await self._at_home(partial(wires.drop, [nic]))
            others = [other for other in resident.spec.nics if other.port_id != nic.port_id]
            await self._rewrite(resident, nics=(*others, nic))
            return self._seen(resident)

    async def unplug(self, guest_id: str, port_id: str) -> Guest:
        async with self._in_hand(guest_id) as resident:
            for nic in resident.spec.nics:
                if nic.port_id == port_id:
                    await self._at_home(partial(wires.unplug, nic))
            kept = tuple(nic for nic in resident.spec.nics if nic.port_id != port_id)
            await self._rewrite(resident, nics=kept)
            return self._seen(resident)

    async def plug_volume(self, guest_id: str, volume: PluggedVolume) -> Guest:
        self._find(guest_id)
        raise _no_volumes(guest_id)

    async def unplug_volume(self, guest_id: str, volume_id: str) -> Guest:
        """It never had it."""
        return self._seen(self._find(guest_id))

    async def swap_volume(self, guest_id: str, volume_id: str, other: PluggedVolume) -> Guest:
        return await self.plug_volume(guest_id, other)

    async def pause(self, guest_id: str) -> Guest:
        async with self._in_hand(guest_id) as resident:
            if resident.power_state == RUNNING:
                await self._runc.hold(guest_id)
                resident.power_state = PAUSED
            return self._seen(resident)

    async def unpause(self, guest_id: str) -> Guest:
        async with self._in_hand(guest_id) as resident:
            if resident.power_state == PAUSED:
                await self._go_on(resident)
            return self._seen(resident)

    async def suspend(self, guest_id: str) -> Guest:
        self._find(guest_id)
        raise Conflict(f"Guest {guest_id} is a container: its memory cannot be kept; pause it.")

    async def resume(self, guest_id: str) -> Guest:
        return self._seen(self._find(guest_id))

    async def stay(self, guest_id: str, run: bool) -> Guest:
        return self._seen(self._find(guest_id))

    async def inject_nmi(self, guest_id: str) -> None:
        self._running(self._find(guest_id))
        raise Conflict(f"Guest {guest_id} is a container: it takes no interrupts.")

    async def set_password(self, guest_id: str, user: str, password: str) -> None:
        """By the guest's own program. Raises Conflict where it has none."""
        if "\n" in password:
            raise Conflict("A password with a line break would be two.")
        async with self._in_hand(guest_id) as resident:
            self._running(resident)
            line = f"{user}:{password}\n".encode()
            await self._runc.execute(guest_id, "chpasswd", stdin=line)

    async def diagnostics(self, guest_id: str) -> Diagnostics:
        """Processor time is that of all its virtual CPUs, evenly: a container runs where it likes."""
        async with self._in_hand(guest_id) as resident:
            life, spec, folder = self._running(resident), resident.spec, resident.folder
            traffic = await self._namespaces.call(self._netns, guest_numbers.traffic)
            time_ns, memory = await asyncio.to_thread(runc.used, guest_id)
            disks = [at for at in (folder.rescue_at, folder.disk_at) if at.is_mount()]
            return Diagnostics(
                uptime_s=max(0, int(self._clock.time() - guest_numbers.started(life.pid))),
                cpus=tuple(
                    CpuNumbers(id=n, time_ns=time_ns // spec.vcpus) for n in range(spec.vcpus)
                ),
                disks=tuple(_disk_numbers(*mounts.requests(at)) for at in disks),
                nics=tuple(
                    guest_numbers.nic_numbers(nic.mac, traffic[nic.device])
                    for nic in spec.nics
                    if nic.device in traffic
                ),
                ram_used_mib=memory >> 20,
                hypervisor="lxc",  # the API's word for containers
            )

    async def rebuild(self, spec: GuestSpec, run: bool) -> Guest:
        _check(spec)
        async with self._in_hand(spec.id) as resident:
            await self._base_of(_image_of(spec))
            await self._power_off(resident, 0)
            await asyncio.to_thread(resident.folder.forget_disks)
            await self._respec(resident, spec)
            await resident.folder.make_disk(spec)
            await asyncio.to_thread(resident.folder.finish)
            return await self._powered(resident, run)

    async def rescue(self, guest_id: str, image: ImageSource) -> Guest:
        async with self._in_hand(guest_id) as resident:
            folder = resident.folder
            known = await asyncio.to_thread(folder.read_rescue)
            if known and known.id == image.id and resident.power_state == RUNNING:
                return self._seen(resident)
            _check_image(image)
            await self._base_of(image)
            await self._power_off(resident, 0)
            await folder.make_rescue_disk(image, resident.spec)
            await self._launch(resident)
            return self._seen(resident)

    async def resize(self, spec: GuestSpec, timeout_s: float, run: bool) -> Guest:
        _check(spec)
        async with self._in_hand(spec.id) as resident:
            folder = resident.folder
            if await asyncio.to_thread(guest_sizes.before, folder) is None:
                check_growth(resident.spec, spec)
                await self._power_off(resident, timeout_s)
                await asyncio.to_thread(folder.unmount)
                await guest_sizes.keep(folder, resident.spec)
            if guest_sizes.sizes(resident.spec) != guest_sizes.sizes(spec):
                await asyncio.to_thread(folder.unmount)
                await mounts.grow(folder.disk, spec.root_gib << 30)
                await self._respec(resident, spec)
            return await self._powered(resident, run)

    async def revert_resize(self, guest_id: str, run: bool) -> Guest:
        async with self._in_hand(guest_id) as resident:
            old = await asyncio.to_thread(guest_sizes.before, resident.folder)
            if old is None:
                await asyncio.to_thread(guest_sizes.forget, resident.folder)
            else:
                old = msgspec.structs.replace(old, nics=resident.spec.nics)
                await self._power_off(resident, 0)
                await asyncio.to_thread(resident.folder.unmount)
                resident.spec = old
                await asyncio.to_thread(guest_sizes.restore, resident.folder, old)
            return await self._powered(resident, run)

    async def snapshot(self, guest_id: str, name: str) -> str:
        async with self._in_hand(guest_id) as resident:
            await self._copied(guest_id, self._copy(resident, name))
            return FORMAT

    async def send_snapshot(self, guest_id: str, name: str, url: str) -> None:
        path = self._find(guest_id).folder.snapshot(name)
        if not path.exists():
            raise NotFound(f"Guest {guest_id} has no snapshot {name}.")
        async with self._turns.of(f"{guest_id} {name}"):  # the guest may be worked on meanwhile
            await uploads.send(url, path)

    async def drop_snapshot(self, guest_id: str, name: str) -> None:
        self._stop_copying(guest_id)
        async with self._turns.of(guest_id):
            if resident := self._residents.get(guest_id):
                resident.folder.snapshot(name).unlink(missing_ok=True)

    async def console(self, guest_id: str, kind: str) -> socket.socket:
        raise Conflict(f"Guest {guest_id} is a container, which has no {kind} console.")

    async def inventory(self) -> Inventory:
        return await self._counted("LXC", _TRAITS)

    async def _make(self, spec: GuestSpec) -> None:
        """Folder, disk, container: whatever of it is missing."""
        await self._at_home(partial(wires.require, spec.nics))  # to fail before an image is fetched
        resident = self._residents[spec.id] = Resident(spec, self._folder(spec.id))
        with held(resident):
            folder = resident.folder
            await asyncio.to_thread(folder.create, spec)
            noting = asyncio.to_thread(folder.write_spec, spec)
            await asyncio.gather(noting, self._base_of(_image_of(spec)), folder.make_disk(spec))
            flushing = asyncio.to_thread(files.sync_file, folder.disk)  # most of it, meanwhile
            await asyncio.gather(self._launch(resident), flushing)
            await asyncio.to_thread(folder.finish)

    async def _respec(self, resident: Resident, spec: GuestSpec) -> None:
        resident.spec = spec
        await asyncio.to_thread(resident.folder.write_spec, spec)

    async def _go_on(self, resident: Resident) -> None:
        await self._runc.release(resident.spec.id)
        resident.power_state = RUNNING

    async def _destroy(self, guest_id: str) -> None:
        resident = self._residents.get(guest_id)
        if resident:
            with held(resident):
                await self._power_off(resident, 0)
            del self._residents[guest_id]
        self._strays.discard(guest_id)
        await self._runc.delete(guest_id)
        await asyncio.to_thread(self._folder(guest_id).remove)

    async def _copy(self, resident: Resident, name: str) -> None:
        """Nothing is written while it is copied, so that the copy is of one moment."""
        folder = resident.folder
        path = folder.snapshot(name)
        if path.exists():
            return
        part = path.with_name(path.name + files.PART)
        await self._mount(resident)
        command = self._images.command(await self._base_of(_image_of(resident.spec)))
        runs = resident.power_state == RUNNING
        if runs:
            await self._runc.hold(folder.guest_id)
        try:
            part.touch(0o600)
            free = await asyncio.to_thread(shutil.disk_usage, folder.path)
            await rootfs.pack(folder.tree, command, part, free.free // 2)
            await asyncio.to_thread(_settle, part, folder, name)
        finally:
            if runs:
                await self._runc.release(folder.guest_id)
            part.unlink(missing_ok=True)


def _check(spec: GuestSpec) -> None:
    """Raise Invalid, or Conflict, for what a container cannot be."""
    check_spec(spec)
    if not is_uuid(spec.id):
        raise Invalid(f"Guest id {spec.id!r} is not a UUID with dashes; a container needs one.")
    if spec.volumes:
        raise _no_volumes(spec.id)
    if spec.ephemeral_gib or spec.swap_mib:
        raise Invalid(
            f"Guest {spec.id} is a container: it has one disk and no swap; "
            "a flavor without ephemeral disk and swap would do."
        )
    _check_image(_image_of(spec))


def _image_of(spec: GuestSpec) -> ImageSource:
    if spec.image is None:
        raise Invalid(f"Guest {spec.id} is a container: it needs an image.")
    return spec.image


def _check_image(image: ImageSource) -> None:
    if not image.is_for_containers:
        raise Invalid(
            f"Image {image.id} is a disk (container_format {image.container_format}); "
            "a container is made of a root file system (container_format docker)."
        )


def _disk_numbers(reads: int, read: int, writes: int, written: int) -> DiskNumbers:
    return DiskNumbers(
        read_requests=reads, read_bytes=read, write_requests=writes, write_bytes=written
    )


def _settle(part: Path, folder: ContainerFolder, name: str) -> None:
    files.sync_file(part)
    files.settle(part, folder.snapshot(name))


def _no_volumes(guest_id: str) -> Conflict:
    return Conflict(f"Guest {guest_id} is a container; only a virtual machine can have volumes.")

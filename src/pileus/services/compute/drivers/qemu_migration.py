"""Guests that go from one QEMU host to another, off or running: their disks, their memory, and the image below.

The two host processes speak to each other directly, by a URL with a ticket in it; no storage is shared. What the
sender's note says is how the guest is built, so that the other QEMU can be built alike.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import msgspec

from pileus.host import files, handover, qemu_memory, qemu_pages, qemu_transfer
from pileus.host.handover import Handover
from pileus.host.image_cache import CachedImage
from pileus.host.qemu import Emulator
from pileus.host.qemu_memory import Layout
from pileus.kernel.faults import Conflict, Unavailable
from pileus.services.compute.driver import (
    PAUSED,
    RUNNING,
    SHUTDOWN,
    Guest,
    GuestSpec,
    Parcel,
    Progress,
    Underway,
    check_growth,
    check_spec,
)
from pileus.services.compute.drivers import guest_sizes
from pileus.services.compute.drivers.guest_folder import GuestFolder
from pileus.services.compute.drivers.population import held
from pileus.services.compute.drivers.residents import Resident, Residents
from pileus.services.compute.plugged_volume import carried

_ROOT, _CONFIG = "disk.qcow2", "config.iso"
_WHOLE = (_ROOT, "ephemeral.raw", "swap.raw", _CONFIG)
_WAITS = "waits"  # a file in the folder of a guest that has not arrived
_BASE = "base"  # how the image below the root disk is asked for


class _Lent(msgspec.Struct, frozen=True, kw_only=True):
    """`layout`: of a guest that runs, whose devices must be in the same places."""

    spec: GuestSpec
    files: tuple[str, ...]
    base: CachedImage | None = None
    layout: Layout | None = None


class Travellers(Residents):
    """The moves of a `QemuComputeDriver`."""

    def __init__(self, state_dir: Path, *, control_url: str = "", **more: Any) -> None:
        """`control_url`: where control is; other hosts are on the same side of this one."""
        super().__init__(state_dir, **more)
        self._handover = Handover(control_url)
        self._underway = Underway()
        self._lent: dict[str, Parcel] = {}
        self._expected: dict[str, tuple[Parcel, Parcel]] = {}  # what is lent, and where to send it
        self._made: dict[str, Parcel] = {}  # what guests that are here by now were made of

    async def lend(self, guest_id: str) -> Parcel:
        async with self._in_hand(guest_id) as resident:
            note = msgspec.msgpack.encode(await self._describe(resident))
            known = self._lent.get(guest_id)
            if known is not None and known.note == note:
                return known
            folder, base = resident.folder.path, await self._base(resident.spec)
            offered = {name: folder / name for name in _WHOLE if (folder / name).exists()}
            if resident.emulator is not None:  # it writes to the others
                offered = {name: offered[name] for name in offered if name == _CONFIG}
            if base is not None:
                offered[_BASE] = self._images.path(base)
            url = await self._handover.lend(f"lend {guest_id}", offered)
            parcel = self._lent[guest_id] = Parcel(url=url, note=note)
            return parcel

    async def _describe(self, resident: Resident) -> _Lent:
        folder = resident.folder.path
        return _Lent(
            spec=resident.spec,
            files=tuple(name for name in _WHOLE if (folder / name).exists()),
            base=await self._base(resident.spec),
            layout=await qemu_memory.layout(resident.emulator) if resident.emulator else None,
        )

    async def withdraw(self, guest_id: str) -> None:
        self._lent.pop(guest_id, None)
        self._handover.withdraw(f"lend {guest_id}")

    async def receive(self, spec: GuestSpec, parcel: Parcel) -> Guest:
        check_spec(spec)
        lent = msgspec.msgpack.decode(parcel.note, type=_Lent)
        check_growth(lent.spec, spec)
        if lent.layout is not None:
            raise Conflict(f"Guest {spec.id} runs on its host; it must be stopped first.")
        async with self._turns.of(spec.id):
            if known := self._made_of(spec.id, parcel):
                return self._seen(known)
            resident = await self._new(spec, lent, parcel)
            with held(resident):
                for name in lent.files:
                    await _fetch(resident.folder, parcel, name)
                if guest_sizes.sizes(lent.spec) != guest_sizes.sizes(spec):
                    await guest_sizes.apply(resident.folder, resident.spec)
                await self._make_disks(resident, lent.base)
                await asyncio.to_thread(resident.folder.finish)
                resident.power_state = SHUTDOWN
                self._made[spec.id] = parcel
                return self._seen(resident)

    def _made_of(self, guest_id: str, parcel: Parcel) -> Resident | None:
        """The guest, if it was made of that: a request that comes late makes it no second time. Raises Conflict if it runs."""
        resident = self._residents.get(guest_id)
        if resident is None or self._made.get(guest_id) == parcel:
            return resident
        if resident.power_state == RUNNING:
            raise Conflict(f"Guest {guest_id} runs here already.")
        return None

    async def _new(self, spec: GuestSpec, lent: _Lent, parcel: Parcel) -> Resident:
        """A guest that has nothing yet, in place of what an earlier attempt made; its disk stands on what it stood on."""
        volumes = carried(lent.spec.volumes, spec.volumes)
        spec = msgspec.structs.replace(spec, image=lent.spec.image, volumes=volumes)
        await self._destroy(spec.id)
        if lent.base is not None:
            await self._images.copy(lent.base, f"{parcel.url}/{_BASE}")
        folder = GuestFolder(self._guests_dir, spec.id, self._owner)
        resident = self._residents[spec.id] = Resident(spec, folder)
        await asyncio.to_thread(folder.create, spec)
        return resident

    async def expect(self, spec: GuestSpec, parcel: Parcel) -> Parcel:
        check_spec(spec)
        lent = msgspec.msgpack.decode(parcel.note, type=_Lent)
        if lent.layout is None:
            raise Conflict(f"Guest {spec.id} does not run on its host.")
        async with self._turns.of(spec.id):
            known, there = self._expected.get(spec.id, (None, Parcel()))
            resident = self._residents.get(spec.id)
            if known == parcel and resident is not None and resident.emulator is not None:
                return there
            if self._made_of(spec.id, parcel):
                return Parcel()
            resident = await self._new(spec, lent, parcel)
            (resident.folder.path / _WAITS).touch()
            with held(resident):
                if _CONFIG in lent.files:
                    await _fetch(resident.folder, parcel, _CONFIG)
                await self._make_disks(resident, lent.base)
                await self._launch(resident, lent.layout)
                assert resident.emulator is not None, "a launched guest has its QEMU"
                await qemu_transfer.export(resident.emulator, list(self._sent_disks(resident)))
                there = await self._await(resident, resident.emulator)
                self._expected[spec.id] = (parcel, there)
            return there

    async def _await(self, resident: Resident, emulator: Emulator) -> Parcel:
        """Where to send to: both streams end in the QEMU that waits."""
        loop = asyncio.get_running_loop()

        def memory(plug: socket.socket, is_there: bool = False) -> None:
            with plug:
                taking = qemu_transfer.take_memory(emulator, plug.fileno(), is_there=is_there)
                try:
                    asyncio.run_coroutine_threadsafe(taking, loop).result()
                except Unavailable as refused:
                    raise OSError(refused.internal) from refused

        def pages(plug: socket.socket) -> None:
            opened = qemu_pages.open_memory(emulator.pid)
            if opened is None:
                raise OSError("QEMU's memory is no file")
            with plug, open(opened, "r+b", buffering=0):
                qemu_pages.take(plug, opened)

        def disks(plug: socket.socket) -> None:
            handover.relay(plug, resident.folder.path / qemu_transfer.NBD_SOCKET)

        def state(plug: socket.socket) -> None:
            memory(plug, is_there=True)

        streams = {"memory": memory, "pages": pages, "state": state, "nbd": disks}
        return Parcel(url=await self._handover.take(f"take {resident.spec.id}", streams))

    def _sent_disks(self, resident: Resident) -> dict[str, str]:
        """The disks that a guest writes to, by QEMU's name, and what of each is copied."""
        folder, spec = resident.folder, resident.spec
        disks = folder.disks(spec, None, self._images.folder)
        names = [disk.path for disk in disks if not disk.is_read_only]
        if spec.image and not spec.root_gib:
            names.insert(0, _ROOT)
        return {f"disk{n}": "top" if name == _ROOT else "full" for n, name in enumerate(names)}

    async def send(self, guest_id: str, there: Parcel) -> float:
        async def connect(name: str) -> socket.socket:
            return await handover.open_stream(f"{there.url}/{name}")

        async def sent() -> float:
            async with self._turns.of(guest_id):
                resident = self._find(guest_id)
                emulator = self._running(resident)
                with held(resident):
                    disks, is_translated = self._sent_disks(resident), self.accelerator == "tcg"
                    await qemu_transfer.stay(emulator, list(disks), self._clock)
                    stood_s = await qemu_transfer.send(
                        emulator, disks, connect, self._clock, is_translated=is_translated
                    )
                    resident.power_state = PAUSED
                    return stood_s

        return await self._underway.do(guest_id, there.url, sent)

    async def abandon(self, guest_id: str) -> None:
        await self._underway.give_up(guest_id)

    async def hurry(self, guest_id: str) -> None:
        await self._running(self._find(guest_id)).execute("stop")

    async def progress(self, guest_id: str) -> Progress:
        emulator = self._find(guest_id).emulator
        if emulator is None:
            return Progress()
        memory, disk = await qemu_transfer.progress(emulator)
        return Progress(
            memory_total=memory["total"],
            memory_processed=memory["total"] - memory["remaining"],
            memory_remaining=memory["remaining"],
            disk_total=disk["total"],
            disk_processed=disk["total"] - disk["remaining"],
            disk_remaining=disk["remaining"],
        )

    async def stay(self, guest_id: str, run: bool) -> Guest:
        await self.abandon(guest_id)
        await self.withdraw(guest_id)
        async with self._in_hand(guest_id) as resident:
            if resident.emulator is not None:
                disks = list(self._sent_disks(resident))
                await qemu_transfer.stay(resident.emulator, disks, self._clock)
                await self._go_on(resident, run)
            return self._seen(resident)

    async def arrive(self, guest_id: str, run: bool) -> Guest:
        async with self._in_hand(guest_id) as resident:
            waits = resident.folder.path / _WAITS
            if resident.emulator is None and waits.exists():
                raise Conflict(f"Guest {guest_id} ended while it waited for its memory.")
            if resident.emulator is not None:
                await qemu_transfer.taken(resident.emulator, self._clock)
                await qemu_transfer.stop_exporting(resident.emulator)
                await self._go_on(resident, run)
            await asyncio.to_thread(resident.folder.finish)
            waits.unlink(missing_ok=True)
            if guest_id in self._expected:
                self._made[guest_id], _ = self._expected[guest_id]
            self._forget_move(guest_id)
            return self._seen(resident)

    async def _go_on(self, resident: Resident, run: bool) -> None:
        is_running = resident.emulator is not None and await resident.emulator.status() == "running"
        if run != is_running:
            await self._command(resident, "cont" if run else "stop", RUNNING if run else PAUSED)
        else:
            resident.power_state = RUNNING if run else PAUSED

    def _forget_move(self, guest_id: str) -> None:
        """Nothing is lent to others, and nothing is expected."""
        self._lent.pop(guest_id, None)
        self._expected.pop(guest_id, None)
        for way in ("lend", "take"):
            self._handover.withdraw(f"{way} {guest_id}")


async def _fetch(folder: GuestFolder, parcel: Parcel, name: str) -> None:
    part = folder.path / f"{name}{files.PART}"
    folder.begin(part)
    await handover.fetch(f"{parcel.url}/{name}", part)
    await asyncio.to_thread(files.settle, part, folder.path / name)

"""Guests that are a few fields in memory: no privileges, no packets, all promises kept.

One process holds thousands of them, on as many pretended hosts. With a state folder they survive it in a journal of
their changes, as real guests do, which is not flushed to disk: a power cut ends real guests too.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakKeyDictionary

import msgspec

from pileus.host import uploads
from pileus.host.fake_consoles import FakeConsoles
from pileus.host.images import ImageFacts, require
from pileus.host.turns import Turns
from pileus.kernel.faults import Conflict, NotFound
from pileus.kernel.world import Clock
from pileus.services.compute.driver import (
    CONTAINER_TRAIT,
    PAUSED,
    RUNNING,
    SHUTDOWN,
    SUSPENDED,
    CpuNumbers,
    Diagnostics,
    DiskNumbers,
    Guest,
    GuestSpec,
    ImageSource,
    Inventory,
    Nic,
    NicNumbers,
    Parcel,
    PluggedVolume,
    Progress,
    Underway,
    Watcher,
    check_growth,
    check_nic,
    check_pluggable,
    check_root_size,
    check_running,
    check_settled,
    check_spec,
    check_unpluggable,
    last_lines,
)
from pileus.services.compute.drivers.fake_guests import FakeGuest, Journal
from pileus.services.compute.plugged_volume import check_volume, plugged, swapped, unplugged

Deliver = Callable[[str, bytes], Awaitable[None]]
Probe = Callable[[ImageSource], Awaitable[ImageFacts]]
# Of images by id and checksum: hosts that are one machine's pretence look into each once.
_FACTS: WeakKeyDictionary[Probe, dict[tuple[str, str], ImageFacts]] = WeakKeyDictionary()


@dataclass
class Trouble:
    """What a test wants to go wrong.

    `failures` maps a verb to the faults of its next calls, in order.
    """

    latency_s: float = 0.0
    failures: dict[str, list[Exception]] = field(default_factory=dict)

    async def strike(self, verb: str, clock: Clock) -> None:
        if self.latency_s:
            await clock.sleep(self.latency_s)
        if waiting := self.failures.get(verb):
            raise waiting.pop(0)


class FakeComputeDriver:
    """Keeps every promise of `ComputeDriver` but computing.

    `probe` looks into images; None trusts them. `deliver` takes a snapshot's bytes to a URL.
    """

    def __init__(
        self,
        state_dir: Path | None = None,
        *,
        inventory: Inventory | None = None,
        probe: Probe | None = None,
        trouble: Trouble | None = None,
        clock: Clock | None = None,
        deliver: Deliver | None = None,
    ) -> None:
        self._consoles = FakeConsoles()
        self._journal = Journal(state_dir / "guests.journal") if state_dir else None
        self._inventory = inventory or Inventory(
            vcpus=64,
            ram_mib=256 * 1024,
            disk_gib=4096,
            hypervisor_type="fake",
            hypervisor_version=1000000,
            cpu_arch="x86_64",
            traits=(
                "COMPUTE_NODE",
                "COMPUTE_IMAGE_TYPE_QCOW2",
                "COMPUTE_IMAGE_TYPE_RAW",
                CONTAINER_TRAIT,
            ),
        )
        self._probe = probe
        self.trouble = trouble or Trouble()
        self._clock = clock or Clock()
        self._deliver = deliver or uploads.send_bytes
        self._guests: dict[str, FakeGuest] = {}
        self._made: dict[str, Parcel] = {}  # what those that came from elsewhere were made of
        self.turns = Turns()
        self._underway = Underway()
        self._facts = _FACTS.setdefault(probe, {}) if probe else {}
        self._watchers: list[Watcher] = []

    async def start_up(self) -> None:
        if self._journal and not self._journal.is_open:
            self._guests = self._journal.open()

    async def close(self) -> None:
        await self._underway.close()
        self._watchers.clear()
        await self._consoles.close()
        if self._journal:
            self._journal.close()

    async def spawn(self, spec: GuestSpec) -> Guest:
        async with self._turn(spec.id, "spawn"):
            check_spec(spec)
            known = self._guests.get(spec.id)
            if known:
                return self._seen(known)
            if spec.image:
                facts = await self._inspect(spec.image)
                check_root_size(spec, facts.virtual_size)
            guest = self._guests[spec.id] = FakeGuest(spec=spec)
            self._save(spec.id, guest)
            return self._seen(guest)

    async def destroy(self, guest_id: str) -> None:
        async with self._turn(guest_id, "destroy"):
            self._made.pop(guest_id, None)
            if self._guests.pop(guest_id, None):
                self._save(guest_id, None)

    async def start(self, guest_id: str) -> Guest:
        async with self._turn(guest_id, "start"):
            guest = self._find(guest_id)
            if guest.power_state not in (RUNNING, PAUSED):
                guest.boot()
            return self._change(guest, RUNNING)

    async def stop(self, guest_id: str, timeout_s: float) -> Guest:
        async with self._turn(guest_id, "stop"):
            return self._change(self._find(guest_id), SHUTDOWN)

    async def reboot(self, guest_id: str, hard: bool) -> Guest:
        async with self._turn(guest_id, "reboot"):
            guest = self._find(guest_id)
            guest.boot()
            guest.power_state = RUNNING
            if hard:
                guest.rescued_by = ""
            self._save(guest_id, guest)
            return self._seen(guest)

    async def plug(self, guest_id: str, nic: Nic) -> Guest:
        check_nic(nic)

        def more(guest: FakeGuest) -> GuestSpec:
            check_settled(guest_id, guest.power_state)
            known = nic.port_id in {other.port_id for other in guest.spec.nics}
            return guest.spec_with(nics=guest.spec.nics if known else (*guest.spec.nics, nic))

        return await self._become(guest_id, "plug", more)

    async def unplug(self, guest_id: str, port_id: str) -> Guest:
        def less(guest: FakeGuest) -> GuestSpec:
            check_unpluggable(guest.spec, guest.power_state, port_id)
            return guest.spec_with(nics=tuple(n for n in guest.spec.nics if n.port_id != port_id))

        return await self._become(guest_id, "unplug", less)

    async def plug_volume(self, guest_id: str, volume: PluggedVolume) -> Guest:
        check_volume(volume)

        def more(guest: FakeGuest) -> GuestSpec:
            check_pluggable(guest.spec, guest.power_state, volume)
            return guest.spec_with(volumes=plugged(guest.spec.volumes, volume))

        return await self._become(guest_id, "plug_volume", more)

    async def unplug_volume(self, guest_id: str, volume_id: str) -> Guest:
        def less(guest: FakeGuest) -> GuestSpec:
            check_unpluggable(guest.spec, guest.power_state, volume_id)
            return guest.spec_with(volumes=unplugged(guest.spec.volumes, volume_id))

        return await self._become(guest_id, "unplug_volume", less)

    async def swap_volume(self, guest_id: str, volume_id: str, other: PluggedVolume) -> Guest:
        check_volume(other)

        def exchanged(guest: FakeGuest) -> GuestSpec:
            if other.volume_id not in {volume.volume_id for volume in guest.spec.volumes}:
                check_running(guest_id, guest.power_state)
            return guest.spec_with(volumes=swapped(guest.spec.volumes, volume_id, other))

        return await self._become(guest_id, "swap_volume", exchanged)

    async def _become(
        self, guest_id: str, verb: str, change: Callable[[FakeGuest], GuestSpec]
    ) -> Guest:
        async with self._turn(guest_id, verb):
            guest = self._find(guest_id)
            if (spec := change(guest)) != guest.spec:
                guest.spec = spec
                self._save(guest_id, guest)
            return self._seen(guest)

    async def pause(self, guest_id: str) -> Guest:
        async with self._turn(guest_id, "pause"):
            guest = self._find(guest_id)
            return self._change(guest, PAUSED if guest.power_state == RUNNING else None)

    async def unpause(self, guest_id: str) -> Guest:
        async with self._turn(guest_id, "unpause"):
            guest = self._find(guest_id)
            return self._change(guest, RUNNING if guest.power_state == PAUSED else None)

    async def suspend(self, guest_id: str) -> Guest:
        async with self._turn(guest_id, "suspend"):
            guest = self._find(guest_id)
            runs = guest.power_state in (RUNNING, PAUSED)
            return self._change(guest, SUSPENDED if runs else None)

    async def resume(self, guest_id: str) -> Guest:
        async with self._turn(guest_id, "resume"):
            guest = self._find(guest_id)
            return self._change(guest, RUNNING if guest.power_state == SUSPENDED else None)

    async def inject_nmi(self, guest_id: str) -> None:
        async with self._turn(guest_id, "inject_nmi"):
            guest = self._find(guest_id)
            check_running(guest_id, guest.power_state)
            guest.words.append("Uhhuh. NMI received for unknown reason 30 on CPU 0.")
            self._save(guest_id, guest)

    async def set_password(self, guest_id: str, user: str, password: str) -> None:
        async with self._turn(guest_id, "set_password"):
            guest = self._find(guest_id)
            check_running(guest_id, guest.power_state)
            guest.words.append(f"chpasswd: the password of {user} was changed")
            self._save(guest_id, guest)

    async def diagnostics(self, guest_id: str) -> Diagnostics:
        guest = self._find(guest_id)
        check_running(guest_id, guest.power_state)
        spec, still = guest.spec, {"rx_errors": 0, "rx_drop": 0, "tx_errors": 0, "tx_drop": 0}
        traffic = {"rx_octets": 0, "rx_packets": 0, "tx_octets": 0, "tx_packets": 0, **still}
        disk = DiskNumbers(read_bytes=0, read_requests=0, write_bytes=0, write_requests=0)
        return Diagnostics(
            uptime_s=0,
            cpus=tuple(CpuNumbers(id=n, time_ns=0) for n in range(spec.vcpus)),
            disks=(disk,)
            * (bool(spec.image or spec.root_gib) + bool(guest.rescued_by) + len(spec.volumes)),
            nics=tuple(NicNumbers(mac=nic.mac, **traffic) for nic in spec.nics),
            ram_used_mib=0,
            hypervisor="fake",
        )

    async def rebuild(self, spec: GuestSpec, run: bool) -> Guest:
        check_spec(spec)
        async with self._turn(spec.id, "rebuild"):
            guest = self._find(spec.id)
            if spec.image:
                check_root_size(spec, (await self._inspect(spec.image)).virtual_size)
            guest.spec, guest.boots, guest.words, guest.rescued_by = spec, int(run), [], ""
            guest.power_state = RUNNING if run else SHUTDOWN
            self._save(spec.id, guest)
            return self._seen(guest)

    async def rescue(self, guest_id: str, image: ImageSource) -> Guest:
        async with self._turn(guest_id, "rescue"):
            guest = self._find(guest_id)
            await self._inspect(image)
            if guest.rescued_by != image.id or guest.power_state != RUNNING:
                guest.boot()
                guest.rescued_by, guest.power_state = image.id, RUNNING
                self._save(guest_id, guest)
            return self._seen(guest)

    async def unrescue(self, guest_id: str, run: bool) -> Guest:
        async with self._turn(guest_id, "unrescue"):
            guest = self._find(guest_id)
            if guest.rescued_by:
                guest.rescued_by, guest.power_state = "", SHUTDOWN
                self._save(guest_id, guest)
            return self._powered(guest, run)

    async def resize(self, spec: GuestSpec, timeout_s: float, run: bool) -> Guest:
        check_spec(spec)
        async with self._turn(spec.id, "resize"):
            guest = self._find(spec.id)
            if guest.before is None:
                check_growth(guest.spec, spec)
                guest.before, guest.spec, guest.power_state = guest.spec, spec, SHUTDOWN
                self._save(spec.id, guest)
            return self._powered(guest, run)

    async def confirm_resize(self, guest_id: str) -> None:
        async with self._turn(guest_id, "confirm_resize"):
            guest = self._find(guest_id)
            if guest.before is not None:
                guest.before = None
                self._save(guest_id, guest)

    async def revert_resize(self, guest_id: str, run: bool) -> Guest:
        async with self._turn(guest_id, "revert_resize"):
            guest = self._find(guest_id)
            if guest.before is not None:
                held = {"nics": guest.spec.nics, "volumes": guest.spec.volumes}
                guest.spec = msgspec.structs.replace(guest.before, **held)
                guest.before, guest.power_state = None, SHUTDOWN
                self._save(guest_id, guest)
            return self._powered(guest, run)

    async def changed(self) -> list[str]:
        return [id for id, guest in self._guests.items() if guest.rescued_by or guest.before]

    async def restore(self, guest_id: str) -> Guest:
        run = self._find(guest_id).power_state in (RUNNING, PAUSED)
        if self._find(guest_id).rescued_by:
            await self.unrescue(guest_id, run)
        return await self.revert_resize(guest_id, run)

    async def lend(self, guest_id: str) -> Parcel:
        """All that a pretended guest is fits in the note."""
        async with self._turn(guest_id, "lend"):
            guest = self._find(guest_id)
            return Parcel(note=msgspec.msgpack.encode(guest))

    async def withdraw(self, guest_id: str) -> None:
        """There is nothing to close."""

    async def receive(self, spec: GuestSpec, parcel: Parcel) -> Guest:
        async with self._turn(spec.id, "receive"):
            guest = msgspec.msgpack.decode(parcel.note, type=FakeGuest)
            check_growth(guest.spec, spec)
            guest.spec, guest.power_state = spec, SHUTDOWN
            return self._seen(self._arrived(guest, parcel))

    async def expect(self, spec: GuestSpec, parcel: Parcel) -> Parcel:
        async with self._turn(spec.id, "expect"):
            guest = msgspec.msgpack.decode(parcel.note, type=FakeGuest)
            guest.spec, guest.power_state = spec, PAUSED
            self._arrived(guest, parcel)
            return Parcel()

    def _arrived(self, guest: FakeGuest, parcel: Parcel) -> FakeGuest:
        """A request that comes late makes no guest a second time. Raises Conflict if it runs."""
        id = guest.spec.id
        if id in self._guests and self._made.get(id) == parcel:
            return self._guests[id]
        if id in self._guests and self._guests[id].power_state == RUNNING:
            raise Conflict(f"Guest {id} runs here already.")
        self._guests[id], self._made[id] = guest, parcel
        self._save(id, guest)
        return guest

    async def send(self, guest_id: str, there: Parcel) -> float:
        async def sent() -> float:
            await self.trouble.strike("send", self._clock)
            self._change(self._find(guest_id), PAUSED)
            return 0.0

        return await self._underway.do(guest_id, "send", sent)

    async def hurry(self, guest_id: str) -> None:
        async with self._turn(guest_id, "hurry"):
            self._change(self._find(guest_id), PAUSED)

    async def progress(self, guest_id: str) -> Progress:
        self._find(guest_id)
        return Progress()

    async def abandon(self, guest_id: str) -> None:
        await self._underway.give_up(guest_id)

    async def stay(self, guest_id: str, run: bool) -> Guest:
        await self.abandon(guest_id)
        async with self._turn(guest_id, "stay"):
            return self._change(self._find(guest_id), RUNNING if run else PAUSED)

    async def arrive(self, guest_id: str, run: bool) -> Guest:
        async with self._turn(guest_id, "arrive"):
            guest = self._find(guest_id)
            paused = guest.power_state == PAUSED
            return self._change(guest, RUNNING if run and paused else None)

    async def snapshot(self, guest_id: str, name: str) -> str:
        async with self._turn(guest_id, "snapshot"):
            guest = self._find(guest_id)
            if name not in guest.snapshots:
                text = f"disk of {guest_id} after {guest.boots} boots\n"
                guest.snapshots[name] = text.encode().ljust(1024, b"\0")
                self._save(guest_id, guest)
            return "raw"

    async def send_snapshot(self, guest_id: str, name: str, url: str) -> None:
        async with self._turn(guest_id, "send_snapshot"):
            data = self._find(guest_id).snapshots.get(name)
            if data is None:
                raise NotFound(f"Guest {guest_id} has no snapshot {name}.")
            await self._deliver(url, data)

    async def drop_snapshot(self, guest_id: str, name: str) -> None:
        async with self._turn(guest_id, "drop_snapshot"):
            guest = self._guests.get(guest_id)
            if guest and guest.snapshots.pop(name, None):
                self._save(guest_id, guest)

    async def console_log(self, guest_id: str, lines: int | None) -> str:
        return last_lines(self._find(guest_id).console, lines)

    async def console(self, guest_id: str, kind: str) -> socket.socket:
        guest = self._find(guest_id)
        check_running(guest_id, guest.power_state)
        return self._consoles.open(kind, guest.spec.name, guest.console)

    async def guests(self) -> list[Guest]:
        return [self._seen(self._guests[guest_id]) for guest_id in sorted(self._guests)]

    async def inventory(self) -> Inventory:
        return self._inventory

    async def sweep(self, keep: set[str]) -> list[str]:
        orphans = sorted(self._guests.keys() - keep)
        for guest_id in orphans:
            await self.destroy(guest_id)
        return orphans

    def watch(self, callback: Watcher) -> None:
        if callback not in self._watchers:
            self._watchers.append(callback)

    def happen(self, guest_id: str, power_state: int) -> None:
        """Let a guest change by itself, as when it powers off inside or its host kills it."""
        seen = self._change(self._find(guest_id), power_state)
        for callback in self._watchers:
            callback(seen)

    @contextlib.asynccontextmanager
    async def _turn(self, guest_id: str, verb: str) -> AsyncIterator[None]:
        async with self.turns.of(guest_id):
            await self.trouble.strike(verb, self._clock)
            yield

    def _find(self, guest_id: str) -> FakeGuest:
        try:
            return self._guests[guest_id]
        except KeyError:
            raise NotFound(f"Guest {guest_id} is not on this host.") from None

    async def _inspect(self, image: ImageSource) -> ImageFacts:
        key = (image.id, image.checksum_sha512)
        async with self.turns.of(f"image {image.id}"):  # a hundred boots at once look once
            facts = self._facts.get(key)
            if facts is None:
                trusted = ImageFacts(image.disk_format, 0)
                facts = self._facts[key] = await self._probe(image) if self._probe else trusted
        require(facts, image.disk_format)
        return facts

    def _seen(self, guest: FakeGuest) -> Guest:
        spec = guest.spec
        return Guest(
            id=spec.id,
            power_state=guest.power_state,
            name=spec.name,
            project_id=spec.project_id,
            vcpus=spec.vcpus,
            ram_mib=spec.ram_mib,
            disk_gib=spec.root_gib + spec.ephemeral_gib,
            ports=tuple(nic.port_id for nic in spec.nics),
            volumes=tuple(volume.volume_id for volume in spec.volumes),
        )

    def _powered(self, guest: FakeGuest, run: bool) -> Guest:
        if run and guest.power_state not in (RUNNING, PAUSED):
            guest.boot()
        return self._change(guest, RUNNING if run else SHUTDOWN)

    def _change(self, guest: FakeGuest, power_state: int | None) -> Guest:
        if power_state is not None and power_state != guest.power_state:
            guest.power_state = power_state
            self._save(guest.spec.id, guest)
        return self._seen(guest)

    def _save(self, guest_id: str, guest: FakeGuest | None) -> None:
        if self._journal:
            self._journal.append(guest_id, guest)
            if self._journal.is_long:
                self._journal.rewrite(self._guests)

"""What a host's compute back end promises: guests made, powered, watched and destroyed.

Everything here travels between control and host as msgpack, so a spec holds no bytes larger than 64
KiB: an image, and a disk that goes to another host, are named by a URL with a ticket.

Promises every driver keeps (the suite in `pileus.testing.drivers.compute` asks for each):
- a call may be repeated with the same arguments: the second one finds the work done;
- calls for one guest wait for each other, calls for different guests do not;
- a process that dies at any point leaves nothing that `start_up` and the repeated call cannot put
right;
- guests outlive the process: `close` leaves them running and `start_up` finds them again.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

import msgspec

from pileus.kernel.faults import Conflict, Invalid
from pileus.services.compute.plugged_volume import PluggedVolume as PluggedVolume
from pileus.services.compute.plugged_volume import check_volume
from pileus.services.placement.contract import Inventory as Amount

TEXT_LIMIT = (
    64 * 1024
)  # bytes of one file on a config drive; user data is the longest that Nova takes
CONTAINER_FORMAT = "docker"  # of an image that is a root file system, and no disk
CONTAINER_TRAIT = "CUSTOM_IMAGE_TYPE_CONTAINER"  # of a host that runs such images
TAP_NAME_LENGTH = 14  # Linux takes 15 and a NUL; Neutron's own names end here

# Nova's numbers, as `OS-EXT-STS:power_state` shows them.
NO_STATE = 0
RUNNING = 1
PAUSED = 3
SHUTDOWN = 4
CRASHED = 6
SUSPENDED = 7


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """`nexthop` "" is on the link."""

    destination: str
    nexthop: str = ""


class Nic(msgspec.Struct, frozen=True, kw_only=True):
    """One port of a guest. The network agent owns the tap device; the guest only opens it.

    `addresses` (ip/prefix), `routes` and `nameservers` are for guests that do not ask for them.
    """

    port_id: str
    network_id: str
    mac: str
    mtu: int = 1500
    tap: str = ""
    addresses: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()
    nameservers: tuple[str, ...] = ()

    @property
    def device(self) -> str:
        """The name of the tap: as given, or Neutron's `tap` and eleven letters of the port's id."""
        return self.tap or ("tap" + self.port_id)[:TAP_NAME_LENGTH]


class ImageSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where the bytes of an image are.

    `size` is in bytes, 0 when unknown; so is an empty checksum. `command` is what a container made
    of it runs first.
    """

    id: str
    url: str
    checksum_sha512: str = ""
    disk_format: str = "raw"
    size: int = 0
    container_format: str = "bare"
    command: str = ""

    @property
    def is_for_containers(self) -> bool:
        return self.container_format == CONTAINER_FORMAT


class GuestSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A guest as asked for. `metadata` maps a path on the config drive to the text of that file."""

    id: str
    name: str
    project_id: str
    hostname: str = ""
    vcpus: int
    ram_mib: int
    root_gib: int = 0  # 0: as large as the image
    ephemeral_gib: int = 0
    swap_mib: int = 0
    image: ImageSource | None = None
    nics: tuple[Nic, ...] = ()
    volumes: tuple[
        PluggedVolume, ...
    ] = ()  # the guest starts from the first if it has no other disk
    config_drive: bool = False
    metadata: dict[str, str] = {}


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """A guest as found. The sockets are paths on its host, for consoles; empty when it has none."""

    id: str
    power_state: int
    name: str = ""
    project_id: str = ""
    vcpus: int = 0
    ram_mib: int = 0
    disk_gib: int = 0
    ports: tuple[str, ...] = ()  # the ids of its NICs' ports, in the guest's order
    volumes: tuple[str, ...] = ()
    vnc_socket: str = ""
    serial_socket: str = ""


class CpuNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """`time_ns`: for how long that virtual CPU ran."""

    id: int
    time_ns: int


class DiskNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """What a guest did with one of its disks since it was started."""

    read_bytes: int
    read_requests: int
    write_bytes: int
    write_requests: int
    errors: int = 0


class NicNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """What went through a NIC, as the guest sees it: what it received is `rx`."""

    mac: str
    rx_octets: int
    rx_packets: int
    rx_errors: int
    rx_drop: int
    tx_octets: int
    tx_packets: int
    tx_errors: int
    tx_drop: int


class Diagnostics(msgspec.Struct, frozen=True, kw_only=True):
    """A running guest's numbers."""

    uptime_s: int
    cpus: tuple[CpuNumbers, ...]
    disks: tuple[DiskNumbers, ...]
    nics: tuple[NicNumbers, ...]
    ram_used_mib: int
    hypervisor: str


class Parcel(msgspec.Struct, frozen=True, kw_only=True):
    """What one host needs to know to have a guest from another, or to send it one.

    `url` is the other's, with a ticket in it that only these two know; `note` is the driver's own.
    """

    url: str = ""
    note: bytes = b""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a guest that is on its way has been moved, in bytes."""

    memory_total: int = 0
    memory_processed: int = 0
    memory_remaining: int = 0
    disk_total: int = 0
    disk_processed: int = 0
    disk_remaining: int = 0


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """What a host has, not what is left of it."""

    vcpus: int
    ram_mib: int
    disk_gib: int
    hypervisor_type: str
    hypervisor_version: int  # 7.2.1 is 7002001
    cpu_arch: str
    traits: tuple[str, ...] = ()
    besides: dict[str, Amount] = {}  # what no driver finds, by resource class


T = TypeVar("T")
Watcher = Callable[[Guest], None]


class ComputeDriver(Protocol):
    """The verbs of a compute back end.

    Each raises NotFound for a guest it does not have, unless it says otherwise.
    """

    async def start_up(self) -> None:
        """Make the state folder usable and adopt the guests that still run. Needed once."""
        ...

    async def close(self) -> None:
        """Let go of everything but the guests."""
        ...

    async def spawn(self, spec: GuestSpec) -> Guest:
        """Make the guest and run it; one that exists already is answered as it is found.

        Raises Invalid for an image that may not be used, Conflict for a missing tap.
        """
        ...

    async def destroy(self, guest_id: str) -> None:
        """Kill the guest and delete its disks. An unknown guest is a destroyed one."""
        ...

    async def start(self, guest_id: str) -> Guest: ...

    async def stop(self, guest_id: str, timeout_s: float) -> Guest:
        """Ask the guest to power off.

        After `timeout_s`, or at once when that is 0, pull the plug.
        """
        ...

    async def reboot(self, guest_id: str, hard: bool) -> Guest:
        """Restart the guest: `hard` does not ask it first, and starts it from its own disk."""
        ...

    async def plug(self, guest_id: str, nic: Nic) -> Guest:
        """Give the guest one more NIC, at once if it runs; a port that it has already stays."""
        ...

    async def unplug(self, guest_id: str, port_id: str) -> Guest:
        """Take the NIC of a port away; a port that it does not have is away.

        Raises Unavailable when a running guest does not let go of it in time.
        """
        ...

    async def plug_volume(self, guest_id: str, volume: PluggedVolume) -> Guest:
        """Give the guest one more volume, at once if it runs; of one that it has already, what there is now.

        Raises Conflict for a guest that can have none.
        """
        ...

    async def unplug_volume(self, guest_id: str, volume_id: str) -> Guest:
        """Take a volume away; all that was written is its back end's by then. One that it does not have is away.

        Raises Unavailable when a running guest does not let go of it in time.
        """
        ...

    async def swap_volume(self, guest_id: str, volume_id: str, other: PluggedVolume) -> Guest:
        """Copy a volume over another while the guest uses it, and give it that one in its place.

        Of one that the guest has already, a copy to elsewhere is given up. Who asks again meanwhile waits for the same
        end. Raises Conflict for a guest that does not run, and when the copy breaks off: the guest has what it had.
        """
        ...

    async def pause(self, guest_id: str) -> Guest: ...

    async def unpause(self, guest_id: str) -> Guest: ...

    async def suspend(self, guest_id: str) -> Guest:
        """Write the guest's memory beside its disks and stop it; a guest that is off stays off.

        It stays suspended over a restart of the host.
        """
        ...

    async def resume(self, guest_id: str) -> Guest:
        """Let a suspended guest go on where it was; one that runs already does."""
        ...

    async def inject_nmi(self, guest_id: str) -> None:
        """Give the guest a non-maskable interrupt. Raises Conflict for one that does not run."""
        ...

    async def set_password(self, guest_id: str, user: str, password: str) -> None:
        """Have the guest's agent set a password. Raises Conflict where no agent does it."""
        ...

    async def diagnostics(self, guest_id: str) -> Diagnostics:
        """Raises Conflict for a guest that does not run."""
        ...

    async def rebuild(self, spec: GuestSpec, run: bool) -> Guest:
        """Make the disks of a guest that is there anew, as `spec` says; then `run` it or leave it off.

        What makes an image unusable is found before anything is lost. Raises Invalid.
        """
        ...

    async def rescue(self, guest_id: str, image: ImageSource) -> Guest:
        """Start the guest from a disk made of `image`, with its own disks behind that one."""
        ...

    async def unrescue(self, guest_id: str, run: bool) -> Guest:
        """Drop that disk; then `run` the guest from its own or leave it off."""
        ...

    async def resize(self, spec: GuestSpec, timeout_s: float, run: bool) -> Guest:
        """Power the guest off, as `stop` does, and give it the sizes of `spec`; then `run` it or not.

        What it was before is kept until it is confirmed. Raises Conflict for a smaller root disk.
        """
        ...

    async def confirm_resize(self, guest_id: str) -> None:
        """Forget what the guest was before."""
        ...

    async def revert_resize(self, guest_id: str, run: bool) -> Guest:
        """Make the guest what it was before, disk and all; one that was not resized stays as it is."""
        ...

    async def changed(self) -> list[str]:
        """The guests that are rescued, or whose resize nobody has confirmed."""
        ...

    async def restore(self, guest_id: str) -> Guest:
        """Neither rescued nor resized any more, and running if it ran."""
        ...

    # From host to host. A guest is on both for a while, and runs on one of them at most.

    async def lend(self, guest_id: str) -> Parcel:
        """Let another host have what the guest is made of, until that is withdrawn.

        As long as this process lives, the same parcel is given again.
        """
        ...

    async def withdraw(self, guest_id: str) -> None:
        """Nobody can have it any more. One that was never lent, or is not here, is not lent."""
        ...

    async def receive(self, spec: GuestSpec, parcel: Parcel) -> Guest:
        """Make a guest, off, that is what another host lends, with the sizes of `spec`.

        The guest must be off there. One that was made of the same already stays as it is. Raises Conflict for a smaller
        root disk, and for a guest that runs here.
        """
        ...

    async def expect(self, spec: GuestSpec, parcel: Parcel) -> Parcel:
        """Make the guest with disks that have nothing of their own yet, waiting for another host to `send`.

        What the other host needs for that is given, and again for the same parcel; a guest that has arrived stays as it
        is. Raises Conflict for one that runs here otherwise.
        """
        ...

    async def send(self, guest_id: str, there: Parcel) -> float:
        """Move disks and memory to the host that expects them; for how many seconds the guest stands still by then.

        Who asks again meanwhile waits for the same end. Raises Conflict when it is given up.
        """
        ...

    async def abandon(self, guest_id: str) -> None:
        """Give up sending, if that is under way; whoever waits for it is told, and has the guest `stay`."""
        ...

    async def hurry(self, guest_id: str) -> None:
        """Stop a guest that is being sent, so that what is left of it to send does not grow."""
        ...

    async def progress(self, guest_id: str) -> Progress:
        """Of a guest that is being sent; all zeros for one that is not."""
        ...

    async def stay(self, guest_id: str, run: bool) -> Guest:
        """Whatever came of the sending: the guest is here, and runs or is paused as it was."""
        ...

    async def arrive(self, guest_id: str, run: bool) -> Guest:
        """All of the guest is here: it goes on where it was stopped, or is paused."""
        ...

    async def snapshot(self, guest_id: str, name: str) -> str:
        """Copy the root disk as it is now, whole, and keep the copy by that name; its format.

        The guest runs on. A copy of that name that is there already stays. Raises Conflict where
        there is no room.
        """
        ...

    async def send_snapshot(self, guest_id: str, name: str, url: str) -> None:
        """Send the copy to a URL. Raises NotFound for one that is not there."""
        ...

    async def drop_snapshot(self, guest_id: str, name: str) -> None:
        """An unknown copy, or one of an unknown guest, is dropped."""
        ...

    async def console_log(self, guest_id: str, lines: int | None) -> str:
        """The last `lines` of the serial console, all that is kept when None."""
        ...

    async def console(self, guest_id: str, kind: str) -> socket.socket:
        """A connection to the guest's screen (`vnc`: RFB, without a password) or its `serial` line.

        Raises Conflict for a guest that does not run or has no such thing.
        """
        ...

    async def guests(self) -> list[Guest]:
        """Every guest here, in the order of their ids."""
        ...

    async def inventory(self) -> Inventory: ...

    async def sweep(self, keep: set[str]) -> list[str]:
        """Destroy every guest, whole or half made, that is not in `keep`; the ids destroyed."""
        ...

    def watch(self, callback: Watcher) -> None:
        """Call back when a guest's power changes and no verb of this driver did it."""
        ...


def check_spec(spec: GuestSpec) -> None:
    """Raise Invalid for a spec that no driver could honour."""
    if not spec.id or "/" in spec.id or spec.id.startswith("."):
        raise Invalid(f"Guest id {spec.id!r} cannot name a folder; a UUID would.")
    if spec.vcpus < 1 or spec.ram_mib < 1:
        raise Invalid(
            f"Guest {spec.id} asks for {spec.vcpus} vCPUs and {spec.ram_mib} MiB of memory; "
            "at least 1 of each is needed."
        )
    for nic in spec.nics:
        check_nic(nic)
    for volume in spec.volumes:
        check_volume(volume)
    for path, text in spec.metadata.items():
        if path.startswith("/") or ".." in path.split("/"):
            raise Invalid(f"Config drive path {path!r} must stay inside the drive.")
        if len(text.encode()) > TEXT_LIMIT:
            raise Invalid(f"Config drive file {path} is larger than {TEXT_LIMIT} bytes.")


def check_nic(nic: Nic) -> None:
    """Raise Invalid for a NIC whose words could mean something else on a command line."""
    if not re.fullmatch(r"[\w.-]+", nic.port_id) or not re.fullmatch(r"[\w.-]{1,15}", nic.device):
        raise Invalid(f"Port id {nic.port_id!r} and tap {nic.device!r} must be plain names.")
    if not re.fullmatch(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", nic.mac):
        raise Invalid(f"MAC address {nic.mac!r} is not six pairs of hex digits.")
    if not 68 <= nic.mtu <= 65535:
        raise Invalid(f"MTU {nic.mtu} of port {nic.port_id} is not between 68 and 65535.")


def check_running(guest_id: str, power_state: int) -> None:
    """Raise Conflict for a guest that is off, gone or suspended."""
    if power_state not in (RUNNING, PAUSED):
        raise Conflict(f"Guest {guest_id} does not run; it must be started first.")


def check_settled(guest_id: str, power_state: int) -> None:
    """Raise Conflict for a suspended guest, whose devices must be the same when it goes on."""
    if power_state == SUSPENDED:
        raise Conflict(f"Guest {guest_id} is suspended; it must be resumed first.")


def check_pluggable(spec: GuestSpec, power_state: int, volume: PluggedVolume) -> None:
    """The same, but that a volume which the guest has already may be served to it in another way. Raises Conflict."""
    if volume.volume_id not in {known.volume_id for known in spec.volumes}:
        check_settled(spec.id, power_state)


def check_unpluggable(spec: GuestSpec, power_state: int, id: str) -> None:
    """The same of a port or a volume that the guest has: what it does not have is away. Raises Conflict."""
    if id in {*(nic.port_id for nic in spec.nics), *(v.volume_id for v in spec.volumes)}:
        check_settled(spec.id, power_state)


def check_growth(old: GuestSpec, new: GuestSpec) -> None:
    """Raise Conflict for a root disk that would have to shrink."""
    if new.root_gib < old.root_gib:
        raise Conflict(
            f"Unable to resize disk down: from {old.root_gib} to {new.root_gib} GiB; "
            "a flavor with as much disk would do."
        )


def check_root_size(spec: GuestSpec, virtual_size: int) -> None:
    """Raise Invalid when the image does not fit the root disk; `virtual_size` in bytes."""
    if spec.root_gib and virtual_size > spec.root_gib * 2**30:
        raise Invalid(
            f"Image {spec.image.id if spec.image else ''} needs a disk of {virtual_size} bytes; "
            f"the root disk has {spec.root_gib * 2**30}."
        )


def last_lines(text: str, lines: int | None) -> str:
    """The end of a console as `os-getConsoleOutput` wants it: all of it when `lines` is None."""
    if lines is None:
        return text
    return "\n".join(text.split("\n")[-lines:]) if lines > 0 else ""


class Underway:
    """Long work for guests, at most one at a time for each: others may wait for it, or give it up."""

    def __init__(self) -> None:
        self._tasks: dict[str, tuple[str, asyncio.Task[Any]]] = {}

    async def do(self, guest_id: str, name: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the work of that name gives when it has ended. Raises Conflict when it was given up."""
        known, task = self._tasks.get(guest_id, ("", None))
        if task is None or known != name:
            await self.give_up(guest_id)
            task = asyncio.create_task(work(), name=f"{name} {guest_id}")
            self._tasks[guest_id] = (name, task)
        await asyncio.wait([task])
        if self._tasks.get(guest_id) == (name, task):
            del self._tasks[guest_id]
        if task.cancelled():
            raise Conflict(f"What was done to guest {guest_id} was given up.")
        found: T = task.result()
        return found

    async def give_up(self, guest_id: str) -> None:
        """Returns when nothing is under way for the guest."""
        _, task = self._tasks.pop(guest_id, ("", None))
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def close(self) -> None:
        for guest_id in list(self._tasks):
            await self.give_up(guest_id)

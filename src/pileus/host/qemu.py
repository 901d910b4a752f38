"""QEMU: its command line, its process and its monitor (QMP).

A QEMU runs in the folder of its guest with names relative to it, so neither the length of the path
above nor the rights on it matter. Its listening sockets are made here and handed over open, so a
QEMU that dies while it starts is seen at once, and one that lives can be spoken to by whoever comes
after us. Nothing a user names ever reaches the command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qemu.qmp import EventListener, Message, QMPClient, QMPError

from pileus.host import process
from pileus.kernel.faults import Conflict, Unavailable
from pileus.kernel.world import Clock

DEBIAN_PACKAGES = (
    "qemu-system-x86",
    "qemu-utils",
    "genisoimage",
    "e2fsprogs",
    "util-linux",
)
PROGRAM = "qemu-system-x86_64"
# Debian reserves 64055 for QEMU processes (libvirt-qemu); no account needs to exist.
UNPRIVILEGED = 64055
SPARE_PORTS = 8  # PCIe root ports that a guest starts with beyond those its NICs sit on
START_S = 60  # a loaded host under TCG
RELEASE_S = 20  # for a guest to let go of a device; one that boots takes a while
AGENT_S = 5  # for a guest's agent to answer
_LONGEST_ANSWER, _SAID = 1 << 20, 200  # bytes of an answer, and characters of it that others see
FOUND_S = 10  # for a QEMU that runs already
SOCKETS = ("qmp", "qmp-spare", "serial", "agent")

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_ACCELERATION = {
    "kvm": ["-accel", "kvm", "-cpu", "host"],
    # The translation cache is bounded: by default it would take a fourth of the host's memory.
    "tcg": ["-accel", "tcg,thread=multi,tb-size=64", "-cpu", "max"],
}
_MEMORY = "pc.ram"  # what QEMU calls it by itself: a guest of before has nothing else
# A boot sector that counts down from 2^26 and says 0x31 to the exit port: 0.03 s on real KVM, 0.3 s
# under TCG, minutes where KVM itself is emulated step by step.
_TRIAL = bytes.fromhex("66b900000004664975fcb031e6f4f4ebfd")
_TRIAL_STATUS = 0x31 << 1 | 1
_TRIAL_S = 5


@dataclass(frozen=True)
class Disk:
    """A disk in the machine's folder; `base` stands behind a qcow2 as (path, format)."""

    path: str
    format: str
    base: tuple[str, str] | None = None
    is_read_only: bool = False
    serial: str = ""


@dataclass(frozen=True)
class Card:
    """A network card on an open tap. `id` is a plain name; `port` the PCIe port it sits on, 0 for the next."""

    id: str
    mac: str
    mtu: int
    descriptor: int
    port: int = 0


@dataclass(frozen=True)
class Machine:
    """What the command line says.

    `id` is a UUID; `sockets` maps each of SOCKETS to a descriptor. `ports`: how many PCIe ports, 0
    for some more than cards. `waits`: for a memory that is to be read into it; `stands`: until it is told to go on.
    """

    id: str
    vcpus: int
    ram_mib: int
    accelerator: str
    disks: tuple[Disk, ...]
    cards: tuple[Card, ...]
    sockets: dict[str, int]
    ports: int = 0
    waits: bool = False
    stands: bool = False

    @property
    def descriptors(self) -> list[int]:
        return [*self.sockets.values(), *(card.descriptor for card in self.cards)]

    def arguments(self) -> list[str]:
        argv = [PROGRAM, "-name", f"guest={self.id}", "-uuid", self.id]
        argv += ["-nodefaults", "-no-user-config", "-display", "none", "-sandbox", _SANDBOX]
        machine = "q35,usb=off,hpet=off"
        if self.accelerator == "tcg":  # memory that we can read as well, see `qemu_pages`
            size = f"size={self.ram_mib}M"
            argv += ["-object", f"memory-backend-memfd,id={_MEMORY},{size},share=on"]
            machine += f",memory-backend={_MEMORY}"
        argv += ["-machine", machine, *_ACCELERATION[self.accelerator]]
        argv += ["-smp", str(self.vcpus), "-m", str(self.ram_mib), "-rtc", "base=utc"]
        # The product is what cloud-init looks for to know an OpenStack.
        argv += ["-smbios", f"type=1,manufacturer=Pileus,product=OpenStack Nova,uuid={self.id}"]
        argv += ["-device", "VGA", "-vnc", "unix:run/vnc.sock"]
        for name in SOCKETS:
            log = ",logfile=console.log,logappend=on" if name == "serial" else ""
            spec = f"socket,id={name},fd={self.sockets[name]},server=on,wait=off{log}"
            argv += ["-chardev", spec]
        argv += ["-mon", "chardev=qmp,mode=control", "-mon", "chardev=qmp-spare,mode=control"]
        argv += ["-serial", "chardev:serial", "-device", "virtio-serial-pci"]
        argv += ["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
        argv += ["-device", "virtio-balloon-pci", "-object", "rng-random,id=rng0"]
        argv += ["-device", "virtio-rng-pci,rng=rng0"]
        for n in range(1, (self.ports or len(self.cards) + SPARE_PORTS) + 1):
            argv += ["-device", f"pcie-root-port,id=port{n},chassis={n},slot={n}"]
        for n, disk in enumerate(self.disks):
            argv += _disk_arguments(n, disk)
        for n, card in enumerate(self.cards, 1):  # on ports, for the root bus lets nothing go
            argv += ["-netdev", f"tap,id=net-{card.id},fd={card.descriptor}"]
            device = f"virtio-net-pci,id=nic-{card.id},netdev=net-{card.id},mac={card.mac}"
            argv += ["-device", f"{device},romfile=,host_mtu={card.mtu},bus=port{card.port or n}"]
        argv += ["-incoming", "defer"] if self.waits else []
        return [*argv, "-S"] if self.waits or self.stands else argv


def _disk_arguments(n: int, disk: Disk) -> list[str]:
    block: dict[str, Any] = {
        "driver": disk.format,
        "node-name": f"disk{n}",
        "read-only": disk.is_read_only,
        "file": {"driver": "file", "filename": disk.path},
    }
    if not disk.is_read_only:
        block["discard"] = "unmap"
    if disk.base:
        path, kind = disk.base
        file = {"driver": "file", "filename": path}
        block["backing"] = {"driver": kind, "read-only": True, "file": file}
    device = f"virtio-blk-pci,id=vd{n},drive=disk{n},bootindex={n + 1}"
    if disk.serial:
        device += f",serial={disk.serial}"
    return ["-blockdev", json.dumps(block), "-device", device]


@contextlib.contextmanager
def reachable(folder: Path) -> Iterator[str]:
    """A short name of a folder: a socket's path may have 107 bytes, ours may be longer."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def listen(path: Path) -> socket.socket:
    """A listening unix socket at `path`, for its owner only, in place of what was there."""
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with reachable(path.parent) as folder:
            server.bind(f"{folder}/{path.name}")
        path.chmod(0o600)
        server.listen(8)
    except OSError:
        server.close()
        raise
    return server


def connected(path: Path) -> socket.socket:
    """A connection to a unix socket. Raises Unavailable where nobody listens."""
    plug = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    plug.setblocking(False)
    try:
        with reachable(path.parent) as folder:
            plug.connect(f"{folder}/{path.name}")
    except OSError as reason:
        plug.close()
        raise Unavailable("QEMU does not answer.", internal=repr(reason)) from None
    return plug


def open_tap(name: str) -> int:
    """The descriptor of an existing tap device in the calling thread's network namespace."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        raise Conflict(
            f"Tap device {name} does not exist; the network must make it first."
        ) from None
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except OSError as reason:
        os.close(descriptor)
        busy = "another process has it open" if reason.errno == errno.EBUSY else reason.strerror
        raise Conflict(f"Tap device {name} cannot be opened: {busy}.") from None
    return descriptor


class Monitor:
    """One QMP connection. `on_event` hears every event; `closed` is set when QEMU hung up."""

    def __init__(self, on_event: Callable[[str, dict[str, Any]], None]) -> None:
        self._client = QMPClient()
        self._on_event = on_event
        self._listener = EventListener()
        self._client.register_listener(self._listener)
        self._tasks: list[asyncio.Task[None]] = []
        self._plug: socket.socket | None = None
        self.closed = asyncio.Event()

    async def connect(self, path: Path, timeout_s: float = START_S) -> None:
        """Connect and shake hands; raises Unavailable when QEMU is not there or dies meanwhile."""
        plug = connected(path)
        try:
            await asyncio.wait_for(self._client.connect(plug), timeout_s)
            self._plug = plug
        except (OSError, QMPError, TimeoutError) as reason:
            plug.close()
            raise Unavailable("QEMU does not answer.", internal=repr(reason)) from None
        self._tasks = [asyncio.create_task(self._hear()), asyncio.create_task(self._outlive())]

    async def execute(self, command: str, **arguments: object) -> Any:
        """The answer to a QMP command; raises Unavailable when QEMU refuses or is gone."""
        try:
            return await self._client.execute(command, arguments or None)
        except QMPError as reason:
            text = f"QEMU did not accept {command}."
            raise Unavailable(text, internal=repr(reason)) from None

    async def give(self, name: str, descriptor: int) -> None:
        """Hand QEMU an open descriptor, to be spoken of by `name` from now on."""
        assert self._plug is not None, "give comes after connect"
        rights = struct.pack("@i", descriptor)
        self._plug.sendmsg([b" "], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        await self.execute("getfd", fdname=name)

    async def close(self) -> None:
        """Hang up. QEMU does not mind."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._hang_up()

    async def _hear(self) -> None:
        async for event in self._listener:
            self._tell(event)

    def _tell(self, event: Message) -> None:
        data = event.get("data")
        self._on_event(str(event["event"]), data if isinstance(data, dict) else {})

    async def _outlive(self) -> None:
        while self._client.runstate.name == "RUNNING":
            await self._client.runstate_changed()
        await self._hang_up()
        for event in self._listener.clear():
            self._tell(event)
        self.closed.set()

    async def _hang_up(self) -> None:
        with contextlib.suppress(QMPError, OSError, EOFError):
            await self._client.disconnect()


class Emulator:
    """A running QEMU: ours or found running.

    `was_asked_off` when its guest powered off by itself.
    """

    def __init__(
        self,
        pid: int,
        folder: Path,
        on_event: Callable[[str], None],
        agent_s: float = AGENT_S,
    ) -> None:
        self.pid, self._agent_s = pid, agent_s
        self.was_asked_off = False
        self._folder = folder
        self._pidfd = os.pidfd_open(pid)
        self._child: Any = None
        self._on_event = on_event
        self._monitor = Monitor(self._heard)

    @classmethod
    async def launch(
        cls, machine: Machine, folder: Path, prefix: list[str], on_event: Callable[[str], None]
    ) -> Emulator:
        """Start the machine in `folder`; raises Unavailable with QEMU's own words in the log."""
        words = folder / "qemu.log"
        child = await asyncio.to_thread(
            process.launch,
            [*prefix, *machine.arguments()],
            cwd=folder,
            output=words,
            pass_fds=machine.descriptors,
        )
        emulator = cls(child.pid, folder, on_event)
        emulator._child = child
        return emulator

    async def attach(self) -> None:
        """Speak to it; raises Unavailable, with QEMU's own words in the log, when it is mute.

        A monitor that somebody else holds does not answer, so a QEMU that was found is asked at
        its spare one too.
        """
        for name, patience_s in self._doors():
            try:
                await self._monitor.connect(self._folder / f"{name}.sock", patience_s)
            except Unavailable as mute:
                reason = mute.internal
            else:
                return
        said = (self._folder / "qemu.log").read_text(errors="replace").strip()[-2000:]
        text = "QEMU does not answer." if self._child is None else "QEMU ended while it started."
        raise Unavailable(text, internal=f"{reason}; it said: {said}")

    def _doors(self) -> list[tuple[str, float]]:
        if self._child is not None:
            return [("qmp", START_S)]
        return [("qmp", FOUND_S), ("qmp-spare", FOUND_S)]

    async def status(self) -> str:
        """QEMU's word: running, paused, shutdown, ..."""
        answer = await self._monitor.execute("query-status")
        return str(answer["status"])

    async def execute(self, command: str, **arguments: object) -> Any:
        return await self._monitor.execute(command, **arguments)

    async def give(self, name: str, descriptor: int) -> None:
        """Hand it an open descriptor, to be spoken of by `name`."""
        await self._monitor.give(name, descriptor)

    async def devices(self) -> set[str]:
        """The ids of the devices it has."""
        listed = await self._monitor.execute("qom-list", path="/machine/peripheral")
        return {entry["name"] for entry in listed if entry["name"] != "type"}

    async def add_card(self, card: Card) -> None:
        """Plug a card into a spare port; one that is there already stays."""
        device = f"nic-{card.id}"
        if device in await self.devices():
            return
        with contextlib.suppress(Unavailable):  # left by an attempt that got no further
            await self._monitor.execute("netdev_del", id=f"net-{card.id}")
        await self._monitor.give(f"tap-{card.id}", card.descriptor)
        await self._monitor.execute(
            "netdev_add", type="tap", id=f"net-{card.id}", fd=f"tap-{card.id}"
        )
        properties: dict[str, Any] = {
            "driver": "virtio-net-pci",
            "id": device,
            "netdev": f"net-{card.id}",
            "mac": card.mac,
            "host_mtu": card.mtu,
            "romfile": "",
        }
        try:
            await self.add_device(properties)
        except (Conflict, Unavailable):
            await self._monitor.execute("netdev_del", id=f"net-{card.id}")
            raise

    async def add_device(self, properties: dict[str, Any], port: int = 0) -> None:
        """Plug a device into a spare port, or into that one. Raises Conflict where none is free."""
        # QEMU would take the next address on a port in use; no guest looks there.
        properties = {**properties, "addr": "0"}
        ports = sorted(name for name in await self.devices() if name.startswith("port"))
        for bus in [f"port{port}"] if port else ports:
            try:
                await self._monitor.execute("device_add", **properties, bus=bus)
            except Unavailable as refused:
                if "in use" not in refused.internal and "not available" not in refused.internal:
                    raise
            else:
                return
        raise Conflict("The guest has no free port for another device; a restart gives it some.")

    async def remove_card(self, card_id: str, clock: Clock) -> None:
        """Unplug a card; the guest must let go of it. One that is not there is gone."""
        await self.remove_device(f"nic-{card_id}", clock)
        with contextlib.suppress(Unavailable):  # done by an earlier attempt
            await self._monitor.execute("netdev_del", id=f"net-{card_id}")

    async def remove_device(self, device: str, clock: Clock) -> None:
        """Raises Unavailable when the guest does not let go of it in time."""
        end = clock.monotonic() + RELEASE_S
        while device in await self.devices():
            if clock.monotonic() > end:
                raise Unavailable(f"The guest did not let go of {device} within {RELEASE_S} s.")
            with contextlib.suppress(Unavailable):  # it is at it already
                await self._monitor.execute("device_del", id=device)
            await clock.sleep(0.2)

    async def power_button(self) -> None:
        """Ask the guest to power off, by ACPI and by its agent if it has one."""
        await self._monitor.execute("system_powerdown")
        await asyncio.to_thread(self._tell_agent)

    def _tell_agent(self) -> None:
        with contextlib.suppress(OSError), self._agent(1) as plug:
            plug.sendall(b'{"execute": "guest-shutdown"}\n')

    async def ask_agent(self, command: str, **arguments: object) -> Any:
        """What the guest's agent answers. Raises Conflict when there is none, or when it refuses."""
        question = json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
        try:
            answer = json.loads(await asyncio.to_thread(self._dialogue, question))
        except (OSError, ValueError) as silent:
            text = "The guest's agent does not answer; the image must run qemu-guest-agent."
            raise Conflict(text, internal=repr(silent)) from None
        match answer:  # the guest may say anything
            case {"return": value}:
                return value
            case {"error": {"desc": str(said)}}:
                raise Conflict(f"The guest's agent refused {command}: {said[:_SAID]}")
        raise Conflict(f"The guest's agent does not say whether it did {command}.")

    def _dialogue(self, question: bytes) -> bytes:
        """The agent's line. A guest that drips must not hold our thread for longer than an honest one."""
        end, answer = time.monotonic() + self._agent_s, b""
        with self._agent(self._agent_s) as plug:
            plug.sendall(question)
            while not answer.endswith(b"\n") and len(answer) < _LONGEST_ANSWER:
                plug.settimeout(max(0.001, end - time.monotonic()))
                piece = plug.recv(1 << 16)
                if not piece:
                    break
                answer += piece
        return answer

    @contextlib.contextmanager
    def _agent(self, timeout_s: float) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as plug:
            plug.settimeout(timeout_s)
            with reachable(self._folder) as folder:
                plug.connect(f"{folder}/agent.sock")
            yield plug

    async def ended(self, timeout_s: float | None = None) -> bool:
        """Wait for its end, and for what it said before; False when time ran out."""
        if not await process.ended(self._pidfd, timeout_s):
            return False
        if self._child is not None:
            self._child.poll()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._monitor.closed.wait(), 2)
        return True

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        await process.ended(self._pidfd)
        if self._child is not None:
            self._child.wait()

    async def close(self) -> None:
        """Let go of it; it runs on if it runs."""
        await self._monitor.close()
        os.close(self._pidfd)

    def _heard(self, event: str, data: dict[str, Any]) -> None:
        if event == "SHUTDOWN" and data.get("reason") != "host-signal":
            self.was_asked_off = True
        self._on_event(event)


def running_in(guests: Path) -> dict[str, int]:
    """The QEMUs whose working folder is one of `guests`: guest id -> pid.

    Reads all of /proc once.
    """
    root = guests.resolve()

    def belongs(arguments: list[bytes], cwd: Path) -> bool:
        # Not by the program's name: a QEMU about to be executed is `setpriv` for a moment.
        return cwd.parent == root and b"-uuid" in arguments

    found = process.find(belongs)
    return {_uuid_of(arguments): pid for pid, arguments in found.items()}


def _uuid_of(arguments: list[bytes]) -> str:
    return os.fsdecode(arguments[arguments.index(b"-uuid") + 1])


async def choose_accelerator(folder: Path, prefix: list[str]) -> str:
    """`kvm` if a guest truly runs under it, else `tcg`; `folder` holds the trial's disk.

    A device node proves nothing: a paravirtual KVM opens and then emulates each instruction.
    """
    disk = folder / "trial.img"
    disk.write_bytes((_TRIAL.ljust(510, b"\0") + b"\x55\xaa").ljust(1 << 20, b"\0"))
    disk.chmod(0o644)
    argv = [*prefix, PROGRAM, "-nodefaults", "-no-user-config", "-display", "none", "-m", "32"]
    argv += ["-machine", "q35", *_ACCELERATION["kvm"]]
    argv += _disk_arguments(0, Disk(disk.name, "raw", is_read_only=True))
    argv += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
    try:
        await process.run(argv, timeout_s=_TRIAL_S, cwd=folder)
    except process.ProcessFailed as failed:
        return "kvm" if failed.returncode == _TRIAL_STATUS else "tcg"
    finally:
        disk.unlink()
    return "tcg"


async def version() -> int:
    """The version of the installed QEMU, 7.2.22 as 7002022; raises ProcessFailed without one."""
    words = (await process.run([PROGRAM, "--version"])).decode().split()
    major, minor, micro = [*words[3].split("."), "0", "0"][:3]
    return int(major) * 1_000_000 + int(minor) * 1_000 + int(micro)

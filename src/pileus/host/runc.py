"""Containers by Debian's `runc`: what one is allowed, and the commands that make, hold and end it.

A container is a user namespace of its own: its root is nobody on the host, its network is its own
to arrange, it gains no privilege by any program, and system calls that reach for the machine fail.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import resource
import select
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pileus.host import process
from pileus.host.netns import is_own_machine
from pileus.host.process import ProcessFailed, run
from pileus.host.rootfs import FIRST_ID, IDS, Command
from pileus.kernel.faults import Conflict, Unavailable

PROGRAM = "runc"
DEBIAN_PACKAGES = ("runc", "e2fsprogs", "util-linux")
CGROUPS = Path("/sys/fs/cgroup")
_PARENT = "/pileus"  # of every container's control group
_PERIOD_US = 100_000
_TASKS = 4096
_FILES = 65536
_START_S = 30
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CONTROLLERS = ("memory", "cpu", "pids")


def _words(text: str) -> list[str]:
    return text.split()


# Docker's, without those that mean nothing in a user namespace, and with the right to power off.
_CAPABILITIES = _words(
    "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_NET_RAW CAP_SETGID CAP_SETUID "
    "CAP_SETFCAP CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL CAP_SYS_BOOT"
)
# What Docker's own profile refuses to containers without capabilities for them.
_REFUSED_CALLS = _words(
    "acct add_key bpf clock_adjtime clock_settime clock_settime64 create_module delete_module "
    "fanotify_init finit_module fsconfig fsmount fsopen fspick get_kernel_syms get_mempolicy "
    "init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load "
    "kexec_load keyctl lookup_dcookie mbind migrate_pages mount mount_setattr move_mount "
    "move_pages name_to_handle_at nfsservctl open_by_handle_at open_tree perf_event_open "
    "pidfd_getfd pivot_root process_madvise "
    "query_module quotactl quotactl_fd request_key set_mempolicy setdomainname setns settimeofday "
    "stime swapoff swapon sysfs _sysctl umount umount2 unshare uselib userfaultfd ustat vhangup "
    "vm86 vm86old vmsplice"
)
_NEW_NAMESPACES = (17, 25, 26, 27, 28, 29, 30)  # bits of clone's flags, one a kind
_NO_SUCH_CALL, _NOT_ALLOWED = 38, 1
_MASKED = _words(
    "/proc/acpi /proc/asound /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list "
    "/proc/timer_stats /proc/sched_debug /proc/scsi /sys/firmware /sys/devices/virtual/powercap"
)
_READ_ONLY = _words("/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger")
_SYSTEM = (
    ("/proc", "proc", "nosuid,noexec,nodev"),
    ("/dev", "tmpfs", "nosuid,strictatime,mode=755,size=64k"),
    ("/dev/pts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
    ("/dev/shm", "tmpfs", "nosuid,noexec,nodev,mode=1777"),
    ("/dev/mqueue", "mqueue", "nosuid,noexec,nodev"),
    ("/sys", "sysfs", "nosuid,noexec,nodev,ro"),
    ("/sys/fs/cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"),
)


@dataclass(frozen=True)
class Container:
    """A container to be made. `binds` are (host's path, container's, `ro` or `rw`)."""

    id: str
    hostname: str
    root: Path
    command: Command
    vcpus: int
    ram_mib: int
    binds: Sequence[tuple[Path, str, str]] = field(default=())

    def bundle(self) -> dict[str, Any]:
        """As the OCI runtime specification 1.0 has it."""
        kinds = ("pid", "network", "ipc", "uts", "mount", "user", "cgroup")
        ids = [{"containerID": 0, "hostID": FIRST_ID, "size": IDS}]
        limits = {"cgroupsPath": f"{_PARENT}/{self.id}", "resources": self._resources()}
        return {
            "ociVersion": "1.0.2",
            "process": self._process(),
            "root": {"path": str(self.root)},
            "hostname": self.hostname,
            "mounts": self._mounts(),
            "linux": {
                "namespaces": [{"type": kind} for kind in kinds],
                "uidMappings": ids,
                "gidMappings": ids,
                **({} if is_own_machine() else limits),
                "sysctl": {"net.ipv4.ping_group_range": f"0 {IDS - 1}"},
                "maskedPaths": _MASKED,
                "readonlyPaths": _READ_ONLY,
                "seccomp": _seccomp(),
            },
        }

    def _process(self) -> dict[str, Any]:
        command = self.command
        has_path = any(word.startswith("PATH=") for word in command.env)
        return {
            "terminal": False,
            "user": {"uid": command.uid, "gid": command.gid},
            "args": command.args,
            "env": command.env if has_path else [_PATH, *command.env],
            "cwd": command.cwd,
            "noNewPrivileges": True,
            "capabilities": {
                kind: _CAPABILITIES for kind in ("bounding", "effective", "permitted")
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": _files(), "soft": 1024}],
        }

    def _mounts(self) -> list[dict[str, Any]]:
        mounts = [
            {"destination": at, "type": kind, "source": kind, "options": options.split(",")}
            for at, kind, options in _SYSTEM
            if kind != "cgroup" or not is_own_machine()
        ]
        for source, at, way in self.binds:
            options = ["bind", "nosuid", "nodev", way]
            mounts.append(
                {"destination": at, "type": "bind", "source": str(source), "options": options}
            )
        return mounts

    def _resources(self) -> dict[str, Any]:
        memory = {"limit": self.ram_mib << 20}
        if _counts_swap():
            memory["swap"] = memory["limit"]  # with memory: none of its own
        cpu = {
            "quota": self.vcpus * _PERIOD_US,
            "period": _PERIOD_US,
            "shares": min(1024 * self.vcpus, 262_144),
        }
        return {"memory": memory, "cpu": cpu, "pids": {"limit": _TASKS}}


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A container as runc knows it: created, running, paused or stopped."""

    id: str
    pid: int
    status: str


class Runc:
    """runc with its notes in `folder`, which a reboot should empty."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._command = [PROGRAM, "--root", str(folder)]

    async def create(self, id: str, bundle: Path, console: Path) -> int:
        """The process that waits to become the container's first; its console begins anew.

        runc keeps its own words out of the console: they stand in `runc.log` of the bundle.
        """
        await self.delete(id)  # what a dead process left
        words, pid = bundle / "runc.log", bundle / "pid"
        argv = [*self._command, "--log", str(words), "create", "--bundle", str(bundle)]
        argv += ["--pid-file", str(pid), id]

        words.unlink(missing_ok=True)
        child = await asyncio.to_thread(process.launch, argv, cwd=bundle, output=console)
        if await process.outcome(child, _START_S):
            said = words.read_text(errors="replace")[-2000:] if words.exists() else ""
            raise Unavailable("The container could not be made.", internal=said)
        return int(pid.read_text())

    async def start(self, id: str) -> None:
        """As `runc start` would, which takes longer to start itself. Raises Conflict where nobody waits to be let go."""
        try:
            await asyncio.to_thread(_let_go, self._folder / id / "exec.fifo")
        except OSError as failed:
            text = f"The first program of container {id} could not be started."
            raise Conflict(text, internal=repr(failed)) from failed

    async def hold(self, id: str) -> None:
        """Raises Conflict where it cannot be."""
        if is_own_machine():
            raise Conflict("An ordinary user's containers cannot be paused: it needs root.")
        await self._ask("pause", id)

    async def release(self, id: str) -> None:
        await self._ask("resume", id)

    async def delete(self, id: str) -> None:
        """Kill it if it lives, and forget it. Absent is fine."""
        if (self._folder / id).exists():
            await self._ask("delete", "--force", id)

    async def execute(self, id: str, *argv: str, stdin: bytes = b"") -> bytes:
        """What a program in the container says. Raises Conflict with its last words."""
        try:
            return await self._run("exec", id, *argv, stdin=stdin)
        except ProcessFailed as failed:
            missing = "executable file not found" in failed.reason
            why = "there is no such program" if missing else failed.reason
            raise Conflict(
                f"Container {id} refused {argv[0]}: {why}.", internal=failed.reason
            ) from failed

    async def held(self) -> dict[str, Held]:
        """Every container by id."""
        found = await self._run("list", "--format", "json")
        known = msgspec.json.decode(found, type=list[Held] | None) or []
        return {container.id: container for container in known}

    async def _ask(self, *words: str) -> None:
        try:
            await self._run(*words)
        except ProcessFailed as failed:
            raise Unavailable(
                f"runc did not {words[0]} the container.", internal=failed.reason
            ) from failed

    async def _run(self, *words: str, stdin: bytes | None = None) -> bytes:
        return await run([*self._command, *words], timeout_s=_START_S, stdin=stdin)


def _let_go(fifo: Path) -> None:
    """What is to become the first program writes a byte as soon as somebody reads; a container without a pipe has begun."""
    descriptor = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        if not waiting.poll(_START_S * 1000) or not os.read(descriptor, 1):
            raise ProcessLookupError(f"nobody writes to {fifo}")
        fifo.unlink()
    finally:
        os.close(descriptor)


async def version() -> int:
    """1.1.5 is 1001005. Raises ProcessFailed where it is not installed."""
    said = (await run([PROGRAM, "--version"])).decode()
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", said)
    major, minor, micro = (int(part) for part in found.groups()) if found else (1, 0, 0)
    return major * 1_000_000 + minor * 1000 + micro


def what_lacks() -> str:
    """Why this machine can run no containers as they should be, "" if it can."""
    if os.geteuid() != 0:
        return "only root can mount their disks"
    if is_own_machine():
        return ""  # they go without disks of a size and limits
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices for their disks"
    for controller in _CONTROLLERS:
        if not os.access(_group(controller), os.W_OK) or not _is_delegated(controller):
            return f"their {controller} cannot be limited: its control group cannot be written"
    return ""


def was_out_of_memory(id: str) -> bool:
    """Whether the kernel killed something of the container's for want of memory."""
    name = "memory.events" if _is_unified() else "memory.oom_control"
    path = _group("memory") / _PARENT.lstrip("/") / id / name
    try:
        words = path.read_text().split()
    except OSError:
        return False
    return dict(zip(words[::2], words[1::2], strict=False)).get("oom_kill", "0") != "0"


def used(id: str) -> tuple[int, int]:
    """Nanoseconds of processor time and bytes of memory of a running container. Raises Conflict."""
    if is_own_machine():
        raise Conflict("Nobody counts what an ordinary user's containers take: it needs root.")
    inside = Path(_PARENT.lstrip("/")) / id
    if _is_unified():
        group = CGROUPS / inside
        microseconds = int((group / "cpu.stat").read_text().split()[1])
        return microseconds * 1000, int((group / "memory.current").read_text())
    time = (_group("cpuacct") / inside / "cpuacct.usage").read_text()
    return int(time), int((_group("memory") / inside / "memory.usage_in_bytes").read_text())


def kill(pidfd: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return


def _files() -> int:
    """Open files of one process: what we may have ourselves, or fewer."""
    return min(_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _is_unified() -> bool:
    return (CGROUPS / "cgroup.controllers").exists()


def _group(controller: str) -> Path:
    return CGROUPS if _is_unified() else CGROUPS / controller


def _is_delegated(controller: str) -> bool:
    return not _is_unified() or controller in (CGROUPS / "cgroup.controllers").read_text().split()


def _counts_swap() -> bool:
    return _is_unified() or (_group("memory") / "memory.memsw.limit_in_bytes").exists()


def _seccomp() -> dict[str, Any]:
    """Refuses calls that reach for the machine, and clone where it would make namespaces.

    clone3, whose flags cannot be seen, is said not to exist: the C library uses clone then.
    """
    refuse = {"action": "SCMP_ACT_ERRNO", "errnoRet": _NOT_ALLOWED}
    has_bit = [
        {"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 1 << bit, "valueTwo": 1 << bit}
        for bit in _NEW_NAMESPACES
    ]
    families = {
        "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
    }
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": families.get(platform.machine(), []),
        "syscalls": [
            {"names": _REFUSED_CALLS, **refuse},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _NO_SUCH_CALL},
            *({"names": ["clone"], "args": [bit], **refuse} for bit in has_bit),
        ],
    }

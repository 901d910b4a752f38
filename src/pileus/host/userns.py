"""An ordinary user's machine: a user namespace in which he is root, with mounts and a network of its own.

A process that does nothing holds it, so that guests live on without us and a restart finds all where
it was. The user is root in it; of the ids that /etc/subuid gives him the last is QEMU's user, the
others are those of containers. /run is a new one that also shows what the machine's has, so names of
namespaces and mounts stand where they stand for root. This process enters, but stays in the machine's
network, where it listens and downloads; what guests call the machine is the network `netns.MACHINE`,
and pasta is its way to the world.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

from pileus.host import process
from pileus.host.netns import MACHINE, is_own_machine
from pileus.host.qemu import UNPRIVILEGED
from pileus.host.rootfs import FIRST_ID, IDS
from pileus.kernel.faults import Unavailable

DEBIAN_PACKAGES = ("uidmap", "passt")
DEGRADED = (
    "containers have no limits of memory, processors and processes, their disks no size, and they "
    "cannot be paused, resized, or copied while they run; guests reach the world through pasta, and "
    "other machines' hosts not at all"
)
_NEWNS, _NEWUSER = 0x20000, 0x10000000
_BIND, _REC = 4096, 16384
_DUMPABLE = 4
_HOLDER = ["sleep", "infinity"]
_UPLINK = ["pasta", "--foreground", "--quiet", "--config-net", "--netns-only", "--no-map-gw"]
_UPLINK += [
    "-t",
    "none",
    "-u",
    "none",
    "-T",
    "none",
    "-U",
    "none",
    "--netns",
    str(MACHINE),
    "--pid",
]

_libc = ctypes.CDLL(None, use_errno=True)


def enter(state: Path) -> None:
    """From here on this process is root of its user's own machine. Before there is any thread.

    Raises Unavailable with what the machine lacks for it.
    """
    _check_tools()
    ids = {kind: _range(kind) for kind in ("uid", "gid")}
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    holder = _holder(state) or _held(state, ids)
    here = os.getcwd()
    for name, kind in (("user", _NEWUSER), ("mnt", _NEWNS)):
        with open(f"/proc/{holder}/ns/{name}") as namespace:
            _must(_libc.setns(namespace.fileno(), kind), f"enter the {name} namespace of {holder}")
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    _libc.prctl(_DUMPABLE, 1, 0, 0, 0)  # or /proc/self would be the machine's root's
    os.chdir(here)
    if not is_own_machine():
        _furnish()
    if not _uplink(state):
        process.launch([*_UPLINK, _pid_file(state)], cwd=state, output=state / "pasta.log")


def leave(state: Path) -> None:
    """Ends what holds the namespaces; they go with the last process in them."""
    for pid in filter(None, (_uplink(state), _holder(state))):
        os.kill(pid, signal.SIGKILL)


def _check_tools() -> None:
    for program, package in (("newuidmap", "uidmap"), ("newgidmap", "uidmap"), ("pasta", "passt")):
        if shutil.which(program) is None:
            raise Unavailable(
                f"{program} is missing, which an ordinary user's hosts need: install {package}, "
                "or use --driver fake."
            )
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        raise Unavailable(
            "/dev/net/tun cannot be opened by an ordinary user: `chmod 0666 /dev/net/tun` as root "
            "(udev's usual mode), or use --driver fake."
        )


def _range(kind: str) -> int:
    """The first of the ids that the user may give to others."""
    me, wanted = pwd.getpwuid(os.getuid()), IDS + 1
    path = Path("/etc", f"sub{kind}")
    for line in path.read_text().splitlines() if path.exists() else ():
        owner, first, size = line.split(":")
        if owner in (me.pw_name, str(me.pw_uid)) and int(size) >= wanted:
            return int(first)
    raise Unavailable(
        f"{path} gives {me.pw_name} no {wanted} ids, which containers and QEMU need: as root, "
        f"`usermod --add-sub{kind}s 1000000-1065535 {me.pw_name}` (ids that nobody has), or use --driver fake."
    )


def _held(state: Path, ids: dict[str, int]) -> int:
    """A new user namespace: the process that holds it."""
    words = ["sh", "-c", f"echo made; exec {' '.join(_HOLDER)} >&2"]
    with (state / "holder.log").open("w+b") as log_file:
        child = subprocess.Popen(
            ["unshare", "--user", "--mount", "--", *words],
            cwd=state,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log_file,
            start_new_session=True,
        )
    try:
        _map(state, child, ids)
    except Unavailable:
        child.kill()
        child.wait()
        raise
    return child.pid


def _map(state: Path, child: subprocess.Popen[bytes], ids: dict[str, int]) -> None:
    assert child.stdout is not None
    if not child.stdout.readline():
        said = (state / "holder.log").read_text().strip()
        raise Unavailable(
            f"This machine lets ordinary users make no user namespaces ({said}): see the sysctls "
            "user.max_user_namespaces, kernel.unprivileged_userns_clone and "
            "kernel.apparmor_restrict_unprivileged_userns, or use --driver fake."
        )
    child.stdout.close()
    for kind, own in (("uid", os.getuid()), ("gid", os.getgid())):
        first = ids[kind]
        maps = (0, own, 1, UNPRIVILEGED, first + IDS, 1, FIRST_ID, first, IDS)
        argv = [f"new{kind}map", str(child.pid), *map(str, maps)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"new{kind}map refused: {done.stderr.strip()}.")


def _holder(state: Path) -> int:
    """Of this state folder, in which it was started; 0 without one."""
    argv, owner = [os.fsencode(word) for word in _HOLDER], os.stat(state).st_uid
    found = process.find(lambda arguments, cwd: arguments == argv and cwd == state)
    return next((pid for pid in found if os.stat(f"/proc/{pid}").st_uid == owner), 0)


def _uplink(state: Path) -> int:
    last = os.fsencode(_pid_file(state))
    return next(iter(process.find(lambda arguments, _: arguments[-1] == last)), 0)


def _pid_file(state: Path) -> str:
    return str(state / "pasta.pid")


def _furnish() -> None:
    """A /run of our own with the machine's in it, and an empty network."""
    old = os.open("/run", os.O_PATH | os.O_DIRECTORY)
    try:
        _mount("tmpfs", Path("/run"), "tmpfs", 0)
        shown = Path(f"/proc/self/fd/{old}")
        for entry in os.scandir(shown):
            place = Path("/run", entry.name)
            if entry.is_symlink():
                place.symlink_to(os.readlink(entry.path))
                continue
            place.mkdir() if entry.is_dir() else place.touch()
            _mount(entry.path, place, "none", _BIND | _REC)
    finally:
        os.close(old)
    for folder in (Path("/run/netns"), MACHINE.parent):
        if folder.exists():
            _must(_libc.umount2(os.fsencode(folder), 2), f"hide {folder}")
        folder.mkdir(exist_ok=True)
    network = MACHINE.with_name("network")
    network.touch()
    command = ["unshare", f"--net={network}", "ip", "link", "set", "lo", "up"]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    MACHINE.symlink_to(network)  # the last step: what is half furnished is furnished anew


def _mount(source: str, at: Path, kind: str, flags: int) -> None:
    words = (os.fsencode(source), os.fsencode(at), kind.encode())
    _must(_libc.mount(*words, ctypes.c_ulong(flags), None), f"mount {at}")


def _must(code: int, what: str) -> None:
    if code:
        raise Unavailable(f"Cannot {what}: {os.strerror(ctypes.get_errno())}.")

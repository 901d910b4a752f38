"""File systems in files, and trees laid over each other: made, mounted, grown and unmounted.

A mount outlives the process, so whatever is mounted already is found so. Blocking; needs root. In
an ordinary user's namespace no file's file system is mounted: a disk is a folder there, of no size.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

from pileus.host import files, sparse
from pileus.host.netns import is_own_machine
from pileus.host.process import run
from pileus.kernel.faults import Conflict, Unavailable

_NOSUID, _NODEV, _BIND = 2, 4, 4096
_DETACH = 2
_GET_FREE, _CONFIGURE = 0x4C82, 0x4C0A
_AUTOCLEAR = 4
_TRIES = 100  # of others who take the free loop device first
_ROOM_MIB = 64  # the smallest file system that is of use

_libc = ctypes.CDLL(None, use_errno=True)


async def make(path: Path, size: int, pattern: Path) -> None:
    """A sparse file of `size` bytes that holds an empty ext4, a hundredth of it for the host alone.

    Copied from `pattern`, which is made by the first call. It is not flushed.
    """
    if is_own_machine():
        await asyncio.to_thread(path.mkdir, exist_ok=True)
        return
    if not await asyncio.to_thread(pattern.exists):
        part = pattern.with_name(f"{path.name}.{pattern.name}{files.PART}")
        await asyncio.to_thread(_blank, part, max(size, _ROOM_MIB << 20))
        features = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
        words = ["mke2fs", "-q", "-F", "-t", "ext4", "-m", "1", "-J", "size=4", "-E", features]
        await run([*words, str(part)])
        await asyncio.to_thread(files.settle, part, pattern)
    await asyncio.to_thread(_copy, pattern, path)


async def grow(path: Path, size: int) -> None:
    """Make the file system in a file, which is not mounted, as large as that; it never shrinks."""
    if is_own_machine():
        return
    if os.stat(path).st_size < size:
        os.truncate(path, size)
    await run(["resize2fs", "-f", str(path)], timeout_s=600)


def mount_file(path: Path, at: Path) -> None:
    """Mount the file system in a file, by a loop device that goes with the mount."""
    at.mkdir(parents=True, exist_ok=True)
    if os.path.ismount(at):
        return
    if path.is_dir():
        return _mount(str(path), at, "none", "", _BIND)
    with _opened(path) as file:
        for _ in range(_TRIES):
            with _opened(Path("/dev/loop-control")) as control:
                number = fcntl.ioctl(control, _GET_FREE)
            with _opened(Path(f"/dev/loop{number}")) as device:
                if not _configure(device, file):
                    continue
                return _mount(f"/dev/loop{number}", at, "ext4", "noinit_itable")
    raise Unavailable("No loop device is free on this host.")


def mount_over(lower: Path, changes: Path, at: Path) -> None:
    """Mount the tree `lower` with `changes/upper` laid over it, which takes what is written.

    That belongs to the owner of the tree.
    """
    at.mkdir(parents=True, exist_ok=True)
    owner = lower.stat()
    for name in ("upper", "work"):
        (changes / name).mkdir(exist_ok=True)
        os.chown(changes / name, owner.st_uid, owner.st_gid)
    if not os.path.ismount(at):
        options = f"lowerdir={lower},upperdir={changes / 'upper'},workdir={changes / 'work'}"
        options += ",userxattr" if is_own_machine() else ""
        _mount("overlay", at, "overlay", options)


def unmount(at: Path) -> None:
    """What is mounted there goes, at once for all who do not use it; the empty folder too."""
    while os.path.ismount(at):
        if _libc.umount2(os.fsencode(at), _DETACH):
            raise Unavailable(f"Cannot unmount {at}: {_reason()}.")
    with contextlib.suppress(FileNotFoundError):
        at.rmdir()


def release(at: Path) -> None:
    """What is mounted on a file goes, though who served it be dead."""
    while _libc.umount2(os.fsencode(at), _DETACH) == 0:
        pass


def remove(disk: Path) -> None:
    """What `make` made. Absent is fine."""
    if disk.is_dir():
        shutil.rmtree(disk)
    else:
        disk.unlink(missing_ok=True)


def device_of(at: Path) -> Path:
    """The loop device that is mounted there."""
    number = os.stat(at).st_dev
    return Path("/dev", f"loop{os.minor(number)}")


def requests(at: Path) -> tuple[int, int, int, int]:
    """Read requests, bytes read, write requests and bytes written since it was mounted.

    Raises Conflict for a folder, whose nobody counts.
    """
    if is_own_machine():
        raise Conflict("An ordinary user's containers have disks without numbers.")
    numbers = Path("/sys/block", device_of(at).name, "stat").read_text().split()
    reads, read, writes, written = (int(numbers[n]) for n in (0, 2, 4, 6))
    return reads, read * 512, writes, written * 512


def _blank(path: Path, size: int) -> None:
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.touch(0o600)
    os.truncate(path, size)


def _copy(source: Path, path: Path) -> None:
    """What there is of a sparse file, and not its holes."""
    _blank(path, source.stat().st_size)
    with _opened(source) as origin, _opened(path) as target:
        for at, end in sparse.extents(origin, 0, source.stat().st_size):
            while at < end:
                at += os.copy_file_range(origin, target, end - at, at, at)


def _configure(device: int, file: int) -> bool:
    """Whether the loop device shows the file; somebody else may have taken it meanwhile."""
    info = struct.pack("=QQQQQIIII", 0, 0, 0, 0, 0, 0, 0, 0, _AUTOCLEAR) + bytes(64 + 64 + 32 + 16)
    try:
        fcntl.ioctl(device, _CONFIGURE, struct.pack("=II", file, 0) + info + bytes(64))
    except OSError as reason:
        if reason.errno == errno.EBUSY:
            return False
        raise
    return True


def _mount(source: str, at: Path, kind: str, options: str, flags: int = 0) -> None:
    words = (os.fsencode(source), os.fsencode(at), kind.encode())
    if _libc.mount(*words, ctypes.c_ulong(flags | _NOSUID | _NODEV), options.encode()):
        raise Unavailable("A disk cannot be mounted.", internal=f"{source} at {at}: {_reason()}")


def _reason() -> str:
    return os.strerror(ctypes.get_errno())


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)

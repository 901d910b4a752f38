"""NBD exports as files, for programs that read files only: a qemu-storage-daemon shows each by FUSE.

What is written to such a file has been written to the export when `write` returns, and is flushed with `fsync`. A
server that dies is waited for. While `hold` is held a daemon's end is not noticed by who reads: he waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pileus.host import mounts, process
from pileus.host.storage_daemon import LOG, PROGRAM
from pileus.kernel.world import Clock

RECONNECT_S = 600
_GETFD = 438  # pidfd_getfd, of which Python and glibc 2.36 know nothing
# A mount needs the one, sockets of QEMU's user the other.
_PREFIX = ("setpriv", "--no-new-privs", "--inh-caps=-all")
_RIGHTS = ("--bounding-set=-all,+sys_admin,+dac_override",)


@dataclass(frozen=True)
class FuseDisk:
    """`name`: its file's in the daemon's folder, at most 31 letters; `export` at the socket `path` is what it shows."""

    name: str
    path: str
    export: str
    is_read_only: bool = False


async def launch(
    folder: Path, disks: Sequence[FuseDisk], owner: int | None, clock: Clock
) -> subprocess.Popen[bytes]:
    """A daemon that works in `folder`, once all are there; they are `owner`'s. Raises Unavailable."""
    argv = [*_PREFIX, *_RIGHTS, PROGRAM]
    for disk in disks:
        (folder / disk.name).touch()
        argv += _words(disk)
    refusal = "A volume cannot be shown as a file by FUSE; is there a /dev/fuse?"
    are_shown = partial(_are_shown, folder, disks)
    child = await process.serving(argv, are_shown, refusal, clock, cwd=folder, output=folder / LOG)
    if owner is not None:
        for disk in disks:
            await asyncio.to_thread(os.chown, folder / disk.name, owner, owner)
    return child


def _words(disk: FuseDisk) -> list[str]:
    node: dict[str, Any] = {"driver": "nbd", "node-name": disk.name, "export": disk.export}
    node |= {"server": {"type": "unix", "path": disk.path}, "reconnect-delay": RECONNECT_S}
    node |= {"read-only": disk.is_read_only, "discard": "unmap"}
    shown: dict[str, Any] = {"type": "fuse", "id": disk.name, "node-name": disk.name}
    shown |= {"mountpoint": disk.name, "writable": not disk.is_read_only, "allow-other": "on"}
    return ["--blockdev", json.dumps(node), "--export", json.dumps(shown)]


def _are_shown(folder: Path, disks: Sequence[FuseDisk]) -> bool:
    return all(os.path.ismount(folder / disk.name) for disk in disks)


def hold(pid: int) -> list[int]:
    """Our own descriptors of what the daemon shows: until they are closed its files outlive it."""
    libc, held = ctypes.CDLL(None, use_errno=True), []
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it ended
        watched = os.pidfd_open(pid)
        try:
            for number in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{number}") == "/dev/fuse":
                    held.append(libc.syscall(_GETFD, watched, int(number), 0))
        finally:
            os.close(watched)
    return [descriptor for descriptor in held if descriptor >= 0]


def remove(folder: Path) -> None:
    """The files that a daemon which is no more has left in `folder`."""
    for path in folder.iterdir() if folder.exists() else ():
        mounts.release(path)

"""Copies of a QEMU guest's root disk: whole, standing on nothing, taken while it runs or rests."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from uuid import UUID

from pileus.host import files
from pileus.host.process import Limits, ProcessFailed, run
from pileus.host.qemu import Emulator
from pileus.kernel.faults import Conflict, Invalid, Unavailable
from pileus.kernel.world import Clock
from pileus.services.compute.drivers.guest_folder import GuestFolder

FORMAT = "qcow2"
PATIENCE_S = 1800
_DISK = "disk.qcow2"
_LOOK_S = 0.1
_JOB = "snapshot"


def path_of(folder: GuestFolder, name: str) -> Path:
    """Where the copy lies once it is whole. Raises Invalid for a name that could lead elsewhere."""
    try:
        return folder.path / f"snapshot-{UUID(name)}.qcow2"
    except ValueError:
        raise Invalid(f"Snapshot name {name!r} is not a UUID.") from None


async def take(folder: GuestFolder, emulator: Emulator | None, name: str, clock: Clock) -> None:
    """Raises Conflict where there is no room, or no disk."""
    path = path_of(folder, name)
    if path.exists():
        return
    disk = folder.path / _DISK
    if not disk.exists():
        raise Conflict(f"Guest {folder.guest_id} has no root disk of its own to copy.")
    part = path.with_name(path.name + files.PART)
    try:
        size = await asyncio.to_thread(_make_room, folder, disk, part)
        if emulator is None:
            command = ["qemu-img", "convert", "-f", FORMAT, "-O", FORMAT, _DISK, part.name]
            await run(command, limits=Limits(cpu_s=600), cwd=folder.path, timeout_s=PATIENCE_S)
        else:
            await run(
                ["qemu-img", "create", "-q", "-f", FORMAT, part.name, str(size)], cwd=folder.path
            )
            folder.give(part)
            await _copy(emulator, part.name, clock)
        await asyncio.to_thread(_settle, part, path)
    except ProcessFailed as failed:
        raise Conflict("The disk could not be copied.", internal=failed.reason) from failed
    finally:
        part.unlink(missing_ok=True)


def _make_room(folder: GuestFolder, disk: Path, part: Path) -> int:
    """The size that the guest sees, in bytes. Raises Conflict where the copy would not fit."""
    part.unlink(missing_ok=True)
    with disk.open("rb") as file:
        head = file.read(32)
    needed = disk.stat().st_blocks * 512
    free = shutil.disk_usage(folder.path).free
    if free < needed:
        raise Conflict(f"No room on the host for a copy of {needed} bytes; {free} are free.")
    return int.from_bytes(head[24:32], "big")


def _settle(part: Path, path: Path) -> None:
    files.sync_file(part)
    files.settle(part, path)


async def _copy(emulator: Emulator, name: str, clock: Clock) -> None:
    """A backup job of QEMU's: what the guest writes meanwhile is not in it."""
    file = {"driver": "file", "filename": name}
    await emulator.execute("blockdev-add", **{"driver": FORMAT, "node-name": _JOB, "file": file})
    try:
        await emulator.execute(
            "blockdev-backup",
            **{
                "job-id": _JOB,
                "device": "disk0",
                "target": _JOB,
                "sync": "full",
                "auto-dismiss": False,
            },
        )
        await _finish(emulator, clock)
    finally:
        await emulator.execute("blockdev-del", **{"node-name": _JOB})


async def _finish(emulator: Emulator, clock: Clock) -> None:
    end = clock.monotonic() + PATIENCE_S
    while True:
        (job,) = [j for j in await emulator.execute("query-jobs") if j["id"] == _JOB]
        if job["status"] == "concluded":
            break
        if clock.monotonic() > end:
            await emulator.execute("job-cancel", id=_JOB)
        await clock.sleep(_LOOK_S)
    await emulator.execute("job-dismiss", id=_JOB)
    if reason := job.get("error"):
        raise Conflict("The disk could not be copied.", internal=str(reason))
    if clock.monotonic() > end:
        raise Unavailable(f"The disk was not copied within {PATIENCE_S} s.")

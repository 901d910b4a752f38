"""Copies of a QEMU guest's root disk: whole, standing on nothing, taken while it runs or rests."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any
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
    part = _part_of(path)
    try:
        if emulator is not None:
            await _let_go(emulator, clock)
        size = await asyncio.to_thread(_make_room, folder, disk, part)
        folder.begin(part)
        made = ["qemu-img", "create", "-q", "-f", FORMAT, part.name, str(size)]
        await run(made, cwd=folder.path)
        if emulator is None:
            await _convert(folder, part.name)
        else:
            behind_a_rescue = await asyncio.to_thread(folder.read_rescue)
            await _copy(emulator, "disk1" if behind_a_rescue else "disk0", part.name, clock)
        await asyncio.to_thread(_settle, part, path)
    except ProcessFailed as failed:
        raise Conflict("The disk could not be copied.", internal=failed.reason) from failed
    finally:
        part.unlink(missing_ok=True)


async def drop(folder: GuestFolder, emulator: Emulator | None, name: str, clock: Clock) -> None:
    """The copy, or what an attempt that got no further left of it."""
    path = path_of(folder, name)
    if emulator is not None and _part_of(path).exists():
        await _let_go(emulator, clock)
    path.unlink(missing_ok=True)
    _part_of(path).unlink(missing_ok=True)


def _part_of(path: Path) -> Path:
    return path.with_name(path.name + files.PART)


async def _convert(folder: GuestFolder, part: str) -> None:
    """Of a guest that does not run."""
    command = ["qemu-img", "convert", "-n", "--target-is-zero", "-f", FORMAT, "-O", FORMAT]
    await run(
        [*folder.as_owner(), *command, _DISK, part],
        limits=Limits(cpu_s=600),
        cwd=folder.path,
        timeout_s=PATIENCE_S,
    )


def _make_room(folder: GuestFolder, disk: Path, part: Path) -> int:
    """The size that the guest sees, in bytes. Raises Conflict where the copy would not fit."""
    part.unlink(missing_ok=True)  # it may be what takes the room
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


async def _copy(emulator: Emulator, device: str, name: str, clock: Clock) -> None:
    """A backup job of QEMU's: what the guest writes meanwhile is not in it."""
    file = {"driver": "file", "filename": name}
    target = {"driver": FORMAT, "node-name": _JOB, "file": file}
    job = {"job-id": _JOB, "device": device, "target": _JOB, "sync": "full", "auto-dismiss": False}
    try:
        await emulator.execute("blockdev-add", **target)
        await emulator.execute("blockdev-backup", **job)
        await _finish(emulator, clock)
    finally:
        await _let_go(emulator, clock)


async def _finish(emulator: Emulator, clock: Clock) -> None:
    end = clock.monotonic() + PATIENCE_S
    while (job := await _job(emulator)) and job["status"] != "concluded":
        if clock.monotonic() > end:
            raise Unavailable(f"The disk was not copied within {PATIENCE_S} s.")
        await clock.sleep(_LOOK_S)
    if job is None or job.get("error"):
        raise Conflict("The disk could not be copied.", internal=str(job))


async def _job(emulator: Emulator) -> dict[str, Any] | None:
    jobs: list[dict[str, Any]] = await emulator.execute("query-jobs")
    return next((job for job in jobs if job["id"] == _JOB), None)


async def _let_go(emulator: Emulator, clock: Clock) -> None:
    """Ends the job, whoever began it, and gives up its target. QEMU goes on with a job when we die."""
    with suppress(Unavailable):  # its QEMU ended, and all with it
        while job := await _job(emulator):
            verb = "job-dismiss" if job["status"] == "concluded" else "job-cancel"
            with suppress(Unavailable):  # it is ending already
                await emulator.execute(verb, id=_JOB)
            await clock.sleep(_LOOK_S if verb == "job-cancel" else 0)
        await emulator.execute("blockdev-del", **{"node-name": _JOB})

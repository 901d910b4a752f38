"""The sizes of a guest: changed while it is off, with a way back until somebody confirms them.

`before.json` says that the guest was resized and what it was; `disk_before` is its disk of then.
"""

from __future__ import annotations

import asyncio

import msgspec

from pileus.host import files
from pileus.host.process import Limits, ProcessFailed, run
from pileus.kernel.faults import Conflict
from pileus.services.compute.driver import GuestSpec
from pileus.services.compute.drivers.guest_folder import GuestFolder

_NOTE, _SWAP = "before.json", "swap.raw"
_COPY_S = 1800


def before(folder: GuestFolder) -> GuestSpec | None:
    """What the guest was, if it was resized and nobody has confirmed it."""
    try:
        return msgspec.json.decode((folder.path / _NOTE).read_bytes(), type=GuestSpec)
    except FileNotFoundError:
        return None


def sizes(spec: GuestSpec) -> tuple[int, ...]:
    """What a resize changes; the rest of a spec, as an image's URL, may differ from one call to the next."""
    return spec.vcpus, spec.ram_mib, spec.root_gib, spec.ephemeral_gib, spec.swap_mib


async def keep(folder: GuestFolder, spec: GuestSpec) -> None:
    """A copy of the disk and of the spec. Raises Conflict where there is no room."""
    if folder.disk.exists():
        part = f"{folder.disk_before.name}{files.PART}"
        command = ["cp", "--sparse=always", "--reflink=auto", "--preserve=all"]
        try:
            await run([*command, folder.disk.name, part], cwd=folder.path, timeout_s=_COPY_S)
        except ProcessFailed as failed:
            (folder.path / part).unlink(missing_ok=True)
            raise Conflict(
                f"The disk of guest {folder.guest_id} could not be kept.", internal=failed.reason
            ) from failed
        await asyncio.to_thread(files.sync_file, folder.path / part)
        files.settle(folder.path / part, folder.disk_before)
    files.write_atomically(folder.path / _NOTE, msgspec.json.encode(spec))


async def apply(folder: GuestFolder, spec: GuestSpec) -> None:
    """The root disk grows, swap is made anew; the spec comes last, so that this may be repeated."""
    if spec.root_gib and folder.disk.exists():
        command = ["qemu-img", "resize", "-q", "-f", "qcow2", folder.disk.name, f"{spec.root_gib}G"]
        try:
            await run([*folder.as_owner(), *command], limits=Limits(cpu_s=60), cwd=folder.path)
        except ProcessFailed as failed:
            raise Conflict("The root disk could not be grown.", internal=failed.reason) from failed
    (folder.path / _SWAP).unlink(missing_ok=True)
    folder.write_spec(spec)


def restore(folder: GuestFolder, spec: GuestSpec) -> None:
    """The disk and the spec of then; may be repeated."""
    if folder.disk_before.exists():
        files.settle(folder.disk_before, folder.disk)
    (folder.path / _SWAP).unlink(missing_ok=True)
    folder.write_spec(spec)
    (folder.path / _NOTE).unlink(missing_ok=True)


def forget(folder: GuestFolder) -> None:
    (folder.path / _NOTE).unlink(missing_ok=True)
    folder.disk_before.unlink(missing_ok=True)

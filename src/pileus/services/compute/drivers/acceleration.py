"""What QEMU may use of the processor on this host: found by a trial boot, once for each version of QEMU."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import msgspec

from pileus.host import files, qemu
from pileus.host.netns import is_own_machine
from pileus.host.process import as_user

log = logging.getLogger(__name__)


class Acceleration(msgspec.Struct, frozen=True, kw_only=True):
    """What the trial boot found on this host with that version of QEMU."""

    accelerator: str
    version: int


async def settle(state: Path, version: int, chosen: str, owner: int | None) -> str:
    """`chosen` if it says anything; else what is noted in `state`, or a trial boot finds."""
    note = state / "accelerator.json"
    if not chosen and note.exists():
        known = msgspec.json.decode(note.read_bytes(), type=Acceleration)
        if known.version == version:
            chosen = known.accelerator
    if not chosen:
        chosen = await qemu.choose_accelerator(state, prefix(owner, "kvm"))
        found = Acceleration(accelerator=chosen, version=version)
        files.write_atomically(note, msgspec.json.encode(found))
    log.info("accelerator %s of QEMU %s", chosen, version)
    return chosen


def prefix(owner: int | None, accelerator: str) -> list[str]:
    """What makes QEMU an ordinary user's; only that of KVM guests may open /dev/kvm."""
    if owner is None:
        return []
    groups: list[int] = []
    if accelerator == "kvm" and is_own_machine():
        return as_user(owner, None)  # that of /dev/kvm has no number here
    if accelerator == "kvm":
        with contextlib.suppress(FileNotFoundError):
            groups = [os.stat("/dev/kvm").st_gid]
    return as_user(owner, [group for group in groups if group])

"""A QEMU's memory in a file: how a guest is laid aside and goes on later, in another QEMU.

The second QEMU must have its devices where the first had them, so their places are kept beside it.
"""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import msgspec

from pileus.host import files
from pileus.host.qemu import Emulator
from pileus.host.qemu_volumes import DEVICE
from pileus.kernel.faults import Conflict, Unavailable
from pileus.kernel.world import Clock

PATIENCE_S = 600  # to write or read the memory
_LOOK_S = 0.05
_PORT = re.compile(r"port(\d+)")


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """How many PCIe ports a machine has, and which of them each card and each volume sits on."""

    ports: int
    cards: dict[str, int]
    volumes: dict[str, int] = {}


async def layout(emulator: Emulator) -> Layout:
    """Where the devices are that may come and go."""
    present = await emulator.devices()
    places: dict[str, dict[str, int]] = {"nic-": {}, DEVICE: {}}
    for name in present:
        if (kind := name[:4]) in places:
            path = f"/machine/peripheral/{name}"
            bus = await emulator.execute("qom-get", path=path, property="parent_bus")
            found = _PORT.findall(str(bus))
            places[kind][name[4:]] = int(found[-1]) if found else 0
    ports = sum(bool(_PORT.fullmatch(name)) for name in present)
    return Layout(ports=ports, cards=places["nic-"], volumes=places[DEVICE])


async def save(emulator: Emulator, path: Path, clock: Clock) -> None:
    """Stop the guest and write its memory to `path`, durably. Raises Conflict, Unavailable: it runs on then."""
    part = path.with_name(path.name + files.PART)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        await emulator.execute("stop")
        await _transfer(emulator, "migrate", descriptor, clock)
        await asyncio.to_thread(os.fsync, descriptor)
        files.settle(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        await emulator.execute("cont")
        raise
    finally:
        os.close(descriptor)


async def load(emulator: Emulator, path: Path, clock: Clock) -> None:
    """Read the memory from `path` into a QEMU that was started to wait for it; it stays stopped. Raises Conflict."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        await _transfer(emulator, "migrate-incoming", descriptor, clock)
    finally:
        os.close(descriptor)


async def arrange(
    emulator: Emulator, *, without_memory: bool = False, pauses: bool = False
) -> None:
    """How the next migration goes, whatever the last was told: shared memory left out, a stop before its end."""
    wanted = {"x-ignore-shared": without_memory, "pause-before-switchover": pauses}
    told = [{"capability": name, "state": is_on} for name, is_on in wanted.items()]
    await emulator.execute("migrate-set-capabilities", capabilities=told)


async def _transfer(emulator: Emulator, command: str, descriptor: int, clock: Clock) -> None:
    """`fd:` because QEMU is not allowed to start a program, and need not know the path."""
    await arrange(emulator)
    await emulator.give("memory", descriptor)
    await emulator.execute(command, uri="fd:memory")
    end = clock.monotonic() + PATIENCE_S
    while clock.monotonic() < end:
        answer = await emulator.execute("query-migrate")
        status = answer.get("status", "")
        if status == "completed":
            return
        if status in ("failed", "cancelled"):
            raise Conflict("The guest's memory could not be moved.", internal=str(answer))
        await clock.sleep(_LOOK_S)
    raise Unavailable(f"The guest's memory was not moved within {PATIENCE_S} s.")

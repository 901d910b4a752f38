"""A running QEMU guest moved into another QEMU: its disks mirrored over NBD, then its memory.

The other QEMU waits with disks of the same sizes and the same devices. In the end the guest stands still in both.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pileus.host import qemu_memory, qemu_pages
from pileus.host.qemu import Emulator
from pileus.kernel.faults import Conflict, Unavailable
from pileus.kernel.world import Clock

NBD_SOCKET = "run/nbd.sock"  # of the QEMU that waits, in its folder
_LOOK_S = 0.001  # the guest stands still
_PATIENCE_S = 3600
_DOWNTIME_MS = 100  # the most that a guest may stand still, where it runs while its memory is sent
_SPEED = 1 << 40  # bytes a second: as fast as it goes
_UNDER_WAY = ("setup", "active", "pre-switchover", "device", "cancelling", "wait-unplug")

Connect = Callable[[str], Awaitable[socket.socket]]


async def export(emulator: Emulator, nodes: Sequence[str]) -> None:
    """Take writes to these disks, over NBD on a unix socket."""
    address = {"type": "unix", "data": {"path": NBD_SOCKET}}
    await emulator.execute("nbd-server-start", addr=address)
    for node in nodes:
        named = {"id": f"take-{node}", "node-name": node, "name": node}
        await emulator.execute("block-export-add", type="nbd", writable=True, **named)


async def stop_exporting(emulator: Emulator) -> None:
    with contextlib.suppress(Unavailable):  # it did not
        await emulator.execute("nbd-server-stop")


async def take_memory(emulator: Emulator, descriptor: int, *, is_there: bool) -> None:
    """`is_there`: the pages of the guest's memory are, and only what else is in the machine comes."""
    await qemu_memory.arrange(emulator, without_memory=is_there)
    await emulator.give("memory", descriptor)
    await emulator.execute("migrate-incoming", uri="fd:memory")


async def taken(emulator: Emulator, clock: Clock) -> None:
    """Returns when all of the memory is there. Raises Unavailable."""
    end = clock.monotonic() + 10
    while await emulator.status() == "inmigrate":
        if clock.monotonic() > end:
            raise Unavailable("Not all of the guest's memory has arrived.")
        await clock.sleep(_LOOK_S)


async def send(
    emulator: Emulator,
    disks: dict[str, str],
    connect: Connect,
    clock: Clock,
    *,
    is_translated: bool,
) -> float:
    """Move the disks (node -> sync mode) and the memory; for how many seconds the guest stands still by then.

    `connect` gives connections to the other host by name: one `nbd` for each disk, then one `memory`, or `pages` and
    `state`. `is_translated`: QEMU is not asked to send memory that is written to. Raises Conflict, Unavailable: `stay`
    puts things right.
    """
    if await emulator.status() == "postmigrate":  # from which nothing can be sent again
        await emulator.execute("cont")
    for node, sync in disks.items():
        await _mirror(emulator, node, sync, connect)
    pages = await _pages(emulator, connect) if is_translated else None
    with contextlib.closing(pages) if pages else contextlib.nullcontext():
        with await connect("state" if pages else "memory") as plug:
            await emulator.give("memory", plug.fileno())
        await qemu_memory.arrange(emulator, without_memory=pages is not None, pauses=True)
        limits = {"downtime-limit": _DOWNTIME_MS, "max-bandwidth": _SPEED}
        await emulator.execute("migrate-set-parameters", **limits)
        await _all_ready(emulator, disks, clock)
        if pages:
            await pages.send_while_it_runs()
        stopped_at = clock.monotonic()
        if is_translated:
            await emulator.execute("stop")
        await emulator.execute("migrate", uri="fd:memory")

        switching = asyncio.create_task(_switch_over(emulator, disks, clock))
        try:
            if pages:  # while QEMU gets as far as it may, and the disks end
                await pages.send()
        finally:
            reached_at = await switching
        if not is_translated:
            stopped_at = reached_at
        await emulator.execute("migrate-continue", state="pre-switchover")
        await _reach(emulator, "completed", clock)
        return clock.monotonic() - stopped_at


async def _switch_over(emulator: Emulator, disks: dict[str, str], clock: Clock) -> float:
    """The guest stands still and its disks are there; when QEMU had stopped it."""
    await _reach(emulator, "pre-switchover", clock)
    reached_at = clock.monotonic()
    await _let_go(emulator, disks, clock, force=False)
    return reached_at


async def _pages(emulator: Emulator, connect: Connect) -> qemu_pages.Sender | None:
    """None where either memory is its QEMU's alone: a guest that was started before, or a host that was."""
    memory = await asyncio.to_thread(qemu_pages.open_memory, emulator.pid)
    if memory is None:
        return None
    try:
        return qemu_pages.Sender(memory, await connect("pages"))
    except BaseException as refused:
        os.close(memory)
        if isinstance(refused, Unavailable):
            return None
        raise


async def stay(emulator: Emulator, nodes: Sequence[str], clock: Clock) -> None:
    """Whatever a `send` got done is given up, also one of a process that is no more."""
    if (await emulator.execute("query-migrate")).get("status") in _UNDER_WAY:
        await emulator.execute("migrate_cancel")
        while (await emulator.execute("query-migrate")).get("status") in _UNDER_WAY:
            await clock.sleep(_LOOK_S)
    await _let_go(emulator, nodes, clock, force=True)


async def progress(emulator: Emulator) -> tuple[dict[str, int], dict[str, int]]:
    """Of the memory and of the disks: `total` and `remaining`, in bytes."""
    ram = (await emulator.execute("query-migrate")).get("ram", {})
    memory = {"total": int(ram.get("total", 0)), "remaining": int(ram.get("remaining", 0))}
    jobs = [
        j for j in await emulator.execute("query-block-jobs") if j["device"].startswith("send-")
    ]
    total, done = sum(j["len"] for j in jobs), sum(j["offset"] for j in jobs)
    return memory, {"total": total, "remaining": total - done}


async def _mirror(emulator: Emulator, node: str, sync: str, connect: Connect) -> None:
    """What the guest writes from now on is written there too."""
    with await connect("nbd") as plug:
        await emulator.give(f"nbd-{node}", plug.fileno())
    server = {"type": "fd", "str": f"nbd-{node}"}
    target = {"driver": "nbd", "node-name": f"there-{node}", "server": server, "export": node}
    await emulator.execute("blockdev-add", **target)
    job = {"job-id": f"send-{node}", "device": node, "target": f"there-{node}", "sync": sync}
    job |= {"copy-mode": "write-blocking", "on-target-error": "report"}
    await emulator.execute("blockdev-mirror", **job)


async def _all_ready(
    emulator: Emulator, nodes: Sequence[str] | dict[str, str], clock: Clock
) -> None:
    end = clock.monotonic() + _PATIENCE_S
    wanted = {f"send-{node}" for node in nodes}
    while True:
        jobs = {j["id"]: j for j in await emulator.execute("query-jobs")}
        if any(id not in jobs or jobs[id].get("error") for id in wanted):
            raise Conflict("The disks could not be sent.", internal=str(jobs))
        if all(jobs[id]["status"] == "ready" for id in wanted):
            return
        if clock.monotonic() > end:
            raise Unavailable(f"The disks were not sent within {_PATIENCE_S} s.")
        await clock.sleep(_LOOK_S)


async def _let_go(
    emulator: Emulator, nodes: Sequence[str] | dict[str, str], clock: Clock, *, force: bool
) -> None:
    """End the mirrors: they are whole, unless by `force`."""
    for node in nodes:
        with contextlib.suppress(Unavailable):  # there is none
            await emulator.execute("block-job-cancel", device=f"send-{node}", force=force)
    mine = {f"send-{node}" for node in nodes}
    while mine.intersection(j["id"] for j in await emulator.execute("query-jobs")):
        await clock.sleep(_LOOK_S)
    for node in nodes:
        with contextlib.suppress(Unavailable):
            await emulator.execute("blockdev-del", **{"node-name": f"there-{node}"})


async def _reach(emulator: Emulator, wanted: str, clock: Clock) -> None:
    """Raises Conflict when the migration ends otherwise."""
    end = clock.monotonic() + _PATIENCE_S
    while True:
        answer: dict[str, Any] = await emulator.execute("query-migrate")
        status = answer.get("status", "")
        if status == wanted:
            return
        if status in ("failed", "cancelled", "completed"):
            raise Conflict("The guest's memory could not be sent.", internal=str(answer))
        if clock.monotonic() > end:
            raise Unavailable(f"The guest's memory was not sent within {_PATIENCE_S} s.")
        await clock.sleep(_LOOK_S)

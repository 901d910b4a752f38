"""Doors for hosts that speak iSCSI: of each volume that such a host has, a target of its own.

Two processes make one: a daemon shows the volume's NBD exports as files (`pileus.host.fuse_disks`) and a tgtd serves
those (`pileus.host.iscsi_target`). Neither is ever told of anything new. When the record says something else, when
a volume has grown, or when one of the two dies, both go and others take their place: initiators log in anew by
themselves and repeat what was not answered. The tgtd goes first, so that nobody is told of an error meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Container, Sequence
from pathlib import Path

from pileus.host import files, fuse_disks, iscsi_target, process
from pileus.host.fuse_disks import FuseDisk
from pileus.host.iscsi_target import Target
from pileus.host.storage_daemon import running_below
from pileus.kernel.faults import Unavailable

from ...driver import target_name
from .record import Record, digest
from .serving import Daemons, export_name

_TGTD, _TOLD = "tgtd", "told"
_Child = subprocess.Popen[bytes]


class Pair:
    """Both processes of a target, ours or found running; `told` says what they serve."""

    def __init__(
        self, folder: Path, disks: int, tgtd: int, told: str, children: Sequence[_Child] = ()
    ) -> None:
        self.folder, self.told, self._children = folder, told, children
        self._disks = os.pidfd_open(disks)
        try:
            self._tgtd = os.pidfd_open(tgtd)
        except ProcessLookupError:
            os.close(self._disks)
            raise
        self._held = fuse_disks.hold(disks)

    async def ended(self) -> bool:
        """Waits until one has died, then ends the other."""
        both = [asyncio.create_task(process.ended(one)) for one in (self._disks, self._tgtd)]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)
        await self.quit()
        return True

    async def quit(self) -> None:
        """While we hold the files, whoever reads them waits: the tgtd has no error to tell of."""
        for one in (self._tgtd, self._disks):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(one, signal.SIGKILL)
        await process.ended(self._disks)
        self._let_go()
        await process.ended(self._tgtd)
        for child in self._children:
            child.poll()
        await asyncio.to_thread(fuse_disks.remove, self.folder)

    async def close(self) -> None:
        """Let go of both; they run on if they run."""
        self._let_go()
        os.close(self._disks)
        os.close(self._tgtd)

    def _let_go(self) -> None:
        while self._held:
            os.close(self._held.pop())


class Targets(Daemons[Pair]):
    """`address`: where hosts without NBD reach this one."""

    within = "target"
    address = ""

    def _is_needed(self, record: Record) -> bool:
        return record.is_iscsi

    async def serve(self, record: Record) -> None:
        running = self._running.get(record.id)
        if running is not None and running.told != _told(record):
            await self._end(record.id)
        await super().serve(record)

    async def _arrange(self, daemon: Pair, record: Record) -> None:
        """It is what it was told when it began."""

    async def _launch(self, record: Record, folder: Path) -> Pair:
        await _clear(folder)
        try:
            return await self._begin(record, folder)
        except BaseException:
            await _clear(folder)
            raise

    async def _begin(self, record: Record, folder: Path) -> Pair:
        inner, told = folder / _TGTD, _told(record)
        await asyncio.to_thread(self._make, inner)
        served = sorted(a for a, serving in record.exports.items() if serving.is_iscsi)
        disks = [self._disk(record, attachment) for attachment in served]
        shown = await fuse_disks.launch(folder, disks, self._layers.owner, self._clock)
        targets = [_target(record, attachment) for attachment in served]
        at = (self.address, record.iscsi_port)
        tgtd = await iscsi_target.launch(inner, *at, targets, self._layers.owner, self._clock)
        await asyncio.to_thread(files.write_atomically, folder / _TOLD, told.encode())
        return Pair(folder, shown.pid, tgtd.pid, told, (shown, tgtd))

    def _make(self, inner: Path) -> None:
        inner.mkdir(parents=True, mode=0o700)
        inner.parent.chmod(0o711)
        self._layers.give(inner)

    def _disk(self, record: Record, attachment: str) -> FuseDisk:
        return FuseDisk(
            _file(record, attachment),
            str(self.socket(record.id)),
            export_name(attachment, record),
            record.exports[attachment].is_read_only,
        )

    async def _take_up(self, folder: Path, pid: int) -> Pair:
        """Raises Unavailable for one without the other, or that was not told all."""
        tgtds, told = await asyncio.to_thread(iscsi_target.running_below, folder), folder / _TOLD
        try:
            (tgtd,) = tgtds
            return Pair(folder, pid, tgtd, told.read_text())
        except (ValueError, FileNotFoundError, ProcessLookupError) as half:
            await _clear(folder)
            raise Unavailable("A target of iSCSI was half there.", internal=repr(half)) from None

    async def adopt(self, known: Container[str]) -> None:
        """Those that serve nothing of ours end."""
        await super().adopt(known)
        for folder in await asyncio.to_thread(lambda: list(self._root.glob(f"*/{self.within}"))):
            if folder.parent.name not in self._running:
                await _clear(folder)


def _target(record: Record, attachment: str) -> Target:
    serving = record.exports[attachment]
    return Target(
        name=target_name(attachment),
        disk=f"../{_file(record, attachment)}",
        user=attachment,
        password=serving.secret,
        serial=record.id.replace("-", ""),
        is_read_only=serving.is_read_only,
    )


def _file(record: Record, attachment: str) -> str:
    return f"t{digest(export_name(attachment, record))}"


def _told(record: Record) -> str:
    """All that counts for a target, but for who reads files of ours."""
    served = {a: s for a, s in record.exports.items() if s.is_iscsi}
    said = [(a, s.is_read_only, s.secret) for a, s in sorted(served.items())]
    return digest(repr((record.size, record.iscsi_port, said)))


async def _clear(folder: Path) -> None:
    """Nothing is left of what ran there."""
    for pid in await asyncio.to_thread(iscsi_target.running_below, folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # it may wait for the other's end
    for pid in (await asyncio.to_thread(running_below, folder)).values():
        await process.kill(pid)
    for pid in await asyncio.to_thread(iscsi_target.running_below, folder):
        await process.kill(pid)
    await asyncio.to_thread(fuse_disks.remove, folder)
    await asyncio.to_thread(shutil.rmtree, folder, True)

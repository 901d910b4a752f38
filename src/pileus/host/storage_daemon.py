"""qemu-storage-daemon: block nodes of QEMU's without a guest, exported over NBD.

A daemon lives in a folder of its own, named by what it serves, and is found again by it: `qmp.sock`
there is its monitor. It listens where it is told to by a socket that is made here, so whoever
connects before it is up waits, and one that is started anew listens at the same place.

It is told to wait for the first who connects to its monitor: one that comes while the monitor is set up in
another thread is greeted twice, or never, or is the daemon's end (QEMU 7.2: 5 in 1,000 with busy processors).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pileus.host import process
from pileus.host.qemu import Monitor, listen
from pileus.kernel.faults import Conflict, Unavailable
from pileus.kernel.world import Clock

PROGRAM = "qemu-storage-daemon"
DEBIAN_PACKAGES = ("qemu-utils", "qemu-system-common")
START_S, END_S = 20, 60  # the latter for what is still to be written
_LOOK_S = 0.05
LOG = "daemon.log"
# It takes memory for each request's data. By itself glibc gives that back to the kernel each time from 128 KiB on, and
# each page of it is then zeroed anew. Bytes of one piece that is kept, and of all that a daemon keeps.
_KEPT = ("MALLOC_MMAP_THRESHOLD_=4194304", "MALLOC_TRIM_THRESHOLD_=16777216")


@dataclass(frozen=True)
class Served:
    """An export as it is: `id` is ours, `node` what it shows."""

    id: str
    node: str


class StorageDaemon:
    """A running daemon: ours or found running."""

    def __init__(self, pid: int, folder: Path, child: subprocess.Popen[bytes] | None) -> None:
        self.pid, self.folder, self._child = pid, folder, child
        self._pidfd = os.pidfd_open(pid)
        self._monitor = Monitor(self._heard)
        self._leaving: dict[str, asyncio.Event] = {}  # exports that are being removed

    @classmethod
    async def launch(
        cls, folder: Path, server: socket.socket, prefix: Sequence[str] = (), credentials: str = ""
    ) -> StorageDaemon:
        """Start one that serves at `server`. `credentials`: a user-creatable TLS object, whose id is `tls`.

        Raises Unavailable with the daemon's own words in the log.
        """
        with contextlib.closing(listen(folder / "qmp.sock")) as monitor:
            descriptors = (monitor.fileno(), server.fileno())
            argv = [*prefix, "env", *_KEPT, PROGRAM]
            argv += ["--chardev", f"socket,id=qmp,fd={descriptors[0]},server=on,wait=on"]
            argv += ["--monitor", "chardev=qmp"]
            at = f"addr.type=fd,addr.str={descriptors[1]},max-connections=0"
            if credentials:
                argv += ["--object", credentials]
                at += ",tls-creds=tls"
            child = await asyncio.to_thread(
                process.launch,
                [*argv, "--nbd-server", at],
                cwd=folder,
                output=folder / LOG,
                pass_fds=descriptors,
            )
        return await cls(child.pid, folder, child)._attached()

    @classmethod
    async def adopt(cls, folder: Path, pid: int) -> StorageDaemon:
        """One that was found running. Raises Unavailable when it is mute: then it is no more."""
        try:
            return await cls(pid, folder, None)._attached()
        except ProcessLookupError as gone:
            raise Unavailable("The storage daemon ended.", internal=repr(gone)) from None

    async def _attached(self) -> StorageDaemon:
        try:
            await self._monitor.connect(self.folder / "qmp.sock", START_S)
        except Unavailable as mute:
            await process.kill(self.pid)
            if self._child is not None:
                self._child.poll()
            os.close(self._pidfd)
            said = (self.folder / LOG).read_text(errors="replace").strip()[-2000:]
            raise Unavailable(
                "The storage daemon does not answer.", internal=f"{mute.internal}; it said: {said}"
            ) from None
        return self

    async def execute(self, command: str, **arguments: object) -> Any:
        """The answer to a QMP command. Raises Unavailable when it is refused or the daemon is gone."""
        return await self._monitor.execute(command, **arguments)

    async def nodes(self) -> set[str]:
        """The names of the block nodes."""
        listed = await self.execute("query-named-block-nodes", flat=True)
        return {node["node-name"] for node in listed}

    async def add_node(self, name: str, **options: object) -> None:
        await self.execute("blockdev-add", **{"node-name": name, **options})

    async def exports(self) -> list[Served]:
        listed = await self.execute("query-block-exports")
        return [Served(e["id"], e["node-name"]) for e in listed if not e["shutting-down"]]

    async def add_export(
        self, id: str, node: str, name: str, *, writable: bool, writethrough: bool
    ) -> None:
        options = {"writable": writable, "writethrough": writethrough}
        await self.execute(
            "block-export-add", type="nbd", id=id, name=name, **{"node-name": node}, **options
        )

    async def remove_export(self, id: str, *, force: bool = True) -> bool:
        """Whether it is gone; one that somebody is connected to goes by `force` only."""
        gone = self._leaving[id] = asyncio.Event()
        try:
            await self.execute("block-export-del", id=id, mode="hard" if force else "safe")
            await asyncio.wait_for(gone.wait(), END_S)
        except TimeoutError:
            raise Unavailable(f"Export {id} did not end within {END_S} s.") from None
        except Unavailable:
            if force:
                raise
        finally:
            del self._leaving[id]
        return gone.is_set()

    def _heard(self, event: str, data: dict[str, Any]) -> None:
        if event == "BLOCK_EXPORT_DELETED" and data["id"] in self._leaving:
            self._leaving[data["id"]].set()

    async def limit(self, group: str, limits: dict[str, int]) -> None:
        """Hold a throttle group, made if absent, to `iops-total`, `bps-read` and so on; 0 is no limit."""
        with contextlib.suppress(Unavailable):  # it is there
            await self.execute("object-add", **{"qom-type": "throttle-group", "id": group})
        await self.execute("qom-set", path=f"/objects/{group}", property="limits", value=limits)

    async def job(self, id: str) -> dict[str, Any] | None:
        """As query-jobs has it."""
        jobs: list[dict[str, Any]] = await self.execute("query-jobs")
        return next((job for job in jobs if job["id"] == id), None)

    async def pivot(self, id: str, clock: Clock) -> None:
        """What a mirror has filled takes the place of what it read; without a job that is done. Raises Conflict."""
        if (job := await self.job(id)) is None:
            return
        if job["status"] == "ready":
            await self.execute("job-complete", id=id)
        if error := await self._dismissed(id, clock):
            raise Conflict("A back end failed while a volume was copied.", internal=error)

    async def drop_job(self, id: str, clock: Clock) -> None:
        """It is under way no more."""
        if (job := await self.job(id)) is None:
            return
        if job["status"] != "concluded":
            await self.execute("block-job-cancel", device=id, force=True)
        await self._dismissed(id, clock)

    async def _dismissed(self, id: str, clock: Clock) -> str:
        """What it failed of, once it has ended."""
        while (job := await self.job(id)) is not None:
            if job["status"] == "concluded":
                await self.execute("job-dismiss", id=id)
                return str(job.get("error", ""))
            await clock.sleep(_LOOK_S)
        return "It was gone."

    async def ended(self, timeout_s: float | None = None) -> bool:
        """Wait for its end; False when time ran out."""
        if not await process.ended(self._pidfd, timeout_s):
            return False
        if self._child is not None:
            self._child.poll()
        with contextlib.suppress(TimeoutError):  # what it said before is heard
            await asyncio.wait_for(self._monitor.closed.wait(), 2)
        return True

    async def quit(self) -> None:
        """End it: everything is on disk by then."""
        with contextlib.suppress(Unavailable):
            await self.execute("quit")
        if not await self.ended(END_S):
            raise Unavailable(f"The storage daemon did not end within {END_S} s.")

    async def close(self) -> None:
        """Let go of it; it runs on if it runs."""
        await self._monitor.close()
        os.close(self._pidfd)


def running_below(root: Path) -> dict[Path, int]:
    """The daemons whose working folder is somewhere below `root`: folder -> pid."""
    root = root.resolve()
    found: dict[Path, int] = {}

    def belongs(arguments: list[bytes], cwd: Path) -> bool:
        # Not the first argument: a daemon about to be executed is `setpriv` for a moment.
        return PROGRAM.encode() in arguments and cwd.is_relative_to(root)

    for pid in process.find(belongs):
        with contextlib.suppress(OSError):  # it ended meanwhile
            found[Path(os.readlink(f"/proc/{pid}/cwd"))] = pid
    return found

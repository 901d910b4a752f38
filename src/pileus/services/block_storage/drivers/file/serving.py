"""The daemons of a host's volumes: each is made to serve what its volume's record says, and nothing else.

A guest's export is a throttle over a window over the first layer: the window is as long as the volume is, the layer has
room behind it. A volume that grows gets a second window and a second export beside the first, which goes when its
guest has moved over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Container
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pileus.host import caches, qemu, qemu_volumes
from pileus.host.process import kill
from pileus.host.storage_daemon import Served, StorageDaemon, running_below
from pileus.kernel.faults import Fault, Unavailable
from pileus.kernel.world import Clock

from ...driver import Export
from .layers import Layers, described
from .record import Chain, Record, digest

MOVE, _HEIR = "move", "heir"  # a daemon's job, and the node that it fills
RECONNECT_S = 600
COPYING_S = 5  # how long a guest's writes wait for a copy of them that does not answer
_LOOK_S = 0.1
PATIENCE_S = 1  # between two attempts to serve what could not be served
log = logging.getLogger(__name__)

Restore = Callable[[str], Awaitable[None]]


class Running(Protocol):
    """What serves a volume: a process, or several that end together."""

    async def ended(self) -> bool: ...
    async def quit(self) -> None: ...
    async def close(self) -> None:
        """Let go of it; it runs on if it runs."""


D = TypeVar("D", bound=Running)


class Daemons(ABC, Generic[D]):
    """The daemons below `root`, each in the folder `within` that of its volume.

    `restore` is called with the id of a volume whose daemon died.
    """

    within = ""

    def __init__(self, root: Path, layers: Layers, restore: Restore, clock: Clock) -> None:
        self._root, self._layers, self._restore, self._clock = root, layers, restore, clock
        self._running: dict[str, D] = {}
        self._followers: dict[str, asyncio.Task[None]] = {}

    @abstractmethod
    def _is_needed(self, record: Record) -> bool: ...

    @abstractmethod
    async def _launch(self, record: Record, folder: Path) -> D: ...

    @abstractmethod
    async def _take_up(self, folder: Path, pid: int) -> D:
        """Of the storage daemon that was found there. Raises Unavailable of a dead one."""

    @abstractmethod
    async def _arrange(self, daemon: D, record: Record) -> None: ...

    async def adopt(self, known: Container[str]) -> None:
        """Take up those that an earlier process left; those that serve no volume of ours end."""
        found = await asyncio.to_thread(running_below, self._root)
        for folder, pid in found.items():
            volume_id, _, within = str(folder.relative_to(self._root.resolve())).partition("/")
            if within != self.within:
                continue
            if volume_id not in known:
                await kill(pid)
                continue
            with contextlib.suppress(Unavailable):  # then it is dead, and a new one will be started
                self._follow(volume_id, await self._take_up(self._folder(volume_id), pid))

    async def serve(self, record: Record) -> None:
        """Raises Unavailable; may be repeated."""
        if not self._is_needed(record):
            return await self._end(record.id)
        if record.id not in self._running:
            self._follow(record.id, await self._launch(record, self._folder(record.id)))
        await self._arrange(self._running[record.id], record)

    async def close(self) -> None:
        """They go on serving."""
        followers = list(self._followers.values())
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
        for daemon in self._running.values():
            await daemon.close()
        self._running.clear()
        self._followers.clear()

    def socket(self, volume_id: str) -> Path:
        """Where guests of this host connect; nobody else is let in."""
        return caches.sockets(self._root) / f"{volume_id}.sock"

    def _folder(self, volume_id: str) -> Path:
        return self._root / volume_id / self.within

    async def _end(self, volume_id: str) -> None:
        daemon = self._running.pop(volume_id, None)
        if daemon is None:
            return
        follower = self._followers.pop(volume_id)
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)
        try:
            await daemon.quit()
        finally:
            await daemon.close()

    def _follow(self, volume_id: str, daemon: D) -> None:
        self._running[volume_id] = daemon
        self._followers[volume_id] = asyncio.create_task(self._outlive(volume_id, daemon))

    async def _outlive(self, volume_id: str, daemon: D) -> None:
        """Nobody ended it: its guests wait for another one at the same socket."""
        await daemon.ended()
        log.warning("a storage daemon of volume %s died", volume_id)
        del self._running[volume_id]
        await daemon.close()
        while True:
            try:
                return await self._restore(volume_id)
            except Fault as reason:
                log.error("volume %s is not served: %s %s", volume_id, reason, reason.internal)
                await self._clock.sleep(PATIENCE_S)


class StorageDaemons(Daemons[StorageDaemon]):
    """Those that serve by NBD."""

    async def _take_up(self, folder: Path, pid: int) -> StorageDaemon:
        return await StorageDaemon.adopt(folder, pid)

    async def release(self, record: Record) -> bool:
        """Whether nobody was connected any more: then nobody is served from now on."""
        daemon = self._running.get(record.id)
        served = await daemon.exports() if daemon else []
        return all([await daemon.remove_export(s.id, force=False) for s in served if daemon])


class Servers(StorageDaemons):
    """Of every volume that is exported: guests of this host connect to it."""

    def _is_needed(self, record: Record) -> bool:
        return bool(record.exports)

    async def _launch(self, record: Record, folder: Path) -> StorageDaemon:
        path = self.socket(record.id)
        with contextlib.closing(qemu.listen(path)) as server:
            self._layers.give(path)
            return await StorageDaemon.launch(folder, server, self._layers.prefix)

    async def _end(self, volume_id: str) -> None:
        await super()._end(volume_id)
        self.socket(volume_id).unlink(missing_ok=True)

    async def _arrange(self, daemon: StorageDaemon, record: Record) -> None:
        """Serve what the record says: layers first, then exports."""
        wanted = {_export_id(attachment, record): attachment for attachment in record.exports}
        found = {served.id: served for served in await daemon.exports()}
        for served in found.values():
            if served.id not in wanted:
                await _remove(daemon, served, record)
        await _arrange_layers(daemon, record)
        for id, attachment in wanted.items():
            limits = record.exports[attachment].limits.throttle
            await daemon.limit(f"g{digest(attachment)}", limits)
            if id not in found:
                await self._add(daemon, id, attachment, record)
        if record.heir is not None:
            await daemon.pivot(MOVE, self._clock)

    async def _add(self, daemon: StorageDaemon, id: str, attachment: str, record: Record) -> None:
        present, (window, node) = await daemon.nodes(), _nodes(attachment, record)
        if window not in present:
            if record.heir is not None:
                await self._reach(daemon, window, record.heir, RECONNECT_S)
            else:
                size = {"size": record.size, "file": record.chain[0].node, "discard": "unmap"}
                await daemon.add_node(window, driver="raw", **size)
        if node not in present:
            throttle = {"throttle-group": f"g{digest(attachment)}", "file": window}
            await daemon.add_node(node, driver="throttle", discard="unmap", **throttle)
        await daemon.add_export(
            id,
            node,
            export_name(attachment, record),
            writable=not record.exports[attachment].is_read_only,
            writethrough=_writes_through(record),
        )

    async def _reach(self, daemon: StorageDaemon, node: str, heir: Export, patience_s: int) -> None:
        """What is served there, as a node."""
        server = {"type": "unix", "path": heir.path}
        options: dict[str, Any] = {"reconnect-delay": patience_s, "discard": "unmap"}
        if not heir.path:
            server = {"type": "inet", "host": heir.address, "port": str(heir.port)}
            qemu_volumes.write_keys(daemon.folder / _HEIR, heir.attachment_id, heir.secret)
            for path in (daemon.folder / _HEIR, daemon.folder / _HEIR / qemu_volumes.KEYS):
                self._layers.give(path)
            key = {"endpoint": "client", "dir": _HEIR, "username": heir.attachment_id}
            key |= {"qom-type": "tls-creds-psk", "id": _HEIR}
            with contextlib.suppress(Unavailable):  # there is none of an earlier attempt
                await daemon.execute("object-del", id=_HEIR)
            await daemon.execute("object-add", **key)
            options["tls-creds"] = _HEIR
        await daemon.add_node(node, driver="nbd", server=server, export=heir.name, **options)

    async def copy(self, record: Record, heir: Export) -> None:
        """Begins it, if it has not begun: what its one attachment has is written there, too."""
        daemon, (attachment,) = self._running[record.id], record.exports
        if await daemon.job(MOVE) is None:
            await self.give_up(record.id)  # another one, perhaps to elsewhere, broke off
            await self._reach(daemon, _HEIR, heir, COPYING_S)
            _, node = _nodes(attachment, record)
            job = {"job-id": MOVE, "device": node, "target": _HEIR, "sync": "full"}
            job |= {"copy-mode": "write-blocking", "on-target-error": "report"}
            await daemon.execute("blockdev-mirror", **job, **{"auto-dismiss": False})

    async def copied(self, volume_id: str) -> bool:
        """Waits until both are alike; False when it broke off."""
        with contextlib.suppress(Unavailable):  # a dead one copies nothing
            while (daemon := self._running.get(volume_id)) and (job := await daemon.job(MOVE)):
                if job["status"] in ("ready", "concluded"):
                    return bool(job["status"] == "ready")
                await self._clock.sleep(_LOOK_S)
        return False

    async def give_up(self, volume_id: str) -> None:
        """It is not copied any more."""
        daemon = self._running.get(volume_id)
        with contextlib.suppress(Unavailable):  # a dead one copies nothing
            if daemon is not None:
                await daemon.drop_job(MOVE, self._clock)
                if _HEIR in await daemon.nodes():
                    await daemon.execute("blockdev-del", **{"node-name": _HEIR})


async def _arrange_layers(daemon: StorageDaemon, record: Record) -> None:
    """Those that are new are put over what it has: what is written from then on is written there."""
    chain, nodes = record.chain, await daemon.nodes()
    known = next((n for n, layer in enumerate(chain) if layer.node in nodes), None)
    if known is None:
        return await open_layers(daemon, chain)
    for n in reversed(range(known)):
        await open_layers(daemon, chain[n : n + 1], backing=None)
        await daemon.execute("blockdev-snapshot", node=chain[n + 1].node, overlay=chain[n].node)


async def open_layers(daemon: StorageDaemon, chain: Chain, **more: object) -> None:
    """By io_uring: the daemon writes to the kernel's memory itself, where threads had to be woken for each request.

    Not every kernel lets everybody use it, nor as often as asked.
    """
    try:
        node = described(chain, is_read_only=False, aio="io_uring")
        await daemon.execute("blockdev-add", **node, **more)
    except Unavailable:
        node = described(chain, is_read_only=False)
        await daemon.execute("blockdev-add", **node, **more)


async def _remove(daemon: StorageDaemon, served: Served, record: Record) -> None:
    """An export of an earlier size stays while somebody uses it."""
    _, _, mode = served.id.rpartition(".")
    is_earlier = attachment_of(served) in record.exports and mode == _mode(record)
    if await daemon.remove_export(served.id, force=not is_earlier):
        for node in (served.node, f"w{served.node[1:]}"):
            await daemon.execute("blockdev-del", **{"node-name": node})


def attachment_of(served: Served) -> str:
    return served.id[1:37]


def export_name(attachment: str, record: Record) -> str:
    """What a guest's host asks for; another one when the volume has grown."""
    return f"{attachment}.{record.size}"


def _export_id(attachment: str, record: Record) -> str:
    return f"a{attachment}.{record.size}.{_mode(record)}"


def _nodes(attachment: str, record: Record) -> tuple[str, str]:
    """The names of its window and throttle."""
    key = digest(export_name(attachment, record))
    return f"w{key}", f"t{key}"


def _mode(record: Record) -> str:
    return "through" if _writes_through(record) else "back"


def _writes_through(record: Record) -> bool:
    return record.chain[0].format == "qcow2"

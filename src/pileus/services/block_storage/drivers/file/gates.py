"""Doors for guests of other hosts: a second daemon of a volume, which takes TLS and speaks to the first.

Who has the key of an attachment to a volume may open that volume, and no other.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from pileus.host import files
from pileus.host.handover import listening
from pileus.host.storage_daemon import StorageDaemon
from pileus.kernel.faults import Conflict, Unavailable

from .record import Record, digest
from .serving import RECONNECT_S, StorageDaemons, attachment_of, export_name

PORTS = range(10820, 32000)  # below those that the kernel gives to whoever asks
_KEYS = "keys.psk"
_TLS = "tls-creds-psk,id=tls,endpoint=server,dir=."
# ffdhe2048 of RFC 7919: without a group at hand, a daemon takes a second to find one of its own.
_GROUP = b"""-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""


class Gates(StorageDaemons):
    """`address`: where other hosts reach this one."""

    within = "gate"
    address = ""

    def _is_needed(self, record: Record) -> bool:
        return record.is_remote

    async def _launch(self, record: Record, folder: Path) -> StorageDaemon:
        self._write_keys(record, folder)
        (folder / "dh-params.pem").write_bytes(_GROUP)
        with contextlib.closing(listening(self.address, record.port)) as server:
            return await StorageDaemon.launch(folder, server, self._layers.prefix, _TLS)

    async def release(self, record: Record) -> bool:
        """With the last guest the door itself goes, which holds on to the volume's server."""
        is_free = await super().release(record)
        if is_free:
            await self._end(record.id)
        return is_free

    async def _arrange(self, daemon: StorageDaemon, record: Record) -> None:
        self._write_keys(record, daemon.folder)
        remote = [a for a, serving in record.exports.items() if serving.is_remote]
        wanted = {f"a{export_name(attachment, record)}": attachment for attachment in remote}
        found = await daemon.exports()
        for served in found:
            if served.id in wanted:
                continue
            if await daemon.remove_export(served.id, force=attachment_of(served) not in remote):
                await daemon.execute("blockdev-del", **{"node-name": served.node})
        for id in wanted.keys() - {served.id for served in found}:
            await _add(daemon, id, str(self.socket(record.id)), wanted[id], record)

    def _write_keys(self, record: Record, folder: Path) -> None:
        """They are read anew for whoever connects."""
        folder.mkdir(exist_ok=True)
        folder.chmod(0o711)
        lines = [f"{a}:{s.secret}\n" for a, s in record.exports.items() if s.is_remote]
        files.write_atomically(folder / _KEYS, "".join(lines).encode())
        self._layers.give(folder / _KEYS)


async def _add(daemon: StorageDaemon, id: str, path: str, attachment: str, record: Record) -> None:
    name = export_name(attachment, record)
    node = f"n{digest(name)}"
    if node not in await daemon.nodes():
        server = {"type": "unix", "path": path}
        read_only = record.exports[attachment].is_read_only
        options = {"export": name, "reconnect-delay": RECONNECT_S, "read-only": read_only}
        options["discard"] = "unmap"
        await daemon.add_node(node, driver="nbd", server=server, **options)
    writable = not record.exports[attachment].is_read_only
    await daemon.add_export(id, node, name, writable=writable, writethrough=False)


def free_port(address: str, taken: set[int]) -> int:
    """One that nobody listens at and no other volume has. Raises Conflict where there is none."""
    for port in PORTS:
        if port not in taken:
            with contextlib.suppress(Unavailable):
                listening(address, port).close()
                return port
    raise Conflict(f"No port is free at {address} for another volume.")

"""Volumes in a QEMU: an NBD export or an image of Ceph's behind a virtio disk, which comes, grows and goes meanwhile.

A volume's node is a throttle over the connection, so that another connection, to a larger export, can take its place
while requests go on. A server that dies is waited for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import blake2s
from pathlib import Path
from typing import Any

from pileus.host import files
from pileus.host.qemu import Emulator
from pileus.host.rbd import RbdImage
from pileus.kernel.faults import Conflict, Unavailable
from pileus.kernel.world import Clock

RECONNECT_S = 600  # before the guest is told of an error
DEVICE = "vol-"  # what the name of a volume's device begins with
KEYS = "keys.psk"
_LOOK_S = 0.05
_LOOKS = 40
_GROUP, _THREAD, _GIB = "volumes", "volumes-io", 1 << 30
_TRIMS = {"discard": "unmap"}  # of each node, or what a guest trims ends there


@dataclass(frozen=True)
class NbdVolume:
    """`id` is what the guest sees as serial number. `path` is a socket's, else it is `address`:`port` with TLS.

    `keys` is a folder with KEYS that name `user`; with a `passphrase` it is a LUKS container. With `rbd` it is that image.
    `turn` is 0 or 1: of two that take each other's place in the guest, each has nodes of its own.
    """

    id: str
    name: str
    size: int
    path: str = ""
    address: str = ""
    port: int = 0
    keys: str = ""
    user: str = ""
    passphrase: str = ""
    is_read_only: bool = False
    rbd: RbdImage | None = None
    turn: int = 0

    @property
    def _key(self) -> str:
        turn = "+" * self.turn
        return blake2s(f"{self.id}{turn}".encode(), digest_size=8).hexdigest()

    @property
    def device(self) -> str:
        return f"{DEVICE}{self.id}"

    @property
    def node(self) -> str:
        """What may get another connection."""
        return f"vt-{self._key}"

    @property
    def opened(self) -> str:
        return self.nodes[0] if self.passphrase else self.node

    @property
    def nodes(self) -> tuple[str, str]:
        """What the device may stand on."""
        return f"vl-{self._key}", self.node

    @property
    def copy(self) -> str:
        """The job that fills it."""
        return f"swap-{self._key}"

    @property
    def other(self) -> NbdVolume:
        """What has its place, or had it before."""
        return NbdVolume(id=self.id, name="", size=0, turn=1 - self.turn)

    @property
    def secrets(self) -> tuple[str, str]:
        """What opens its connection, and itself."""
        return _key_of(self.connection), f"vp-{self._key}"

    @property
    def group(self) -> str:
        """What holds it to its limits: of an image nobody else would."""
        return self.own_group if self.rbd else _GROUP

    @property
    def own_group(self) -> str:
        return f"vg-{self._key}"

    @property
    def connection(self) -> str:
        place = f"{self.name} {self.path}{self.address}:{self.port}"
        return f"{self.connections}{blake2s(place.encode(), digest_size=4).hexdigest()}"

    @property
    def connections(self) -> str:
        """What the names of all connections to it begin with, to smaller exports and to elsewhere too."""
        return f"vc-{self._key}-"


def _key_of(connection: str) -> str:
    return f"vk-{connection[3:]}"


def write_keys(folder: Path, user: str, secret: str) -> None:
    """For QEMU, which reads them from a folder of their own."""
    folder.mkdir(exist_ok=True)
    files.write_atomically(folder / KEYS, f"{user}:{secret}\n".encode())


async def plug(emulator: Emulator, volume: NbdVolume, *, port: int = 0, boot: bool = False) -> None:
    """Give the guest the volume, or, if it has it, as much of it as there is now.

    `port`: the PCIe port it sits on, 0 for any. Raises Conflict where none is free.
    """
    if volume.device in await emulator.devices():
        if volume.rbd or volume.connection not in await _nodes(emulator):
            await _grow(emulator, volume)
        return
    await _open(emulator, volume)
    properties: dict[str, Any] = {
        "driver": "virtio-blk-pci",
        "id": volume.device,
        "drive": volume.opened,
        "serial": volume.id,
        "iothread": _THREAD,  # else every request waits for QEMU's main loop
    }
    if boot:
        properties["bootindex"] = 0  # before the disks of the command line
    await emulator.add_device(properties, port)


async def _open(emulator: Emulator, volume: NbdVolume, window: int = 0) -> None:
    """Its nodes, on which nothing stands yet; with so many bytes to be seen of it, 0: all."""
    await _drop_nodes(emulator, volume)
    for kind, name in (("throttle-group", volume.group), ("iothread", _THREAD)):
        with contextlib.suppress(Unavailable):  # it is there
            await emulator.execute("object-add", **{"qom-type": kind, "id": name})
    await _limit(emulator, volume)
    await _connect(emulator, volume)
    below = volume.connection
    if window:
        below += "-w"
        node = {"driver": "raw", "node-name": below, "file": volume.connection, **_TRIMS}
        await emulator.execute("blockdev-add", size=window + volume.size % _GIB, **node)
    await emulator.execute("blockdev-add", **_throttle(volume, below))
    if volume.passphrase:
        secret = volume.secrets[1]
        data = {"qom-type": "secret", "id": secret, "data": volume.passphrase}
        await emulator.execute("object-add", **data)
        luks = {"driver": "luks", "node-name": volume.opened, "key-secret": secret}
        luks["file"] = volume.node
        await emulator.execute("blockdev-add", **luks, **{"read-only": volume.is_read_only})


async def unplug(emulator: Emulator, volume: NbdVolume, clock: Clock) -> None:
    """Raises Unavailable when the guest does not let go. A volume that it does not have is gone."""
    await emulator.remove_device(volume.device, clock)
    for _ in range(_LOOKS):  # QEMU says that a device is gone before it has let go of its disk
        with contextlib.suppress(Unavailable):
            return await _drop_nodes(emulator, volume)
        await clock.sleep(_LOOK_S)
    await _drop_nodes(emulator, volume)


async def swap(
    emulator: Emulator, new: NbdVolume, keep: Callable[[], Awaitable[None]], clock: Clock
) -> None:
    """What the guest has by that name is copied to `new`, which takes its place; its requests go on meanwhile.

    Asked again it goes on where it was. A copy the other way is given up. `keep` is called when both are alike and are
    written to alike. Raises Conflict when the copy breaks off.
    """
    await _give_up(emulator, new.other, clock)
    if await _stands_on(emulator, new) not in new.nodes:
        is_under_way = new.copy in await _jobs(emulator)
        if not is_under_way or new.connection not in await _nodes(emulator):
            await _give_up(emulator, new, clock)
            drive = await _stands_on(emulator, new)
            window = (await _nodes(emulator))[drive]  # a copy must be as large as what it is of
            await _open(emulator, new, window)
            job = {"job-id": new.copy, "device": drive, "sync": "full"}
            job |= {"copy-mode": "write-blocking", "on-target-error": "report"}
            await emulator.execute("blockdev-mirror", target=new.opened, **job)
        while (status := (await _jobs(emulator)).get(new.copy)) not in (None, "ready"):
            await clock.sleep(_LOOK_S)
        if status == "ready":
            await keep()
            await emulator.execute("job-complete", id=new.copy)
            await _ended(emulator, new, clock)
        if await _stands_on(emulator, new) not in new.nodes:
            await _drop_nodes(emulator, new)
            raise Conflict(f"Volume {new.id} could not be copied: a back end failed meanwhile.")
    await _drop_nodes(emulator, new.other)
    await _use(emulator, new)


async def _give_up(emulator: Emulator, volume: NbdVolume, clock: Clock) -> None:
    """It is not filled any more."""
    with contextlib.suppress(Unavailable):  # it was not
        await emulator.execute("block-job-cancel", device=volume.copy, force=True)
    await _ended(emulator, volume, clock)


async def _ended(emulator: Emulator, volume: NbdVolume, clock: Clock) -> None:
    while volume.copy in await _jobs(emulator):
        await clock.sleep(_LOOK_S)


async def _jobs(emulator: Emulator) -> dict[str, str]:
    return {job["id"]: job["status"] for job in await emulator.execute("query-jobs")}


async def _stands_on(emulator: Emulator, volume: NbdVolume) -> str:
    """The node that the device has for a disk."""
    device = f"/machine/peripheral/{volume.device}"
    return str(await emulator.execute("qom-get", path=device, property="drive"))


async def _grow(emulator: Emulator, volume: NbdVolume) -> None:
    """Another connection takes the place of the present one, and the guest is told how large it is.

    An image's grows by itself.
    """
    await _limit(emulator, volume)
    if not volume.rbd:
        await _connect(emulator, volume)
    await _use(emulator, volume)


async def _use(emulator: Emulator, volume: NbdVolume) -> None:
    """All of its connection, and no other of its own."""
    throttle = _throttle(volume, volume.connection)
    await emulator.execute("blockdev-reopen", options=[throttle])
    for node in sorted(await _nodes(emulator), reverse=True):
        if node.startswith(volume.connections) and node != volume.connection:
            await emulator.execute("blockdev-del", **{"node-name": node})
            with contextlib.suppress(Unavailable):  # it needed none
                await emulator.execute("object-del", id=_key_of(node))
    await emulator.execute("block_resize", size=volume.size, **{"node-name": volume.node})
    if volume.passphrase:
        size = volume.size // _GIB * _GIB  # what is more is the header
        await emulator.execute("block_resize", size=size, **{"node-name": volume.opened})


async def _limit(emulator: Emulator, volume: NbdVolume) -> None:
    if volume.rbd and volume.rbd.limits:
        path, limits = f"/objects/{volume.group}", volume.rbd.limits
        await emulator.execute("qom-set", path=path, property="limits", value=limits)


async def _open_image(emulator: Emulator, volume: NbdVolume, image: RbdImage) -> None:
    """Nothing is held back: what a guest was told is written is Ceph's."""
    key = {"qom-type": "secret", "id": volume.secrets[0], "format": "base64", "data": image.key}
    await emulator.execute("object-add", **key)
    servers = [server.rpartition(":") for server in image.monitors]
    place = {"pool": image.pool, "namespace": image.namespace, "image": image.image}
    node = {"driver": "rbd", "node-name": volume.connection, "read-only": volume.is_read_only}
    node |= {"server": [{"host": host.strip("[]"), "port": port} for host, _, port in servers]}
    node |= {
        "user": image.user,
        "key-secret": volume.secrets[0],
        "cache": {"direct": True},
        **_TRIMS,
    }
    await emulator.execute("blockdev-add", **place, **node)


async def _connect(emulator: Emulator, volume: NbdVolume) -> None:
    if volume.rbd:
        return await _open_image(emulator, volume, volume.rbd)
    server: dict[str, Any] = {"type": "unix", "path": volume.path}
    options: dict[str, Any] = {"reconnect-delay": RECONNECT_S, "read-only": volume.is_read_only}
    if not volume.path:
        server = {"type": "inet", "host": volume.address, "port": str(volume.port)}
        options["tls-creds"] = volume.secrets[0]
        key = {"id": volume.secrets[0], "endpoint": "client", "dir": volume.keys}
        with contextlib.suppress(Unavailable):  # it is there
            key |= {"qom-type": "tls-creds-psk", "username": volume.user}
            await emulator.execute("object-add", **key)
    node = {"driver": "nbd", "node-name": volume.connection, "export": volume.name, **_TRIMS}
    await emulator.execute("blockdev-add", **node, server=server, **options)


def _throttle(volume: NbdVolume, below: str) -> dict[str, Any]:
    return {
        "driver": "throttle",
        "node-name": volume.node,
        "throttle-group": volume.group,
        "file": below,
        "read-only": volume.is_read_only,
        **_TRIMS,
    }


async def _drop_nodes(emulator: Emulator, volume: NbdVolume) -> None:
    """What an attempt that got no further left counts as well."""
    nodes = await _nodes(emulator)
    connections = [node for node in nodes if node.startswith(volume.connections)]
    for node in (*volume.nodes, *sorted(connections, reverse=True)):
        if node in nodes:
            await emulator.execute("blockdev-del", **{"node-name": node})
    for secret in (*volume.secrets, volume.own_group, *map(_key_of, connections)):
        with contextlib.suppress(Unavailable):  # it was not needed
            await emulator.execute("object-del", id=secret)


async def _nodes(emulator: Emulator) -> dict[str, int]:
    """And how many bytes each has."""
    listed = await emulator.execute("query-named-block-nodes", flat=True)
    return {node["node-name"]: node["image"]["virtual-size"] for node in listed}

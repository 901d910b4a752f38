"""What a volume back end promises: volumes made, grown, copied, exported to guests' hosts and deleted.

Everything here travels between control and host as msgpack: bytes come from, and go to, a URL with
a ticket. Sizes are in GiB where a name ends so, in bytes otherwise.

Promises every driver keeps (the suite in `pileus.testing.drivers.volume` asks for each):
- a call may be repeated with the same arguments: the second one finds the work done;
- calls for one volume wait for each other, calls for different volumes do not;
- a process that dies at any point leaves nothing that `start_up` and the repeated call cannot put
right: half a volume is none;
- what a guest was told is written is on the disk, whoever dies next;
- exports outlive the process: `close` leaves them serving and `start_up` finds them again.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from pileus.host.rbd import RbdImage


class ImageBytes(msgspec.Struct, frozen=True, kw_only=True, tag="image"):
    """Made of an image. `size` in bytes, 0 when unknown; so is an empty checksum."""

    id: str
    url: str
    disk_format: str = "raw"
    checksum_sha512: str = ""
    size: int = 0


class OfVolume(msgspec.Struct, frozen=True, kw_only=True, tag="volume"):
    """A copy of another volume of this back end, as it is now."""

    volume_id: str


class OfSnapshot(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot"):
    """A copy of a volume of this back end as a snapshot of it kept it."""

    volume_id: str
    snapshot_id: str


Source = ImageBytes | OfVolume | OfSnapshot


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a volume may do in a second, reads and writes together or each; 0 is without limit."""

    total_bytes_sec: int = 0
    read_bytes_sec: int = 0
    write_bytes_sec: int = 0
    total_iops_sec: int = 0
    read_iops_sec: int = 0
    write_iops_sec: int = 0

    @property
    def throttle(self) -> dict[str, int]:
        """As a throttle group of QEMU's has them."""
        found = {}
        for one in ("total", "read", "write"):
            found[f"bps-{one}"] = getattr(self, f"{one}_bytes_sec")
            found[f"iops-{one}"] = getattr(self, f"{one}_iops_sec")
        return found


class VolumeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A volume as asked for; blank (all zeros) without a `source`, which is never larger and lies in the same pool.

    `pool` is where it is to lie, "" for a host's first.
    """

    id: str
    size_gib: int
    project_id: str
    pool: str = ""
    source: Source | None = None
    passphrase: str = ""  # of a LUKS volume, forgotten once it is made; "" is not encrypted


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume as found. `exports`: the ids of the attachments that it is exported for."""

    id: str
    size_gib: int
    snapshots: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """How one attachment reaches its volume.

    `host` is the machine that serves it; a guest there opens `path`, the NBD socket, without going over the
    network. From elsewhere it is `address`:`port` by TLS with `secret`, a pre-shared key of this attachment alone,
    whose id is the user's name.
    With `is_iscsi` it is a disk of the target `name` there; the name and password that let one in (CHAP) are the
    attachment's id and `secret`.
    With `rbd` it is an image that the guest's own QEMU opens, from wherever it is.
    The device that a guest sees is the first `size` bytes; of an encrypted volume it is LUKS's, and
    more than the volume has by its header: whoever plugs it has the key.
    """

    attachment_id: str
    host: str
    path: str = ""
    address: str = ""
    port: int = 0
    secret: str = ""
    name: str = ""
    size: int = 0
    is_read_only: bool = False
    rbd: RbdImage | None = None
    is_iscsi: bool = False


def target_name(attachment_id: str) -> str:
    """Of iSCSI; it begins as those of Cinder's do."""
    return f"iqn.2010-10.org.openstack:attachment-{attachment_id}"


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What a back end has; it is one pool."""

    total_gib: int
    free_gib: int
    is_thin: bool = True
    storage_protocol: str = "nbd"


class VolumeDriver(Protocol):
    """The verbs of a volume back end.

    Each raises NotFound for a volume it does not have, unless it says otherwise.
    """

    async def start_up(self) -> None:
        """Make the state folder usable, adopt the exports that still serve. Needed once."""
        ...

    async def close(self) -> None:
        """Let go of everything but the exports."""
        ...

    async def create(self, spec: VolumeSpec) -> Volume:
        """Make the volume; one that is there is answered as found.

        Raises Invalid for an image that may not be used (see `pileus.host.images`), Conflict where there is no room.
        """
        ...

    async def delete(self, volume_id: str) -> None:
        """An unknown volume is a deleted one. Raises Conflict while it is exported or has snapshots.

        Copies made of it do not need it any more.
        """
        ...

    async def extend(self, volume_id: str, size_gib: int) -> Volume:
        """Grow the volume, under its exports too, and without a stop. Never shrinks."""
        ...

    async def snapshot(self, volume_id: str, snapshot_id: str) -> None:
        """Keep the volume as it is now, by that name; what is exported goes on being written."""
        ...

    async def delete_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        """An unknown snapshot, or one of an unknown volume, is deleted."""
        ...

    async def revert(self, volume_id: str, snapshot_id: str) -> Volume:
        """The volume is what it was at its snapshot; its size stays. Raises Conflict while exported."""
        ...

    async def export(
        self,
        volume_id: str,
        attachment_id: str,
        is_read_only: bool,
        limits: Limits,
        is_remote: bool = False,
    ) -> Export:
        """Serve the volume for one attachment; asked again, the same export, with these limits now.

        Its name is another one after the volume has grown. `is_remote`: for a guest of another host.
        """
        ...

    async def export_target(
        self, volume_id: str, attachment_id: str, is_read_only: bool, limits: Limits
    ) -> Export:
        """The same for a host that speaks iSCSI and not NBD; an image of Ceph's stays one.

        When the volume grows its requests wait for a moment, and a rescan shows the new size. Raises Conflict where
        there is no address or no program to serve it.
        """
        ...

    async def withdraw(self, volume_id: str, attachment_id: str) -> None:
        """Serve it no longer; what was written is on disk by then. An unknown export is withdrawn."""
        ...

    async def send(self, volume_id: str, snapshot_id: str, disk_format: str, url: str) -> int:
        """Send a volume, or a snapshot of it where one is named, to a URL in that format; bytes sent."""
        ...

    async def receive(self, volume_id: str, url: str, size: int) -> None:
        """Overwrite a volume with raw bytes from a URL, as a backup gives them. Raises Conflict while exported."""
        ...

    async def hand_over(self, volume_id: str, to: Export) -> None:
        """Copy a volume that one attachment has to another of its size, which is served there for the same attachment.

        It goes on being used: from the end of this on all that is written is written there. What is left here is
        deleted by `delete` as soon as the guest has gone over to the other. Who asks again waits for the same end.
        Raises Conflict when it breaks off, and the volume is what it was.
        """
        ...

    async def stay(self, volume_id: str) -> bool:
        """Give up handing it over; False where that is done already."""
        ...

    async def volumes(self) -> list[Volume]:
        """Every volume here, in the order of their ids."""
        ...

    async def room(self) -> Room: ...

    async def sweep(self, keep: set[str]) -> list[str]:
        """Delete the volumes, whole or half made, that are not in `keep`; the ids deleted."""
        ...

"""What the state folder says of a volume: one JSON file, replaced whole."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2s
from pathlib import Path

import msgspec

from pileus.host import files

from ...driver import Export, Limits, Volume

GIB = 1 << 30
FILE = "volume.json"


class Layer(msgspec.Struct, frozen=True):
    """A file of a chain, named from the state folder; `format` is raw, qed or, of earlier versions, qcow2."""

    name: str
    format: str

    @property
    def node(self) -> str:
        """Its block node in a daemon; those have names of 31 characters."""
        return f"l{digest(self.name)}"


Chain = tuple[Layer, ...]  # what is written first; a raw one ends it


class Kept(msgspec.Struct, frozen=True):
    """A volume as a snapshot of it kept it."""

    chain: Chain
    size_gib: int


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """An export as asked for. `secret` is of one that is reached over the network."""

    is_read_only: bool
    limits: Limits
    secret: str = ""
    is_iscsi: bool = False

    @property
    def is_remote(self) -> bool:
        """By NBD."""
        return bool(self.secret) and not self.is_iscsi


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """`header`: the bytes of a LUKS header, which a guest's device begins with; `port`: where other hosts connect, by
    NBD and by iSCSI.

    `heir`: where its bytes are that count; what is served here is what is there. `is_leaving`: until nobody asks here.
    """

    id: str
    project_id: str
    size_gib: int
    chain: Chain
    header: int = 0
    port: int = 0
    iscsi_port: int = 0
    snapshots: dict[str, Kept] = {}
    exports: dict[str, Serving] = {}
    heir: Export | None = None
    is_leaving: bool = False

    @property
    def size(self) -> int:
        """The bytes that are served."""
        return self.size_gib * GIB + self.header

    @property
    def is_remote(self) -> bool:
        return any(serving.is_remote for serving in self.exports.values())

    @property
    def is_iscsi(self) -> bool:
        return any(serving.is_iscsi for serving in self.exports.values())

    def layers(self) -> Iterator[Layer]:
        """Every layer that the volume or a snapshot of it has."""
        yield from self.chain
        for kept in self.snapshots.values():
            yield from kept.chain

    def seen(self) -> Volume:
        return Volume(
            id=self.id,
            size_gib=self.size_gib,
            snapshots=tuple(sorted(self.snapshots)),
            exports=tuple(sorted(self.exports)),
        )


def digest(text: str) -> str:
    return blake2s(text.encode(), digest_size=8).hexdigest()


def read(folder: Path) -> Record | None:
    """None of half a volume."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Record)
    except FileNotFoundError:
        return None


def write(folder: Path, record: Record) -> None:
    files.write_atomically(folder / FILE, msgspec.json.encode(record))

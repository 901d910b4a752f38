"""The books of volumes compared: what the API says, what lies at hosts and is served there, what control keeps, quotas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

Row = dict[str, Any]
_WHOLE = {"images": "active"}
_RESTING = ("available", "in-use", "active", "attached", "attaching", "reserved")


@dataclass
class Told:
    """One reading of the APIs, rows by id."""

    volumes: dict[str, Row] = field(default_factory=dict)
    snapshots: dict[str, Row] = field(default_factory=dict)
    backups: dict[str, Row] = field(default_factory=dict)
    images: dict[str, Row] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)  # the ids of all images that have bytes
    attachments: dict[str, Row] = field(default_factory=dict)
    limits: Row = field(default_factory=dict)

    def of(self, noun: str) -> dict[str, Row]:
        return dict(vars(self)[noun])

    def whole(self, noun: str, id: str) -> bool:
        return bool(self.of(noun)[id]["status"] == _WHOLE.get(noun, "available"))

    def busy(self) -> list[tuple[str, str]]:
        """What is neither at rest nor in error."""
        rows = [*self.volumes.values(), *self.snapshots.values(), *self.backups.values()]
        return [
            (row["id"], row["status"])
            for row in [*rows, *self.images.values()]
            if row["status"] not in _RESTING and not row["status"].startswith("error")
        ]


@dataclass(frozen=True)
class Held:
    """A volume as its host holds it."""

    host: str
    id: str
    size: int
    snapshots: frozenset[str]
    exports: frozenset[str]


def differences(control: Path, hosts: Path, told: Told, real: bool) -> list[str]:
    """What one says and another does not. `control` and `hosts` are folders."""
    held = list(_files(hosts) if real else _pretended(hosts))
    found = [*_volumes(held, told), *_backups(control, told), *_images(control, told)]
    found += _usage(told)
    if real:
        found += [text for folder in hosts.glob("*/volumes") for text in _layers(folder)]
    return found + [f"half a file {path}" for path in control.rglob("*.part")]


def _files(hosts: Path) -> Iterator[Held]:
    """What the file driver holds."""
    for folder in hosts.glob("*/volumes/volumes/*"):
        record = json.loads((folder / "volume.json").read_bytes())
        snapshots, exports = frozenset(record.get("snapshots", ())), record.get("exports", ())
        host = folder.parts[-4]
        yield Held(host, record["id"], record["size_gib"], snapshots, frozenset(exports))


def _pretended(hosts: Path) -> Iterator[Held]:
    for path in hosts.glob("*/volumes/*"):
        record = msgspec.msgpack.decode(path.read_bytes())
        snapshots, exports = frozenset(record["snapshots"]), frozenset(record["exports"])
        yield Held(path.parts[-3], record["id"], record["size_gib"], snapshots, exports)


def _volumes(held: list[Held], told: Told) -> list[str]:
    """Each lies where the API says and by that name, once, with its snapshots, and is served to those who are attached."""
    found, names = [], set()
    for id, row in told.volumes.items():
        host = str(row["os-vol-host-attr:host"] or "").partition("@")[0]
        name = row["os-vol-mig-status-attr:name_id"] or id  # another one once it was moved
        names.add(name)
        snapshots = {s["id"] for s in told.snapshots.values() if s["volume_id"] == id}
        exports = {a["id"] for a in told.attachments.values() if a["volume_id"] == id}
        wanted = [Held(host, name, row["size"], frozenset(snapshots), frozenset(exports))]
        there = [one for one in held if one.id == name]
        if there != (wanted if row["status"] != "error" else []):
            found.append(f"volume is {row['status']} and {wanted}, its hosts have {there}")
    strange = [one for one in held if one.id not in names]
    return found + [f"{one} is no volume" for one in strange]


def _layers(folder: Path) -> list[str]:
    """Files that no volume has, and such as are not there."""
    used: set[str] = set()
    for path in folder.glob("volumes/*/volume.json"):
        record = json.loads(path.read_bytes())
        chains = [record["chain"], *(s["chain"] for s in record.get("snapshots", {}).values())]
        used |= {layer["name"] for chain in chains for layer in chain}
    there = {f"layers/{path.name}" for path in (folder / "layers").iterdir()}
    there |= {f"outgoing/{path.name}" for path in (folder / "outgoing").iterdir()}
    mine = {name for name in used if name.startswith("layers/")}
    return [f"file {name} is there or used, not both" for name in there ^ mine]


def _backups(control: Path, told: Told) -> list[str]:
    folder = control / "volume-backups"
    there = {path.name for path in folder.glob("*") if path.suffix != ".part"}
    wanted = {id for id, row in told.backups.items() if row["status"] == "available"}
    return [f"backup {id} is there or kept, not both" for id in there ^ wanted]


def _images(control: Path, told: Told) -> list[str]:
    """Their files, and those that are on their way."""
    there = {path.name for path in (control / "images").iterdir() if path.is_file()}
    coming = [path.name for path in (control / "images" / "incoming").iterdir()]
    wrong = [f"image {id} is there or active, not both" for id in there ^ told.stored]
    return wrong + [f"half an image {name}" for name in coming]


def _usage(told: Told) -> list[str]:
    sizes = [row["size"] for some in (told.volumes, told.snapshots) for row in some.values()]
    wanted = {
        "totalVolumesUsed": len(told.volumes),
        "totalSnapshotsUsed": len(told.snapshots),
        "totalGigabytesUsed": sum(sizes),
        "totalBackupsUsed": len(told.backups),
        "totalBackupGigabytesUsed": sum(row["size"] for row in told.backups.values()),
    }
    return [
        f"{name} is {told.limits[name]}, counted {n}"
        for name, n in wanted.items()
        if told.limits[name] != n
    ]

"""Volumes of a few bytes: no privileges, no devices, all promises kept.

One process holds those of thousands of pretended hosts. A volume is one small file, written before it is answered for;
a host without volumes has no folder and costs nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from pileus.host import uploads
from pileus.host.files import PART
from pileus.host.image_cache import fetch, look
from pileus.host.images import require
from pileus.kernel.faults import Conflict, Invalid, NotFound

from ..driver import (
    Export,
    ImageBytes,
    Limits,
    OfSnapshot,
    Room,
    Source,
    Volume,
    VolumeSpec,
    target_name,
)

Deliver = Callable[[str, bytes], Awaitable[None]]
GIB = 1 << 30
TOTAL_GIB = 10_240
HEIR = ".heir"  # what another volume handed over


class Copy(msgspec.Struct, frozen=True):
    size_gib: int
    content: bytes


class FakeVolume(msgspec.Struct, kw_only=True):
    """`content` is what stands at its beginning; the rest is zeros."""

    id: str
    size_gib: int
    content: bytes = b""
    snapshots: dict[str, Copy] = {}
    exports: dict[str, Export] = {}
    is_handed_over: bool = False  # nobody connects to the fake, so that it may go at once


class FakeVolumeDriver:
    """Keeps every promise of `VolumeDriver` but storing.

    Nothing is awaited in the middle of a change, so that calls for one volume take turns by themselves. `deliver`
    takes bytes to a path; where it is given there are no sockets, and nothing is fetched.
    """

    def __init__(
        self, folder: Path, host: str, *, deliver: Deliver | None = None, total_gib: int = TOTAL_GIB
    ) -> None:
        self.folder, self.host, self.total_gib = folder, host, total_gib
        self._deliver = deliver
        self._volumes: dict[str, FakeVolume] = {}

    async def start_up(self) -> None:
        if not self.folder.exists():
            return
        for path in self.folder.iterdir():
            if path.suffix == PART:
                path.unlink()
            elif path.suffix != HEIR:
                volume = msgspec.msgpack.decode(path.read_bytes(), type=FakeVolume)
                self._volumes[volume.id] = volume

    async def close(self) -> None:
        self._volumes.clear()

    async def create(self, spec: VolumeSpec) -> Volume:
        known = self._volumes.get(spec.id)
        if known is not None:
            return _seen(known)
        content = await self._content(spec.source, spec.size_gib)
        if self._used() + spec.size_gib > self.total_gib:
            raise Conflict(f"No room on {self.host} for a volume of {spec.size_gib} GiB.")
        return self._keep(FakeVolume(id=spec.id, size_gib=spec.size_gib, content=content))

    async def delete(self, volume_id: str) -> None:
        volume = self._volumes.get(volume_id)
        if volume is None:
            return
        _check_free(volume)
        if volume.snapshots:
            raise Conflict(f"Volume {volume_id} has snapshots; delete those first.")
        self._drop(volume_id)

    async def extend(self, volume_id: str, size_gib: int) -> Volume:
        volume = self._find(volume_id)
        more = size_gib - volume.size_gib
        if more > 0 and self._used() + more > self.total_gib:
            raise Conflict(f"No room on {self.host} for {more} GiB more.")
        volume.size_gib = max(volume.size_gib, size_gib)
        volume.exports = {
            id: msgspec.structs.replace(e, size=volume.size_gib * GIB)
            for id, e in volume.exports.items()
        }
        return self._keep(volume)

    async def snapshot(self, volume_id: str, snapshot_id: str) -> None:
        volume = self._find(volume_id)
        if snapshot_id not in volume.snapshots:
            copy = Copy(volume.size_gib, volume.content)
            volume.snapshots = {**volume.snapshots, snapshot_id: copy}
            self._keep(volume)

    async def delete_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        volume = self._volumes.get(volume_id)
        if volume is not None and snapshot_id in volume.snapshots:
            volume.snapshots = {k: v for k, v in volume.snapshots.items() if k != snapshot_id}
            self._keep(volume)

    async def revert(self, volume_id: str, snapshot_id: str) -> Volume:
        volume = self._find(volume_id)
        _check_free(volume)
        volume.content = self._copy(volume, snapshot_id).content
        return self._keep(volume)

    async def export(
        self,
        volume_id: str,
        attachment_id: str,
        is_read_only: bool,
        limits: Limits,
        is_remote: bool = False,
    ) -> Export:
        volume = self._find(volume_id)
        known = volume.exports.get(attachment_id)
        secret = known.secret if known else ""
        if is_remote:
            secret = f"key of {attachment_id}"
        export = Export(
            attachment_id=attachment_id,
            host=self.host,
            path=f"{self.folder}/{volume_id}.socket",
            address="192.0.2.1" if secret else "",
            port=10820 if secret else 0,
            secret=secret,
            name=volume_id,
            size=volume.size_gib * GIB,
            is_read_only=is_read_only,
        )
        if export != known:
            volume.exports = {**volume.exports, attachment_id: export}
            self._keep(volume)
        return export

    async def export_target(
        self, volume_id: str, attachment_id: str, is_read_only: bool, limits: Limits
    ) -> Export:
        export = await self.export(volume_id, attachment_id, is_read_only, limits, True)
        changes = {"is_iscsi": True, "path": "", "name": target_name(attachment_id)}
        export = msgspec.structs.replace(export, **changes)
        volume = self._find(volume_id)
        volume.exports = {**volume.exports, attachment_id: export}
        self._keep(volume)
        return export

    async def withdraw(self, volume_id: str, attachment_id: str) -> None:
        volume = self._volumes.get(volume_id)
        if volume is not None and attachment_id in volume.exports:
            volume.exports = {k: v for k, v in volume.exports.items() if k != attachment_id}
            self._keep(volume)

    async def send(self, volume_id: str, snapshot_id: str, disk_format: str, url: str) -> int:
        volume = self._find(volume_id)
        content = self._copy(volume, snapshot_id).content if snapshot_id else volume.content
        await (self._deliver or uploads.send_bytes)(url, content)
        return len(content)

    async def receive(self, volume_id: str, url: str, size: int) -> None:
        _check_free(self._find(volume_id))
        content = b"" if self._deliver else await fetch(url)
        volume = self._find(volume_id)
        _check_free(volume)
        volume.content = content
        self._keep(volume)

    async def hand_over(self, volume_id: str, to: Export) -> None:
        """Its heir finds the bytes beside its own file."""
        volume = self._find(volume_id)
        if not volume.is_handed_over:
            if len(volume.exports) != 1 or to.size != volume.size_gib * GIB:
                raise Conflict(f"Volume {volume_id} cannot be handed over to {to.name}.")
            heir = Path(to.path).with_suffix(HEIR)
            heir.write_bytes(volume.content)
            volume.is_handed_over = True
            self._keep(volume)

    async def stay(self, volume_id: str) -> bool:
        return not self._find(volume_id).is_handed_over

    async def volumes(self) -> list[Volume]:
        return [_seen(volume) for _, volume in sorted(self._volumes.items())]

    async def room(self) -> Room:
        return Room(total_gib=self.total_gib, free_gib=max(0, self.total_gib - self._used()))

    async def sweep(self, keep: set[str]) -> list[str]:
        gone = sorted(self._volumes.keys() - keep)
        for volume_id in gone:
            self._drop(volume_id)
        return gone

    def _used(self) -> int:
        return sum(volume.size_gib for volume in self._volumes.values())

    def _find(self, volume_id: str) -> FakeVolume:
        if volume_id not in self._volumes:
            raise NotFound(f"There is no volume {volume_id} on {self.host}.")
        volume, given = self._volumes[volume_id], self.folder / f"{volume_id}{HEIR}"
        if volume.exports and given.exists():
            volume.content = given.read_bytes()
            self._keep(volume)
            given.unlink()
        return volume

    def _copy(self, volume: FakeVolume, snapshot_id: str) -> Copy:
        if snapshot_id not in volume.snapshots:
            raise NotFound(f"Volume {volume.id} has no snapshot {snapshot_id}.")
        return volume.snapshots[snapshot_id]

    async def _content(self, source: Source | None, size_gib: int) -> bytes:
        """What a new volume begins with. Raises Invalid for a source that is larger, or no image to be trusted."""
        if source is None:
            return b""
        if isinstance(source, ImageBytes):
            if self._deliver is None:
                facts = await look(source.url, source.size, source.disk_format)
                require(facts, source.disk_format)
                _check_fit(facts.virtual_size, size_gib * GIB)
            return f"image {source.id}".encode()
        origin = self._find(source.volume_id)
        copy = Copy(origin.size_gib, origin.content)
        if isinstance(source, OfSnapshot):
            copy = self._copy(origin, source.snapshot_id)
        _check_fit(copy.size_gib * GIB, size_gib * GIB)
        return copy.content

    def _keep(self, volume: FakeVolume) -> Volume:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / volume.id
        part = path.with_name(path.name + PART)
        part.write_bytes(msgspec.msgpack.encode(volume))
        part.replace(path)
        self._volumes[volume.id] = volume
        return _seen(volume)

    def _drop(self, volume_id: str) -> None:
        for path in (self.folder / volume_id, self.folder / f"{volume_id}{HEIR}"):
            path.unlink(missing_ok=True)
        del self._volumes[volume_id]


def _seen(volume: FakeVolume) -> Volume:
    return Volume(
        id=volume.id,
        size_gib=volume.size_gib,
        snapshots=tuple(sorted(volume.snapshots)),
        exports=tuple(sorted(volume.exports)),
    )


def _check_free(volume: FakeVolume) -> None:
    if volume.exports and not volume.is_handed_over:
        raise Conflict(f"Volume {volume.id} is exported; detach it first.")


def _check_fit(needed: int, size: int) -> None:
    if needed > size:
        raise Invalid(f"The source has {needed} bytes; a volume of {size} bytes is too small.")

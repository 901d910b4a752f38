"""The verbs of the Ceph back end, see the package."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from pileus.host import luks, process, uploads
from pileus.host.image_cache import ImageCache
from pileus.host.rbd import Place, Rbd
from pileus.host.turns import Turns
from pileus.kernel.faults import Conflict, Fault, Invalid, NotFound
from pileus.kernel.world import World

from ...driver import Export, ImageBytes, Limits, OfSnapshot, OfVolume, Room, Volume, VolumeSpec
from ..file.layers import FORMATS, check_size, room_for

GIB = 1 << 30
EXPORTS, BASE, SIZE = "exports", "base", "pileus.size"
TIDY_S = 600  # between two looks for images and trash that no volume needs
_HOURS_S = 6 * 3600
_COPYING = process.Limits(address_space=4 << 30, cpu_s=_HOURS_S)  # librbd has many threads
log = logging.getLogger(__name__)


class Serving(msgspec.Struct, frozen=True):
    is_read_only: bool
    limits: Limits


Exports = dict[str, dict[str, Serving]]  # volume -> attachment -> how


class RbdVolumeDriver:
    """`VolumeDriver` over a pool. `state_dir` holds what is on its way from or to it."""

    def __init__(
        self, state_dir: Path, host: str, place: Place, *, world: World | None = None
    ) -> None:
        self._host, self._world = host, world or World()
        self.place = msgspec.structs.replace(place, namespace=host)
        self._rbd = Rbd(self.place)
        self._passing = state_dir / "passing"
        self._images = ImageCache(state_dir / "images", self._world.clock)
        self._exports: Exports = {}
        self._turns = Turns()
        self._tidying: asyncio.Task[None] | None = None

    async def start_up(self) -> None:
        if self._tidying is not None:
            return
        shutil.rmtree(self._passing, ignore_errors=True)
        self._passing.mkdir(parents=True)
        self._images.start_up()
        await self._rbd.ready()
        said = await self._rbd.read(EXPORTS)
        self._exports = msgspec.json.decode(said or b"{}", type=Exports)
        for name in await self._rbd.names():
            if name.startswith("part-"):
                await self._drop(name)
        self._tidying = asyncio.create_task(self._tidy())

    async def close(self) -> None:
        if self._tidying is not None:
            self._tidying.cancel()
            await asyncio.gather(self._tidying, return_exceptions=True)
            self._tidying = None
        await self._images.close()

    async def create(self, spec: VolumeSpec) -> Volume:
        check_size(spec.size_gib)
        if not re.fullmatch(r"[0-9a-f-]{36}", spec.id):
            raise Invalid(f"Volume id {spec.id!r} is not a UUID with dashes; it names an image.")
        async with self._turns.of(spec.id):
            if await self._rbd.size(_image(spec.id)) is None:
                part = f"part-{spec.id}"
                await self._drop(part)
                try:
                    await self._make(spec, part)
                except BaseException:
                    await self._drop(part)
                    raise
                await self._rbd.rename(part, _image(spec.id))
            return await self._seen(spec.id)

    async def delete(self, volume_id: str) -> None:
        async with self._turns.of(volume_id):
            if await self._rbd.size(_image(volume_id)) is None:
                return
            self._check_idle(volume_id)
            if kept := await self._snapshots(volume_id):
                text = f"Volume {volume_id} has snapshots {', '.join(sorted(kept))}"
                raise Conflict(f"{text}; they must be deleted first.")
            await self._drop(_image(volume_id))

    async def extend(self, volume_id: str, size_gib: int) -> Volume:
        async with self._in_hand(volume_id) as size:
            if size_gib > size // GIB:
                await self._rbd.resize(_image(volume_id), size_gib * GIB + size % GIB)
            return await self._seen(volume_id)

    async def snapshot(self, volume_id: str, snapshot_id: str) -> None:
        async with self._in_hand(volume_id):
            await self._rbd.snapshot(_image(volume_id), _snapshot(snapshot_id))

    async def delete_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        async with self._turns.of(volume_id):
            await self._rbd.remove_snapshot(_image(volume_id), _snapshot(snapshot_id))

    async def revert(self, volume_id: str, snapshot_id: str) -> Volume:
        """Its size is noted first: it goes back with the rest, and the next attempt must know it."""
        image = _image(volume_id)
        async with self._in_hand(volume_id) as size:
            self._check_idle(volume_id)
            kept = await self._kept(volume_id, snapshot_id)
            size = max(size, int(await self._rbd.noted(image, SIZE) or 0))
            if kept < size:
                await self._rbd.note(image, SIZE, str(size))
            await self._rbd.roll_back(image, _snapshot(snapshot_id))
            if kept < size:
                await self._rbd.resize(image, size)
                await self._rbd.note(image, SIZE, "")
            return await self._seen(volume_id)

    async def export(
        self,
        volume_id: str,
        attachment_id: str,
        is_read_only: bool,
        limits: Limits,
        is_remote: bool = False,
    ) -> Export:
        async with self._in_hand(volume_id) as size:
            image = await self._rbd.opened(_image(volume_id), limits.throttle)
            others = self._exports.get(volume_id, {})
            await self._serve(volume_id, {**others, attachment_id: Serving(is_read_only, limits)})
            return Export(
                attachment_id=attachment_id,
                host=self._host,
                rbd=image,
                name=image.image,
                size=size,
                is_read_only=is_read_only,
            )

    async def export_target(
        self, volume_id: str, attachment_id: str, is_read_only: bool, limits: Limits
    ) -> Export:
        return await self.export(volume_id, attachment_id, is_read_only, limits)

    async def withdraw(self, volume_id: str, attachment_id: str) -> None:
        """Who had it has closed it: nothing is held back on the way (see `pileus.host.qemu_volumes`)."""
        async with self._turns.of(volume_id):
            served = self._exports.get(volume_id, {})
            if attachment_id in served:
                await self._serve(
                    volume_id, {k: v for k, v in served.items() if k != attachment_id}
                )

    async def send(self, volume_id: str, snapshot_id: str, disk_format: str, url: str) -> int:
        if disk_format not in FORMATS:
            raise Invalid(f"Format {disk_format!r} is none of {', '.join(FORMATS)}.")
        part = f"part-{self._world.new_hex()}"
        try:
            size = await self._branch(volume_id, snapshot_id, part)
            with self._file() as path:
                described = {"driver": "raw", "size": size, "file": self.place.options(part)}
                extra = ["-osubformat=streamOptimized"] if disk_format == "vmdk" else []
                words = ["convert", f"-O{FORMATS[disk_format]}", *extra]
                words += [f"json:{json.dumps(described)}", str(path)]
                await _qemu_img(*words, what=f"the bytes of volume {volume_id}")
                return await uploads.send(url, path)
        finally:
            await self._drop(part)

    async def receive(self, volume_id: str, url: str, size: int) -> None:
        async with self._in_hand(volume_id) as whole:
            self._check_idle(volume_id)
            if size > whole:
                text = f"{size} bytes do not fit in volume {volume_id}"
                raise Invalid(f"{text}, which has {whole}.")
            with self._file() as path:
                await uploads.fetch(url, path)
                os.truncate(path, whole)  # the rest of the volume is zeros
                into = _words(self.place.options(_image(volume_id)))
                words = ["convert", "-n", "-fraw", "--target-image-opts", str(path), into]
                await _qemu_img(*words, what=f"{size} bytes")

    async def hand_over(self, volume_id: str, to: Export) -> None:
        text = f"Guests open volume {volume_id} at Ceph, and nobody here is between them and it"
        raise Conflict(f"{text}; it must be detached first.")

    async def stay(self, volume_id: str) -> bool:
        return True

    async def volumes(self) -> list[Volume]:
        ids = [name[7:] for name in await self._rbd.names() if name.startswith("volume-")]
        return [await self._seen(volume_id) for volume_id in ids]

    async def room(self) -> Room:
        total, free = await self._rbd.room()
        return Room(total_gib=total // GIB, free_gib=free // GIB, storage_protocol="ceph")

    async def sweep(self, keep: set[str]) -> list[str]:
        names = (name.partition("-") for name in await self._rbd.names())
        orphans = sorted({id for kind, _, id in names if kind == "volume"} - keep)
        for volume_id in orphans:
            async with self._turns.of(volume_id):
                await self._serve(volume_id, {})
                await self._drop(_image(volume_id))
        return orphans

    # What the verbs are made of

    async def _make(self, spec: VolumeSpec, part: str) -> None:
        size = spec.size_gib * GIB
        if isinstance(spec.source, OfVolume | OfSnapshot):
            await self._copy(spec, spec.source, part)
        elif spec.source is not None:
            async with self._turns.of(f"image-{spec.source.id}"):
                image = await self._image(spec.source, size)
                if spec.passphrase:
                    return await self._encrypt(part, size, spec.passphrase, image)
                await self._rbd.clone(image, BASE, part)
                await self._rbd.resize(part, size)
        elif spec.passphrase:
            await self._encrypt(part, size, spec.passphrase)
        else:
            await self._rbd.create(part, size)

    async def _copy(self, spec: VolumeSpec, source: OfVolume | OfSnapshot, part: str) -> None:
        kept = source.snapshot_id if isinstance(source, OfSnapshot) else ""
        size = await self._branch(source.volume_id, kept, part)
        header, text = size % GIB, f"Volume {source.volume_id}"
        if spec.passphrase and not header:
            text += " is not encrypted, and a copy of it cannot be"
            raise Invalid(f"{text}; its data can be written to an encrypted volume.")
        _check_fit(text, size - header, spec.size_gib * GIB)
        await self._rbd.resize(part, spec.size_gib * GIB + header)

    async def _branch(self, volume_id: str, snapshot_id: str, part: str) -> int:
        """Make `part` a clone of the volume as it is now, or as the snapshot kept it; its size in bytes."""
        image = _image(volume_id)
        async with self._in_hand(volume_id) as size:
            if snapshot_id:
                size = await self._kept(volume_id, snapshot_id)
                await self._rbd.clone(image, _snapshot(snapshot_id), part)
            else:
                await self._rbd.snapshot(image, part)
                await self._rbd.clone(image, part, part)
                await self._rbd.remove_snapshot(image, part)
            return size

    async def _image(self, source: ImageBytes, size: int) -> str:
        """The pool's own copy of it, which volumes are clones of; its caller has its turn."""
        name, part = f"image-{source.id}", f"part-{source.id}"
        if (needed := await self._rbd.size(name)) is None:
            told = (source.url, source.disk_format, source.checksum_sha512, source.size)
            cached = await self._images.get(source.id, *told)
            needed = cached.virtual_size
            _check_fit(f"Image {source.id}", needed, size)
            await self._drop(part)
            await self._rbd.create(part, needed)
            words = ["convert", "-n", f"-f{cached.format}", "--target-image-opts"]
            words += [str(self._images.path(cached)), _words(self.place.options(part))]
            await _qemu_img(*words, what=f"image {source.id}")
            await self._rbd.rename(part, name)
        _check_fit(f"Image {source.id}", needed, size)
        await self._rbd.snapshot(name, BASE)
        return name

    async def _encrypt(self, part: str, size: int, passphrase: str, image: str = "") -> None:
        """A LUKS1 container for `size` bytes, with the image in it: its header makes it longer."""
        header = await asyncio.to_thread(luks.header, passphrase, self._world.random)
        await self._rbd.create_of(part, header)
        await self._rbd.resize(part, luks.HEADER + size)
        if image:
            inner = {f"file.{k}": v for k, v in self.place.options(part).items()}
            into = _words({"driver": "luks", "key-secret": "key", **inner})
            origin = json.dumps({"driver": "raw", "file": self.place.options(image, BASE)})
            with luks.secret(passphrase) as secret:
                words = ["convert", *secret, "-n", "--target-image-opts"]
                await _qemu_img(*words, f"json:{origin}", into, what="a container")

    @asynccontextmanager
    async def _in_hand(self, volume_id: str) -> AsyncIterator[int]:
        """Its size in bytes."""
        async with self._turns.of(volume_id):
            size = await self._rbd.size(_image(volume_id))
            if size is None:
                raise NotFound(f"Volume {volume_id} is not on this host.")
            yield size

    async def _seen(self, volume_id: str) -> Volume:
        size = await self._rbd.size(_image(volume_id))
        return Volume(
            id=volume_id,
            size_gib=(size or 0) // GIB,
            snapshots=tuple(sorted(await self._snapshots(volume_id))),
            exports=tuple(sorted(self._exports.get(volume_id, ()))),
        )

    async def _snapshots(self, volume_id: str) -> dict[str, int]:
        """Their sizes by their ids."""
        found = await self._rbd.snapshots(_image(volume_id))
        return {s.name[9:]: s.size for s in found if s.name.startswith("snapshot-")}

    async def _kept(self, volume_id: str, snapshot_id: str) -> int:
        sizes = await self._snapshots(volume_id)
        if snapshot_id not in sizes:
            raise NotFound(f"Volume {volume_id} has no snapshot {snapshot_id}.")
        return sizes[snapshot_id]

    async def _serve(self, volume_id: str, served: dict[str, Serving]) -> None:
        """Known as soon as it is written, and written in order."""
        async with self._turns.of(EXPORTS):
            if served == self._exports.get(volume_id, {}):
                return
            exports = {**self._exports, volume_id: served}
            exports = {volume: by for volume, by in exports.items() if by}
            await self._rbd.write(EXPORTS, msgspec.json.encode(exports))
            self._exports = exports

    def _check_idle(self, volume_id: str) -> None:
        if served := self._exports.get(volume_id):
            text = f"Volume {volume_id} is exported for {', '.join(sorted(served))}"
            raise Conflict(f"{text}; it must be detached first.")

    async def _drop(self, image: str) -> None:
        """With its snapshots, if it is there."""
        if await self._rbd.size(image) is not None:
            for kept in await self._rbd.snapshots(image):
                await self._rbd.remove_snapshot(image, kept.name)
            await self._rbd.remove(image)

    async def _tidy(self) -> None:
        """What nothing stands on any more: images in the pool, those on this machine, trash."""
        while True:
            await self._world.clock.sleep(TIDY_S)
            try:
                for name in await self._rbd.names():
                    if name.startswith("image-"):
                        async with self._turns.of(name):
                            if not await self._rbd.has_clones(name):
                                await self._drop(name)
                await self._rbd.empty_trash()
            except Fault as reason:
                log.warning("%s: not tidied: %s %s", self._host, reason, reason.internal)
            await self._images.forget(TIDY_S, ())

    @contextmanager
    def _file(self) -> Iterator[Path]:
        """An empty one, ours alone, for a while."""
        path = self._passing / self._world.new_hex()
        path.touch(0o600, exist_ok=False)
        try:
            yield path
        finally:
            path.unlink()


async def _qemu_img(*words: str, what: str) -> None:
    with room_for(what):
        await process.run(["qemu-img", *words], limits=_COPYING, timeout_s=_HOURS_S)


def _words(options: dict[str, Any]) -> str:
    """As --image-opts has them."""
    return ",".join(f"{key}={str(value).replace(',', ',,')}" for key, value in options.items())


def _image(volume_id: str) -> str:
    return f"volume-{volume_id}"


def _snapshot(snapshot_id: str) -> str:
    return f"snapshot-{snapshot_id}"


def _check_fit(what: str, needed: int, size: int) -> None:
    if needed > size:
        text = f"{what} has {needed} bytes and does not fit in a volume of {size // GIB} GiB"
        raise Invalid(f"{text}; {-(-needed // GIB)} GiB would do.")

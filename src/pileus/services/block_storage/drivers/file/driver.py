"""The verbs of the file back end, see the package."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import shutil
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import msgspec

from pileus.host import files, iscsi_target, uploads
from pileus.host.image_cache import ImageCache
from pileus.host.qemu import UNPRIVILEGED
from pileus.host.turns import Turns
from pileus.kernel.faults import Conflict, Fault, Invalid, NotFound
from pileus.kernel.world import World

from ...driver import (
    Export,
    ImageBytes,
    Limits,
    OfSnapshot,
    OfVolume,
    Room,
    Source,
    Volume,
    VolumeSpec,
    target_name,
)
from . import record as records
from .gates import Gates, free_port
from .layers import Layers, check_depth, check_size, room_for
from .record import GIB, Chain, Kept, Layer, Record, Serving
from .serving import Servers, export_name
from .targets import Targets

IMAGES_S = 600  # between two looks for images that no volume needs
LEAVING_S = 2  # between two looks whether a guest has gone over
IMAGE_KEPT_S = 86_400  # of an image without a volume: another one of it may follow
log = logging.getLogger(__name__)


class FileVolumeDriver:
    """`VolumeDriver` over files in `state_dir`.

    `address`: where other hosts reach this one, if they do; `iscsi`: where those without NBD do, "" is there too.
    """

    def __init__(
        self,
        state_dir: Path,
        host: str,
        *,
        address: str = "",
        iscsi: str = "",
        world: World | None = None,
    ) -> None:
        self._state_dir, self._host, self._address = state_dir, host, address
        self._world = world or World()
        self._root = state_dir / "volumes"
        self._outgoing = state_dir / "outgoing"
        owner = UNPRIVILEGED if os.geteuid() == 0 else None
        self._layers = Layers(state_dir, owner, self._world)
        self._images = ImageCache(state_dir / "images", self._world.clock)
        self._servers = Servers(self._root, self._layers, self._restore, self._world.clock)
        self._gates = Gates(self._root, self._layers, self._restore, self._world.clock)
        self._targets = Targets(self._root, self._layers, self._restore, self._world.clock)
        self._gates.address, self._targets.address = address, iscsi or address
        self._volumes: dict[str, Record] = {}
        self._read: list[Chain] = []  # by those who hold no volume meanwhile
        self._turns = Turns()
        self._chores: list[asyncio.Task[None]] = []
        self._claim: BinaryIO | None = None

    async def start_up(self) -> None:
        if self._chores:
            return
        self._state_dir.mkdir(parents=True, exist_ok=True)
        if self._claim is None:
            owner = f"host {self._host}"
            self._claim = await asyncio.to_thread(files.claim, self._state_dir, owner)
        await asyncio.to_thread(self._load)
        self._images.start_up()
        for daemons in (self._servers, self._gates, self._targets):
            await daemons.adopt(self._volumes)
        for record in self._volumes.values():
            try:
                await self._serve(record)
            except Fault as reason:  # the others are not to wait for it
                log.error("volume %s is not served: %s %s", record.id, reason, reason.internal)
        self._chores = [asyncio.create_task(self._drop_images())]
        self._chores.append(asyncio.create_task(self._let_leave()))

    async def close(self) -> None:
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        self._chores = []
        await self._servers.close()
        await self._gates.close()
        await self._targets.close()
        self._volumes.clear()
        await self._images.close()
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    async def create(self, spec: VolumeSpec) -> Volume:
        check_size(spec.size_gib)
        if not _is_uuid(spec.id):
            raise Invalid(f"Volume id {spec.id!r} is not a UUID with dashes; it names a folder.")
        async with self._turns.of(spec.id):
            if spec.id not in self._volumes:
                folder = self._root / spec.id
                folder.mkdir(exist_ok=True)
                folder.chmod(0o711)
                try:
                    with room_for(f"a volume of {spec.size_gib} GiB"):
                        await self._make(spec)
                except BaseException:
                    shutil.rmtree(folder)
                    raise
            return self._volumes[spec.id].seen()

    async def delete(self, volume_id: str) -> None:
        async with self._turns.of(volume_id):
            record = self._volumes.get(volume_id)
            if record is None:
                return
            if record.heir is not None:
                await self._leave(record)
                return
            _check_idle(record)
            if record.snapshots:
                text = f"Volume {volume_id} has snapshots {', '.join(sorted(record.snapshots))}"
                raise Conflict(f"{text}; they must be deleted first.")
            await self._delete(record)

    async def extend(self, volume_id: str, size_gib: int) -> Volume:
        check_size(size_gib)
        async with self._in_hand(volume_id) as record:
            if size_gib > record.size_gib:
                record = await self._keep(record, size_gib=size_gib)
            await self._serve(record)
            return record.seen()

    async def snapshot(self, volume_id: str, snapshot_id: str) -> None:
        async with self._in_hand(volume_id) as record:
            if snapshot_id not in record.snapshots:
                await self._serve(record)
                kept = {snapshot_id: Kept(record.chain, record.size_gib)}
                with room_for("a snapshot"):
                    record = await self._cover(record, snapshots={**record.snapshots, **kept})
            await self._serve(record)

    async def delete_snapshot(self, volume_id: str, snapshot_id: str) -> None:
        async with self._turns.of(volume_id):
            record = self._volumes.get(volume_id)
            if record is not None and snapshot_id in record.snapshots:
                others = {k: v for k, v in record.snapshots.items() if k != snapshot_id}
                await self._keep(record, snapshots=others)

    async def revert(self, volume_id: str, snapshot_id: str) -> Volume:
        async with self._in_hand(volume_id) as record:
            _check_idle(record)
            kept = _kept(record, snapshot_id)
            with room_for("what is written to the volume"):
                old = msgspec.structs.replace(record, chain=kept.chain)
                return (await self._cover(old)).seen()

    async def export(
        self,
        volume_id: str,
        attachment_id: str,
        is_read_only: bool,
        limits: Limits,
        is_remote: bool = False,
    ) -> Export:
        if is_remote and not self._address:
            raise Conflict(f"Host {self._host} has no address where other hosts reach its volumes.")
        serving = Serving(is_read_only=is_read_only, limits=limits)
        return await self._exported(volume_id, attachment_id, serving, is_remote)

    async def export_target(
        self, volume_id: str, attachment_id: str, is_read_only: bool, limits: Limits
    ) -> Export:
        if not self._targets.address:
            text = f"Host {self._host} has no address where others reach its volumes by iSCSI"
            raise Conflict(f"{text}; block-storage.iscsi_address names one.")
        if not iscsi_target.is_installed():
            text = f"Host {self._host} has no {iscsi_target.PROGRAM} to serve volumes by iSCSI"
            package = iscsi_target.DEBIAN_PACKAGES[0]
            raise Conflict(
                f"{text}; Debian's package {package} has it (apt-get install {package})."
            )
        serving = Serving(is_read_only=is_read_only, limits=limits, is_iscsi=True)
        return await self._exported(volume_id, attachment_id, serving, True)

    async def _exported(
        self, volume_id: str, attachment_id: str, serving: Serving, has_key: bool
    ) -> Export:
        if not _is_uuid(attachment_id):
            raise Invalid(f"Attachment id {attachment_id!r} is not a UUID with dashes.")
        async with self._in_hand(volume_id) as record:
            known = record.exports.get(attachment_id)
            if known is not None and known.is_iscsi == serving.is_iscsi:
                serving = msgspec.structs.replace(serving, secret=known.secret)
            if has_key and not serving.secret:
                serving = msgspec.structs.replace(serving, secret=self._key(serving))
            if serving != known:
                exports = {**record.exports, attachment_id: serving}
                record = await self._keep(record, exports=exports, **self._ports(record, serving))
            await self._serve(record)
            return self._export(record, attachment_id)

    def _key(self, serving: Serving) -> str:
        """For CHAP one of 16 characters: some initiators take no more."""
        if serving.is_iscsi:
            return base64.urlsafe_b64encode(self._world.random.randbytes(12)).decode()
        return self._world.new_hex() + self._world.new_hex()

    def _ports(self, record: Record, serving: Serving) -> dict[str, int]:
        """Where it is reached from now on: one that was left may be taken."""
        port = record.port if record.is_remote else 0
        iscsi_port = record.iscsi_port if record.is_iscsi else 0
        if serving.is_iscsi:
            iscsi_port = iscsi_port or self._free_port(self._targets.address)
        elif serving.secret:
            port = port or self._free_port(self._address)
        return {"port": port, "iscsi_port": iscsi_port}

    async def withdraw(self, volume_id: str, attachment_id: str) -> None:
        async with self._turns.of(volume_id):
            record = self._volumes.get(volume_id)
            if record is None:
                return
            if attachment_id in record.exports:
                if record.heir is None:
                    await self._servers.give_up(volume_id)
                others = {k: v for k, v in record.exports.items() if k != attachment_id}
                record = await self._keep(record, exports=others)
            await self._serve(record, less=True)
            await asyncio.to_thread(files.sync_file, self._layers.path(record.chain[0]))

    async def send(self, volume_id: str, snapshot_id: str, disk_format: str, url: str) -> int:
        async with self._still(volume_id, snapshot_id) as (chain, size):
            if disk_format == chain[0].format == "raw":
                return await uploads.send(url, self._layers.path(chain[0]), size)
            path = self._outgoing / self._world.new_hex()
            try:
                path.touch(0o600)
                self._layers.give(path)
                with room_for(f"the bytes of volume {volume_id}"):
                    folder = self._root / volume_id
                    await self._layers.convert(chain, size, disk_format, path, folder)
                return await uploads.send(url, path)
            finally:
                path.unlink()

    async def receive(self, volume_id: str, url: str, size: int) -> None:
        async with self._in_hand(volume_id) as record:
            _check_idle(record)
            if size > record.size:
                text = f"{size} bytes do not fit in volume {volume_id}"
                raise Invalid(f"{text}, which has {record.size}.")
            with self._fresh("raw") as layer, room_for(f"{size} bytes"):
                await self._layers.fill(layer, url)
                await asyncio.to_thread(self._layers.stretch, layer)
                await self._keep(record, chain=(layer,))

    async def hand_over(self, volume_id: str, to: Export) -> None:
        heir = msgspec.structs.replace(to, path=to.path if to.host == self._host else "")
        async with self._in_hand(volume_id) as record:
            if record.heir is None:
                _check_alike(record, to)
                await self._serve(record)
                await self._servers.copy(record, heir)
        is_whole = await self._servers.copied(volume_id)
        async with self._in_hand(volume_id) as record:
            if record.heir is None:
                if not is_whole:
                    await self._servers.give_up(volume_id)
                    raise Conflict(f"Volume {volume_id} could not be copied: a back end failed.")
                record = await self._keep(record, heir=heir)
            try:
                await self._serve(record)
            except Conflict:
                await self._keep(record, heir=None)  # it is still the one that is written
                raise

    async def stay(self, volume_id: str) -> bool:
        async with self._in_hand(volume_id) as record:
            if record.heir is None:
                await self._servers.give_up(volume_id)
            return record.heir is None

    async def volumes(self) -> list[Volume]:
        there = [self._volumes[volume_id] for volume_id in sorted(self._volumes)]
        return [record.seen() for record in there if not record.is_leaving]

    async def room(self) -> Room:
        disk = await asyncio.to_thread(shutil.disk_usage, self._state_dir)
        return Room(total_gib=disk.total // GIB, free_gib=disk.free // GIB)

    async def sweep(self, keep: set[str]) -> list[str]:
        leaving = {record.id for record in self._volumes.values() if record.is_leaving}
        orphans = sorted((set(os.listdir(self._root)) | self._volumes.keys()) - keep - leaving)
        for volume_id in orphans:
            async with self._turns.of(volume_id):
                record = self._volumes.get(volume_id)
                if record and record.heir:
                    await self._leave(record)
                elif record:
                    record = await self._keep(record, exports={}, snapshots={})
                    await self._serve(record)
                    await self._delete(record)
                else:
                    await asyncio.to_thread(shutil.rmtree, self._root / volume_id, True)
        return orphans

    # What the verbs are made of

    def _load(self) -> None:
        """Read what there is, and delete what a process that died left half made."""
        for folder in (self._state_dir, self._root, self._layers.folder, self._images.folder):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o711)
        shutil.rmtree(self._outgoing, ignore_errors=True)
        self._outgoing.mkdir()
        self._outgoing.chmod(0o711)
        for part in self._root.rglob(f"*{files.PART}"):
            part.unlink()
        for folder in self._root.iterdir():
            if record := records.read(folder):
                self._volumes[record.id] = record
            else:
                shutil.rmtree(folder)
        used = {self._layers.path(layer) for layer in self._used()}
        for path in set(self._layers.folder.iterdir()) - used:
            path.unlink()

    async def _make(self, spec: VolumeSpec) -> None:
        if isinstance(spec.source, OfVolume | OfSnapshot):
            return await self._copy(spec, spec.source)
        image = await self._image(spec, spec.source) if spec.source else None
        if image is not None and not spec.passphrase:
            return await self._begin(spec, (image,))
        folder, header = self._root / spec.id, 0
        with self._fresh("raw") as layer:
            if spec.passphrase:
                size = spec.size_gib * GIB
                header = await self._layers.encrypt(layer, size, spec.passphrase, image, folder)
            await asyncio.to_thread(self._layers.stretch, layer)
            await self._keep(_record(spec, (layer,), header))

    async def _image(self, spec: VolumeSpec, image: ImageBytes) -> Layer:
        free = shutil.disk_usage(self._state_dir).free
        if image.size > free:
            raise Conflict(f"No room on this host for an image of {image.size} bytes.")
        cached = await self._images.get(
            image.id, image.url, image.disk_format, image.checksum_sha512, image.size
        )
        _check_fit(f"Image {image.id}", cached.virtual_size, spec)
        return Layer(f"{self._images.folder.name}/{cached.name}", cached.format)

    async def _copy(self, spec: VolumeSpec, source: Source) -> None:
        """The origin is held until the copy is known, or its layers could go with it."""
        assert isinstance(source, OfVolume | OfSnapshot)
        async with self._in_hand(source.volume_id) as origin:
            if spec.passphrase and not origin.header:
                text = f"Volume {origin.id} is not encrypted, and a copy of it cannot be"
                raise Invalid(f"{text}; its data can be written to an encrypted volume.")
            kept = Kept(origin.chain, origin.size_gib)
            if isinstance(source, OfSnapshot):
                kept = _kept(origin, source.snapshot_id)
            _check_fit(f"Volume {origin.id}", kept.size_gib * GIB, spec)
            if isinstance(source, OfVolume):
                await self._serve(origin)
                await self._serve(await self._cover(origin))
            await self._begin(spec, kept.chain, origin.header)

    async def _begin(self, spec: VolumeSpec, behind: Chain, header: int = 0) -> None:
        """A volume that differs in nothing from that chain."""
        check_depth(behind)
        with self._fresh("qed") as layer:
            await asyncio.to_thread(self._layers.lay_over, layer, behind[0])
            await self._keep(_record(spec, (layer, *behind), header))

    async def _cover(self, record: Record, **changes: object) -> Record:
        """What is there stays as it is: what is written from now on goes elsewhere."""
        check_depth(record.chain)
        with self._fresh("qed") as layer:
            await asyncio.to_thread(self._layers.lay_over, layer, record.chain[0])
            return await self._keep(record, chain=(layer, *record.chain), **changes)

    @contextmanager
    def _fresh(self, format: str) -> Iterator[Layer]:
        """A new layer, which goes again unless it became part of a volume."""
        layer = self._layers.new(format)
        try:
            yield layer
        finally:
            self._layers.remove(self._unused((layer,)))

    async def _keep(self, record: Record, **changes: object) -> Record:
        """The record as it is from now on, on disk too, even if nobody waits for it any more."""
        new = msgspec.structs.replace(record, **changes)
        writing = asyncio.create_task(asyncio.to_thread(records.write, self._root / record.id, new))
        try:
            await asyncio.shield(writing)
        finally:
            await asyncio.wait([writing])
            if writing.exception() is None:
                self._volumes[record.id] = new
        await asyncio.to_thread(self._layers.remove, self._unused(record.layers()))
        return new

    async def _delete(self, record: Record) -> None:
        folder = self._root / record.id

        def remove() -> None:
            (folder / records.FILE).unlink()
            files.sync_folder(folder)

        await asyncio.to_thread(remove)
        del self._volumes[record.id]
        await asyncio.to_thread(self._layers.remove, self._unused(record.layers()))
        await asyncio.to_thread(shutil.rmtree, folder)

    async def _leave(self, record: Record) -> None:
        """It goes as soon as its guest has gone over to its heir."""
        if not record.is_leaving:
            record = await self._keep(record, is_leaving=True)
        if await self._gates.release(record) and await self._servers.release(record):
            await self._serve(await self._keep(record, exports={}))
            await self._delete(record)

    async def _let_leave(self) -> None:
        while True:
            await self._world.clock.sleep(LEAVING_S)
            for record in [one for one in self._volumes.values() if one.is_leaving]:
                try:
                    await self.delete(record.id)
                except Fault as reason:  # it is tried again
                    log.error("volume %s stays: %s %s", record.id, reason, reason.internal)

    def _used(self) -> set[Layer]:
        used = {layer for record in self._volumes.values() for layer in record.layers()}
        return used.union(*self._read)

    def _unused(self, layers: Iterable[Layer]) -> set[Layer]:
        """Those that nothing stands on any more: nothing ever will again."""
        return set(layers) - self._used()

    @asynccontextmanager
    async def _in_hand(self, volume_id: str) -> AsyncIterator[Record]:
        text = f"Volume {volume_id} is not on this host."
        if volume_id not in self._volumes:
            raise NotFound(text)
        async with self._turns.of(volume_id):
            if volume_id not in self._volumes:
                raise NotFound(text)
            yield self._volumes[volume_id]

    @asynccontextmanager
    async def _still(self, volume_id: str, snapshot_id: str) -> AsyncIterator[tuple[Chain, int]]:
        """A chain that nobody writes, and how many bytes of it count."""
        async with self._in_hand(volume_id) as record:
            chain, size = record.chain, record.size
            if snapshot_id:
                kept = _kept(record, snapshot_id)
                chain, size = kept.chain, kept.size_gib * GIB + record.header
            elif not record.exports:
                yield chain, size
                return
            else:
                await self._serve(record)
                with room_for("what is written meanwhile"):
                    await self._serve(await self._cover(record))
            self._read.append(chain)
        try:
            yield chain, size
        finally:
            self._read.remove(chain)
            await asyncio.to_thread(self._layers.remove, self._unused(chain))

    async def _serve(self, record: Record, *, less: bool = False) -> None:
        """What is written by way of other hosts goes through the server: it begins first, and of `less` ends last."""
        ends = less or not record.exports
        doors = (self._gates, self._targets)
        for daemons in (*doors, self._servers) if ends else (self._servers, *doors):
            await daemons.serve(record)

    async def _restore(self, volume_id: str) -> None:
        async with self._turns.of(volume_id):
            if record := self._volumes.get(volume_id):
                await self._serve(record)

    def _export(self, record: Record, attachment_id: str) -> Export:
        serving = record.exports[attachment_id]
        found = Export(
            attachment_id=attachment_id,
            host=self._host,
            secret=serving.secret,
            size=record.size,
            is_read_only=serving.is_read_only,
            is_iscsi=serving.is_iscsi,
        )
        where: dict[str, object] = {"path": str(self._servers.socket(record.id))}
        where["name"] = export_name(attachment_id, record)
        if serving.is_iscsi:
            where = {"name": target_name(attachment_id), "address": self._targets.address}
            where["port"] = record.iscsi_port
        elif serving.secret:
            where |= {"address": self._address, "port": record.port}
        return msgspec.structs.replace(found, **where)

    def _free_port(self, address: str) -> int:
        known = self._volumes.values()
        return free_port(address, {port for one in known for port in (one.port, one.iscsi_port)})

    async def _drop_images(self) -> None:
        """Everybody may make volumes of images, and a host that kept each would fill up."""
        while True:
            await self._world.clock.sleep(IMAGES_S)
            needed = {Path(layer.name).name for layer in self._used()}
            for image_id in await self._images.forget(IMAGE_KEPT_S, needed):
                log.info("image %s was dropped: no volume needs it", image_id)


def _record(spec: VolumeSpec, chain: Chain, header: int) -> Record:
    return Record(
        id=spec.id, project_id=spec.project_id, size_gib=spec.size_gib, chain=chain, header=header
    )


def _kept(record: Record, snapshot_id: str) -> Kept:
    if snapshot_id not in record.snapshots:
        raise NotFound(f"Volume {record.id} has no snapshot {snapshot_id}.")
    return record.snapshots[snapshot_id]


def _check_idle(record: Record) -> None:
    if record.exports:
        text = f"Volume {record.id} is exported for {', '.join(sorted(record.exports))}"
        raise Conflict(f"{text}; it must be detached first.")


def _check_alike(record: Record, to: Export) -> None:
    is_one = len(record.exports) == 1 and not record.is_iscsi
    if not is_one or to.size != record.size or to.rbd or to.is_read_only:
        text = f"Volume {record.id} of {record.size} bytes with {len(record.exports)} guests"
        raise Conflict(f"{text} cannot be handed over to one of {to.size} bytes in use.")


def _check_fit(what: str, needed: int, spec: VolumeSpec) -> None:
    if needed > spec.size_gib * GIB:
        text = f"{what} has {needed} bytes and does not fit in a volume of {spec.size_gib} GiB"
        raise Invalid(f"{text}; {-(-needed // GIB)} GiB would do.")


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False

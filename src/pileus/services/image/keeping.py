"""Keeps images' bytes and their records together: uploads, staging, tickets, and what a crash left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from pileus.host.images import ImageFacts, inspect, require
from pileus.kernel.auth import Caller
from pileus.kernel.events import emit
from pileus.kernel.faults import Conflict, Forbidden, Invalid, NotFound, Unavailable, Unsupported
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Match, Page, Tx
from pileus.kernel.world import seconds_of, stamp

from . import callers, contract, tickets
from .contract import ImageInfo, ImageQuery, NewImage
from .faults import Gone
from .protections import Protections
from .record import (
    ACTIVE,
    IMAGES,
    IMPORTING,
    QUEUED,
    SAVING,
    STORE,
    UPLOADING,
    WEB,
    Image,
    in_store,
    visible,
)
from .reservations import made_from, reserved
from .settings import ImageSettings, words
from .stores import Blob, FileStore, ImageStore, Incoming
from .task import PROCESSING, TASKS
from .web import WebBlob

_LOOK_S, _SIGN_S = (
    1.0,
    20.0,
)  # how often an upload looks whether its image is there, and says it lives
_DEAD_S = 120.0  # an upload that has not been heard of for so long has died with its control
_NEWS_S = 5.0
_TASK_S = 48 * 3600.0  # a task that ended is remembered so long


def staged(image_id: str) -> str:
    """The key of bytes that wait for their import."""
    return image_id + ".staged"


def kept(runtime: Runtime) -> Keeping:
    return cast(Keeping, runtime.contracts.get(contract.IMAGES))


@dataclass
class Keeping:
    """Keeps the contract `Images`. `stores` by name, the default one first, which has the staged bytes too."""

    runtime: Runtime
    stores: Mapping[str, ImageStore]
    cache: ImageStore
    live: set[str] = field(default_factory=set)  # images whose bytes come in through this control
    # Images as the API shows them: when it was created, since an id may come back; its generation; the JSON.
    shown: dict[str, tuple[tuple[str, int], bytes]] = field(default_factory=dict)

    @property
    def settings(self) -> ImageSettings:
        return cast(ImageSettings, self.runtime.settings["image"])

    @property
    def default(self) -> str:
        return next(iter(self.stores))

    @property
    def store(self) -> ImageStore:
        return self.stores[self.default]

    @property
    def trusted(self) -> frozenset[str]:
        return frozenset(words(self.settings.trusted_origins))

    @cached_property
    def protections(self) -> Protections:
        return Protections.read(self.settings.property_protections)

    @cached_property
    def is_same_for_all(self) -> bool:
        """What is shown of an image depends on nothing but the image."""
        return not (self.protections.sections or self.settings.show_multiple_locations)

    # The contract

    async def image(self, caller: Caller, image_id: str) -> ImageInfo:
        image = await IMAGES.find(self.runtime.store, image_id)
        if image is None or not visible(caller, image):
            raise NotFound(f"Image {image_id} could not be found.")
        return _info(image)

    async def listed(self, caller: Caller, wanted: ImageQuery) -> list[ImageInfo]:
        return [_info(image) for image in await callers.listed(self.runtime, caller, wanted)]

    async def describe(
        self, caller: Caller, image_id: str, properties: dict[str, str]
    ) -> ImageInfo:
        changed = await callers.described(
            self.runtime, self.protections, caller, image_id, properties
        )
        return _info(changed)

    async def remove(self, caller: Caller, image_id: str) -> None:
        await callers.permitted(self.runtime, caller, "delete_image", image_id)
        await self.erase(image_id)

    async def ticket(self, image_id: str) -> str:
        image = await IMAGES.get(self.runtime.store, image_id)
        if not image.has_bytes:
            raise NotFound(f"Image {image_id} has no data: its status is {image.status}.")
        return await tickets.issue(self.runtime, image_id, tickets.READ)

    async def reserve(self, caller: Caller, wanted: NewImage) -> None:
        await reserved(self.runtime, caller, wanted)

    async def awaits(self, image_id: str, disk_format: str, container_format: str = "bare") -> str:
        async with self.runtime.store.tx() as tx:
            image = await IMAGES.get(tx, image_id)
            if self._is_orphaned(image):
                image = await IMAGES.change(tx, image, **AS_BEFORE)
            if image.has_bytes:
                return ""
            formats = {"disk_format": disk_format, "container_format": container_format}
            if (image.disk_format, image.container_format) != tuple(formats.values()):
                await IMAGES.change(tx, image, **formats)
        return await tickets.issue(self.runtime, image_id, tickets.WRITE)

    async def leave_empty(self, image_id: str) -> None:
        if await self.awaits(image_id, "raw"):
            await self.upload(await IMAGES.get(self.runtime.store, image_id), _nothing())

    async def discard(self, image_id: str) -> None:
        async with self.runtime.store.tx() as tx:
            image = await IMAGES.find(tx, image_id)
            if image is not None:
                if image.protected:
                    return
                await IMAGES.delete(tx, image)
                await emit(tx, "image.delete", image.owner, id=image.id, name=image.name)
        await self.forget(image_id)

    async def erase(self, image_id: str) -> None:
        """The image goes with its bytes. Raises NotFound, and Forbidden for one that is protected."""
        async with self.runtime.store.tx() as tx:
            image = await IMAGES.get(tx, image_id)
            if image.protected:
                raise Forbidden(f"Image {image_id} is protected and cannot be deleted.")
            await IMAGES.delete(tx, image)
            await emit(tx, "image.delete", image.owner, id=image.id, name=image.name)
            for task in await TASKS.all(tx, image_id=image_id):
                if task.status != PROCESSING:  # one that goes on finds the image gone, and fails
                    await TASKS.delete(tx, task)
        await self.forget(image_id)

    async def made_from(self, project_id: str, properties: dict[str, str]) -> list[str]:
        return await made_from(self.runtime, project_id, properties)

    # Bytes in

    async def upload(self, image: Image, chunks: AsyncIterable[bytes], store: str = "") -> None:
        """The image is active when this returns, or as it was before when this raises."""
        await self._receive(image, chunks, SAVING, store or self.default)

    async def stage(self, image: Image, chunks: AsyncIterable[bytes]) -> None:
        """The bytes wait for an import when this returns."""
        await self._receive(image, chunks, UPLOADING, self.default)

    async def bring(self, image: Image, chunks: AsyncIterable[bytes], **changes: Any) -> None:
        """The bytes of an import, and what else changes with them, wait like staged ones when this returns."""
        found = await self._take(image, chunks, self.store, staged(image.id))
        async with self.runtime.store.tx() as tx:
            image = await IMAGES.get(tx, image.id)
            await IMAGES.change(tx, image, **changes, **found)

    async def _receive(
        self, image: Image, chunks: AsyncIterable[bytes], via: str, store: str
    ) -> None:
        await self._begin(image.id, via)
        self.live.add(image.id)
        to, key = self.stores[store], image.id if via == SAVING else staged(image.id)
        try:
            found = await self._take(image, chunks, to, key)
            places = {"locations": [in_store(image.id, store)]} if via == SAVING else {}
            await self._end(image.id, via, {**found, **places})
        except BaseException:  # whatever it was, the image is as before and nothing is left
            try:
                await to.delete(key)
            finally:
                await self._restore(image.id)
            raise
        finally:
            self.live.discard(image.id)

    async def _take(
        self, image: Image, chunks: AsyncIterable[bytes], to: ImageStore, key: str
    ) -> dict[str, Any]:
        """Writes them all; what the record says of them."""
        incoming = await self._incoming(image, chunks, to)
        try:
            found = await self._facts(image, incoming)
            await incoming.keep(key)
        except BaseException:
            await incoming.drop()
            raise
        return found

    async def _incoming(
        self, image: Image, chunks: AsyncIterable[bytes], to: ImageStore
    ) -> Incoming:
        name = f"{image.id}.{self.runtime.sagas.me}.{self.runtime.world.new_hex()}"
        watched = self._watched(image.id, chunks)
        return await to.receive(name, watched, self.settings.size_limit)

    async def place(self, image: Image, store: str) -> None:
        """One more store has the bytes: those staged of an import, or another place's of an image that has them."""
        to = self.stores[store]
        if image.has_bytes or to is not self.store:
            return await self.copy(image, to)
        try:
            await (await to.adopt(staged(image.id))).keep(image.id)
        except FileNotFoundError:  # an attempt before this one did it, or the bytes are lost
            (await self.open(image)).close()

    async def copy(self, image: Image, to: ImageStore) -> None:
        """Raises Unavailable where the bytes are not what they were."""
        blob = await self.open(image)
        incoming = await self._incoming(image, blob.chunks(0, image.size or 0), to)
        if image.hash_algo == "sha512" and incoming.stored.sha512 != image.sha512 != "":
            await incoming.drop()
            raise Unavailable(f"What was read of image {image.id} is not what it was.")
        await incoming.keep(image.id)

    async def open(self, image: Image) -> Blob:
        """The bytes from the first place that has them. Raises Unavailable."""
        tries = [(self.stores[name], image.id) for name in image.stores if name in self.stores]
        if not image.has_bytes:
            tries = [(self.store, staged(image.id)), (self.store, image.id)]
        for store, key in tries:
            with suppress(FileNotFoundError):
                return await store.open(key)
        for place in image.places:
            if place.store == WEB and image.has_bytes:
                algo, digest = image.hash_algo, image.sha512
                return WebBlob(place.url, self.trusted, image.size or 0, algo, digest)
        raise Unavailable(
            f"The data of image {image.id} can't be read at the moment.",
            internal=f"image {image.id} is {image.status} and no store has its file",
        )

    async def _begin(self, image_id: str, via: str) -> None:
        async with self.runtime.store.tx() as tx:
            image = await IMAGES.get(tx, image_id)
            if image.status != QUEUED:
                raise Conflict(
                    f"Image status transition from {image.status} to {via} is not allowed"
                )
            if via == SAVING:
                require_formats(image)
            await IMAGES.change(
                tx, image, status=via, uploader=self.runtime.sagas.me, uploading_at=tx.now
            )

    async def _watched(self, image_id: str, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """The chunks, as long as the image is there. Raises Gone."""
        clock, store = self.runtime.world.clock, self.runtime.store
        looked = signed = clock.monotonic()
        async for chunk in chunks:
            yield chunk
            now = clock.monotonic()
            if now - looked < _LOOK_S:
                continue
            looked = now
            image = await IMAGES.find(store, image_id)
            if image is None:
                raise Gone(f"Image {image_id} was deleted during its upload.")
            if now - signed >= _SIGN_S:
                signed = now
                async with store.tx(wait=False) as tx:
                    if (image := await IMAGES.find(tx, image_id)) is not None:
                        at = tx.now
                        await IMAGES.change(tx, image, uploading_at=at, updated_at=image.updated_at)

    async def _facts(self, image: Image, incoming: Incoming) -> dict[str, Any]:
        """What the record says of the bytes. Raises Unsupported where they must match their format and don't."""
        stored = incoming.stored
        facts = await asyncio.to_thread(inspect, incoming.path)
        if self.settings.require_image_format_match and image.disk_format:
            require_match(facts, image.disk_format)
        virtual_size = facts.virtual_size if facts.format == image.disk_format else 0
        return {
            "size": stored.size,
            "checksum": stored.md5,
            "sha512": stored.sha512,
            "virtual_size": virtual_size or None,
            "found_format": facts.format,
            "unsafe": facts.unsafe or "",
        }

    async def _end(self, image_id: str, via: str, found: dict[str, Any]) -> None:
        async with self.runtime.store.tx() as tx:
            image = await IMAGES.find(tx, image_id)
            if image is None:
                raise Gone(f"Image {image_id} was deleted during its upload.")
            status = ACTIVE if via == SAVING else UPLOADING
            image = await IMAGES.change(tx, image, status=status, uploader="", **found)
            if status == ACTIVE:
                await _announce(tx, image)

    async def _restore(self, image_id: str) -> None:
        async with self.runtime.store.tx() as tx:
            image = await IMAGES.find(tx, image_id)
            if image is not None and image.uploader:
                await IMAGES.change(tx, image, **AS_BEFORE)

    async def drop(self, image_id: str, stores: Iterable[str]) -> None:
        """Those stores have no bytes of it any more, nor are any staged."""
        for name in stores:
            if name in self.stores:
                await self.stores[name].delete(image_id)
        await self.store.delete(staged(image_id))

    def _is_orphaned(self, image: Image) -> bool:
        """Whoever took its bytes has died: we in an earlier life, or a control that would have been heard of by now."""
        sagas, who = self.runtime.sagas, image.uploader
        if not who or who == sagas.me:
            return bool(who) and image.id not in self.live
        age = self.runtime.world.clock.time() - seconds_of(image.uploading_at)
        return who not in sagas.alive and age >= self._news_s

    @property
    def _news_s(self) -> float:
        """Within which every control has heard of every other."""
        return _NEWS_S if self.runtime.store.shared else 0.0

    async def unstage(self, image_id: str) -> None:
        """Drops the staged bytes; the image waits for others."""
        async with self.runtime.store.tx() as tx:
            image = await IMAGES.get(tx, image_id)
            await IMAGES.change(tx, image, **AS_BEFORE)
        await self.drop(image_id, self.stores)

    async def forget(self, image_id: str) -> None:
        """Drops the bytes of an image that is gone."""
        await self.drop(image_id, self.stores)
        await self.cache.delete(image_id)

    # What a crash left behind

    async def sweep(self) -> None:
        """Ends uploads and imports whose control died, and drops bytes that belong to no image."""
        store, now, sagas = self.runtime.store, self.runtime.world.clock.time(), self.runtime.sagas
        for image in await IMAGES.list(store, Page({"uploader": Match("ne", "")})):
            silent = now - seconds_of(image.uploading_at) > _DEAD_S
            if self._is_orphaned(image) or (silent and image.id not in self.live):
                await self._restore(image.id)
        for image in await IMAGES.list(store, Page({"status": IMPORTING})):
            if not await TASKS.all(store, image_id=image.id, status=PROCESSING):
                await self.unstage(image.id)  # by an older version of this cloud
        for place in (*self.stores.values(), self.cache):
            await place.sweep({sagas.me, *sagas.alive}, self._news_s)
            for key in await place.keys(self._news_s):
                if await IMAGES.find(store, key.removesuffix(".staged")) is None:
                    await place.delete(key)
        old = Match("lt", stamp(now - _TASK_S))
        async with store.tx() as tx:
            for task in await TASKS.list(tx, Page({"updated_at": old}, limit=500)):
                if task.status != PROCESSING:
                    await TASKS.delete(tx, task)


AS_BEFORE: dict[str, Any] = {
    "status": QUEUED,
    "uploader": "",
    "size": None,
    "virtual_size": None,
    "checksum": "",
    "sha512": "",
    "hash_algo": "sha512",
    "found_format": "",
    "unsafe": "",
}


def make(runtime: Runtime) -> Keeping:
    clock, data = runtime.world.clock, runtime.data
    stores: dict[str, ImageStore] = {}
    for word in words(cast(ImageSettings, runtime.settings["image"]).stores) or (STORE,):
        name, _, folder = word.partition("=")
        ours = data / "images" if name == STORE else data / "image-stores" / name
        stores[name] = FileStore(Path(folder) if folder else ours, clock)
    return Keeping(runtime, stores, FileStore(data / "image-cache", clock))


def require_formats(image: Image) -> None:
    """Raises Invalid for an image that does not say what its bytes are."""
    missing = [f for f in ("disk_format", "container_format") if not getattr(image, f)]
    if missing:
        noun = "Property" if len(missing) == 1 else "Properties"
        raise Invalid(f"{noun} {', '.join(missing)} must be set prior to saving data.")


def require_match(facts: ImageFacts, disk_format: str) -> None:
    """Raises Unsupported."""
    try:
        require(facts, disk_format)
    except Invalid as e:
        raise Unsupported(e.message) from None


async def _announce(tx: Tx, image: Image) -> None:
    for kind in ("image.upload", "image.activate"):
        await emit(tx, kind, image.owner, id=image.id, name=image.name, size=image.size)


def _info(image: Image) -> ImageInfo:
    return ImageInfo(
        id=image.id,
        name=image.name or "",
        status=image.status,
        visibility=image.visibility,
        owner=image.owner,
        disk_format=image.disk_format or "",
        container_format=image.container_format or "",
        size=image.size or 0,
        virtual_size=image.virtual_size or 0,
        min_disk=image.min_disk,
        min_ram=image.min_ram,
        sha512=image.sha512 if image.hash_algo == "sha512" else "",
        properties=image.properties,
        unsafe=image.unsafe,
        found_format=image.found_format,
        created_at=image.created_at,
        updated_at=image.updated_at or image.created_at,
    )


async def file_chunks(path: Path) -> AsyncIterator[bytes]:
    """A local file's bytes, a mebibyte at a time."""
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while data := await asyncio.to_thread(file.read, 1 << 20):
            yield data
    finally:
        file.close()


async def _nothing() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for chunk in nothing:
        yield chunk

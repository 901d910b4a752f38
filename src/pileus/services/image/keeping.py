"""Keeps images' bytes and their records together: uploads, staging, tickets, and what a crash left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec

from pileus.host.images import ImageFacts, inspect, require
from pileus.kernel.auth import Caller
from pileus.kernel.events import emit
from pileus.kernel.faults import Conflict, Forbidden, Invalid, NotFound, Unsupported
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Match, Page, Tx
from pileus.kernel.world import seconds_of

from . import callers, contract, tickets
from .contract import ImageInfo, ImageQuery, NewImage
from .faults import Gone
from .record import (
    ACTIVE,
    IMAGES,
    IMPORTING,
    QUEUED,
    SAVING,
    UPLOADING,
    Image,
    ImportTask,
    visible,
)
from .reservations import made_from, reserved
from .settings import ImageSettings
from .stores import FileStore, ImageStore, Incoming

METHODS = ("glance-direct",)
_LOOK_S, _SIGN_S = (
    1.0,
    20.0,
)  # how often an upload looks whether its image is there, and says it lives
_DEAD_S = 120.0  # an upload that has not been heard of for so long has died with its control
_NEWS_S = 5.0
_TASKS = 10  # imports remembered of an image


def staged(image_id: str) -> str:
    """The key of bytes that wait for their import."""
    return image_id + ".staged"


def kept(runtime: Runtime) -> Keeping:
    return cast(Keeping, runtime.contracts.get(contract.IMAGES))


@dataclass
class Keeping:
    """Keeps the contract `Images`."""

    runtime: Runtime
    store: ImageStore
    live: set[str] = field(default_factory=set)  # images whose bytes come in through this control

    @property
    def settings(self) -> ImageSettings:
        return cast(ImageSettings, self.runtime.settings["image"])

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
        return _info(await callers.described(self.runtime, caller, image_id, properties))

    async def remove(self, caller: Caller, image_id: str) -> None:
        await callers.permitted(self.runtime, caller, "delete_image", image_id)
        await self.erase(image_id)

    async def ticket(self, image_id: str) -> str:
        image = await IMAGES.get(self.runtime.store, image_id)
        if not image.has_bytes:
            raise NotFound(f"Image {image_id} has no data: its status is {image.status}.")
        return "/image/tickets/" + await tickets.issue(self.runtime, image_id)

    async def reserve(self, caller: Caller, wanted: NewImage) -> None:
        await reserved(self.runtime, caller, wanted)

    async def awaits(self, image_id: str, disk_format: str, container_format: str = "bare") -> str:
        async with self.runtime.store.tx() as tx:
            image = await IMAGES.get(tx, image_id)
            if self._is_orphaned(image):
                image = await IMAGES.change(tx, image, **_AS_BEFORE)
            if image.has_bytes:
                return ""
            formats = {"disk_format": disk_format, "container_format": container_format}
            if (image.disk_format, image.container_format) != tuple(formats.values()):
                await IMAGES.change(tx, image, **formats)
        return "/image/tickets/" + await tickets.issue(self.runtime, image_id, tickets.WRITE)

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
        await self.forget(image_id)

    async def made_from(self, project_id: str, properties: dict[str, str]) -> list[str]:
        return await made_from(self.runtime, project_id, properties)

    # Bytes in

    async def upload(self, image: Image, chunks: AsyncIterator[bytes]) -> None:
        """The image is active when this returns, or as it was before when this raises."""
        await self._receive(image, chunks, SAVING)

    async def stage(self, image: Image, chunks: AsyncIterator[bytes]) -> None:
        """The bytes wait for an import when this returns."""
        await self._receive(image, chunks, UPLOADING)

    async def _receive(self, image: Image, chunks: AsyncIterator[bytes], via: str) -> None:
        await self._begin(image.id, via)
        self.live.add(image.id)
        key = image.id if via == SAVING else staged(image.id)
        try:
            name = f"{image.id}.{self.runtime.sagas.me}.{self.runtime.world.new_hex()}"
            watched = self._watched(image.id, chunks)
            incoming = await self.store.receive(name, watched, self.settings.size_limit)
            try:
                found = await self._facts(image, incoming)
                await incoming.keep(key)
            except BaseException:
                await incoming.drop()
                raise
            await self._end(image.id, via, found)
        except BaseException:  # whatever it was, the image is as before and nothing is left
            try:
                await self.store.delete(key)
            finally:
                await self._restore(image.id)
            raise
        finally:
            self.live.discard(image.id)

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

    async def _watched(self, image_id: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
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
                await IMAGES.change(tx, image, **_AS_BEFORE)

    async def complete_import(self, image_id: str, task: ImportTask | None = None) -> None:
        """Makes the staged bytes the image's; without a task, an import that a crash broke off goes on."""
        async with self.runtime.store.tx() as tx:
            image = await IMAGES.get(tx, image_id)
            if image.status not in (UPLOADING, IMPORTING) or image.uploader:
                raise Conflict("Image needs to be staged before 'glance-direct' method can be used")
            tasks = [*image.imports, task] if task else image.imports
            await IMAGES.change(tx, image, status=IMPORTING, imports=tasks[-_TASKS:])
        with suppress(FileNotFoundError):  # it may have been renamed already
            await (await self.store.adopt(staged(image_id))).keep(image_id)
        async with self.runtime.store.tx() as tx:
            found = await IMAGES.find(tx, image_id)
            if found is not None and found.status == IMPORTING:
                done = [
                    msgspec.structs.replace(t, status="success", updated_at=tx.now)
                    for t in found.imports
                ]
                found = await IMAGES.change(tx, found, status=ACTIVE, imports=done)
                await _announce(tx, found)
        if found is None:
            await self.forget(image_id)
            raise Gone(f"Image {image_id} was deleted during its import.")

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
            await IMAGES.change(tx, image, **_AS_BEFORE)
        await self.store.delete(staged(image_id))

    async def forget(self, image_id: str) -> None:
        """Drops the bytes of an image that is gone."""
        await self.store.delete(image_id)
        await self.store.delete(staged(image_id))

    # What a crash left behind

    async def sweep(self) -> None:
        """Ends uploads and imports whose control died, and drops bytes that belong to no image."""
        store, now, sagas = self.runtime.store, self.runtime.world.clock.time(), self.runtime.sagas
        for image in await IMAGES.list(store, Page({"uploader": Match("ne", "")})):
            silent = now - seconds_of(image.uploading_at) > _DEAD_S
            if self._is_orphaned(image) or (silent and image.id not in self.live):
                await self._restore(image.id)
        for image in await IMAGES.list(store, Page({"status": IMPORTING})):
            await self.complete_import(image.id)
        await self.store.sweep({sagas.me, *sagas.alive}, self._news_s)
        for key in await self.store.keys(self._news_s):
            if await IMAGES.find(store, key.removesuffix(".staged")) is None:
                await self.store.delete(key)


_AS_BEFORE: dict[str, Any] = {
    "status": QUEUED,
    "uploader": "",
    "size": None,
    "virtual_size": None,
    "checksum": "",
    "sha512": "",
    "found_format": "",
    "unsafe": "",
}


def make(runtime: Runtime) -> Keeping:
    return Keeping(runtime, FileStore(runtime.data / "images", runtime.world.clock))


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
        sha512=image.sha512,
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

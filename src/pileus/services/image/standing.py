"""What holds by itself: the first start's image is there, and nothing is left of uploads that died."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NamedTuple

from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Record, Table
from pileus.services.identity.contract import IDENTITY

from .keeping import file_chunks, kept
from .record import IMAGES, QUEUED, Image

_NAME = "pileus-test"
_PROPERTIES = {"os_distro": "debian", "os_type": "linux"}


class FirstImage(Record, kw_only=True, frozen=True):
    """That the first image was registered, once: who deletes it does not get it back."""

    image_id: str


FIRST_IMAGE = Table("image_first", FirstImage)


class First(NamedTuple):
    """A file that the node puts there, and what image it becomes."""

    name: str
    file: str
    disk_format: str
    container_format: str
    properties: dict[str, str]


FIRST = (
    First(_NAME, "test-image.qcow2", "qcow2", "bare", _PROPERTIES | {"hw_qemu_guest_agent": "yes"}),
    First("pileus-test-root", "test-root.tar.gz", "raw", "docker", _PROPERTIES),
)


async def register_first_image(runtime: Runtime, key: str) -> None:
    """Makes each file that the node built a public image of the admin project, as soon as it is there."""
    settings = kept(runtime).settings
    for first in FIRST:
        chosen = settings.first_image if first.name == _NAME else ""
        await _register(runtime, first, Path(chosen or runtime.data / first.file))


async def _register(runtime: Runtime, first: First, path: Path) -> None:
    known = await FIRST_IMAGE.find(runtime.store, first.name)
    image = await IMAGES.find(runtime.store, known.image_id) if known else None
    if known is not None and (image is None or image.status != QUEUED):
        return
    if not await asyncio.to_thread(path.exists):
        return
    await kept(runtime).upload(image or await _registered(runtime, first), file_chunks(path))


async def _registered(runtime: Runtime, first: First) -> Image:
    project = await runtime.contracts.get(IDENTITY).admin_project()
    async with runtime.store.tx() as tx:
        image = Image(
            id=runtime.world.new_id(),
            name=first.name,
            owner=project.id,
            visibility="public",
            disk_format=first.disk_format,
            container_format=first.container_format,
            properties=first.properties,
            updated_at=tx.now,
        )
        await FIRST_IMAGE.insert(tx, FirstImage(id=first.name, image_id=image.id))
        return await IMAGES.insert(tx, image)


async def sweep(runtime: Runtime, key: str) -> None:
    await kept(runtime).sweep()

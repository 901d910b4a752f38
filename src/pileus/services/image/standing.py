"""What holds by itself: the first start's image is there, and nothing is left of uploads that died."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Record, Table
from pileus.services.identity.contract import IDENTITY

from .keeping import file_chunks, kept
from .record import IMAGES, QUEUED, Image

_NAME = "pileus-test"
_PROPERTIES = {"os_distro": "debian", "os_type": "linux", "hw_qemu_guest_agent": "yes"}


class FirstImage(Record, kw_only=True, frozen=True):
    """That the first image was registered, once: who deletes it does not get it back."""

    image_id: str


FIRST_IMAGE = Table("image_first", FirstImage)


async def register_first_image(runtime: Runtime, key: str) -> None:
    """Makes the file that the node built a public image of the admin project, as soon as it is there."""
    settings = kept(runtime).settings
    path = Path(settings.first_image or runtime.data / "test-image.qcow2")
    known = await FIRST_IMAGE.find(runtime.store, _NAME)
    image = await IMAGES.find(runtime.store, known.image_id) if known else None
    if known is not None and (image is None or image.status != QUEUED):
        return
    if not await asyncio.to_thread(path.exists):
        return
    await kept(runtime).upload(image or await _registered(runtime), file_chunks(path))


async def _registered(runtime: Runtime) -> Image:
    project = await runtime.contracts.get(IDENTITY).admin_project()
    async with runtime.store.tx() as tx:
        image = Image(
            id=runtime.world.new_id(),
            name=_NAME,
            owner=project.id,
            visibility="public",
            disk_format="qcow2",
            container_format="bare",
            properties=_PROPERTIES,
            updated_at=tx.now,
        )
        await FIRST_IMAGE.insert(tx, FirstImage(id=_NAME, image_id=image.id))
        return await IMAGES.insert(tx, image)


async def sweep(runtime: Runtime, key: str) -> None:
    await kept(runtime).sweep()

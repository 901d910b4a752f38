"""An image's tags. Image API v2, "Image tags"."""

from __future__ import annotations

from pileus.kernel.faults import NotFound
from pileus.kernel.resources import Context, operation

from . import attributes
from .images.operations import ImageResource
from .record import IMAGES, Image


class ImageTags(ImageResource):
    @operation("PUT", "/images/{image_id}/tags/{tag}", "modify_image")
    async def add(self, ctx: Context, image: Image, tag: str) -> None:
        attributes.check("tags", [tag])
        async with ctx.runtime.store.tx() as tx:
            image = await IMAGES.get(tx, image.id)
            tags = attributes.unique([*image.tags, tag])
            attributes.check_numbers(tags, image.properties)
            await IMAGES.change(tx, image, tags=tags)

    @operation("DELETE", "/images/{image_id}/tags/{tag}", "modify_image")
    async def remove(self, ctx: Context, image: Image, tag: str) -> None:
        async with ctx.runtime.store.tx() as tx:
            image = await IMAGES.get(tx, image.id)
            if tag not in image.tags:
                raise NotFound(f"Image {image.id} has no tag '{tag}'.")
            await IMAGES.change(tx, image, tags=[t for t in image.tags if t != tag])

"""Deactivating an image, so that only administrators get its bytes, and back. Image API v2, "Image actions"."""

from __future__ import annotations

from pileus.kernel.faults import Forbidden
from pileus.kernel.resources import Context, operation

from .images.operations import ImageResource
from .record import ACTIVE, ADMIN_OR_OWNER, DEACTIVATED, IMAGES, Image


class ImageActions(ImageResource):
    rules = {"deactivate": ADMIN_OR_OWNER, "reactivate": ADMIN_OR_OWNER}

    @operation("POST", "/images/{image_id}/actions/deactivate", "deactivate")
    async def deactivate(self, ctx: Context, image: Image) -> None:
        await _become(ctx, image, DEACTIVATED, "deactivate")

    @operation("POST", "/images/{image_id}/actions/reactivate", "reactivate")
    async def reactivate(self, ctx: Context, image: Image) -> None:
        await _become(ctx, image, ACTIVE, "reactivate")


async def _become(ctx: Context, image: Image, status: str, verb: str) -> None:
    async with ctx.runtime.store.tx() as tx:
        image = await IMAGES.get(tx, image.id)
        if not image.has_bytes:
            raise Forbidden(f"Not allowed to {verb} image in status '{image.status}'")
        if image.status != status:
            await IMAGES.change(tx, image, status=status)

"""An image's bytes: upload, stage, download. Image API v2, "Image data"."""

from __future__ import annotations

import re
from typing import Any

from pileus.kernel.faults import Forbidden, Invalid, NotFound, Unavailable, Unsupported
from pileus.kernel.resources import PUBLIC, Answer, Context, Resource, Stream, operation
from pileus.services.identity.contract import SECRETS

from . import cache, tickets
from .faults import RangeNotSatisfiable
from .images.operations import ImageResource
from .keeping import kept
from .record import ADMIN_OR_OWNER, DEACTIVATED, IMAGES, SAVING, SEEN, Image

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class ImageData(ImageResource):
    rules = {
        "upload_image": ADMIN_OR_OWNER,
        "download_image": f"rule:context_is_admin or (role:member and ({SEEN}))",
    }

    @operation("PUT", "/images/{image_id}/file", "upload_image")
    async def upload(self, ctx: Context, image: Image, stream: Stream) -> None:
        _require_octets(stream)
        keeping = kept(ctx.runtime)
        store = ctx.headers.get("x-image-meta-store", keeping.default)
        if store not in keeping.stores:
            raise Invalid(f"Unknown store '{store}'; one of {', '.join(keeping.stores)} is meant.")
        await keeping.upload(image, stream.chunks, store)

    @operation("GET", "/images/{image_id}/file", "download_image")
    async def download(self, ctx: Context, image: Image) -> Any:
        if image.status == DEACTIVATED and not ctx.caller.is_admin:
            raise Forbidden(
                "The requested image has been deactivated. Image data download is forbidden."
            )
        if not image.has_bytes:
            return Answer(status=204)
        return await sent(ctx, image)

    @operation("PUT", "/images/{image_id}/stage", "modify_image")
    async def stage(self, ctx: Context, image: Image, stream: Stream) -> None:
        _require_octets(stream)
        await kept(ctx.runtime).stage(image, stream.chunks)


class ImageTickets(Resource[Image]):
    """Bytes for whoever shows a ticket: hosts."""

    table = IMAGES
    api = ""

    @operation("GET", "/tickets/{ticket}", PUBLIC)
    async def download(self, ctx: Context, ticket: str) -> Any:
        image = await self._named(ctx, ticket, tickets.READ)
        if not image.has_bytes:
            raise NotFound(f"Image {image.id} has no data: its status is {image.status}.")
        return await sent(ctx, image)

    @operation("PUT", "/tickets/{ticket}", PUBLIC)
    async def upload(self, ctx: Context, ticket: str, stream: Stream) -> None:
        """The bytes of an image that another service reserved; once it has them, they stay."""
        image = await self._named(ctx, ticket, tickets.WRITE)
        if image.status == SAVING:  # by an attempt that goes on, or whose control died
            raise Unavailable(f"Another upload of the bytes of image {image.id} is under way.")
        if not image.has_bytes:
            await kept(ctx.runtime).upload(image, stream.chunks)

    async def _named(self, ctx: Context, ticket: str, right: str) -> Image:
        return await IMAGES.get(ctx.runtime.store, await ctx.peer(SECRETS).redeem(ticket, right))


async def sent(ctx: Context, image: Image) -> Answer:
    """The bytes, or the range of them that was asked for. Raises RangeNotSatisfiable."""
    size = image.size or 0
    start, length = _range(ctx, size)
    headers = {"content-length": str(length)}
    if image.checksum:
        headers["content-md5"] = image.checksum
    partial = length != size or start > 0
    if partial:
        headers["content-range"] = f"bytes {start}-{start + length - 1}/{size}"
    answer = Answer(
        status=206 if partial else 200, headers=headers, content_type="application/octet-stream"
    )
    if ctx.method == "HEAD":
        return answer
    blob = await cache.opened(ctx.runtime, image)
    answer.stream = blob.chunks(start, length)
    return answer


def _range(ctx: Context, size: int) -> tuple[int, int]:
    """(start, length) of what is asked for: everything, unless a Range (or, as old clients do, Content-Range) says so."""
    asked = ctx.headers.get("range")
    if asked is None:
        old = _CONTENT_RANGE.fullmatch(ctx.headers.get("content-range", ""))
        return _checked(int(old[1]), int(old[2]), size) if old else (0, size)
    match = _RANGE.fullmatch(asked.strip())
    if match is None or not (match[1] or match[2]):
        raise RangeNotSatisfiable(
            f"The range '{asked}' can't be read; it must be bytes=FIRST-LAST."
        )
    if not match[1]:
        return _checked(max(0, size - int(match[2])), size - 1, size)
    return _checked(int(match[1]), int(match[2]) if match[2] else size - 1, size)


def _checked(first: int, last: int, size: int) -> tuple[int, int]:
    last = min(last, size - 1)
    if first > last:
        raise RangeNotSatisfiable(
            f"The range {first}-{last} is not in an image of {size} bytes.",
            headers={"content-range": f"bytes */{size}"},
        )
    return first, last - first + 1


def _require_octets(stream: Stream) -> None:
    if stream.content_type.partition(";")[0].strip().lower() != "application/octet-stream":
        raise Unsupported(
            f"Content-Type is '{stream.content_type}'; it must be application/octet-stream."
        )

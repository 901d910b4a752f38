"""An image's bytes: upload, stage, import, download. Image API v2, "Image data" and "Interoperable image import"."""

from __future__ import annotations

import re
from typing import Any

from pileus.kernel.faults import Conflict, Forbidden, Invalid, NotFound, Unavailable, Unsupported
from pileus.kernel.resources import PUBLIC, Answer, Context, Resource, Stream, operation
from pileus.kernel.schema import IGNORE, Body

from . import tickets
from .faults import RangeNotSatisfiable
from .images.operations import ImageResource
from .images.views import seconds
from .keeping import METHODS, kept
from .record import (
    ACTIVE,
    ADMIN_OR_OWNER,
    DEACTIVATED,
    IMAGES,
    SAVING,
    SEEN,
    STORE,
    UPLOADING,
    Image,
    ImportTask,
)

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class ImportMethod(Body):
    unknown = IGNORE
    name: str


class ImportImage(Body):
    lax = False
    unknown = IGNORE
    method: ImportMethod


class ImageData(ImageResource):
    rules = {
        "upload_image": ADMIN_OR_OWNER,
        "download_image": f"rule:context_is_admin or (role:member and ({SEEN}))",
    }

    @operation("PUT", "/images/{image_id}/file", "upload_image")
    async def upload(self, ctx: Context, image: Image, stream: Stream) -> None:
        _require_octets(stream)
        store = ctx.headers.get("x-image-meta-store", STORE)
        if store != STORE:
            raise Invalid(f"Unknown store '{store}'; the one there is is '{STORE}'.")
        await kept(ctx.runtime).upload(image, stream.chunks)

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

    @operation("POST", "/images/{image_id}/import", "modify_image", status=202)
    async def complete_import(self, ctx: Context, image: Image, body: ImportImage) -> Any:
        """The staged bytes become the image's: at once, since they are hashed and inspected already."""
        if body.method.name not in METHODS:
            raise Invalid(f"Unknown import method name '{body.method.name}'.")
        if image.status == ACTIVE:
            raise Conflict("Image with status active cannot be target for import")
        if image.status != UPLOADING:
            raise Conflict("Image needs to be staged before 'glance-direct' method can be used")
        for name in ("container_format", "disk_format"):
            if not getattr(image, name):
                raise Conflict(f"'{name}' needs to be set before import")
        keeping = kept(ctx.runtime)
        if image.unsafe and not image.uploader:
            await keeping.unstage(image.id)
            raise Invalid(
                f"Image {image.id} is refused, and its staged data dropped: {image.unsafe}."
            )
        await keeping.complete_import(image.id, _task(ctx, image, body.method.name))
        return Answer(status=202)

    @operation("GET", "/images/{image_id}/tasks", "get_image")
    async def tasks(self, ctx: Context, image: Image) -> Any:
        return {"tasks": [_task_view(image, t) for t in reversed(image.imports)]}


class ImageTickets(Resource[Image]):
    """Bytes for whoever shows a ticket: hosts."""

    table = IMAGES
    api = ""

    @operation("GET", "/tickets/{ticket}", PUBLIC)
    async def download(self, ctx: Context, ticket: str) -> Any:
        image = await IMAGES.get(ctx.runtime.store, await tickets.redeem(ctx.runtime, ticket))
        if not image.has_bytes:
            raise NotFound(f"Image {image.id} has no data: its status is {image.status}.")
        return await sent(ctx, image)

    @operation("PUT", "/tickets/{ticket}", PUBLIC)
    async def upload(self, ctx: Context, ticket: str, stream: Stream) -> None:
        """The bytes of an image that another service reserved; once it has them, they stay."""
        id = await tickets.redeem(ctx.runtime, ticket, tickets.WRITE)
        image = await IMAGES.get(ctx.runtime.store, id)
        if image.status == SAVING:  # by an attempt that goes on, or whose control died
            raise Unavailable(f"Another upload of the bytes of image {id} is under way.")
        if not image.has_bytes:
            await kept(ctx.runtime).upload(image, stream.chunks)


def _task(ctx: Context, image: Image, method: str) -> ImportTask:
    now = ctx.runtime.world.clock.now()
    asked = {"image_id": image.id, "import_req": {"method": {"name": method}}, "backend": [STORE]}
    return ImportTask(
        id=ctx.runtime.world.new_id(),
        request_id=ctx.request_id,
        user_id=ctx.caller.user_id,
        owner=ctx.caller.project_id,
        status="processing",
        input=asked,
        created_at=now,
        updated_at=now,
    )


def _task_view(image: Image, task: ImportTask) -> dict[str, Any]:
    return {
        "id": task.id,
        "image_id": image.id,
        "type": "api_image_import",
        "status": task.status,
        "owner": task.owner,
        "user_id": task.user_id,
        "request_id": task.request_id,
        "input": task.input,
        "result": {"image_id": image.id} if task.status == "success" else None,
        "message": "",
        "created_at": seconds(task.created_at),
        "updated_at": seconds(task.updated_at),
        "expires_at": None,
    }


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
    try:
        blob = await kept(ctx.runtime).store.open(image.id)
    except FileNotFoundError:
        raise Unavailable(
            f"The data of image {image.id} can't be read at the moment.",
            internal=f"image {image.id} is {image.status} and its file is missing",
        ) from None
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

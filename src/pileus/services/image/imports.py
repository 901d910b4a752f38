"""Import: bytes that were staged, or that lie elsewhere, become an image's, in one store or several.

Image API v2, "Interoperable image import" and "Stores".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pileus.host import downloads
from pileus.kernel.faults import Conflict, Forbidden, Invalid, NotFound
from pileus.kernel.resources import Answer, Context, operation
from pileus.kernel.schema import IGNORE, Body

from .attributes import check_id
from .images.operations import ImageResource
from .keeping import Keeping, kept
from .record import ACTIVE, IMAGES, IMPORTING, QUEUED, UPLOADING, WEB, Image
from .sagas import COPY, IMPORT
from .settings import words
from .task import TASKS, new_task, view_of_image

DIRECT, DOWNLOAD, COPYING, FROM_IMAGE = (
    "glance-direct",
    "web-download",
    "copy-image",
    "glance-download",
)


class ImportMethod(Body):
    unknown = IGNORE
    name: str
    uri: str = ""
    glance_image_id: str = ""
    glance_region: str = ""


class ImportImage(Body):
    lax = False
    unknown = IGNORE
    method: ImportMethod
    stores: list[str] | None = None
    all_stores: bool = False
    all_stores_must_succeed: bool = True


class ImageImports(ImageResource):
    rules = {"copy_image": "rule:context_is_admin"}
    sagas = (IMPORT, COPY)

    @operation("POST", "/images/{image_id}/import", "modify_image", status=202)
    async def create(self, ctx: Context, image: Image, body: ImportImage) -> Any:
        keeping, name = kept(ctx.runtime), body.method.name
        if name not in words(keeping.settings.import_methods):
            raise Invalid(f"Unknown import method name '{name}'.")
        _require_state(image, name)
        _require_method(body.method)
        stores = _stores(ctx, keeping, body)
        if name == COPYING:
            ctx.require("copy_image", self.target(ctx, image))
            return await _copy(ctx, image, body, stores)
        if name == DOWNLOAD:
            await downloads.check(body.method.uri, keeping.trusted)
        if name == DIRECT and image.unsafe:
            await keeping.unstage(image.id)
            raise Invalid(
                f"Image {image.id} is refused, and its staged data dropped: {image.unsafe}."
            )
        await begin(ctx, image, body, stores)
        return Answer(status=202)

    @operation("GET", "/images/{image_id}/tasks", "get_image")
    async def tasks(self, ctx: Context, image: Image) -> Any:
        await ctx.runtime.store.visible()
        found = await TASKS.all(ctx.runtime.store, image_id=image.id)
        newest = sorted(found, key=lambda t: (t.created_at, t.id), reverse=True)
        return {"tasks": [view_of_image(t) for t in newest]}

    @operation("DELETE", "/stores/{store_id}/{image_id}", "delete_image_location")
    async def delete_from_store(self, ctx: Context, image: Image, store_id: str) -> None:
        ctx.require("get_image_location", self.target(ctx, image))
        keeping = kept(ctx.runtime)
        if store_id not in (*keeping.stores, WEB):
            raise Conflict(f"The selected store {store_id} is not available on this node.")
        async with ctx.runtime.store.tx() as tx:
            image = await IMAGES.get(tx, image.id)
            require_idle(image)
            if image.status != ACTIVE:
                raise Conflict(
                    "It's not allowed to remove image data from store if image status is not "
                    f"'active'; it is '{image.status}'."
                )
            rest = [place for place in image.places if place.store != store_id]
            if len(rest) == len(image.places):
                raise NotFound(f"Image {image.id} is not stored in store {store_id}.")
            if not rest:
                raise Forbidden(
                    "Cannot delete image data from the only store containing it. "
                    "Consider deleting the image instead."
                )
            await IMAGES.change(tx, image, locations=rest)
        if store_id in keeping.stores:
            await keeping.stores[store_id].delete(image.id)


def require_idle(image: Image) -> None:
    """Raises Conflict while a task is at work on the image."""
    if image.status == IMPORTING or image.importing_to:
        raise Conflict(f"Image {image.id} has an active task; wait for its end.")


def _require_state(image: Image, method: str) -> None:
    if image.status == ACTIVE and method != COPYING:
        raise Conflict("Image with status active cannot be target for import")
    if image.status != ACTIVE and method == COPYING:
        raise Conflict("Only images with status active can be targeted for copying")
    if image.status != QUEUED and method in (DOWNLOAD, FROM_IMAGE):
        raise Conflict(f"Image needs to be in 'queued' state to use '{method}' method")
    if method == DIRECT and (image.status != UPLOADING or image.uploader):
        raise Conflict("Image needs to be staged before 'glance-direct' method can be used")
    for name in ("container_format", "disk_format"):
        if not getattr(image, name):
            raise Conflict(f"'{name}' needs to be set before import")
    require_idle(image)


def _require_method(method: ImportMethod) -> None:
    if method.name != FROM_IMAGE:
        return
    for name in ("glance_region", "glance_image_id"):
        if not getattr(method, name):
            raise Invalid(f"'{name}' needs to be set for glance-download import method")
    try:
        check_id(method.glance_image_id)
    except Invalid:
        raise Invalid(
            f"Remote image id does not look like a UUID: {method.glance_image_id}"
        ) from None


def _stores(ctx: Context, keeping: Keeping, body: ImportImage) -> list[str]:
    """Where the bytes are to go. Raises Invalid, Conflict."""
    header = ctx.headers.get("x-image-meta-store")
    if body.all_stores and (body.stores is not None or header):
        raise Invalid(
            "All_stores parameter can't be used with x-image-meta-store header or stores parameter"
        )
    if body.stores is not None and header:
        raise Invalid("Stores parameter and x-image-meta-store header can't be both specified")
    if body.all_stores:
        return list(keeping.stores)
    wanted = [header or keeping.default] if body.stores is None else body.stores
    for store in wanted:
        if store not in keeping.stores:
            raise Conflict(
                f"There is no store '{store}' to write to; there are {', '.join(keeping.stores)}."
            )
    return list(dict.fromkeys(wanted)) or [keeping.default]


async def _copy(ctx: Context, image: Image, body: ImportImage, stores: Sequence[str]) -> Answer:
    missing = [s for s in stores if s not in image.stores]
    there = [s for s in stores if s in image.stores]
    if there and not body.all_stores:
        raise Invalid(f"Image is already present at store '{there[0]}'")
    await begin(ctx, image, body, missing)
    return Answer(status=202)


async def begin(ctx: Context, image: Image, body: ImportImage, stores: Sequence[str]) -> None:
    """The image and its task change in one transaction; without a store to write to all is done."""
    saga = COPY if body.method.name == COPYING else IMPORT
    asked = {"image_id": image.id, "import_req": ctx.document, "backend": list(stores)}
    lenient = not body.all_stores_must_succeed
    task = new_task(ctx, image, "api_image_import", asked, stores=list(stores), lenient=lenient)
    async with ctx.runtime.store.tx() as tx:
        image = await IMAGES.get(tx, image.id)
        _require_state(image, body.method.name)
        changes = {"importing_to": list(stores), "failed_import": []}
        status = {} if saga is COPY else {"status": IMPORTING}
        await IMAGES.change(tx, image, **changes, **status)
        if not stores:
            return
        sagas = ctx.runtime.sagas
        _, entry = await sagas.begin(tx, saga, task, caller=ctx.caller, request_id=ctx.request_id)
    sagas.launch(entry)

"""Create, show, list, change and delete images. Their bytes are `data.py`'s."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pileus.kernel.events import emit
from pileus.kernel.faults import Forbidden, Invalid, NotFound, TooLarge
from pileus.kernel.query import next_link
from pileus.kernel.resources import Answer, Context, Resource, Stream, operation
from pileus.kernel.schema import KEEP, Body, extras_of, parse

from .. import attributes
from ..keeping import kept
from ..record import ADMIN_OR_OWNER, IMAGES, SEEN, WEB, Image, target, visible
from ..settings import words
from . import listing, locations, patch
from .views import all_rendered, rendered, url_of

_MAX_PATCH = 1 << 20
_SHOWN_BY = ("id", "created_at", "generation")


class CreateImage(Body):
    """Everything is checked by hand: what an image may have is open, and the words are Glance's."""

    lax = False
    unknown = KEEP


class ImageResource(Resource[Image]):
    """What all resources below `/v2/images/{image_id}` share: who sees the image."""

    table = IMAGES
    id_param = "image_id"
    see = "get_image"

    async def load(self, ctx: Context, id: str) -> Image:
        image = await IMAGES.find(ctx.runtime.store, id)
        if image is None or not visible(ctx.caller, image):
            raise NotFound(f"No image found with ID {id}")
        return image

    def target(self, ctx: Context, record: Image) -> Mapping[str, object]:
        return target(ctx.caller, record)

    def scope_target(self, ctx: Context, params: Mapping[str, str]) -> Mapping[str, object]:
        me = ctx.caller.project_id
        return {"project_id": me, "owner": me, "visibility": "private", "member_id": ""}


class Images(ImageResource):
    rules = {
        "add_image": (
            "rule:context_is_admin or "
            "(role:member and project_id:%(project_id)s and project_id:%(owner)s)"
        ),
        "delete_image": ADMIN_OR_OWNER,
        "get_image": f"rule:context_is_admin or (role:reader and ({SEEN}))",
        "get_images": "rule:context_is_admin or (role:reader and project_id:%(project_id)s)",
        "modify_image": ADMIN_OR_OWNER,
        "publicize_image": "rule:context_is_admin",
        "communitize_image": ADMIN_OR_OWNER,
    }

    @operation("POST", "/images", "add_image", status=201)
    async def create(self, ctx: Context, body: CreateImage) -> Any:
        image = new_image(ctx, extras_of(CreateImage, ctx.document))
        wanted = target(ctx.caller, image)
        if not ctx.allows("add_image", wanted):
            raise Forbidden(f"You are not permitted to create images owned by '{image.owner}'")
        _require_visibility(ctx, image.visibility, wanted)
        async with ctx.runtime.store.tx() as tx:
            image = await IMAGES.insert(tx, image)
            await emit(tx, "image.create", image.owner, id=image.id, name=image.name)
        keeping = kept(ctx.runtime)
        headers = {
            "location": ctx.base + url_of(image.id).removeprefix("/v2"),
            "openstack-image-import-methods": ",".join(words(keeping.settings.import_methods)),
            "openstack-image-store-ids": ",".join((*keeping.stores, WEB)),
        }
        return Answer(rendered(ctx, image), headers=headers)

    @operation("GET", "/images", "get_images")
    async def index(self, ctx: Context) -> Any:
        page = listing.page_of(ctx)
        try:
            if page.marker:
                await self.visible(ctx, page.marker)
            rows = await IMAGES.page(ctx.runtime.store, page, select=_SHOWN_BY)
        except NotFound:
            raise Invalid(f"No image found with ID {page.marker}: it can't be a marker.") from None
        if ctx.query.get("limit") == "0":
            rows = []
        first = [(k, v) for k, v in ctx.query.pairs if k != "marker"]
        shown = {
            "images": msgspec.Raw(b"[" + b",".join(await all_rendered(ctx, rows)) + b"]"),
            "first": "/v2/images" + (f"?{listing.encoded(first)}" if first else ""),
            "schema": "/v2/schemas/images",
        }
        if rows and len(rows) >= page.limit:
            shown["next"] = next_link("/v2/images", ctx.query, rows[-1][0])
        return shown

    @operation("GET", "/images/{image_id}", "get_image")
    async def show(self, ctx: Context, image: Image) -> bytes:
        return rendered(ctx, image)

    @operation("PATCH", "/images/{image_id}", "modify_image")
    async def update(self, ctx: Context, image: Image, stream: Stream) -> Any:
        strict = patch.dialect(stream.content_type)
        asked = patch.changes(parse(await _all_of(stream)), strict)
        for change in asked:
            if change.name == "visibility" and change.verb != "remove":
                _require_visibility(ctx, change.value, target(ctx.caller, image))
            if change.name == "owner" and change.verb != "remove" and not ctx.caller.is_admin:
                raise Forbidden("Owner can't be updated by non admin.")
        moved = locations.asked_for(asked)
        looked = await locations.looked_at(ctx, image, moved)
        async with ctx.runtime.store.tx() as tx:
            await tx.lock(f"image.{image.id}")  # the stream is read: it is not asked again
            image = await IMAGES.get(tx, image.id)
            fields = patch.applied(image, asked)
            properties = fields.get("properties", image.properties)
            kept(ctx.runtime).protections.check(ctx.caller, image.properties, properties)
            if moved:
                fields |= locations.applied(image, moved, looked)
            if fields:
                image = await IMAGES.change(tx, image, **fields)
                await emit(tx, "image.update", image.owner, id=image.id, name=image.name)
        return rendered(ctx, image)

    @operation("DELETE", "/images/{image_id}", "delete_image")
    async def delete(self, ctx: Context, image: Image) -> None:
        await kept(ctx.runtime).erase(image.id)


def new_image(ctx: Context, given: dict[str, Any]) -> Image:
    """The image that a create asks for. Raises Forbidden, Invalid, TooLarge."""
    id = attributes.check_id(given.pop("id")) if "id" in given else ctx.runtime.world.new_id()
    for name, value in given.items():
        attributes.check_name(name)
        attributes.check(name, value)
    settable = {k: v for k, v in given.items() if k in attributes.SETTABLE}
    properties = {k: v for k, v in given.items() if k not in attributes.SETTABLE}
    tags = attributes.unique(settable.pop("tags", ()))
    attributes.check_numbers(tags, properties)
    kept(ctx.runtime).protections.check(ctx.caller, {}, properties)
    owner = settable.pop("owner", ctx.caller.project_id) or ""
    now = ctx.runtime.world.clock.now()
    return Image(id=id, owner=owner, tags=tags, properties=properties, updated_at=now, **settable)


def _require_visibility(ctx: Context, visibility: str, wanted: Mapping[str, object]) -> None:
    """Who may let everybody see an image. Raises Forbidden."""
    rule = {"public": "publicize_image", "community": "communitize_image"}.get(visibility)
    if rule:
        ctx.require(rule, wanted)


async def _all_of(stream: Stream) -> bytes:
    parts, size = [], 0
    async for chunk in stream.chunks:
        size += len(chunk)
        if size > _MAX_PATCH:
            raise TooLarge(f"A patch may have {_MAX_PATCH} bytes.")
        parts.append(chunk)
    return b"".join(parts)

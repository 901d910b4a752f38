"""Images by Nova's old names: the image service keeps them, and its rules hold. Gone from 2.36 on, metadata from 2.39.

https://docs.openstack.org/api-ref/compute/#images-deprecated
"""

from __future__ import annotations

from typing import Any, ClassVar

from pileus.kernel.faults import Forbidden, Invalid, NotFound
from pileus.kernel.query import Listing, next_link
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import Body
from pileus.kernel.world import seconds_of, stamp
from pileus.services.compute import checks
from pileus.services.compute.flavors import FLAVORS, READ
from pileus.services.image.contract import IMAGES, ImageInfo, ImageQuery

_ONE = "/images/{image_id}"
_ALL_METADATA, _METADATA = _ONE + "/metadata", _ONE + "/metadata/{key}"
_END, _METADATA_END = "2.36", "2.39"
_STATUSES = {"queued": "SAVING", "saving": "SAVING", "active": "ACTIVE"}
_PROGRESS = {"queued": 25, "saving": 50, "active": 100}
_PROPERTY = "property-"


class MetadataBody(Body):
    metadata: dict[str, str]


class MetaBody(Body):
    meta: dict[str, str]


class Images(Resource[Any]):
    table = FLAVORS  # it names no record of ours
    listing: ClassVar[Listing] = Listing()

    @operation("GET", "/images", READ, until=_END)
    async def index(self, ctx: Context) -> dict[str, Any]:
        return await self._listed(ctx, _brief)

    @operation("GET", "/images/detail", READ, until=_END)
    async def detail(self, ctx: Context) -> dict[str, Any]:
        return await self._listed(ctx, _view)

    async def _listed(self, ctx: Context, view: Any) -> dict[str, Any]:
        page = self.listing.parse(ctx.query)
        try:
            found = await ctx.peer(IMAGES).listed(ctx.caller, _query(ctx, page.limit, page.marker))
        except NotFound as e:
            raise Invalid(e.message) from None
        shown: dict[str, Any] = {"images": [view(ctx, image) for image in found]}
        if found and len(found) == page.limit:
            href = next_link(ctx.url, ctx.query, found[-1].id)
            shown["images_links"] = [{"rel": "next", "href": href}]
        return shown

    @operation("GET", _ONE, READ, until=_END)
    async def show(self, ctx: Context, image_id: str) -> dict[str, Any]:
        return {"image": _view(ctx, await _found(ctx, image_id))}

    @operation("DELETE", _ONE, READ, status=204, until=_END)
    async def delete(self, ctx: Context, image_id: str) -> None:
        await _found(ctx, image_id)
        await ctx.peer(IMAGES).remove(ctx.caller, image_id)

    # Metadata: what the image service calls properties

    @operation("GET", _ALL_METADATA, READ, until=_METADATA_END)
    async def metadata(self, ctx: Context, image_id: str) -> dict[str, Any]:
        return {"metadata": (await _found(ctx, image_id)).properties}

    @operation("POST", _ALL_METADATA, READ, status=200, until=_METADATA_END)
    async def add_metadata(self, ctx: Context, image_id: str, body: MetadataBody) -> dict[str, Any]:
        image = await _found(ctx, image_id)
        return {"metadata": await _describe(ctx, image, image.properties | body.metadata)}

    @operation("PUT", _ALL_METADATA, READ, until=_METADATA_END)
    async def replace_metadata(
        self, ctx: Context, image_id: str, body: MetadataBody
    ) -> dict[str, Any]:
        return {"metadata": await _describe(ctx, await _found(ctx, image_id), body.metadata)}

    @operation("GET", _METADATA, READ, until=_METADATA_END)
    async def meta(self, ctx: Context, image_id: str, key: str) -> dict[str, Any]:
        return {"meta": {key: _value(await _found(ctx, image_id), key)}}

    @operation("PUT", _METADATA, READ, until=_METADATA_END)
    async def set_meta(
        self, ctx: Context, image_id: str, key: str, body: MetaBody
    ) -> dict[str, Any]:
        if list(body.meta) != [key]:
            raise Invalid("Request body and URI mismatch")
        image = await _found(ctx, image_id)
        await _describe(ctx, image, image.properties | body.meta)
        return {"meta": body.meta}

    @operation("DELETE", _METADATA, READ, status=204, until=_METADATA_END)
    async def delete_meta(self, ctx: Context, image_id: str, key: str) -> None:
        image = await _found(ctx, image_id)
        _value(image, key)
        await _describe(ctx, image, {k: v for k, v in image.properties.items() if k != key})


async def _found(ctx: Context, image_id: str) -> ImageInfo:
    try:
        return await ctx.peer(IMAGES).image(ctx.caller, image_id)
    except NotFound:
        raise NotFound("Image not found.") from None


def _value(image: ImageInfo, key: str) -> str:
    if key not in image.properties:
        raise NotFound(f"Metadata item was not found: image {image.id} has no {key!r}.")
    return image.properties[key]


async def _describe(ctx: Context, image: ImageInfo, properties: dict[str, str]) -> dict[str, str]:
    """Raises Forbidden, Invalid."""
    if len(properties) > checks.METADATA_LIMIT:
        raise Forbidden("Image metadata limit exceeded")
    checks.metadata(properties)
    return (await ctx.peer(IMAGES).describe(ctx.caller, image.id, properties)).properties


def _query(ctx: Context, limit: int, marker: str) -> ImageQuery:
    """Nova's filters, and `property-NAME` for any property. Raises Invalid."""
    q = ctx.query
    properties = {k.removeprefix(_PROPERTY): v for k, v in q.pairs if k.startswith(_PROPERTY)}
    if q.has("server"):  # an id, or a URL that ends in one
        properties["instance_uuid"] = q.get("server").rsplit("/", 1)[-1]
    if q.has("type"):
        properties["image_type"] = q.get("type")
    status = q.get("status").lower()
    of_status = [known for known, shown in _STATUSES.items() if shown.lower() == status]
    return ImageQuery(
        limit=limit,
        marker=marker,
        name=q.get("name"),
        statuses=of_status or ([status] if status else []),
        properties=properties,
        changed_since=_time(q.get("changes-since")),
        min_disk=_number(ctx, "minDisk"),
        min_ram=_number(ctx, "minRam"),
    )


def _time(text: str) -> str:
    try:
        return stamp(seconds_of(text)) if text else ""
    except ValueError:
        raise checks.wrong("changes-since", text, f"{text!r} is not a 'date-time'") from None


def _number(ctx: Context, name: str) -> int | None:
    text = ctx.query.get(name)
    if text and not (text.isascii() and text.isdigit() and len(text) < 10):
        raise checks.wrong(name, text, f"{text!r} is not a number of 0 or more")
    return int(text) if text else None


def _brief(ctx: Context, image: ImageInfo) -> dict[str, Any]:
    alternate = {
        "rel": "alternate",
        "type": "application/vnd.openstack.image",
        "href": f"{ctx.root}/image/images/{image.id}",
    }
    links = [*checks.links_to(ctx, "images", image.id), alternate]
    return {"id": image.id, "name": image.name, "links": links}


def _view(ctx: Context, image: ImageInfo) -> dict[str, Any]:
    shown = _brief(ctx, image) | {
        "minRam": image.min_ram,
        "minDisk": image.min_disk,
        "metadata": image.properties,
        "created": _second(image.created_at),
        "updated": _second(image.updated_at),
        "status": _STATUSES.get(image.status, "UNKNOWN"),
        "progress": _PROGRESS.get(image.status, 0),
        "OS-EXT-IMG-SIZE:size": image.size,
    }
    if server := image.properties.get("instance_uuid"):
        shown["server"] = {"id": server, "links": checks.links_to(ctx, "servers", server)}
    if auto := image.properties.get("auto_disk_config"):
        shown["OS-DCF:diskConfig"] = "AUTO" if auto.lower() == "true" else "MANUAL"
    return shown


def _second(at: str) -> str:
    return at[:19] + "Z"

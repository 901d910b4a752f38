"""An image as the API shows it. Where it is the same for all who see it, its JSON is remembered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from pileus.kernel.resources import Context
from pileus.kernel.store import Page, Row

from ..keeping import kept
from ..record import IMAGES, Image, Location, seconds, target

_REMEMBERED = 3_000  # images
_SLICE = 200  # documents read at once
_NEVER = (("", 0), b"")
_encode = msgspec.json.Encoder().encode


def url_of(image_id: str, below: str = "") -> str:
    return f"/v2/images/{image_id}{below}"


def location(place: Location) -> dict[str, Any]:
    return {"url": place.url, "metadata": {**place.metadata, "store": place.store}}


def view(ctx: Context, image: Image) -> dict[str, Any]:
    """The properties that the caller may see stand beside the attributes, which win over them."""
    keeping = kept(ctx.runtime)
    shown: dict[str, Any] = {
        **keeping.protections.readable(ctx.caller, image.properties),
        "name": image.name,
        "disk_format": image.disk_format,
        "container_format": image.container_format,
        "visibility": image.visibility,
        "size": image.size,
        "virtual_size": image.virtual_size,
        "status": image.status,
        "checksum": (image.checksum or None) if image.has_bytes else None,
        "protected": image.protected,
        "min_ram": image.min_ram,
        "min_disk": image.min_disk,
        "owner": image.owner or None,
        "os_hidden": image.os_hidden,
        "os_hash_algo": (image.hash_algo or None) if image.has_bytes else None,
        "os_hash_value": (image.sha512 or None) if image.has_bytes else None,
        "id": image.id,
        "created_at": seconds(image.created_at),
        "updated_at": seconds(image.updated_at or image.created_at),
        "tags": image.tags,
        "self": url_of(image.id),
        "file": url_of(image.id, "/file"),
        "schema": "/v2/schemas/image",
    }
    if places := image.places:
        shown["stores"] = ",".join(dict.fromkeys(place.store for place in places))
    if image.importing_to is not None:
        shown["os_glance_importing_to_stores"] = ",".join(image.importing_to)
        shown["os_glance_failed_import"] = ",".join(image.failed_import or ())
    if keeping.settings.show_multiple_locations:
        visible = ctx.allows("get_image_location", target(ctx.caller, image))
        shown["locations"] = [location(place) for place in places] if visible else []
    return shown


def rendered(ctx: Context, image: Image) -> bytes:
    """The image's JSON."""
    keeping = kept(ctx.runtime)
    if not keeping.is_same_for_all:
        return _encode(view(ctx, image))
    key = image.created_at, image.generation
    known, found = keeping.shown.get(image.id, _NEVER)
    if known != key:
        found = _encode(view(ctx, image))
        keeping.shown[image.id] = key, found
        if len(keeping.shown) > _REMEMBERED:
            del keeping.shown[next(iter(keeping.shown))]  # the one first rendered
    return found


async def all_rendered(ctx: Context, rows: Sequence[Row]) -> list[bytes]:
    """Each image's JSON, given (id, created_at, generation). Documents are read only where it is not remembered."""
    shown = kept(ctx.runtime).shown
    found: dict[str, bytes] = {}
    for id, *key in rows:
        known, part = shown.get(id, _NEVER)
        found[id] = part if known == tuple(key) else b""
    missing = [id for id, part in found.items() if not part]
    for at in range(0, len(missing), _SLICE):
        for image in await IMAGES.list(ctx.runtime.store, Page({"id": missing[at : at + _SLICE]})):
            found[image.id] = rendered(ctx, image)
        await ctx.runtime.world.clock.sleep(0)  # others have their turn
    return [part for part in found.values() if part]  # one may be gone by now

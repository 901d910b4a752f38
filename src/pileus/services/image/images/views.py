"""An image as the API shows it."""

from __future__ import annotations

from typing import Any

from pileus.kernel.resources import Context

from ..keeping import kept
from ..record import Image, Location, seconds, target


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

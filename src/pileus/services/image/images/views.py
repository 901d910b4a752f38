"""An image as the API shows it."""

from __future__ import annotations

from typing import Any

from ..record import STORE, Image


def seconds(stamp: str) -> str:
    """Glance spells times without fractions."""
    return stamp[:19] + "Z"


def url_of(image_id: str, below: str = "") -> str:
    return f"/v2/images/{image_id}{below}"


def view(image: Image) -> dict[str, Any]:
    """The properties stand beside the attributes, which win over them."""
    shown = {
        **image.properties,
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
        "os_hash_algo": "sha512" if image.has_bytes and image.sha512 else None,
        "os_hash_value": (image.sha512 or None) if image.has_bytes else None,
        "id": image.id,
        "created_at": seconds(image.created_at),
        "updated_at": seconds(image.updated_at or image.created_at),
        "tags": image.tags,
        "self": url_of(image.id),
        "file": url_of(image.id, "/file"),
        "schema": "/v2/schemas/image",
    }
    if image.has_bytes:
        shown["stores"] = STORE
    return shown

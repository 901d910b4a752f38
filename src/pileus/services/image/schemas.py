"""JSON schemas of images, members and tasks, as clients read them. Image API v2, "Image schemas"."""

from __future__ import annotations

from typing import Any

from pileus.kernel.faults import NotFound
from pileus.kernel.resources import Context, Resource, operation

from .discovery import DISCOVER
from .record import CONTAINER_FORMATS, DISK_FORMATS, IMAGES, VISIBILITIES, Image
from .task import STATUSES, TYPES

Schema = dict[str, Any]


def _text(
    description: str, *, length: int = 0, null: bool = False, read_only: bool = False
) -> Schema:
    found: Schema = {"description": description, "type": ["null", "string"] if null else "string"}
    if length:
        found["maxLength"] = length
    if read_only:
        found["readOnly"] = True
    return found


def _other(description: str, kind: Any, *, read_only: bool = False, **more: Any) -> Schema:
    found = {"description": description, "type": kind, **more}
    return found | {"readOnly": True} if read_only else found


_UUID = "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$"
_STATUSES = (
    "queued",
    "saving",
    "active",
    "killed",
    "deleted",
    "uploading",
    "importing",
    "pending_delete",
    "deactivated",
)
_IMAGE: Schema = {
    "id": _text("An identifier for the image") | {"pattern": _UUID},
    "name": _text("Descriptive name for the image", length=255, null=True),
    "status": _text("Status of the image", read_only=True) | {"enum": _STATUSES},
    "visibility": _text("Scope of image accessibility") | {"enum": VISIBILITIES},
    "protected": _other("If true, image will not be deletable.", "boolean"),
    "os_hidden": _other(
        "If true, image will not appear in default image list response.", "boolean"
    ),
    "checksum": _text("md5 hash of image contents.", length=32, null=True, read_only=True),
    "os_hash_algo": _text(
        "Algorithm to calculate the os_hash_value", length=64, null=True, read_only=True
    ),
    "os_hash_value": _text(
        "Hexdigest of the image contents using the algorithm specified by the os_hash_algo",
        length=128,
        null=True,
        read_only=True,
    ),
    "owner": _text("Owner of the image", length=255, null=True),
    "size": _other("Size of image file in bytes", ["null", "integer"], read_only=True),
    "virtual_size": _other("Virtual size of image in bytes", ["null", "integer"], read_only=True),
    "container_format": _other(
        "Format of the container", ["null", "string"], enum=[None, *CONTAINER_FORMATS]
    ),
    "disk_format": _other("Format of the disk", ["null", "string"], enum=[None, *DISK_FORMATS]),
    "created_at": _text("Date and time of image registration", read_only=True),
    "updated_at": _text("Date and time of the last image modification", read_only=True),
    "tags": _other(
        "List of strings related to the image", "array", items={"type": "string", "maxLength": 255}
    ),
    "locations": _other(
        "A set of URLs to access the image file kept in external store",
        "array",
        items={
            "type": "object",
            "properties": {"url": {"type": "string"}, "metadata": {"type": "object"}},
            "required": ["url", "metadata"],
        },
    ),
    "direct_url": _text("URL to access the image file kept in external store", read_only=True),
    "min_ram": _other("Amount of ram (in MB) required to boot image.", "integer"),
    "min_disk": _other("Amount of disk space (in GB) required to boot image.", "integer"),
    "self": _text("An image self url", read_only=True),
    "file": _text("An image file url", read_only=True),
    "stores": _text("Store in which image data resides.", read_only=True),
    "schema": _text("An image schema url", read_only=True),
}
_MEMBER: Schema = {
    "member_id": _text("An identifier for the image member (tenantId)"),
    "image_id": _text("An identifier for the image") | {"pattern": _UUID},
    "created_at": _text("Date and time of image member creation"),
    "updated_at": _text("Date and time of last modification of image member"),
    "status": _text("The status of this image member")
    | {"enum": ["pending", "accepted", "rejected"]},
    "schema": {"type": "string", "readOnly": True},
}


_STUB: Schema = {
    "id": _text("An identifier for the task") | {"pattern": _UUID},
    "type": _text("The type of task represented by this content") | {"enum": TYPES},
    "status": _text("The current status of this task") | {"enum": STATUSES},
    "owner": _text("An identifier for the owner of this task"),
    "image_id": _text("Image associated with the task"),
    "request_id": _text("Human-readable informative request-id"),
    "user_id": _text("User associated with the task"),
    "expires_at": _text("Datetime when this resource would be subject to removal", null=True),
    "created_at": _text("Datetime when this resource was created"),
    "updated_at": _text("Datetime when this resource was updated"),
    "self": {"type": "string", "readOnly": True},
    "schema": {"type": "string", "readOnly": True},
}
_TASK: Schema = {
    **_STUB,
    "input": _other("The parameters required by task, JSON blob", ["null", "object"]),
    "result": _other("The result of current task, JSON blob", ["null", "object"]),
    "message": _text(
        "Human-readable informative message only included when appropriate (usually on failure)"
    ),
}


def _image() -> Schema:
    links = [
        {"rel": "self", "href": "{self}"},
        {"rel": "enclosure", "href": "{file}"},
        {"rel": "describedby", "href": "{schema}"},
    ]
    return {
        "name": "image",
        "properties": _IMAGE,
        "additionalProperties": {"type": "string"},
        "links": links,
    }


def _member() -> Schema:
    return {"name": "member", "properties": _MEMBER}


def _collection(name: str, item: Schema, *, paged: bool) -> Schema:
    properties: Schema = {name: {"type": "array", "items": item}, "schema": {"type": "string"}}
    links = [{"rel": "describedby", "href": "{schema}"}]
    if paged:
        properties |= {"first": {"type": "string"}, "next": {"type": "string"}}
        links = [{"rel": rel, "href": f"{{{rel}}}"} for rel in ("first", "next")] + links
    return {"name": name, "properties": properties, "links": links}


_SCHEMAS: dict[str, Schema] = {
    "image": _image(),
    "images": _collection("images", _image(), paged=True),
    "member": _member(),
    "members": _collection("members", _member(), paged=False),
    "task": {"name": "task", "properties": _TASK},
    "tasks": _collection("tasks", {"name": "task", "properties": _STUB}, paged=True),
}


class Schemas(Resource[Image]):
    table = IMAGES

    @operation("GET", "/schemas/{noun}", DISCOVER)
    async def show(self, ctx: Context, noun: str) -> Any:
        if noun not in _SCHEMAS:
            raise NotFound(f"There is no schema of '{noun}'; there are {', '.join(_SCHEMAS)}.")
        return _SCHEMAS[noun]

"""JSON schemas of metadata definitions, made of what their bodies are checked with."""

from __future__ import annotations

from typing import Any

import msgspec

from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import Body

from ..discovery import DISCOVER
from .contents import AssociationBody, ObjectBody, PropertyBody, TagBody
from .namespace import NAMESPACES, Namespace
from .namespaces import NamespaceBody

_READ_ONLY = {"type": "string", "readOnly": True}
_DATED = {name: _READ_ONLY | {"format": "date-time"} for name in ("created_at", "updated_at")}
_LINKED = {**_DATED, "self": _READ_ONLY, "schema": _READ_ONLY}
_NOUNS: dict[str, tuple[str, type[Body], dict[str, Any]]] = {
    "namespace": ("namespaces", NamespaceBody, _LINKED),
    "object": ("objects", ObjectBody, _LINKED),
    "property": ("properties", PropertyBody, {}),
    "resource_type": ("resource_type_associations", AssociationBody, _DATED),
    "tag": ("tags", TagBody, _DATED),
}
_PLURALS = {"properties": "property"} | {f"{n}s": n for n in _NOUNS if n != "property"}


def _one(noun: str) -> dict[str, Any]:
    plural, body, more = _NOUNS[noun]
    (top,), parts = msgspec.json.schema_components([body], ref_template="#/definitions/{name}")
    own = parts.pop(top["$ref"].rpartition("/")[2])
    return {
        "name": plural.removesuffix("s") if noun == "resource_type" else noun,
        "properties": {**own["properties"], **more},
        "required": own.get("required", []),
        "additionalProperties": False,
        **({"definitions": parts} if parts else {}),
    }


def _many(noun: str) -> dict[str, Any]:
    key, _, more = _NOUNS[noun]
    one = _one(noun)
    definitions = one.pop("definitions", {})
    held: dict[str, Any] = {"type": "array", "items": one}
    if noun == "property":  # by name
        held = {"type": "object", "additionalProperties": one}
    found: dict[str, Any] = {"name": key, "properties": {key: held}}
    if more is _LINKED:
        found["properties"] |= {name: {"type": "string"} for name in ("first", "next", "schema")}
        found["links"] = [{"rel": rel, "href": f"{{{rel}}}"} for rel in ("first", "next", "schema")]
    return found | ({"definitions": definitions} if definitions else {})


class MetadefSchemas(Resource[Namespace]):
    table = NAMESPACES

    @operation("GET", "/schemas/metadefs/{noun}", DISCOVER)
    async def show(self, ctx: Context, noun: str) -> Any:
        if noun in _NOUNS:
            return _one(noun)
        if noun in _PLURALS:
            return _many(_PLURALS[noun])
        raise NAMESPACES.missing(noun)

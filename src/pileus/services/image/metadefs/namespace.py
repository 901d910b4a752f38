"""A namespace as it is stored, with all that it holds: it is small, and read and written as one."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pileus.kernel.faults import NotFound
from pileus.kernel.query import Filter, Listing
from pileus.kernel.store import Many, Record, Table, Unique

from ..record import seconds

LIMIT = 1_000  # objects, properties, tags and resource types of one namespace, each
Name = Annotated[str, Meta(min_length=1, max_length=80)]
_KINDS = "array|boolean|integer|number|object|string"
_Kind = Annotated[str, Meta(pattern=f"^({_KINDS})$")]
_Count = Annotated[int, Meta(ge=0)]


class Items(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an array may hold."""

    type: _Kind
    enum: list[Any] | UnsetType = UNSET


class Property(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A JSON schema of one value."""

    type: _Kind
    title: str
    description: str | UnsetType = UNSET
    operators: list[str] | UnsetType = UNSET
    default: Any = UNSET
    readonly: bool | UnsetType = UNSET
    required: list[str] | UnsetType = UNSET
    minimum: float | UnsetType = UNSET
    maximum: float | UnsetType = UNSET
    enum: list[Any] | UnsetType = UNSET
    pattern: str | UnsetType = UNSET
    minLength: _Count | UnsetType = UNSET
    maxLength: _Count | UnsetType = UNSET
    confidential: bool | UnsetType = UNSET
    items: Items | UnsetType = UNSET
    uniqueItems: bool | UnsetType = UNSET
    minItems: _Count | UnsetType = UNSET
    maxItems: _Count | UnsetType = UNSET
    additionalItems: bool | UnsetType = UNSET


Properties = dict[Name, Property]


class Dated(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Something of a namespace."""

    created_at: str = ""
    updated_at: str = ""


class Object(Dated, kw_only=True, omit_defaults=True):
    """Properties that belong together."""

    description: str | UnsetType = UNSET
    required: list[str] = []
    properties: Properties = {}


class KeptProperty(Dated, kw_only=True, omit_defaults=True):
    schema: Property


class Tag(Dated, kw_only=True, omit_defaults=True):
    """A name, and no more."""


class Association(Dated, kw_only=True, omit_defaults=True):
    """A resource type for which the namespace is meant; its properties get the prefix there."""

    prefix: str | UnsetType = UNSET
    properties_target: str | UnsetType = UNSET


class Namespace(Record, kw_only=True, frozen=True):
    """`owner` is a project's id. What it holds is by name, the oldest first."""

    namespace: str
    owner: str
    display_name: str | None = None
    description: str | None = None
    visibility: str = "private"
    protected: bool = False
    objects: dict[str, Object] = {}
    properties: dict[str, KeptProperty] = {}
    tags: dict[str, Tag] = {}
    resource_types: dict[str, Association] = {}


NAMESPACES = Table(
    "image_metadef_namespaces",
    Namespace,
    columns=("namespace", "owner", "visibility"),
    many=(Many("resource_types", lambda n: list(n.resource_types)),),
    unique=(
        Unique(
            ("namespace",),
            lambda n: f"The metadata definition namespace={n.namespace} already exists.",
        ),
    ),
    indexes=(("visibility", "created_at", "id"), ("owner", "created_at", "id")),
    noun="Metadata definition namespace",
)
LISTING = Listing(
    {
        "visibility": Filter(),
        "owner": Filter(),
        "namespace": Filter(),
        "resource_types": Filter(op="any"),
    },
    sorts={s: s for s in ("created_at", "updated_at", "namespace", "visibility", "owner", "id")},
    default_limit=25,
)


def missing(name: str) -> NotFound:
    return NotFound(f"Metadata definition namespace={name} was not found.")


def times(thing: Dated | Namespace) -> dict[str, str]:
    return {"created_at": seconds(thing.created_at), "updated_at": seconds(thing.updated_at)}


def url_of(namespace: str, *more: str) -> str:
    return "/".join(("/v2/metadefs/namespaces", namespace, *more))


def property_view(schema: Property, *, name: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {"name": name} if name else {}
    found |= msgspec.to_builtins(schema)
    return found


def object_view(namespace: str, name: str, o: Object) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": name,
        "required": o.required,
        "properties": {n: property_view(p) for n, p in o.properties.items()},
        **times(o),
        "self": url_of(namespace, "objects", name),
        "schema": "/v2/schemas/metadefs/object",
    }
    if o.description is not UNSET:
        found["description"] = o.description
    return found


def association_view(name: str, a: Association) -> dict[str, Any]:
    found = {"name": name, **times(a)}
    given = {"prefix": a.prefix, "properties_target": a.properties_target}
    return found | {k: v for k, v in given.items() if v is not UNSET}


def brief(n: Namespace) -> dict[str, Any]:
    """A namespace in a list: of what it holds the resource types alone."""
    shown: dict[str, Any] = {
        "namespace": n.namespace,
        "visibility": n.visibility,
        "protected": n.protected,
        "owner": n.owner,
        **times(n),
        "self": url_of(n.namespace),
        "schema": "/v2/schemas/metadefs/namespace",
    }
    for name in ("display_name", "description"):
        if (value := getattr(n, name)) is not None:
            shown[name] = value
    if n.resource_types:
        kinds = [association_view(name, a) for name, a in n.resource_types.items()]
        shown["resource_type_associations"] = kinds
    return shown


def full(n: Namespace, *, resource_type: str = "") -> dict[str, Any]:
    """A namespace and all it holds; for a resource type, under the names that properties have there."""
    shown = brief(n)
    association = n.resource_types.get(resource_type)
    prefix = association.prefix if association and association.prefix is not UNSET else ""
    if n.objects:
        objects = [object_view(n.namespace, name, o) for name, o in n.objects.items()]
        shown["objects"] = [_prefixed(o, prefix) for o in objects]
    if n.properties:
        pairs = n.properties.items()
        shown["properties"] = {prefix + name: property_view(p.schema) for name, p in pairs}
    if n.tags:
        shown["tags"] = [{"name": name} for name in n.tags]
    return shown


def _prefixed(o: dict[str, Any], prefix: str) -> dict[str, Any]:
    properties = {prefix + name: p for name, p in o["properties"].items()}
    return o | {"properties": properties, "required": [prefix + name for name in o["required"]]}

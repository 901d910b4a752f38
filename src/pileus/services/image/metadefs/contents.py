"""What a namespace holds: objects, properties, tags, and the resource types it is meant for. Image API v2."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType

from pileus.kernel.faults import Conflict, Invalid, NotFound
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import KEEP, Body
from pileus.kernel.store import Page

from .namespace import (
    NAMESPACES,
    Association,
    KeptProperty,
    Name,
    Namespace,
    Object,
    Properties,
    Property,
    Tag,
    association_view,
    object_view,
    property_view,
    times,
)
from .resource import ADMIN, SEEN, Held, InNamespace, refuse_others

_ONE = "/metadefs/namespaces/{namespace_name}"
_EVERY = 1_000
_RESOURCE_TYPES = (
    "OS::Cinder::Volume",
    "OS::Glance::Image",
    "OS::Nova::Aggregate",
    "OS::Nova::Flavor",
    "OS::Nova::Server",
)


class ObjectBody(Body, kw_only=True):
    lax = False
    unknown = KEEP
    name: Name
    description: str | UnsetType = UNSET
    required: list[str] = []
    properties: Properties = {}


class PropertyBody(Property, Body, kw_only=True):
    lax = False
    unknown = KEEP
    name: Name


class TagBody(Body, kw_only=True):
    lax = False
    unknown = KEEP
    name: Name


class TagsBody(Body, kw_only=True):
    lax = False
    tags: list[TagBody]


class AssociationBody(Body, kw_only=True):
    lax = False
    unknown = KEEP
    name: Name
    prefix: Annotated[str, Meta(max_length=80)] | UnsetType = UNSET
    properties_target: Annotated[str, Meta(max_length=80)] | UnsetType = UNSET


class MetadefObjects(InNamespace):
    held, noun = "objects", "object"
    rules = {
        "get_metadef_object": SEEN,
        "get_metadef_objects": SEEN,
        "add_metadef_object": ADMIN,
        "modify_metadef_object": ADMIN,
        "delete_metadef_object": ADMIN,
    }

    @operation("GET", _ONE + "/objects", "get_metadef_objects")
    async def index(self, ctx: Context, namespace: Namespace) -> Any:
        objects = [object_view(namespace.namespace, n, o) for n, o in namespace.objects.items()]
        return {
            "objects": _paged(ctx, objects),
            "first": "/v2/metadefs/objects",
            "schema": "/v2/schemas/metadefs/objects",
        }

    @operation("POST", _ONE + "/objects", "add_metadef_object", status=201)
    async def create(self, ctx: Context, namespace: Namespace, body: ObjectBody) -> Any:
        refuse_others(ctx, body)
        made = await self.add(ctx, namespace, body.name, _object(body))
        return object_view(namespace.namespace, body.name, made)

    @operation("GET", _ONE + "/objects/{object_name}", "get_metadef_object")
    async def show(self, ctx: Context, namespace: Namespace, object_name: str) -> Any:
        return object_view(namespace.namespace, object_name, self.one(namespace, object_name))

    @operation("PUT", _ONE + "/objects/{object_name}", "modify_metadef_object")
    async def update(
        self, ctx: Context, namespace: Namespace, object_name: str, body: ObjectBody
    ) -> Any:
        refuse_others(ctx, body)
        made = await self.replace(ctx, namespace, object_name, body.name, _object(body))
        return object_view(namespace.namespace, body.name, made)

    @operation("DELETE", _ONE + "/objects/{object_name}", "delete_metadef_object")
    async def delete(self, ctx: Context, namespace: Namespace, object_name: str) -> None:
        await self.drop(ctx, namespace, object_name)

    @operation("DELETE", _ONE + "/objects", "delete_metadef_namespace")
    async def delete_all(self, ctx: Context, namespace: Namespace) -> None:
        await self.clear(ctx, namespace)


def _object(body: ObjectBody) -> Object:
    return Object(description=body.description, required=body.required, properties=body.properties)


class MetadefProperties(InNamespace):
    held, noun = "properties", "property"
    rules = {
        "get_metadef_property": SEEN,
        "get_metadef_properties": SEEN,
        "add_metadef_property": ADMIN,
        "modify_metadef_property": ADMIN,
        "remove_metadef_property": ADMIN,
    }

    @operation("GET", _ONE + "/properties", "get_metadef_properties")
    async def index(self, ctx: Context, namespace: Namespace) -> Any:
        held = namespace.properties.items()
        return {"properties": {name: property_view(p.schema, name=name) for name, p in held}}

    @operation("POST", _ONE + "/properties", "add_metadef_property", status=201)
    async def create(self, ctx: Context, namespace: Namespace, body: PropertyBody) -> Any:
        refuse_others(ctx, body)
        await self.add(ctx, namespace, body.name, KeptProperty(schema=_property(body)))
        return property_view(_property(body), name=body.name)

    @operation("GET", _ONE + "/properties/{property_name}", "get_metadef_property")
    async def show(self, ctx: Context, namespace: Namespace, property_name: str) -> Any:
        """With `?resource_type=`, by the name that the property has there."""
        name = property_name
        if kind := ctx.query.get("resource_type"):
            association = namespace.resource_types.get(kind)
            prefix = (association and association.prefix) or ""
            if association is None or not name.startswith(prefix):
                raise NotFound(
                    f"Property {name} does not start with the expected resource type association "
                    f"prefix of '{prefix}'."
                )
            name = name.removeprefix(prefix)
        found = self.one(namespace, name)
        return property_view(found.schema, name=property_name)

    @operation("PUT", _ONE + "/properties/{property_name}", "modify_metadef_property")
    async def update(
        self, ctx: Context, namespace: Namespace, property_name: str, body: PropertyBody
    ) -> Any:
        refuse_others(ctx, body)
        kept = KeptProperty(schema=_property(body))
        await self.replace(ctx, namespace, property_name, body.name, kept)
        return property_view(kept.schema, name=body.name)

    @operation("DELETE", _ONE + "/properties/{property_name}", "remove_metadef_property")
    async def delete(self, ctx: Context, namespace: Namespace, property_name: str) -> None:
        await self.drop(ctx, namespace, property_name)

    @operation("DELETE", _ONE + "/properties", "delete_metadef_namespace")
    async def delete_all(self, ctx: Context, namespace: Namespace) -> None:
        await self.clear(ctx, namespace)


def _property(body: PropertyBody) -> Property:
    return Property(**{n: getattr(body, n) for n in Property.__struct_fields__})


class MetadefTags(InNamespace):
    held, noun = "tags", "tag"
    rules = {
        "get_metadef_tag": SEEN,
        "get_metadef_tags": SEEN,
        "add_metadef_tag": ADMIN,
        "add_metadef_tags": ADMIN,
        "modify_metadef_tag": ADMIN,
        "delete_metadef_tag": ADMIN,
        "delete_metadef_tags": ADMIN,
    }

    @operation("GET", _ONE + "/tags", "get_metadef_tags")
    async def index(self, ctx: Context, namespace: Namespace) -> Any:
        return {"tags": _paged(ctx, [{"name": name} for name in namespace.tags])}

    @operation("POST", _ONE + "/tags", "add_metadef_tags", status=201)
    async def create_all(self, ctx: Context, namespace: Namespace, body: TagsBody) -> Any:
        """Instead of those that are there, or with `X-Openstack-Append` beside them."""
        names = [tag.name for tag in body.tags]
        if len(set(names)) < len(names):
            raise Conflict("The tags of a namespace have names of their own; two are alike.")
        append = ctx.headers.get("x-openstack-append", "").lower() in ("true", "1", "yes", "on")

        def put(held: Held, now: str) -> Held:
            kept = held if append else {}
            if taken := next((n for n in names if n in kept), ""):
                raise Conflict(
                    f"A metadata tag with name={taken} already exists in "
                    f"namespace={namespace.namespace}."
                )
            return {**kept, **{name: Tag(created_at=now, updated_at=now) for name in names}}

        await self.write(ctx, namespace, put)
        return {"tags": [{"name": name} for name in names]}

    @operation("DELETE", _ONE + "/tags", "delete_metadef_tags")
    async def delete_all(self, ctx: Context, namespace: Namespace) -> None:
        await self.clear(ctx, namespace)

    @operation("POST", _ONE + "/tags/{tag_name}", "add_metadef_tag", status=201)
    async def create(self, ctx: Context, namespace: Namespace, tag_name: str) -> Any:
        if len(tag_name) > 80:
            raise Invalid(f"A tag's name may have 80 characters, not {len(tag_name)}.")
        return _tag(tag_name, await self.add(ctx, namespace, tag_name, Tag()))

    @operation("GET", _ONE + "/tags/{tag_name}", "get_metadef_tag")
    async def show(self, ctx: Context, namespace: Namespace, tag_name: str) -> Any:
        return _tag(tag_name, self.one(namespace, tag_name))

    @operation("PUT", _ONE + "/tags/{tag_name}", "modify_metadef_tag")
    async def update(self, ctx: Context, namespace: Namespace, tag_name: str, body: TagBody) -> Any:
        refuse_others(ctx, body)
        return _tag(body.name, await self.replace(ctx, namespace, tag_name, body.name, Tag()))

    @operation("DELETE", _ONE + "/tags/{tag_name}", "delete_metadef_tag")
    async def delete(self, ctx: Context, namespace: Namespace, tag_name: str) -> None:
        await self.drop(ctx, namespace, tag_name)


def _tag(name: str, tag: Tag) -> dict[str, str]:
    return {"name": name, **times(tag)}


class MetadefResourceTypes(InNamespace):
    held, noun = "resource_types", "resource type association"
    rules = {
        "list_metadef_resource_types": SEEN,
        "get_metadef_resource_type": SEEN,
        "add_metadef_resource_type_association": ADMIN,
        "remove_metadef_resource_type_association": ADMIN,
    }

    @operation("GET", "/metadefs/resource_types", "list_metadef_resource_types")
    async def index(self, ctx: Context) -> Any:
        """Those of OpenStack's own services, and whatever else a namespace is meant for; names are no secret."""
        every = Page(sorts=(("created_at", False), ("id", False)), limit=_EVERY)
        found = {name: {"name": name} for name in _RESOURCE_TYPES}
        for namespace in await NAMESPACES.list(ctx.runtime.store, every):
            for name, association in namespace.resource_types.items():
                found.setdefault(name, {"name": name, **times(association)})
        return {"resource_types": list(found.values())}

    @operation("GET", _ONE + "/resource_types", "list_metadef_resource_types")
    async def show(self, ctx: Context, namespace: Namespace) -> Any:
        held = namespace.resource_types.items()
        shown = [association_view(name, a) for name, a in held]
        if not ctx.allows("get_metadef_resource_type", self.target(ctx, namespace)):
            shown = []
        return {"resource_type_associations": shown}

    @operation(
        "POST", _ONE + "/resource_types", "add_metadef_resource_type_association", status=201
    )
    async def create(self, ctx: Context, namespace: Namespace, body: AssociationBody) -> Any:
        refuse_others(ctx, body)
        made = Association(prefix=body.prefix, properties_target=body.properties_target)
        return association_view(body.name, await self.add(ctx, namespace, body.name, made))

    @operation(
        "DELETE", _ONE + "/resource_types/{name}", "remove_metadef_resource_type_association"
    )
    async def delete(self, ctx: Context, namespace: Namespace, name: str) -> None:
        await self.drop(ctx, namespace, name)


def _paged(ctx: Context, shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The part that `limit` and `marker` (a name) ask for; the newest first, unless `sort_dir` is asc. Raises Invalid, NotFound."""
    query = ctx.query
    if query.get("sort_key") == "name":
        shown = sorted(shown, key=lambda one: str(one["name"]))
    if query.get("sort_dir", "desc") != "asc":
        shown = shown[::-1]
    limit = query.get("limit", str(_EVERY))
    if not limit.isdecimal():
        raise Invalid("limit param must be an integer")
    names = [one["name"] for one in shown]
    if marker := query.get("marker"):
        if marker not in names:
            raise NotFound(f"No metadata definition has the name {marker}: it can't be a marker.")
        shown = shown[names.index(marker) + 1 :]
    return shown[: int(limit)]

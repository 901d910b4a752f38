"""Namespaces of metadata definitions. Image API v2, "Metadata definition namespaces"."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pileus.kernel.faults import Forbidden, Invalid
from pileus.kernel.resources import Answer, Context, operation
from pileus.kernel.schema import KEEP, Body
from pileus.kernel.store import Page

from ..images.listing import encoded
from .namespace import (
    LIMIT,
    LISTING,
    NAMESPACES,
    Association,
    KeptProperty,
    Name,
    Namespace,
    Object,
    Properties,
    Tag,
    brief,
    full,
    url_of,
)
from .resource import ADMIN, SEEN, InNamespace, refuse_others

_VISIBILITIES = ("public", "private")


class NamedObject(Object, kw_only=True, forbid_unknown_fields=True):
    name: Name


class NamedTag(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: Name


class NamedAssociation(Association, kw_only=True, forbid_unknown_fields=True):
    name: Name


class NamespaceBody(Body, kw_only=True):
    """Of a create, and of a change, which leaves alone what the namespace holds."""

    lax = False
    unknown = KEEP
    namespace: Name
    display_name: Annotated[str, Meta(max_length=80)] | None = None
    description: Annotated[str, Meta(max_length=500)] | None = None
    visibility: str = "private"
    protected: bool = False
    owner: Annotated[str, Meta(max_length=255)] | UnsetType = UNSET
    objects: list[NamedObject] = []
    properties: Properties = {}
    tags: list[NamedTag] = []
    resource_type_associations: list[NamedAssociation] = []


class MetadefNamespaces(InNamespace):
    rules = {
        "get_metadef_namespace": SEEN,
        "get_metadef_namespaces": (
            "rule:context_is_admin or (role:reader and project_id:%(project_id)s)"
        ),
        "add_metadef_namespace": ADMIN,
        "modify_metadef_namespace": ADMIN,
        "delete_metadef_namespace": ADMIN,
    }

    @operation("GET", "/metadefs/namespaces", "get_metadef_namespaces")
    async def index(self, ctx: Context) -> Any:
        page = await self._page(ctx)
        found = await NAMESPACES.list(ctx.runtime.store, page)
        kept = [(k, v) for k, v in ctx.query.pairs if k != "marker"]
        shown: dict[str, Any] = {
            "namespaces": [brief(n) for n in found],
            "first": "/v2/metadefs/namespaces" + (f"?{encoded(kept)}" if kept else ""),
            "schema": "/v2/schemas/metadefs/namespaces",
        }
        if found and len(found) == page.limit:
            following = encoded([*kept, ("marker", found[-1].namespace)])
            shown["next"] = f"/v2/metadefs/namespaces?{following}"
        return shown

    async def _page(self, ctx: Context) -> Page:
        """Raises Invalid, NotFound for an unknown marker."""
        query, me = ctx.query, ctx.caller
        if query.get("visibility") not in ("", *_VISIBILITIES):
            raise Invalid(f"Invalid visibility value: {query.get('visibility')}")
        if query.get("sort_dir") not in ("", "asc", "desc"):
            raise Invalid(f"Invalid sort direction: {query.get('sort_dir')}")
        visible = () if me.is_admin else ({"visibility": "public"}, {"owner": me.project_id})
        page = LISTING.parse(query, scopes=visible)
        if not page.marker:
            return page
        marker = await self.load(ctx, page.marker)
        return replace(page, marker=marker.id)

    @operation("POST", "/metadefs/namespaces", "add_metadef_namespace", status=201)
    async def create(self, ctx: Context, body: NamespaceBody) -> Any:
        refuse_others(ctx, body)
        _check(body)
        made = Namespace(
            id=ctx.runtime.world.new_id(),
            namespace=body.namespace,
            owner=body.owner or ctx.caller.project_id,
            display_name=body.display_name,
            description=body.description,
            visibility=body.visibility,
            protected=body.protected,
        )
        async with ctx.runtime.store.tx() as tx:
            now = {"created_at": tx.now, "updated_at": tx.now}
            held = {
                "objects": {o.name: _object(o, now) for o in body.objects},
                "properties": {
                    n: KeptProperty(schema=p, **now) for n, p in body.properties.items()
                },
                "tags": {t.name: Tag(**now) for t in body.tags},
                "resource_types": {
                    a.name: Association(
                        prefix=a.prefix, properties_target=a.properties_target, **now
                    )
                    for a in body.resource_type_associations
                },
            }
            made = await NAMESPACES.insert(tx, msgspec.structs.replace(made, **held))
        return Answer(
            full(made), headers={"location": ctx.root + "/image" + url_of(made.namespace)}
        )

    @operation("GET", "/metadefs/namespaces/{namespace_name}", "get_metadef_namespace")
    async def show(self, ctx: Context, namespace: Namespace) -> Any:
        return full(namespace, resource_type=ctx.query.get("resource_type"))

    @operation("PUT", "/metadefs/namespaces/{namespace_name}", "modify_metadef_namespace")
    async def update(self, ctx: Context, namespace: Namespace, body: NamespaceBody) -> Any:
        """What is not given becomes what it is worth in a new one."""
        refuse_others(ctx, body)
        _check(body)
        async with ctx.runtime.store.tx() as tx:
            old = await NAMESPACES.get(tx, namespace.id)
            new = await NAMESPACES.change(
                tx,
                old,
                namespace=body.namespace,
                owner=body.owner or ctx.caller.project_id,
                display_name=body.display_name,
                description=body.description,
                visibility=body.visibility,
                protected=body.protected,
            )
        return brief(new)

    @operation("DELETE", "/metadefs/namespaces/{namespace_name}", "delete_metadef_namespace")
    async def delete(self, ctx: Context, namespace: Namespace) -> None:
        if namespace.protected:
            raise Forbidden(
                f"Metadata definition namespace {namespace.namespace} is protected and cannot be "
                "deleted."
            )
        async with ctx.runtime.store.tx() as tx:
            await NAMESPACES.delete(tx, await NAMESPACES.get(tx, namespace.id))


def _object(given: NamedObject, now: dict[str, str]) -> Object:
    return Object(
        description=given.description, required=given.required, properties=given.properties, **now
    )


def _check(body: NamespaceBody) -> None:
    """Raises Invalid."""
    if body.visibility not in _VISIBILITIES:
        raise Invalid(
            f"Provided object does not match schema 'namespace': '{body.visibility}' is not one of "
            "['public', 'private']"
        )
    given = (body.objects, body.properties, body.tags, body.resource_type_associations)
    if any(len(held) > LIMIT for held in given):
        raise Invalid(f"A namespace may hold {LIMIT} of each kind.")

"""Endpoint groups (OS-EP-FILTER): endpoints by what they are, and the projects whose catalogs show them.

https://docs.openstack.org/api-ref/identity/v3-ext/#os-ep-filter-api
"""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from pileus.kernel import auth
from pileus.kernel.faults import Conflict, Invalid, NotFound
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Page

from . import endpoints, projects
from .catalog import ENDPOINTS, REVISION
from .endpoint_filters import (
    ENDPOINT_GROUPS,
    FILTERS,
    PROJECT_ENDPOINT_GROUPS,
    EndpointGroup,
    ProjectEndpointGroup,
    groups_of,
    matches,
)
from .tree import PROJECTS
from .wire import (
    ADMIN_OR_SYSTEM_READER,
    NAME,
    OLDEST,
    Name,
    Noun,
    changed,
    drop_all,
    dropping,
    linked,
    listed,
    listing,
)

_GROUP = "/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}"
_PAIR = _GROUP + "/projects/{project_id}"
_INTERFACES = ("admin", "internal", "public")


class CreateEndpointGroup(Body, kw_only=True):
    root: ClassVar[str] = "endpoint_group"
    lax: ClassVar[bool] = False
    name: Name
    description: str | None = None
    filters: dict[str, Any]


class UpdateEndpointGroup(Body, kw_only=True):
    root: ClassVar[str] = "endpoint_group"
    lax: ClassVar[bool] = False
    name: Name | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    filters: dict[str, Any] | UnsetType = UNSET


def view(ctx: Context, g: EndpointGroup) -> dict[str, Any]:
    shown = {"id": g.id, "name": g.name, "description": g.description, "filters": g.filters}
    return linked(ctx, "OS-EP-FILTER/endpoint_groups", shown)


def checked(filters: dict[str, Any]) -> dict[str, Any]:
    """Raises Invalid."""
    for key, value in filters.items():
        if key not in FILTERS:
            raise Invalid(
                f"Expecting to find {' or '.join(FILTERS)} in endpoint_group; {key!r} is none."
            )
        if key == "interface" and value not in _INTERFACES:
            raise Invalid(
                f"Invalid input for field 'filters/interface': {value!r} is not one of "
                f"{', '.join(_INTERFACES)}."
            )
        if not isinstance(value, str) and (key != "region_id" or value is not None):
            raise Invalid(f"Invalid input for field 'filters/{key}': {value!r} is not a string.")
    return filters


_with_project = dropping(PROJECT_ENDPOINT_GROUPS, "project_id", revising=REVISION)


class EndpointGroups(Noun[EndpointGroup]):
    table = ENDPOINT_GROUPS
    id_param = "endpoint_group_id"
    follows = {"project": _with_project, "domain": _with_project}
    rules = {
        "identity:create_endpoint_group": "rule:admin_required",
        "identity:list_endpoint_groups": ADMIN_OR_SYSTEM_READER,
        "identity:get_endpoint_group": ADMIN_OR_SYSTEM_READER,
        "identity:update_endpoint_group": "rule:admin_required",
        "identity:delete_endpoint_group": "rule:admin_required",
        "identity:list_projects_associated_with_endpoint_group": ADMIN_OR_SYSTEM_READER,
        "identity:list_endpoints_associated_with_endpoint_group": ADMIN_OR_SYSTEM_READER,
        "identity:get_endpoint_group_in_project": ADMIN_OR_SYSTEM_READER,
        "identity:list_endpoint_groups_for_project": ADMIN_OR_SYSTEM_READER,
        "identity:add_endpoint_group_to_project": "rule:admin_required",
        "identity:remove_endpoint_group_from_project": "rule:admin_required",
    }
    scopes = {name: ("system", "project") for name in rules}
    listing = listing({"name": NAME})

    @operation("GET", "/OS-EP-FILTER/endpoint_groups", "identity:list_endpoint_groups")
    async def index(self, ctx: Context) -> dict[str, Any]:
        return await self.index_of(ctx, "endpoint_groups", view)

    @operation(
        "POST", "/OS-EP-FILTER/endpoint_groups", "identity:create_endpoint_group", status=201
    )
    async def create(self, ctx: Context, body: CreateEndpointGroup) -> dict[str, Any]:
        if not body.filters:
            raise Invalid("filters field is required and cannot be empty")
        group = EndpointGroup(
            id=ctx.runtime.world.new_hex(),
            name=body.name,
            description=body.description,
            filters=checked(body.filters),
        )
        async with ctx.runtime.store.tx() as tx:
            group = await ENDPOINT_GROUPS.insert(tx, group)
            await changed(tx, "endpoint_group", group.id, "created")
        return {"endpoint_group": view(ctx, group)}

    @operation("GET", _GROUP, "identity:get_endpoint_group")
    async def show(self, ctx: Context, group: EndpointGroup) -> dict[str, Any]:
        return {"endpoint_group": view(ctx, group)}

    @operation("PATCH", _GROUP, "identity:update_endpoint_group")
    async def update(
        self, ctx: Context, group: EndpointGroup, body: UpdateEndpointGroup
    ) -> dict[str, Any]:
        changes = body.given()
        if "filters" in changes:
            checked(changes["filters"])
        async with ctx.runtime.store.tx() as tx:
            group = await ENDPOINT_GROUPS.change(tx, group, **changes)
            await auth.revise(tx, REVISION)
            await changed(tx, "endpoint_group", group.id, "updated")
        return {"endpoint_group": view(ctx, group)}

    @operation("DELETE", _GROUP, "identity:delete_endpoint_group")
    async def delete(self, ctx: Context, group: EndpointGroup) -> None:
        async with ctx.runtime.store.tx() as tx:
            await drop_all(tx, PROJECT_ENDPOINT_GROUPS, endpoint_group_id=group.id)
            await ENDPOINT_GROUPS.delete(tx, group)
            await auth.revise(tx, REVISION)
            await changed(tx, "endpoint_group", group.id, "deleted")

    @operation(
        "GET", _GROUP + "/endpoints", "identity:list_endpoints_associated_with_endpoint_group"
    )
    async def endpoints(self, ctx: Context, group: EndpointGroup) -> dict[str, Any]:
        every = await ENDPOINTS.all(ctx.runtime.store)
        return listed(
            ctx, "endpoints", [endpoints.view(ctx, e) for e in every if matches(group, e)]
        )

    @operation("GET", _GROUP + "/projects", "identity:list_projects_associated_with_endpoint_group")
    async def projects(self, ctx: Context, group: EndpointGroup) -> dict[str, Any]:
        store = ctx.runtime.store
        pairs = await PROJECT_ENDPOINT_GROUPS.all(store, endpoint_group_id=group.id)
        ids = [p.project_id for p in pairs]
        found = await PROJECTS.list(store, Page({"id": ids}, OLDEST, limit=100_000))
        return listed(ctx, "projects", [projects.view(ctx, p) for p in found])

    @operation(
        "GET",
        "/OS-EP-FILTER/projects/{project_id}/endpoint_groups",
        "identity:list_endpoint_groups_for_project",
    )
    async def of_project(self, ctx: Context, project_id: str) -> dict[str, Any]:
        await PROJECTS.get(ctx.runtime.store, project_id)
        found = await groups_of(ctx.runtime.store, project_id)
        return listed(ctx, "endpoint_groups", [view(ctx, g) for g in found])

    @operation("GET", _PAIR, "identity:get_endpoint_group_in_project")
    async def check(self, ctx: Context, group: EndpointGroup, project_id: str) -> dict[str, Any]:
        store = ctx.runtime.store
        await PROJECTS.get(store, project_id)
        if await PROJECT_ENDPOINT_GROUPS.find(store, f"{project_id}:{group.id}") is None:
            raise _missing(group, project_id)
        path = _PAIR.format(endpoint_group_id=group.id, project_id=project_id)
        shown = {
            "endpoint_group_id": group.id,
            "project_id": project_id,
            "links": {"self": ctx.base + path},
        }
        return {"project_endpoint_group": shown}

    @operation("PUT", _PAIR, "identity:add_endpoint_group_to_project")
    async def add(self, ctx: Context, group: EndpointGroup, project_id: str) -> None:
        async with ctx.runtime.store.tx() as tx:
            await PROJECTS.get(tx, project_id)
            id = f"{project_id}:{group.id}"
            if await PROJECT_ENDPOINT_GROUPS.find(tx, id) is not None:
                raise Conflict(
                    "Conflict occurred attempting to store project_endpoint_group - Duplicate "
                    f"entry: group {group.id} is associated with project {project_id} already."
                )
            wanted = ProjectEndpointGroup(id=id, project_id=project_id, endpoint_group_id=group.id)
            await PROJECT_ENDPOINT_GROUPS.insert(tx, wanted)
            await auth.revise(tx, REVISION)

    @operation("DELETE", _PAIR, "identity:remove_endpoint_group_from_project")
    async def remove(self, ctx: Context, group: EndpointGroup, project_id: str) -> None:
        async with ctx.runtime.store.tx() as tx:
            await PROJECTS.get(tx, project_id)
            known = await PROJECT_ENDPOINT_GROUPS.find(tx, f"{project_id}:{group.id}")
            if known is None:
                raise _missing(group, project_id)
            await PROJECT_ENDPOINT_GROUPS.delete(tx, known)
            await auth.revise(tx, REVISION)


def _missing(group: EndpointGroup, project_id: str) -> NotFound:
    return NotFound(
        "Endpoint Group Project Association not found: "
        f"group {group.id} is not associated with project {project_id}."
    )

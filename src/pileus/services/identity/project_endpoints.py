"""Which endpoints and groups of them a project is associated with (OS-EP-FILTER), and so sees in its catalog.

https://docs.openstack.org/api-ref/identity/v3-ext/#os-ep-filter-api
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from pileus.kernel import auth
from pileus.kernel.faults import Conflict, NotFound
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Page, Reader, Table

from . import projects
from .catalog import ENDPOINTS, REVISION
from .endpoint_filters import (
    ENDPOINT_GROUPS,
    PROJECT_ENDPOINT_GROUPS,
    PROJECT_ENDPOINTS,
    ProjectEndpoint,
    ProjectEndpointGroup,
    groups_of,
    selection,
)
from .endpoint_groups import EndpointGroups
from .endpoints import Endpoints
from .tree import PROJECTS
from .wire import ADMIN_OR_SYSTEM_READER, OLDEST, Noun, dropping, listed

R = TypeVar("R", ProjectEndpoint, ProjectEndpointGroup)
_PATH = "/OS-EP-FILTER"
_ENDPOINT = _PATH + "/projects/{project_id}/endpoints/{endpoint_id}"
_GROUP = _PATH + "/endpoint_groups/{endpoint_group_id}/projects/{project_id}"


class _Associations(Noun[R]):
    """Pairs of a project and one of the `others`, whose id stands in `column`."""

    others: ClassVar[Table[Any]]
    column: ClassVar[str]
    absent: ClassVar[str]

    async def _get(self, db: Reader, project_id: str, id: str) -> R:
        """Raises NotFound."""
        await self.others.get(db, id)
        await PROJECTS.get(db, project_id)
        found: R | None = await self.table.find(db, f"{project_id}:{id}")
        if found is None:
            raise NotFound(self.absent.format(id=id, project_id=project_id))
        return found

    async def _add(self, ctx: Context, project_id: str, id: str) -> None:
        """Raises NotFound, Conflict."""
        pair = {"id": f"{project_id}:{id}", "project_id": project_id, self.column: id}
        async with ctx.runtime.store.tx() as tx:
            await self.others.get(tx, id)
            await PROJECTS.get(tx, project_id)
            if await self.table.find(tx, pair["id"]) is not None:
                raise Conflict(
                    f"Conflict occurred attempting to store {self.table.noun} - Duplicate entry: "
                    f"{id} is associated with project {project_id} already."
                )
            await self.table.insert(tx, self.table.kind(**pair))
            await auth.revise(tx, REVISION)

    async def _remove(self, ctx: Context, project_id: str, id: str) -> None:
        """Raises NotFound."""
        async with ctx.runtime.store.tx() as tx:
            await self.table.delete(tx, await self._get(tx, project_id, id))
            await auth.revise(tx, REVISION)

    async def _projects(self, ctx: Context, id: str) -> dict[str, Any]:
        """Those associated with one of the others. Raises NotFound."""
        store = ctx.runtime.store
        await self.others.get(store, id)
        ids = [p.project_id for p in await self.table.all(store, **{self.column: id})]
        found = await PROJECTS.list(store, Page({"id": ids}, OLDEST, limit=100_000))
        return listed(ctx, "projects", [projects.view(ctx, p) for p in found])


class ProjectEndpoints(_Associations[ProjectEndpoint]):
    table, others, column = PROJECT_ENDPOINTS, ENDPOINTS, "endpoint_id"
    absent = "Endpoint {id} not found in project {project_id}"
    follows = {
        "project": dropping(PROJECT_ENDPOINTS, "project_id", revising=REVISION),
        "endpoint": dropping(PROJECT_ENDPOINTS, "endpoint_id"),
    }
    rules = {
        "identity:list_projects_for_endpoint": ADMIN_OR_SYSTEM_READER,
        "identity:add_endpoint_to_project": "rule:admin_required",
        "identity:check_endpoint_in_project": ADMIN_OR_SYSTEM_READER,
        "identity:list_endpoints_for_project": ADMIN_OR_SYSTEM_READER,
        "identity:remove_endpoint_from_project": "rule:admin_required",
    }
    scopes = {name: ("system", "project") for name in rules}

    @operation(
        "GET", _PATH + "/endpoints/{endpoint_id}/projects", "identity:list_projects_for_endpoint"
    )
    async def projects(self, ctx: Context, endpoint_id: str) -> dict[str, Any]:
        return await self._projects(ctx, endpoint_id)

    @operation(
        "GET", _PATH + "/projects/{project_id}/endpoints", "identity:list_endpoints_for_project"
    )
    async def endpoints(self, ctx: Context, project_id: str) -> dict[str, Any]:
        store = ctx.runtime.store
        await PROJECTS.get(store, project_id)
        chosen = await selection(store, project_id)
        found = [e for e in await ENDPOINTS.all(store) if chosen.has(e)]
        return listed(ctx, "endpoints", [Endpoints.view(ctx, e) for e in found])

    @operation("GET", _ENDPOINT, "identity:check_endpoint_in_project")
    async def check(self, ctx: Context, project_id: str, endpoint_id: str) -> None:
        await self._get(ctx.runtime.store, project_id, endpoint_id)

    @operation("PUT", _ENDPOINT, "identity:add_endpoint_to_project")
    async def add(self, ctx: Context, project_id: str, endpoint_id: str) -> None:
        await self._add(ctx, project_id, endpoint_id)

    @operation("DELETE", _ENDPOINT, "identity:remove_endpoint_from_project")
    async def remove(self, ctx: Context, project_id: str, endpoint_id: str) -> None:
        await self._remove(ctx, project_id, endpoint_id)


class ProjectEndpointGroups(_Associations[ProjectEndpointGroup]):
    table, others, column = PROJECT_ENDPOINT_GROUPS, ENDPOINT_GROUPS, "endpoint_group_id"
    absent = (
        "Endpoint Group Project Association not found: group {id} is not associated with project "
        "{project_id}."
    )
    follows = {
        "project": dropping(PROJECT_ENDPOINT_GROUPS, "project_id", revising=REVISION),
        "endpoint_group": dropping(PROJECT_ENDPOINT_GROUPS, "endpoint_group_id"),
    }
    rules = {
        "identity:list_projects_associated_with_endpoint_group": ADMIN_OR_SYSTEM_READER,
        "identity:get_endpoint_group_in_project": ADMIN_OR_SYSTEM_READER,
        "identity:list_endpoint_groups_for_project": ADMIN_OR_SYSTEM_READER,
        "identity:add_endpoint_group_to_project": "rule:admin_required",
        "identity:remove_endpoint_group_from_project": "rule:admin_required",
    }
    scopes = {name: ("system", "project") for name in rules}

    @operation(
        "GET",
        _PATH + "/endpoint_groups/{endpoint_group_id}/projects",
        "identity:list_projects_associated_with_endpoint_group",
    )
    async def projects(self, ctx: Context, endpoint_group_id: str) -> dict[str, Any]:
        return await self._projects(ctx, endpoint_group_id)

    @operation(
        "GET",
        _PATH + "/projects/{project_id}/endpoint_groups",
        "identity:list_endpoint_groups_for_project",
    )
    async def groups(self, ctx: Context, project_id: str) -> dict[str, Any]:
        await PROJECTS.get(ctx.runtime.store, project_id)
        found = await groups_of(ctx.runtime.store, project_id)
        return listed(ctx, "endpoint_groups", [EndpointGroups.view(ctx, g) for g in found])

    @operation("GET", _GROUP, "identity:get_endpoint_group_in_project")
    async def show(self, ctx: Context, project_id: str, endpoint_group_id: str) -> dict[str, Any]:
        await self._get(ctx.runtime.store, project_id, endpoint_group_id)
        shown = {
            "endpoint_group_id": endpoint_group_id,
            "project_id": project_id,
            "links": {"self": ctx.url},
        }
        return {"project_endpoint_group": shown}

    @operation("PUT", _GROUP, "identity:add_endpoint_group_to_project")
    async def add(self, ctx: Context, project_id: str, endpoint_group_id: str) -> None:
        await self._add(ctx, project_id, endpoint_group_id)

    @operation("DELETE", _GROUP, "identity:remove_endpoint_group_from_project")
    async def remove(self, ctx: Context, project_id: str, endpoint_group_id: str) -> None:
        await self._remove(ctx, project_id, endpoint_group_id)

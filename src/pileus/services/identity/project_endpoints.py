"""Associations of projects with endpoints (OS-EP-FILTER).

https://docs.openstack.org/api-ref/identity/v3-ext/#os-ep-filter-api
"""

from __future__ import annotations

from typing import Any

from pileus.kernel import auth
from pileus.kernel.faults import Conflict, NotFound
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Page

from . import endpoints, projects
from .catalog import ENDPOINTS, REVISION
from .endpoint_filters import PROJECT_ENDPOINTS, ProjectEndpoint, selection
from .tree import PROJECTS
from .wire import ADMIN_OR_SYSTEM_READER, OLDEST, Noun, dropping, listed

_PAIR = "/OS-EP-FILTER/projects/{project_id}/endpoints/{endpoint_id}"


_with_project = dropping(PROJECT_ENDPOINTS, "project_id", revising=REVISION)


class ProjectEndpoints(Noun[ProjectEndpoint]):
    table = PROJECT_ENDPOINTS
    follows = {
        "project": _with_project,
        "domain": _with_project,
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
        "GET",
        "/OS-EP-FILTER/endpoints/{endpoint_id}/projects",
        "identity:list_projects_for_endpoint",
    )
    async def projects(self, ctx: Context, endpoint_id: str) -> dict[str, Any]:
        store = ctx.runtime.store
        await ENDPOINTS.get(store, endpoint_id)
        ids = [p.project_id for p in await PROJECT_ENDPOINTS.all(store, endpoint_id=endpoint_id)]
        found = await PROJECTS.list(store, Page({"id": ids}, OLDEST, limit=100_000))
        return listed(ctx, "projects", [projects.view(ctx, p) for p in found])

    @operation(
        "GET",
        "/OS-EP-FILTER/projects/{project_id}/endpoints",
        "identity:list_endpoints_for_project",
    )
    async def endpoints(self, ctx: Context, project_id: str) -> dict[str, Any]:
        store = ctx.runtime.store
        await PROJECTS.get(store, project_id)
        chosen = await selection(store, project_id)
        found = [e for e in await ENDPOINTS.all(store) if chosen.has(e)]
        return listed(ctx, "endpoints", [endpoints.view(ctx, e) for e in found])

    @operation("GET", _PAIR, "identity:check_endpoint_in_project")
    async def check(self, ctx: Context, project_id: str, endpoint_id: str) -> None:
        store = ctx.runtime.store
        await ENDPOINTS.get(store, endpoint_id)
        await PROJECTS.get(store, project_id)
        if await PROJECT_ENDPOINTS.find(store, f"{project_id}:{endpoint_id}") is None:
            raise _missing(project_id, endpoint_id)

    @operation("PUT", _PAIR, "identity:add_endpoint_to_project")
    async def add(self, ctx: Context, project_id: str, endpoint_id: str) -> None:
        async with ctx.runtime.store.tx() as tx:
            await ENDPOINTS.get(tx, endpoint_id)
            await PROJECTS.get(tx, project_id)
            id = f"{project_id}:{endpoint_id}"
            if await PROJECT_ENDPOINTS.find(tx, id) is not None:
                raise Conflict(
                    "Conflict occurred attempting to store project_endpoint - Duplicate entry: "
                    f"endpoint {endpoint_id} is associated with project {project_id} already."
                )
            wanted = ProjectEndpoint(id=id, project_id=project_id, endpoint_id=endpoint_id)
            await PROJECT_ENDPOINTS.insert(tx, wanted)
            await auth.revise(tx, REVISION)

    @operation("DELETE", _PAIR, "identity:remove_endpoint_from_project")
    async def remove(self, ctx: Context, project_id: str, endpoint_id: str) -> None:
        async with ctx.runtime.store.tx() as tx:
            known = await PROJECT_ENDPOINTS.find(tx, f"{project_id}:{endpoint_id}")
            if known is None:
                raise _missing(project_id, endpoint_id)
            await PROJECT_ENDPOINTS.delete(tx, known)
            await auth.revise(tx, REVISION)


def _missing(project_id: str, endpoint_id: str) -> NotFound:
    return NotFound(f"Endpoint {endpoint_id} not found in project {project_id}")

"""Tags of projects: https://docs.openstack.org/api-ref/identity/v3/#project-tags"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pileus.kernel.faults import NotFound
from pileus.kernel.resources import Answer, Context, operation
from pileus.kernel.schema import Body

from .projects import READ, WRITE, target_of
from .tree import PROJECTS, Project, checked_tags
from .wire import Noun, refuse_immutable


class Tags(Body, kw_only=True):
    tags: list[str]


class ProjectTags(Noun[Project]):
    """They can be changed as little as their project."""

    table = PROJECTS
    id_param = "project_id"
    rules = {
        "identity:list_project_tags": READ,
        "identity:get_project_tag": READ,
        "identity:update_project_tags": WRITE,
        "identity:create_project_tag": WRITE,
        "identity:delete_project_tags": WRITE,
        "identity:delete_project_tag": WRITE,
    }

    def target(self, ctx: Context, record: Project) -> Mapping[str, object]:
        return target_of(record)

    @operation("GET", "/projects/{project_id}/tags", "identity:list_project_tags")
    async def tags(self, ctx: Context, project: Project) -> dict[str, Any]:
        return _tags_view(ctx, project)

    @operation("PUT", "/projects/{project_id}/tags", "identity:update_project_tags")
    async def put_tags(self, ctx: Context, project: Project, body: Tags) -> dict[str, Any]:
        return _tags_view(ctx, await _changed(ctx, project, [tag.strip() for tag in body.tags]))

    @operation("DELETE", "/projects/{project_id}/tags", "identity:delete_project_tags")
    async def delete_tags(self, ctx: Context, project: Project) -> None:
        await _changed(ctx, project, [])

    @operation("GET", "/projects/{project_id}/tags/{value}", "identity:get_project_tag")
    async def tag(self, ctx: Context, project: Project, value: str) -> None:
        _check_there(project, value)

    @operation("PUT", "/projects/{project_id}/tags/{value}", "identity:create_project_tag")
    async def put_tag(self, ctx: Context, project: Project, value: str) -> Answer:
        await _changed(ctx, project, list(dict.fromkeys((*project.tags, value.strip()))))
        return Answer(status=201, headers={"location": ctx.url})

    @operation("DELETE", "/projects/{project_id}/tags/{value}", "identity:delete_project_tag")
    async def delete_tag(self, ctx: Context, project: Project, value: str) -> None:
        refuse_immutable("project", project.id, project.options, {})
        _check_there(project, value)
        await _changed(ctx, project, [t for t in project.tags if t != value])


async def _changed(ctx: Context, project: Project, tags: list[str]) -> Project:
    """Raises Forbidden, Invalid."""
    refuse_immutable("project", project.id, project.options, {})
    async with ctx.runtime.store.tx() as tx:
        return await PROJECTS.change(tx, project, tags=checked_tags(tags))


def _check_there(project: Project, tag: str) -> None:
    if tag not in project.tags:
        raise NotFound(f"Could not find project tag: {tag}.")


def _tags_view(ctx: Context, project: Project) -> dict[str, Any]:
    return {"links": {"self": ctx.url}, "tags": project.tags}

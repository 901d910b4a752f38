"""Projects: https://docs.openstack.org/api-ref/identity/v3/#projects"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from pileus.kernel import auth
from pileus.kernel.faults import Forbidden, Invalid
from pileus.kernel.query import TAG_FILTERS, Filter
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Tx

from .assignments import held_on, projects_of
from .limits import Limits
from .revocations import revoke
from .settings import Settings, of
from .tree import PROJECTS, Project, ancestors, checked_tags, place_changes, subtree
from .unified_limits import LIMITS, TREE_DEPTHS
from .users import USERS, User, Users
from .wire import (
    AUTHENTICATED,
    NAME,
    Id,
    Noun,
    NounBody,
    ShortName,
    changed,
    extras,
    home_domain,
    is_asked,
    linked,
    listing,
    own_domain,
    page,
    refuse_immutable,
    removed,
    resource_options,
    rows_listed,
)

READ = (
    "(rule:admin_required) or (role:reader and system_scope:all) or (role:reader and "
    "domain_id:%(target.project.domain_id)s and not None:%(target.project.domain_id)s) or "
    "project_id:%(target.project.id)s"
)
WRITE = (
    "(rule:admin_required) or (role:manager and domain_id:%(target.project.domain_id)s and "
    "not None:%(target.project.domain_id)s)"
)


class CreateProject(NounBody, kw_only=True):
    root: ClassVar[str] = "project"
    name: ShortName
    description: str | None = None
    domain_id: Id | None = None
    parent_id: Id | None = None
    is_domain: bool = False
    enabled: bool = True
    tags: list[str] = []
    options: dict[str, Any] = {}


class UpdateProject(NounBody, kw_only=True):
    root: ClassVar[str] = "project"
    name: ShortName | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    domain_id: Id | UnsetType | None = UNSET
    parent_id: Id | UnsetType | None = UNSET
    is_domain: bool | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    tags: list[str] | UnsetType = UNSET
    options: dict[str, Any] | UnsetType = UNSET


def view(ctx: Context, p: Project) -> dict[str, Any]:
    shown = {
        **p.extra,
        "id": p.id,
        "name": p.name,
        "domain_id": p.domain_id or None,
        "description": p.description,
        "enabled": p.enabled,
        "parent_id": p.parent_id or None,
        "is_domain": p.is_domain,
        "tags": p.tags,
        "options": p.options,
    }
    return linked(ctx, "projects", shown)


def target_of(p: Project) -> dict[str, object]:
    return {"target.project.id": p.id, "target.project.domain_id": p.domain_id or None}


async def _with_domain(ctx: Context, tx: Tx, domain_id: str) -> None:
    for project in await PROJECTS.all(tx, domain_id=domain_id):
        refuse_immutable("project", project.id, project.options)
        await removed(ctx, tx, "project", project.id)
        await PROJECTS.delete(tx, project)


class Projects(Noun[Project]):
    table = PROJECTS
    id_param = "project_id"
    listed_as = "target.domain_id"
    follows = {"domain": _with_domain}
    rules = {
        "identity:get_project": READ,
        "identity:list_projects": (
            "(rule:admin_required) or (role:reader and system_scope:all) or "
            "(role:reader and domain_id:%(target.domain_id)s)"
        ),
        "identity:create_project": WRITE,
        "identity:update_project": WRITE,
        "identity:delete_project": WRITE,
    }
    listing = listing(
        {
            "name": NAME,
            "domain_id": Filter(),
            "parent_id": Filter(),
            "enabled": Filter(kind=bool),
            "is_domain": Filter(kind=bool),
            **TAG_FILTERS,
        }
    )

    def target(self, ctx: Context, record: Project) -> Mapping[str, object]:
        return target_of(record)

    @operation("GET", "/projects", "identity:list_projects")
    async def index(self, ctx: Context) -> dict[str, Any]:
        narrowed = {} if ctx.query.has("is_domain") else {"is_domain": 0}
        return await self.index_of(ctx, "projects", view, **narrowed, **own_domain(ctx))

    @operation("POST", "/projects", AUTHENTICATED, status=201)
    async def create(self, ctx: Context, body: CreateProject) -> dict[str, Any]:
        domain_id = "" if body.is_domain else home_domain(ctx, body.domain_id)
        ctx.require("identity:create_project", {"target.project.domain_id": domain_id or None})
        project = Project(
            id=ctx.runtime.world.new_hex(),
            name=body.name.strip(),
            domain_id=domain_id,
            parent_id=body.parent_id or domain_id,
            is_domain=body.is_domain,
            description=body.description or "",
            enabled=body.enabled,
            tags=checked_tags(body.tags),
            options=resource_options({}, body.options),
            extra=extras(ctx, body),
        )
        async with ctx.runtime.store.tx() as tx:
            await _check_place(tx, project, of(ctx.runtime))
            project = await PROJECTS.insert(tx, project)
            await changed(tx, "project", project.id, "created")
        return {"project": view(ctx, project)}

    @operation("GET", "/projects/{project_id}", "identity:get_project")
    async def show(self, ctx: Context, project: Project) -> dict[str, Any]:
        return {"project": {**view(ctx, project), **await _relatives(ctx, project)}}

    @operation("PATCH", "/projects/{project_id}", "identity:update_project")
    async def update(self, ctx: Context, project: Project, body: UpdateProject) -> dict[str, Any]:
        kind = "domain" if project.is_domain else "project"
        refuse_immutable(kind, project.id, project.options, ctx.document["project"])
        changes = _changes(ctx, project, body)
        async with ctx.runtime.store.tx() as tx:
            new = await PROJECTS.change(tx, project, **changes)
            if new.enabled != project.enabled:
                await _check_enabling(tx, new)
            await changed(tx, "project", new.id, "updated")
            if project.enabled and not new.enabled:
                await revoke(tx, "project", new.id)
                await changed(tx, "project", new.id, "disabled")
            await auth.revise(tx, "auth")
        return {"project": view(ctx, new)}

    @operation("DELETE", "/projects/{project_id}", "identity:delete_project")
    async def delete(self, ctx: Context, project: Project) -> None:
        refuse_immutable("project", project.id, project.options)
        if project.is_domain and project.enabled:
            raise Forbidden("Cannot delete a domain that is enabled, please disable it first.")
        async with ctx.runtime.store.tx() as tx:
            if not project.is_domain and await PROJECTS.one(tx, parent_id=project.id):
                raise Forbidden(
                    f"Cannot delete the project {project.id} since it is not a leaf in the "
                    "hierarchy: delete the projects below it first."
                )
            await removed(ctx, tx, "domain" if project.is_domain else "project", project.id)
            await PROJECTS.delete(tx, project)


class UserProjects(Noun[User]):
    """The projects on which a user holds a role."""

    table = USERS
    id_param = "user_id"
    rules = {
        "identity:list_user_projects": (
            "(rule:admin_required) or (role:reader and system_scope:all) or (role:reader and "
            "domain_id:%(target.user.domain_id)s) or user_id:%(target.user.id)s"
        )
    }
    target = Users.target

    @operation("GET", "/users/{user_id}/projects", "identity:list_user_projects")
    async def projects(self, ctx: Context, user: User) -> dict[str, Any]:
        ids = await projects_of(ctx.runtime.store, user.id)
        asked = page(Projects.listing, ctx.query, id=ids, is_domain=0)
        return await rows_listed(ctx, "projects", PROJECTS, asked, lambda p: view(ctx, p))


async def _check_place(tx: Tx, project: Project, settings: Settings) -> None:
    """Whether a project may stand where it wants to. Raises Invalid, Forbidden."""
    if project.is_domain:
        if project.parent_id:
            raise Invalid("only root projects are allowed to act as domains.")
        return
    domain = await PROJECTS.find(tx, project.domain_id)
    if domain is None or not domain.is_domain:
        raise Invalid(f"Could not find domain: {project.domain_id}.")
    parent = await PROJECTS.find(tx, project.parent_id)
    if parent is None:
        raise Invalid(f"Could not find project: {project.parent_id}.")
    if (parent.id if parent.is_domain else parent.domain_id) != domain.id:
        raise Invalid(
            f"Cannot create project, since it specifies its domain_id {domain.id}, but specifies "
            f"a parent in a different domain ({parent.domain_id or parent.id})."
        )
    above = [parent, *await ancestors(tx, parent)]
    if not all(p.enabled for p in above):
        raise Invalid(
            f"cannot create a project in a branch containing a disabled project: {project.name}"
        )
    max_depth = settings.max_tree_depth
    if settings.enforcement_model in TREE_DEPTHS:
        max_depth = min(max_depth, TREE_DEPTHS[settings.enforcement_model])
    if len(above) > max_depth:
        raise Forbidden(f"Max hierarchy depth reached for {parent.id} branch: it is {max_depth}.")


def _changes(ctx: Context, project: Project, body: UpdateProject) -> dict[str, Any]:
    """What a PATCH changes. Raises Invalid, Forbidden."""
    changes = place_changes(ctx, project, body)
    if changes.pop("parent_id", project.parent_id or None) != (project.parent_id or None):
        raise Forbidden("Update of `parent_id` is not allowed.")
    if changes.pop("is_domain", project.is_domain) != project.is_domain:
        raise Invalid("Update of `is_domain` is not allowed.")
    return changes


async def _check_enabling(tx: Tx, project: Project) -> None:
    """No enabled project stands below a disabled one. Raises Forbidden."""
    if project.is_domain:
        return
    if project.enabled and not all(p.enabled for p in await ancestors(tx, project)):
        raise Forbidden(f"Cannot enable project {project.id} since it has disabled parents")
    if not project.enabled and any(p.enabled for p in await subtree(tx, project)):
        raise Forbidden(
            f"Cannot disable project {project.id} since its subtree contains enabled projects."
        )


async def _relatives(ctx: Context, project: Project) -> dict[str, Any]:
    """`parents` and `subtree`, as the query asks for them. Raises Invalid."""
    query, store = ctx.query, ctx.runtime.store
    found: dict[str, Any] = {}
    for key, option in (("parents", "parents_as"), ("subtree", "subtree_as")):
        as_list, as_ids = is_asked(query, f"{option}_list"), is_asked(query, f"{option}_ids")
        if as_list and as_ids:
            raise Invalid(
                f"Cannot use {option}_list and {option}_ids query params at the same time."
            )
        if not as_list and not as_ids:
            continue
        kin = await (ancestors if key == "parents" else subtree)(store, project)
        if as_list:
            mine = [p for p in kin if await held_on(store, ctx.caller.user_id, p)]
            found[key] = [{"project": await _relative(ctx, p)} for p in mine]
        elif key == "parents":
            found[key] = _chain(kin)
        else:
            found[key] = _branches(kin, project.id)
    return found


async def _relative(ctx: Context, project: Project) -> dict[str, Any]:
    shown = view(ctx, project)
    if is_asked(ctx.query, "include_limits"):
        found = await LIMITS.all(ctx.runtime.store, project_id=project.id)
        shown["limits"] = [Limits.view(ctx, one) for one in found]
    return shown


def _chain(parents: list[Project]) -> dict[str, Any] | None:
    nested: dict[str, Any] | None = None
    for p in reversed(parents):
        nested = {p.id: nested}
    return nested


def _branches(below: list[Project], id: str) -> dict[str, Any] | None:
    return {p.id: _branches(below, p.id) for p in below if p.parent_id == id} or None

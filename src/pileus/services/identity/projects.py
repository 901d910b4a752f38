"""Projects: https://docs.openstack.org/api-ref/identity/v3/#projects"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pileus.kernel.faults import Forbidden, Invalid
from pileus.kernel.query import TAG_FILTERS, Filter
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Tx

from .assignments import held_on, projects_of
from .kept import ANY_SCOPE, Kept, changing
from .limits import Limits
from .settings import Settings, of
from .tree import PROJECTS, Project, ancestors, checked_tags, follow_change, refuse_enabled, subtree
from .unified_limits import LIMITS, TREE_DEPTHS
from .users import USERS, User, Users
from .wire import (
    NAME,
    READERS,
    Id,
    Noun,
    NounBody,
    ShortName,
    home_domain,
    is_asked,
    listing,
    own_domain,
    page,
    refuse_immutable,
    removed,
    rows_listed,
)

READ = (
    f"{READERS} or (role:reader and domain_id:%(target.project.domain_id)s and not "
    "None:%(target.project.domain_id)s) or project_id:%(target.project.id)s"
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


def target_of(p: Project) -> dict[str, object]:
    return {"target.project.id": p.id, "target.project.domain_id": p.domain_id or None}


class Projects(Kept[Project]):
    """Some of them act as domains."""

    table = PROJECTS
    path = "projects"
    id_param = "project_id"
    creates, updates = CreateProject, changing(CreateProject)
    asked_later = frozenset({"create"})
    goes_with = {"domain": "domain_id"}
    listed_as = "target.domain_id"
    rules = {
        "identity:get_project": READ,
        "identity:list_projects": (
            f"{READERS} or (role:reader and domain_id:%(target.domain_id)s)"
        ),
        "identity:create_project": WRITE,
        "identity:update_project": WRITE,
        "identity:delete_project": WRITE,
    }
    scopes = dict.fromkeys(rules, ANY_SCOPE)
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

    async def index(self, ctx: Context, **fixed: Any) -> dict[str, Any]:
        narrowed = {} if ctx.query.has("is_domain") else {"is_domain": 0}
        return await super().index(ctx, **narrowed, **own_domain(ctx))

    async def fields(
        self, ctx: Context, given: dict[str, Any], old: Project | None
    ) -> dict[str, Any]:
        """Raises Invalid, Forbidden."""
        if old is None:
            domain_id = "" if given["is_domain"] else home_domain(ctx, given["domain_id"])
            ctx.require("identity:create_project", {"target.project.domain_id": domain_id or None})
            place = {"domain_id": domain_id, "parent_id": given["parent_id"] or domain_id}
            given |= place
        checked_tags(given.get("tags", []))
        found = await super().fields(ctx, given, old)
        if old is None:
            return found
        if found.pop("parent_id", old.parent_id) != old.parent_id:
            raise Forbidden("Update of `parent_id` is not allowed.")
        if found.pop("is_domain", old.is_domain) != old.is_domain:
            raise Invalid("Update of `is_domain` is not allowed.")
        return found

    async def check(self, ctx: Context, tx: Tx, new: Project, old: Project | None) -> None:
        if old is None:
            await _check_place(tx, new, of(ctx.runtime))
            return
        if new.enabled != old.enabled:
            await _check_enabling(tx, new)
        await follow_change(tx, "project", new, old)

    async def show(self, ctx: Context, record: Project) -> dict[str, Any]:
        return {"project": {**self.view(ctx, record), **await _relatives(ctx, record)}}

    async def delete(self, ctx: Context, record: Project) -> None:
        await self.ask(ctx, "delete", record)
        if record.is_domain:
            refuse_enabled(record)
        async with ctx.runtime.store.tx() as tx:
            if not record.is_domain and await PROJECTS.one(tx, parent_id=record.id):
                raise Forbidden(
                    f"Cannot delete the project {record.id} since it is not a leaf in the "
                    "hierarchy: delete the projects below it first."
                )
            await self.remove(ctx, tx, record)

    async def remove(self, ctx: Context, tx: Tx, record: Project) -> None:
        """Raises Forbidden: what is immutable keeps its domain from going, too."""
        refuse_immutable("project", record.id, record.options)
        await removed(ctx, tx, "domain" if record.is_domain else "project", record.id)
        await PROJECTS.delete(tx, record)


view = Projects.view


class UserProjects(Noun[User]):
    """The projects on which a user holds a role."""

    table = USERS
    id_param = "user_id"
    rules = {
        "identity:list_user_projects": (
            f"{READERS} or (role:reader and domain_id:%(target.user.domain_id)s) or "
            "user_id:%(target.user.id)s"
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

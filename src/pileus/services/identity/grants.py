"""Granting roles and taking them back, on projects, domains and the system, to users and groups, inherited or not.

https://docs.openstack.org/api-ref/identity/v3/#roles and
https://docs.openstack.org/api-ref/identity/v3-ext/#os-inherit
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pileus.kernel import auth
from pileus.kernel.events import emit
from pileus.kernel.faults import Forbidden, Invalid, NotFound
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Page, Tx

from .application_credentials import APPLICATION_CREDENTIALS
from .assignments import ASSIGNMENTS, SYSTEM, Assignment, assignment, grant
from .groups import GROUPS, MEMBERSHIPS, Group
from .roles import ROLES, Role, view
from .tree import PROJECTS, Project
from .users import USERS, User
from .wire import ADMIN_OR_SYSTEM_READER, AUTHENTICATED, OLDEST, Noun, drop_all, dropping, listed

F = TypeVar("F", bound=Callable[..., Any])

_PATH = re.compile(
    r"(?:/OS-INHERIT)?/(projects|domains|system)(?:/([^/]+))?/(users|groups)/([^/]+)/roles"
    r"(?:/((?!inherited_to_projects$)[^/]+))?(/inherited_to_projects)?"
)
_PAIRS = (("user", "project"), ("user", "domain"), ("group", "project"), ("group", "domain"))


def _within(role: str) -> str:
    """Actor and target are both of the caller's domain, in any of their combinations."""
    return " or ".join(
        f"(role:{role} and domain_id:%(target.{actor}.domain_id)s and "
        f"domain_id:%(target.{target}.{'id' if target == 'domain' else 'domain_id'})s)"
        for actor, target in _PAIRS
    )


_ROLE = "(domain_id:%(target.role.domain_id)s or None:%(target.role.domain_id)s)"
_WRITE = (
    f"(rule:admin_required) or ({_within('admin')}) and {_ROLE} or "
    f"({_within('manager')}) and rule:domain_managed_target_role"
)
_CHECK = (
    "(rule:admin_required) or ((role:reader and system_scope:all) or "
    f"({_within('reader')}) and {_ROLE})"
)
_LIST = f"(rule:admin_required) or ((role:reader and system_scope:all) or {_within('reader')})"
_SYSTEM_RULES = {
    f"identity:{verb}_system_grant{s}_for_{actor}": rule
    for actor in ("user", "group")
    for verb, s, rule in (
        ("list", "s", ADMIN_OR_SYSTEM_READER),
        ("check", "", ADMIN_OR_SYSTEM_READER),
        ("create", "", "rule:admin_required"),
        ("revoke", "", "rule:admin_required"),
    )
}


def _paths(tail: str) -> Iterator[str]:
    """Every path of one operation on grants."""
    for actor in ("users", "groups"):
        for place in ("/projects/{target_id}", "/domains/{target_id}"):
            path = f"{place}/{actor}/{{actor_id}}/roles{tail}"
            yield path
            yield f"/OS-INHERIT{path}/inherited_to_projects"
        yield f"/system/{actor}/{{actor_id}}/roles{tail}"


def _everywhere(method: str, tail: str) -> Callable[[F], F]:
    def mark(fn: F) -> F:
        for path in _paths(tail):
            operation(method, path, AUTHENTICATED)(fn)
        return fn

    return mark


@dataclass
class Named:
    """What a path names, as far as it is there."""

    kind: str  # project, domain, system
    target_id: str
    actor_kind: str  # user, group
    actor_id: str
    role_id: str
    inherited: bool
    place: Project | None = None
    actor: User | Group | None = None
    role: Role | None = None

    @property
    def target(self) -> str:
        return SYSTEM if self.kind == "system" else f"{self.kind}:{self.target_id}"

    @property
    def row(self) -> Assignment:
        who = f"{self.actor_kind}:{self.actor_id}"
        return assignment(who, self.target, self.role_id, self.inherited)

    def rule(self, verb: str) -> str:
        if self.kind == "system":
            plural = "s" if verb == "list" else ""
            return f"identity:{verb}_system_grant{plural}_for_{self.actor_kind}"
        return f"identity:{verb}_grant{'s' if verb == 'list' else ''}"

    def policy_target(self) -> dict[str, object]:
        found: dict[str, object] = {}
        if self.actor is not None:
            found[f"target.{self.actor_kind}.domain_id"] = self.actor.domain_id
        if self.place is not None and self.kind == "domain":
            found["target.domain.id"] = self.place.id
        elif self.place is not None:
            found["target.project.domain_id"] = self.place.domain_id or None
        if self.role is not None:
            found["target.role.name"] = self.role.name
            found["target.role.domain_id"] = self.role.domain_id or None
        return found

    def require_all(self) -> None:
        """Raises NotFound in the name of what isn't there."""
        if self.actor is None:
            raise (USERS if self.actor_kind == "user" else GROUPS).missing(self.actor_id)
        if self.place is None and self.kind != "system":
            raise NotFound(f"Could not find {self.kind}: {self.target_id}.")
        if self.role is None and self.role_id:
            raise ROLES.missing(self.role_id)


async def _named(ctx: Context) -> Named:
    match = _PATH.fullmatch(ctx.path.removeprefix(ctx.service.prefix + ctx.service.api))
    if match is None:  # an id with a slash in it
        raise NotFound("The resource could not be found.")
    places, target_id, actors, actor_id, role_id, inherited = match.groups()
    store, kind = ctx.runtime.store, places.removesuffix("s") if places != "system" else places
    found = Named(kind, target_id or "", actors[:-1], actor_id, role_id or "", bool(inherited))
    if actors == "users":
        found.actor = await USERS.find(store, actor_id)
    else:
        found.actor = await GROUPS.find(store, actor_id)
    if kind != "system":
        place = await PROJECTS.find(store, found.target_id)
        if place is not None and (kind == "project" or place.is_domain):
            found.place = place
    if role_id:
        found.role = await ROLES.find(store, role_id)
    return found


class Grants(Noun[Assignment]):
    table = ASSIGNMENTS
    follows = {
        "user": dropping(ASSIGNMENTS, "actor", "user:"),
        "group": dropping(ASSIGNMENTS, "actor", "group:"),
        "project": dropping(ASSIGNMENTS, "target", "project:"),
        "domain": dropping(ASSIGNMENTS, "target", "domain:"),
        "role": dropping(ASSIGNMENTS, "role_id"),
    }
    rules = {
        "identity:check_grant": _CHECK,
        "identity:list_grants": _LIST,
        "identity:create_grant": _WRITE,
        "identity:revoke_grant": _WRITE,
        **_SYSTEM_RULES,
    }
    scopes = {name: ("system", "project") for name in _SYSTEM_RULES}

    async def _allowed(self, ctx: Context, verb: str) -> Named:
        named = await _named(ctx)
        ctx.require(named.rule(verb), named.policy_target())
        named.require_all()
        return named

    @_everywhere("GET", "")
    async def index(self, ctx: Context) -> dict[str, Any]:
        named = await self._allowed(ctx, "list")
        row, store = named.row, ctx.runtime.store
        asked = {"actor": row.actor, "target": row.target, "inherited": int(named.inherited)}
        rows = await ASSIGNMENTS.list(store, Page(asked, OLDEST))
        roles = [r for a in rows if (r := await ROLES.find(store, a.role_id)) is not None]
        return listed(ctx, "roles", [view(ctx, r) for r in roles])

    @_everywhere("GET", "/{role_id}")
    async def check(self, ctx: Context) -> None:
        named = await self._allowed(ctx, "check")
        if await ASSIGNMENTS.find(ctx.runtime.store, named.row.id) is None:
            raise _missing(named)

    @_everywhere("PUT", "/{role_id}")
    async def create(self, ctx: Context) -> None:
        named = await self._allowed(ctx, "create")
        _check_domain(named)
        async with ctx.runtime.store.tx() as tx:
            if await grant(tx, named.row):
                await auth.revise(tx, "auth")
                await _tell(tx, named, "created")

    @_everywhere("DELETE", "/{role_id}")
    async def revoke(self, ctx: Context) -> None:
        named = await self._allowed(ctx, "revoke")
        async with ctx.runtime.store.tx() as tx:
            known = await ASSIGNMENTS.find(tx, named.row.id)
            if known is None:
                raise _missing(named)
            await ASSIGNMENTS.delete(tx, known)
            await _end_credentials(tx, named)
            await auth.revise(tx, "auth")
            await _tell(tx, named, "deleted")


def _check_domain(named: Named) -> None:
    """A domain's role is for that domain's projects, and not for the system. Raises Forbidden, Invalid.

    Upstream grants it on any domain, where it has no effect but for what it implies.
    """
    assert named.role is not None
    if not named.role.domain_id:
        return
    if named.kind == "system":
        raise Invalid(
            f"Role {named.role.id} is a domain-specific role. Unable to use a domain-specific "
            "role in a system assignment."
        )
    if named.kind == "project" and named.place and named.place.domain_id != named.role.domain_id:
        raise Forbidden(
            f"Project {named.target_id} must be in the same domain as the role {named.role.id} "
            "being assigned."
        )


async def _end_credentials(tx: Tx, named: Named) -> None:
    """Application credentials lent from a role on a project end with the role."""
    if named.kind != "project":
        return
    users = [named.actor_id]
    if named.actor_kind == "group":
        members = await MEMBERSHIPS.all(tx, group_id=named.actor_id)
        users = [m.user_id for m in members]
    for user_id in users:
        await drop_all(tx, APPLICATION_CREDENTIALS, user_id=user_id, project_id=named.target_id)


async def _tell(tx: Tx, named: Named, what: str) -> None:
    project = named.target_id if named.kind == "project" else ""
    await emit(
        tx,
        f"identity.role_assignment.{what}",
        project,
        role=named.role_id,
        inherited_to_projects=named.inherited,
        **{named.actor_kind: named.actor_id, named.kind: named.target_id or "all"},
    )


def _missing(named: Named) -> NotFound:
    return NotFound(
        f"Could not find role assignment with role: {named.role_id}, user or group: "
        f"{named.actor_id}, project, domain, or system: {named.target_id or 'all'}."
    )

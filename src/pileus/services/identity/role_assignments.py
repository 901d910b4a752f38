"""GET /v3/role_assignments: https://docs.openstack.org/api-ref/identity/v3/#list-role-assignments

`effective` answers what everybody can do in the end: groups become their members, inherited assignments the projects
below, and roles those they imply.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pileus.kernel.faults import Invalid
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Page

from .assignments import ASSIGNMENTS, SYSTEM, Assignment, actors_of, below, places_of
from .groups import GROUPS, MEMBERSHIPS
from .roles import ROLES, RoleBook
from .tokens import TOKENS_KEPT
from .tree import PROJECTS, Project, subtree
from .users import USERS
from .wire import (
    AUTHENTICATED,
    EVERY,
    OLDEST,
    READERS,
    SLICE,
    Noun,
    NounTable,
    encoded,
    in_slices,
    is_asked,
    joined,
    listed,
)

_RULE = (
    f"{READERS} or (role:reader and domain_id:%(target.domain_id)s and not "
    "None:%(target.domain_id)s)"
)
_TABLES: Mapping[str, NounTable[Any]] = {
    "user": USERS,
    "group": GROUPS,
    "role": ROLES,
    "project": PROJECTS,
    "domain": PROJECTS,
}
_ALONE = (
    ("scope.domain.id", "scope.project.id", "Specify a domain or project, not both"),
    ("scope.domain.id", "scope.system", "Specify system or domain, not both"),
    ("scope.project.id", "scope.system", "Specify system or project, not both"),
    ("user.id", "group.id", "Specify a user or group, not both"),
)


@dataclass(frozen=True)
class Held:
    """One line of the answer: who holds what where, and by which assignment."""

    actor: str
    target: str
    role_id: str
    inherited: bool  # shown as to be inherited, or got by inheritance
    by: Assignment
    prior_id: str = ""  # the role that implies this one

    @property
    def why(self) -> tuple[str, ...]:
        """Two of the same are shown once."""
        by = below(self.by.target) if self.by.inherited else self.by.target
        return self.actor, self.target, self.role_id, self.prior_id, self.by.actor, by


@dataclass(frozen=True)
class Asked:
    """The query."""

    user_id: str
    group_id: str
    role_id: str
    project_id: str
    domain_id: str
    system: str
    inherited: bool | None
    effective: bool
    names: bool
    subtree: bool

    @classmethod
    def of(cls, ctx: Context) -> Asked:
        """Raises Invalid."""
        q = ctx.query
        for a, b, text in _ALONE:
            if q.get(a) and q.get(b):
                raise Invalid(text)
        inherited = None
        if q.has("scope.OS-INHERIT:inherited_to"):
            inherited = q.get("scope.OS-INHERIT:inherited_to") == "projects"
        asked = cls(
            q.get("user.id"),
            q.get("group.id"),
            q.get("role.id"),
            q.get("scope.project.id"),
            q.get("scope.domain.id"),
            q.get("scope.system") if q.get("scope.system") == "all" else "",
            inherited,
            is_asked(q, "effective"),
            is_asked(q, "include_names"),
            is_asked(q, "include_subtree"),
        )
        if asked.effective and asked.group_id:
            raise Invalid(
                "Combining effective and group filter will always result in an empty list."
            )
        if asked.effective and inherited and asked.domain_id:
            raise Invalid(
                "Combining effective, domain and inherited filters will always result in an "
                "empty list."
            )
        return asked


class RoleAssignments(Noun[Assignment]):
    table = ASSIGNMENTS
    rules = {
        "identity:list_role_assignments": _RULE,
        "identity:list_role_assignments_for_tree": _RULE,
    }

    @operation("GET", "/role_assignments", AUTHENTICATED)
    async def index(self, ctx: Context) -> dict[str, Any]:
        asked = Asked.of(ctx)
        await _allow(ctx, asked)
        finder = _Finder(ctx, asked, await ctx.peer(TOKENS_KEPT).book.read(ctx.runtime.store))
        parts = [encoded(await finder.views(some)) async for some in finder.found()]
        return listed(ctx, "role_assignments", joined(parts))


async def _allow(ctx: Context, asked: Asked) -> None:
    target: Mapping[str, object] = {}
    if not asked.subtree:
        if ctx.caller.domain_id:
            target = {"target.domain_id": ctx.caller.domain_id}
        return ctx.require("identity:list_role_assignments", target)
    project = None
    if asked.project_id:
        project = await PROJECTS.find(ctx.runtime.store, asked.project_id)
    if project is not None:
        target = {"target.domain_id": project.domain_id or None}
    ctx.require("identity:list_role_assignments_for_tree", target)
    if not asked.project_id:
        raise Invalid("scope.project.id must be specified if include_subtree is also specified")
    if project is None:
        raise PROJECTS.missing(asked.project_id)
    return None


@dataclass
class _Finder:
    ctx: Context
    asked: Asked
    book: RoleBook
    _projects: dict[str, Project | None] = field(default_factory=dict)
    _named: dict[str, dict[str, Any]] = field(default_factory=dict)  # who and what was shown
    _members: dict[str, list[str]] = field(default_factory=dict)  # by group
    _below: dict[str, list[str]] = field(default_factory=dict)  # projects, by what they stand below
    _shown: set[tuple[str, ...]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._root = self.ctx.base

    async def found(self) -> AsyncIterator[list[Held]]:
        """The lines, some at a time."""
        places = await self._wanted_projects()
        filters = await self._filters(places)
        if filters is None:
            return
        some: list[Held] = []
        asked = Page(filters, OLDEST, limit=EVERY)
        async for rows in in_slices(self.ctx.runtime, ASSIGNMENTS, asked):
            for row in rows:
                some += await self._expanded(row, places)
                while len(some) >= SLICE:
                    yield await self._in_domain(some[:SLICE])
                    some = some[SLICE:]
                    await self.ctx.runtime.world.clock.sleep(0)
        yield await self._in_domain(some)

    async def _wanted_projects(self) -> list[Project]:
        """The project asked for, and those below it if the subtree is."""
        if not self.asked.project_id:
            return []
        top = await self._project(self.asked.project_id)
        if top is None and self.asked.effective:
            raise PROJECTS.missing(self.asked.project_id)
        if top is None:
            return []
        more = await subtree(self.ctx.runtime.store, top) if self.asked.subtree else []
        return [top, *more]

    async def _filters(self, projects: list[Project]) -> dict[str, Any] | None:
        """What rows must match, or None if none can."""
        asked = self.asked
        if asked.project_id and not projects:
            return None
        filters = {**await self._actors(), **await self._targeted(projects)}
        if not asked.effective:
            if asked.inherited is not None:
                filters["inherited"] = int(asked.inherited)
            if asked.role_id:
                filters["role_id"] = asked.role_id
        return filters

    async def _actors(self) -> dict[str, Any]:
        asked = self.asked
        if asked.user_id and asked.effective:
            return {"actor": await actors_of(self.ctx.runtime.store, asked.user_id)}
        if asked.user_id:
            return {"actor": f"user:{asked.user_id}"}
        return {"actor": f"group:{asked.group_id}"} if asked.group_id else {}

    async def _targeted(self, projects: list[Project]) -> dict[str, Any]:
        asked, store = self.asked, self.ctx.runtime.store
        if projects and asked.effective:
            return {"place": [p for one in projects for p in await places_of(store, one)]}
        if projects:
            return {"target": [f"project:{p.id}" for p in projects]}
        if asked.domain_id:
            return {"target": f"domain:{asked.domain_id}"}
        return {"target": SYSTEM} if asked.system else {}

    async def _expanded(self, row: Assignment, projects: list[Project]) -> list[Held]:
        asked = self.asked
        if not asked.effective:
            return [Held(row.actor, row.target, row.role_id, row.inherited, row)]
        if asked.inherited is not None and asked.inherited != row.inherited:
            return []
        targets = await self._targets(row, projects)
        people = await self._people(row)
        return [held for who in people for at in targets for held in self._roles(row, who, at)]

    async def _people(self, row: Assignment) -> list[str]:
        kind, _, id = row.actor.partition(":")
        if kind == "user":
            return [row.actor]
        if self.asked.user_id:
            return [f"user:{self.asked.user_id}"]
        if id not in self._members:
            members = await MEMBERSHIPS.all(self.ctx.runtime.store, group_id=id)
            self._members[id] = [f"user:{m.user_id}" for m in members]
        return self._members[id]

    async def _targets(self, row: Assignment, projects: list[Project]) -> list[str]:
        if not row.inherited:
            return [row.target]
        store = self.ctx.runtime.store
        if projects:
            place = below(row.target)
            return [f"project:{p.id}" for p in projects if place in await places_of(store, p)]
        if self.asked.domain_id:
            return []
        if row.target not in self._below:
            top = await self._project(row.target.partition(":")[2])
            found = await subtree(store, top) if top else []
            self._below[row.target] = [f"project:{p.id}" for p in found]
        return self._below[row.target]

    def _roles(self, row: Assignment, actor: str, target: str) -> list[Held]:
        found = []
        for id, prior in self.book.reasons(row.role_id):
            role = self.book.roles.get(id)
            if role is None or role.domain_id or self.asked.role_id not in ("", id):
                continue
            held = Held(actor, target, id, row.inherited, row, prior)
            if not prior or held.why not in self._shown:
                found.append(held)
            if prior:
                self._shown.add(held.why)
        return found

    async def _in_domain(self, some: list[Held]) -> list[Held]:
        """Those that a domain-scoped token sees: of its domain and the projects in it."""
        mine = self.ctx.caller.domain_id
        if not mine:
            return some
        places = {h.target.partition(":")[2] for h in some if h.target.startswith("project:")}
        await self._know_projects(places)
        seen = {id for id in places if (p := self._projects[id]) and p.domain_id == mine} | {mine}
        return [h for h in some if h.target.partition(":")[2] in seen]

    async def views(self, some: Sequence[Held]) -> list[dict[str, Any]]:
        if self.asked.names:
            await self._name(some)
        return [self._view(held) for held in some]

    def _view(self, held: Held) -> dict[str, Any]:
        kind = held.target.partition(":")[0]
        shown: dict[str, Any] = {
            held.actor.partition(":")[0]: self._ref(held.actor),
            "role": self._ref(f"role:{held.role_id}"),
            "links": self._links(held),
        }
        if kind == "system":
            shown["scope"] = {"system": {"all": True}}
        else:
            shown["scope"] = {kind: self._ref(held.target)}
        if held.inherited:
            shown["scope"]["OS-INHERIT:inherited_to"] = "projects"
        return shown

    def _links(self, held: Held) -> dict[str, str]:
        """As upstream's, which name the implying role where the granted one would be, and the pair the wrong way round."""
        root, by = self._root, held.by
        place = "system" if by.target == SYSTEM else by.target.replace(":", "s/", 1)
        path = f"{place}/{by.actor.replace(':', 's/', 1)}/roles/{held.prior_id or by.role_id}"
        if by.inherited:
            path = f"OS-INHERIT/{path}/inherited_to_projects"
        links = {"assignment": f"{root}/{path}"}
        if by.actor != held.actor:
            group = by.actor.partition(":")[2]
            links["membership"] = f"{root}/groups/{group}/users/{held.actor.partition(':')[2]}"
        if held.prior_id:
            links["prior_role"] = f"{root}/prior_role/{held.role_id}/implies/{held.prior_id}"
        return links

    def _ref(self, what: str) -> dict[str, Any]:
        return self._named.get(what) or {"id": what.partition(":")[2]}

    async def _name(self, some: Sequence[Held]) -> None:
        """Looks up who and what is in these lines and was not shown yet."""
        every = {n for h in some for n in (h.actor, h.target, f"role:{h.role_id}") if n != SYSTEM}
        new = every - self._named.keys()
        found: dict[str, Any] = {}
        for kind, table in _TABLES.items():
            ids = [id for of, _, id in (n.partition(":") for n in new) if of == kind]
            if ids:
                rows = await table.list(self.ctx.runtime.store, Page({"id": ids}, limit=len(ids)))
                found |= {f"{kind}:{row.id}": row for row in rows}
        await self._know_projects({row.domain_id for row in found.values() if row.domain_id})
        for name in new:
            self._named[name] = self._shown_as(name, found.get(name))

    def _shown_as(self, name: str, found: Any) -> dict[str, Any]:
        shown = {"id": name.partition(":")[2], "name": found.name if found else ""}
        if found and found.domain_id:
            domain = self._projects[found.domain_id]
            shown["domain"] = {"id": found.domain_id, "name": domain.name if domain else ""}
        return shown

    async def _project(self, id: str) -> Project | None:
        await self._know_projects({id})
        return self._projects[id]

    async def _know_projects(self, ids: set[str]) -> None:
        new = ids - self._projects.keys()
        if new:
            asked = Page({"id": list(new)}, limit=len(new))
            found = {p.id: p for p in await PROJECTS.list(self.ctx.runtime.store, asked)}
            self._projects |= {id: found.get(id) for id in new}

"""Role assignments: who holds which role where. https://docs.openstack.org/api-ref/identity/v3/#roles

One row each, found by actor and target alike. `inherited` ones (OS-INHERIT) count below their target, not on it.
"""

from __future__ import annotations

from collections.abc import Iterable

from pileus.kernel.store import Column, Page, Reader, Record, Tx

from .groups import group_ids
from .tree import PROJECTS, Project, ancestors, subtree
from .wire import NounTable

SYSTEM = "system:all"


class Assignment(Record, kw_only=True, frozen=True):
    """`actor` is `user:id` or `group:id`; `target` is `project:id`, `domain:id` or SYSTEM."""

    actor: str
    target: str
    role_id: str
    inherited: bool = False


def _place(a: Assignment) -> str:
    return below(a.target) if a.inherited else a.target


def below(target: str) -> str:
    """How the place is spelled on which inherited assignments of a target stand."""
    return target + "/*"


ASSIGNMENTS = NounTable(
    "identity_assignments",
    Assignment,
    columns=("actor", "target", "role_id", "inherited", Column("place", _place)),
    indexes=(
        ("actor", "place"),
        ("place",),
        ("target", "created_at", "id"),  # these are listed a slice at a time
        ("role_id", "created_at", "id"),
        ("created_at", "id"),
    ),
    noun="role assignment",
)


def assignment(actor: str, target: str, role_id: str, inherited: bool = False) -> Assignment:
    """An assignment under the id that says what it is, so that there can only be one of it."""
    id = f"{actor} {below(target) if inherited else target} {role_id}"
    return Assignment(id=id, actor=actor, target=target, role_id=role_id, inherited=inherited)


async def grant(tx: Tx, wanted: Assignment) -> bool:
    """Writes an assignment unless it is there; whether it was new."""
    if await ASSIGNMENTS.find(tx, wanted.id) is not None:
        return False
    await ASSIGNMENTS.insert(tx, wanted)
    return True


async def actors_of(db: Reader, user_id: str, also: Iterable[str] = ()) -> list[str]:
    """The user and his groups; `also` are groups in which he is for his identity provider only."""
    groups = dict.fromkeys((*await group_ids(db, user_id), *also))
    return [f"user:{user_id}", *(f"group:{g}" for g in groups)]


async def places_of(db: Reader, project: Project) -> list[str]:
    """Where an assignment counts for a project or domain: on it, and inherited from above."""
    if project.is_domain:
        return [f"domain:{project.id}"]
    places = [f"project:{project.id}"]
    for above in await ancestors(db, project):
        places.append(below(f"{'domain' if above.is_domain else 'project'}:{above.id}"))
    return places


async def held(db: Reader, user_id: str, places: list[str], also: Iterable[str] = ()) -> set[str]:
    """The ids of the roles that a user holds at these places, himself or through groups; implied ones not."""
    page = Page({"actor": await actors_of(db, user_id, also), "place": places}, limit=100_000)
    return {a.role_id for a in await ASSIGNMENTS.list(db, page)}


async def held_on(
    db: Reader, user_id: str, project: Project | None, also: Iterable[str] = ()
) -> set[str]:
    """The same on a project or domain, or (None) on the system."""
    places = [SYSTEM] if project is None else await places_of(db, project)
    return await held(db, user_id, places, also)


async def projects_of(db: Reader, user_id: str, also: Iterable[str] = ()) -> list[str]:
    """The ids of the projects and domains on which a user holds a role, inherited ones included."""
    page = Page({"actor": await actors_of(db, user_id, also)}, limit=100_000)
    found: dict[str, None] = {}
    for a in await ASSIGNMENTS.list(db, page):
        kind, _, id = a.target.partition(":")
        if kind == "system":
            continue
        if not a.inherited:
            found[id] = None
            continue
        top = await PROJECTS.find(db, id)
        if top is not None:
            found.update(dict.fromkeys(p.id for p in await subtree(db, top)))
    return list(found)

"""The tree of domains and projects. A domain is a project that acts as one: a row without a domain of its own."""

from __future__ import annotations

import re
from typing import Any

from pileus.kernel import auth
from pileus.kernel.faults import Forbidden, Invalid, NotFound
from pileus.kernel.store import Column, Many, Page, Reader, Record, Tx, Unique

from .revocations import revoke
from .wire import OLDEST, NounTable, changed

_MAX_TAGS = 80
_TAG = re.compile(r"[^,/]{1,255}")


class Project(Record, kw_only=True, frozen=True):
    """`parent_id` of a project at the top is its domain's id, as `domain_id` is; a domain has neither."""

    name: str
    domain_id: str = ""
    parent_id: str = ""
    is_domain: bool = False
    description: str = ""
    enabled: bool = True
    tags: list[str] = []
    options: dict[str, Any] = {}
    extra: dict[str, Any] = {}


def _taken(project: Project) -> str:
    if project.is_domain:
        details = (
            "it is not permitted to have two projects acting as domains with the same name: "
            f"{project.name}"
        )
    else:
        details = (
            "it is not permitted to have two projects with either the same name or same id in the "
            f"same domain: name is {project.name}, project id {project.id}"
        )
    return f"Conflict occurred attempting to store project - {details}."


PROJECTS = NounTable(
    "identity_projects",
    Project,
    columns=(
        "domain_id",
        "parent_id",
        "is_domain",
        "enabled",
        Column("name_key", lambda p: p.name.lower()),
    ),
    unique=(Unique(("domain_id", "name_key"), _taken),),
    many=(Many("tags", lambda p: p.tags),),
    indexes=(
        ("domain_id", "created_at", "id"),
        ("created_at", "id"),
        ("name_key", "id"),
        ("parent_id",),
    ),
    noun="project",
)


async def ancestors(db: Reader, project: Project) -> list[Project]:
    """The projects above, nearest first, the domain last."""
    found: list[Project] = []
    at = project
    while at.parent_id:
        above = await PROJECTS.find(db, at.parent_id)
        if above is None:
            break
        found.append(above)
        at = above
    return found


async def named(db: Reader, name: str, domain_id: str) -> Project | None:
    """The project of that name in a domain ("" for a domain itself); case doesn't count."""
    return await PROJECTS.one(db, domain_id=domain_id, name_key=name.lower())


async def get_domain(db: Reader, id: str) -> Project:
    """Raises NotFound, for a project that is no domain too."""
    found = await PROJECTS.find(db, id)
    if found is None or not found.is_domain:
        raise NotFound(f"Could not find domain: {id}.")
    return found


async def subtree(db: Reader, project: Project) -> list[Project]:
    """The projects below, nearest first."""
    found: list[Project] = []
    level = [project.id]
    while level:
        below = await PROJECTS.list(db, Page({"parent_id": level}, OLDEST, limit=100_000))
        found += below
        level = [p.id for p in below]
    return found


def refuse_enabled(domain: Project) -> None:
    """Raises Forbidden."""
    if domain.enabled:
        raise Forbidden("Cannot delete a domain that is enabled, please disable it first.")


async def follow_change(tx: Tx, kind: str, new: Project, old: Project) -> None:
    """What a change of a domain or project means for tokens."""
    if old.enabled and not new.enabled:
        await revoke(tx, kind, new.id)
        await changed(tx, kind, new.id, "disabled")
    await auth.revise(tx, "auth")


def checked_tags(tags: list[str]) -> list[str]:
    """Raises Invalid."""
    for tag in tags:
        if not _TAG.fullmatch(tag):
            raise Invalid(
                f"Invalid input for field 'tags': {tag[:80]!r} must have 1 to 255 characters, "
                "none of them ',' or '/'."
            )
    if len(set(tags)) != len(tags):
        raise Invalid("Invalid input for field 'tags': a tag stands in it twice.")
    if len(tags) > _MAX_TAGS:
        raise Invalid(f"Invalid input for field 'tags': there may be {_MAX_TAGS} of them.")
    return tags

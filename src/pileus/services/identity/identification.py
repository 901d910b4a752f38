"""Who or what a request to log in names, by id or by name and domain. Nothing here says whether it is enabled."""

from __future__ import annotations

from pileus.kernel.faults import Invalid
from pileus.kernel.store import Store

from .auth_request import DomainRef, ProjectRef, UserRef
from .tree import PROJECTS, Project, named
from .users import USERS, User


async def find_user(store: Store, given: UserRef) -> User | None:
    """Raises Invalid if it is not said which user."""
    if given.id:
        return await USERS.find(store, given.id)
    if not given.name or given.domain is None:
        raise Invalid(
            "Expecting to find domain in user. A user is named by id, or by name and domain."
        )
    domain = await find_domain(store, given.domain)
    if domain is None:
        return None
    return await USERS.one(store, domain_id=domain.id, name_key=given.name.lower())


async def find_domain(store: Store, given: DomainRef) -> Project | None:
    if given.id:
        found = await PROJECTS.find(store, given.id)
    else:
        found = await named(store, given.name, "") if given.name else None
    return found if found is not None and found.is_domain else None


async def find_project(store: Store, given: ProjectRef) -> Project | None:
    """Raises Invalid if it is not said which project."""
    if given.id:
        return await PROJECTS.find(store, given.id)
    if not given.name or given.domain is None:
        raise Invalid(
            "Expecting to find domain in project. A project is named by id, or by name and domain."
        )
    domain = await find_domain(store, given.domain)
    return await named(store, given.name, domain.id) if domain else None

"""Roles: https://docs.openstack.org/api-ref/identity/v3/#roles"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pileus.kernel import auth
from pileus.kernel.store import Column, Reader, Record, Unique

from .wire import NounTable

REVISION = "identity.roles"


class Role(Record, kw_only=True, frozen=True):
    """A role with a `domain_id` is only a name for those it implies; it never stands in a token."""

    name: str
    domain_id: str = ""
    description: str | None = None
    options: dict[str, Any] = {}
    extra: dict[str, Any] = {}


class Implication(Record, kw_only=True, frozen=True):
    """The id is `prior:implied`."""

    prior_id: str
    implied_id: str


def _taken(role: Role) -> str:
    return (
        f"Conflict occurred attempting to store role - Duplicate entry found with name {role.name}."
    )


ROLES = NounTable(
    "identity_roles",
    Role,
    columns=("domain_id", Column("name_key", lambda r: r.name.lower())),
    unique=(Unique(("domain_id", "name_key"), _taken),),
    noun="role",
)
IMPLICATIONS = NounTable(
    "identity_role_implications",
    Implication,
    columns=("prior_id", "implied_id"),
    indexes=(("prior_id",), ("implied_id",)),
    noun="implied role",
)


class RoleBook:
    """All roles and what each implies, itself included; read again when they are revised. There are few."""

    def __init__(self) -> None:
        self.roles: dict[str, Role] = {}
        self.implied: dict[str, frozenset[str]] = {}
        self._revision = -1

    async def read(self, db: Reader) -> RoleBook:
        revision = await auth.revision(db, REVISION)
        if revision != self._revision:
            self.roles = {r.id: r for r in await ROLES.all(db)}
            steps: dict[str, set[str]] = {}
            for one in await IMPLICATIONS.all(db):
                steps.setdefault(one.prior_id, set()).add(one.implied_id)
            self.implied = {id: reachable(steps, id) for id in self.roles}
            self._revision = revision
        return self

    def closure(self, ids: Iterable[str]) -> list[Role]:
        """These roles and those they imply, without domain roles, by name."""
        every: set[str] = set()
        for id in ids:
            every |= self.implied.get(id, frozenset())
        found = [self.roles[i] for i in every if i in self.roles]
        return sorted((r for r in found if not r.domain_id), key=lambda r: (r.name, r.id))


def reachable(steps: dict[str, set[str]], start: str) -> frozenset[str]:
    """What can be reached from `start` by any number of steps, `start` included."""
    seen, todo = {start}, [start]
    while todo:
        for following in steps.get(todo.pop(), ()):
            if following not in seen:
                seen.add(following)
                todo.append(following)
    return frozenset(seen)

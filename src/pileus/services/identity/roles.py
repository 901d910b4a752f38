"""Roles: https://docs.openstack.org/api-ref/identity/v3/#roles"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import msgspec

from pileus.kernel import auth
from pileus.kernel.faults import Invalid
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context
from pileus.kernel.store import Column, Reader, Record, Tx, Unique

from .kept import ANY_SCOPE, Kept, changing
from .tree import get_domain
from .wire import ADMIN_OR_SYSTEM_READER, NAME, Id, Name, NounBody, NounTable, drop_all, listing

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
        self.steps: dict[str, set[str]] = {}  # what each implies directly
        self.implied: dict[str, frozenset[str]] = {}
        self._revision = -1

    async def read(self, db: Reader) -> RoleBook:
        revision = await auth.revision(db, REVISION)
        if revision != self._revision:
            roles = {r.id: r for r in await ROLES.all(db)}
            steps: dict[str, set[str]] = {}
            for one in await IMPLICATIONS.all(db):
                steps.setdefault(one.prior_id, set()).add(one.implied_id)
            self.roles, self.steps = roles, steps
            self.implied = {id: reachable(steps, id) for id in roles}
            self._revision = revision
        return self

    def reasons(self, id: str) -> list[tuple[str, str]]:
        """A role and those it implies, each with the one that implies it directly: once for each that does."""
        found = [(id, "")]
        for role, _ in found:
            pairs = ((implied, role) for implied in sorted(self.steps.get(role, ())))
            found += [p for p in pairs if p not in found]
        return found

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


class RoleRef(msgspec.Struct):
    """As bodies name a role: by its id or its name."""

    id: str = ""
    name: str = ""


async def role_id(db: Reader, ref: RoleRef) -> str:
    """Raises NotFound, Invalid."""
    if ref.id:
        return (await ROLES.get(db, ref.id)).id
    if not ref.name:
        raise Invalid("Invalid input for field 'roles': each must have an id or a name.")
    found = await ROLES.one(db, name_key=ref.name.lower(), domain_id="")
    if found is None:
        raise ROLES.missing(ref.name)
    return found.id


async def roles_of(db: Reader, ids: Iterable[str]) -> list[Role]:
    """Those that are still there."""
    return [role for id in ids if (role := await ROLES.find(db, id)) is not None]


class CreateRole(NounBody, kw_only=True):
    root: ClassVar[str] = "role"
    name: Name
    description: str | None = None
    domain_id: Id | None = None
    options: dict[str, Any] = {}


def implication(prior: Role, implied: Role) -> Implication:
    return Implication(id=f"{prior.id}:{implied.id}", prior_id=prior.id, implied_id=implied.id)


async def revise(tx: Tx) -> None:
    """Roles changed, so what tokens stand for may have."""
    await auth.revise(tx, REVISION)
    await auth.revise(tx, "auth")


class Roles(Kept[Role]):
    """Operations on a domain's role have rules of their own, so policy is asked once the role is known.

    Whether a role is there is no secret, as upstream. A domain that goes takes its roles along, immutable ones too;
    upstream leaves them behind, of a domain that is not there.
    """

    table = ROLES
    path = "roles"
    id_param = "role_id"
    creates, updates = CreateRole, changing(CreateRole)
    asked_later = frozenset({"list", "create", "get", "update", "delete"})
    goes_with = {"domain": "domain_id"}
    revises = REVISION
    rules = {
        "identity:get_role": (
            "(rule:admin_required or (role:reader and system_scope:all)) or "
            "(role:manager and rule:domain_managed_target_role)"
        ),
        "identity:list_roles": (
            "(rule:admin_required or (role:reader and system_scope:all)) or "
            "(role:manager and not domain_id:None)"
        ),
        "identity:get_domain_role": ADMIN_OR_SYSTEM_READER,
        "identity:list_domain_roles": ADMIN_OR_SYSTEM_READER,
        "identity:create_domain_role": "rule:admin_required",
        "identity:update_domain_role": "rule:admin_required",
        "identity:delete_domain_role": "rule:admin_required",
    }
    scopes = {"identity:get_role": ANY_SCOPE, "identity:list_roles": ANY_SCOPE}
    listing = listing({"name": NAME, "domain_id": Filter()})

    def target(self, ctx: Context, record: Role) -> Mapping[str, object]:
        return {"target.role.name": record.name, "target.role.domain_id": record.domain_id or None}

    async def index(self, ctx: Context, **fixed: Any) -> dict[str, Any]:
        domain_id = ctx.query.get("domain_id")
        ctx.require("identity:list_domain_roles" if domain_id else "identity:list_roles", {})
        return await super().index(ctx, domain_id=domain_id)

    async def ask(self, ctx: Context, verb: str, record: Role) -> None:
        kind = "domain_role" if record.domain_id else "role"
        ctx.require(f"identity:{verb}_{kind}", self.target(ctx, record))
        await super().ask(ctx, verb, record)

    async def fields(self, ctx: Context, given: dict[str, Any], old: Role | None) -> dict[str, Any]:
        """Raises Invalid, Forbidden."""
        if old is None:
            kind = "domain_role" if given["domain_id"] else "role"
            ctx.require(f"identity:create_{kind}", {})
        return await super().fields(ctx, given, old)

    async def check(self, ctx: Context, tx: Tx, new: Role, old: Role | None) -> None:
        if old is not None:
            await auth.revise(tx, "auth")
        elif new.domain_id:
            await get_domain(tx, new.domain_id)

    async def remove(self, ctx: Context, tx: Tx, record: Role) -> None:
        await drop_all(tx, IMPLICATIONS, prior_id=record.id)
        await drop_all(tx, IMPLICATIONS, implied_id=record.id)
        await super().remove(ctx, tx, record)
        await auth.revise(tx, "auth")


view = Roles.view

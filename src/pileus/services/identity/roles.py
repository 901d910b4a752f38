"""Roles: https://docs.openstack.org/api-ref/identity/v3/#roles"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from pileus.kernel import auth
from pileus.kernel.faults import Invalid
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Column, Reader, Record, Tx, Unique

from .users import check_domain
from .wire import (
    ADMIN_OR_SYSTEM_READER,
    AUTHENTICATED,
    NAME,
    Id,
    Name,
    Noun,
    NounBody,
    NounTable,
    changed,
    changes_of,
    drop_all,
    extras,
    linked,
    listing,
    refuse_immutable,
    removed,
    resource_options,
    tidied,
)

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


class UpdateRole(NounBody, kw_only=True):
    root: ClassVar[str] = "role"
    name: Name | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    domain_id: Id | UnsetType | None = UNSET
    options: dict[str, Any] | UnsetType = UNSET


def view(ctx: Context, r: Role) -> dict[str, Any]:
    shown = {
        **r.extra,
        "id": r.id,
        "name": r.name,
        "domain_id": r.domain_id or None,
        "description": r.description,
        "options": r.options,
    }
    return linked(ctx, "roles", shown)


async def _with_domain(ctx: Context, tx: Tx, domain_id: str) -> None:
    for role in await ROLES.all(tx, domain_id=domain_id):
        await _remove(ctx, tx, role)


async def _remove(ctx: Context, tx: Tx, role: Role) -> None:
    await removed(ctx, tx, "role", role.id)
    await drop_all(tx, IMPLICATIONS, prior_id=role.id)
    await drop_all(tx, IMPLICATIONS, implied_id=role.id)
    await ROLES.delete(tx, role)
    await revise(tx)


async def revise(tx: Tx) -> None:
    """Roles changed, so what tokens stand for may have."""
    await auth.revise(tx, REVISION)
    await auth.revise(tx, "auth")


class Roles(Noun[Role]):
    """Operations on a domain's role have rules of their own, so policy is asked once the role is known."""

    table = ROLES
    id_param = "role_id"
    follows = {"domain": _with_domain}
    rules = {
        "identity:get_role": (
            "(rule:admin_required or (role:reader and system_scope:all)) or "
            "(role:manager and rule:domain_managed_target_role)"
        ),
        "identity:list_roles": (
            "(rule:admin_required or (role:reader and system_scope:all)) or "
            "(role:manager and not domain_id:None)"
        ),
        "identity:create_role": "rule:admin_required",
        "identity:update_role": "rule:admin_required",
        "identity:delete_role": "rule:admin_required",
        "identity:get_domain_role": ADMIN_OR_SYSTEM_READER,
        "identity:list_domain_roles": ADMIN_OR_SYSTEM_READER,
        "identity:create_domain_role": "rule:admin_required",
        "identity:update_domain_role": "rule:admin_required",
        "identity:delete_domain_role": "rule:admin_required",
    }
    scopes = {
        f"identity:{verb}_{noun}": ("system", "project")
        for verb, noun in (
            ("create", "role"),
            ("update", "role"),
            ("delete", "role"),
            ("get", "domain_role"),
            ("list", "domain_roles"),
            ("create", "domain_role"),
            ("update", "domain_role"),
            ("delete", "domain_role"),
        )
    }
    listing = listing({"name": NAME, "domain_id": Filter()})

    def target(self, ctx: Context, record: Role) -> Mapping[str, object]:
        return {"target.role.name": record.name, "target.role.domain_id": record.domain_id or None}

    async def _role(self, ctx: Context, verb: str, id: str) -> Role:
        """The role, if the caller may; whether it is there is no secret, as upstream."""
        role = await ROLES.get(ctx.runtime.store, id)
        kind = "domain_role" if role.domain_id else "role"
        ctx.require(f"identity:{verb}_{kind}", self.target(ctx, role))
        return role

    @operation("GET", "/roles", AUTHENTICATED)
    async def index(self, ctx: Context) -> dict[str, Any]:
        domain_id = ctx.query.get("domain_id")
        ctx.require("identity:list_domain_roles" if domain_id else "identity:list_roles", {})
        return await self.index_of(ctx, "roles", view, domain_id=domain_id)

    @operation("POST", "/roles", AUTHENTICATED, status=201)
    async def create(self, ctx: Context, body: CreateRole) -> dict[str, Any]:
        kind = "domain_role" if body.domain_id else "role"
        ctx.require(f"identity:create_{kind}", {})
        role = Role(
            id=ctx.runtime.world.new_hex(),
            name=body.name.strip(),
            domain_id=body.domain_id or "",
            description=body.description,
            options=resource_options({}, body.options),
            extra=extras(ctx, body),
        )
        async with ctx.runtime.store.tx() as tx:
            if role.domain_id:
                await check_domain(tx, role.domain_id)
            role = await ROLES.insert(tx, role)
            await auth.revise(tx, REVISION)
            await changed(tx, "role", role.id, "created")
        return {"role": view(ctx, role)}

    @operation("GET", "/roles/{role_id}", AUTHENTICATED)
    async def show(self, ctx: Context, role_id: str) -> dict[str, Any]:
        return {"role": view(ctx, await self._role(ctx, "get", role_id))}

    @operation("PATCH", "/roles/{role_id}", AUTHENTICATED)
    async def update(self, ctx: Context, role_id: str, body: UpdateRole) -> dict[str, Any]:
        role = await self._role(ctx, "update", role_id)
        refuse_immutable("role", role.id, role.options, ctx.document["role"])
        changes = tidied(changes_of(ctx, role, body))
        if "options" in changes:
            changes["options"] = resource_options(role.options, changes["options"])
        async with ctx.runtime.store.tx() as tx:
            role = await ROLES.change(tx, role, **changes)
            await revise(tx)
            await changed(tx, "role", role.id, "updated")
        return {"role": view(ctx, role)}

    @operation("DELETE", "/roles/{role_id}", AUTHENTICATED)
    async def delete(self, ctx: Context, role_id: str) -> None:
        role = await self._role(ctx, "delete", role_id)
        refuse_immutable("role", role.id, role.options)
        async with ctx.runtime.store.tx() as tx:
            await _remove(ctx, tx, role)

"""Users: https://docs.openstack.org/api-ref/identity/v3/#users"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from msgspec import UNSET, Meta, UnsetType

from pileus.kernel import auth
from pileus.kernel.faults import Forbidden, Invalid, NotFound, Unauthenticated
from pileus.kernel.query import Filter
from pileus.kernel.resources import PUBLIC, Context, operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Column, Record, Tx, Unique

from .passwords import LONGEST, PASSWORDS
from .revocations import revoke
from .tree import PROJECTS
from .wire import (
    AUTHENTICATED,
    NAME,
    Id,
    Name,
    Noun,
    NounBody,
    NounTable,
    changed,
    extras,
    home_domain,
    linked,
    listed,
    listing,
    merged,
    own_domain,
    page,
    removed,
    same_id,
)


class User(Record, kw_only=True, frozen=True):
    """`password_hash` "" means no password fits."""

    name: str
    domain_id: str
    enabled: bool = True
    password_hash: str = ""
    password_at: str = ""
    default_project_id: str = ""
    options: dict[str, Any] = {}
    extra: dict[str, Any] = {}


def _taken(user: User) -> str:
    return (
        "Conflict occurred attempting to store user - Duplicate entry found with name "
        f"{user.name} at domain ID {user.domain_id}."
    )


USERS = NounTable(
    "identity_users",
    User,
    columns=(
        "domain_id",
        "enabled",
        "default_project_id",
        Column("name_key", lambda u: u.name.lower()),
    ),
    unique=(Unique(("domain_id", "name_key"), _taken),),
    indexes=(("default_project_id",), ("domain_id", "created_at", "id"), ("created_at", "id")),
    noun="user",
)

Password = Annotated[str, Meta(min_length=1, max_length=LONGEST)]
_BOOLEANS = frozenset(
    {
        "ignore_change_password_upon_first_use",
        "ignore_password_expiry",
        "ignore_lockout_failure_attempts",
        "ignore_user_inactivity",
        "lock_password",
        "multi_factor_auth_enabled",
    }
)
RULES = "multi_factor_auth_rules"
_WRITE = "(rule:admin_required) or (role:manager and token.domain.id:%(target.user.domain_id)s)"


class CreateUser(NounBody, kw_only=True):
    root: ClassVar[str] = "user"
    name: Name
    password: Password | None = None
    domain_id: Id | None = None
    enabled: bool = True
    default_project_id: str | None = None
    options: dict[str, Any] = {}


class UpdateUser(NounBody, kw_only=True):
    root: ClassVar[str] = "user"
    name: Name | UnsetType = UNSET
    password: Password | UnsetType | None = UNSET
    domain_id: Id | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    default_project_id: str | UnsetType | None = UNSET
    options: dict[str, Any] | UnsetType = UNSET


class ChangePassword(Body, kw_only=True):
    root: ClassVar[str] = "user"
    password: Password
    original_password: str


def view(ctx: Context, u: User) -> dict[str, Any]:
    shown = {
        **u.extra,
        "id": u.id,
        "name": u.name,
        "domain_id": u.domain_id,
        "enabled": u.enabled,
        "options": u.options,
        "password_expires_at": None,
    }
    if u.default_project_id:
        shown["default_project_id"] = u.default_project_id
    return linked(ctx, "users", shown)


def target_of(u: User) -> dict[str, object]:
    return {"user_id": u.id, "target.user.id": u.id, "target.user.domain_id": u.domain_id}


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Raises Invalid for an option that is not known or not of its type."""
    for name, value in options.items():
        if name in _BOOLEANS:
            good = value is None or isinstance(value, bool)
        elif name == RULES:
            good = value is None or _are_rules(value)
        else:
            raise Invalid(f"Invalid input for field 'options': there is no option {name[:64]!r}.")
        if not good:
            raise Invalid(
                f"Invalid input for field 'options/{name}': {value!r} is not of its type."
            )
    return dict(options)


def _are_rules(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(rule, list) and rule and all(isinstance(m, str) for m in rule) for rule in value
    )


async def _with_domain(ctx: Context, tx: Tx, domain_id: str) -> None:
    for user in await USERS.all(tx, domain_id=domain_id):
        await removed(ctx, tx, "user", user.id)
        await USERS.delete(tx, user)


async def _with_project(ctx: Context, tx: Tx, project_id: str) -> None:
    for user in await USERS.all(tx, default_project_id=project_id):
        await USERS.change(tx, user, default_project_id="")


class Users(Noun[User]):
    table = USERS
    id_param = "user_id"
    follows = {"domain": _with_domain, "project": _with_project}
    rules = {
        "identity:get_user": (
            "(rule:admin_required) or (role:reader and system_scope:all) or (role:reader and "
            "token.domain.id:%(target.user.domain_id)s) or user_id:%(target.user.id)s"
        ),
        "identity:list_users": (
            "(rule:admin_required) or (role:reader and system_scope:all) or "
            "(role:reader and domain_id:%(target.domain_id)s)"
        ),
        "identity:create_user": _WRITE,
        "identity:update_user": _WRITE,
        "identity:delete_user": _WRITE,
        "identity:revoke_tokens_for_user": "rule:admin_or_owner",
    }
    listing = listing({"name": NAME, "domain_id": Filter(), "enabled": Filter(kind=bool)})

    def target(self, ctx: Context, record: User) -> Mapping[str, object]:
        return target_of(record)

    def scope_target(self, ctx: Context, params: Mapping[str, str]) -> Mapping[str, object]:
        if not params and ctx.caller.domain_id:
            return {"target.domain_id": ctx.caller.domain_id}
        return dict(params)

    @operation("GET", "/users", "identity:list_users")
    async def index(self, ctx: Context) -> dict[str, Any]:
        asked = page(self.listing, ctx.query, **own_domain(ctx))
        found = await USERS.list(ctx.runtime.store, asked)
        return listed(ctx, "users", [view(ctx, u) for u in found], asked)

    @operation("POST", "/users", AUTHENTICATED, status=201)
    async def create(self, ctx: Context, body: CreateUser) -> dict[str, Any]:
        domain_id = home_domain(ctx, body.domain_id)
        ctx.require("identity:create_user", {"target.user.domain_id": domain_id})
        hashed = ""
        if body.password is not None:
            hashed = await ctx.peer(PASSWORDS).hashed(body.password)
        user = User(
            id=ctx.runtime.world.new_hex(),
            name=body.name.strip(),
            domain_id=domain_id,
            enabled=body.enabled,
            password_hash=hashed,
            password_at=ctx.runtime.world.clock.now() if hashed else "",
            default_project_id=body.default_project_id or "",
            options=merged({}, checked_options(body.options)),
            extra=extras(ctx, body),
        )
        async with ctx.runtime.store.tx() as tx:
            await check_domain(tx, domain_id)
            user = await USERS.insert(tx, user)
            await changed(tx, "user", user.id, "created")
        return {"user": view(ctx, user)}

    @operation("GET", "/users/{user_id}", "identity:get_user")
    async def show(self, ctx: Context, user: User) -> dict[str, Any]:
        return {"user": view(ctx, user)}

    @operation("PATCH", "/users/{user_id}", "identity:update_user")
    async def update(self, ctx: Context, user: User, body: UpdateUser) -> dict[str, Any]:
        same_id(ctx, "user", user.id)
        changes = body.given()
        if changes.pop("domain_id", user.domain_id) != user.domain_id:
            raise Invalid("Cannot change Domain ID")
        if "name" in changes:
            changes["name"] = changes["name"].strip()
        if "default_project_id" in changes:
            changes["default_project_id"] = changes["default_project_id"] or ""
        if "options" in changes:
            changes["options"] = merged(user.options, checked_options(changes["options"]))
        if (password := changes.pop("password", None)) is not None:
            changes |= await self._password(ctx, password)
        changes["extra"] = {**user.extra, **extras(ctx, body)}
        async with ctx.runtime.store.tx() as tx:
            new = await USERS.change(tx, user, **changes)
            await changed(tx, "user", new.id, "updated")
            if password is not None or (user.enabled and not new.enabled):
                await revoke(tx, "user", new.id)
            if user.enabled and not new.enabled:
                await changed(tx, "user", new.id, "disabled")
            await auth.revise(tx, "auth")
        return {"user": view(ctx, new)}

    async def _password(self, ctx: Context, password: str) -> dict[str, Any]:
        hashed = await ctx.peer(PASSWORDS).hashed(password)
        return {"password_hash": hashed, "password_at": ctx.runtime.world.clock.now()}

    @operation("DELETE", "/users/{user_id}", "identity:delete_user")
    async def delete(self, ctx: Context, user: User) -> None:
        async with ctx.runtime.store.tx() as tx:
            await removed(ctx, tx, "user", user.id)
            await USERS.delete(tx, user)

    @operation("DELETE", "/users/{user_id}/tokens", "identity:revoke_tokens_for_user")
    async def revoke_tokens(self, ctx: Context, user: User) -> None:
        async with ctx.runtime.store.tx() as tx:
            await revoke(tx, "user", user.id)

    @operation("POST", "/users/{user_id}/password", PUBLIC, status=204)
    async def change_password(self, ctx: Context, user_id: str, body: ChangePassword) -> None:
        """Whoever knows the password may change it: no token is asked for, as the old one may have expired."""
        user = await USERS.find(ctx.runtime.store, user_id)
        known = user.password_hash if user is not None and user.enabled else ""
        if not await ctx.peer(PASSWORDS).fits(known, body.original_password) or user is None:
            raise Unauthenticated(internal=f"password change of user {user_id} refused")
        if user.options.get("lock_password"):
            raise Forbidden("The password is locked: an administrator may change it.")
        if body.password == body.original_password:
            raise Invalid("The new password cannot be identical to a previous password.")
        changes = await self._password(ctx, body.password)
        async with ctx.runtime.store.tx() as tx:
            await USERS.change(tx, user, **changes)
            await changed(tx, "user", user.id, "updated")
            await revoke(tx, "user", user.id)


async def check_domain(tx: Tx, domain_id: str) -> None:
    """The domain of a new user or group must be there. Raises NotFound."""
    domain = await PROJECTS.find(tx, domain_id)
    if domain is None or not domain.is_domain:
        raise NotFound(f"Could not find domain: {domain_id}.")

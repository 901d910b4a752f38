"""Users: https://docs.openstack.org/api-ref/identity/v3/#users"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from msgspec import UNSET, Meta, UnsetType, structs

from pileus.kernel import auth
from pileus.kernel.faults import Invalid, NotFound
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Column, Many, Match, Page, Record, Tx, Unique
from pileus.kernel.world import seconds_of, stamp

from . import settings, vouchers
from .directory_domains import DIRECTORIES, limited, refuse_directory, refuse_entry
from .discreet import Discreet
from .passwords import LONGEST, PASSWORDS
from .revocations import revoke
from .security_compliance import check_strength, is_enabled, replaced, unlocked
from .tree import PROJECTS
from .vouchers import VOUCHING, ProviderRef, Voucher
from .wire import (
    AUTHENTICATED,
    NAME,
    Id,
    Name,
    Noun,
    NounBody,
    NounTable,
    changed,
    changes_of,
    extras,
    home_domain,
    listing,
    merged,
    own_domain,
    page,
    removed,
    rows_listed,
    tidied,
)


class User(Discreet, Record, kw_only=True, frozen=True):
    """`password_hash` "" means no password fits. `entry` is its id in the domain's directory, "" if it stands here."""

    name: str
    domain_id: str
    enabled: bool = True
    password_hash: str = ""
    password_at: str = ""
    password_expires_at: str = ""
    password_is_own: bool = False  # chosen by himself, not by an administrator
    former_hashes: list[str] = []  # oldest first
    failures: int = 0  # wrong passwords in a row, the last at `failed_at`
    failed_at: str = ""
    active_on: str = ""  # the day of his last login
    entry: str = ""
    is_federated: bool = False  # made by an identity provider's word: his name is only shown
    vouchers: list[Voucher] = []
    default_project_id: str = ""
    options: dict[str, Any] = {}
    extra: dict[str, Any] = {}


def _taken(user: User) -> str:
    return (
        "Conflict occurred attempting to store user - Duplicate entry found with name "
        f"{user.name} at domain ID {user.domain_id}."
    )


def _name_key(user: User) -> str:
    """Two whom a provider vouches for may have one name, which finds neither."""
    return f"{user.id}\n{user.name.lower()}" if user.is_federated else user.name.lower()


USERS = NounTable(
    "identity_users",
    User,
    columns=(
        "domain_id",
        "enabled",
        "default_project_id",
        "password_expires_at",
        Column("name_key", _name_key),
    ),
    unique=(Unique(("domain_id", "name_key"), _taken),),
    many=(Many("vouchers", lambda u: vouchers.found_by(u.vouchers)),),
    indexes=(
        ("default_project_id",),
        ("domain_id", "created_at", "id"),
        ("created_at", "id"),
        ("name_key", "id"),
    ),
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


class CreateUser(Discreet, NounBody, kw_only=True):
    root: ClassVar[str] = "user"
    name: Name
    password: Password | None = None
    domain_id: Id | None = None
    enabled: bool = True
    default_project_id: str | None = None
    options: dict[str, Any] = {}
    federated: list[ProviderRef] = []


class UpdateUser(Discreet, NounBody, kw_only=True):
    root: ClassVar[str] = "user"
    name: Name | UnsetType = UNSET
    password: Password | UnsetType | None = UNSET
    domain_id: Id | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    default_project_id: str | UnsetType | None = UNSET
    options: dict[str, Any] | UnsetType = UNSET
    federated: list[ProviderRef] | UnsetType = UNSET


def viewer(ctx: Context) -> Callable[[User], dict[str, Any]]:
    """What shows users: all that is the same for each of a list is looked up once."""
    rules, now = settings.of(ctx.runtime), ctx.runtime.world.clock.now()
    root = f"{ctx.base}/users/"

    def view(u: User) -> dict[str, Any]:
        shown = {
            **u.extra,
            "id": u.id,
            "name": u.name,
            "domain_id": u.domain_id,
            "enabled": is_enabled(u, rules, now),
            "options": u.options,
            "password_expires_at": u.password_expires_at[:-1] or None,
            "links": {"self": root + u.id},
        }
        if u.vouchers:
            shown["federated"] = vouchers.view(u.vouchers)
        if u.default_project_id:
            shown["default_project_id"] = u.default_project_id
        return shown

    return view


def view(ctx: Context, u: User) -> dict[str, Any]:
    return viewer(ctx)(u)


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
    """Lists of methods, none of them empty, and nothing twice."""
    if not isinstance(value, list):
        return False
    for rule in value:
        if not isinstance(rule, list) or not rule or value.count(rule) > 1:
            return False
        if not all(isinstance(m, str) and rule.count(m) == 1 for m in rule):
            return False
    return True


_EXPIRY = {"lt": "lt", "lte": "le", "gt": "gt", "gte": "ge", "eq": "eq", "neq": "ne"}


def asked_users(ctx: Context, **fixed: Any) -> Page:
    """The page of users that a query asks for, `password_expires_at=lt:TIME` included. Raises Invalid."""
    asked = page(Users.listing, ctx.query, **fixed, **own_domain(ctx))
    asked = replace(asked, filters={**asked.filters, **vouchers.asked(ctx.query)})
    text = ctx.query.get("password_expires_at")
    if not text:
        return asked
    operator, colon, time = text.partition(":")
    if not colon or len(operator) > 3:
        operator, time = "eq", text
    if operator not in _EXPIRY:
        raise Invalid(
            f"The given operator {operator} is not valid. It must be one of the following: "
            "'eq', 'neq', 'lt', 'lte', 'gt', or 'gte'."
        )
    try:
        at = stamp(seconds_of(time))
    except ValueError:
        raise Invalid(
            f"Timestamp not in expected format: {time[:64]!r}; it must be as 2016-12-08T22:02:00Z."
        ) from None
    filters = {**asked.filters, "password_expires_at": Match(_EXPIRY[operator], at)}
    has_one = {"password_expires_at": Match("ne", "")}  # a password for ever is none of these
    return replace(asked, filters=filters, scopes=(has_one,))


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
    listed_as = "target.domain_id"
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

    @operation("GET", "/users", "identity:list_users")
    async def index(self, ctx: Context) -> dict[str, Any]:
        domain_id = own_domain(ctx).get("domain_id") or ctx.query.get("domain_id")
        await ctx.peer(DIRECTORIES).look(domain_id, user=ctx.query.get("name"))
        asked = await limited(ctx, asked_users(ctx), domain_id)
        return await rows_listed(ctx, "users", USERS, asked, viewer(ctx))

    @operation("POST", "/users", AUTHENTICATED, status=201)
    async def create(self, ctx: Context, body: CreateUser) -> dict[str, Any]:
        domain_id = home_domain(ctx, body.domain_id)
        ctx.require("identity:create_user", {"target.user.domain_id": domain_id})
        await refuse_directory(ctx, domain_id)
        options = merged({}, checked_options(body.options))
        user = User(
            id=ctx.runtime.world.new_hex(),
            name=body.name.strip(),
            domain_id=domain_id,
            enabled=body.enabled,
            default_project_id=body.default_project_id or "",
            options=options,
            extra=extras(ctx, body),
            **await self._password(ctx, None, body.password, options),
        )
        async with ctx.runtime.store.tx() as tx:
            await check_domain(tx, domain_id)
            await _check_project(tx, user.default_project_id)
            user = structs.replace(user, **await _vouched(ctx, tx, user, body.federated))
            user = await USERS.insert(tx, user)
            await changed(tx, "user", user.id, "created")
        return {"user": view(ctx, user)}

    @operation("GET", "/users/{user_id}", "identity:get_user")
    async def show(self, ctx: Context, user: User) -> dict[str, Any]:
        return {"user": view(ctx, user)}

    @operation("PATCH", "/users/{user_id}", "identity:update_user")
    async def update(self, ctx: Context, user: User, body: UpdateUser) -> dict[str, Any]:
        refuse_entry(user.entry)
        changes = tidied(changes_of(ctx, user, body), "default_project_id")
        federated = changes.pop("federated", [])
        if "options" in changes:
            changes["options"] = merged(user.options, checked_options(changes["options"]))
        if "password" in changes:
            options = changes.get("options", user.options)
            changes |= await self._password(ctx, user, changes.pop("password"), options)
        if changes.get("enabled"):
            changes |= unlocked(settings.of(ctx.runtime), ctx.runtime.world.clock.now())
        async with ctx.runtime.store.tx() as tx:
            await _check_project(tx, changes.get("default_project_id", ""))
            changes |= await _vouched(ctx, tx, user, federated)
            new = await USERS.change(tx, user, **changes)
            await changed(tx, "user", new.id, "updated")
            if "password_hash" in changes or (user.enabled and not new.enabled):
                await revoke(tx, "user", new.id)
            if user.enabled and not new.enabled:
                await changed(tx, "user", new.id, "disabled")
            await auth.revise(tx, "auth")
        return {"user": view(ctx, new)}

    async def _password(
        self, ctx: Context, user: User | None, password: str | None, options: dict[str, Any]
    ) -> dict[str, Any]:
        """The fields of a user who is given that password, or (None) can have none. Raises Invalid."""
        rules, hashed = settings.of(ctx.runtime), ""
        if password is not None:
            check_strength(rules, password)
            hashed = await ctx.peer(PASSWORDS).hashed(password)
        return replaced(rules, user, hashed, options, ctx.runtime.world.clock.now(), own=False)

    @operation("DELETE", "/users/{user_id}", "identity:delete_user")
    async def delete(self, ctx: Context, user: User) -> None:
        refuse_entry(user.entry)
        async with ctx.runtime.store.tx() as tx:
            await removed(ctx, tx, "user", user.id)
            await USERS.delete(tx, user)

    @operation("DELETE", "/users/{user_id}/tokens", "identity:revoke_tokens_for_user")
    async def revoke_tokens(self, ctx: Context, user: User) -> None:
        async with ctx.runtime.store.tx() as tx:
            await revoke(tx, "user", user.id)


async def _check_project(tx: Tx, project_id: str) -> None:
    """A default project need not be there, but a domain is none. Raises Invalid."""
    project = await PROJECTS.find(tx, project_id) if project_id else None
    if project is not None and project.is_domain:
        raise Invalid(f"User's default project ID cannot be a domain ID: {project_id}")


async def _vouched(
    ctx: Context, tx: Tx, user: User, federated: Sequence[ProviderRef]
) -> dict[str, Any]:
    """The vouchers of a user for whom some are named. Raises Invalid, Forbidden, Conflict."""
    if not federated:
        return {}
    found = vouchers.vouchers_of(federated)
    await ctx.peer(VOUCHING).check(ctx, tx, user.id, user.domain_id, found)
    return {"vouchers": found}


async def check_domain(tx: Tx, domain_id: str) -> None:
    """The domain of a new user or group must be there. Raises NotFound."""
    domain = await PROJECTS.find(tx, domain_id)
    if domain is None or not domain.is_domain:
        raise NotFound(f"Could not find domain: {domain_id}.")

"""Users: https://docs.openstack.org/api-ref/identity/v3/#users"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from msgspec import UNSET, Meta, structs

from pileus.kernel import auth
from pileus.kernel.faults import Invalid
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Column, Many, Match, Page, Tx, Unique
from pileus.kernel.world import seconds_of, stamp

from . import settings, vouchers
from .directory_domains import Entries, Entry, taken
from .kept import ANY_SCOPE, changing
from .passwords import LONGEST, PASSWORDS
from .revocations import revoke
from .security_compliance import check_strength, is_enabled, replaced, unlocked
from .tree import PROJECTS
from .vouchers import VOUCHING, ProviderRef, Voucher
from .wire import NAME, READERS, Discreet, Id, Name, NounBody, NounTable, changed, listing, merged


class User(Discreet, Entry, kw_only=True, frozen=True):
    """`password_hash` "" means no password fits."""

    enabled: bool = True
    password_hash: str = ""
    password_at: str = ""
    password_expires_at: str = ""
    password_is_own: bool = False  # chosen by himself, not by an administrator
    former_hashes: list[str] = []  # oldest first
    failures: int = 0  # wrong passwords in a row, the last at `failed_at`
    failed_at: str = ""
    active_on: str = ""  # the day of his last login
    is_federated: bool = False  # made by an identity provider's word: his name is only shown
    vouchers: list[Voucher] = []
    default_project_id: str = ""
    options: dict[str, Any] = {}
    extra: dict[str, Any] = {}


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
    unique=(Unique(("domain_id", "name_key"), taken),),
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


async def _with_project(ctx: Context, tx: Tx, project_id: str) -> None:
    for user in await USERS.all(tx, default_project_id=project_id):
        await USERS.change(tx, user, default_project_id="")


class Users(Entries[User]):
    table = USERS
    path = "users"
    id_param = "user_id"
    creates, updates = CreateUser, changing(CreateUser)
    listed_as = "target.domain_id"
    follows = {"project": _with_project}
    rules = {
        "identity:get_user": (
            f"{READERS} or (role:reader and token.domain.id:%(target.user.domain_id)s) or "
            "user_id:%(target.user.id)s"
        ),
        "identity:list_users": f"{READERS} or (role:reader and domain_id:%(target.domain_id)s)",
        "identity:create_user": _WRITE,
        "identity:update_user": _WRITE,
        "identity:delete_user": _WRITE,
        "identity:revoke_tokens_for_user": "rule:admin_or_owner",
    }
    scopes = dict.fromkeys(rules, ANY_SCOPE)
    listing = listing({"name": NAME, "domain_id": Filter(), "enabled": Filter(kind=bool)})

    def target(self, ctx: Context, record: User) -> Mapping[str, object]:
        return target_of(record)

    def sought(self, ctx: Context) -> str:
        return ctx.query.get("name")

    @classmethod
    def asked(cls, ctx: Context, **fixed: Any) -> Page:
        """`password_expires_at=lt:TIME` and what vouches for them, too."""
        asked = super().asked(ctx, **fixed)
        asked = replace(asked, filters={**asked.filters, **vouchers.asked(ctx.query)})
        text = ctx.query.get("password_expires_at")
        return _expiring(asked, text) if text else asked

    @classmethod
    def viewer(cls, ctx: Context) -> Callable[[User], dict[str, Any]]:
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

    @classmethod
    def view(cls, ctx: Context, record: User) -> dict[str, Any]:
        return cls.viewer(ctx)(record)

    def options(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
        return merged(old, checked_options(new))

    async def fields(self, ctx: Context, given: dict[str, Any], old: User | None) -> dict[str, Any]:
        federated, password = given.pop("federated", []), given.pop("password", UNSET)
        found = await super().fields(ctx, given, old)
        if federated:
            found["vouchers"] = vouchers.vouchers_of(federated)
        rules, now = settings.of(ctx.runtime), ctx.runtime.world.clock.now()
        if password is not UNSET:
            options, hashed = found.get("options", old.options if old else {}), ""
            if password is not None:
                check_strength(rules, password)
                hashed = await ctx.peer(PASSWORDS).hashed(password)
            found |= replaced(rules, old, hashed, options, now, own=False)
        if old is not None and found.get("enabled"):
            found |= unlocked(rules, now)
        return found

    async def check(self, ctx: Context, tx: Tx, new: User, old: User | None) -> None:
        """Raises NotFound, Invalid, Forbidden, Conflict."""
        await super().check(ctx, tx, new, old)
        known = old or structs.replace(new, default_project_id="", vouchers=[])
        if new.default_project_id != known.default_project_id:
            await _check_project(tx, new.default_project_id)
        if new.vouchers != known.vouchers:
            peer = ctx.peer(VOUCHING)
            await peer.check(ctx, tx, new.id, new.domain_id, new.vouchers)
        ends = known.enabled and not new.enabled
        if ends or new.password_hash != known.password_hash:
            await revoke(tx, "user", new.id)
        if ends:
            await changed(tx, "user", new.id, "disabled")
        if old is not None:
            await auth.revise(tx, "auth")

    @operation("DELETE", "/users/{user_id}/tokens", "identity:revoke_tokens_for_user")
    async def revoke_tokens(self, ctx: Context, user: User) -> None:
        async with ctx.runtime.store.tx() as tx:
            await revoke(tx, "user", user.id)


_EXPIRY = {"lt": "lt", "lte": "le", "gt": "gt", "gte": "ge", "eq": "eq", "neq": "ne"}


def _expiring(asked: Page, text: str) -> Page:
    """The page of those whose password ends at a time, before or after it. Raises Invalid."""
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


async def _check_project(tx: Tx, project_id: str) -> None:
    """A default project need not be there, but a domain is none. Raises Invalid."""
    project = await PROJECTS.find(tx, project_id) if project_id else None
    if project is not None and project.is_domain:
        raise Invalid(f"User's default project ID cannot be a domain ID: {project_id}")

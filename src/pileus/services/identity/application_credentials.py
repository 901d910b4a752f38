"""Application credentials: https://docs.openstack.org/api-ref/identity/v3/#application-credentials"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from pileus.kernel import auth
from pileus.kernel.faults import Forbidden, Invalid
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Record, Unique

from . import access_rule
from .access_rule import AccessRule, AskedRule, kept
from .claims import forbid_delegated, future, opened
from .kept import owned, shown
from .passwords import LONGEST, PASSWORDS
from .roles import Role, RoleBook, RoleRef, role_id, roles_of
from .users import USERS
from .wire import READERS, Discreet, Name, Noun, NounTable, changed, linked, listed, listing, page


class ApplicationCredential(Discreet, Record, kw_only=True, frozen=True):
    """Narrows its user to one project and some of the roles held there. `expires_at` "" means never."""

    user_id: str
    project_id: str
    name: str
    description: str | None = None
    secret_hash: str = ""
    role_ids: list[str] = []
    unrestricted: bool = False
    expires_at: str = ""
    access_rules: list[AccessRule] = []  # none: its roles alone say what it may

    @property
    def bounds(self) -> dict[str, str]:
        """What it writes into a token."""
        scope = {"scope": "project", "scope_id": self.project_id}
        return {"application_credential_id": self.id, **scope}


def _taken(c: ApplicationCredential) -> str:
    return (
        "Conflict occurred attempting to store application_credential - "
        f"Duplicate entry found with name {c.name}."
    )


APPLICATION_CREDENTIALS = NounTable(
    "identity_application_credentials",
    ApplicationCredential,
    columns=("user_id", "project_id", "name"),
    unique=(Unique(("user_id", "name"), _taken),),
    indexes=(("project_id",),),
    noun="Application Credential",
)


class CreateApplicationCredential(Discreet, Body, kw_only=True):
    root: ClassVar[str] = "application_credential"
    name: Name
    description: str | None = None
    secret: Annotated[str, Meta(max_length=LONGEST)] | None = None
    expires_at: str | None = None
    roles: list[RoleRef] = []
    unrestricted: bool | None = False
    access_rules: list[AskedRule] = []
    id: str | None = None  # these three are allowed for, and not heeded
    project_id: str | None = None
    system: str | None = None


_OWNER = f"{READERS} or rule:owner"
_MANY = "/users/{user_id}/application_credentials"
_ONE = _MANY + "/{application_credential_id}"


class ApplicationCredentials(Noun[ApplicationCredential]):
    table = APPLICATION_CREDENTIALS
    id_param = "application_credential_id"
    follows = owned(APPLICATION_CREDENTIALS)
    rules = {
        "identity:get_application_credential": _OWNER,
        "identity:list_application_credentials": _OWNER,
        "identity:create_application_credential": "user_id:%(user_id)s",
        "identity:delete_application_credential": "rule:admin_or_owner",
    }
    scopes = {
        **dict.fromkeys(rules, ("system", "project")),
        "identity:create_application_credential": ("project",),
    }
    listing = listing({"name": Filter()})

    def target(self, ctx: Context, record: ApplicationCredential) -> Mapping[str, object]:
        return {"user_id": record.user_id}  # the owner's, whatever the path says

    @operation("GET", _MANY, "identity:list_application_credentials")
    async def index(self, ctx: Context, user_id: str) -> dict[str, Any]:
        await _check_caller(ctx, changes=False)
        store = ctx.runtime.store
        await USERS.get(store, user_id)
        asked = page(self.listing, ctx.query, user_id=user_id)
        found = await APPLICATION_CREDENTIALS.list(store, asked)
        views = [await self._view(ctx, c) for c in found]
        return listed(ctx, "application_credentials", views, asked)

    @operation("POST", _MANY, "identity:create_application_credential", status=201)
    async def create(
        self, ctx: Context, user_id: str, body: CreateApplicationCredential
    ) -> dict[str, Any]:
        used = await _check_caller(ctx, changes=True)
        if not ctx.caller.project_id:
            raise Forbidden("An application credential is made with a project-scoped token.")
        roles = await _chosen(ctx, body.roles)
        secret = body.secret or base64.urlsafe_b64encode(
            ctx.runtime.world.random.randbytes(64)
        ).decode().rstrip("=")
        credential = ApplicationCredential(
            id=ctx.runtime.world.new_hex(),
            user_id=user_id,
            project_id=ctx.caller.project_id,
            name=body.name,
            description=body.description,
            secret_hash=await ctx.peer(PASSWORDS).hashed(secret),
            role_ids=[r.id for r in roles],
            unrestricted=bool(body.unrestricted),
            expires_at=future(ctx, body.expires_at),
        )
        async with ctx.runtime.store.tx() as tx:
            rules = await kept(ctx, tx, user_id, body.access_rules)
            _check_no_wider(used, rules)
            credential = msgspec.structs.replace(credential, access_rules=rules)
            credential = await APPLICATION_CREDENTIALS.insert(tx, credential)
            await changed(tx, "application_credential", credential.id, "created")
        view = await self._view(ctx, credential)
        return {"application_credential": {**view, "secret": secret}}

    @operation("GET", _ONE, "identity:get_application_credential")
    async def show(
        self, ctx: Context, user_id: str, credential: ApplicationCredential
    ) -> dict[str, Any]:
        await _check_caller(ctx, changes=False)
        _check_owner(credential, user_id)
        return {"application_credential": await self._view(ctx, credential)}

    @operation("DELETE", _ONE, "identity:delete_application_credential")
    async def delete(self, ctx: Context, user_id: str, credential: ApplicationCredential) -> None:
        await _check_caller(ctx, changes=True)
        _check_owner(credential, user_id)
        async with ctx.runtime.store.tx() as tx:
            await APPLICATION_CREDENTIALS.delete(tx, credential)
            await auth.revise(tx, "auth")
            await changed(tx, "application_credential", credential.id, "deleted")

    async def _view(self, ctx: Context, c: ApplicationCredential) -> dict[str, Any]:
        view = {
            **shown(c, "secret_hash", "role_ids", "access_rules"),
            "system": None,
            "roles": [shown(r, "extra") for r in await roles_of(ctx.runtime.store, c.role_ids)],
            "expires_at": c.expires_at[:-1] or None,
        }
        if c.access_rules:
            view["access_rules"] = [access_rule.view(rule) for rule in c.access_rules]
        return linked(ctx, f"users/{c.user_id}/application_credentials", view)


def _check_owner(credential: ApplicationCredential, user_id: str) -> None:
    if credential.user_id != user_id:
        raise APPLICATION_CREDENTIALS.missing(credential.id)


def _check_no_wider(used: ApplicationCredential | None, rules: list[AccessRule]) -> None:
    """What access rules narrow makes nothing that they do not. Raises Forbidden."""
    if used is None or not used.access_rules:
        return
    allowed = {rule.id for rule in used.access_rules}
    if not rules or any(rule.id not in allowed for rule in rules):
        raise Forbidden(
            "You are not authorized to perform the requested action: an application credential "
            "that has access rules makes others with those rules, or some of them, only."
        )


async def _check_caller(ctx: Context, *, changes: bool) -> ApplicationCredential | None:
    """Tokens by trust have no business here; those by an application credential only if it is unrestricted.

    The credential by which the caller changes something, if by one. Raises Forbidden.
    """
    await forbid_delegated(ctx, "manage application credentials", unrestricted_credential=True)
    claims = await opened(ctx.runtime, ctx.caller.token)
    if not changes or claims is None or not claims.application_credential_id:
        return None
    used = await APPLICATION_CREDENTIALS.find(ctx.runtime.store, claims.application_credential_id)
    if used is None or not used.unrestricted:
        raise Forbidden(
            "You are not authorized to perform the requested action: Using method "
            "'application_credential' is not allowed for managing additional application "
            "credentials."
        )
    return used


async def _chosen(ctx: Context, asked: list[RoleRef]) -> list[Role]:
    """The roles named and those they imply, or all of the token's. Raises Invalid for one that it has not."""
    store, mine = ctx.runtime.store, ctx.caller.roles
    book = await RoleBook().read(store)
    if not asked:
        held = [r for r in book.roles.values() if not r.domain_id and r.name.lower() in mine]
        return sorted(held, key=lambda r: (r.name, r.id))
    ids = [await role_id(store, ref) for ref in asked]
    roles = book.closure(ids)
    if any(book.roles[i].domain_id for i in ids) or any(r.name.lower() not in mine for r in roles):
        raise Invalid(
            "Invalid application credential: Cannot create an application credential with "
            "unassigned role"
        )
    return roles

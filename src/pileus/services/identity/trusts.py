"""Trusts: https://docs.openstack.org/api-ref/identity/v3-ext/#os-trust-api"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from pileus.kernel import auth
from pileus.kernel.faults import Forbidden
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Tx

from .assignments import held_on
from .claims import forbid_delegated, future, opened
from .kept import shown
from .roles import ROLES, RoleBook, RoleRef, role_id, roles_of
from .roles import view as role_view
from .tree import PROJECTS
from .trust import TRUSTS, Trust, ancestors, checked_count, pass_on
from .users import USERS
from .wire import (
    ADMIN_OR_SYSTEM_READER,
    AUTHENTICATED,
    Noun,
    changed,
    drop_all,
    dropping,
    linked,
    listed,
    listing,
    page,
    rows_listed,
)

_READ = (
    "(rule:admin_required) or (role:reader and system_scope:all or "
    "user_id:%(target.trust.trustor_user_id)s or user_id:%(target.trust.trustee_user_id)s)"
)


class CreateTrust(Body, kw_only=True):
    root: ClassVar[str] = "trust"
    trustor_user_id: str
    trustee_user_id: str
    impersonation: bool
    project_id: str | None = None
    roles: list[RoleRef] = []
    expires_at: str | None = None
    remaining_uses: Annotated[int, Meta(ge=1)] | None = None
    allow_redelegation: bool = False
    redelegation_count: Annotated[int, Meta(ge=0)] | None = None


async def _with_user(ctx: Context, tx: Tx, id: str) -> None:
    await drop_all(tx, TRUSTS, trustor_user_id=id)
    await drop_all(tx, TRUSTS, trustee_user_id=id)


def view(ctx: Context, t: Trust) -> dict[str, Any]:
    """Without roles, as lists show it."""
    view = {
        **shown(t, "role_ids"),
        "expires_at": t.expires_at or None,
        "remaining_uses": t.remaining_uses if t.remaining_uses >= 0 else None,
        "deleted_at": None,
    }
    return linked(ctx, "OS-TRUST/trusts", view)


class Trusts(Noun[Trust]):
    """A trust that isn't there is a 404 for everybody, as upstream."""

    table = TRUSTS
    id_param = "trust_id"
    follows = {"user": _with_user, "project": dropping(TRUSTS, "project_id")}
    rules = {
        "identity:create_trust": "user_id:%(target.trust.trustor_user_id)s",
        "identity:list_trusts": ADMIN_OR_SYSTEM_READER,
        **{
            f"identity:list_trusts_for_{who}": (
                "(rule:admin_required) or (role:reader and system_scope:all or "
                f"user_id:%(target.trust.{who}_user_id)s)"
            )
            for who in ("trustor", "trustee")
        },
        "identity:list_roles_for_trust": _READ,
        "identity:get_role_for_trust": _READ,
        "identity:delete_trust": (
            "rule:admin_required or user_id:%(target.trust.trustor_user_id)s"
        ),
        "identity:get_trust": _READ,
    }
    scopes = {
        **{name: ("system", "project") for name in rules},
        "identity:create_trust": ("project",),
    }
    listing = listing()

    def target(self, ctx: Context, record: Trust) -> Mapping[str, object]:
        return {
            "target.trust.trustor_user_id": record.trustor_user_id,
            "target.trust.trustee_user_id": record.trustee_user_id,
        }

    async def _trust(self, ctx: Context, rule: str, id: str) -> Trust:
        trust = await TRUSTS.get(ctx.runtime.store, id)
        if trust.remaining_uses == 0:
            raise TRUSTS.missing(id)
        ctx.require(rule, self.target(ctx, trust))
        await forbid_delegated(ctx, "manage trusts", by_trust=True)
        return trust

    @operation("GET", "/OS-TRUST/trusts", AUTHENTICATED)
    async def index(self, ctx: Context) -> dict[str, Any]:
        rule, fixed = "identity:list_trusts", dict[str, str]()
        for who in ("trustor", "trustee"):
            if not fixed and (user_id := ctx.query.get(f"{who}_user_id")):
                rule, fixed = f"identity:list_trusts_for_{who}", {f"{who}_user_id": user_id}
        ctx.require(rule, {f"target.trust.{name}": id for name, id in fixed.items()})
        await forbid_delegated(ctx, "manage trusts", by_trust=True)
        asked = page(self.listing, ctx.query, **fixed)
        return await rows_listed(ctx, "trusts", TRUSTS, asked, lambda t: view(ctx, t))

    @operation("POST", "/OS-TRUST/trusts", AUTHENTICATED, status=201)
    async def create(self, ctx: Context, body: CreateTrust) -> dict[str, Any]:
        target = {"target.trust.trustor_user_id": body.trustor_user_id}
        ctx.require("identity:create_trust", target)
        await forbid_delegated(ctx, "manage trusts", by_trust=True)
        if body.project_id and not body.roles:
            raise Forbidden(
                "You are not authorized to perform the requested action: At least one role "
                "should be specified."
            )
        await USERS.get(ctx.runtime.store, body.trustee_user_id)
        count, uses = body.redelegation_count, body.remaining_uses
        trust = Trust(
            id=ctx.runtime.world.new_hex(),
            trustor_user_id=body.trustor_user_id,
            trustee_user_id=body.trustee_user_id,
            project_id=body.project_id or "",
            impersonation=body.impersonation,
            role_ids=await _lendable(ctx, body),
            expires_at=future(ctx, body.expires_at),
            remaining_uses=-1 if uses is None else uses,
            redelegation_count=checked_count(body.allow_redelegation, count, uses),
        )
        trust = await _passed_on(ctx, trust, count)
        async with ctx.runtime.store.tx() as tx:
            trust = await TRUSTS.insert(tx, trust)
            await changed(tx, "OS-TRUST:trust", trust.id, "created")
        return {"trust": await _full(ctx, trust)}

    @operation("GET", "/OS-TRUST/trusts/{trust_id}", AUTHENTICATED)
    async def show(self, ctx: Context, trust_id: str) -> dict[str, Any]:
        trust = await self._trust(ctx, "identity:get_trust", trust_id)
        return {"trust": await _full(ctx, trust)}

    @operation("DELETE", "/OS-TRUST/trusts/{trust_id}", AUTHENTICATED)
    async def delete(self, ctx: Context, trust_id: str) -> None:
        trust = await self._trust(ctx, "identity:delete_trust", trust_id)
        await _check_own(ctx, trust)
        async with ctx.runtime.store.tx() as tx:
            await _delete(tx, trust)
            await auth.revise(tx, "auth")

    @operation("GET", "/OS-TRUST/trusts/{trust_id}/roles", AUTHENTICATED)
    async def roles(self, ctx: Context, trust_id: str) -> dict[str, Any]:
        trust = await self._trust(ctx, "identity:list_roles_for_trust", trust_id)
        return listed(ctx, "roles", await _roles(ctx, trust))

    @operation("GET", "/OS-TRUST/trusts/{trust_id}/roles/{role_id}", AUTHENTICATED)
    async def role(self, ctx: Context, trust_id: str, role_id: str) -> dict[str, Any]:
        trust = await self._trust(ctx, "identity:get_role_for_trust", trust_id)
        for role in await _roles(ctx, trust):
            if role["id"] == role_id:
                return {"role": role}
        raise ROLES.missing(role_id)


async def _check_own(ctx: Context, trust: Trust) -> None:
    """A trust may be given back by who uses it, and what he passed on taken back; no other. Raises Forbidden."""
    claims = await opened(ctx.runtime, ctx.caller.token)
    if claims is None or not claims.trust_id:
        return
    above = await ancestors(ctx.runtime.store, trust) or []
    if claims.trust_id not in (trust.id, *(t.id for t in above)):
        raise Forbidden(
            "You are not authorized to perform the requested action: with a token by a trust, "
            f"only that trust and what it was passed on as can be deleted; {trust.id} is another."
        )


async def _delete(tx: Tx, trust: Trust) -> None:
    """With all that it was passed on as."""
    for child in await TRUSTS.all(tx, redelegated_trust_id=trust.id):
        await _delete(tx, child)
    await TRUSTS.delete(tx, trust)
    await changed(tx, "OS-TRUST:trust", trust.id, "deleted")


async def _passed_on(ctx: Context, trust: Trust, asked: int | None) -> Trust:
    """The trust as it may be where the caller himself has only a trust. Raises Forbidden."""
    claims = await opened(ctx.runtime, ctx.caller.token)
    if claims is None or not claims.trust_id:
        return trust
    store = ctx.runtime.store
    parent = await TRUSTS.get(store, claims.trust_id)
    if await ancestors(store, parent) is None:
        raise Forbidden("One of the trust agents is disabled or deleted")
    book = await RoleBook().read(store)
    lent = {role.id for role in book.closure(parent.role_ids)}
    return pass_on(parent, trust, asked, lent)


async def _lendable(ctx: Context, body: CreateTrust) -> list[str]:
    """The roles to lend, if the trustor holds them there himself. Raises NotFound."""
    store = ctx.runtime.store
    ids = [await role_id(store, ref) for ref in body.roles]
    if not body.project_id:
        return []
    project = await PROJECTS.get(store, body.project_id)
    book = await RoleBook().read(store)
    held = {r.id for r in book.closure(await held_on(store, body.trustor_user_id, project))}
    for id in ids:
        if id not in held:
            raise ROLES.missing(id)
    return ids


async def _roles(ctx: Context, trust: Trust) -> list[dict[str, Any]]:
    return [role_view(ctx, r) for r in await roles_of(ctx.runtime.store, trust.role_ids)]


async def _full(ctx: Context, trust: Trust) -> dict[str, Any]:
    itself = f"{ctx.base}/OS-TRUST/trusts/{trust.id}/roles"
    return {
        **view(ctx, trust),
        "roles": await _roles(ctx, trust),
        "roles_links": {"self": itself, "next": None, "previous": None},
    }

"""`/v3/auth/tokens` and the catalog beside it.

A subject token that is worth nothing is a 404 for everybody. Revoking the first token of a chain revokes all that were
got from it; any other token goes alone, as it does upstream.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from pileus.kernel.faults import Forbidden, NotFound
from pileus.kernel.resources import PUBLIC, Answer, Context, operation
from pileus.kernel.store import Record

from . import access_rule
from .auth_request import Authenticate
from .authentication import AUTHENTICATION, Issued
from .revocations import revoke
from .tokens import TOKENS_KEPT
from .wire import ADMIN_OR_SYSTEM_READER, AUTHENTICATED, Noun


class AuthTokens(Noun[Record]):
    rules = {
        "identity:check_token": f"{ADMIN_OR_SYSTEM_READER} or rule:token_subject",
        "identity:validate_token": (
            f"{ADMIN_OR_SYSTEM_READER} or rule:service_role or rule:token_subject"
        ),
        "identity:revoke_token": "rule:admin_required or rule:token_subject",
        "identity:get_auth_catalog": "",
        AUTHENTICATED: "",
    }
    scopes = {AUTHENTICATED: (), "identity:get_auth_catalog": ()}

    @operation("POST", "/auth/tokens", PUBLIC, status=201)
    async def authenticate(self, ctx: Context, body: Authenticate) -> Answer:
        found = await ctx.peer(AUTHENTICATION).authenticate(ctx, body)
        return await answered(ctx, found)

    @operation("GET", "/auth/tokens", AUTHENTICATED)
    async def validate(self, ctx: Context) -> Answer:
        rule = "identity:check_token" if ctx.method == "HEAD" else "identity:validate_token"
        token, tokens = ctx.headers.get("x-subject-token", ""), ctx.peer(TOKENS_KEPT)
        catalog = not ctx.query.has("nocatalog")
        window = tokens.settings.expired_window_s if ctx.query.flag("allow_expired") else 0
        if window:
            standing = await tokens.subject(token, window)
            found = await tokens.show(standing, ctx.root, catalog)
        else:
            found = await tokens.shown(token, ctx.root, catalog)
        ctx.require(rule, _of(found.user_id))
        if found.has_access_rules:
            _check_rules_are_heeded(ctx)
        return Answer(found.body, headers={"x-subject-token": token})

    @operation("DELETE", "/auth/tokens", AUTHENTICATED)
    async def revoke(self, ctx: Context) -> None:
        tokens = ctx.peer(TOKENS_KEPT)
        standing = await tokens.subject(ctx.headers.get("x-subject-token", ""))
        ctx.require("identity:revoke_token", _of(standing.acts_as[0].id))
        audit = standing.claims.audit_ids[0]
        async with ctx.runtime.store.tx() as tx:
            await revoke(tx, "audit", audit)
            if ctx.query.flag("cascade", True):
                await revoke(tx, "chain", audit)

    @operation("GET", "/auth/catalog", "identity:get_auth_catalog")
    async def catalog(self, ctx: Context) -> dict[str, Any]:
        caller = ctx.caller
        if not caller.project_id:
            raise Forbidden("A project-scoped token is required to produce a service catalog.")
        found = await ctx.peer(TOKENS_KEPT).catalog.written(
            ctx.runtime.store, ctx.root, caller.project_id, caller.user_id
        )
        return {"catalog": msgspec.Raw(found), "links": {"self": f"{ctx.base}/auth/catalog"}}


async def answered(ctx: Context, found: Issued | Answer, status: int = 201) -> Answer:
    """The answer that gives somebody his token, or asks him for another factor."""
    if isinstance(found, Answer):
        return found
    catalog = not ctx.query.has("nocatalog")
    body = await ctx.peer(TOKENS_KEPT).written(found.standing, ctx.root, catalog)
    headers = {"x-subject-token": found.token}
    return Answer(body, status=status, headers=headers)


def _check_rules_are_heeded(ctx: Context) -> None:
    """Who does not know access rules gets no token that has some, or he would take it for a wider one. Raises NotFound."""
    known = ctx.headers.get(access_rule.HEADER, "")
    if not re.fullmatch(r"[1-9]\d{0,3}(\.\d{1,4})?", known):
        raise NotFound(
            "Failed to validate token", internal="who validates does not heed access rules"
        )


def _of(user_id: str) -> Mapping[str, object]:
    return {"target.token.user_id": user_id}

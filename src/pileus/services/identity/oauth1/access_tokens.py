"""Access tokens: what a user lends to a consumer. It is asked for (a request token), authorized, and then fetched."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import urlencode

from msgspec import UNSET, UnsetType

from pileus.kernel import auth
from pileus.kernel.faults import Forbidden, Unauthenticated
from pileus.kernel.resources import PUBLIC, Answer, Context, operation
from pileus.kernel.runtime import Runtime
from pileus.kernel.schema import IGNORE, Body, Extra
from pileus.kernel.store import Match, Page, Record, Table, Tx
from pileus.kernel.world import stamp

from .. import settings
from ..assignments import held_on
from ..claims import forbid_delegated, is_past
from ..proof import refused
from ..roles import ROLES, RoleBook, RoleRef, role_id, roles_of
from ..roles import view as role_view
from ..tree import PROJECTS
from ..wire import Discreet, Noun, changed, drop_all, linked, listed, listing, page, rows_listed
from .consumers import CONSUMERS, Consumer, NamelessTable
from .signatures import Signed, check, forget_signatures, signed

_MANY = "/users/{user_id}/OS-OAUTH1/access_tokens"
_ONE = _MANY + "/{access_token_id}"
_FORM = "application/x-www-form-urlencoded"
_LETTERS = "abcdefghkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # none looks like another


class Lent(Discreet, Record, kw_only=True, frozen=True):
    consumer_id: str
    secret: str
    project_id: str
    user_id: str = ""
    role_ids: list[str] = []
    expires_at: str


class RequestToken(Lent, kw_only=True, frozen=True):
    """`verifier` is told to who authorizes it, and by him to the consumer."""

    verifier: str = ""


class AccessToken(Lent, kw_only=True, frozen=True):
    pass


_COLUMNS = ("consumer_id", "user_id", "project_id", "expires_at")
REQUEST_TOKENS = NamelessTable(
    "identity_oauth1_request_tokens",
    RequestToken,
    columns=_COLUMNS,
    indexes=(("consumer_id",), ("project_id",), ("expires_at",)),
    noun="Request token",
)
ACCESS_TOKENS = NamelessTable(
    "identity_oauth1_access_tokens",
    AccessToken,
    columns=_COLUMNS,
    indexes=(("consumer_id",), ("user_id",), ("project_id",)),
    noun="Access token",
)


class Authorize(Body, kw_only=True):
    """Each role is named by its id or its name."""

    unknown: ClassVar[Extra] = IGNORE
    roles: list[RoleRef] | UnsetType = UNSET


def _follow(column: str) -> Any:
    async def drop(ctx: Context, tx: Tx, id: str) -> None:
        await drop_all(tx, REQUEST_TOKENS, **{column: id})
        if await drop_all(tx, ACCESS_TOKENS, **{column: id}):
            await auth.revise(tx, "auth")

    return drop


def view(ctx: Context, t: AccessToken) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": t.id,
        "consumer_id": t.consumer_id,
        "authorizing_user_id": t.user_id,
        "project_id": t.project_id,
        "expires_at": t.expires_at or None,
    }
    shown = linked(ctx, f"users/{t.user_id}/OS-OAUTH1/access_tokens", shown)
    shown["links"]["roles"] = f"{shown['links']['self']}/roles"
    return shown


class AccessTokens(Noun[AccessToken]):
    """An access token of another user is not there."""

    table = ACCESS_TOKENS
    follows: ClassVar[Mapping[str, Any]] = {
        "OS-OAUTH1:consumer": _follow("consumer_id"),
        "user": _follow("user_id"),
        "project": _follow("project_id"),
    }
    rules = {
        name: "rule:admin_required"
        for name in (
            "identity:authorize_request_token",
            "identity:get_access_token",
            "identity:get_access_token_role",
            "identity:list_access_tokens",
            "identity:list_access_token_roles",
            "identity:delete_access_token",
        )
    }
    scopes = {name: ("project",) for name in rules}
    listing = listing()

    # What consumers do, by signed requests

    @operation("POST", "/OS-OAUTH1/request_token", PUBLIC, status=201)
    async def ask(self, ctx: Context) -> Answer:
        given = signed(ctx)
        given.require("oauth_consumer_key")
        project_id = ctx.headers.get("requested-project-id", "")
        Signed({"Requested-Project-Id": project_id}).require("Requested-Project-Id")
        consumer = await _consumer(ctx, given)
        await check(ctx, given, consumer.secret)
        await PROJECTS.get(ctx.runtime.store, project_id)
        life_s = settings.of(ctx.runtime).oauth1_request_token_s
        async with ctx.runtime.store.tx() as tx:
            return await _made(
                ctx, tx, REQUEST_TOKENS, life_s, consumer_id=consumer.id, project_id=project_id
            )

    @operation("POST", "/OS-OAUTH1/access_token", PUBLIC, status=201)
    async def fetch(self, ctx: Context) -> Answer:
        given = signed(ctx)
        given.require("oauth_consumer_key", "oauth_token", "oauth_verifier")
        consumer = await _consumer(ctx, given)
        asked = await REQUEST_TOKENS.find(ctx.runtime.store, given.token_id)
        if (
            asked is None
            or asked.consumer_id != consumer.id
            or is_past(ctx.runtime.world, asked.expires_at)
        ):
            raise refused(f"consumer {consumer.id}: no such request token, or past")
        await check(ctx, given, consumer.secret, asked.secret)
        if not asked.verifier or not hmac.compare_digest(
            asked.verifier.encode(), given.verifier.encode()
        ):
            raise refused(f"request token {asked.id}: not authorized, or another verifier")
        life_s = settings.of(ctx.runtime).oauth1_access_token_s
        async with ctx.runtime.store.tx() as tx:
            await REQUEST_TOKENS.delete(tx, asked)
            return await _made(
                ctx,
                tx,
                ACCESS_TOKENS,
                life_s,
                consumer_id=consumer.id,
                project_id=asked.project_id,
                user_id=asked.user_id,
                role_ids=asked.role_ids,
            )

    # What users do

    @operation("PUT", "/OS-OAUTH1/authorize/{request_token_id}", "identity:authorize_request_token")
    async def authorize(
        self, ctx: Context, request_token_id: str, body: Authorize
    ) -> dict[str, Any]:
        await forbid_delegated(ctx, "authorize a request token")
        store, caller = ctx.runtime.store, ctx.caller
        asked = await REQUEST_TOKENS.get(store, request_token_id)
        if is_past(ctx.runtime.world, asked.expires_at):
            raise Unauthenticated("Request token is expired")
        if asked.user_id and asked.user_id != caller.user_id:
            raise Forbidden("The request token was authorized by another user.")
        ids = {await role_id(store, ref) for ref in body.roles or ()}
        project = await PROJECTS.get(store, asked.project_id)
        book = await RoleBook().read(store)
        held = {r.id for r in book.closure(await held_on(store, caller.user_id, project))}
        if not ids <= held:
            raise Unauthenticated("authorizing user does not have role required")
        verifier = "".join(ctx.runtime.world.random.choice(_LETTERS) for _ in range(8))
        async with store.tx() as tx:
            await REQUEST_TOKENS.change(
                tx, asked, user_id=caller.user_id, role_ids=sorted(ids), verifier=verifier
            )
        return {"token": {"oauth_verifier": verifier}}

    @operation("GET", _MANY, "identity:list_access_tokens")
    async def index(self, ctx: Context, user_id: str) -> dict[str, Any]:
        await forbid_delegated(ctx, "list access tokens")
        asked = page(self.listing, ctx.query, user_id=user_id)
        return await rows_listed(ctx, "access_tokens", ACCESS_TOKENS, asked, lambda t: view(ctx, t))

    @operation("GET", _ONE, "identity:get_access_token")
    async def show(self, ctx: Context, user_id: str, access_token_id: str) -> dict[str, Any]:
        await forbid_delegated(ctx, "see access tokens")
        return {"access_token": view(ctx, await _lent_by(ctx, user_id, access_token_id))}

    @operation("DELETE", _ONE, "identity:delete_access_token")
    async def delete(self, ctx: Context, user_id: str, access_token_id: str) -> None:
        """Tokens got with it end."""
        await forbid_delegated(ctx, "delete access tokens")
        token = await _lent_by(ctx, user_id, access_token_id)
        async with ctx.runtime.store.tx() as tx:
            await ACCESS_TOKENS.delete(tx, token)
            await auth.revise(tx, "auth")
            await changed(tx, "OS-OAUTH1:access_token", token.id, "deleted")

    @operation("GET", _ONE + "/roles", "identity:list_access_token_roles")
    async def roles(self, ctx: Context, user_id: str, access_token_id: str) -> dict[str, Any]:
        token = await _lent_by(ctx, user_id, access_token_id)
        found = await roles_of(ctx.runtime.store, token.role_ids)
        return listed(ctx, "roles", [role_view(ctx, r) for r in found])

    @operation("GET", _ONE + "/roles/{role_id}", "identity:get_access_token_role")
    async def role(
        self, ctx: Context, user_id: str, access_token_id: str, role_id: str
    ) -> dict[str, Any]:
        token = await _lent_by(ctx, user_id, access_token_id)
        if role_id not in token.role_ids:
            raise ROLES.missing(role_id)
        return {"role": role_view(ctx, await ROLES.get(ctx.runtime.store, role_id))}


async def _consumer(ctx: Context, given: Signed) -> Consumer:
    consumer = await CONSUMERS.find(ctx.runtime.store, given.consumer_id)
    if consumer is None:
        raise refused(f"there is no consumer {given.consumer_id[:64]!r}")
    return consumer


async def _lent_by(ctx: Context, user_id: str, id: str) -> AccessToken:
    token = await ACCESS_TOKENS.get(ctx.runtime.store, id)
    if token.user_id != user_id:
        raise ACCESS_TOKENS.missing(id)
    return token


async def _made(ctx: Context, tx: Tx, table: Table[Any], life_s: int, **fields: Any) -> Answer:
    """Makes a token, and tells its secret to the consumer, once."""
    world = ctx.runtime.world
    expires_at = stamp(world.clock.time() + life_s) if life_s else ""
    secret = world.random.randbytes(16).hex()
    token = table.kind(id=world.new_hex(), secret=secret, expires_at=expires_at, **fields)
    await table.insert(tx, token)
    kind = table.noun.lower().replace(" ", "_")
    await changed(tx, f"OS-OAUTH1:{kind}", token.id, "created")
    told = {"oauth_token": token.id, "oauth_token_secret": secret}
    if expires_at:
        told["oauth_expires_at"] = expires_at
    return Answer(urlencode(told, safe=":").encode(), content_type=_FORM)


async def sweep(runtime: Runtime, key: str = "") -> None:
    """Drops tokens that are past and signatures that can be used no more."""
    await forget_signatures(runtime)
    now = runtime.world.clock.now()
    past = Page({"expires_at": Match("lt", now)}, scopes=({"expires_at": Match("ne", "")},))
    async with runtime.store.tx(wait=False) as tx:
        for asked in await REQUEST_TOKENS.list(tx, past):
            await REQUEST_TOKENS.delete(tx, asked)
        for lent in await ACCESS_TOKENS.list(tx, past):
            await ACCESS_TOKENS.delete(tx, lent)

"""Where federated users log in: with a bearer token, or with a browser that goes to the issuer and comes back.

A browser's way: a dashboard sends it to `websso`, that to the issuer, the issuer back to `redirect_uri`, and a form on
that page carries the token to the dashboard. What must be the same at the end as at the start (state, nonce, the code's
verifier, the dashboard) travels in a sealed cookie, so that nobody can finish a login that another browser began.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import unquote_plus, urlencode, urlsplit, urlunsplit

import msgspec

from pileus.kernel.faults import Invalid, Unauthenticated
from pileus.kernel.resources import PUBLIC, Answer, Context, Operation, operation
from pileus.kernel.store import Record
from pileus.kernel.world import World

from .auth_request import Authenticate
from .auth_tokens import answered
from .authentication import AUTHENTICATION, Issued
from .federation.openid import Doubtful, assertion
from .federation.openid_login import OPENID, only_provider, refuse_unknown
from .kept import answered_by
from .keys import KEYRING, TOKEN
from .proof import refused
from .wire import Discreet, Noun

_OF_PROVIDER = "/identity_providers/{idp_id}/protocols/{protocol_id}"
_WEB = "/auth/OS-FEDERATION"
_REDIRECT = _WEB + "/redirect_uri"
_FORMAT = "websso 1"
_PATIENCE_S = 600  # how long somebody may take to log in at the issuer
_LONGEST = 4096


class Began(Discreet, msgspec.Struct, frozen=True, array_like=True):
    """A login that a browser began, as its cookie keeps it. `at` is in seconds since the epoch."""

    format: str
    idp_id: str
    protocol_id: str
    issuer: str
    origin: str
    state: str
    nonce: str
    verifier: str
    at: int


class Logins(Noun[Record]):
    @operation("GET", f"/OS-FEDERATION{_OF_PROVIDER}/auth", PUBLIC, status=201)
    @operation("POST", f"/OS-FEDERATION{_OF_PROVIDER}/auth", PUBLIC, status=201)
    async def authenticate(self, ctx: Context, idp_id: str, protocol_id: str) -> Answer:
        method = protocol_id if protocol_id in ("openid", "saml2") else "mapped"
        part = {"identity_provider": idp_id, "protocol": protocol_id}
        asked = Authenticate(identity={"methods": [method], method: part}, scope="unscoped")
        return await answered(ctx, await ctx.peer(AUTHENTICATION).authenticate(ctx, asked))

    def operations(self) -> Iterator[Operation]:
        yield from super().operations()
        for path in ("/websso/{protocol_id}", _OF_PROVIDER + "/websso"):
            for method in ("GET", "POST"):
                yield answered_by(self.begin, method, _WEB + path, PUBLIC)

    async def begin(self, ctx: Context, protocol_id: str, idp_id: str = "") -> Answer:
        origin = _origin(ctx)
        idp_id = idp_id or await only_provider(ctx, protocol_id)
        return await _sent_away(ctx, idp_id, protocol_id, origin)

    @operation("GET", _REDIRECT, PUBLIC)
    async def finish(self, ctx: Context) -> Answer:
        """The issuer sent the browser back. Raises Unauthenticated."""
        state = ctx.query.get("state")
        began = await _began(ctx, state)
        if not ctx.query.has("code"):
            raise refused(f"issuer {began.issuer} said {ctx.query.get('error')[:200]!r}")
        openid = ctx.peer(OPENID)
        issuer = await openid.issuer_for(began.idp_id, began.issuer)
        if ctx.query.get("iss", issuer.name) != issuer.name:
            raise refused(f"issuer {ctx.query.get('iss')[:200]!r} answered for {issuer.name}")
        try:
            claims = await issuer.redeemed(
                ctx.query.get("code"), ctx.base + _REDIRECT, began.verifier, began.nonce
            )
        except Doubtful as why:
            raise refused(str(why)) from None
        proof = await openid.admit(began.idp_id, began.protocol_id, assertion(claims))
        found = await ctx.peer(AUTHENTICATION).conclude(proof, "unscoped")
        if not isinstance(found, Issued):
            raise refused(f"user {proof.user.id} needs another factor, which a form cannot carry")
        return _form(ctx.runtime.world, began.origin, found.token, _cookie(ctx, state, "", 0))


def _origin(ctx: Context) -> str:
    """The dashboard to bring the token to. Raises Invalid, Unauthenticated."""
    given = unquote_plus(ctx.query.get("origin"))
    if not given:
        raise Invalid("Request must have an origin query parameter")
    dashboards = ctx.peer(OPENID).file.trusted.trusted_dashboards
    if given not in {_lower_host(d) for d in dashboards}:
        raise Unauthenticated(f"{given[:200]} is not a trusted dashboard host")
    return given


def _lower_host(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.lower()))


async def _sent_away(ctx: Context, idp_id: str, protocol_id: str, origin: str) -> Answer:
    """The redirect to the issuer, and the cookie that remembers why."""
    await refuse_unknown(ctx, idp_id, protocol_id)
    issuer, world = await ctx.peer(OPENID).issuer_for(idp_id), ctx.runtime.world
    try:
        url = await issuer.endpoint("authorization_endpoint")
    except Doubtful as why:
        raise refused(str(why)) from None
    began = Began(
        _FORMAT,
        idp_id,
        protocol_id,
        issuer.name,
        origin,
        state=_chance(world),
        nonce=_chance(world),
        verifier=_chance(world),
        at=int(world.clock.time()),
    )
    challenge = hashlib.sha256(began.verifier.encode()).digest()
    asked = {
        "response_type": "code",
        "client_id": issuer.trust.client_id,
        "redirect_uri": ctx.base + _REDIRECT,
        "scope": issuer.trust.scopes,
        "state": began.state,
        "nonce": began.nonce,
        "code_challenge": base64.urlsafe_b64encode(challenge).decode().rstrip("="),
        "code_challenge_method": "S256",
    }
    keyring = ctx.peer(KEYRING)
    sealed = await keyring.seal(TOKEN, msgspec.msgpack.encode(began))
    headers = {
        "location": f"{url}{'&' if '?' in url else '?'}{urlencode(asked)}",
        "set-cookie": _cookie(ctx, began.state, sealed, _PATIENCE_S),
        "cache-control": "no-store",
    }
    return Answer(b"", status=302, headers=headers)


def _chance(world: World) -> str:
    return base64.urlsafe_b64encode(world.random.randbytes(32)).decode().rstrip("=")


def _cookie(ctx: Context, state: str, value: str, life_s: int) -> str:
    """One cookie for each login, so that two windows do not disturb each other."""
    path = urlsplit(ctx.base + _WEB).path
    secure = "; Secure" if ctx.root.startswith("https:") else ""
    return (
        f"{_cookie_name(state)}={value}; Path={path}; Max-Age={life_s}; HttpOnly; "
        f"SameSite=Lax{secure}"
    )


def _cookie_name(state: str) -> str:
    return "pileus-login-" + hashlib.sha256(state.encode()).hexdigest()[:16]


async def _began(ctx: Context, state: str) -> Began:
    """The login that this browser began with that state. Raises Unauthenticated."""
    try:
        kept = SimpleCookie(ctx.headers.get("cookie", "")).get(_cookie_name(state))
    except CookieError:
        kept = None
    text = kept.value if kept is not None else ""
    content = None
    if state and 0 < len(text) <= _LONGEST:
        content = await ctx.peer(KEYRING).open(TOKEN, text)
    if content is None:
        raise refused("a browser came back that was not sent away, or has no cookies")
    try:
        began = msgspec.msgpack.decode(content, type=Began)
    except msgspec.ValidationError:
        raise refused("the cookie is none of a login") from None
    late = ctx.runtime.world.clock.time() - began.at > _PATIENCE_S
    if began.format != _FORMAT or began.state != state or late:
        raise refused("the cookie is of another login, or too old")
    return began


def _form(world: World, origin: str, token: str, cookie: str) -> Answer:
    """The page that carries the token to the dashboard by itself."""
    mark = world.new_hex()
    page = (
        '<!DOCTYPE html>\n<html>\n<head><meta charset="utf-8"><title>Logging in</title></head>\n'
        "<body>\n"
        f'<form id="sso" action="{escape(origin)}" method="post">\n'
        "Please wait...<br>\n"
        f'<input type="hidden" name="token" value="{escape(token)}">\n'
        '<noscript><input type="submit" value="Continue"></noscript>\n</form>\n'
        f'<script nonce="{mark}">document.getElementById("sso").submit();</script>\n'
        "</body>\n</html>\n"
    )
    headers: dict[str, Any] = {
        "set-cookie": cookie,
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "content-security-policy": f"default-src 'none'; script-src 'nonce-{mark}'",
    }
    return Answer(
        page.encode(), status=200, headers=headers, content_type="text/html; charset=utf-8"
    )

"""The methods by which somebody can prove who he is, as `identity.methods` names them: METHODS.

https://docs.openstack.org/api-ref/identity/v3/#authentication-and-token-management

Each is given its part of the request and gives a `proof`. An unknown user costs and says the same as a wrong secret.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from pileus.kernel.faults import Forbidden
from pileus.kernel.resources import Context
from pileus.kernel.store import Page, Store

from .application_credentials import APPLICATION_CREDENTIALS, ApplicationCredential
from .auth_request import Ref, expected, find_domain, find_user
from .credentials import CREDENTIALS
from .directory_domains import DIRECTORIES
from .federation.openid_login import OPENID
from .keys import CREDENTIAL, KEYRING
from .oauth1.access_tokens import ACCESS_TOKENS
from .oauth1.consumers import CONSUMERS
from .oauth1.signatures import check, signed
from .passwords import PASSWORDS
from .proof import Method, Proof, refused
from .sign_ins import failed, refuse_locked, sign_in
from .users import USERS, User
from .wire import Discreet

if TYPE_CHECKING:
    from .authentication import Authentication

_DIGITS, _PERIOD_S = 6, 30
_MOST_DEVICES = 32  # the newest ones: each costs every try
_NEWEST = (("created_at", True), ("id", True))
_WINDOWS = 2  # the passcode of now and the one before, for slow typists and clocks; as upstream


async def _user(store: Store, id: str, lent: str) -> User:
    """The user in whose name something was lent. Raises Unauthenticated."""
    user = await USERS.find(store, id)
    if user is None:
        raise refused(f"the {lent}'s user is gone")
    return user


# password


class PasswordUser(Discreet, Ref):
    password: str | None = None


class PasswordPart(msgspec.Struct):
    user: PasswordUser


async def _password(desk: Authentication, ctx: Context, part: PasswordPart) -> Proof:
    store, domain_id, began_us = desk.runtime.store, "", desk.tokens.now_us()
    user = await find_user(store, part.user)
    if user is None and part.user.domain is not None:
        domain = await find_domain(store, part.user.domain)
        domain_id = domain.id if domain else ""
        await ctx.peer(DIRECTORIES).look(domain_id, user=part.user.name)
        user = await find_user(store, part.user)
    user = await sign_in(desk.runtime, user, part.user.password or "", domain_id=domain_id)
    return Proof(user, ("password",), began_us=began_us)


# token: who has one gets another, for another scope but for no longer


class TokenPart(Discreet, msgspec.Struct):
    id: str


async def _token(desk: Authentication, ctx: Context, part: TokenPart) -> Proof:
    """The new token counts as what the old one did. Raises NotFound for one that is worth nothing, as upstream."""
    began_us = desk.tokens.now_us()
    standing = await desk.tokens.subject(part.id)
    claims = standing.claims
    if claims.is_delegated:
        raise Forbidden(
            "You are not authorized to perform the requested action: Using a delegated token to "
            "create another token is not allowed."
        )
    fields = {"federation": claims.federation} if claims.federation else {}
    methods = ("token", *claims.methods)
    return Proof(standing.user, methods, fields, parent=claims, began_us=began_us)


# application_credential: a secret of its own that stands for a user on one project


class CredentialPart(Discreet, msgspec.Struct):
    secret: str
    id: str = ""
    name: str = ""
    user: Ref | None = None


async def _application_credential(
    desk: Authentication, ctx: Context, part: CredentialPart
) -> Proof:
    store = desk.runtime.store
    known = await _named(store, part)
    good = await ctx.peer(PASSWORDS).fits(known.secret_hash if known else "", part.secret)
    if known is None or not good or desk.tokens.is_past(known.expires_at):
        raise refused("unknown application credential or wrong secret")
    user = await _user(store, known.user_id, "application credential")
    return Proof(user, ("application_credential",), known.bounds)


async def _named(store: Store, part: CredentialPart) -> ApplicationCredential | None:
    if part.id:
        known = await APPLICATION_CREDENTIALS.find(store, part.id)
        if known is not None and part.user is not None and part.user.id:
            return known if known.user_id == part.user.id else None
        return known
    user = await find_user(store, part.user) if part.user is not None else None
    if user is None or not part.name:
        return None
    return await APPLICATION_CREDENTIALS.one(store, user_id=user.id, name=part.name)


# totp: a passcode of a device that shares a secret (RFC 6238), the blob in base32 of a credential of type `totp`


class TotpUser(Discreet, Ref, kw_only=True):
    passcode: str


class TotpPart(msgspec.Struct):
    user: TotpUser


async def _totp(desk: Authentication, ctx: Context, part: TotpPart) -> Proof:
    runtime, given = desk.runtime, part.user.passcode.encode()
    user = await find_user(runtime.store, part.user)
    if user is None:
        raise refused("unknown user")
    refuse_locked(runtime, user)
    devices = Page({"user_id": user.id, "type": "totp"}, _NEWEST, limit=_MOST_DEVICES)
    now, good = runtime.world.clock.time(), False
    for row in await CREDENTIALS.list(runtime.store, devices):
        secret = await ctx.peer(KEYRING).open(CREDENTIAL, row.sealed)
        for passcode in passcodes(secret or b"", now):
            good |= hmac.compare_digest(passcode, given)
    if not good:
        await failed(runtime, user)
        raise refused(f"wrong passcode for user {user.id}")
    return Proof(user, ("totp",))


def passcodes(secret: bytes, now: float) -> list[bytes]:
    """What a device with that secret shows, or showed just before; nothing for what is no secret."""
    try:
        key = base64.b32decode(secret + b"=" * (-len(secret) % 8))
        generator = TOTP(key, _DIGITS, SHA1(), _PERIOD_S)
    except (binascii.Error, ValueError):
        return []
    return [generator.generate(int(now) - n * _PERIOD_S) for n in range(_WINDOWS)]


# oauth1: a consumer signs the request with what a user lent to it


class OAuth1Part(msgspec.Struct):
    """Empty: everything stands in the Authorization header."""


async def _oauth1(desk: Authentication, ctx: Context, part: OAuth1Part) -> Proof:
    """The token is for the project that was lent, whatever is asked for."""
    given, store = signed(ctx), ctx.runtime.store
    given.require("oauth_consumer_key", "oauth_token")
    lent = await ACCESS_TOKENS.find(store, given.token_id)
    consumer = await CONSUMERS.find(store, given.consumer_id)
    if lent is None or consumer is None or lent.consumer_id != consumer.id:
        raise refused(f"consumer {given.consumer_id[:64]!r} has no such access token")
    if desk.tokens.is_past(lent.expires_at):
        raise refused(f"access token {lent.id} is past")
    await check(ctx, given, consumer.secret, lent.secret)
    user = await _user(store, lent.user_id, "access token")
    fields = {"access_token_id": lent.id, "scope": "project", "scope_id": lent.project_id}
    return Proof(user, ("oauth1",), fields)


# mapped, openid, saml2: a provider vouches for the user, or did so for the token he has


class MappedPart(Discreet, msgspec.Struct):
    """A federated token's `id`, or who vouches for the bearer token in the request's Authorization header."""

    id: str = ""
    identity_provider: str = ""
    protocol: str = ""


async def _mapped(desk: Authentication, ctx: Context, part: MappedPart) -> Proof:
    if part.id:
        proof = await _token(desk, ctx, TokenPart(part.id))
        if "federation" not in proof.fields:
            raise refused("the token is none of a provider's user")
        return proof
    if not part.identity_provider or not part.protocol:
        raise expected("protocol" if part.identity_provider else "identity_provider", "mapped")
    return await ctx.peer(OPENID).by_bearer(ctx, part.identity_provider, part.protocol)


_EVERY: tuple[Method[Any], ...] = (
    Method("password", PasswordPart, _password),
    Method("token", TokenPart, _token),
    Method("application_credential", CredentialPart, _application_credential),
    Method("totp", TotpPart, _totp),
    Method("oauth1", OAuth1Part, _oauth1),
    *(Method(name, MappedPart, _mapped) for name in ("mapped", "openid", "saml2")),
)
METHODS: Mapping[str, Method[Any]] = {method.name: method for method in _EVERY}

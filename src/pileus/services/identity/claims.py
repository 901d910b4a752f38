"""What is written inside a token: who, where, how, until when. Everything else is looked up at each validation.

A token is a Fernet message of a small msgpack array, ids as 16 bytes each: about 200 characters.
"""

from __future__ import annotations

import base64
from collections.abc import Collection
from typing import Any

import msgspec

from pileus.kernel.faults import Forbidden, Invalid
from pileus.kernel.resources import Context
from pileus.kernel.runtime import Runtime
from pileus.kernel.world import World, seconds_of, stamp

from .keys import KEYRING, TOKEN

_FORMAT = 1
_LONGEST = 4096  # of a token with as many groups as a provider may give
METHODS = (
    "password",
    "token",
    "application_credential",
    "trust",
    "ec2credential",
    "totp",
    "mapped",
    "oauth1",
    "openid",
    "saml2",
    "oauth2_credential",
)
_LENT = frozenset(
    {"application_credential", "trust", "ec2credential", "oauth1", "oauth2_credential"}
)
_SCOPES = ("", "project", "domain", "system")
_HEX = frozenset("0123456789abcdef")


class Federation(msgspec.Struct, frozen=True):
    """By which provider and protocol a user was vouched for, and the groups that its mapping gave him."""

    identity_provider_id: str
    protocol_id: str
    group_ids: tuple[str, ...] = ()


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """Times are microseconds since the epoch. The last audit id is that of the first token of the chain."""

    user_id: str
    methods: tuple[str, ...]
    scope: str = ""  # project, domain, system or ""
    scope_id: str = ""
    issued_us: int
    expires_us: int
    audit_ids: tuple[str, ...]
    application_credential_id: str = ""
    trust_id: str = ""
    access_token_id: str = ""  # of OAuth 1.0a
    federation: Federation | None = None

    @property
    def is_delegated(self) -> bool:
        """Lent by a trust, a credential or an access token: it never becomes more than it is."""
        return bool(
            self.application_credential_id
            or self.trust_id
            or self.access_token_id
            or not _LENT.isdisjoint(self.methods)
        )

    @property
    def issued_at(self) -> str:
        return stamp_us(self.issued_us)

    @property
    def expires_at(self) -> str:
        return stamp_us(self.expires_us)


def stamp_us(us: int) -> str:
    """Exact, where a float of seconds would round."""
    return f"{stamp(us // 1_000_000)[:19]}.{us % 1_000_000:06d}Z"


def new_audit_id(world: World) -> str:
    return base64.urlsafe_b64encode(world.random.randbytes(16)).decode().rstrip("=")


def pack_methods(methods: Collection[str]) -> int:
    """Those known, a bit each."""
    return sum(1 << n for n, m in enumerate(METHODS) if m in methods)


def unpack_methods(bits: int) -> tuple[str, ...]:
    return tuple(m for n, m in enumerate(METHODS) if bits >> n & 1)


def pack(c: Claims) -> bytes:
    fields: list[Any] = [
        _FORMAT,
        pack_methods(c.methods),
        _short(c.user_id),
        _SCOPES.index(c.scope),
        _short(c.scope_id),
        c.issued_us,
        c.expires_us,
        [base64.urlsafe_b64decode(a + "==") for a in c.audit_ids],
        _short(c.application_credential_id),
        _short(c.trust_id),
    ]
    if c.access_token_id or c.federation:  # most tokens are spared these
        fields += [_short(c.access_token_id), _packed(c.federation)]
    return msgspec.msgpack.encode(fields)


def unpack(content: bytes) -> Claims | None:
    """None for what another version of Pileus wrote."""
    fields: Any = msgspec.msgpack.decode(content)
    if not isinstance(fields, list) or len(fields) not in (10, 12) or fields[0] != _FORMAT:
        return None
    _, methods, user, scope, scope_id, issued, expires, audits, credential, trust, *rare = fields
    access_token, federation = rare or ("", None)
    return Claims(
        user_id=_long(user),
        methods=unpack_methods(methods),
        scope=_SCOPES[scope],
        scope_id=_long(scope_id),
        issued_us=issued,
        expires_us=expires,
        audit_ids=tuple(base64.urlsafe_b64encode(a).decode().rstrip("=") for a in audits),
        application_credential_id=_long(credential),
        trust_id=_long(trust),
        access_token_id=_long(access_token),
        federation=_unpacked(federation) if federation else None,
    )


def _packed(f: Federation | None) -> list[Any] | None:
    if f is None:
        return None
    return [f.identity_provider_id, f.protocol_id, [_short(id) for id in f.group_ids]]


def _unpacked(fields: list[Any]) -> Federation:
    identity_provider_id, protocol_id, group_ids = fields
    return Federation(identity_provider_id, protocol_id, tuple(_long(id) for id in group_ids))


def _short(id: str) -> bytes | str:
    if len(id) == 32 and _HEX.issuperset(id):
        return bytes.fromhex(id)
    return id


def _long(id: bytes | str) -> str:
    return id.hex() if isinstance(id, bytes) else id


async def opened(runtime: Runtime, token: str) -> Claims | None:
    """What is written in a token, whatever it is worth; None if it is none of ours."""
    if not token or len(token) > _LONGEST:
        return None
    content = await runtime.contracts.get(KEYRING).open(TOKEN, token)
    return unpack(content) if content is not None else None


async def forbid_delegated(
    ctx: Context, what: str, *, unrestricted_credential: bool = False, by_trust: bool = False
) -> None:
    """A lent token may not make what outlives or exceeds it. Raises Forbidden.

    `unrestricted_credential`, `by_trust`: leave those of application credentials, or by a trust alone, to the caller
    of this.
    """
    claims = await opened(ctx.runtime, ctx.caller.token)
    if claims is None or not claims.is_delegated:
        return
    if by_trust and _LENT.isdisjoint(claims.methods) and not claims.access_token_id:
        return
    if unrestricted_credential and "application_credential" in claims.methods:
        return
    raise Forbidden(
        f"You are not authorized to perform the requested action: {what} with a token issued "
        "via delegation (trust, application credential, EC2 credential or access token)."
    )


def is_past(world: World, expires_at: str) -> bool:
    """ "" never is."""
    return bool(expires_at) and seconds_of(expires_at) <= world.clock.time()


def future(ctx: Context, text: str | None) -> str:
    """A time to come, as it is stored; "" for none. Raises Invalid."""
    if not text:
        return ""
    try:
        at = seconds_of(text)
        kept = stamp(at)
    except (ValueError, OverflowError):
        raise Invalid(f"Invalid expires_at {text[:64]!r}: it must be an ISO 8601 time.") from None
    if at <= ctx.runtime.world.clock.time():
        raise Invalid(f"Invalid expires_at {text!r}: it must be in the future.")
    return kept

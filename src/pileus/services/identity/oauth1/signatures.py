"""Signed requests of OAuth 1.0a (RFC 5849): what the Authorization header says, and whether it was signed so.

A signature is good for one request within a quarter of an hour: each is remembered for that long.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.resources import Context
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Match, Page, Record, Table
from pileus.kernel.world import stamp

from ..auth_request import expected
from ..proof import refused
from ..wire import OLDEST

_SCHEME = "oauth "
_PAIR = re.compile(r'\s*([A-Za-z0-9_.~%-]{1,64})="([^"]*)"\s*')
_LONGEST = 8192
_WINDOW_S = 900
_HASHES: Mapping[str, Callable[[], Any]] = {
    "HMAC-SHA1": hashlib.sha1,
    "HMAC-SHA256": hashlib.sha256,
    "HMAC-SHA512": hashlib.sha512,
}
_PORTS = {"http": 80, "https": 443}


class SeenSignature(Record, kw_only=True, frozen=True):
    """The id is a digest of consumer, token, time and nonce."""


SEEN_SIGNATURES = Table("identity_oauth1_signatures", SeenSignature, noun="signature")


@dataclass(frozen=True)
class Signed:
    """What the header of a signed request says: parameters without `realm`, percent-decoded."""

    fields: Mapping[str, str]

    @property
    def consumer_id(self) -> str:
        return self.fields.get("oauth_consumer_key", "")

    @property
    def token_id(self) -> str:
        return self.fields.get("oauth_token", "")

    @property
    def verifier(self) -> str:
        return self.fields.get("oauth_verifier", "")

    def require(self, *names: str) -> None:
        """Raises Invalid."""
        for name in names:
            if not self.fields.get(name):
                raise expected(name, "request")


def signed(ctx: Context) -> Signed:
    """Reads the Authorization header. Raises Invalid."""
    text = ctx.headers.get("authorization", "")
    if text[: len(_SCHEME)].lower() != _SCHEME or len(text) > _LONGEST:
        raise Invalid("Missing OAuth headers: the request must be signed in Authorization.")
    fields: dict[str, str] = {}
    for part in text[len(_SCHEME) :].split(","):
        pair = _PAIR.fullmatch(part)
        if pair is None or unquote(pair[1]) in fields:
            raise Invalid(
                f"Malformed OAuth header: {part[:64]!r} is no parameter, or stands twice."
            )
        fields[unquote(pair[1])] = unquote(pair[2])
    fields.pop("realm", None)
    return Signed(fields)


async def check(ctx: Context, given: Signed, secret: str, token_secret: str = "") -> None:
    """Whether the request was signed with these secrets, just now and for the first time. Raises Unauthenticated."""
    made = _HASHES.get(given.fields.get("oauth_signature_method", ""))
    if made is None or given.fields.get("oauth_version", "1.0") != "1.0":
        raise refused(f"an OAuth signature of another kind than {', '.join(_HASHES)}")
    fields = dict(given.fields)
    claimed = fields.pop("oauth_signature", "")
    base = base_string(ctx.method, ctx.url, [*ctx.query.pairs, *fields.items()])
    wanted = signature(made, base, secret, token_secret)
    if not hmac.compare_digest(wanted.encode(), claimed.encode()):
        raise refused(f"consumer {given.consumer_id}: the signature does not fit")
    await _once(ctx.runtime, given)


def base_string(method: str, url: str, pairs: Sequence[tuple[str, str]]) -> str:
    """What is signed: RFC 5849, 3.4.1."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    if parts.port is not None and parts.port != _PORTS.get(parts.scheme.lower()):
        host += f":{parts.port}"
    where = f"{parts.scheme.lower()}://{host}{parts.path}"
    escaped = sorted((_escape(k), _escape(v)) for k, v in pairs)
    what = "&".join(f"{k}={v}" for k, v in escaped)
    return "&".join((method.upper(), _escape(where), _escape(what)))


def signature(made: Callable[[], Any], base: str, secret: str, token_secret: str) -> str:
    """RFC 5849, 3.4.2."""
    key = f"{_escape(secret)}&{_escape(token_secret)}".encode()
    return base64.b64encode(hmac.new(key, base.encode(), made).digest()).decode()


def _escape(text: str) -> str:
    return quote(text, safe="-._~")


async def _once(runtime: Runtime, given: Signed) -> None:
    """Raises Unauthenticated for a signature that is old, of times to come, or was used before."""
    at, nonce = given.fields.get("oauth_timestamp", ""), given.fields.get("oauth_nonce", "")
    if not re.fullmatch(r"[0-9]{1,12}", at) or not nonce:
        raise refused("an OAuth signature without time or nonce")
    if abs(runtime.world.clock.time() - int(at)) > _WINDOW_S:
        raise refused(f"an OAuth signature of {at}, which is not now")
    what = "\n".join((given.consumer_id, given.token_id, at, nonce))
    seen = SeenSignature(id=hashlib.sha256(what.encode()).hexdigest())
    try:
        async with runtime.store.tx() as tx:
            await SEEN_SIGNATURES.insert(tx, seen)
    except Conflict:
        raise refused(
            f"an OAuth signature of consumer {given.consumer_id} was used before"
        ) from None


async def forget_signatures(runtime: Runtime) -> None:
    """Drops what can be used no more: a signature may be of a quarter of an hour to come."""
    before = stamp(runtime.world.clock.time() - 2 * _WINDOW_S)
    asked = Page({"created_at": Match("lt", before)}, OLDEST)
    while old := await SEEN_SIGNATURES.list(runtime.store, asked):
        async with runtime.store.tx(wait=False) as tx:
            for one in old:
                await SEEN_SIGNATURES.delete(tx, one)
        await runtime.store.visible()

"""OpenID Connect: what an issuer says of a user, once it is sure that the issuer said it, to us, and just now.

There is no web server's module in front that would have checked it, so all is checked here: signature by a key that the
issuer publishes, issuer, audience, times, nonce. Specification: https://openid.net/specs/openid-connect-core-1_0.html
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import msgspec

from pileus.kernel.world import World

from .trusted import Issuer, is_safe

if TYPE_CHECKING:  # loaded by the first login that asks an issuer
    from pileus.host.web import Reply

_DOCUMENT_S = 3600.0  # how long what an issuer publishes is believed
_KEYS_S = 300.0
_AGAIN_S = 10.0  # an unknown key, or an issuer that was not there, is asked for no sooner again
_LEEWAY_S = 60
_AT_ONCE = 4
_LONGEST_TOKEN = 16_384
_LONGEST_CLAIM, _MOST_VALUES = 1024, 512


class Doubtful(Exception):
    """What came is not what the issuer says, or not to us, or cannot be checked; the text goes to the log."""


@dataclass
class _Kept:
    """What an issuer publishes, when it was fetched, and that a failure is not to be repeated at once."""

    content: dict[str, Any] = field(default_factory=dict)
    at: float = float("-inf")
    failed_at: float = float("-inf")
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class OpenIdIssuer:
    """One issuer, as far as this process knows it."""

    def __init__(self, world: World, name: str, trust: Issuer) -> None:
        self.world, self.name, self.trust = world, name, trust
        self._document, self._keys = _Kept(), _Kept()
        self._turns = asyncio.Semaphore(_AT_ONCE)

    # What it publishes

    async def document(self) -> Mapping[str, Any]:
        """Its discovery document. Raises Doubtful."""
        url = self.name.rstrip("/") + "/.well-known/openid-configuration"
        found = await self._published(self._document, url, _DOCUMENT_S)
        if found.get("issuer") != self.name:
            raise Doubtful(f"{url} is of issuer {found.get('issuer')!r}")
        return found

    async def endpoint(self, name: str) -> str:
        """Raises Doubtful if it has none."""
        found = (await self.document()).get(name)
        if not isinstance(found, str) or not is_safe(found, beside=self.name):
            raise Doubtful(f"issuer {self.name} has no {name} that can be asked: {found!r:.200}")
        return found

    async def _published(self, kept: _Kept, url: str, life_s: float) -> dict[str, Any]:
        async with kept.lock:
            now = self.world.clock.monotonic()
            if now - kept.at < life_s:
                return kept.content
            if now - kept.failed_at < _AGAIN_S:
                raise Doubtful(f"{url} was not to be had a moment ago")
            try:
                kept.content = _object(await self._fetch(url))
            except Doubtful:
                kept.failed_at = now
                raise
            kept.at = now
            return kept.content

    async def _key_set(self, kid: object) -> dict[str, Any]:
        """Its keys; fetched anew if one is named that was not there, as issuers rotate them."""
        url = await self.endpoint("jwks_uri")
        keys = await self._published(self._keys, url, _KEYS_S)
        known = keys.get("keys")
        kids = (
            [k.get("kid") for k in known if isinstance(k, dict)] if isinstance(known, list) else []
        )
        if kid is not None and kid not in kids:
            keys = await self._published(self._keys, url, _AGAIN_S)
        return keys

    # What it says of a user

    async def signed(self, token: str, nonce: str = "") -> dict[str, Any]:
        """The claims of a token that it signed; with `nonce`, of an ID token made for that login. Raises Doubtful."""
        from .signed_tokens import checked

        keys = await self._key_set(_header(token).get("kid"))
        now = int(self.world.clock.time())
        try:
            claims = checked(token, keys, self.name, self.trust.meant_for, now)
        except ValueError as e:
            raise Doubtful(f"token of {self.name}: {e}") from e
        if nonce:
            self._check_login(claims, nonce)
        return claims

    def _check_login(self, claims: Mapping[str, Any], nonce: str) -> None:
        if claims.get("nonce") != nonce:
            raise Doubtful(f"ID token of {self.name}: made for another login")
        if claims.get("azp", self.trust.client_id) != self.trust.client_id:
            raise Doubtful(f"ID token of {self.name}: made for client {claims['azp']!r}")

    async def introspected(self, token: str) -> dict[str, Any]:
        """The claims of a token that only it can read (RFC 7662). Raises Doubtful."""
        if not self.trust.client_secret:
            raise Doubtful(f"a token without claims, and no client_secret to ask {self.name} with")
        url = await self.endpoint("introspection_endpoint")
        claims = _object(await self._post(url, {"token": token}))
        if claims.get("active") is not True or not isinstance(claims.get("sub"), str):
            raise Doubtful(f"{self.name} says that the token is not active")
        named = claims.get("aud", claims.get("client_id"))
        audiences = named if isinstance(named, list) else [named]
        if not set(self.trust.meant_for).intersection(a for a in audiences if isinstance(a, str)):
            raise Doubtful(f"a token of {self.name} for {audiences}, not for us")
        if claims.get("iss", self.name) != self.name:
            raise Doubtful(f"{self.name} knows a token of {claims['iss']!r}")
        expires = claims.get("exp")
        if isinstance(expires, int | float) and expires + _LEEWAY_S < self.world.clock.time():
            raise Doubtful(f"a token of {self.name} that is past")
        return {**claims, "iss": self.name}

    async def enriched(self, claims: dict[str, Any], access_token: str) -> dict[str, Any]:
        """With what its userinfo endpoint says of the same user, where the operator wants that. Raises Doubtful."""
        if not self.trust.userinfo or not access_token:
            return claims
        url = await self.endpoint("userinfo_endpoint")
        more = _object(await self._fetch(url, {"authorization": f"Bearer {access_token}"}))
        if more.get("sub") != claims["sub"]:
            raise Doubtful(f"userinfo of {self.name} is of {more.get('sub')!r}")
        return {**more, **claims}

    async def vouched(self, token: str) -> dict[str, Any]:
        """The claims behind a bearer token. Raises Doubtful."""
        if len(token) > _LONGEST_TOKEN:
            raise Doubtful(f"a token of {len(token)} characters")
        if token.count(".") == 2:
            claims = await self.signed(token)
            return await self.enriched(claims, "" if "nonce" in claims else token)
        return await self.enriched(await self.introspected(token), token)

    async def redeemed(self, code: str, redirect_uri: str, verifier: str, nonce: str) -> Any:
        """The claims for the code with which a browser came back. Raises Doubtful."""
        url = await self.endpoint("token_endpoint")
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        answer = _object(await self._post(url, form))
        token, access_token = answer.get("id_token"), answer.get("access_token")
        if not isinstance(token, str):
            raise Doubtful(f"{self.name} gave no ID token")
        claims = await self.signed(token, nonce)
        return await self.enriched(claims, access_token if isinstance(access_token, str) else "")

    # How it is asked

    async def _post(self, url: str, form: Mapping[str, str]) -> Reply:
        """As the client that this cloud is to it. In the body, if it takes that: there, nobody disputes how to quote."""
        id, secret = self.trust.client_id, self.trust.client_secret
        headers = {"content-type": "application/x-www-form-urlencoded"}
        known = (await self.document()).get("token_endpoint_auth_methods_supported", ())
        if "client_secret_post" in known:
            form = {**form, "client_id": id, "client_secret": secret}
        else:
            who = f"{quote(id, safe='')}:{quote(secret, safe='')}".encode()
            headers["authorization"] = "Basic " + base64.b64encode(who).decode()
        return await self._fetch(url, headers, urlencode(form).encode())

    async def _fetch(
        self, url: str, headers: Mapping[str, str] | None = None, data: bytes | None = None
    ) -> Reply:
        from pileus.host.web import Unreachable, fetch

        sent = {"accept": "application/json", **(headers or {})}
        try:
            async with self._turns:
                reply = await fetch(url, data=data, headers=sent, ca_file=self.trust.ca_file)
        except Unreachable as e:
            raise Doubtful(str(e)) from e
        if reply.status != 200:
            raise Doubtful(f"{url} answered {reply.status}: {reply.content[:200]!r}")
        return reply


def issuer_of(token: str) -> str:
    """The issuer that a token claims, unchecked; "" if it is none with claims."""
    try:
        return str(_segment(token, 1).get("iss", "")) if token.count(".") == 2 else ""
    except Doubtful:
        return ""


def assertion(claims: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """Claims as mappings name them, in the spellings of Apache's module: `OIDC-email` and `HTTP_OIDC_EMAIL`."""
    found: dict[str, Sequence[str]] = {"REMOTE_USER": [str(claims["sub"])]}
    for name, value in claims.items():
        values = _values(value)
        if values:
            found[f"OIDC-{name}"] = values
            found["HTTP_OIDC_" + "".join(c if c.isalnum() else "_" for c in name).upper()] = values
    return found


def _values(value: Any) -> list[str]:
    """Texts, numbers and booleans; of a list each; of an object its JSON."""
    if isinstance(value, list):
        return [text for item in value[:_MOST_VALUES] for text in _values(item)]
    if isinstance(value, bool):
        return ["1" if value else "0"]
    if isinstance(value, dict):
        value = msgspec.json.encode(value).decode()
    text = "" if value is None else str(value)
    return [text] if 0 < len(text) <= _LONGEST_CLAIM else []


def _header(token: str) -> dict[str, Any]:
    return _segment(token, 0)


def _segment(token: str, n: int) -> dict[str, Any]:
    """Raises Doubtful."""
    try:
        text = token.split(".")[n]
        return msgspec.json.decode(
            base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=dict[str, Any]
        )
    except (ValueError, IndexError, RecursionError) as e:
        raise Doubtful(f"a token that is none: {e}") from e


def _object(reply: Reply) -> dict[str, Any]:
    try:
        return msgspec.json.decode(reply.content, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise Doubtful(f"an answer that is no JSON object: {e}") from e

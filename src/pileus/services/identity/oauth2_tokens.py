"""OAuth 2.0 access tokens for client credentials: https://docs.openstack.org/api-ref/identity/v3-ext/#os-oauth2-api

The client is an application credential, its id and secret those of the client. What it gets is an ordinary token, which
every service also takes as `Authorization: Bearer`. Certificates as credentials (mutual TLS) are not offered: this cloud
does not see who ended the TLS connection in front of it.
"""

from __future__ import annotations

import base64
import binascii
from urllib.parse import parse_qsl

from pileus.kernel.faults import Invalid, TooLarge, Unauthenticated
from pileus.kernel.resources import PUBLIC, Answer, Context, Stream, operation
from pileus.kernel.store import Record

from .auth_request import Authenticate
from .authentication import AUTHENTICATION, Issued
from .wire import Noun

_LONGEST = 16_384  # of the form
_METHOD = "application_credential"


class Oauth2Tokens(Noun[Record]):
    @operation("POST", "/OS-OAUTH2/token", PUBLIC, status=200)
    async def create(self, ctx: Context, form: Stream) -> Answer:
        try:
            id, secret = _client(ctx, await _fields(form))
            part = {"id": id, "secret": secret}
            identity = {"methods": [_METHOD], _METHOD: part}
            found = await ctx.peer(AUTHENTICATION).authenticate(
                ctx, Authenticate(identity=identity)
            )
        except _Refused as why:
            return why.answer(ctx)
        except Unauthenticated as why:
            return _Refused(401, "invalid_client", why.message).answer(ctx)
        except Invalid as why:
            return _Refused(400, "invalid_request", why.message).answer(ctx)
        if not isinstance(found, Issued):  # its user's rules ask for more than this can give
            return _no_client().answer(ctx)
        claims = found.standing.claims
        left = (claims.expires_us - claims.issued_us) // 1_000_000
        body = {"access_token": found.token, "token_type": "Bearer", "expires_in": left}
        return Answer(body, headers={"cache-control": "no-store"})


class _Refused(Exception):
    """An error as RFC 6749 spells it."""

    def __init__(self, status: int, error: str, description: str) -> None:
        super().__init__(description)
        self.status, self.body = status, {"error": error, "error_description": description}

    def answer(self, ctx: Context) -> Answer:
        headers = {}
        if self.status == 401:
            headers["www-authenticate"] = f'Keystone uri="{ctx.base}"'
        return Answer(self.body, status=self.status, headers=headers)


def _no_client() -> _Refused:
    return _Refused(401, "invalid_client", "Client authentication failed.")


async def _fields(form: Stream) -> dict[str, str]:
    """The form's fields. Raises _Refused."""
    raw = b""
    async for chunk in form.chunks:
        raw += chunk
        if len(raw) > _LONGEST:
            raise TooLarge(f"Request is too large: the form may have {_LONGEST} bytes.")
    try:
        return dict(parse_qsl(raw.decode(), max_num_fields=16))
    except ValueError:
        raise _Refused(400, "invalid_request", "The body is not a form.") from None


def _client(ctx: Context, fields: dict[str, str]) -> tuple[str, str]:
    """The client's id and secret, from the header or the form. Raises _Refused."""
    kind = fields.get("grant_type")
    if kind is None:
        raise _Refused(400, "invalid_request", "The parameter grant_type is required.")
    if kind != "client_credentials":
        text = f"The parameter grant_type {kind[:64]} is not supported."
        raise _Refused(400, "unsupported_grant_type", text)
    basic = _basic(ctx.headers.get("authorization", ""))
    id, secret = basic or (fields.get("client_id", ""), fields.get("client_secret", ""))
    if not id or not secret:
        raise _no_client()
    return id, secret


def _basic(header: str) -> tuple[str, str] | None:
    kind, _, text = header.partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        id, _, secret = base64.b64decode(text.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise _no_client() from None
    return id, secret

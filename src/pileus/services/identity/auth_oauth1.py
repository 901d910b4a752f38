"""The method `oauth1`: a consumer signs the request with what a user lent to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pileus.kernel.resources import Context

from .oauth1.access_tokens import ACCESS_TOKENS
from .oauth1.consumers import CONSUMERS
from .oauth1.signatures import check, signed
from .proof import Method, Proof, refused
from .users import USERS

if TYPE_CHECKING:
    from .authentication import Authentication


class OAuth1Part(msgspec.Struct):
    """Empty: everything stands in the Authorization header."""


async def prove(desk: Authentication, ctx: Context, part: OAuth1Part) -> Proof:
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
    user = await USERS.find(store, lent.user_id)
    if user is None:
        raise refused("the access token's user is gone")
    fields = {"access_token_id": lent.id, "scope": "project", "scope_id": lent.project_id}
    return Proof(user, ("oauth1",), fields)


OAUTH1 = Method("oauth1", OAuth1Part, prove)

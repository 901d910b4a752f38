"""The methods `mapped`, `openid` and `saml2`: a provider vouches for the user, or did so for the token he has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pileus.kernel.resources import Context

from . import auth_token
from .auth_request import expected
from .auth_token import TokenPart
from .discreet import Discreet
from .federation.openid_login import OPENID
from .proof import Method, Proof, refused

if TYPE_CHECKING:
    from .authentication import Authentication


class MappedPart(Discreet, msgspec.Struct):
    """A federated token's `id`, or who vouches for the bearer token in the request's Authorization header."""

    id: str = ""
    identity_provider: str = ""
    protocol: str = ""


async def prove(desk: Authentication, ctx: Context, part: MappedPart) -> Proof:
    if part.id:
        proof = await auth_token.prove(desk, ctx, TokenPart(part.id))
        if "federation" not in proof.fields:
            raise refused("the token is none of a provider's user")
        return proof
    if not part.identity_provider or not part.protocol:
        raise expected("protocol" if part.identity_provider else "identity_provider", "mapped")
    return await ctx.peer(OPENID).by_bearer(ctx, part.identity_provider, part.protocol)


MAPPED = tuple(Method(name, MappedPart, prove) for name in ("mapped", "openid", "saml2"))

"""The method `token`: who has a token gets another, for another scope but for no longer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pileus.kernel.faults import Forbidden
from pileus.kernel.resources import Context

from .proof import Method, Proof, refused
from .tokens import Worthless

if TYPE_CHECKING:
    from .authentication import Authentication


class TokenPart(msgspec.Struct):
    id: str


async def prove(desk: Authentication, ctx: Context, part: TokenPart) -> Proof:
    """The new token counts as what the old one did."""
    claims = await desk.tokens.open(part.id)
    if claims is None:
        raise refused("not a token")
    try:
        standing = await desk.tokens.standing(claims)
    except Worthless as why:
        raise refused(str(why)) from None
    if claims.is_delegated:
        raise Forbidden(
            "You are not authorized to perform the requested action: Using a delegated token to "
            "create another token is not allowed."
        )
    fields = {"federation": claims.federation} if claims.federation else {}
    return Proof(standing.user, ("token", *claims.methods), fields, parent=claims)


TOKEN = Method("token", TokenPart, prove)

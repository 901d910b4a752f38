"""The method `token`: who has a token gets another, for another scope but for no longer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pileus.kernel.faults import Forbidden
from pileus.kernel.resources import Context

from .discreet import Discreet
from .proof import Method, Proof

if TYPE_CHECKING:
    from .authentication import Authentication


class TokenPart(Discreet, msgspec.Struct):
    id: str


async def prove(desk: Authentication, ctx: Context, part: TokenPart) -> Proof:
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


TOKEN = Method("token", TokenPart, prove)

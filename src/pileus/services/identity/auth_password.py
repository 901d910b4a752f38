"""The method `password`: https://docs.openstack.org/api-ref/identity/v3/#password-authentication-with-unscoped-authorization"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pileus.kernel.resources import Context

from .auth_request import UserRef
from .identification import find_user
from .passwords import PASSWORDS
from .proof import Method, Proof, refused

if TYPE_CHECKING:
    from .authentication import Authentication


class PasswordUser(UserRef):
    password: str | None = None


class PasswordPart(msgspec.Struct):
    user: PasswordUser


async def prove(desk: Authentication, ctx: Context, part: PasswordPart) -> Proof:
    """An unknown user costs and says the same as a wrong password."""
    user = await find_user(desk.runtime.store, part.user)
    good = await ctx.peer(PASSWORDS).fits(
        user.password_hash if user else "", part.user.password or ""
    )
    if user is None or not good:
        raise refused("unknown user or wrong password")
    return Proof(user, ("password",))


PASSWORD = Method("password", PasswordPart, prove)

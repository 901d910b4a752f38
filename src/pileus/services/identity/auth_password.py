"""The method `password`: https://docs.openstack.org/api-ref/identity/v3/#password-authentication-with-unscoped-authorization"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pileus.kernel.resources import Context

from .auth_request import UserRef
from .identification import find_user
from .proof import Method, Proof
from .sign_ins import sign_in

if TYPE_CHECKING:
    from .authentication import Authentication


class PasswordUser(UserRef):
    password: str | None = None


class PasswordPart(msgspec.Struct):
    user: PasswordUser


async def prove(desk: Authentication, ctx: Context, part: PasswordPart) -> Proof:
    """An unknown user costs and says the same as a wrong password."""
    user = await find_user(desk.runtime.store, part.user)
    user = await sign_in(desk.runtime, user, part.user.password or "")
    return Proof(user, ("password",))


PASSWORD = Method("password", PasswordPart, prove)

"""The method `password`: https://docs.openstack.org/api-ref/identity/v3/#password-authentication-with-unscoped-authorization"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pileus.kernel.resources import Context

from .auth_request import UserRef
from .directory_domains import DIRECTORIES
from .discreet import Discreet
from .identification import find_domain, find_user
from .proof import Method, Proof
from .sign_ins import sign_in

if TYPE_CHECKING:
    from .authentication import Authentication


class PasswordUser(Discreet, UserRef):
    password: str | None = None


class PasswordPart(msgspec.Struct):
    user: PasswordUser


async def prove(desk: Authentication, ctx: Context, part: PasswordPart) -> Proof:
    """An unknown user costs and says the same as a wrong password."""
    store, domain_id, began_us = desk.runtime.store, "", desk.tokens.now_us()
    user = await find_user(store, part.user)
    if user is None and part.user.domain is not None:
        domain = await find_domain(store, part.user.domain)
        domain_id = domain.id if domain else ""
        await ctx.peer(DIRECTORIES).look(domain_id, user=part.user.name)
        user = await find_user(store, part.user)
    user = await sign_in(desk.runtime, user, part.user.password or "", domain_id=domain_id)
    return Proof(user, ("password",), began_us=began_us)


PASSWORD = Method("password", PasswordPart, prove)

"""The method `application_credential`: a secret of its own that stands for a user on one project."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pileus.kernel.resources import Context
from pileus.kernel.store import Store

from .application_credentials import APPLICATION_CREDENTIALS, ApplicationCredential
from .auth_request import UserRef
from .discreet import Discreet
from .identification import find_user
from .passwords import PASSWORDS
from .proof import Method, Proof, refused
from .users import USERS

if TYPE_CHECKING:
    from .authentication import Authentication


class CredentialPart(Discreet, msgspec.Struct):
    secret: str
    id: str = ""
    name: str = ""
    user: UserRef | None = None


async def prove(desk: Authentication, ctx: Context, part: CredentialPart) -> Proof:
    store = desk.runtime.store
    known = await _credential(store, part)
    good = await ctx.peer(PASSWORDS).fits(known.secret_hash if known else "", part.secret)
    if known is None or not good or desk.tokens.is_past(known.expires_at):
        raise refused("unknown application credential or wrong secret")
    user = await USERS.find(store, known.user_id)
    if user is None:
        raise refused("the application credential's user is gone")
    return Proof(user, ("application_credential",), bounds(known))


def bounds(known: ApplicationCredential) -> dict[str, str]:
    """What it writes into a token."""
    return {
        "application_credential_id": known.id,
        "scope": "project",
        "scope_id": known.project_id,
    }


async def _credential(store: Store, part: CredentialPart) -> ApplicationCredential | None:
    if part.id:
        known = await APPLICATION_CREDENTIALS.find(store, part.id)
        if known is not None and part.user is not None and part.user.id:
            return known if known.user_id == part.user.id else None
        return known
    user = await find_user(store, part.user) if part.user is not None else None
    if user is None or not part.name:
        return None
    return await APPLICATION_CREDENTIALS.one(store, user_id=user.id, name=part.name)


APPLICATION_CREDENTIAL = Method("application_credential", CredentialPart, prove)

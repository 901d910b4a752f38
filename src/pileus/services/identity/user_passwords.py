"""Changing one's own password: https://docs.openstack.org/api-ref/identity/v3/#change-password-for-user"""

from __future__ import annotations

from typing import ClassVar

from pileus.kernel.resources import PUBLIC, Context, operation
from pileus.kernel.schema import Body

from . import settings
from .directory_domains import refuse_entry
from .discreet import Discreet
from .passwords import PASSWORDS
from .revocations import revoke
from .security_compliance import check_choice, check_strength, replaced
from .sign_ins import sign_in
from .users import USERS, Password, User
from .wire import Noun, changed


class ChangePassword(Discreet, Body, kw_only=True):
    root: ClassVar[str] = "user"
    password: Password
    original_password: str


class UserPasswords(Noun[User]):
    table = USERS

    @operation("POST", "/users/{user_id}/password", PUBLIC, status=204)
    async def change(self, ctx: Context, user_id: str, body: ChangePassword) -> None:
        """Whoever knows the password may change it: no token is asked for, as the old one may have expired."""
        store, passwords = ctx.runtime.store, ctx.peer(PASSWORDS)
        known = await USERS.find(store, user_id)
        user = await sign_in(ctx.runtime, known, body.original_password, to_change=True)
        refuse_entry(user.entry)
        rules, clock = settings.of(ctx.runtime), ctx.runtime.world.clock
        check_strength(rules, body.password)
        await check_choice(passwords, rules, user, body.password, clock.time())
        hashed = await passwords.hashed(body.password)
        changes = replaced(rules, user, hashed, user.options, clock.now(), own=True)
        changes |= {"failures": 0, "failed_at": ""}
        async with store.tx() as tx:
            await USERS.change(tx, user, **changes)
            await changed(tx, "user", user.id, "updated")
            await revoke(tx, "user", user.id)

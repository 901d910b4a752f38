"""Signing in with a password: who knows it gets in, unless the account is locked, disabled or its password expired.

An unknown user, a wrong password and a locked account cost and say the same; why it was refused goes to the log. Wrong
passcodes count with wrong passwords, and only who has got in altogether is forgiven them: else who knows the password
could try passcodes for ever.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from pileus.kernel.resources import PUBLIC, Context, operation
from pileus.kernel.runtime import Runtime
from pileus.kernel.schema import Body
from pileus.kernel.store import Tx

from . import settings
from .directory_domains import DIRECTORIES, refuse_entry
from .passwords import PASSWORDS
from .proof import refused
from .revocations import revoke
from .security_compliance import (
    check_choice,
    check_strength,
    expired,
    is_enabled,
    is_expired,
    is_lock_over,
    is_locked,
    replaced,
)
from .users import USERS, Password, User
from .wire import Discreet, Noun, changed

_COUNTED = frozenset({"password", "totp"})


async def sign_in(
    runtime: Runtime,
    user: User | None,
    password: str,
    *,
    domain_id: str = "",
    to_change: bool = False,
) -> User:
    """The user, if the password is his.

    `domain_id`: where an unknown one (None) was looked for. `to_change`: an expired password will do. Raises
    Unauthenticated.
    """
    directories = runtime.contracts.get(DIRECTORIES)
    if (user is not None and user.entry) or (user is None and await directories.has(domain_id)):
        if await directories.is_password(user, password, domain_id) and user is not None:
            return user
        raise refused(f"the directory of domain {domain_id} does not know user or password")
    known = user.password_hash if user else ""
    fits = await runtime.contracts.get(PASSWORDS).fits(known, password)
    # What was tried meanwhile counts too, or a hundred guesses at once would be one.
    user = await USERS.find(runtime.store, user.id) if user else None
    if user is None:
        raise refused("unknown user")
    refuse_locked(runtime, user)
    rules, clock = settings.of(runtime), runtime.world.clock
    if not fits or user.password_hash != known:
        await failed(runtime, user)
        raise refused(f"wrong password for user {user.id}")
    if not is_enabled(user, rules, clock.now()):
        raise refused(f"the account of user {user.id} is disabled")
    if is_expired(user, clock.now()) and not to_change:
        raise expired(user)
    return await _noted(runtime, user)


def refuse_locked(runtime: Runtime, user: User) -> None:
    """Raises Unauthenticated."""
    if is_locked(user, settings.of(runtime), runtime.world.clock.time()):
        raise refused(f"the account of user {user.id} is locked")


async def failed(runtime: Runtime, user: User) -> None:
    """Counts a wrong password or passcode."""
    rules, now = settings.of(runtime), runtime.world.clock.time()
    if not rules.lockout_failure_attempts:
        return
    async with runtime.store.tx() as tx:
        known = await _locked_row(tx, user)
        if known is not None:
            before = 0 if is_lock_over(known, rules, now) else known.failures
            await USERS.change(tx, known, failures=before + 1, failed_at=tx.now)


async def forgive(runtime: Runtime, user: User, methods: Collection[str]) -> None:
    """Forgets what was tried on a user who got in by `methods`, if it is by those that are counted."""
    if user.failures and not _COUNTED.isdisjoint(methods):
        async with runtime.store.tx() as tx:
            known = await _locked_row(tx, user)
            if known is not None:
                await USERS.change(tx, known, failures=0, failed_at="")


async def _noted(runtime: Runtime, user: User) -> User:
    """The user, active today where that matters."""
    today = runtime.world.clock.now()[:10]
    watched = settings.of(runtime).disable_user_account_days_inactive
    if not watched or user.active_on == today:
        return user
    async with runtime.store.tx() as tx:
        known = await _locked_row(tx, user)
        return await USERS.change(tx, known, active_on=today) if known is not None else user


async def _locked_row(tx: Tx, user: User) -> User | None:
    """The user as he is now, for whoever changes him next."""
    await tx.lock(f"identity.user.{user.id}")
    return await USERS.find(tx, user.id)


class ChangePassword(Discreet, Body, kw_only=True):
    root: ClassVar[str] = "user"
    password: Password
    original_password: str


class UserPasswords(Noun[User]):
    """https://docs.openstack.org/api-ref/identity/v3/#change-password-for-user"""

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

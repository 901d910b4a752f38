"""Federated users: who a provider's user is here, and the groups that its mapping gave him for a while.

The first login makes a user in the provider's domain; later ones find him again by provider, protocol and the id that
the mapping made. His name is only shown: two of a domain may have the same one.
"""

from __future__ import annotations

import msgspec

from pileus.kernel import auth
from pileus.kernel.faults import Conflict
from pileus.kernel.resources import Context
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Match, Page, Tx
from pileus.kernel.world import seconds_of, stamp

from ..directory_domains import public_id
from ..groups import MEMBERSHIPS, Membership
from ..revocations import revoke
from ..users import USERS, User
from ..vouchers import Voucher, door
from ..wire import changed, removed


class Visitor(msgspec.Struct, frozen=True, kw_only=True):
    """A user as a provider vouches for him."""

    voucher: Voucher
    domain_id: str
    name: str
    email: str = ""
    group_ids: tuple[str, ...] = ()
    groups_minutes: int = 0  # how long he stays in the groups; 0: as long as his token says


async def welcome(tx: Tx, visitor: Visitor) -> User:
    """The visitor's user, made at his first login, named as now. Raises Conflict."""
    await tx.lock("identity.vouchers")
    user = await USERS.one(tx, vouchers=visitor.voucher.key)
    if user is None:
        user = await _make(tx, visitor)
    elif user.is_federated:
        user = await _rename(tx, user, visitor)
    await _keep_groups(tx, user, visitor)
    return user


async def _make(tx: Tx, visitor: Visitor) -> User:
    voucher = visitor.voucher
    id = public_id(visitor.domain_id, "user", voucher.unique_id)
    if await USERS.find(tx, id) is not None:  # another provider's, or he would be taken for him
        raise Conflict(
            f"Conflict occurred attempting to store federated_user - user {voucher.unique_id} of "
            f"domain {visitor.domain_id} is vouched for by another provider or protocol."
        )
    user = User(
        id=id,
        name=visitor.name,
        domain_id=visitor.domain_id,
        is_federated=True,
        vouchers=[voucher],
        extra={"email": visitor.email} if visitor.email else {},
    )
    user = await USERS.insert(tx, user)
    await changed(tx, "user", id, "created")
    return user


async def _rename(tx: Tx, user: User, visitor: Visitor) -> User:
    extra = {**user.extra, "email": visitor.email} if visitor.email else user.extra
    if (user.name, user.extra) == (visitor.name, extra):
        return user
    await auth.revise(tx, "auth")
    return await USERS.change(tx, user, name=visitor.name, extra=extra)


async def note_active(tx: Tx, user: User) -> User:
    """The day of this login, by which an account that nobody uses is told from one in use."""
    today = tx.now[:10]
    return user if user.active_on == today else await USERS.change(tx, user, active_on=today)


async def _keep_groups(tx: Tx, user: User, visitor: Visitor) -> None:
    """Renews the memberships that this provider gave; the user's tokens end when one is taken away."""
    idp_id = visitor.voucher.idp_id
    wanted = set(visitor.group_ids) if visitor.groups_minutes else set()
    until = stamp(seconds_of(tx.now) + 60 * visitor.groups_minutes)
    lost = False
    for kept in await MEMBERSHIPS.all(tx, user_id=user.id):
        if kept.idp_id != idp_id:
            continue
        if kept.group_id in wanted:
            wanted.discard(kept.group_id)
            await MEMBERSHIPS.change(tx, kept, until=until)
        else:
            await MEMBERSHIPS.delete(tx, kept)
            lost = True
    for group_id in sorted(wanted):
        id = f"{group_id}:{user.id}:{idp_id}"
        new = Membership(id=id, group_id=group_id, user_id=user.id, idp_id=idp_id, until=until)
        await MEMBERSHIPS.insert(tx, new)
    if lost:
        await revoke(tx, "user", user.id)
    elif wanted:
        await auth.revise(tx, "auth")


async def end_memberships(runtime: Runtime, key: str = "") -> None:
    """Takes users out of groups in which their providers did not renew them in time."""
    past = {"until": Match("le", runtime.world.clock.now())}
    asked = Page(past, scopes=({"until": Match("ne", "")},))
    if not await MEMBERSHIPS.list(runtime.store, asked):
        return
    async with runtime.store.tx() as tx:
        for ended in await MEMBERSHIPS.list(tx, asked):
            await MEMBERSHIPS.delete(tx, ended)
        await auth.revise(tx, "auth")


async def forget_users(ctx: Context, tx: Tx, idp_id: str, protocol_id: str) -> None:
    """Takes away the vouchers of this protocol; who came by no other way goes with them."""
    for user in await USERS.all(tx, vouchers=door(idp_id, protocol_id)):
        left = [v for v in user.vouchers if v.door != door(idp_id, protocol_id)]
        if left or not user.is_federated:
            await USERS.change(tx, user, vouchers=left)
            continue  # groups given by the provider end by themselves
        await removed(ctx, tx, "user", user.id)
        await USERS.delete(tx, user)

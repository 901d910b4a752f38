"""The rows of a directory's users, groups and memberships: made alike what was seen, a few at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pileus.kernel import auth
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Page, Store, Tx

from .groups import GROUPS, MEMBERSHIPS, Group, Membership
from .revocations import revoke
from .users import USERS, User
from .wire import EVERY, OLDEST, NounTable, drop_all, in_slices

log = logging.getLogger(__name__)
R = TypeVar("R", User, Group)
_SLICE = 50  # rows of one transaction
_DIFFERS = {
    User: ("name", "enabled", "default_project_id", "extra"),
    Group: ("name", "description", "extra"),
}


@dataclass(frozen=True)
class Seen:
    """What a directory said. `members` are pairs of ids of a group and a user."""

    users: list[User]
    groups: list[Group]
    members: set[tuple[str, str]]


async def keep(runtime: Runtime, domain_id: str, seen: Seen) -> None:
    """Makes the rows of a domain's entries what was seen, which is everything there is.

    There may be many: others have their turns after each slice.
    """
    users = await _keep_all(runtime, USERS, domain_id, seen.users, _lose_user)
    groups = await _keep_all(runtime, GROUPS, domain_id, seen.groups, _lose_group)
    known: set[tuple[str, str]] = set()
    for group in groups:
        known |= await _members(runtime, group_id=group)
        await runtime.world.clock.sleep(0)
    wanted = {(g, u) for g, u in seen.members if g in groups and u in users}
    await _keep_members(runtime.store, known, wanted)


async def keep_one(runtime: Runtime, user: User, seen: Seen | None = None) -> None:
    """Makes one user's row what was seen. With `seen`, the groups in it are all that he is in."""
    store = runtime.store
    known = await USERS.find(store, user.id)
    if known is None or _differs(known, user):
        await _keep_some(store, USERS, user.domain_id, [user])
    if seen is None:
        return
    there = [g for g in seen.groups if await GROUPS.find(store, g.id) is None]
    if there:
        await _keep_some(store, GROUPS, user.domain_id, there)
    known_in = {m for m in await _members(runtime, user_id=user.id) if await _is_entry(store, m[0])}
    wanted = {m for m in seen.members if await _is_entry(store, m[0])}
    await _keep_members(store, known_in, wanted)


async def _is_entry(store: Store, group_id: str) -> bool:
    """Whether the group is there and stands in a directory."""
    group = await GROUPS.find(store, group_id)
    return group is not None and bool(group.entry)


async def _keep_all(
    runtime: Runtime,
    table: NounTable[R],
    domain_id: str,
    seen: list[R],
    lose: Callable[[Tx, R], Any],
) -> set[str]:
    """The ids of the rows there are afterwards."""
    store, wanted = runtime.store, {s.id: s for s in seen}
    gone: list[R] = []
    known: set[str] = set()
    same: set[str] = set()
    asked = Page({"domain_id": domain_id}, OLDEST, limit=EVERY)
    async for rows in in_slices(runtime, table, asked):
        for row in rows:
            if not row.entry:
                continue
            if row.id not in wanted:
                gone.append(row)
                continue
            known.add(row.id)
            if not _differs(row, wanted[row.id]):
                same.add(row.id)
    for some in _slices(gone):
        async with store.tx() as tx:
            for row in some:
                if await table.find(tx, row.id) is not None:
                    await lose(tx, row)
            await auth.revise(tx, "auth")
    new = [w for w in wanted.values() if w.id not in same]
    return known | await _keep_some(store, table, domain_id, new)


async def _keep_some(
    store: Store, table: NounTable[R], domain_id: str, wanted: list[R]
) -> set[str]:
    """Writes rows, but for those whose name is another's: the first one has it. The ids of those written."""
    moving = {w.id: w.name.lower() for w in wanted}
    written: set[str] = set()
    for some in _slices(sorted(wanted, key=lambda w: w.entry)):
        async with store.tx() as tx:
            await tx.lock(f"identity.directory.{domain_id}")
            # Two may have changed names with each other, so all give theirs up first.
            there = [known for one in some if (known := await table.find(tx, one.id))]
            for known in there:
                if moving[known.id] != known.name.lower():
                    await table.change(tx, known, name=known.id)
            for one in some:
                if await _name_is_free(tx, table, one, moving):
                    await _put(tx, table, one)
                    written.add(one.id)
            if there:  # nobody has a token yet who was not
                await auth.revise(tx, "auth")
    return written


async def _name_is_free(tx: Tx, table: NounTable[R], wanted: R, moving: dict[str, str]) -> bool:
    """Whether nobody else has the name, or who has it is `moving` to another one."""
    other = await table.one(tx, domain_id=wanted.domain_id, name_key=wanted.name.lower())
    if other is None or other.id == wanted.id:
        return True
    if other.entry and moving.get(other.id, wanted.name.lower()) != wanted.name.lower():
        await table.change(tx, other, name=other.id)
        return True
    log.debug(
        "directory of domain %s: %s %r is passed over, as another has its name",
        wanted.domain_id,
        table.noun,
        wanted.entry,
    )
    return False


async def _put(tx: Tx, table: NounTable[R], wanted: R) -> None:
    known = await table.find(tx, wanted.id)
    if known is None:
        await table.insert(tx, wanted)
        return
    changes = {name: getattr(wanted, name) for name in _DIFFERS[type(wanted)]}
    await table.change(tx, known, **changes)
    was, is_now = (getattr(one, "enabled", True) for one in (known, wanted))
    if was and not is_now:
        await revoke(tx, "user", known.id)


def _differs(known: R, wanted: R) -> bool:
    return any(getattr(known, n) != getattr(wanted, n) for n in _DIFFERS[type(wanted)])


async def _lose_user(tx: Tx, user: User) -> None:
    await drop_all(tx, MEMBERSHIPS, user_id=user.id)
    await USERS.delete(tx, user)
    await revoke(tx, "user", user.id)


async def _lose_group(tx: Tx, group: Group) -> None:
    await drop_all(tx, MEMBERSHIPS, group_id=group.id)
    await GROUPS.delete(tx, group)


async def _members(runtime: Runtime, **of: str) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    async for rows in in_slices(runtime, MEMBERSHIPS, Page(of, OLDEST, limit=EVERY)):
        found |= {(row.group_id, row.user_id) for row in rows}
    return found


async def _keep_members(
    store: Store, known: set[tuple[str, str]], wanted: set[tuple[str, str]]
) -> None:
    for some in _slices(sorted(known ^ wanted)):
        async with store.tx() as tx:
            for group_id, user_id in some:
                id = f"{group_id}:{user_id}"
                row = await MEMBERSHIPS.find(tx, id)
                if (group_id, user_id) not in wanted:
                    if row is not None:
                        await MEMBERSHIPS.delete(tx, row)
                elif row is None:
                    new = Membership(id=id, group_id=group_id, user_id=user_id)
                    await MEMBERSHIPS.insert(tx, new)
            await auth.revise(tx, "auth")


T = TypeVar("T")


def _slices(things: Sequence[T]) -> Iterable[Sequence[T]]:
    for start in range(0, len(things), _SLICE):
        yield things[start : start + _SLICE]

"""Groups and who is in them: https://docs.openstack.org/api-ref/identity/v3/#groups"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pileus.kernel import auth
from pileus.kernel.faults import Forbidden, NotFound
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Column, Reader, Record, Tx, Unique

from .directory_domains import Entries, Entry, refuse_entry, taken
from .kept import ANY_SCOPE, changing
from .revocations import revoke
from .users import USERS, User, Users, target_of
from .wire import (
    AUTHENTICATED,
    NAME,
    READERS,
    Id,
    Noun,
    NounBody,
    NounTable,
    ShortName,
    changed,
    drop_all,
    dropping,
    listing,
    own_domain,
    rows_listed,
)


class Group(Entry, kw_only=True, frozen=True):
    description: str = ""
    extra: dict[str, Any] = {}


class Membership(Record, kw_only=True, frozen=True):
    """The id is `group:user`, of one that an identity provider's mapping gives `group:user:provider`: it ends `until`."""

    group_id: str
    user_id: str
    idp_id: str = ""
    until: str = ""


GROUPS = NounTable(
    "identity_groups",
    Group,
    columns=("domain_id", Column("name_key", lambda g: g.name.lower())),
    unique=(Unique(("domain_id", "name_key"), taken),),
    indexes=(("domain_id", "created_at", "id"), ("created_at", "id"), ("name_key", "id")),
    noun="group",
)
MEMBERSHIPS = NounTable(
    "identity_memberships",
    Membership,
    columns=("group_id", "user_id", "until"),
    indexes=(("group_id", "created_at", "id"), ("user_id",), ("until",)),
    noun="membership",
)


async def group_ids(db: Reader, user_id: str) -> list[str]:
    """The groups a user is in."""
    return [m.group_id for m in await MEMBERSHIPS.all(db, user_id=user_id)]


_READ = f"{READERS} or (role:reader and domain_id:%(target.group.domain_id)s)"
_WRITE = "(rule:admin_required) or (role:manager and domain_id:%(target.group.domain_id)s)"
_MEMBERS = (
    "(rule:admin_required) or (role:manager and domain_id:%(target.group.domain_id)s and "
    "domain_id:%(target.user.domain_id)s)"
)


class CreateGroup(NounBody, kw_only=True):
    root: ClassVar[str] = "group"
    name: ShortName
    description: str | None = None
    domain_id: Id | None = None


class Groups(Entries[Group]):
    table = GROUPS
    path = "groups"
    id_param = "group_id"
    creates, updates = CreateGroup, changing(CreateGroup)
    hidden = ("entry",)
    listed_as = "target.group.domain_id"
    discloses = frozenset({"identity:delete_group"})
    follows = {"user": dropping(MEMBERSHIPS, "user_id")}
    rules = {
        "identity:get_group": _READ,
        "identity:list_groups": _READ,
        "identity:create_group": _WRITE,
        "identity:update_group": _WRITE,
        "identity:delete_group": _WRITE,
        "identity:list_users_in_group": _READ,
        "identity:add_user_to_group": _MEMBERS,
        "identity:remove_user_from_group": _MEMBERS,
        "identity:check_user_in_group": (
            f"{READERS} or (role:reader and domain_id:%(target.group.domain_id)s and "
            "domain_id:%(target.user.domain_id)s)"
        ),
    }
    scopes = dict.fromkeys(rules, ANY_SCOPE)
    listing = listing({"name": NAME, "domain_id": Filter()})

    def target(self, ctx: Context, record: Group) -> Mapping[str, object]:
        return {"target.group.domain_id": record.domain_id}

    async def remove(self, ctx: Context, tx: Tx, record: Group) -> None:
        for member in await drop_all(tx, MEMBERSHIPS, group_id=record.id):
            await revoke(tx, "user", member.user_id)
        await super().remove(ctx, tx, record)

    @operation("GET", "/groups/{group_id}/users", "identity:list_users_in_group")
    async def members(self, ctx: Context, group: Group) -> dict[str, Any]:
        store = ctx.runtime.store
        ids = [m.user_id for m in await MEMBERSHIPS.all(store, group_id=group.id)]
        asked = Users.asked(ctx, id=ids, **own_domain(ctx))
        return await rows_listed(ctx, "users", USERS, asked, Users.viewer(ctx))

    @operation("PUT", "/groups/{group_id}/users/{user_id}", AUTHENTICATED)
    async def add(self, ctx: Context, group_id: str, user_id: str) -> None:
        group, user = await self._pair(ctx, "identity:add_user_to_group", group_id, user_id)
        _refuse_membership(group, user)
        id = f"{group_id}:{user_id}"
        async with ctx.runtime.store.tx() as tx:
            if await MEMBERSHIPS.find(tx, id) is None:
                await MEMBERSHIPS.insert(tx, Membership(id=id, group_id=group_id, user_id=user_id))
                await auth.revise(tx, "auth")
                await _tell(tx, group_id, user_id, "added")

    @operation("GET", "/groups/{group_id}/users/{user_id}", AUTHENTICATED)
    async def is_in(self, ctx: Context, group_id: str, user_id: str) -> None:
        await self._pair(ctx, "identity:check_user_in_group", group_id, user_id)
        if await MEMBERSHIPS.find(ctx.runtime.store, f"{group_id}:{user_id}") is None:
            raise _not_in(group_id, user_id)

    @operation("DELETE", "/groups/{group_id}/users/{user_id}", AUTHENTICATED)
    async def leave(self, ctx: Context, group_id: str, user_id: str) -> None:
        group, user = await self._pair(ctx, "identity:remove_user_from_group", group_id, user_id)
        _refuse_membership(group, user)
        async with ctx.runtime.store.tx() as tx:
            known = await MEMBERSHIPS.find(tx, f"{group_id}:{user_id}")
            if known is None:
                raise _not_in(group_id, user_id)
            await MEMBERSHIPS.delete(tx, known)
            await revoke(tx, "user", user_id)
            await _tell(tx, group_id, user_id, "removed")

    async def _pair(
        self, ctx: Context, rule: str, group_id: str, user_id: str
    ) -> tuple[Group, User]:
        """Policy on both, then whether they are there."""
        store = ctx.runtime.store
        group, user = await GROUPS.find(store, group_id), await USERS.find(store, user_id)
        target: dict[str, object] = {"group_id": group_id, "user_id": user_id}
        if group is not None and user is not None:
            target |= {**self.target(ctx, group), **target_of(user)}
        ctx.require(rule, target)
        if group is None:
            raise GROUPS.missing(group_id)
        if user is None:
            raise USERS.missing(user_id)
        return group, user


def _refuse_membership(group: Group, user: User) -> None:
    """A directory's groups are its own, and its users are in no others. Raises Forbidden."""
    if bool(group.entry) != bool(user.entry):
        raise Forbidden(
            "Group membership across backend boundaries is not allowed. Group in question is "
            f"{group.id}, user is {user.id}."
        )
    refuse_entry(group.entry)


async def _tell(tx: Tx, group_id: str, user_id: str, what: str) -> None:
    who = {"actor_id": user_id, "actor_type": "user", "actor_operation": what}
    await changed(tx, "group", group_id, "updated", **who)


def _not_in(group_id: str, user_id: str) -> NotFound:
    return NotFound(f"User {user_id} is not a member of group {group_id}.")


class UserGroups(Noun[User]):
    """The groups a user is in."""

    table = USERS
    id_param = "user_id"
    rules = {
        "identity:list_groups_for_user": (
            f"{READERS} or (role:reader and domain_id:%(target.user.domain_id)s) or "
            "user_id:%(user_id)s"
        )
    }

    def target(self, ctx: Context, record: User) -> Mapping[str, object]:
        return target_of(record)

    @operation("GET", "/users/{user_id}/groups", "identity:list_groups_for_user")
    async def groups(self, ctx: Context, user: User) -> dict[str, Any]:
        store = ctx.runtime.store
        memberships = await MEMBERSHIPS.all(store, user_id=user.id)
        until = {m.group_id: m.until for m in memberships if m.until}
        ids = [m.group_id for m in memberships]

        def shown(group: Group) -> dict[str, Any]:
            ends = {"membership_expires_at": until[group.id]} if group.id in until else {}
            return {**Groups.view(ctx, group), **ends}

        asked = Groups.asked(ctx, id=ids, **own_domain(ctx))
        return await rows_listed(ctx, "groups", GROUPS, asked, shown)

"""Groups and who is in them: https://docs.openstack.org/api-ref/identity/v3/#groups"""

from __future__ import annotations

from typing import Any

from pileus.kernel.store import Column, Reader, Record, Unique

from .wire import NounTable


class Group(Record, kw_only=True, frozen=True):
    name: str
    domain_id: str
    description: str = ""
    extra: dict[str, Any] = {}


class Membership(Record, kw_only=True, frozen=True):
    """The id is `group:user`."""

    group_id: str
    user_id: str


def _taken(group: Group) -> str:
    return (
        "Conflict occurred attempting to store group - Duplicate entry found with name "
        f"{group.name} at domain ID {group.domain_id}."
    )


GROUPS = NounTable(
    "identity_groups",
    Group,
    columns=("domain_id", Column("name_key", lambda g: g.name.lower())),
    unique=(Unique(("domain_id", "name_key"), _taken),),
    noun="group",
)
MEMBERSHIPS = NounTable(
    "identity_memberships",
    Membership,
    columns=("group_id", "user_id"),
    indexes=(("group_id",), ("user_id",)),
    noun="membership",
)


async def group_ids(db: Reader, user_id: str) -> list[str]:
    """The groups a user is in."""
    return [m.group_id for m in await MEMBERSHIPS.all(db, user_id=user_id)]

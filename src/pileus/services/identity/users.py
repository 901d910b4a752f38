"""Users: https://docs.openstack.org/api-ref/identity/v3/#users"""

from __future__ import annotations

from typing import Any

from pileus.kernel.store import Column, Record, Unique

from .wire import NounTable


class User(Record, kw_only=True, frozen=True):
    """`password_hash` "" means no password fits."""

    name: str
    domain_id: str
    enabled: bool = True
    password_hash: str = ""
    password_at: str = ""
    default_project_id: str = ""
    options: dict[str, Any] = {}
    extra: dict[str, Any] = {}


def _taken(user: User) -> str:
    return (
        "Conflict occurred attempting to store user - Duplicate entry found with name "
        f"{user.name} at domain ID {user.domain_id}."
    )


USERS = NounTable(
    "identity_users",
    User,
    columns=("domain_id", "enabled", "name", Column("name_key", lambda u: u.name.lower())),
    unique=(Unique(("domain_id", "name_key"), _taken),),
    indexes=(("name_key",), ("domain_id", "created_at", "id")),
    noun="user",
)

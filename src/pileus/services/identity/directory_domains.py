"""What the rest of identity asks of domains whose users stand in a directory (LDAP, Active Directory)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pileus.kernel.contracts import Contract
from pileus.kernel.faults import Forbidden

if TYPE_CHECKING:
    from .users import User

READ_ONLY = "LDAP does not support write operations"


class Directories(Protocol):
    """Users and groups of a directory are rows like any other, written from what the directory says."""

    async def has(self, domain_id: str) -> bool:
        """Whether the domain's users stand in a directory."""

    async def look(self, domain_id: str, *, user: str = "") -> None:
        """Brings the rows up to date: the user of that name, or everything unless it was just done.

        Does nothing for other domains. Raises Unavailable if the directory does not answer.
        """

    async def is_password(self, user: User | None, password: str, domain_id: str = "") -> bool:
        """Whether the directory takes the password. An unknown user (None) of the domain costs as much."""


DIRECTORIES = Contract("identity.directories", Directories)  # type: ignore[type-abstract]


def refuse_entry(thing: User | object) -> None:
    """What stands in a directory is changed there. Raises Forbidden."""
    if getattr(thing, "entry", ""):
        raise Forbidden(READ_ONLY)

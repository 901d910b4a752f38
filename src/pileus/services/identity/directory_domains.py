"""What the rest of identity asks of domains whose users stand in a directory (LDAP, Active Directory)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from pileus.kernel.contracts import Contract
from pileus.kernel.faults import Forbidden
from pileus.kernel.resources import Context
from pileus.kernel.store import Page

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

    async def list_limit(self, domain_id: str) -> int:
        """How many of the domain's users or groups one list gives; 0 if its configuration doesn't say."""


DIRECTORIES = Contract("identity.directories", Directories)  # type: ignore[type-abstract]


def public_id(domain_id: str, kind: str, local_id: str) -> str:
    """The id here of a `user` or `group` kept elsewhere: upstream's, so that assignments made there fit here."""
    return hashlib.sha256(f"{domain_id}{kind}{local_id}".encode()).hexdigest()


async def limited(ctx: Context, asked: Page, domain_id: str) -> Page:
    """The page, no longer than the domain's configuration says."""
    limit = await ctx.peer(DIRECTORIES).list_limit(domain_id)
    return replace(asked, limit=min(limit, asked.limit)) if limit else asked


def refuse_entry(entry: str) -> None:
    """What stands in a directory is changed there. Raises Forbidden."""
    if entry:
        raise Forbidden(READ_ONLY)


async def refuse_directory(ctx: Context, domain_id: str) -> None:
    """Nothing is made in a directory from here. Raises Forbidden."""
    if await ctx.peer(DIRECTORIES).has(domain_id):
        raise Forbidden(READ_ONLY)

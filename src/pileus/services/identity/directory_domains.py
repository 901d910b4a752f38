"""What users and groups have in common, which a domain may have in a directory (LDAP, Active Directory)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pileus.kernel.contracts import Contract
from pileus.kernel.faults import Forbidden
from pileus.kernel.resources import Context
from pileus.kernel.store import Record, Tx

from .kept import Kept
from .tree import get_domain
from .wire import home_domain, own_domain, rows_listed

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


def refuse_entry(entry: str) -> None:
    """What stands in a directory is changed there. Raises Forbidden."""
    if entry:
        raise Forbidden(READ_ONLY)


class Entry(Record, kw_only=True, frozen=True):
    """A user or group. `entry` is its id in its domain's directory, "" if it stands here."""

    name: str
    domain_id: str
    entry: str = ""


E = TypeVar("E", bound=Entry)


def taken(entry: E) -> str:
    """What is said where its domain has another of that name."""
    noun = type(entry).__name__.lower()
    return (
        f"Conflict occurred attempting to store {noun} - Duplicate entry found with name "
        f"{entry.name} at domain ID {entry.domain_id}."
    )


class Entries(Kept[E]):
    """Users or groups, which are a domain's, and its directory's where it has one: nothing there is changed from here."""

    asked_later = frozenset({"create"})
    goes_with = {"domain": "domain_id"}

    def sought(self, ctx: Context) -> str:
        """The name of the one user whom a list asks for, if it does."""
        return ""

    async def index(self, ctx: Context, **fixed: Any) -> dict[str, Any]:
        """The list, as fresh as the directory and no longer than the domain's configuration says."""
        directories, own = ctx.peer(DIRECTORIES), own_domain(ctx)
        domain_id = own.get("domain_id") or ctx.query.get("domain_id")
        await directories.look(domain_id, user=self.sought(ctx))
        asked = self.asked(ctx, **own)
        if limit := await directories.list_limit(domain_id):
            asked = replace(asked, limit=min(limit, asked.limit))
        return await rows_listed(ctx, self.plural(), self.table, asked, self.viewer(ctx))

    async def ask(self, ctx: Context, verb: str, record: E) -> None:
        if verb != "get":
            refuse_entry(record.entry)

    async def fields(self, ctx: Context, given: dict[str, Any], old: E | None) -> dict[str, Any]:
        """Raises Invalid, Forbidden."""
        if old is None:
            domain_id = given["domain_id"] = home_domain(ctx, given["domain_id"])
            ctx.require(self.rule("create"), {f"target.{self.kind()}.domain_id": domain_id})
            if await ctx.peer(DIRECTORIES).has(domain_id):
                raise Forbidden(READ_ONLY)
        return await super().fields(ctx, given, old)

    async def check(self, ctx: Context, tx: Tx, new: E, old: E | None) -> None:
        """Raises NotFound."""
        if old is None:
            await get_domain(tx, new.domain_id)

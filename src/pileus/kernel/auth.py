"""Who is calling: what a token stands for, remembered until anything is revoked.

Whoever knows tokens (the identity service) is asked through `TokenSource`; what it says is kept in a bounded cache
that a revision in the store invalidates, so a revocation holds on every control at its next request.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
import sqlalchemy as sa

from .access_rules import AccessRule
from .contracts import Contract
from .faults import Unauthenticated
from .sql import TEXT, upsert
from .store import METADATA, Reader, Store, Tx
from .world import World

NOT_AUTHENTICATED = "The request you have made requires authentication."
_LIMIT = 5_000


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a token stands for. `roles` are lower-case names with the implied ones; times are epoch seconds."""

    user_id: str = ""
    user_name: str = ""
    user_domain_id: str = ""
    project_id: str = ""
    project_name: str = ""
    project_domain_id: str = ""
    domain_id: str = ""
    system_scope: str = ""  # "all" or ""
    roles: frozenset[str] = frozenset()
    service_roles: frozenset[str] = frozenset()
    is_admin_project: bool = False
    expires_at: float = 0.0
    token: str = ""
    access_rules: tuple[AccessRule, ...] | None = None  # None: his roles alone say what he may

    @property
    def is_admin(self) -> bool:
        return "admin" in self.roles

    def __repr__(self) -> str:  # a token must not get into a log
        return f"Caller(user_id={self.user_id!r}, project_id={self.project_id!r})"


NOBODY = Caller()


class TokenSource(Protocol):
    """What knows tokens."""

    async def caller(self, token: str, late: bool) -> Caller:
        """Raises Unauthenticated for one that is unknown, revoked, somebody disabled's, or expired (`late`: long ago)."""


TOKENS = Contract("tokens", TokenSource)  # type: ignore[type-abstract]

_T = sa.Table(
    "revisions",
    METADATA,
    sa.Column("name", TEXT, primary_key=True, nullable=False),
    sa.Column("revision", sa.BigInteger(), nullable=False),
)


async def revision(db: Reader, name: str) -> int:
    """How often `name` was revised. All are read at once: they are few, and a request asks for several."""
    memo = db.memo
    known: dict[str, int] | None = None if memo is None else memo.get("revisions")
    if known is None:
        sql = db.sql("revisions.read", lambda: sa.select(_T.c.name, _T.c.revision))
        known = {n: int(r) for n, r in await db.rows(sql, {})}
        if memo is not None:
            memo["revisions"] = known
    return known.get(name, 0)


async def revise(tx: Tx, name: str) -> None:
    """Invalidates, with this transaction, what every control remembers under `name`."""
    sql = tx.sql("revisions.raise", lambda: upsert(_T, "revision"))
    await tx.rows(sql, {"name": name, "revision": 1})


class Callers:
    """Tokens to callers. One row read per request; the rest only for tokens not seen since the last revision."""

    def __init__(self, store: Store, world: World, source: TokenSource) -> None:
        self.store, self.world, self.source = store, world, source
        self._known: dict[str, Caller] = {}
        self._revision = -1

    async def of(self, token: str, service_token: str = "") -> Caller:
        """The caller with that token, with which a service may finish what was begun in time. Raises Unauthenticated."""
        if not token:
            raise Unauthenticated(NOT_AUTHENTICATED)
        service = await self.of(service_token) if service_token else NOBODY
        late, time = "service" in service.roles, self.world.clock.time()
        now = await revision(self.store, "auth")
        if now != self._revision:
            self._known.clear()
            self._revision = now
        caller = self._known.get(token)
        if caller is None or caller.expires_at < time:
            caller = await self.source.caller(token, late)
            if len(self._known) >= _LIMIT:
                self._known.clear()
            if self._revision == now:  # or it may have been revoked while we asked
                self._known[token] = caller
        if caller.expires_at < time and not late:
            raise Unauthenticated(NOT_AUTHENTICATED)
        if service_token:
            return msgspec.structs.replace(caller, service_roles=service.roles)
        return caller


def remembered(caller: Caller) -> dict[str, Any]:
    """A caller as a saga's journal keeps it: without the token."""
    kept: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(caller, token=""))
    return kept

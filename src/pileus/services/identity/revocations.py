"""What was revoked: a moment before which tokens of a user, project, domain or audit chain are worth nothing.

One row per subject, raised in the transaction that makes tokens worthless, and read by the one place that validates.
"""

from __future__ import annotations

from collections.abc import Iterable

from pileus.kernel import auth
from pileus.kernel.store import Match, Page, Reader, Record, Store, Table, Tx
from pileus.kernel.world import seconds_of


class Revocation(Record, kw_only=True, frozen=True):
    """The id is `kind:id`; `before_us` is the moment in microseconds since the epoch, that moment included."""

    before_us: int


_OLDEST = (("created_at", False), ("id", False))
_SLICE = 200  # rows of one transaction
REVOCATIONS = Table(
    "identity_revocations", Revocation, indexes=(("created_at", "id"),), noun="revocation"
)


def micros(text: str) -> int:
    return round(seconds_of(text) * 1_000_000)


async def revoke(tx: Tx, kind: str, id: str) -> None:
    """Nothing issued until now to this `user`, `project`, `domain`, `audit` id or `chain` counts any more."""
    subject, now = f"{kind}:{id}", micros(tx.now)
    known = await REVOCATIONS.find(tx, subject)
    if known is None:
        await REVOCATIONS.insert(tx, Revocation(id=subject, before_us=now))
    else:
        await REVOCATIONS.change(tx, known, before_us=now)
    await auth.revise(tx, "auth")


async def ended(db: Reader, subjects: Iterable[str]) -> int:
    """When the last of the subjects was revoked, in microseconds; 0 if none was."""
    found = [await REVOCATIONS.find(db, subject) for subject in subjects]
    return max((r.before_us for r in found if r is not None), default=0)


async def forget(store: Store, before: str) -> None:
    """Drops revocations older than any token that could still be used, some at a time."""
    past = Match("lt", before)
    asked = Page({"created_at": past, "updated_at": past}, _OLDEST, limit=_SLICE)
    old: list[Revocation] | None = None
    while old is None or len(old) == _SLICE:
        async with store.tx() as tx:
            old = await REVOCATIONS.list(tx, asked)
            for r in old:
                await REVOCATIONS.delete(tx, r)

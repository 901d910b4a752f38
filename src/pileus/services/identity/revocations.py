"""What was revoked: a moment before which tokens of a user, project, domain or audit chain are worth nothing.

One row per subject, raised in the transaction that makes tokens worthless, and read by the one place that validates.
"""

from __future__ import annotations

from collections.abc import Iterable

from pileus.kernel import auth
from pileus.kernel.store import Page, Reader, Record, Table, Tx
from pileus.kernel.world import seconds_of


class Revocation(Record, kw_only=True, frozen=True):
    """The id is `kind:id`; `before_us` is the moment in microseconds since the epoch, that moment included."""

    before_us: int


REVOCATIONS = Table("identity_revocations", Revocation, noun="revocation")


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


async def forget(tx: Tx, before: str) -> int:
    """Drops revocations older than any token that could still be used; how many."""
    page = Page(limit=10_000)
    old = [r for r in await REVOCATIONS.list(tx, page) if max(r.created_at, r.updated_at) < before]
    for r in old:
        await REVOCATIONS.delete(tx, r)
    return len(old)

"""A trust: what one user lends another, and how that one may lend it on. Its operations are in `trusts`.

What is passed on shrinks: fewer roles, no later end, no impersonation where there was none, one step less.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec import structs

from pileus.kernel.faults import Forbidden, Invalid
from pileus.kernel.store import Reader, Record

from .users import USERS
from .wire import NounTable

DEEPEST = 3  # times that a trust may be passed on, as upstream's default


class Trust(Record, kw_only=True, frozen=True):
    """The trustor lends some roles on a project. `remaining_uses` -1 and `expires_at` "" mean without end.

    `redelegation_count` says how often it may be passed on, `redelegated_trust_id` from which it was.
    """

    trustor_user_id: str
    trustee_user_id: str
    project_id: str = ""
    impersonation: bool = False
    role_ids: list[str] = []
    expires_at: str = ""
    remaining_uses: int = -1
    redelegation_count: int = 0
    redelegated_trust_id: str = ""


TRUSTS = NounTable(
    "identity_trusts",
    Trust,
    columns=("trustor_user_id", "trustee_user_id", "project_id", "redelegated_trust_id"),
    indexes=(("trustor_user_id",), ("trustee_user_id",), ("project_id",)),
    noun="trust",
)


def checked_count(allowed: bool, asked: int | None, remaining_uses: int | None) -> int:
    """How often a new trust may be passed on; 0 unless it is `allowed`. Raises Forbidden, Invalid."""
    if not allowed or asked == 0:
        return 0
    if asked is not None and asked > DEEPEST:
        raise Forbidden(
            f"Requested redelegation depth of {asked} is greater than allowed {DEEPEST}"
        )
    if remaining_uses is not None:
        raise Invalid("remaining_uses must not be set if redelegation is allowed")
    return DEEPEST if asked is None else asked


async def ancestors(db: Reader, trust: Trust) -> list[Trust] | None:
    """The trusts that it was passed on from, the nearest first; None if one is gone or its trustee disabled."""
    found: list[Trust] = []
    at = trust
    while at.redelegated_trust_id:
        parent = await TRUSTS.find(db, at.redelegated_trust_id)
        user = await USERS.find(db, parent.trustee_user_id) if parent is not None else None
        if parent is None or user is None or not user.enabled or len(found) > DEEPEST:
            return None
        found.append(parent)
        at = parent
    return found


def pass_on(parent: Trust, trust: Trust, asked: int | None, known_roles: Collection[str]) -> Trust:
    """The new trust as the parent allows it; `known_roles` are the parent's with those implied. Raises Forbidden."""
    if not 0 < parent.redelegation_count <= DEEPEST:
        raise Forbidden(
            f"Remaining redelegation depth of {parent.redelegation_count} "
            f"out of allowed range of [0..{DEEPEST}]"
        )
    if trust.remaining_uses >= 0:
        raise Forbidden(
            f'Field "remaining_uses" is set to {trust.remaining_uses} while it must not be set '
            "in order to redelegate a trust"
        )
    if trust.project_id != parent.project_id:
        raise Forbidden(f"The redelegated trust is for project {parent.project_id}, not another")
    left = parent.redelegation_count - 1
    if trust.redelegation_count and asked not in (None, left):
        raise Forbidden(
            'Modifying "redelegation_count" upon redelegation is forbidden. '
            "Omitting this parameter is advised."
        )
    if parent.expires_at and trust.expires_at > parent.expires_at:
        raise Forbidden("Requested expiration time is more than redelegated trust can provide")
    if not set(trust.role_ids) <= set(known_roles):
        raise Forbidden("Some of requested roles are not in redelegated trust")
    if trust.impersonation and not parent.impersonation:
        raise Forbidden(
            "Impersonation is not allowed because redelegated trust does not specify "
            f"impersonation. Redelegated trust id: {parent.id}"
        )
    return structs.replace(
        trust,
        expires_at=trust.expires_at or parent.expires_at,
        redelegation_count=left if trust.redelegation_count else 0,
        redelegated_trust_id=parent.id,
    )

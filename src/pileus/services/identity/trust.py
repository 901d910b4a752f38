"""A trust: what one user lends another. Its operations are in `trusts`, how it is passed on in `redelegation`."""

from __future__ import annotations

from pileus.kernel.store import Record

from .wire import NounTable


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

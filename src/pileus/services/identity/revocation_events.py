"""What services that check tokens themselves ask for: what was revoked, and certificates, which are no more.

https://docs.openstack.org/api-ref/identity/v3-ext/#os-revoke-api
"""

from __future__ import annotations

from typing import Any

from pileus.kernel.faults import Forbidden, Gone, Invalid
from pileus.kernel.resources import PUBLIC, Context, operation
from pileus.kernel.store import Page, Record
from pileus.kernel.world import seconds_of

from .claims import stamp_us
from .revocations import REVOCATIONS, Revocation
from .wire import EVERY, OLDEST, Noun, in_slices

_KEYS = {
    "user": "user_id",
    "project": "project_id",
    "domain": "domain_id",
    "audit": "audit_id",
    "chain": "audit_chain_id",
}


class RevocationEvents(Noun[Revocation]):
    table = REVOCATIONS
    rules = {"identity:list_revoke_events": "rule:service_or_admin"}
    scopes = {name: ("system", "project") for name in rules}

    @operation("GET", "/OS-REVOKE/events", "identity:list_revoke_events")
    async def index(self, ctx: Context) -> dict[str, Any]:
        since_us = _since(ctx.query.get("since"))
        events: list[dict[str, Any]] = []
        async for rows in in_slices(ctx.runtime, REVOCATIONS, Page({}, OLDEST, limit=EVERY)):
            events += [_view(r) for r in rows if r.before_us >= since_us]
        links = {"next": None, "self": ctx.url, "previous": None}
        return {"events": events, "links": links}


def _since(text: str) -> int:
    """Microseconds since the epoch. Raises Invalid."""
    try:
        return round(seconds_of(text) * 1_000_000) if text else 0
    except ValueError:
        raise Invalid(f"invalidate date format {text[:64]}: it must be ISO 8601.") from None


def _view(r: Revocation) -> dict[str, Any]:
    kind, _, id = r.id.partition(":")
    at = stamp_us(r.before_us)
    return {_KEYS[kind]: id, "issued_before": at, "revoked_at": at}


class Certificates(Noun[Record]):
    """What PKI tokens needed: OS-SIMPLE-CERT and OS-PKI answer as upstream's do today."""

    @operation("GET", "/OS-SIMPLE-CERT/ca", PUBLIC)
    @operation("GET", "/OS-SIMPLE-CERT/certificates", PUBLIC)
    async def certificates(self, ctx: Context) -> None:
        raise Gone("This API is no longer available due to the removal of support for PKI tokens.")

    @operation("GET", "/auth/tokens/OS-PKI/revoked", PUBLIC)
    async def revoked(self, ctx: Context) -> None:
        raise Forbidden("You are not authorized to perform the requested action.")

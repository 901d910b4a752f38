"""An access rule, and how an application credential gets those that it is asked to be narrowed to.

A rule never changes, so a credential keeps copies; the kernel asks them at every request (`pileus.kernel.access_rules`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pileus.kernel import access_rules
from pileus.kernel.faults import Invalid
from pileus.kernel.resources import Context
from pileus.kernel.store import Record, Tx, Unique

from .wire import NounTable, PlainId

HEADER = "openstack-identity-access-rules"  # who validates tokens says with it that he heeds rules


class AccessRule(Record, kw_only=True, frozen=True):
    user_id: str
    service: str
    method: str
    path: str


def _taken(rule: AccessRule) -> str:
    return f"User {rule.user_id} has this access rule already."


ACCESS_RULES = NounTable(
    "identity_access_rules",
    AccessRule,
    columns=("user_id", "service", "method", "path"),
    unique=(Unique(("user_id", "service", "method", "path"), _taken),),
    noun="Access Rule",
)


class AskedRule(msgspec.Struct, forbid_unknown_fields=True):
    """One that is known by its id, or one that is described."""

    id: PlainId | None = None
    service: PlainId | None = None
    method: Literal["DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"] | None = None
    path: Annotated[str, Meta(max_length=225, pattern="^/")] | None = None


def view(rule: AccessRule) -> dict[str, Any]:
    return {"id": rule.id, "service": rule.service, "path": rule.path, "method": rule.method}


def narrowing(rules: Sequence[AccessRule]) -> tuple[access_rules.AccessRule, ...] | None:
    """The rules as the kernel asks them; None where there are none."""
    if not rules:
        return None
    return tuple(
        access_rules.AccessRule(service=r.service, method=r.method, path=r.path) for r in rules
    )


async def kept(ctx: Context, tx: Tx, user_id: str, asked: Sequence[AskedRule]) -> list[AccessRule]:
    """The user's rules asked for, made where he has them not yet. Raises NotFound, Invalid."""
    found = [await _kept(ctx, tx, user_id, one) for one in asked]
    return list({rule.id: rule for rule in found}.values())


async def _kept(ctx: Context, tx: Tx, user_id: str, asked: AskedRule) -> AccessRule:
    if asked.id is not None:
        known = await ACCESS_RULES.find(tx, asked.id)
        if known is not None and known.user_id == user_id:
            return known
        if known is not None or asked.service is None:
            raise ACCESS_RULES.missing(asked.id)
    if asked.service is None or asked.method is None or asked.path is None:
        raise Invalid(
            "Invalid input for field 'access_rules': each needs service, method and path, "
            "or the id of one that is known."
        )
    what: dict[str, Any] = {"service": asked.service, "method": asked.method, "path": asked.path}
    known = await ACCESS_RULES.one(tx, user_id=user_id, **what)
    if known is not None:
        return known
    id = asked.id or ctx.runtime.world.new_hex()
    return await ACCESS_RULES.insert(tx, AccessRule(id=id, user_id=user_id, **what))

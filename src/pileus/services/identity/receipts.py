"""Receipts: what somebody has proved so far, where his user's multi-factor rules ask for more.

A receipt comes with the 401 and goes with the next request to log in. It is sealed as tokens are, and is none:
https://docs.openstack.org/api-ref/identity/v3/#multi-step-authentication
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from pileus.kernel.runtime import Runtime

from .claims import pack_methods, stamp_us, unpack_methods
from .keys import KEYRING, TOKEN
from .revocations import ended
from .users import RULES, User

HEADER = "openstack-auth-receipt"
_FORMAT = "receipt 1"
_LONGEST = 1024


class Receipt(msgspec.Struct, frozen=True, array_like=True):
    """Times are microseconds since the epoch."""

    format: str
    user_id: str
    methods: int
    issued_us: int
    expires_us: int


async def seal(runtime: Runtime, receipt: Receipt) -> str:
    return await runtime.contracts.get(KEYRING).seal(TOKEN, msgspec.msgpack.encode(receipt))


def made(user: User, methods: Collection[str], now_us: int, life_s: int) -> Receipt:
    return Receipt(_FORMAT, user.id, pack_methods(methods), now_us, now_us + life_s * 1_000_000)


async def met(runtime: Runtime, text: str, user: User, now_us: int) -> tuple[str, ...] | None:
    """The methods that a receipt of this user stands for; None if it stands for nothing (any more)."""
    if len(text) > _LONGEST:
        return None
    content = await runtime.contracts.get(KEYRING).open(TOKEN, text)
    if content is None:
        return None
    try:
        receipt = msgspec.msgpack.decode(content, type=Receipt)
    except msgspec.ValidationError:
        return None  # sealed with the same keys, but no receipt
    if receipt.format != _FORMAT or receipt.user_id != user.id or receipt.expires_us <= now_us:
        return None
    if await ended(runtime.store, [f"user:{user.id}"]) >= receipt.issued_us:
        return None  # his password is another now, or he was shut out meanwhile
    return unpack_methods(receipt.methods)


def rules_of(user: User, known: Collection[str]) -> list[set[str]]:
    """The rules in force for a user. Methods that this cloud does not know do not count, lest they lock him out."""
    if not user.options.get("multi_factor_auth_enabled", True):
        return []
    rules = [set(rule) & set(known) for rule in user.options.get(RULES) or []]
    return [rule for rule in rules if rule]


def view(user: User, domain: Any, receipt: Receipt, rules: Sequence[set[str]]) -> dict[str, Any]:
    methods = unpack_methods(receipt.methods)
    return {
        "receipt": {
            "methods": list(methods),
            "user": {
                "id": user.id,
                "name": user.name,
                "domain": {"id": domain.id, "name": domain.name},
            },
            "expires_at": stamp_us(receipt.expires_us),
            "issued_at": stamp_us(receipt.issued_us),
        },
        "required_auth_methods": [sorted(r) for r in rules if not r.isdisjoint(methods)],
    }

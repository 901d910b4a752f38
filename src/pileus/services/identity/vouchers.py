"""Vouchers: by which identity providers and protocols a user can come, and the ids that he has there.

The API calls them a user's `federated` objects: https://docs.openstack.org/api-ref/identity/v3/#create-user
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta

from pileus.kernel.contracts import Contract
from pileus.kernel.query import Query
from pileus.kernel.resources import Context
from pileus.kernel.store import Match, Tx

_FILTERS = ("idp_id", "protocol_id", "unique_id")
_Text = Annotated[str, Meta(min_length=1, max_length=255)]


class ProtocolRef(msgspec.Struct):
    protocol_id: _Text
    unique_id: _Text


class ProviderRef(msgspec.Struct):
    """An item of `federated`."""

    idp_id: _Text
    protocols: Annotated[list[ProtocolRef], Meta(min_length=1)]


class Voucher(msgspec.Struct, frozen=True):
    idp_id: str
    protocol_id: str
    unique_id: str

    @property
    def key(self) -> str:
        """What finds the one user who has it."""
        parts = msgspec.json.encode((self.idp_id, self.protocol_id, self.unique_id))
        return f"key:{hashlib.sha256(parts).hexdigest()}"

    @property
    def door(self) -> str:
        """What finds all users who come by its protocol of its provider."""
        return door(self.idp_id, self.protocol_id)


def door(idp_id: str, protocol_id: str) -> str:
    return f"door:{idp_id}/{protocol_id}"


def vouchers_of(refs: Iterable[ProviderRef]) -> list[Voucher]:
    """Each once."""
    found = [Voucher(r.idp_id, p.protocol_id, p.unique_id) for r in refs for p in r.protocols]
    return list(dict.fromkeys(found))


def found_by(vouchers: Iterable[Voucher]) -> list[str]:
    """The words under which a user with these vouchers is found."""
    words = [w for v in vouchers for w in (v.key, v.door, *_words(v))]
    return list(dict.fromkeys(words))


def _words(v: Voucher) -> list[str]:
    return [f"{name}:{getattr(v, name)}" for name in _FILTERS]


def asked(query: Query) -> dict[str, Match]:
    """The filter of a list of users that asks for `idp_id`, `protocol_id` or `unique_id`."""
    words = [f"{name}:{query.get(name)}" for name in _FILTERS if query.get(name)]
    return {"vouchers": Match("all", words)} if words else {}


def view(vouchers: Iterable[Voucher]) -> list[dict[str, Any]]:
    """By provider, as the API shows them."""
    providers: dict[str, list[dict[str, str]]] = {}
    for v in vouchers:
        shown = {"protocol_id": v.protocol_id, "unique_id": v.unique_id}
        providers.setdefault(v.idp_id, []).append(shown)
    return [{"idp_id": id, "protocols": protocols} for id, protocols in providers.items()]


class Vouching(Protocol):
    """What federation knows and users ask."""

    async def check(
        self, ctx: Context, tx: Tx, user_id: str, domain_id: str, vouchers: Sequence[Voucher]
    ) -> None:
        """Whether a user may have them. Raises Invalid, Forbidden, Conflict."""


VOUCHING = Contract("identity.vouching", Vouching)  # type: ignore[type-abstract]

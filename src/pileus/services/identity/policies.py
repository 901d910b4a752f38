"""Policies: blobs that Keystone keeps for others. https://docs.openstack.org/api-ref/identity/v3/#policies"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta

from pileus.kernel.query import Filter
from pileus.kernel.store import Record

from .kept import Kept, changing
from .wire import NounBody, NounTable, listing


class Policy(Record, kw_only=True, frozen=True):
    blob: str
    type: str
    extra: dict[str, Any] = {}


POLICIES = NounTable("identity_policies", Policy, columns=("type",), noun="policy")


class CreatePolicy(NounBody, kw_only=True):
    root: ClassVar[str] = "policy"
    blob: str
    type: Annotated[str, Meta(min_length=1, max_length=255)]


class Policies(Kept[Policy]):
    table = POLICIES
    path = "policies"
    id_param = "policy_id"
    creates, updates = CreatePolicy, changing(CreatePolicy)
    listing = listing({"type": Filter()})

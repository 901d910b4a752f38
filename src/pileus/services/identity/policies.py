"""Policies: blobs that Keystone keeps for others. https://docs.openstack.org/api-ref/identity/v3/#policies"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import UNSET, Meta, UnsetType

from pileus.kernel.query import Filter
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Record

from .wire import (
    ADMIN_OR_SYSTEM_READER,
    Noun,
    NounBody,
    NounTable,
    changed,
    changes_of,
    extras,
    linked,
    listing,
    removed,
)

Type = Annotated[str, Meta(min_length=1, max_length=255)]


class Policy(Record, kw_only=True, frozen=True):
    blob: str
    type: str
    extra: dict[str, Any] = {}


POLICIES = NounTable("identity_policies", Policy, columns=("type",), noun="policy")


class CreatePolicy(NounBody, kw_only=True):
    root: ClassVar[str] = "policy"
    blob: str
    type: Type


class UpdatePolicy(NounBody, kw_only=True):
    root: ClassVar[str] = "policy"
    blob: str | UnsetType = UNSET
    type: Type | UnsetType = UNSET


def view(ctx: Context, p: Policy) -> dict[str, Any]:
    return linked(ctx, "policies", {**p.extra, "id": p.id, "blob": p.blob, "type": p.type})


class Policies(Noun[Policy]):
    table = POLICIES
    id_param = "policy_id"
    rules = {
        "identity:get_policy": ADMIN_OR_SYSTEM_READER,
        "identity:list_policies": ADMIN_OR_SYSTEM_READER,
        "identity:create_policy": "rule:admin_required",
        "identity:update_policy": "rule:admin_required",
        "identity:delete_policy": "rule:admin_required",
    }
    scopes = {name: ("system", "project") for name in rules}
    listing = listing({"type": Filter()})

    @operation("GET", "/policies", "identity:list_policies")
    async def index(self, ctx: Context) -> dict[str, Any]:
        return await self.index_of(ctx, "policies", view)

    @operation("POST", "/policies", "identity:create_policy", status=201)
    async def create(self, ctx: Context, body: CreatePolicy) -> dict[str, Any]:
        id = ctx.runtime.world.new_hex()
        policy = Policy(id=id, blob=body.blob, type=body.type, extra=extras(ctx, body))
        async with ctx.runtime.store.tx() as tx:
            policy = await POLICIES.insert(tx, policy)
            await changed(tx, "policy", policy.id, "created")
        return {"policy": view(ctx, policy)}

    @operation("GET", "/policies/{policy_id}", "identity:get_policy")
    async def show(self, ctx: Context, policy: Policy) -> dict[str, Any]:
        return {"policy": view(ctx, policy)}

    @operation("PATCH", "/policies/{policy_id}", "identity:update_policy")
    async def update(self, ctx: Context, policy: Policy, body: UpdatePolicy) -> dict[str, Any]:
        changes = changes_of(ctx, policy, body)
        async with ctx.runtime.store.tx() as tx:
            policy = await POLICIES.change(tx, policy, **changes)
            await changed(tx, "policy", policy.id, "updated")
        return {"policy": view(ctx, policy)}

    @operation("DELETE", "/policies/{policy_id}", "identity:delete_policy")
    async def delete(self, ctx: Context, policy: Policy) -> None:
        async with ctx.runtime.store.tx() as tx:
            await removed(ctx, tx, "policy", policy.id)
            await POLICIES.delete(tx, policy)

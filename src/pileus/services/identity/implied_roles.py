"""Roles that imply roles: https://docs.openstack.org/api-ref/identity/v3/#roles"""

from __future__ import annotations

from typing import Any

from pileus.kernel.faults import Forbidden, NotFound
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Reader, Tx

from .roles import IMPLICATIONS, ROLES, Implication, Role, implication, reachable, revise
from .wire import ADMIN_OR_SYSTEM_READER, Noun

_ROOT = "admin"  # nothing may imply it
_PATH = "/roles/{prior_role_id}/implies"


class ImpliedRoles(Noun[Role]):
    table = ROLES
    id_param = "prior_role_id"
    rules = {
        "identity:get_implied_role": ADMIN_OR_SYSTEM_READER,
        "identity:list_implied_roles": ADMIN_OR_SYSTEM_READER,
        "identity:list_role_inference_rules": ADMIN_OR_SYSTEM_READER,
        "identity:check_implied_role": ADMIN_OR_SYSTEM_READER,
        "identity:create_implied_role": "rule:admin_required",
        "identity:delete_implied_role": "rule:admin_required",
    }
    discloses = frozenset(rules)
    scopes = dict.fromkeys(rules, ("system", "project"))

    @operation("GET", _PATH, "identity:list_implied_roles")
    async def index(self, ctx: Context, prior: Role) -> dict[str, Any]:
        found = await IMPLICATIONS.all(ctx.runtime.store, prior_id=prior.id)
        implied = [await ROLES.get(ctx.runtime.store, one.implied_id) for one in found]
        return {"role_inference": _inference(ctx, prior, implied), "links": {"self": ctx.url}}

    @operation("GET", _PATH + "/{implied_role_id}", "identity:get_implied_role")
    async def show(self, ctx: Context, prior: Role, implied_role_id: str) -> dict[str, Any]:
        await _get(ctx.runtime.store, prior, implied_role_id)
        return _pair(ctx, prior, await ROLES.get(ctx.runtime.store, implied_role_id))

    @operation("HEAD", _PATH + "/{implied_role_id}", "identity:check_implied_role")
    async def check(self, ctx: Context, prior: Role, implied_role_id: str) -> None:
        await _get(ctx.runtime.store, prior, implied_role_id)

    @operation("PUT", _PATH + "/{implied_role_id}", "identity:create_implied_role", status=201)
    async def create(self, ctx: Context, prior: Role, implied_role_id: str) -> dict[str, Any]:
        implied = await ROLES.get(ctx.runtime.store, implied_role_id)
        wanted = implication(prior, implied)
        async with ctx.runtime.store.tx() as tx:
            await tx.lock("identity.roles")
            await _check(tx, prior, implied)
            if await IMPLICATIONS.find(tx, wanted.id) is None:
                await IMPLICATIONS.insert(tx, wanted)
                await revise(tx)
        return _pair(ctx, prior, implied)

    @operation("DELETE", _PATH + "/{implied_role_id}", "identity:delete_implied_role")
    async def delete(self, ctx: Context, prior: Role, implied_role_id: str) -> None:
        async with ctx.runtime.store.tx() as tx:
            await IMPLICATIONS.delete(tx, await _get(tx, prior, implied_role_id))
            await revise(tx)

    @operation("GET", "/role_inferences", "identity:list_role_inference_rules")
    async def inferences(self, ctx: Context) -> dict[str, Any]:
        store = ctx.runtime.store
        roles = {r.id: r for r in await ROLES.all(store)}
        implied: dict[str, list[Role]] = {}
        for one in await IMPLICATIONS.all(store):
            implied.setdefault(one.prior_id, []).append(roles[one.implied_id])
        found = [_inference(ctx, roles[prior], those) for prior, those in implied.items()]
        return {"role_inferences": found, "links": {"self": ctx.url}}


async def _get(db: Reader, prior: Role, implied_id: str) -> Implication:
    found = await IMPLICATIONS.find(db, f"{prior.id}:{implied_id}")
    if found is None:
        raise NotFound(f"{prior.id} does not imply {implied_id}.")
    return found


async def _check(tx: Tx, prior: Role, implied: Role) -> None:
    """Raises Forbidden for what would imply the root role, lead from all domains into one or go round in a circle."""
    if implied.name.lower() == _ROOT:
        raise Forbidden(f"Role {implied.id} cannot be an implied role")
    if implied.domain_id and not prior.domain_id:
        raise Forbidden("Global role cannot imply a domain-specific role")
    steps: dict[str, set[str]] = {}
    for one in await IMPLICATIONS.all(tx):
        steps.setdefault(one.prior_id, set()).add(one.implied_id)
    if prior.id in reachable(steps, implied.id):
        raise Forbidden(f"Role {prior.id} would imply itself through {implied.id}")


def _short(ctx: Context, role: Role) -> dict[str, Any]:
    return {"id": role.id, "name": role.name, "links": {"self": f"{ctx.base}/roles/{role.id}"}}


def _inference(ctx: Context, prior: Role, implied: list[Role]) -> dict[str, Any]:
    return {"prior_role": _short(ctx, prior), "implies": [_short(ctx, r) for r in implied]}


def _pair(ctx: Context, prior: Role, implied: Role) -> dict[str, Any]:
    return {
        "role_inference": {"prior_role": _short(ctx, prior), "implies": _short(ctx, implied)},
        "links": {"self": ctx.url},
    }

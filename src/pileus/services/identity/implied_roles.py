"""Roles that imply roles: https://docs.openstack.org/api-ref/identity/v3/#roles"""

from __future__ import annotations

from typing import Any

from pileus.kernel.faults import Forbidden, NotFound
from pileus.kernel.resources import Answer, Context, operation
from pileus.kernel.store import Tx

from .roles import IMPLICATIONS, ROLES, Implication, Role, reachable, revise
from .wire import ADMIN_OR_SYSTEM_READER, Noun

_NAMES = (
    "get_implied_role",
    "list_implied_roles",
    "list_role_inference_rules",
    "check_implied_role",
)
_ROOT = "admin"  # nothing may imply it


class ImpliedRoles(Noun[Role]):
    table = ROLES
    id_param = "prior_role_id"
    rules = {
        **{f"identity:{name}": ADMIN_OR_SYSTEM_READER for name in _NAMES},
        "identity:create_implied_role": "rule:admin_required",
        "identity:delete_implied_role": "rule:admin_required",
    }
    discloses = frozenset(rules)
    scopes = {
        f"identity:{name}": ("system", "project")
        for name in (*_NAMES, "create_implied_role", "delete_implied_role")
    }

    @operation("GET", "/roles/{prior_role_id}/implies", "identity:list_implied_roles")
    async def index(self, ctx: Context, prior: Role) -> dict[str, Any]:
        implied = await _implied(ctx, prior)
        return {"role_inference": _inference(ctx, prior, implied), "links": {"self": ctx.url}}

    @operation(
        "GET", "/roles/{prior_role_id}/implies/{implied_role_id}", "identity:get_implied_role"
    )
    async def show(self, ctx: Context, prior: Role, implied_role_id: str) -> dict[str, Any]:
        if await IMPLICATIONS.find(ctx.runtime.store, f"{prior.id}:{implied_role_id}") is None:
            raise _missing(prior.id, implied_role_id)
        implied = await ROLES.get(ctx.runtime.store, implied_role_id)
        return _pair(ctx, prior, implied)

    @operation(
        "HEAD", "/roles/{prior_role_id}/implies/{implied_role_id}", "identity:check_implied_role"
    )
    async def check(self, ctx: Context, prior: Role, implied_role_id: str) -> None:
        if await IMPLICATIONS.find(ctx.runtime.store, f"{prior.id}:{implied_role_id}") is None:
            raise _missing(prior.id, implied_role_id)

    @operation(
        "PUT", "/roles/{prior_role_id}/implies/{implied_role_id}", "identity:create_implied_role"
    )
    async def create(self, ctx: Context, prior: Role, implied_role_id: str) -> Answer:
        implied = await ROLES.get(ctx.runtime.store, implied_role_id)
        async with ctx.runtime.store.tx() as tx:
            await tx.lock("identity.roles")
            await _check(tx, prior, implied)
            id = f"{prior.id}:{implied.id}"
            if await IMPLICATIONS.find(tx, id) is None:
                wanted = Implication(id=id, prior_id=prior.id, implied_id=implied.id)
                await IMPLICATIONS.insert(tx, wanted)
                await revise(tx)
        return Answer(_pair(ctx, prior, implied), status=201)

    @operation(
        "DELETE",
        "/roles/{prior_role_id}/implies/{implied_role_id}",
        "identity:delete_implied_role",
    )
    async def delete(self, ctx: Context, prior: Role, implied_role_id: str) -> None:
        async with ctx.runtime.store.tx() as tx:
            known = await IMPLICATIONS.find(tx, f"{prior.id}:{implied_role_id}")
            if known is None:
                raise _missing(prior.id, implied_role_id)
            await IMPLICATIONS.delete(tx, known)
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


async def _implied(ctx: Context, prior: Role) -> list[Role]:
    found = await IMPLICATIONS.all(ctx.runtime.store, prior_id=prior.id)
    return [await ROLES.get(ctx.runtime.store, one.implied_id) for one in found]


def _short(ctx: Context, role: Role) -> dict[str, Any]:
    return {"id": role.id, "name": role.name, "links": {"self": f"{ctx.base}/roles/{role.id}"}}


def _inference(ctx: Context, prior: Role, implied: list[Role]) -> dict[str, Any]:
    return {"prior_role": _short(ctx, prior), "implies": [_short(ctx, r) for r in implied]}


def _pair(ctx: Context, prior: Role, implied: Role) -> dict[str, Any]:
    return {
        "role_inference": {"prior_role": _short(ctx, prior), "implies": _short(ctx, implied)},
        "links": {"self": ctx.url},
    }


def _missing(prior_id: str, implied_id: str) -> NotFound:
    return NotFound(f"{prior_id} does not imply {implied_id}.")

"""Quotas of projects (API reference: quotas)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import sqlalchemy as sa
from msgspec import UNSET, UnsetType
from sqlalchemy.sql.base import Executable

from pileus.kernel.faults import Invalid, NotFound
from pileus.kernel.quota import DEFAULTS, LIMITS, clear_limits, limits, set_limits, usage
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.store import Reader, Table

from .address_groups import ADDRESS_GROUPS
from .attributes import Attributes
from .floating_ip import FLOATING_IPS
from .network import NETWORKS
from .port import PORTS
from .rbac_policy import RBAC_POLICIES
from .resource import ADMIN
from .router import ROUTERS
from .security_group import GROUPS, RULES
from .subnet import SUBNETS
from .subnetpool import SUBNETPOOLS
from .trunk import TRUNKS

_SERVICE = "network"
_TABLES: tuple[Table[Any], ...] = (
    NETWORKS,
    SUBNETS,
    PORTS,
    ROUTERS,
    FLOATING_IPS,
    GROUPS,
    RULES,
    SUBNETPOOLS,
    RBAC_POLICIES,
    TRUNKS,
    ADDRESS_GROUPS,
)
QUOTAS = {q.name: q for table in _TABLES for q in table.quotas}
_MOST = 2_147_483_647  # upstream's column


class UpdateQuota(Attributes):
    root: ClassVar[str] = "quota"
    creates = False
    fixed = frozenset({"project_id", "tenant_id"})

    network: int | UnsetType = UNSET
    subnet: int | UnsetType = UNSET
    port: int | UnsetType = UNSET
    router: int | UnsetType = UNSET
    floatingip: int | UnsetType = UNSET
    security_group: int | UnsetType = UNSET
    security_group_rule: int | UnsetType = UNSET
    subnetpool: int | UnsetType = UNSET
    rbac_policy: int | UnsetType = UNSET
    trunk: int | UnsetType = UNSET
    address_group: int | UnsetType = UNSET
    force: bool | UnsetType = UNSET
    check_limit: bool | UnsetType = UNSET


async def _limits(db: Reader, project_id: str) -> dict[str, int]:
    """Every limit that holds for the project."""
    found = {name: q.default for name, q in QUOTAS.items()}
    found |= await limits(db, _SERVICE, DEFAULTS)
    if project_id:
        found |= await limits(db, _SERVICE, project_id)
    return {name: found[name] for name in QUOTAS}


class Quotas(Resource[Any]):
    """Rows are the kernel's; a project without limits of its own has the defaults."""

    id_param = "project_id"
    rules = {
        "get_quota": "(rule:admin_only) or (role:manager and project_id:%(project_id)s)",
        "update_quota": ADMIN,
        "delete_quota": ADMIN,
    }

    def scope_target(self, ctx: Context, params: Mapping[str, str]) -> Mapping[str, object]:
        return (
            {"project_id": params["project_id"]} if "project_id" in params else {"project_id": ""}
        )

    @operation("GET", "/quotas", "get_quota")
    async def index(self, ctx: Context) -> Any:
        store = ctx.runtime.store
        found = []
        for project in await _projects(store):
            own = {"project_id": project, "tenant_id": project}
            found.append(own | await _limits(store, project))
        return {"quotas": found}

    @operation("GET", "/quotas/{project_id}", "regular_user")
    async def show(self, ctx: Context, project_id: str) -> Any:
        _own(ctx, project_id)
        return {"quota": await _limits(ctx.runtime.store, project_id)}

    @operation("GET", "/quotas/{project_id}/default", "regular_user")
    async def default(self, ctx: Context, project_id: str) -> Any:
        _own(ctx, project_id)
        return {"quota": await _limits(ctx.runtime.store, DEFAULTS)}

    @operation("GET", "/quotas/{project_id}/details", "regular_user")
    @operation("GET", "/quotas/{project_id}/details.json", "regular_user")
    async def details(self, ctx: Context, project_id: str) -> Any:
        _own(ctx, project_id)
        store = ctx.runtime.store
        used = await usage(store, _SERVICE, project_id)
        allowed = await _limits(store, project_id)
        found = {
            name: {"limit": limit, "used": used.get(name, 0), "reserved": 0}
            for name, limit in allowed.items()
        }
        return {"quota": found}

    @operation("PUT", "/quotas/{project_id}", "update_quota")
    async def update(self, ctx: Context, project_id: str, body: UpdateQuota) -> Any:
        given = {n: v for n, v in body.given().items() if n in QUOTAS}
        for name, limit in given.items():
            if not -1 <= limit <= _MOST:
                raise Invalid(
                    f"Invalid input for {name}. Reason: '{limit}' must be from -1 to {_MOST}."
                )
        async with ctx.runtime.store.tx() as tx:
            used = {} if body.force is True else await usage(tx, _SERVICE, project_id)
            for name, limit in given.items():
                if 0 <= limit < used.get(name, 0):
                    raise Invalid(
                        f"Quota limit {limit} for {name} must be greater than or equal to already "
                        f"used {used[name]}"
                    )
            await set_limits(tx, _SERVICE, project_id, given)
            found = await _limits(tx, project_id)
        return {"quota": found}

    @operation("DELETE", "/quotas/{project_id}", "delete_quota")
    async def delete(self, ctx: Context, project_id: str) -> None:
        store = ctx.runtime.store
        if not await limits(store, _SERVICE, project_id):
            raise NotFound(
                f"Quota for project {project_id} could not be found.", code="TenantQuotaNotFound"
            )
        async with store.tx() as tx:
            await clear_limits(tx, _SERVICE, project_id)


def _own(ctx: Context, project_id: str) -> None:
    """One's own project's need no rule. Raises Forbidden."""
    if project_id != ctx.caller.project_id:
        ctx.require("get_quota", {"project_id": project_id})


async def _projects(db: Reader) -> list[str]:
    t = LIMITS

    def build() -> Executable:
        mine = t.c.service == sa.bindparam("service")
        named = sa.select(t.c.project_id).distinct().where(mine, t.c.project_id != "")
        return named.order_by(t.c.project_id)

    rows = await db.rows(db.sql("network.quotas.projects", build), {"service": _SERVICE})
    return [row[0] for row in rows]

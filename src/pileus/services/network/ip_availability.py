"""How many addresses of networks are taken (API reference: network-ip-availability)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.base import Executable

from pileus.kernel.query import Filter, Listing
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.store import Page, Reader

from .network import NETWORKS, Network
from .resource import READER, SERVICE_TOO, projected
from .subnet import ALLOCATIONS, SUBNETS, Subnet

_LISTING = Listing(
    {
        "network_id": Filter("id"),
        "network_name": Filter("name"),
        "project_id": Filter(),
        "tenant_id": Filter("project_id"),
    },
    {},
    (("created_at", False), ("id", False)),
    default_limit=100_000,
    max_limit=100_000,
)


class IpAvailabilities(Resource[Network]):
    table = NETWORKS
    id_param = "network_id"
    rules = {"get_network_ip_availability": SERVICE_TOO}

    @operation("GET", "/network-ip-availabilities", "get_network_ip_availability")
    async def index(self, ctx: Context) -> Any:
        networks = await NETWORKS.list(ctx.runtime.store, _LISTING.parse(ctx.query))
        views = await _availabilities(ctx, networks, ctx.query.get("ip_version"))
        return {"network_ip_availabilities": [projected(ctx, v) for v in views]}

    @operation("GET", "/network-ip-availabilities/{network_id}", "get_network_ip_availability")
    async def show(self, ctx: Context, network: Network) -> Any:
        (view,) = await _availabilities(ctx, [network], "")
        return {"network_ip_availability": projected(ctx, view)}


async def _availabilities(
    ctx: Context, networks: Sequence[Network], version: str
) -> list[dict[str, Any]]:
    """With `version`: of subnets of that IP version, and networks that have such."""
    store = ctx.runtime.store
    ids = [n.id for n in networks]
    which = {"ip_version": int(version)} if version in ("4", "6") else {}
    subnets = await SUBNETS.all(store, network_id=ids, **which) if ids else []
    used = await _used(store) if subnets else {}
    found = []
    for network in networks:
        parts = [_part(s, used.get(s.id, 0)) for s in subnets if s.network_id == network.id]
        if version and not parts:
            continue
        found.append(
            {
                "network_id": network.id,
                "network_name": network.name,
                "project_id": network.project_id,
                "tenant_id": network.project_id,
                "total_ips": sum(p["total_ips"] for p in parts),
                "used_ips": sum(p["used_ips"] for p in parts),
                "subnet_ip_availability": parts,
            }
        )
    return found


class FloatingIpPools(Resource[Any]):
    rules = {"get_floatingip_pool": READER}

    @operation("GET", "/floatingip-pools", "get_floatingip_pool")
    async def index(self, ctx: Context) -> Any:
        mine = [ctx.caller.project_id]
        page = Page({"ip_version": 4}, scopes=({"external": 1}, {"external_to": mine}))
        pools = []
        for subnet in await SUBNETS.list(ctx.runtime.store, page):
            view = {
                "subnet_id": subnet.id,
                "subnet_name": subnet.name,
                "network_id": subnet.network_id,
                "cidr": subnet.cidr,
                "project_id": subnet.project_id,
                "tenant_id": subnet.project_id,
            }
            pools.append(projected(ctx, view))
        return {"floatingip_pools": pools}


def _part(subnet: Subnet, used: int) -> dict[str, Any]:
    pools = sum(last - first + 1 for first, last in subnet.ranges)
    return {
        "subnet_id": subnet.id,
        "subnet_name": subnet.name,
        "cidr": subnet.cidr,
        "ip_version": subnet.ip_version,
        "total_ips": pools or subnet.block.num_addresses,
        "used_ips": used,
    }


async def _used(db: Reader) -> dict[str, int]:
    """Addresses taken, by subnet."""
    t = ALLOCATIONS.t

    def build() -> Executable:
        return sa.select(t.c.subnet_id, sa.func.count()).group_by(t.c.subnet_id)

    rows = await db.rows(db.sql("network.allocations.counts", build), {})
    return {row[0]: row[1] for row in rows}

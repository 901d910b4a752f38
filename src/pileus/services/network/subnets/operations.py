"""Subnets: blocks of addresses of a network (API reference: subnets)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from pileus.kernel.events import emit
from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import Bulk
from pileus.kernel.store import Tx

from ..addressing import block
from ..attributes import Attributes
from ..network import NETWORKS, network_target
from ..networks import Networks, external_scopes, refuse_small_mtu
from ..port import PORTS, SERVICE_OWNERS
from ..refusals import subnet_in_use
from ..resource import (
    ADMIN,
    NetworkResource,
    hold,
    listing,
    owner_of,
    project_of,
    sees_all,
    standard,
)
from ..subnet import (
    SUBNETS,
    PoolRange,
    Route,
    Subnet,
    give_back,
    of_network,
    release_subnet,
    subnet_target,
    used_of,
)
from ..subnetpool import SubnetPool
from ..subnetpools import SubnetPools, cut, default_pool, scoped
from ..wiring import wake_networks
from .plan import Wanted, options, planned
from .routed import join_segment, move_to_segment, point_at_peers

_FIXED = frozenset(
    ["id", "created_at", "updated_at", "revision_number", "tags", "shared", "router:external"]
)
_SEEN = (
    "role:reader and project_id:%(project_id)s or rule:shared or rule:external_network or "
    "(rule:admin_only) or (role:reader and rule:network_owner)"
)
_CHANGED = (
    "role:member and project_id:%(project_id)s or (rule:admin_only) or "
    "(role:member and rule:network_owner)"
)


class CreateSubnet(Attributes):
    root: ClassVar[str] = "subnet"
    plural: ClassVar[str] = "subnets"
    fixed = _FIXED
    defaults = {"service_types": [], "segment_id": None}

    network_id: str
    ip_version: int | None = None
    cidr: str | None = None
    name: str = ""
    description: str = ""
    gateway_ip: str | UnsetType | None = UNSET
    enable_dhcp: bool = True
    allocation_pools: list[PoolRange] | UnsetType | None = UNSET
    dns_nameservers: list[str] | None = None
    host_routes: list[Route] | None = None
    ipv6_ra_mode: str | None = None
    ipv6_address_mode: str | None = None
    subnetpool_id: str | None = None
    use_default_subnetpool: bool = False
    prefixlen: int | None = None
    service_types: list[str] = []
    segment_id: str | None = None
    dns_publish_fixed_ip: bool = False
    project_id: str | UnsetType = UNSET


class UpdateSubnet(Attributes):
    root: ClassVar[str] = "subnet"
    creates = False
    fixed = _FIXED | frozenset(
        [
            "network_id",
            "ip_version",
            "cidr",
            "subnetpool_id",
            "prefixlen",
            "project_id",
            "tenant_id",
            "ipv6_ra_mode",
            "ipv6_address_mode",
            "use_default_subnetpool",
        ]
    )

    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    gateway_ip: str | UnsetType | None = UNSET
    enable_dhcp: bool | UnsetType = UNSET
    allocation_pools: list[PoolRange] | UnsetType = UNSET
    dns_nameservers: list[str] | UnsetType = UNSET
    host_routes: list[Route] | UnsetType = UNSET
    service_types: list[str] | UnsetType = UNSET
    segment_id: str | UnsetType | None = UNSET
    dns_publish_fixed_ip: bool | UnsetType = UNSET


class Subnets(NetworkResource[Subnet], path="/subnets"):
    table = SUBNETS
    noun = "subnet"
    plural = "subnets"
    id_param = "subnet_id"
    see = "get_subnet"
    hidden = ("segment_id",)
    rules = {
        "create_subnet": "(rule:admin_only) or (role:member and rule:network_owner)",
        "create_subnet:segment_id": ADMIN,
        "get_subnet": f"{_SEEN} or rule:service_api",
        "get_subnet:segment_id": ADMIN,
        "get_subnet:tags": _SEEN,
        "update_subnet": _CHANGED,
        "update_subnet:segment_id": ADMIN,
        "update_subnet:tags": _CHANGED,
        "delete_subnet": _CHANGED,
        "delete_subnet:tags": _CHANGED,
    }
    listing = listing(
        (
            "network_id",
            "cidr",
            "gateway_ip",
            "ipv6_ra_mode",
            "ipv6_address_mode",
            "subnetpool_id",
            "segment_id",
        ),
        ip_version=Filter(kind=int),
        enable_dhcp=Filter(kind=bool),
        shared=Filter(kind=bool),
        **{"router:external": Filter("external", kind=bool)},
    )

    def best_target(self, ctx: Context) -> Mapping[str, object]:
        return {**ctx.own, "network:project_id": ctx.caller.project_id}

    def target(self, ctx: Context, record: Subnet) -> Mapping[str, object]:
        return subnet_target(record, ctx.caller.project_id)

    def scopes_of(self, ctx: Context) -> tuple[Mapping[str, Any], ...]:
        if sees_all(ctx) or ctx.allows("service_api"):
            return ()
        of_my_networks = {"network_project_id": project_of(ctx.caller)}
        return (*super().scopes_of(ctx), of_my_networks, *external_scopes(ctx))

    def view(self, ctx: Context, record: Subnet) -> dict[str, Any]:
        s = record
        return standard(s) | {
            "network_id": s.network_id,
            "ip_version": s.ip_version,
            "cidr": s.cidr,
            "gateway_ip": s.gateway_ip or None,
            "enable_dhcp": s.enable_dhcp,
            "allocation_pools": s.allocation_pools,
            "dns_nameservers": s.dns_nameservers,
            "host_routes": s.host_routes,
            "ipv6_ra_mode": s.ipv6_ra_mode or None,
            "ipv6_address_mode": s.ipv6_address_mode or None,
            "subnetpool_id": s.subnetpool_id or None,
            "service_types": s.service_types,
            "dns_publish_fixed_ip": s.dns_publish_fixed_ip,
            "segment_id": s.segment_id or None,
            "router:external": s.external,
        }

    @operation("POST", "/subnets", "create_subnet", status=201)
    async def create(self, ctx: Context, body: Bulk[CreateSubnet]) -> Any:
        wanted = [
            await self._wanted(ctx, item, raw)
            for item, raw in zip(body.items, body.raw, strict=True)
        ]
        async with ctx.runtime.store.tx() as tx:
            await hold(tx, "networks", *(w.network_id for w in wanted))
            made = [await add_subnet(tx, w, ctx.runtime.world.new_id()) for w in wanted]
        await wake_networks(ctx.runtime, *(w.network_id for w in wanted))
        return await self.made(ctx, made, body.single)

    async def _wanted(self, ctx: Context, body: CreateSubnet, raw: dict[str, Any]) -> Wanted:
        """What a body asks for, as far as it can be judged before the network is held. Raises Invalid, NotFound."""
        owner = owner_of(ctx, body.project_id)
        network = await Networks().visible(ctx, body.network_id)
        target = {**network_target(network, ctx.caller.project_id), "project_id": owner}
        ctx.require("create_subnet", target)
        self.guard(ctx, "create", raw, target, CreateSubnet)
        pool: SubnetPool | None = None
        if body.subnetpool_id:
            pool = await SubnetPools().visible(ctx, body.subnetpool_id)
        if body.use_default_subnetpool:
            pool = await _default_pool(ctx, body)
        return planned(body, owner, network, pool)

    @operation("PUT", "/subnets/{subnet_id}", "update_subnet")
    async def update(self, ctx: Context, subnet: Subnet, body: UpdateSubnet) -> Any:
        self.match(ctx, subnet)
        raw = ctx.document["subnet"]
        self.guard(ctx, "update", raw, self.target(ctx, subnet), UpdateSubnet)
        changes = body.given()
        if "segment_id" in changes:
            changes["segment_id"] = changes["segment_id"] or ""
        changes = options(subnet, changes)
        async with ctx.runtime.store.tx() as tx:
            await hold(tx, "networks", subnet.network_id)
            subnet = await SUBNETS.get(tx, subnet.id)
            if changes.get("gateway_ip", subnet.gateway_ip) != subnet.gateway_ip:
                await _gateway_unused(tx, subnet)
            if changes.get("segment_id", subnet.segment_id) != subnet.segment_id:
                await move_to_segment(tx, subnet, changes["segment_id"])
            before = subnet.gateway_ip
            subnet = await SUBNETS.revise(tx, subnet, **changes)
            subnet = await point_at_peers(tx, subnet, was=before)
            await emit(tx, "subnet.update.end", subnet.project_id, id=subnet.id)
        await wake_networks(ctx.runtime, subnet.network_id)
        return await self.one(ctx, subnet)

    @operation("DELETE", "/subnets/{subnet_id}", "delete_subnet")
    async def delete(self, ctx: Context, subnet: Subnet) -> None:
        self.match(ctx, subnet)
        async with ctx.runtime.store.tx() as tx:
            await hold(tx, "networks", subnet.network_id)
            subnet = await SUBNETS.get(tx, subnet.id)
            await _free_ports(tx, subnet)
            await release_subnet(tx, subnet)
            network = await NETWORKS.get(tx, subnet.network_id)
            left = [s for s in network.subnets if s != subnet.id]
            family = {"network_id": network.id, "ip_version": subnet.ip_version}
            last = subnet.subnetpool_id and await SUBNETS.one(tx, **family) is None
            scope = {f"ipv{subnet.ip_version}_address_scope": ""} if last else {}
            routed = network.routed and bool(left)
            await NETWORKS.revise(tx, network, subnets=left, routed=routed, **scope)
            await point_at_peers(tx, subnet, gone=True)
            await emit(tx, "subnet.delete.end", subnet.project_id, id=subnet.id)
        await wake_networks(ctx.runtime, subnet.network_id)


async def _default_pool(ctx: Context, body: CreateSubnet) -> SubnetPool:
    """Raises Invalid if there is none, or it is unclear which."""
    if body.subnetpool_id:
        raise _bad("subnetpool_id and use_default_subnetpool cannot both be specified")
    version = block(body.cidr).version if body.cidr else body.ip_version
    if version is None:
        raise _bad("ip_version must be specified in the absence of cidr and subnetpool_id")
    pool = await default_pool(ctx.runtime.store, version)
    if pool is None:
        raise _bad(f"No default subnetpool found for IPv{version}")
    return pool


def _bad(message: str) -> Invalid:
    return Invalid(f"Bad subnets request: {message}.", code="BadRequest")


async def add_subnet(tx: Tx, wanted: Wanted, id: str) -> Subnet:
    """Writes the subnet. Its network is held. Raises Invalid for an overlap, Conflict."""
    network = await NETWORKS.get(tx, wanted.network_id)
    refuse_small_mtu(network.id, network.mtu, [wanted.ip_version])
    others = await SUBNETS.all(tx, network_id=network.id)
    if wanted.pool is not None:
        found = await cut(tx, wanted.pool, wanted.cidr, wanted.prefixlen, wanted.project_id)
        wanted = wanted.with_block(found)
    wanted.refuse_overlap(others)
    wanted.refuse_mixed_pools(others)
    if wanted.segment_id or network.routed:
        await join_segment(tx, network, wanted.segment_id, others, wanted.service_types)
    subnet = await SUBNETS.insert(tx, wanted.subnet(id, of_network(network)))
    scope = scoped(wanted.pool) if wanted.pool is not None else {}
    routed = network.routed or bool(wanted.segment_id)
    subnets = [*network.subnets, id]
    await NETWORKS.revise(tx, network, subnets=subnets, routed=routed, **scope)
    subnet = await point_at_peers(tx, subnet)
    await emit(tx, "subnet.create.end", subnet.project_id, id=id, network_id=network.id)
    return subnet


async def _gateway_unused(tx: Tx, subnet: Subnet) -> None:
    """A router may have the gateway's address. Raises Conflict."""
    for used in await used_of(tx, subnet.id):
        if used.ip == subnet.gateway_ip:
            port = await PORTS.find(tx, used.port_id)
            if port is not None and port.device_owner in SERVICE_OWNERS:
                raise Conflict(
                    f"Current gateway ip {used.ip} already in use by port {port.id}. Unable to update.",
                    code="GatewayIpInUse",
                )


async def _free_ports(tx: Tx, subnet: Subnet) -> None:
    """Addresses that hosts made themselves go with the subnet; any other keeps it. Raises Conflict."""
    for used in await used_of(tx, subnet.id):
        port = await PORTS.find(tx, used.port_id)
        if port is None or not subnet.is_auto or port.device_owner in SERVICE_OWNERS:
            raise subnet_in_use(subnet.id)
        await give_back(tx, subnet.network_id, used.ip)
        left = [f for f in port.fixed_ips if f.subnet_id != subnet.id]
        await PORTS.revise(tx, port, fixed_ips=left)

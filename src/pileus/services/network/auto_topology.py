"""A network for who has none: with subnets of the default pools and a router to the default external network
(API reference: auto-allocated topologies). Made when first asked for, by the name of the project.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from pileus.kernel.events import emit
from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Reader, Record, Table, Tx

from .network import NETWORKS, Network, add_network
from .networks import drop_network
from .port import ROUTER_INTERFACE
from .resource import OWNER, READER, hold
from .router import ROUTERS, Router
from .routers.bodies import GatewayRequest
from .routers.gateway import first_gateway, set_gateways
from .routers.interfaces import add_by_subnet, remove
from .routers.operations import drop_router
from .routers.placement import choose_host, legs
from .settings import settings_of
from .subnetpool import SubnetPool
from .subnetpools import default_pool
from .subnets.operations import add_subnet
from .subnets.plan import Wanted
from .wiring import wake


class AutoTopology(Record, kw_only=True, frozen=True):
    """Its id is the project's."""

    network_id: str
    router_id: str


AUTO_TOPOLOGIES = Table("network_auto_topologies", AutoTopology, noun="Auto-allocated topology")


class AutoTopologies(Resource[Any]):
    rules = {"get_auto_allocated_topology": READER, "delete_auto_allocated_topology": OWNER}

    def scope_target(self, ctx: Context, params: Mapping[str, str]) -> Mapping[str, object]:
        return {"project_id": _project(ctx, params["project_id"])}

    @operation("GET", "/auto-allocated-topology/{project_id}", "get_auto_allocated_topology")
    async def show(self, ctx: Context, project_id: str) -> Any:
        """Raises Conflict where nothing tells of what the network is to be made; `fields=dry-run` asks only that."""
        owner = _project(ctx, project_id)
        asked = ctx.query.all("fields")
        if "dry-run" in asked:
            await _means(ctx.runtime.store)
            return _view("dry-run=pass", owner)
        if asked:
            raise Invalid("Bad auto_allocate request: Unrecognized field.", code="BadRequest")
        return _view((await auto_topology(ctx.runtime, owner)).network_id, owner)

    @operation("DELETE", "/auto-allocated-topology/{project_id}", "delete_auto_allocated_topology")
    async def delete(self, ctx: Context, project_id: str) -> None:
        """Raises Conflict while something uses it."""
        found = await AUTO_TOPOLOGIES.find(ctx.runtime.store, _project(ctx, project_id))
        if found is None:
            return
        router = await ROUTERS.find(ctx.runtime.store, found.router_id)
        async with ctx.runtime.store.tx() as tx:
            outer = router.gateway.network_id if router and router.gateway else found.network_id
            await hold(tx, "networks", found.network_id, outer)
            await _drop(tx, found)
        await wake(ctx.runtime, {router.host if router else ""})


def _project(ctx: Context, id: str) -> str:
    """`None` is how clients say: mine."""
    return ctx.caller.project_id if id == "None" else id


def _view(id: str, project_id: str) -> dict[str, Any]:
    return {
        "auto_allocated_topology": {"id": id, "project_id": project_id, "tenant_id": project_id}
    }


async def _known(db: Reader, project_id: str) -> AutoTopology | None:
    """The topology, if its network is still there."""
    found = await AUTO_TOPOLOGIES.find(db, project_id)
    is_there = found is not None and await NETWORKS.find(db, found.network_id) is not None
    return found if is_there else None


async def _means(db: Reader) -> tuple[Network, list[SubnetPool]]:
    """The default external network, and the default pools. Raises Conflict."""
    outer = await NETWORKS.one(db, external=1, is_default=1)
    if outer is None:
        raise _failed("No default router:external network")
    pools = [await default_pool(db, version) for version in (4, 6)]
    if not any(pools):
        raise _failed("No default subnetpools defined")
    return outer, [p for p in pools if p is not None]


def _failed(reason: str) -> Conflict:
    return Conflict(f"Deployment error: {reason}.", code="AutoAllocationFailure")


async def auto_topology(runtime: Runtime, owner: str) -> AutoTopology:
    """The project's: all of it, or nothing; who asks at the same time gets the same. Raises Conflict, OverQuota."""
    if known := await _known(runtime.store, owner):
        return known
    world, mtu = runtime.world, settings_of(runtime).tenant_mtu
    network = Network(id=world.new_id(), project_id=owner, name="auto_allocated_network", mtu=mtu)
    router = Router(id=world.new_id(), project_id=owner, name="auto_allocated_router")
    async with runtime.store.tx() as tx:
        await hold(tx, "auto_topologies", owner)
        if known := await _known(tx, owner):
            return known
        outer, pools = await _means(tx)
        await hold(tx, "networks", outer.id, network.id)
        await add_network(tx, world, network)
        host = await choose_host(tx, world.clock.time())
        router = await ROUTERS.insert(tx, replace(router, host=host))
        goals = first_gateway(router, GatewayRequest(network_id=outer.id))
        router = await ROUTERS.change(tx, router, **await set_gateways(tx, world, router, goals))
        for pool in pools:
            subnet = await add_subnet(tx, _subnet(network, pool), world.new_id())
            await add_by_subnet(tx, world, router, subnet)
        await emit(tx, "router.create.end", owner, id=router.id)
        if stale := await AUTO_TOPOLOGIES.find(tx, owner):
            await AUTO_TOPOLOGIES.delete(tx, stale)
        made = AutoTopology(id=owner, network_id=network.id, router_id=router.id)
        made = await AUTO_TOPOLOGIES.insert(tx, made)
    await wake(runtime, {host})
    return made


def _subnet(network: Network, pool: SubnetPool) -> Wanted:
    """IPv6 addresses come from the router's advertisements, or no guest would get one."""
    mode = "slaac" if pool.ip_version == 6 else ""
    return Wanted(
        network_id=network.id,
        project_id=network.project_id,
        name=f"auto_allocated_subnet_v{pool.ip_version}",
        description="",
        ip_version=pool.ip_version,
        pool=pool,
        ra_mode=mode,
        address_mode=mode,
    )


async def _drop(tx: Tx, found: AutoTopology) -> None:
    """What of it is still there."""
    router = await ROUTERS.find(tx, found.router_id)
    if router is not None:
        await hold(tx, "routers", router.id)
        for port in await legs(tx, router.id):
            if port.device_owner == ROUTER_INTERFACE:
                await remove(tx, router, "", port.id)
        await drop_router(tx, router)
    if await NETWORKS.find(tx, found.network_id) is not None:
        await drop_network(tx, found.network_id)
    await AUTO_TOPOLOGIES.delete(tx, found)

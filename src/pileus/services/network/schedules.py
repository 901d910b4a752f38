"""Which agent has what: routers and DHCP (API reference: L3 and DHCP agent schedulers).

A router lives on one host, and moves by hand as it moves by itself. DHCP is served by each host that has a guest on the
network, to its own guests: there is nothing to move.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from pileus.kernel.events import emit
from pileus.kernel.faults import Conflict
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.store import Match, Page

from .agents import AGENT_TYPE, ROUTERS_TYPE, agent_of, agents_of
from .attributes import Attributes
from .network import NETWORKS
from .networks import Networks
from .port import PORTS
from .refusals import missing
from .resource import ADMIN, hold, projected
from .router import ROUTERS, Router
from .routers.operations import Routers
from .routers.placement import legs, move, wake_moved

_ALL = 1 << 30
_NULL = msgspec.Raw(b"null")  # an answer that clients parse


class HostedRouter(Attributes):
    root: ClassVar[str] = ""

    router_id: str


class HostedNetwork(Attributes):
    root: ClassVar[str] = ""

    network_id: str


class RoutersOfAgents(Resource[Any]):
    rules = {f"{v}_l3-router{s}": ADMIN for v, s in (("get", "s"), ("create", ""), ("delete", ""))}

    @operation("GET", "/agents/{agent_id}/l3-routers", "get_l3-routers")
    async def index(self, ctx: Context, agent_id: str) -> Any:
        agent = await agent_of(ctx, agent_id)
        is_home = agent["agent_type"] == ROUTERS_TYPE
        found = await ROUTERS.all(ctx.runtime.store, host=agent["host"]) if is_home else []
        return {"routers": await Routers().rendered(ctx, found)}

    @operation("POST", "/agents/{agent_id}/l3-routers", "create_l3-router", status=201)
    async def create(self, ctx: Context, agent_id: str, body: HostedRouter) -> Any:
        """Raises NotFound, Conflict for a router that another host has: it is to be taken from there first."""
        agent = await agent_of(ctx, agent_id)
        if agent["agent_type"] != ROUTERS_TYPE or not agent["alive"]:
            raise missing(
                "InvalidL3Agent", f"Agent {agent_id} is not a L3 Agent or has been disabled"
            )
        router = await ROUTERS.get(ctx.runtime.store, body.router_id)
        if router.host not in ("", agent["host"]):
            raise Conflict(
                f"The router {router.id} has been already hosted by the L3 Agent of host "
                f"{router.host}: remove it from there first.",
                code="RouterHostedByL3Agent",
            )
        await _move(ctx, router, agent["host"])
        return _NULL

    @operation("DELETE", "/agents/{agent_id}/l3-routers/{router_id}", "delete_l3-router")
    async def delete(self, ctx: Context, agent_id: str, router_id: str) -> None:
        """Nothing passes it until it is given to an agent again. Raises NotFound, Conflict."""
        agent = await agent_of(ctx, agent_id)
        router = await ROUTERS.get(ctx.runtime.store, router_id)
        if agent["agent_type"] != ROUTERS_TYPE or router.host != agent["host"]:
            raise Conflict(
                f"The router {router_id} is not hosted by the L3 Agent {agent_id}.",
                code="RouterNotHostedByL3Agent",
            )
        await _move(ctx, router, "")


async def _move(ctx: Context, router: Router, host: str) -> None:
    if router.host == host and not router.parked:
        return
    networks = {p.network_id for p in await legs(ctx.runtime.store, router.id)}
    async with ctx.runtime.store.tx() as tx:
        await hold(tx, "networks", *networks)
        await hold(tx, "routers", router.id)
        await move(tx, await ROUTERS.get(tx, router.id), host)
        await emit(tx, "router.update.end", router.project_id, id=router.id)
    await wake_moved(ctx.runtime, router, host)


class AgentsOfRouters(Resource[Router]):
    table = ROUTERS
    id_param = "router_id"
    rules = {"get_l3-agents": ADMIN}

    @operation("GET", "/routers/{router_id}/l3-agents", "get_l3-agents")
    async def index(self, ctx: Context, router: Router) -> Any:
        return {"agents": await _at(ctx, ROUTERS_TYPE, {router.host})}


class NetworksOfAgents(Resource[Any]):
    rules = {
        f"{v}_dhcp-network{s}": ADMIN for v, s in (("get", "s"), ("create", ""), ("delete", ""))
    }

    @operation("GET", "/agents/{agent_id}/dhcp-networks", "get_dhcp-networks")
    async def index(self, ctx: Context, agent_id: str) -> Any:
        agent = await agent_of(ctx, agent_id)
        is_server = agent["agent_type"] == AGENT_TYPE
        ids = await _guests(ctx, "network_id", host=agent["host"]) if is_server else set()
        found = await NETWORKS.all(ctx.runtime.store, id=sorted(ids)) if ids else []
        return {"networks": await Networks().rendered(ctx, found)}

    @operation("POST", "/agents/{agent_id}/dhcp-networks", "create_dhcp-network", status=201)
    async def create(self, ctx: Context, agent_id: str, body: HostedNetwork) -> Any:
        await NETWORKS.get(ctx.runtime.store, body.network_id)
        raise await _unmovable(ctx, agent_id, body.network_id)

    @operation("DELETE", "/agents/{agent_id}/dhcp-networks/{network_id}", "delete_dhcp-network")
    async def delete(self, ctx: Context, agent_id: str, network_id: str) -> None:
        await NETWORKS.get(ctx.runtime.store, network_id)
        raise await _unmovable(ctx, agent_id, network_id)


async def _unmovable(ctx: Context, agent_id: str, network_id: str) -> Conflict:
    agent = await agent_of(ctx, agent_id)
    return Conflict(
        f"DHCP of network {network_id} is not host {agent['host']}'s to be given or taken: each host "
        "serves the networks that its own guests are on. Turn off enable_dhcp of the subnet to stop it.",
        code="NetworkNotMovable",
    )


class AgentsOfNetworks(Resource[Any]):
    table = NETWORKS
    id_param = "network_id"
    rules = {"get_dhcp-agents": ADMIN}

    @operation("GET", "/networks/{network_id}/dhcp-agents", "get_dhcp-agents")
    async def index(self, ctx: Context, network_id: str) -> Any:
        await NETWORKS.get(ctx.runtime.store, network_id)
        hosts = await _guests(ctx, "host", network_id=network_id)
        return {"agents": await _at(ctx, AGENT_TYPE, hosts)}


async def _guests(ctx: Context, column: str, **where: str) -> set[str]:
    """What the ports of guests have there."""
    page = Page({**where, "guest": Match("ne", "")}, (("id", False),), limit=_ALL)
    rows = await PORTS.page(ctx.runtime.store, page, select=(column,))
    return {row[0] for row in rows} - {""}


async def _at(ctx: Context, kind: str, hosts: set[str]) -> list[dict[str, Any]]:
    found = [a for a in await agents_of(ctx) if a["agent_type"] == kind and a["host"] in hosts]
    return [projected(ctx, a) for a in found]


SCHEDULES: tuple[type[Resource[Any]], ...] = (
    RoutersOfAgents,
    AgentsOfRouters,
    NetworksOfAgents,
    AgentsOfNetworks,
)

"""Which agent has what: routers and DHCP (API reference: L3 and DHCP agent schedulers).

A router lives on one host, and moves by hand as it moves by itself. One that is `ha` has candidates with priorities: it
is on the first of them that is up, and goes back when a higher one is. DHCP is served by each host that has a guest on the
network, to its own guests: there is nothing to move.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from pileus.kernel.events import emit
from pileus.kernel.faults import Conflict, Invalid
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
from .routers.placement import home_of, legs, move, wake_moved

_ALL = 1 << 30
_HIGHEST, _MOST_CANDIDATES = 32767, 5  # upstream's
_NULL = msgspec.Raw(b"null")  # an answer that clients parse


class HostedRouter(Attributes):
    root: ClassVar[str] = ""

    router_id: str
    ha_chassis_priority: int | None = None


class PrioritizedRouter(Attributes):
    root: ClassVar[str] = ""
    creates = False

    ha_chassis_priority: int | None = None


class HostedNetwork(Attributes):
    root: ClassVar[str] = ""

    network_id: str


class RoutersOfAgents(Resource[Any]):
    rules = {
        f"{v}_l3-router{s}": ADMIN
        for v, s in (("get", "s"), ("create", ""), ("update", ""), ("delete", ""))
    }

    @operation("GET", "/agents/{agent_id}/l3-routers", "get_l3-routers")
    async def index(self, ctx: Context, agent_id: str) -> Any:
        agent = await agent_of(ctx, agent_id)
        store, host = ctx.runtime.store, agent["host"]
        found: list[Router] = []
        if agent["agent_type"] == ROUTERS_TYPE:
            found = await ROUTERS.all(store, host=host)
            found += [r for r in await ROUTERS.all(store, candidates=[host]) if r.host != host]
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
        if router.ha or body.ha_chassis_priority is not None:
            await _rank(ctx, router, agent, body.ha_chassis_priority)
            return _NULL
        if router.host not in ("", agent["host"]):
            raise Conflict(
                f"The router {router.id} has been already hosted by the L3 Agent of host "
                f"{router.host}: remove it from there first.",
                code="RouterHostedByL3Agent",
            )
        await _move(ctx, router, agent["host"])
        return _NULL

    @operation("PUT", "/agents/{agent_id}/l3-routers/{router_id}", "update_l3-router")
    async def update(
        self, ctx: Context, agent_id: str, router_id: str, body: PrioritizedRouter
    ) -> Any:
        """Raises NotFound, Conflict, Invalid."""
        agent = await agent_of(ctx, agent_id)
        router = await ROUTERS.get(ctx.runtime.store, router_id)
        if agent["agent_type"] != ROUTERS_TYPE or agent["host"] not in router.candidates:
            raise _not_hosted(router_id, agent_id)
        if body.ha_chassis_priority is not None:
            await _rank(ctx, router, agent, body.ha_chassis_priority, known=True)
        return _NULL

    @operation("DELETE", "/agents/{agent_id}/l3-routers/{router_id}", "delete_l3-router")
    async def delete(self, ctx: Context, agent_id: str, router_id: str) -> None:
        """Nothing passes it until it is given to an agent again. Raises NotFound, Conflict."""
        agent = await agent_of(ctx, agent_id)
        router = await ROUTERS.get(ctx.runtime.store, router_id)
        host = agent["host"]
        if agent["agent_type"] != ROUTERS_TYPE or host not in (router.host, *router.candidates):
            raise _not_hosted(router_id, agent_id)
        left = {h: n for h, n in router.candidates.items() if h != host}
        await _move(ctx, router, "" if host == router.host else router.host, left)


def _not_hosted(router_id: str, agent_id: str) -> Conflict:
    return Conflict(
        f"The router {router_id} is not hosted by the L3 Agent {agent_id}.",
        code="RouterNotHostedByL3Agent",
    )


async def _rank(
    ctx: Context, router: Router, agent: dict[str, Any], priority: int | None, known: bool = False
) -> None:
    """Makes the agent's host a candidate with that priority, else the last. Raises Conflict, Invalid."""
    host, candidates = agent["host"], router.candidates
    if router.host and not candidates:  # made when there was no other
        candidates = {router.host: _MOST_CANDIDATES}
    if not router.ha:
        raise Conflict(
            f"The router {router.id} is not highly available: set its ha before it has candidates.",
            code="RouterDoesntSupportScheduling",
        )
    if host in candidates and not known:
        raise Conflict(
            f"The router {router.id} has been already hosted by the L3 Agent {agent['id']}.",
            code="RouterHostedByL3Agent",
        )
    if priority is None:
        priority = min(candidates.values(), default=_MOST_CANDIDATES + 1) - 1
    if not 0 <= priority <= _HIGHEST:
        raise Invalid(
            f"HA Chassis priority must be between 0 and {_HIGHEST}",
            code="InvalidHAChassisPriority",
        )
    if priority in candidates.values():
        raise Conflict(
            f"HA Chassis priority {priority} is already assigned",
            code="HAChassisPriorityAlreadyAssigned",
        )
    await _move(ctx, router, "", candidates | {host: priority})


async def _move(
    ctx: Context, router: Router, host: str, candidates: dict[str, int] | None = None
) -> None:
    """To that host, or ("") to the first candidate that is up; to none where there are none."""
    candidates = candidates or {}
    now = ctx.runtime.world.clock.time()
    wanted = msgspec.structs.replace(router, candidates=candidates)
    host = host or (await home_of(ctx.runtime.store, now, wanted) if candidates else "")
    if (router.host, router.candidates) == (host, candidates) and not router.parked:
        return
    networks = {p.network_id for p in await legs(ctx.runtime.store, router.id)}
    async with ctx.runtime.store.tx() as tx:
        await hold(tx, "networks", *networks)
        await hold(tx, "routers", router.id)
        wanted = await ROUTERS.change(tx, router, candidates=candidates)
        if wanted.host != host or wanted.parked:
            await move(tx, wanted, host)
        await emit(tx, "router.update.end", router.project_id, id=router.id)
    await wake_moved(ctx.runtime, router, host)


class AgentsOfRouters(Resource[Router]):
    table = ROUTERS
    id_param = "router_id"
    rules = {"get_l3-agents": ADMIN}

    @operation("GET", "/routers/{router_id}/l3-agents", "get_l3-agents")
    async def index(self, ctx: Context, router: Router) -> Any:
        found = await _at(ctx, ROUTERS_TYPE, {router.host, *router.candidates})
        for agent in found:
            is_home, priority = agent["host"] == router.host, router.candidates.get(agent["host"])
            agent["ha_state"] = ("active" if is_home else "standby") if router.ha else None
            agent |= {"ha_chassis_priority": priority} if router.ha else {}
        return {"agents": [projected(ctx, agent) for agent in found]}


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
        return {"agents": [projected(ctx, a) for a in await _at(ctx, AGENT_TYPE, hosts)]}


async def _guests(ctx: Context, column: str, **where: str) -> set[str]:
    """What the ports of guests have there."""
    page = Page({**where, "guest": Match("ne", "")}, (("id", False),), limit=_ALL)
    rows = await PORTS.page(ctx.runtime.store, page, select=(column,))
    return {row[0] for row in rows} - {""}


async def _at(ctx: Context, kind: str, hosts: set[str]) -> list[dict[str, Any]]:
    return [a for a in await agents_of(ctx) if a["agent_type"] == kind and a["host"] in hosts]


SCHEDULES: tuple[type[Resource[Any]], ...] = (
    RoutersOfAgents,
    AgentsOfRouters,
    NetworksOfAgents,
    AgentsOfNetworks,
)

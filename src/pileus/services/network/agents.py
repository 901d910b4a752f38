"""Network agents, one for each host that has joined, and the availability zones (API reference: agents)."""

from __future__ import annotations

import uuid
from typing import Any

from pileus.kernel.faults import NotFound
from pileus.kernel.hosts import Host, hosts_of
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.world import stamp

from .resource import ADMIN, projected
from .wiring import NETWORK_HOST

AGENT_TYPE = "Pileus network agent"
_SPACE = uuid.UUID("6f1f6f1c-27f4-4a3e-9e53-7d3c0d6a3d10")


def agent_id(host: str) -> str:
    return str(uuid.uuid5(_SPACE, host))


def _view(host: Host, now: float) -> dict[str, Any]:
    started = host.created_at[:19].replace("T", " ")
    return {
        "id": agent_id(host.id),
        "agent_type": AGENT_TYPE,
        "binary": "pileus-host",
        "host": host.id,
        "topic": "N/A",
        "admin_state_up": True,
        "alive": host.is_up(now),
        "availability_zone": "nova",
        "configurations": host.facts,
        "created_at": started,
        "started_at": started,
        "heartbeat_timestamp": stamp(host.seen_at)[:19].replace("T", " "),
        "description": None,
        "resources_synced": None,
    }


class Agents(Resource[Any]):
    rules = {"get_agent": ADMIN}

    async def _all(self, ctx: Context) -> list[dict[str, Any]]:
        runtime = ctx.runtime
        now = runtime.world.clock.time()
        return [_view(h, now) for h in await hosts_of(runtime.store, NETWORK_HOST)]

    @operation("GET", "/agents", "regular_user")
    async def index(self, ctx: Context) -> Any:
        found = await self._all(ctx) if ctx.allows("get_agent") else []
        for name in ("id", "host", "agent_type", "binary", "availability_zone"):
            if wanted := ctx.query.all(name):
                found = [a for a in found if a[name] in wanted]
        for name in ("alive", "admin_state_up"):
            if ctx.query.has(name):
                found = [a for a in found if a[name] == ctx.query.flag(name)]
        return {"agents": [projected(ctx, a) for a in found]}

    @operation("GET", "/agents/{agent_id}", "get_agent")
    async def show(self, ctx: Context, agent_id: str) -> Any:
        for agent in await self._all(ctx):
            if agent["id"] == agent_id:
                return {"agent": projected(ctx, agent)}
        raise NotFound(f"Agent {agent_id} could not be found.", code="AgentNotFound")


class AvailabilityZones(Resource[Any]):
    rules = {"get_availability_zone": "role:reader"}

    @operation("GET", "/availability_zones", "get_availability_zone")
    async def index(self, ctx: Context) -> Any:
        zones = [
            {"name": "nova", "resource": kind, "state": "available"}
            for kind in ("network", "router")
        ]
        return {"availability_zones": zones}

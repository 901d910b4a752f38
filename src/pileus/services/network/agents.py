"""Network agents, one for each host that has joined, and the availability zones (API reference: agents)."""

from __future__ import annotations

import uuid
from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Conflict, NotFound
from pileus.kernel.hosts import Host, hosts_of
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.store import Reader, Record, Store, Table
from pileus.kernel.world import stamp

from .attributes import Attributes
from .resource import ADMIN, projected, sifted
from .wiring import NETWORK_HOST

AGENT_TYPE, ROUTERS_TYPE = "Pileus network agent", "L3 agent"
# One process does it all. What routers live on has upstream's name too, by which clients look for it.
_KINDS = {AGENT_TYPE: ("pileus-host", ""), ROUTERS_TYPE: ("neutron-l3-agent", "l3-agent/")}
_CONFIGURED: dict[str, dict[str, Any]] = {
    AGENT_TYPE: {},
    ROUTERS_TYPE: {"extensions": ["fip_qos", "gateway_ip_qos", "port_forwarding"]},
}
_SPACE = uuid.UUID("6f1f6f1c-27f4-4a3e-9e53-7d3c0d6a3d10")


def agent_id(host: str, kind: str = AGENT_TYPE) -> str:
    return str(uuid.uuid5(_SPACE, _KINDS[kind][1] + host))


class AgentNote(Record, kw_only=True, frozen=True):
    """What is kept of a host's agent; its id is the agent's. `synced`: was placement told of what the host has?"""

    description: str = ""
    synced: bool | None = None
    lets_go: bool = True  # of its routers by itself, when control hears nothing of its host


NOTES = Table("network_agent_notes", AgentNote, noun="Agent")


_FILTERS = (
    "id",
    "host",
    "agent_type",
    "binary",
    "topic",
    "availability_zone",
    "alive",
    "admin_state_up",
    "description",
)


class UpdateAgent(Attributes):
    root: ClassVar[str] = "agent"
    creates = False

    description: str | UnsetType | None = UNSET
    admin_state_up: bool | UnsetType = UNSET


def _view(host: Host, kind: str, note: AgentNote | None, now: float) -> dict[str, Any]:
    started = host.created_at[:19].replace("T", " ")
    return {
        "id": agent_id(host.id, kind),
        "agent_type": kind,
        "binary": _KINDS[kind][0],
        "host": host.id,
        "topic": "N/A",
        "admin_state_up": True,
        "alive": host.is_up(now),
        "availability_zone": "nova",
        "configurations": {**host.facts, **_CONFIGURED[kind]},
        "created_at": started,
        "started_at": started,
        "heartbeat_timestamp": stamp(host.seen_at)[:19].replace("T", " "),
        "description": note.description or None if note is not None else None,
        "resources_synced": note.synced if note is not None else None,
    }


async def note_down(store: Store, id: str, **said: Any) -> None:
    """Keeps that of an agent, as `AgentNote` has it; committed on return."""
    note = await NOTES.find(store, id) or AgentNote(id=id)
    if any(getattr(note, name) != value for name, value in said.items()):
        async with store.tx() as tx:
            note = await NOTES.find(tx, id) or await NOTES.insert(tx, AgentNote(id=id))
            await NOTES.change(tx, note, **said)


async def lets_go(db: Reader, host: str) -> bool:
    note = await NOTES.find(db, agent_id(host, ROUTERS_TYPE))
    return note is None or note.lets_go


async def agents_of(ctx: Context) -> list[dict[str, Any]]:
    """Every agent, as it is shown."""
    runtime = ctx.runtime
    now = runtime.world.clock.time()
    notes = {n.id: n for n in await NOTES.all(runtime.store)}
    hosts = await hosts_of(runtime.store, NETWORK_HOST)
    return [_view(h, k, notes.get(agent_id(h.id, k)), now) for h in hosts for k in _KINDS]


async def agent_of(ctx: Context, id: str) -> dict[str, Any]:
    """Raises NotFound."""
    for agent in await agents_of(ctx):
        if agent["id"] == id:
            return agent
    raise NotFound(f"Agent {id} could not be found.", code="AgentNotFound")


class Agents(Resource[Any]):
    rules = {"get_agent": ADMIN, "update_agent": ADMIN, "delete_agent": ADMIN}

    @operation("GET", "/agents", "regular_user")
    async def index(self, ctx: Context) -> Any:
        found = await agents_of(ctx) if ctx.allows("get_agent") else []
        return {"agents": sifted(ctx, found, *_FILTERS)}

    @operation("GET", "/agents/{agent_id}", "get_agent")
    async def show(self, ctx: Context, agent_id: str) -> Any:
        return {"agent": projected(ctx, await agent_of(ctx, agent_id))}

    @operation("PUT", "/agents/{agent_id}", "update_agent")
    async def update(self, ctx: Context, agent_id: str, body: UpdateAgent) -> Any:
        """Raises NotFound, Conflict for what an agent cannot be: down, while its host is there."""
        await agent_of(ctx, agent_id)
        if body.admin_state_up is False:
            raise Conflict(
                f"Agent {agent_id} is the network part of a host: disable the host's compute service "
                "to keep guests off it.",
                code="AgentInUse",
            )
        given = body.description if isinstance(body.description, str) else ""
        changes = {} if body.description is UNSET else {"description": given}
        await note_down(ctx.runtime.store, agent_id, **changes)
        return {"agent": await agent_of(ctx, agent_id)}

    @operation("DELETE", "/agents/{agent_id}", "delete_agent")
    async def delete(self, ctx: Context, agent_id: str) -> None:
        """Hosts come and go by themselves (`pileus host`). Raises NotFound, Conflict."""
        await agent_of(ctx, agent_id)
        raise Conflict(
            f"Agent {agent_id} is the network part of a host, and goes when the host is removed.",
            code="AgentInUse",
        )


class AvailabilityZones(Resource[Any]):
    rules = {"get_availability_zone": "role:reader"}

    @operation("GET", "/availability_zones", "get_availability_zone")
    async def index(self, ctx: Context) -> Any:
        zones = [
            {"name": "nova", "resource": kind, "state": "available"}
            for kind in ("network", "router")
        ]
        return {"availability_zones": sifted(ctx, zones, "name", "resource", "state")}

"""Hypervisors: what each compute host has and how much of it is taken.

https://docs.openstack.org/api-ref/compute/#hypervisors-os-hypervisors
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pileus.kernel.faults import Invalid, NotFound, Unavailable
from pileus.kernel.query import boolean, next_link
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.store import Page
from pileus.services.compute import checks, nodes
from pileus.services.compute.agent_contract import COMPUTE_HOST
from pileus.services.compute.nodes import NODES, Node, Place
from pileus.services.compute.server import SERVERS, Server
from pileus.services.compute.servers.views import instance_name

_RULE = "os_compute_api:os-hypervisors:"
_PATH = "/os-hypervisors"
_MOVED = "2.53"  # search and servers became query parameters
_VERBS = ("list", "list-detail", "statistics", "show", "uptime", "search", "servers")


@dataclass
class Load:
    """What a host's servers take."""

    vcpus: int = 0
    ram: int = 0
    disk: int = 0
    busy: int = 0
    servers: list[Server] = field(default_factory=list)

    def add(self, server: Server) -> None:
        f = server.flavor
        self.vcpus += f.vcpus
        self.ram += f.ram
        self.disk += f.disk + f.ephemeral
        self.busy += bool(server.task_state)
        self.servers.append(server)


async def _loads(ctx: Context, hosts: list[str]) -> dict[str, Load]:
    found: dict[str, Load] = defaultdict(Load)
    for server in await SERVERS.list(ctx.runtime.store, Page({"host": hosts}, limit=100_000)):
        found[server.host].add(server)
    return found


def _brief(ctx: Context, p: Place) -> dict[str, Any]:
    return {
        "id": p.node.id if ctx.version >= (2, 53) else p.node.number,
        "hypervisor_hostname": p.node.host,
        "state": p.state,
        "status": p.status,
    }


def _figures(p: Place, load: Load) -> dict[str, Any]:
    has = p.node.inventory
    return {
        "vcpus": has.vcpus,
        "memory_mb": has.ram_mib,
        "local_gb": has.disk_gib,
        "vcpus_used": load.vcpus,
        "memory_mb_used": load.ram,
        "local_gb_used": load.disk,
        "free_ram_mb": has.ram_mib - load.ram,
        "free_disk_gb": has.disk_gib - load.disk,
        "current_workload": load.busy,
        "running_vms": len(load.servers),
        "disk_available_least": has.disk_gib - load.disk,
    }


def _full(ctx: Context, p: Place, load: Load) -> dict[str, Any]:
    has = p.node.inventory
    found = _brief(ctx, p) | {
        "hypervisor_type": has.hypervisor_type,
        "hypervisor_version": has.hypervisor_version,
        "host_ip": (p.beat.address if p.beat else "") or "127.0.0.1",
        "service": {
            "id": p.node.service_id if ctx.version >= (2, 53) else p.node.number,
            "host": p.node.host,
            "disabled_reason": p.node.disabled_reason,
        },
    }
    if ctx.version >= (2, 88):
        return found | {"uptime": None}
    cpu = {"arch": has.cpu_arch}
    info: object = cpu if ctx.version >= (2, 28) else f'{{"arch": "{has.cpu_arch}"}}'
    return found | _figures(p, load) | {"cpu_info": info}


async def _uptime(ctx: Context, p: Place) -> str | None:
    """None of a host that does not answer. Lists leave it out: they ask no hosts."""
    if not p.is_up:
        return None
    try:
        return await ctx.runtime.agents.proxy(COMPUTE_HOST, p.node.host).uptime()
    except Unavailable:
        return None


def _names(load: Load) -> list[dict[str, str]]:
    return [{"name": instance_name(s), "uuid": s.id} for s in load.servers]


class Hypervisors(Resource[Node]):
    table = NODES
    id_param = "hypervisor_id"
    rules: ClassVar[Mapping[str, str]] = {_RULE + v: "rule:context_is_admin" for v in _VERBS}

    async def load(self, ctx: Context, id: str) -> Node:
        """By UUID, or by number before 2.53."""
        found = None
        if ctx.version >= (2, 53):
            if not checks.is_uuid(id):
                raise Invalid(f"Invalid uuid {id}")
            found = await NODES.find(ctx.runtime.store, id)
        elif id.isdecimal() and len(id) < 10:
            found = await NODES.one(ctx.runtime.store, number=int(id))
        if found is None:
            raise NotFound(f"Hypervisor with ID '{id}' could not be found.")
        return found

    @operation("GET", _PATH, _RULE + "list")
    async def index(self, ctx: Context) -> dict[str, Any]:
        return await self._list(ctx, detailed=False)

    @operation("GET", _PATH + "/detail", _RULE + "list-detail")
    async def detail(self, ctx: Context) -> dict[str, Any]:
        return await self._list(ctx, detailed=True)

    @operation("GET", _PATH + "/statistics", _RULE + "statistics", until="2.88")
    async def statistics(self, ctx: Context) -> dict[str, Any]:
        places = [p for p in await nodes.places(ctx.runtime) if not p.node.disabled]
        loads = await _loads(ctx, [p.node.host for p in places])
        total: dict[str, int] = {"count": len(places)}
        for p in places:
            for name, value in _figures(p, loads[p.node.host]).items():
                total[name] = total.get(name, 0) + value
        return {"hypervisor_statistics": total}

    @operation("GET", _PATH + "/{hypervisor_id}", _RULE + "show")
    async def show(self, ctx: Context, node: Node) -> dict[str, Any]:
        checks.known_only(ctx, ("with_servers",))
        place = await nodes.place(ctx.runtime, node.host)
        load = (await _loads(ctx, [node.host]))[node.host]
        found = _full(ctx, place, load)
        if _with_servers(ctx) and (load.servers or ctx.version >= (2, 75)):
            found["servers"] = _names(load)
        if ctx.version >= (2, 88):
            found["uptime"] = await _uptime(ctx, place)
        return {"hypervisor": found}

    @operation("GET", _PATH + "/{hypervisor_id}/uptime", _RULE + "uptime", until="2.88")
    async def uptime(self, ctx: Context, node: Node) -> dict[str, Any]:
        place = await nodes.place(ctx.runtime, node.host)
        said = await _uptime(ctx, place)
        if said is None:
            raise Invalid(f"Compute host {node.host} is down; it must be up to be asked.")
        return {"hypervisor": _brief(ctx, place) | {"uptime": said}}

    @operation("GET", _PATH + "/{pattern}/search", _RULE + "search", until=_MOVED)
    async def search(self, ctx: Context, pattern: str) -> dict[str, Any]:
        return {"hypervisors": [_brief(ctx, p) for p in await _matching(ctx, pattern)]}

    @operation("GET", _PATH + "/{pattern}/servers", _RULE + "servers", until=_MOVED)
    async def servers(self, ctx: Context, pattern: str) -> dict[str, Any]:
        places = await _matching(ctx, pattern)
        loads = await _loads(ctx, [p.node.host for p in places])
        found = []
        for p in places:
            one = _brief(ctx, p)
            if loads[p.node.host].servers:
                one["servers"] = _names(loads[p.node.host])
            found.append(one)
        return {"hypervisors": found}

    async def _list(self, ctx: Context, *, detailed: bool) -> dict[str, Any]:
        checks.known_only(
            ctx, ("limit", "marker", "hypervisor_hostname_pattern", "with_servers"), since=(2, 53)
        )
        pattern = ctx.query.get("hypervisor_hostname_pattern")
        by_name = ctx.version >= (2, 53) and bool(pattern)
        if by_name and (ctx.query.has("limit") or ctx.query.has("marker")):
            raise Invalid(
                "Paging over hypervisors with the hypervisor_hostname_pattern query parameter is "
                "not supported."
            )
        places = await _matching(ctx, pattern) if by_name else await nodes.places(ctx.runtime)
        places, more = _paged(ctx, places) if not by_name else (places, "")
        needs = detailed or _with_servers(ctx)
        loads = await _loads(ctx, [p.node.host for p in places]) if needs else {}
        found = []
        for p in places:
            load = loads.get(p.node.host, Load())
            one = _full(ctx, p, load) if detailed else _brief(ctx, p)
            if _with_servers(ctx) and (load.servers or ctx.version >= (2, 75)):
                one["servers"] = _names(load)
            found.append(one)
        answer: dict[str, Any] = {"hypervisors": found}
        if more:
            href = next_link(ctx.url, ctx.query, more)
            answer["hypervisors_links"] = [{"rel": "next", "href": href}]
        return answer


def _with_servers(ctx: Context) -> bool:
    asked = ctx.query.get("with_servers")
    return ctx.version >= (2, 53) and bool(asked) and boolean(asked, "with_servers")


async def _matching(ctx: Context, pattern: str) -> list[Place]:
    found = [p for p in await nodes.places(ctx.runtime) if pattern in p.node.host]
    if not found:
        raise NotFound(f"No hypervisor matching '{pattern}' could be found.")
    return found


def _paged(ctx: Context, places: list[Place]) -> tuple[list[Place], str]:
    """One page, and the marker of the next or ""."""
    if ctx.version < (2, 33):
        return places, ""
    page = Hypervisors.listing.parse(ctx.query)
    ids = [str(_brief(ctx, p)["id"]) for p in places]
    start = 0
    if page.marker:
        if page.marker not in ids:
            raise Invalid(f"marker [{page.marker}] not found")
        start = ids.index(page.marker) + 1
    shown = places[start : start + page.limit]
    full = len(shown) == page.limit and ctx.query.has("limit")
    return shown, ids[start + len(shown) - 1] if full and shown else ""

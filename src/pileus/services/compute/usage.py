"""What projects used in a period, from servers alive and gone.

https://docs.openstack.org/api-ref/compute/#usage-reports-os-simple-tenant-usage
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pileus.kernel.faults import Invalid
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.store import Page
from pileus.kernel.world import seconds_of, stamp
from pileus.services.compute import checks
from pileus.services.compute.server import SERVERS, Server
from pileus.services.compute.servers.states import status_of

_RULE = "os_compute_api:os-simple-tenant-usage:"
_PATH = "/os-simple-tenant-usage"
_WEEKS_S = 28 * 24 * 3600
_QUERY = ("start", "end", "detailed", "limit", "marker")


@dataclass(frozen=True)
class Period:
    """Epoch seconds."""

    start: float
    stop: float

    def hours(self, server: Server) -> float:
        """For how long of it the server ran."""
        if not server.launched_at:
            return 0.0
        end = seconds_of(server.terminated_at) if server.terminated_at else self.stop
        run = min(self.stop, end) - max(self.start, seconds_of(server.launched_at))
        return max(0.0, run) / 3600


def _period(ctx: Context) -> Period:
    now = ctx.runtime.world.clock.time()
    try:
        stop = seconds_of(ctx.query.get("end")) if ctx.query.has("end") else now
        start = seconds_of(ctx.query.get("start")) if ctx.query.has("start") else now - _WEEKS_S
    except ValueError as e:
        raise Invalid(f"The datetime is invalid: {e}") from None
    if stop < start:
        raise Invalid("Invalid start time. The start time cannot occur after the end time.")
    return Period(start, stop)


def _one(ctx: Context, server: Server, period: Period) -> dict[str, Any]:
    ended = server.terminated_at
    end = seconds_of(ended) if ended else ctx.runtime.world.clock.time()
    uptime = end - seconds_of(server.launched_at) if server.launched_at else 0
    f = server.flavor
    return {
        "hours": period.hours(server),
        "flavor": f.name,
        "instance_id": server.id,
        "name": server.name,
        "tenant_id": server.project_id,
        "memory_mb": f.ram,
        "local_gb": f.disk + f.ephemeral,
        "vcpus": f.vcpus,
        "started_at": server.launched_at.removesuffix("Z"),
        "ended_at": ended.removesuffix("Z") or None,
        "state": "terminated" if ended else status_of(server.vm_state, server.task_state).lower(),
        "uptime": int(uptime),
    }


def _sum(rows: Iterable[dict[str, Any]], project_id: str, period: Period) -> dict[str, Any]:
    rows = list(rows)
    return {
        "tenant_id": project_id,
        "total_hours": sum(r["hours"] for r in rows),
        "total_vcpus_usage": sum(r["hours"] * r["vcpus"] for r in rows),
        "total_memory_mb_usage": sum(r["hours"] * r["memory_mb"] for r in rows),
        "total_local_gb_usage": sum(r["hours"] * r["local_gb"] for r in rows),
        "start": stamp(period.start).removesuffix("Z"),
        "stop": stamp(period.stop).removesuffix("Z"),
    }


class TenantUsage(Resource[Server]):
    table = SERVERS
    rules: ClassVar[Mapping[str, str]] = {
        _RULE + "list": "rule:context_is_admin",
        _RULE + "show": "rule:project_reader_or_admin",
    }

    def scope_target(self, ctx: Context, params: Mapping[str, str]) -> Mapping[str, object]:
        """The project in the path is whose usage is asked for."""
        return {**ctx.own, "project_id": params.get("project_id", ctx.caller.project_id)}

    @operation("GET", _PATH, _RULE + "list")
    async def index(self, ctx: Context) -> dict[str, Any]:
        checks.known_only(ctx, _QUERY)
        period = _period(ctx)
        by_project: dict[str, list[dict[str, Any]]] = {}
        for row in await self._rows(ctx, period, {}):
            by_project.setdefault(row["tenant_id"], []).append(row)
        detailed = ctx.query.get("detailed") == "1"
        found = []
        for project_id, rows in sorted(by_project.items()):
            one = _sum(rows, project_id, period)
            found.append(one | {"server_usages": rows} if detailed else one)
        return {"tenant_usages": found}

    @operation("GET", _PATH + "/{project_id}", _RULE + "show")
    async def show(self, ctx: Context, project_id: str) -> dict[str, Any]:
        checks.known_only(ctx, _QUERY)
        period = _period(ctx)
        rows = await self._rows(ctx, period, {"project_id": project_id})
        if not rows:
            return {"tenant_usage": {}}
        return {"tenant_usage": _sum(rows, project_id, period) | {"server_usages": rows}}

    async def _rows(
        self, ctx: Context, period: Period, filters: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Of every server that was alive in the period."""
        page = Page(filters, (("created_at", False), ("id", False)), 100_000, deleted=None)
        found = await SERVERS.list(ctx.runtime.store, page)
        return [_one(ctx, s, period) for s in found if _alive(s, period)]


def _alive(server: Server, period: Period) -> bool:
    if not server.launched_at or seconds_of(server.launched_at) > period.stop:
        return False
    return not server.terminated_at or seconds_of(server.terminated_at) >= period.start

"""`os-hosts`, until 2.43, and the log of usage audits: what Nova showed of hosts before `os-services` and hypervisors.

https://docs.openstack.org/api-ref/compute/#hosts-os-hosts-deprecated
https://docs.openstack.org/api-ref/compute/#server-usage-audit-log-os-instance-usage-audit-log
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Literal

from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Invalid, NotFound, NotImplementedYet
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Page
from pileus.services.compute import nodes
from pileus.services.compute.nodes import NODES, Node
from pileus.services.compute.server import SERVERS, Server
from pileus.services.compute.services import OWN, change

_RULE, _AUDITS = "os_compute_api:os-hosts:", "os_compute_api:os-instance-usage-audit-log:"
_END = "2.43"
_PATH, _AUDIT = "/os-hosts", "/os-instance_usage_audit_log"
Switch = Literal["enable", "disable", "Enable", "Disable", "ENABLE", "DISABLE"]


class UpdateHost(Body):
    status: Switch | UnsetType = UNSET
    maintenance_mode: Switch | UnsetType = UNSET


def _row(host: str, project: str, servers: Iterable[Server]) -> dict[str, Any]:
    flavors = [s.flavor for s in servers]
    return {
        "resource": {
            "host": host,
            "project": project,
            "cpu": sum(f.vcpus for f in flavors),
            "memory_mb": sum(f.ram for f in flavors),
            "disk_gb": sum(f.disk + f.ephemeral for f in flavors),
        }
    }


async def _node(ctx: Context, host: str) -> Node:
    found = await NODES.one(ctx.runtime.store, host=host)
    if found is None:
        raise NotFound(f"Compute host {host} could not be found.")
    return found


def _unsupported() -> NotImplementedYet:
    return NotImplementedYet("The requested functionality is not supported.")


class Hosts(Resource[Node]):
    """Rule and body come before the question which host is meant."""

    table = NODES
    rules: ClassVar[Mapping[str, str]] = {
        _RULE + verb: "rule:context_is_admin"
        for verb in ("list", "show", "update", "reboot", "shutdown", "start")
    }

    @operation("GET", _PATH, _RULE + "list", until=_END)
    async def index(self, ctx: Context) -> dict[str, Any]:
        """Those that are not disabled."""
        rows = [(ctx.runtime.name, name, nodes.INTERNAL_ZONE) for name in OWN]
        places = await nodes.places(ctx.runtime)
        rows += [(p.node.host, "compute", p.zone) for p in places if not p.node.disabled]
        zone = ctx.query.get("zone")
        return {
            "hosts": [
                {"host_name": host, "service": service.removeprefix("nova-"), "zone": where}
                for host, service, where in rows
                if zone in ("", where)
            ]
        }

    @operation("GET", _PATH + "/{host_name}", _RULE + "show", until=_END)
    async def show(self, ctx: Context, host_name: str) -> dict[str, Any]:
        node = await _node(ctx, host_name)
        servers = await SERVERS.list(ctx.runtime.store, Page({"host": node.host}, limit=1_000_000))
        by_project: dict[str, list[Server]] = {}
        for server in servers:
            by_project.setdefault(server.project_id, []).append(server)
        has, total = node.inventory, _row(node.host, "(total)", ())
        total["resource"] |= {
            "cpu": has.vcpus,
            "memory_mb": has.ram_mib,
            "disk_gb": has.disk_gib,
        }
        sums = [_row(node.host, name, servers) for name in ("(used_now)", "(used_max)")]
        each = [_row(node.host, id, own) for id, own in sorted(by_project.items())]
        return {"host": [total, *sums, *each]}

    @operation("PUT", _PATH + "/{host_name}", _RULE + "update", status=200, until=_END)
    async def update(self, ctx: Context, host_name: str, body: UpdateHost) -> dict[str, Any]:
        if body.status is UNSET and body.maintenance_mode is UNSET:
            raise Invalid("Either status or maintenance_mode is needed.")
        node = await _node(ctx, host_name)
        if body.maintenance_mode is not UNSET:
            raise _unsupported()
        disabled = body.status.lower() == "disable" if body.status is not UNSET else False
        await change(ctx, node, disabled=disabled, disabled_reason=None)
        return {"host": node.host, "status": "disabled" if disabled else "enabled"}

    @operation("GET", _PATH + "/{host_name}/startup", _RULE + "start", until=_END)
    async def startup(self, ctx: Context, host_name: str) -> None:
        await _node(ctx, host_name)
        raise _unsupported()

    @operation("GET", _PATH + "/{host_name}/shutdown", _RULE + "shutdown", until=_END)
    async def shutdown(self, ctx: Context, host_name: str) -> None:
        await _node(ctx, host_name)
        raise _unsupported()

    @operation("GET", _PATH + "/{host_name}/reboot", _RULE + "reboot", until=_END)
    async def reboot(self, ctx: Context, host_name: str) -> None:
        await _node(ctx, host_name)
        raise _unsupported()


class UsageAudits(Resource[Node]):
    """No host writes audits: usage is read where it is kept, in `os-simple-tenant-usage`."""

    table = NODES
    rules: ClassVar[Mapping[str, str]] = {
        _AUDITS + "list": "rule:context_is_admin",
        _AUDITS + "show": "rule:context_is_admin",
    }

    @operation("GET", _AUDIT, _AUDITS + "list")
    async def index(self, ctx: Context) -> dict[str, Any]:
        now = datetime.fromisoformat(ctx.runtime.world.clock.now().removesuffix("Z"))
        return {"instance_usage_audit_logs": await _audits(ctx, now)}

    @operation("GET", _AUDIT + "/{before_timestamp}", _AUDITS + "show")
    async def show(self, ctx: Context, before_timestamp: str) -> dict[str, Any]:
        form = "%Y-%m-%d %H:%M:%S.%f" if "." in before_timestamp else "%Y-%m-%d %H:%M:%S"
        try:
            before = datetime.strptime(before_timestamp, form)
        except ValueError:
            raise Invalid(f"Invalid timestamp for date {before_timestamp}") from None
        return {"instance_usage_audit_log": await _audits(ctx, before)}


async def _audits(ctx: Context, before: datetime) -> dict[str, Any]:
    """Of the month that had ended then."""
    end = before.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    last_month = (end.year - 1, 12) if end.month == 1 else (end.year, end.month - 1)
    hosts = [n.host for n in await NODES.all(ctx.runtime.store)]
    return {
        "period_beginning": str(end.replace(year=last_month[0], month=last_month[1])),
        "period_ending": str(end),
        "num_hosts": len(hosts),
        "num_hosts_done": 0,
        "num_hosts_running": 0,
        "num_hosts_not_run": len(hosts),
        "hosts_not_run": sorted(hosts),
        "total_instances": 0,
        "total_errors": 0,
        "overall_status": f"0 of {len(hosts)} hosts done. 0 errors.",
        "log": {},
    }

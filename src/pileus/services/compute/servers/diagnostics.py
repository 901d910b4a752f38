"""A look into a running guest, and a poke: numbers, topology, interrupts, passwords.

https://docs.openstack.org/api-ref/compute/#servers-diagnostics-servers-diagnostics
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from pileus.kernel.faults import Conflict, NotFound, Unavailable
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import Body
from pileus.services.compute import instance_actions
from pileus.services.compute.agent_contract import COMPUTE_HOST, ComputeHost
from pileus.services.compute.driver import Diagnostics, NicNumbers
from pileus.services.compute.server import Server
from pileus.services.compute.servers import states
from pileus.services.compute.servers.operations import (
    ADMIN,
    MEMBER,
    PATH,
    READER,
    RULE,
    OfServer,
    launched,
    unlocked,
)

_DIAGNOSTICS = "os_compute_api:os-server-diagnostics"
_TOPOLOGY = "compute:server:topology:"
_PASSWORD = "os_compute_api:os-admin-password"
_CRASHABLE = {states.ACTIVE, states.PAUSED, states.RESCUED, states.RESIZED, states.ERROR}


class ChangePassword(Body):
    root: ClassVar[str] = "changePassword"
    adminPass: Annotated[str, Meta(max_length=255)]


def _require(server: Server, verb: str, allowed: set[str]) -> None:
    """Raises Conflict for a state in which the verb means nothing."""
    if server.task_state:
        field, value = "task_state", server.task_state
    elif server.vm_state not in allowed:
        field, value = "vm_state", server.vm_state
    else:
        launched(server, verb)
        return
    raise Conflict(f"Cannot '{verb}' instance {server.id} while it is in {field} {value}")


def _host(ctx: Context, server: Server) -> ComputeHost:
    return ctx.runtime.agents.proxy(COMPUTE_HOST, server.host)


class ServerDiagnostics(OfServer):
    rules: ClassVar[Mapping[str, str]] = {
        _DIAGNOSTICS: ADMIN,
        _TOPOLOGY + "index": READER,
        _TOPOLOGY + "host:index": ADMIN,
        _PASSWORD: MEMBER,
        RULE + "trigger_crash_dump": MEMBER,
    }

    @operation("GET", "/servers/{server_id}/diagnostics", _DIAGNOSTICS)
    async def show(self, ctx: Context, server: Server) -> dict[str, Any]:
        """Of a guest that runs. Raises Conflict."""
        if not server.host:
            raise Conflict(f"Instance {server.id} is not ready")
        try:
            found = await _host(ctx, server).diagnostics(server.id)
        except (Conflict, NotFound, Unavailable) as e:
            raise Conflict(
                f"Cannot 'get_diagnostics' instance {server.id} while it is in power state "
                f"{_POWERS.get(server.power_state, 'no state')}",
                internal=e.internal or e.message,
            ) from None
        if ctx.version >= (2, 48):
            return _numbers(server, found)
        return _old_numbers(server, found)

    @operation("GET", "/servers/{server_id}/topology", _TOPOLOGY + "index", since="2.78")
    async def topology(self, ctx: Context, server: Server) -> dict[str, Any]:
        """Guests have one node here, which upstream shows as none."""
        return {"nodes": [], "pagesize_kb": None}

    @operation(
        "POST",
        PATH,
        RULE + "trigger_crash_dump",
        action="trigger_crash_dump",
        status=202,
        since="2.17",
    )
    async def crash(self, ctx: Context, server: Server) -> None:
        """A non-maskable interrupt, at which many a guest dumps its memory."""
        unlocked(ctx, server)
        _require(server, "trigger_crash_dump", _CRASHABLE)
        await _host(ctx, server).inject_nmi(server.id)
        await self._note(ctx, server, "trigger_crash_dump")

    @operation("POST", PATH, _PASSWORD, action="changePassword", status=202)
    async def change_password(self, ctx: Context, server: Server, body: ChangePassword) -> None:
        """By the guest's agent; Conflict says why there is none, or what it said."""
        unlocked(ctx, server)
        _require(server, "changePassword", {states.ACTIVE})
        properties = server.image.properties if server.image else {}
        user = properties.get("os_admin_user", "root")
        try:
            await _host(ctx, server).set_password(server.id, user, body.adminPass)
        except (Conflict, Unavailable) as e:
            raise Conflict(
                f"Failed to set admin password on {server.id} because {e.message}",
                internal=e.internal,
            ) from None
        await self._note(ctx, server, "changePassword")

    async def _note(self, ctx: Context, server: Server, verb: str) -> None:
        async with ctx.runtime.store.tx() as tx:
            await instance_actions.record(tx, ctx, server, verb)


_POWERS = {0: "no state", 1: "running", 3: "paused", 4: "shutdown", 6: "crashed", 7: "suspended"}
_STATES = {1: "running", 3: "paused"}


def _numbers(server: Server, found: Diagnostics) -> dict[str, Any]:
    """Since 2.48 the same of every driver."""
    return {
        "state": _STATES.get(server.power_state, "running"),
        "driver": "libvirt",  # the API knows five words; this is the one for such guests
        "hypervisor": found.hypervisor,
        "hypervisor_os": "linux",
        "uptime": found.uptime_s,
        "config_drive": server.config_drive,
        "num_cpus": len(found.cpus),
        "num_nics": len(found.nics),
        "num_disks": len(found.disks),
        "disk_details": [
            {
                "read_bytes": d.read_bytes,
                "read_requests": d.read_requests,
                "write_bytes": d.write_bytes,
                "write_requests": d.write_requests,
                "errors_count": d.errors,
            }
            for d in found.disks
        ],
        "cpu_details": [{"id": c.id, "time": c.time_ns, "utilisation": None} for c in found.cpus],
        "nic_details": [_nic(n) for n in found.nics],
        "memory_details": {"maximum": server.flavor.ram, "used": found.ram_used_mib},
    }


def _nic(n: NicNumbers) -> dict[str, Any]:
    return {
        "mac_address": n.mac,
        "rx_octets": n.rx_octets,
        "rx_errors": n.rx_errors,
        "rx_drop": n.rx_drop,
        "rx_packets": n.rx_packets,
        "rx_rate": None,
        "tx_octets": n.tx_octets,
        "tx_errors": n.tx_errors,
        "tx_drop": n.tx_drop,
        "tx_packets": n.tx_packets,
        "tx_rate": None,
    }


def _old_numbers(server: Server, found: Diagnostics) -> dict[str, Any]:
    """Flat, in kibibytes of memory, named by device."""
    shown: dict[str, Any] = {
        "memory": server.flavor.ram << 10,
        "memory-actual": found.ram_used_mib << 10,
    }
    shown |= {f"cpu{c.id}_time": c.time_ns for c in found.cpus}
    for n, disk in enumerate(found.disks):
        name = "vd" + chr(ord("a") + n)
        shown |= {
            f"{name}_read": disk.read_bytes,
            f"{name}_read_req": disk.read_requests,
            f"{name}_write": disk.write_bytes,
            f"{name}_write_req": disk.write_requests,
            f"{name}_errors": disk.errors,
        }
    for n, nic in enumerate(found.nics):
        shown |= {
            f"tap{n}_{way}{unit and '_' + unit}": getattr(nic, f"{way}_{unit or 'octets'}")
            for way in ("rx", "tx")
            for unit in ("", "packets", "errors", "drop")
        }
    return shown

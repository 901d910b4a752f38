"""A server's live migrations that are under way: how far they are, brought to their end or given up.

https://docs.openstack.org/api-ref/compute/#server-migrations-servers-migrations
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pileus.kernel.faults import Conflict, Fault, Invalid, NotFound
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Page
from pileus.services.compute import checks, instance_actions
from pileus.services.compute.agent_contract import COMPUTE_HOST
from pileus.services.compute.driver import Progress
from pileus.services.compute.migrations import (
    LIVE,
    MIGRATIONS,
    PREPARING,
    RUNNING,
    Migration,
    common_view,
)
from pileus.services.compute.server import Server
from pileus.services.compute.servers import states
from pileus.services.compute.servers.moving import MANAGER
from pileus.services.compute.servers.operations import OfServer, unlocked

_RULE = "os_compute_api:servers:migrations:"
_PATH = "/servers/{server_id}/migrations"
_ONE = _PATH + "/{migration_id}"


class ServerMigrations(OfServer):
    rules: ClassVar[Mapping[str, str]] = {
        _RULE + "index": MANAGER,
        _RULE + "index:host": "rule:context_is_admin",
        _RULE + "show": "rule:context_is_admin",
        _RULE + "force_complete": MANAGER,
        _RULE + "delete": MANAGER,
    }

    @operation("GET", _PATH, _RULE + "index", since="2.23")
    async def index(self, ctx: Context, server: Server) -> dict[str, Any]:
        checks.known_only(ctx, (), since=(2, 102))
        page = Page({"server_id": server.id, "migration_type": LIVE})
        found = [m for m in await MIGRATIONS.list(ctx.runtime.store, page) if m.is_under_way]
        hosts = ctx.allows(_RULE + "index:host", self.target(ctx, server))
        return {"migrations": [await _view(ctx, m, hosts=hosts) for m in found]}

    @operation("GET", _ONE, _RULE + "show", since="2.23")
    async def show(self, ctx: Context, server: Server, migration_id: str) -> dict[str, Any]:
        checks.known_only(ctx, (), since=(2, 102))
        found = await _find(ctx, server, migration_id)
        if found is None:
            raise NotFound(
                f"In-progress live migration {migration_id} is not found for server {server.id}."
            )
        if found.migration_type != LIVE:
            raise NotFound(
                f"Migration {migration_id} for server {server.id} is not live-migration."
            )
        if not found.is_under_way:
            raise NotFound(
                f"Live migration {migration_id} for server {server.id} is not in progress."
            )
        return {"migration": await _view(ctx, found, hosts=True)}

    @operation(
        "POST",
        _ONE + "/action",
        _RULE + "force_complete",
        action="force_complete",
        since="2.22",
        status=202,
    )
    async def force_complete(self, ctx: Context, server: Server, migration_id: str) -> None:
        """The guest stands still from now on, so that the rest of its memory can be sent."""
        _migrating(ctx, server, "force_complete")
        if server.vm_state != states.ACTIVE:
            raise _conflict(server, "force_complete", "vm_state", server.vm_state)
        found = await _find(ctx, server, migration_id)
        if found is None:
            raise Invalid(f"Migration {migration_id} not found for instance {server.id}")
        _in_state(found, "force complete", (RUNNING,))
        await _record(ctx, server, "live_migration_force_complete")
        await ctx.runtime.agents.proxy(COMPUTE_HOST, found.host).hurry(server.id)

    @operation("DELETE", _ONE, _RULE + "delete", since="2.24", status=202)
    async def abort(self, ctx: Context, server: Server, migration_id: str) -> None:
        """The server stays where it is. What has not begun can be given up since 2.65."""
        _migrating(ctx, server, "abort live migration")
        found = await _find(ctx, server, migration_id)
        if found is None:
            raise NotFound(f"Migration {migration_id} not found for instance {server.id}")
        early = ("queued", PREPARING) if ctx.version >= (2, 65) else ()
        async with ctx.runtime.store.tx() as tx:
            fresh = await MIGRATIONS.get(tx, found.id)
            _in_state(fresh, "abort live migration", (RUNNING, *early))
            await MIGRATIONS.change(tx, fresh, cancelled=True)
            await instance_actions.record(tx, ctx, server, "live_migration_cancel")
        # If the sending has not begun it will not; if it has just ended, the end sees that it was for nothing.
        await ctx.runtime.agents.proxy(COMPUTE_HOST, found.host).abandon(server.id)


async def _record(ctx: Context, server: Server, action: str) -> None:
    async with ctx.runtime.store.tx() as tx:
        await instance_actions.record(tx, ctx, server, action)


async def _find(ctx: Context, server: Server, number: str) -> Migration | None:
    if not number.isdecimal() or len(number) > 9:
        return None
    return await MIGRATIONS.one(ctx.runtime.store, server_id=server.id, number=int(number))


def _migrating(ctx: Context, server: Server, verb: str) -> None:
    """Raises Conflict."""
    unlocked(ctx, server)
    if server.task_state != states.MIGRATING:
        raise _conflict(server, verb, "task_state", server.task_state or "None")


def _conflict(server: Server, verb: str, field: str, state: str) -> Conflict:
    return Conflict(f"Cannot '{verb}' instance {server.id} while it is in {field} {state}")


def _in_state(migration: Migration, verb: str, allowed: tuple[str, ...]) -> None:
    """Raises Invalid."""
    if migration.status not in allowed:
        raise Invalid(
            f"Migration {migration.number} state of instance {migration.server_id} is {migration.status}. "
            f"Cannot {verb} while the migration is in this state."
        )


async def _view(ctx: Context, m: Migration, *, hosts: bool) -> dict[str, Any]:
    p = await _progress(ctx, m)
    return common_view(ctx, m, hosts=hosts) | {
        "server_uuid": m.server_id,
        "memory_total_bytes": p.memory_total,
        "memory_processed_bytes": p.memory_processed,
        "memory_remaining_bytes": p.memory_remaining,
        "disk_total_bytes": p.disk_total,
        "disk_processed_bytes": p.disk_processed,
        "disk_remaining_bytes": p.disk_remaining,
    }


async def _progress(ctx: Context, m: Migration) -> Progress:
    """As its host says now; zeros if it can't."""
    try:
        return await ctx.runtime.agents.proxy(COMPUTE_HOST, m.host).progress(m.server_id)
    except Fault:
        return Progress()

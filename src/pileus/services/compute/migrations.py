"""Migrations: what was done to servers that changed their size or their host, and how it went.

https://docs.openstack.org/api-ref/compute/#migrations-os-migrations
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from pileus.kernel.query import Filter, Listing, extended
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.store import Column, Page, Reader, Record, Table, Tx
from pileus.services.compute import checks
from pileus.services.compute.server import TOMBSTONE_S, Server

_INDEX = "os_compute_api:os-migrations:index"
RESIZE, COLD, LIVE, EVACUATION = "resize", "migration", "live-migration", "evacuation"
PREPARING, RUNNING, POST_MIGRATING = "preparing", "running", "post-migrating"
IN_PROGRESS = ("queued", PREPARING, RUNNING, POST_MIGRATING)  # of a live migration
COMPLETED, CANCELLED, FAILED = "completed", "cancelled", "error"


class Migration(Record, kw_only=True, frozen=True):
    """`status` is upstream's word. `number` is its id before 2.59. `host` is where the server was, `dest` where it goes.

    `downtime_ms`: for how long a guest that was moved alive stood still. `cancelled`: somebody has asked for its end.
    """

    number: int
    server_id: str
    project_id: str
    user_id: str
    host: str
    dest: str = ""
    old_flavor: str
    new_flavor: str
    status: str = "migrating"
    migration_type: str = RESIZE
    cancelled: bool = False
    downtime_ms: int = 0

    @property
    def is_under_way(self) -> bool:
        return self.migration_type == LIVE and self.status in IN_PROGRESS


MIGRATIONS = Table(
    "compute_migrations",
    Migration,
    columns=(
        "number",
        "server_id",
        "project_id",
        "user_id",
        "host",
        "dest",
        "status",
        "migration_type",
        Column("changed_at", lambda m: m.updated_at or m.created_at),
    ),
    indexes=(("server_id",), ("created_at", "id")),
    tombstone_s=TOMBSTONE_S,
    noun="Migration",
)


async def begun(
    tx: Tx,
    id: str,
    server: Server,
    new_flavor: str,
    user_id: str,
    kind: str = RESIZE,
    status: str = "migrating",
) -> None:
    """Notes that a server is about to change its size or its host; once."""
    await tx.lock("compute.migrations")
    if await MIGRATIONS.find(tx, id, deleted=None) is not None:
        return
    last = await MIGRATIONS.list(tx, Page({}, (("number", True),), limit=1, deleted=None))
    migration = Migration(
        id=id,
        number=last[0].number + 1 if last else 1,
        server_id=server.id,
        project_id=server.project_id,
        user_id=user_id,
        host=server.host,
        old_flavor=server.flavor.id,
        new_flavor=new_flavor,
        status=status,
        migration_type=kind,
    )
    await MIGRATIONS.insert(tx, migration)


async def went(tx: Tx, id: str, status: str, **changes: Any) -> None:
    """`changes`: what else is known of it by now."""
    changes["status"] = status
    found = await MIGRATIONS.find(tx, id)
    if found is not None and any(getattr(found, k) != v for k, v in changes.items()):
        await MIGRATIONS.change(tx, found, **changes)


async def of(db: Reader, server_id: str) -> list[Migration]:
    return await MIGRATIONS.all(db, server_id=server_id)


async def bury(tx: Tx, server_id: str) -> None:
    """The server is gone: its migrations are kept as long as its tombstone."""
    for migration in await MIGRATIONS.all(tx, server_id=server_id):
        await MIGRATIONS.delete(tx, migration)


def _flavor_number(id: str) -> int:
    """Upstream shows a row's number, which means nothing to anybody but must be one."""
    return int(id) if id.isdecimal() and len(id) < 10 else zlib.crc32(id.encode()) >> 1


def common_view(ctx: Context, m: Migration, *, hosts: bool) -> dict[str, Any]:
    """What both views of a migration show. `hosts`: the caller may know them."""
    source, dest = (m.host or None, m.dest or None) if hosts else (None, None)
    found: dict[str, Any] = {
        "id": m.number,
        "status": m.status,
        "source_compute": source,
        "source_node": source,
        "dest_compute": dest,
        "dest_node": dest,
        "dest_host": None,
        "created_at": m.created_at.removesuffix("Z"),
        "updated_at": (m.updated_at or "").removesuffix("Z") or None,
    }
    if ctx.version >= (2, 59):
        found["uuid"] = m.id
    if ctx.version >= (2, 80):
        found |= {"project_id": m.project_id, "user_id": m.user_id}
    return found


def _view(ctx: Context, m: Migration, *, hosts: bool) -> dict[str, Any]:
    found = common_view(ctx, m, hosts=hosts) | {
        "instance_uuid": m.server_id,
        "old_instance_type_id": _flavor_number(m.old_flavor),
        "new_instance_type_id": _flavor_number(m.new_flavor),
    }
    if ctx.version >= (2, 23):
        found["migration_type"] = m.migration_type
        if m.is_under_way:
            path = f"servers/{m.server_id}/migrations"
            found["links"] = checks.links_to(ctx, path, str(m.number))
    return found


class Migrations(Resource[Migration]):
    table = MIGRATIONS
    rules: ClassVar[Mapping[str, str]] = {
        _INDEX: "rule:project_manager_or_admin",
        _INDEX + ":all_projects": "rule:context_is_admin",
        _INDEX + ":host": "rule:context_is_admin",
    }
    listing = Listing(
        filters={
            "status": Filter(),
            "instance_uuid": Filter("server_id"),
            "migration_type": Filter(),
            "source_compute": Filter("host"),
        }
    )

    @operation("GET", "/os-migrations", _INDEX)
    async def index(self, ctx: Context) -> dict[str, Any]:
        """The newest first; the caller's project's only, unless he may see all."""
        checks.known_only(ctx, _asked(ctx), since=(2, 59))
        page = self.listing.parse(ctx.query)
        if ctx.version >= (2, 80):
            for key in ("project_id", "user_id"):
                if ctx.query.has(key):
                    page = extended(page, **{key: ctx.query.get(key)})
        if not ctx.allows(_INDEX + ":all_projects"):
            page = extended(page, project_id=ctx.caller.project_id)
        if ctx.version < (2, 59):
            page = replace(page, marker="", limit=1000)
        else:
            page = checks.changed_between(ctx, page)
        page = replace(page, sorts=(("created_at", True), ("id", True)))
        if ctx.query.has("host"):
            page = _at(page, ctx.query.get("host"))
        hidden = ctx.query.get("hidden").lower() in ("1", "true")
        found = [] if hidden else await checks.listed(ctx, MIGRATIONS, page)
        hosts = ctx.allows(_INDEX + ":host")
        views = [_view(ctx, m, hosts=hosts) for m in found]
        if ctx.version < (2, 59):
            return {"migrations": views}
        return checks.with_links(ctx, "migrations", views, page, found)


def _asked(ctx: Context) -> list[str]:
    """What may be asked for from 2.59 on, when the rest is refused."""
    found = ["hidden", "host", "instance_uuid", "source_compute", "status", "migration_type"]
    found += ["limit", "marker", "changes-since"]
    if ctx.version >= (2, 66):
        found.append("changes-before")
    return found + (["user_id", "project_id"] if ctx.version >= (2, 80) else [])


def _at(page: Page, host: str) -> Page:
    """From that host or to it."""
    ways: list[dict[str, Any]] = [{"host": host}, {"dest": host}]
    bounds = page.scopes or ({},)
    return replace(page, scopes=tuple({**b, **way} for b in bounds for way in ways))

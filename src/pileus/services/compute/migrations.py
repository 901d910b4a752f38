"""Migrations: what was done to servers that changed their size, and how it went.

https://docs.openstack.org/api-ref/compute/#migrations-os-migrations
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from pileus.kernel.faults import NotFound
from pileus.kernel.query import Filter, Listing, extended
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.store import Column, Page, Reader, Record, Table, Tx
from pileus.services.compute import checks
from pileus.services.compute.server import SERVERS, TOMBSTONE_S, Server

_INDEX = "os_compute_api:os-migrations:index"
_OF_SERVER = "os_compute_api:servers:migrations:"
_PATH = "/servers/{server_id}/migrations"
_PAGED = ("limit", "marker", "changes-since")


class Migration(Record, kw_only=True, frozen=True):
    """`status` is upstream's: migrating, finished, confirmed, reverted or error. `number` is its id before 2.59."""

    number: int
    server_id: str
    project_id: str
    user_id: str
    host: str
    old_flavor: str
    new_flavor: str
    status: str = "migrating"
    migration_type: str = "resize"


MIGRATIONS = Table(
    "compute_migrations",
    Migration,
    columns=(
        "number",
        "server_id",
        "project_id",
        "user_id",
        "host",
        "status",
        "migration_type",
        Column("changed_at", lambda m: m.updated_at or m.created_at),
    ),
    indexes=(("server_id",), ("created_at", "id")),
    tombstone_s=TOMBSTONE_S,
    noun="Migration",
)


async def begun(tx: Tx, id: str, server: Server, new_flavor: str, user_id: str) -> None:
    """Notes that a server is about to be resized; once."""
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
    )
    await MIGRATIONS.insert(tx, migration)


async def went(tx: Tx, id: str, status: str) -> None:
    found = await MIGRATIONS.find(tx, id)
    if found is not None and found.status != status:
        await MIGRATIONS.change(tx, found, status=status)


async def of(db: Reader, server_id: str) -> list[Migration]:
    return await MIGRATIONS.all(db, server_id=server_id)


async def bury(tx: Tx, server_id: str) -> None:
    """The server is gone: its migrations are kept as long as its tombstone."""
    for migration in await MIGRATIONS.all(tx, server_id=server_id):
        await MIGRATIONS.delete(tx, migration)


def _flavor_number(id: str) -> int:
    """Upstream shows a row's number, which means nothing to anybody but must be one."""
    return int(id) if id.isdecimal() and len(id) < 10 else zlib.crc32(id.encode()) >> 1


def _view(ctx: Context, m: Migration, *, hosts: bool) -> dict[str, Any]:
    host = m.host if hosts else None
    found: dict[str, Any] = {
        "id": m.number,
        "instance_uuid": m.server_id,
        "status": m.status,
        "source_compute": host,
        "source_node": host,
        "dest_compute": host,
        "dest_node": host,
        "dest_host": None,
        "old_instance_type_id": _flavor_number(m.old_flavor),
        "new_instance_type_id": _flavor_number(m.new_flavor),
        "created_at": m.created_at.removesuffix("Z"),
        "updated_at": (m.updated_at or "").removesuffix("Z") or None,
    }
    if ctx.version >= (2, 23):
        found["migration_type"] = m.migration_type
    if ctx.version >= (2, 59):
        found["uuid"] = m.id
    if ctx.version >= (2, 80):
        found |= {"project_id": m.project_id, "user_id": m.user_id}
    return found


class Migrations(Resource[Server]):
    table = SERVERS
    id_param = "server_id"
    rules: ClassVar[Mapping[str, str]] = {
        _INDEX: "rule:project_manager_or_admin",
        _INDEX + ":all_projects": "rule:context_is_admin",
        _INDEX + ":host": "rule:context_is_admin",
        _OF_SERVER + "index": "rule:project_manager_or_admin",
        _OF_SERVER + "show": "rule:context_is_admin",
    }
    listing = Listing(
        filters={
            "status": Filter(),
            "instance_uuid": Filter("server_id"),
            "migration_type": Filter(),
            "host": Filter(),
            "source_compute": Filter("host"),
        }
    )

    @operation("GET", "/os-migrations", _INDEX)
    async def index(self, ctx: Context) -> dict[str, Any]:
        """The newest first; the caller's project's only, unless he may see all."""
        everything = ctx.allows(_INDEX + ":all_projects")
        page = self.listing.parse(ctx.query)
        if ctx.version >= (2, 80):
            for key in ("project_id", "user_id"):
                if ctx.query.has(key):
                    page = extended(page, **{key: ctx.query.get(key)})
        if not everything:
            page = extended(page, project_id=ctx.caller.project_id)
        if ctx.version < (2, 59):
            page = replace(page, marker="", limit=1000)
        else:
            page = checks.changed_between(ctx, page)
        page = replace(page, sorts=(("created_at", True), ("id", True)))
        found = await checks.listed(ctx, MIGRATIONS, page)
        hosts = ctx.allows(_INDEX + ":host")
        views = [_view(ctx, m, hosts=hosts) for m in found]
        if ctx.version < (2, 59):
            return {"migrations": views}
        return checks.with_links(ctx, "migrations", views, page, found)

    @operation("GET", _PATH, _OF_SERVER + "index", since="2.23")
    async def of_server(self, ctx: Context, server: Server) -> dict[str, Any]:
        """Live migrations under way, of which there are none here."""
        return {"migrations": []}

    @operation("GET", _PATH + "/{migration_id}", _OF_SERVER + "show", since="2.23")
    async def show(self, ctx: Context, server: Server, migration_id: str) -> dict[str, Any]:
        raise NotFound(
            f"In-progress live migration {migration_id} is not found for server {server.id}."
        )

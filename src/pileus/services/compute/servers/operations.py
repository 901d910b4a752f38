"""Servers as resources: list, create, show, update, delete. The rest is in actions, metadata, tags, addresses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import msgspec
from msgspec import UNSET

from pileus.kernel.events import emit
from pileus.kernel.faults import Conflict, Invalid, NotFound, Stale
from pileus.kernel.query import next_link
from pileus.kernel.resources import Answer, Context, Resource, operation
from pileus.kernel.sagas import JOURNAL, Saga
from pileus.kernel.store import Page, Row
from pileus.services.compute import checks, instance_actions, nodes
from pileus.services.compute.server import SERVERS, Server
from pileus.services.compute.servers import creation, listing, states, views
from pileus.services.compute.servers.bodies import CreateServer, DescribedServer, UpdateServer
from pileus.services.compute.servers.plugging import reserve_now
from pileus.services.compute.servers.sagas import DELETE, RESTORE, SAGAS, SOFT_DELETE
from pileus.services.compute.settings import settings_of

RULE = "os_compute_api:servers:"
_DEFERRED = "os_compute_api:os-deferred-delete:"
PATH = "/servers/{server_id}/action"
READER, MEMBER, ADMIN = (
    "rule:project_reader_or_admin",
    "rule:project_member_or_admin",
    "rule:context_is_admin",
)
_PASSWORD_LETTERS = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
_TURN_S = 60  # how long a request waits for the volumes of others
_SLICE = 100  # servers rendered at one go
_ENDS_A_MOVE = ("confirmResize", "revertResize")
_encode = msgspec.json.Encoder().encode


class OfServer(Resource[Server]):
    """What every resource about a server has: it is there for its project."""

    table = SERVERS
    id_param = "server_id"
    see = RULE + "show"

    async def load(self, ctx: Context, id: str) -> Server:
        """Whoever changes it waits while a volume comes or goes, but for who deletes it."""
        server = await super().load(ctx, id)
        if ctx.method == "GET" or ctx.path.endswith(id):
            return server
        with suppress(TimeoutError):  # what it is busy with is said then
            async with asyncio.timeout(_TURN_S):
                while server.task_state in states.PASSING:
                    for entry in await JOURNAL.all(ctx.runtime.store, record_id=id):
                        await ctx.runtime.sagas.over(entry.id)
                    await ctx.runtime.store.sync()
                    server = await super().load(ctx, id)
        return server


def unlocked(ctx: Context, server: Server) -> None:
    """A locked server obeys administrators only. Raises Conflict."""
    if server.locked_by and not ctx.caller.is_admin:
        raise Conflict(f"Instance {server.id} is locked")


async def begin(
    ctx: Context,
    saga: Saga[Server],
    server: Server,
    verb: str,
    now: Mapping[str, Any] | None = None,
    first: Callable[[], Awaitable[None]] | None = None,
    **becoming: Any,
) -> str:
    """One transaction: the state, the saga and the instance action; the saga's id. Raises Conflict.

    `becoming`: what of the server shall be otherwise in the end; `now`: what is so at once, come what
    may; `first`: what the saga does first, done for the caller to see how it goes. The lock is the
    caller's to ask for.
    """
    sagas = ctx.runtime.sagas
    async with ctx.runtime.store.tx() as tx:
        fresh = await SERVERS.get(tx, server.id)
        if (way := saga.lifecycle[saga.verb]).interrupts and fresh.task_state == way.via:
            return ""  # it is on its way
        if becoming and fresh.generation != server.generation:
            raise Stale(f"Instance {server.id} has changed since it was looked at.")
        wanted = msgspec.structs.replace(fresh, **becoming) if becoming else None
        busy, entry = await sagas.begin(
            tx, saga, fresh, becoming=wanted, caller=ctx.caller, request_id=ctx.request_id
        )
        if now:
            await SERVERS.change(tx, busy, **now)
        await instance_actions.record(tx, ctx, fresh, verb, entry.id)
    try:
        if first is not None:
            await first()
    finally:
        sagas.launch(entry)
    return entry.id


async def act(
    ctx: Context,
    saga: Saga[Server],
    server: Server,
    verb: str,
    now: Mapping[str, Any] | None = None,
    **becoming: Any,
) -> None:
    """Begins what only a server that ran once can do. Raises Conflict."""
    unlocked(ctx, server)
    states.LIFECYCLE.check(saga.verb, server)
    launched(server, verb)
    if saga.verb not in _ENDS_A_MOVE:
        unmoved(server, verb)
    await begin(ctx, saga, server, verb, now, **becoming)


def plain(rule: str, action: str, saga: Saga[Server]) -> Any:
    """The operation of an action that has nothing to say but its name."""

    @operation("POST", PATH, rule, action=action, status=202)
    async def asked(self: OfServer, ctx: Context, server: Server) -> None:
        await act(ctx, saga, server, saga.verb)

    return asked


def unmoved(server: Server, verb: str) -> None:
    """Raises Conflict while a resize waits, whatever state an administrator gave the server."""
    if server.move is not None:
        raise Conflict(
            f"Cannot '{verb}' instance {server.id} while it is in vm_state {server.vm_state} and its "
            "resize waits to be confirmed or reverted; its state must be reset to active for that."
        )


def launched(server: Server, verb: str) -> None:
    """What never ran has no power to switch. Raises Conflict."""
    if not server.launched_at:
        raise Conflict(f"Cannot '{verb}' instance {server.id} while it is in launched_at None")


async def status_of(ctx: Context, server: Server, seen: views.Sight) -> str:
    """The state of the server's host, as far as the caller may know it."""
    if ctx.version < (2, 16) or not (seen.host_status or seen.unknown_only):
        return ""
    status = await nodes.host_status(ctx.runtime, server.host) if server.host else ""
    return views.host_status_for(seen, status)


class Servers(OfServer):
    rules: ClassVar[Mapping[str, str]] = {
        RULE + "index": READER,
        RULE + "detail": READER,
        RULE + "index:get_all_tenants": ADMIN,
        RULE + "detail:get_all_tenants": ADMIN,
        RULE + "allow_all_filters": ADMIN,
        RULE + "show": READER,
        RULE + "show:flavor-extra-specs": READER,
        RULE + "show:host_status": ADMIN,
        RULE + "show:host_status:unknown-only": ADMIN,
        RULE + "create": MEMBER,
        RULE + "create:forced_host": ADMIN,
        "compute:servers:create:requested_destination": ADMIN,
        RULE + "create:attach_network": MEMBER,
        RULE + "create:attach_volume": MEMBER,
        RULE + "create:zero_disk_flavor": ADMIN,
        RULE + "update": MEMBER,
        RULE + "delete": MEMBER,
        _DEFERRED + "force": MEMBER,
        _DEFERRED + "restore": MEMBER,
        views.EXTENDED: ADMIN,
    }
    sagas = SAGAS

    # Lists

    @operation("GET", "/servers", RULE + "index")
    async def index(self, ctx: Context) -> dict[str, Any]:
        page = listing.parse(ctx, RULE + "index:get_all_tenants")
        if page is None:
            return {"servers": []}
        found = await checks.listed(ctx, SERVERS, page)
        return checks.with_links(ctx, "servers", [views.brief(ctx, s) for s in found], page, found)

    @operation("GET", "/servers/detail", RULE + "detail")
    async def detail(self, ctx: Context) -> bytes:
        page = listing.parse(ctx, RULE + "detail:get_all_tenants")
        if page is None:
            return b'{"servers":[]}'
        try:
            rows = await SERVERS.page(ctx.runtime.store, page, select=("id", "generation", "host"))
        except NotFound as e:
            raise Invalid(e.message) from None
        parts = await _fragments(ctx, rows)
        if not parts:
            return b'{"servers":[]}'
        parts[0] = b'{"servers":[' + parts[0]
        parts[-1] += b"]"
        if len(rows) == page.limit:
            url = next_link(ctx.url, ctx.query, rows[-1][0])
            parts[-1] += b',"servers_links":' + _encode([{"rel": "next", "href": url}])
        parts[-1] += b"}"
        return b",".join(parts)

    # One

    @operation("GET", "/servers/{server_id}", RULE + "show")
    async def show(self, ctx: Context, server: Server) -> bytes:
        seen = views.sight(ctx, {"project_id": server.project_id}, single=True)
        status = await status_of(ctx, server, seen)
        return b'{"server":' + views.rendered(ctx, server, seen, status) + b"}"

    @operation("POST", "/servers", RULE + "create", status=202)
    async def create(self, ctx: Context, body: CreateServer) -> Answer:
        asked = await creation.plan(ctx, body)
        made, entries = await creation.insert(ctx, asked)
        try:
            why_not = await _taken(ctx, made)
        finally:
            ctx.runtime.sagas.launch(*entries)
        if why_not:
            for server in made:
                await begin(ctx, DELETE, server, "delete")
            raise Invalid(why_not)
        if checks.flag(body.return_reservation_id, "return_reservation_id"):
            return Answer({"reservation_id": made[0].reservation_id})
        server = made[0]
        groups = asked.pattern.security_groups or [creation.DEFAULT_GROUP]
        found = checks.links(ctx, "servers", server)
        view = {
            "id": server.id,
            "links": found,
            "OS-DCF:diskConfig": server.disk_config,
            "security_groups": [{"name": g} for g in groups],
            "adminPass": body.adminPass if body.adminPass is not UNSET else password(ctx),
        }
        return Answer({"server": view}, headers={"location": found[0]["href"]})

    @operation("PUT", "/servers/{server_id}", RULE + "update")
    async def update(self, ctx: Context, server: Server, body: UpdateServer) -> dict[str, Any]:
        changes = _changes(ctx, server, body)
        async with ctx.runtime.store.tx() as tx:
            if changes:
                server = await SERVERS.change(tx, server, **changes)
                await emit(tx, "compute.instance.update", server.project_id, id=server.id)
        seen = views.sight(ctx, {"project_id": server.project_id}, single=ctx.version >= (2, 75))
        status = await status_of(ctx, server, seen)
        return {"server": views.updated(ctx, server, seen, status)}

    @operation("DELETE", "/servers/{server_id}", RULE + "delete", status=204)
    async def delete(self, ctx: Context, server: Server) -> None:
        """One that ran is kept for a while, where that is set."""
        unlocked(ctx, server)
        keeps = settings_of(ctx.runtime).reclaim_s > 0 and server.launched_at and not server.move
        if keeps and server.vm_state == states.SOFT_DELETED:
            return
        keeps = keeps and server.vm_state in states.KEEPABLE
        await begin(ctx, SOFT_DELETE if keeps else DELETE, server, "delete")

    @operation("POST", PATH, _DEFERRED + "force", action="forceDelete", status=202)
    async def force_delete(self, ctx: Context, server: Server) -> None:
        unlocked(ctx, server)
        await begin(ctx, DELETE, server, "delete")

    @operation("POST", PATH, _DEFERRED + "restore", action="restore", status=202)
    async def restore(self, ctx: Context, server: Server) -> None:
        """Raises OverQuota: what is only kept doesn't count."""
        await act(ctx, RESTORE, server, "restore", None, vm_state=states.ACTIVE)


async def _taken(ctx: Context, made: Sequence[Server]) -> str:
    """Reserves the volumes that were there before; why that can't be, where another was faster."""
    try:
        for server in made:
            there = [d for d in server.volumes if not d.is_made_for_it]
            await reserve_now(ctx, server.id, there)
    except (Invalid, NotFound) as e:
        return e.message
    return ""


async def _fragments(ctx: Context, rows: Sequence[Row]) -> list[bytes]:
    """Each server's JSON, given (id, generation, host). Documents are read only where it is not remembered."""
    seen = views.sight(ctx)
    shows = ctx.version >= (2, 16) and (seen.host_status or seen.unknown_only)
    hosts = {host for _, _, host in rows if host} if shows else set()
    statuses = await nodes.host_statuses(ctx.runtime, hosts) if hosts else {}
    known = {host: views.host_status_for(seen, status) for host, status in statuses.items()}
    looks = {host: views.look_of(ctx, seen, status) for host, status in known.items()}
    nowhere = views.look_of(ctx, seen, "")
    found: dict[str, bytes] = {}
    missing = []
    for id, generation, host in rows:
        part = views.FRAGMENTS.find(ctx, id, generation, looks.get(host, nowhere))
        if part is None:
            missing.append(id)
        found[id] = part or b""
    for at in range(0, len(missing), _SLICE):
        some = Page({"id": missing[at : at + _SLICE]}, limit=_SLICE, deleted=None)
        for server in await SERVERS.list(ctx.runtime.store, some):
            found[server.id] = views.rendered(ctx, server, seen, known.get(server.host, ""))
        await ctx.runtime.world.clock.sleep(0)  # others have their turn
    return [part for part in found.values() if part]  # one may be gone by now


def password(ctx: Context) -> str:
    """Shown once and never kept."""
    return "".join(ctx.runtime.world.random.choice(_PASSWORD_LETTERS) for _ in range(12))


def described(ctx: Context, body: DescribedServer) -> dict[str, Any]:
    """What it changes. Raises Invalid."""
    changes: dict[str, Any] = {}
    if body.name is not UNSET:
        changes["name"] = checks.name(body.name)
    if body.disk_config is not UNSET:
        changes["disk_config"] = creation.disk_config(body.disk_config)
    if body.accessIPv4 is not UNSET:
        changes["access_ipv4"] = checks.address(body.accessIPv4, 4, "accessIPv4")
    if body.accessIPv6 is not UNSET:
        changes["access_ipv6"] = checks.address(body.accessIPv6, 6, "accessIPv6")
    if body.description is not UNSET:
        changes["description"] = creation.description(body.description)
    if body.hostname is not UNSET:
        dotted = ctx.version >= (2, 94)
        changes["hostname"] = checks.hostname(body.hostname, dotted=dotted)
    return changes


def _changes(ctx: Context, server: Server, body: UpdateServer) -> dict[str, Any]:
    changes = described(ctx, body)
    if body.pinned_availability_zone is not UNSET:
        changes["pinned_zone"] = _pin(server, body.pinned_availability_zone)
    return changes


def _pin(server: Server, zone: str | None) -> str:
    """Unpinned, or pinned where it is. Raises Conflict."""
    if not zone or zone == server.pinned_zone:
        return zone or ""
    if server.pinned_zone:
        raise Conflict(
            f"Instance {server.id} is pinned to {server.pinned_zone}; unpin it with null first."
        )
    if zone != server.zone:
        raise Conflict(f"Instance {server.id} is in zone {server.zone}, not {zone}.")
    return zone

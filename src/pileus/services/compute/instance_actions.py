"""What was done to a server, and how it went; it outlives the server.

https://docs.openstack.org/api-ref/compute/#servers-actions-os-instance-actions
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from pileus.kernel.faults import Invalid, NotFound
from pileus.kernel.query import Listing, extended
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Column, Page, Record, Table, Tx
from pileus.services.compute import checks
from pileus.services.compute.server import SERVERS, TOMBSTONE_S, Server, host_id

_RULE = "os_compute_api:os-instance-actions:"
_LIST = "/servers/{server_id}/os-instance-actions"


class ActionEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of an action; upstream's name of it is what tools look for."""

    event: str
    start_time: str
    finish_time: str = ""
    result: str = ""  # Success or Error
    host: str = ""
    details: str = ""
    traceback: str = ""
    code: int = 0  # the fault's status


class Action(Record, kw_only=True, frozen=True):
    """Its id is that of the saga, where there is one. When the server goes it becomes a tombstone."""

    server_id: str
    action: str
    request_id: str
    user_id: str
    project_id: str
    message: str = ""
    events: list[ActionEvent] = []


ACTIONS = Table(
    "compute_instance_actions",
    Action,
    columns=(
        "server_id",
        "request_id",
        Column("changed_at", lambda a: a.updated_at or a.created_at),
    ),
    history=(("server_id", "created_at"),),
    tombstone_s=TOMBSTONE_S,
)


async def record(tx: Tx, ctx: Context, server: Server, verb: str, id: str = "") -> None:
    """Notes that the caller did `verb` to the server. `id`: the saga's, which will say how it went."""
    action = Action(
        id=id or ctx.runtime.world.new_id(),
        server_id=server.id,
        action=verb,
        request_id=ctx.request_id,
        user_id=ctx.caller.user_id,
        project_id=ctx.caller.project_id,
    )
    await ACTIONS.insert(tx, action)


async def finish(
    runtime: Runtime,
    saga_id: str,
    event: str,
    host: str,
    *,
    error: str = "",
    detail: str = "",
    code: int = 0,
    note: str = "",
) -> None:
    """Notes how the saga's action went, and what else administrators may want to know; once for each saga."""
    async with runtime.store.tx(wait=False) as tx:
        action = await ACTIONS.find(tx, saga_id)
        if action is None or action.events:
            return
        one = ActionEvent(
            event=event,
            start_time=action.created_at,
            finish_time=tx.now,
            result="Error" if error else "Success",
            host=host,
            details=error or note,
            traceback=detail,
            code=code,
        )
        await ACTIONS.change(tx, action, events=[one], message="Error" if error else "")


async def bury(tx: Tx, server_id: str) -> None:
    """The server is gone: its actions are kept as long as its tombstone."""
    for action in await ACTIONS.all(tx, server_id=server_id):
        await ACTIONS.delete(tx, action)


def _view(ctx: Context, a: Action) -> dict[str, Any]:
    found = {
        "action": a.action,
        "instance_uuid": a.server_id,
        "request_id": a.request_id,
        "user_id": a.user_id,
        "project_id": a.project_id,
        "start_time": a.created_at.removesuffix("Z"),
        "message": a.message or None,
    }
    if ctx.version >= (2, 58):
        found["updated_at"] = (a.updated_at or a.created_at).removesuffix("Z")
    return found


def _event_view(ctx: Context, a: Action, e: ActionEvent, *, everything: bool) -> dict[str, Any]:
    """`everything`: the caller may see tracebacks and hosts."""
    found: dict[str, Any] = {
        "event": e.event,
        "start_time": e.start_time.removesuffix("Z"),
        "finish_time": e.finish_time.removesuffix("Z") or None,
        "result": e.result or None,
    }
    if everything:
        found["traceback"] = e.traceback or None
    if ctx.version >= (2, 62):
        found["hostId"] = host_id(a.project_id, e.host)
        if everything:
            found["host"] = e.host or None
    if ctx.version >= (2, 84) and ctx.allows(
        _RULE + "events:details", {"project_id": a.project_id}
    ):
        found["details"] = e.details or None
    return found


class InstanceActions(Resource[Server]):
    table = SERVERS
    id_param = "server_id"
    see = _RULE + "list"
    rules = {
        _RULE + "list": "rule:project_reader_or_admin",
        _RULE + "show": "rule:project_reader_or_admin",
        _RULE + "events": "rule:context_is_admin",
        _RULE + "events:details": "rule:context_is_admin",
    }
    listing = Listing()

    async def load(self, ctx: Context, id: str) -> Server:
        """A deleted server too, since 2.21."""
        deleted = None if ctx.version >= (2, 21) else False
        found = await SERVERS.find(ctx.runtime.store, id, deleted=deleted)
        if found is None:
            raise SERVERS.missing(id)
        return found

    @operation("GET", _LIST, _RULE + "list")
    async def index(self, ctx: Context, server: Server) -> dict[str, Any]:
        allowed = ("limit", "marker", "changes-since", "changes-before")
        checks.known_only(ctx, allowed, since=(2, 58))
        page = Page({}, (("created_at", True), ("id", True)))
        if ctx.version >= (2, 58):
            page = await self._paged(ctx, server)
        page = replace(extended(page, server_id=server.id), deleted=None)
        found = await checks.listed(ctx, ACTIONS, page)
        answer: dict[str, Any] = {"instanceActions": [_view(ctx, a) for a in found]}
        if ctx.version >= (2, 58) and (url := ctx.next_page(page, found)):
            url = url.replace(found[-1].id, found[-1].request_id)
            answer["links"] = [{"rel": "next", "href": url}]
        return answer

    async def _paged(self, ctx: Context, server: Server) -> Page:
        """Markers are request ids."""
        page = checks.changed_between(ctx, self.listing.parse(ctx.query))
        if page.marker:
            filters = {"server_id": server.id, "request_id": page.marker}
            at = await ACTIONS.list(ctx.runtime.store, Page(filters, limit=1, deleted=None))
            if not at:
                raise Invalid(f"Marker {page.marker} could not be found.")
            page = replace(page, marker=at[0].id)
        return page

    @operation("GET", _LIST + "/{request_id}", _RULE + "show")
    async def show(self, ctx: Context, server: Server, request_id: str) -> dict[str, Any]:
        page = Page({"server_id": server.id, "request_id": request_id}, limit=1, deleted=None)
        found = await ACTIONS.list(ctx.runtime.store, page)
        if not found:
            raise NotFound(f"Action {request_id} not found")
        action = found[0]
        view = _view(ctx, action)
        everything = ctx.allows(_RULE + "events", {"project_id": server.project_id})
        if everything or ctx.version >= (2, 51):
            view["events"] = [
                _event_view(ctx, action, e, everything=everything) for e in action.events
            ]
        return {"instanceAction": view}

"""A server that changes its flavor, where it is or elsewhere, and may go back until it is confirmed.

https://docs.openstack.org/api-ref/compute/#resize-server-resize-action
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.resources import Context, operation
from pileus.kernel.sagas import Changes, Run, Step
from pileus.kernel.schema import Body
from pileus.services.compute import nodes
from pileus.services.compute.agent_contract import COMPUTE_HOST
from pileus.services.compute.driver import CRASHED, SHUTDOWN
from pileus.services.compute.server import Server
from pileus.services.compute.servers import creation, noting, states
from pileus.services.compute.servers.moving import (
    bind,
    move_of,
    new_move,
    not_moved,
    ready_to_leave,
    sit_back,
    steps,
    went,
)
from pileus.services.compute.servers.operations import MEMBER, PATH, RULE, OfServer, act
from pileus.services.compute.servers.plugging import disconnect, plug_again
from pileus.services.compute.servers.sagas import destroy_on, failed, healed
from pileus.services.placement.contract import PLACEMENT


class ResizeServer(Body):
    root: ClassVar[str] = "resize"
    flavorRef: Annotated[str, Meta(min_length=1)] | int
    disk_config: str | UnsetType = field(default=UNSET, name="OS-DCF:diskConfig")


# Afterwards


async def confirm(run: Run[Server]) -> Changes:
    """What was before is forgotten, and its room is free."""
    server, move = run.record, move_of(run.becoming)
    if move.is_elsewhere:
        await destroy_on(run, move.source)
    else:
        host = await run.agent(COMPUTE_HOST, on=server.host)
        await host.confirm_resize(server.id)
    await run.peer(PLACEMENT).release(move.id)
    await went(run, "confirmed")
    is_off = server.power_state in (SHUTDOWN, CRASHED)  # it may have gone off by itself
    return {"move": None, "vm_state": states.STOPPED if is_off else states.ACTIVE}


async def revert(run: Run[Server]) -> Changes:
    """The guest first: while it has its new size, or is on its new host, the new room is its own."""
    server, move = run.record, move_of(run.becoming)
    if not move.is_elsewhere:
        host = await run.agent(COMPUTE_HOST, on=server.host)
        guest = await host.revert_resize(server.id, not move.was_off)
        return {"power_state": guest.power_state}
    source = await run.agent(COMPUTE_HOST, on=move.source)  # an answer, before anything is lost
    await source.withdraw(server.id)
    await destroy_on(run, move.target)
    await disconnect(run)
    return {}


async def revert_ports(run: Run[Server]) -> None:
    move = move_of(run.becoming)
    if move.is_elsewhere:
        await bind(run, move.source)


async def revert_guest(run: Run[Server]) -> Changes:
    """The one that waited on the old host goes on."""
    server, move = run.record, move_of(run.becoming)
    if not move.is_elsewhere:
        return {}
    changes: dict[str, Any] = {"host": move.source, "zone": move.zone, "power_state": SHUTDOWN}
    await plug_again(run, move.source, before=move.volumes)
    if not move.was_off:
        source = await run.agent(COMPUTE_HOST, on=move.source)
        changes["power_state"] = (await source.start_guest(server.id)).power_state
    return changes


async def revert_room(run: Run[Server]) -> Changes:
    server, move = run.record, move_of(run.becoming)
    await run.peer(PLACEMENT).take_back(server.id, move.id)
    await sit_back(run, server.host)
    await went(run, "reverted")
    await noting.success(run)
    state = states.STOPPED if move.was_off else states.ACTIVE
    return {"move": None, "flavor": move.flavor, "vm_state": state}


RESIZE = noting.saga("resize", "resize", *steps(), failed=not_moved, done=healed)
CONFIRM = noting.saga("resize.confirm", "confirmResize", noting.noted(confirm), failed=failed)
REVERT = noting.saga(
    "resize.revert",
    "revertResize",
    Step(revert, noting.failure),
    Step(revert_ports),
    Step(revert_guest),
    Step(revert_room),
    failed=failed,
)


# The operations


class ServerResizing(OfServer):
    rules: ClassVar[Mapping[str, str]] = {
        RULE + "resize": MEMBER,
        RULE + "confirm_resize": MEMBER,
        RULE + "revert_resize": MEMBER,
    }
    sagas = (RESIZE, CONFIRM, REVERT)

    @operation("POST", PATH, RULE + "resize", action="resize", status=202)
    async def resize(self, ctx: Context, server: Server, body: ResizeServer) -> None:
        """Raises OverQuota for a flavor that is too large for the project."""
        await ready_to_leave(ctx, server, "resize")
        changes = await _changes(ctx, server, body)
        await act(ctx, RESIZE, server, "resize", None, **changes)

    @operation("POST", PATH, RULE + "confirm_resize", action="confirmResize", status=204)
    async def confirm(self, ctx: Context, server: Server) -> None:
        now = _decided(server, "confirmResize")
        await act(ctx, CONFIRM, server, "confirmResize", now, move=server.move)

    @operation("POST", PATH, RULE + "revert_resize", action="revertResize", status=202)
    async def revert(self, ctx: Context, server: Server) -> None:
        now = _decided(server, "revertResize")
        await _way_back(ctx, server)
        flavor = server.move.flavor if server.move else server.flavor
        await act(ctx, REVERT, server, "revertResize", now, flavor=flavor)


async def _way_back(ctx: Context, server: Server) -> None:
    """Raises Conflict where the guest of before is on a host that is down."""
    move = server.move
    if move is not None and move.is_elsewhere and not await nodes.is_up(ctx.runtime, move.source):
        raise Conflict(
            f"Cannot 'revertResize' instance {server.id} while its host of before, {move.source}, does not "
            "answer; it can be confirmed, or reverted when that host is back."
        )


def _decided(server: Server, verb: str) -> dict[str, Any]:
    """How the resize ends, kept from here on even if that fails. Raises Conflict where the other has begun."""
    move = server.move
    if move is None:
        return {}
    if move.decided not in ("", verb):
        raise Conflict(
            f"Cannot '{verb}' instance {server.id} while it is in vm_state {server.vm_state}: "
            f"its '{move.decided}' has begun, and only that can be done again."
        )
    return {"move": msgspec.structs.replace(move, decided=verb)}


async def _changes(ctx: Context, server: Server, body: ResizeServer) -> dict[str, Any]:
    """What the server shall be; its migration is noted. Raises Invalid."""
    flavor = (await creation.usable_flavor(ctx, str(body.flavorRef))).copy()
    if flavor.id == server.flavor.id:
        raise Invalid("When resizing, instances must change flavor!")
    if flavor.disk == 0 and server.flavor.disk:
        raise Invalid("Resize to zero disk flavor is not allowed.")
    if server.image is not None:
        creation.check_minimum(server.image, flavor)
    changes: dict[str, Any] = {
        "flavor": flavor,
        "move": new_move(ctx, server),
        "requested_host": "",
    }
    if body.disk_config is not UNSET:
        changes["disk_config"] = creation.disk_config(body.disk_config)
    return changes

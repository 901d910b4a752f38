"""A server that changes its flavor, on the host where it is, and may go back until it is confirmed.

https://docs.openstack.org/api-ref/compute/#resize-server-resize-action
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.resources import Context, operation
from pileus.kernel.sagas import Changes, Run, Saga, Step
from pileus.kernel.schema import Body
from pileus.services.compute import migrations, nodes
from pileus.services.compute.agent_contract import COMPUTE_HOST
from pileus.services.compute.driver import CRASHED, SHUTDOWN
from pileus.services.compute.server import SERVERS, Move, Server
from pileus.services.compute.servers import creation, noting, states
from pileus.services.compute.servers.operations import (
    MEMBER,
    PATH,
    RULE,
    OfServer,
    act,
    launched,
    unlocked,
)
from pileus.services.compute.servers.placing import demand_of
from pileus.services.compute.servers.sagas import failed, healed, spec_of
from pileus.services.compute.settings import settings_of
from pileus.services.placement.contract import PLACEMENT


class ResizeServer(Body):
    root: ClassVar[str] = "resize"
    flavorRef: Annotated[str, Meta(min_length=1)] | int
    disk_config: str | UnsetType = field(default=UNSET, name="OS-DCF:diskConfig")


def _move(server: Server) -> Move:
    if server.move is None:
        raise Conflict(f"Instance {server.id} was not resized.")
    return server.move


async def _note(run: Run[Server]) -> None:
    async with run.runtime.store.tx(wait=False) as tx:
        id, flavor = _move(run.becoming).id, run.becoming.flavor
        await migrations.begun(tx, id, run.record, flavor.id, run.caller.user_id)


async def _went(run: Run[Server], status: str) -> None:
    async with run.runtime.store.tx(wait=False) as tx:
        await migrations.went(tx, _move(run.becoming).id, status)


# Resizing: what the server shall be is in `becoming`


async def take_room(run: Run[Server]) -> Changes:
    """The old room is the migration's until the end; the new one must be on the same host."""
    server, wanted = run.record, run.becoming
    await _note(run)
    placement = run.peer(PLACEMENT)
    await placement.set_aside(server.id, _move(wanted).id)
    await placement.claim(
        server.id,
        demand_of(wanted.flavor, server.image),
        [server.host],
        server.project_id,
        server.user_id,
    )
    return {"task_state": "resize_migrating"}


async def give_room_back(run: Run[Server]) -> None:
    await _note(run)  # so that the failure has a name
    await run.peer(PLACEMENT).take_back(run.record.id, _move(run.becoming).id)
    await _went(run, "error")
    await noting.failure(run)


async def resize(run: Run[Server]) -> Changes:
    server, wanted = run.record, run.becoming
    spec = await spec_of(run, wanted)
    timeout = settings_of(run.runtime).stop_timeout_s
    host = await run.agent(COMPUTE_HOST, on=server.host)
    guest = await host.resize(spec, timeout, not _move(wanted).was_off)
    await _went(run, "finished")
    await noting.success(run)
    return {
        "flavor": wanted.flavor,
        "move": wanted.move,
        "disk_config": wanted.disk_config,
        "power_state": guest.power_state,
    }


async def size_back(run: Run[Server]) -> None:
    server = run.record
    if await nodes.is_up(run.runtime, server.host):
        host = await run.agent(COMPUTE_HOST, on=server.host)
        await host.revert_resize(server.id, not _move(run.becoming).was_off)


# Afterwards


async def confirm(run: Run[Server]) -> Changes:
    """What was before is forgotten, and its room is free."""
    server = run.record
    move = _move(run.becoming)
    host = await run.agent(COMPUTE_HOST, on=server.host)
    await host.confirm_resize(server.id)
    await run.peer(PLACEMENT).release(move.id)
    await _went(run, "confirmed")
    is_off = server.power_state in (SHUTDOWN, CRASHED)  # it may have gone off by itself
    return {"move": None, "vm_state": states.STOPPED if is_off else states.ACTIVE}


async def revert(run: Run[Server]) -> Changes:
    """The guest first: while it has its new size, the new room is its own."""
    server, move = run.record, _move(run.becoming)
    host = await run.agent(COMPUTE_HOST, on=server.host)
    guest = await host.revert_resize(server.id, not move.was_off)
    return {"power_state": guest.power_state}


async def room_back(run: Run[Server]) -> Changes:
    move = _move(run.becoming)
    await run.peer(PLACEMENT).take_back(run.record.id, move.id)
    await _went(run, "reverted")
    await noting.success(run)
    state = states.STOPPED if move.was_off else states.ACTIVE
    return {"move": None, "flavor": move.flavor, "vm_state": state}


RESIZE = Saga(
    "compute.instance.resize",
    SERVERS,
    states.LIFECYCLE,
    "resize",
    Step(take_room, give_room_back),
    Step(resize, size_back, timeout_s=1800),
    failed=failed,
    done=healed,
)
CONFIRM = Saga(
    "compute.instance.resize.confirm",
    SERVERS,
    states.LIFECYCLE,
    "confirmResize",
    noting.noted(confirm),
    failed=failed,
)
REVERT = Saga(
    "compute.instance.resize.revert",
    SERVERS,
    states.LIFECYCLE,
    "revertResize",
    Step(revert, noting.failure),
    Step(room_back),
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
        unlocked(ctx, server)
        states.LIFECYCLE.check("resize", server)
        launched(server, "resize")
        changes = await _changes(ctx, server, body)
        await act(ctx, RESIZE, server, "resize", None, **changes)

    @operation("POST", PATH, RULE + "confirm_resize", action="confirmResize", status=204)
    async def confirm(self, ctx: Context, server: Server) -> None:
        now = _decided(server, "confirmResize")
        await act(ctx, CONFIRM, server, "confirmResize", now, move=server.move)

    @operation("POST", PATH, RULE + "revert_resize", action="revertResize", status=202)
    async def revert(self, ctx: Context, server: Server) -> None:
        now = _decided(server, "revertResize")
        flavor = server.move.flavor if server.move else server.flavor
        await act(ctx, REVERT, server, "revertResize", now, flavor=flavor)


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
    id = ctx.runtime.world.new_id()
    was_off = server.vm_state == states.STOPPED
    changes: dict[str, Any] = {
        "flavor": flavor,
        "move": Move(id=id, flavor=server.flavor, was_off=was_off),
    }
    if body.disk_config is not UNSET:
        changes["disk_config"] = creation.disk_config(body.disk_config)
    return changes

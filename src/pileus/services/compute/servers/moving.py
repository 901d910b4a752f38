"""A server that is moved while it is off: to another host, with another size, or both; and what follows from it.

https://docs.openstack.org/api-ref/compute/#migrate-server-migrate-action

The guest is off on both hosts before it is started on one. Until the end its old host keeps it, and its old room is
held by the migration, so that there is a way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Conflict, Invalid, NoCapacity, Unavailable
from pileus.kernel.hosts import LEASE_S
from pileus.kernel.resources import Context, operation
from pileus.kernel.sagas import Changes, Failure, Run, Step
from pileus.kernel.schema import Body, since
from pileus.services.compute import migrations, nodes, server_groups
from pileus.services.compute.agent_contract import COMPUTE_HOST
from pileus.services.compute.driver import RUNNING, SHUTDOWN
from pileus.services.compute.migrations import MIGRATIONS
from pileus.services.compute.nodes import NODES
from pileus.services.compute.server import Move, Server
from pileus.services.compute.servers import noting, states
from pileus.services.compute.servers.demands import demand_of
from pileus.services.compute.servers.operations import PATH, OfServer, act, launched, unlocked
from pileus.services.compute.servers.placing import claim_here, find_place, with_ports
from pileus.services.compute.servers.plugging import complete, detach, disconnect, plug_again
from pileus.services.compute.servers.sagas import (
    destroy_on,
    failed,
    guest_ref,
    healed,
    host_if_up,
    spec_of,
)
from pileus.services.compute.settings import settings_of
from pileus.services.network.contract import NETWORK, NicInfo, NicRequest
from pileus.services.placement.contract import PLACEMENT

_RULE = "os_compute_api:os-migrate-server:migrate"
MANAGER = "rule:project_manager_or_admin"
_KINDS = {
    "resize": (migrations.RESIZE, "migrating"),
    "migrate": (migrations.COLD, "migrating"),
    "os-migrateLive": (migrations.LIVE, migrations.PREPARING),
    "evacuate": (migrations.EVACUATION, "accepted"),
}


class MigrateServer(Body):
    root: ClassVar[str] = "migrate"
    host: Annotated[str | UnsetType | None, since("2.56")] = UNSET


def move_of(server: Server) -> Move:
    """Raises Conflict."""
    if server.move is None:
        raise Conflict(f"Instance {server.id} was not resized.")
    return server.move


async def went(run: Run[Server], status: str, **changes: Any) -> None:
    async with run.runtime.store.tx(wait=False) as tx:
        await migrations.went(tx, move_of(run.becoming).id, status, **changes)


# Room: the old one is the migration's until the end


async def set_room_aside(run: Run[Server]) -> None:
    """And notes the migration, so that even its failure has a name."""
    move, server = move_of(run.becoming), run.record
    kind, status = _KINDS[run.runtime.sagas.known[run.entry.saga].verb]
    async with run.runtime.store.tx(wait=False) as tx:
        new = run.becoming.flavor.id
        await migrations.begun(tx, move.id, server, new, run.caller.user_id, kind, status)
    await run.peer(PLACEMENT).set_aside(server.id, move.id)


async def take_room(run: Run[Server]) -> Changes:
    """On the same host if the server may stay and fits; else on another, as it shall be."""
    await set_room_aside(run)
    leaves = run.runtime.sagas.known[run.entry.saga].verb != "resize"
    target = "" if leaves else await _room_here(run)
    return {"task_state": "resize_migrating", **await _aim(run, target)}


async def choose_target(run: Run[Server]) -> Changes:
    """On another host, as it is."""
    await set_room_aside(run)
    return await _aim(run, "")


async def _aim(run: Run[Server], target: str) -> Changes:
    """Where the server goes, found if need be."""
    server, move = run.record, move_of(run.becoming)
    if not target:
        target, _ = await find_place(run, run.becoming, leaving=server.host)
    async with run.runtime.store.tx(wait=False) as tx:
        migration = await MIGRATIONS.get(tx, move.id)
        await MIGRATIONS.change(tx, migration, dest=target)
    found = msgspec.structs.replace(move, source=server.host, zone=server.zone, target=target)
    return {"move": found}


async def _room_here(run: Run[Server]) -> str:
    """The server's own host, or the one where it got room in an earlier attempt; "" where there is none."""
    server, demand = run.record, demand_of(run.becoming.flavor, run.record.image)
    try:
        return await claim_here(run, await with_ports(run, server, demand), server.id)
    except NoCapacity:
        return ""


async def give_room_back(run: Run[Server]) -> None:
    server, move = run.record, move_of(run.becoming)
    await set_room_aside(run)
    await run.peer(PLACEMENT).take_back(server.id, move.id)
    await sit_back(run, move_of(server).source if server.move else server.host)
    await went(run, migrations.FAILED)
    await noting.failure(run)


def is_there(run: Run[Server]) -> bool:
    """It lives on its new host, and what is left to do is to forget the old one."""
    move = run.record.move
    return move is not None and run.record.host == move.target


async def forget_target(run: Run[Server]) -> None:
    """Once it is there it stays, though the rest may have failed."""
    if not is_there(run):
        await give_room_back(run)
    else:
        move = move_of(run.record)
        await destroy_on(run, move.source)
        await detach_others(run)
        if run.record.nics:
            await run.peer(NETWORK).expect(run.record.id, "")
        await run.peer(PLACEMENT).release(move.id)
        await went(run, migrations.FAILED)
        await noting.failure(run)
    if await is_cancelled(run):
        await went(run, migrations.CANCELLED)


async def detach_others(run: Run[Server]) -> None:
    """Of a guest that went running: the host that it is not on is served no longer."""
    mine = {device.attachment_id for device in run.record.volumes}
    await detach(run, [d for d in move_of(run.record).volumes if d.attachment_id not in mine])


async def is_cancelled(run: Run[Server]) -> bool:
    """Whether somebody has asked for the migration's end."""
    await run.runtime.store.visible()
    found = await MIGRATIONS.find(run.runtime.store, move_of(run.becoming).id)
    return found is not None and found.cancelled


async def sit_back(run: Run[Server], host: str) -> None:
    """Its seat in the group, if any, is there (again)."""
    async with run.runtime.store.tx(wait=False) as tx:
        await server_groups.sit(tx, run.record.group, run.record.id, host)


# The way there


async def power_down(run: Run[Server]) -> None:
    """A guest that stays on its host is powered down where it is resized."""
    server = run.record
    if move_of(server).is_elsewhere:
        host = await run.agent(COMPUTE_HOST, on=server.host)
        await host.stop_guest(server.id, settings_of(run.runtime).stop_timeout_s)


async def power_up(run: Run[Server]) -> None:
    """A host that is down says how the guest is when it joins again."""
    server = run.record
    move = server.move
    if move is None or not move.is_elsewhere or not await nodes.is_up(run.runtime, move.source):
        return
    host = await run.agent(COMPUTE_HOST, on=move.source)
    await host.withdraw(server.id)
    await plug_again(run, move.source)
    if not move.was_off:
        await host.start_guest(server.id)


async def bind_there(run: Run[Server]) -> None:
    move = move_of(run.record)
    if move.is_elsewhere:
        await bind(run, move.target)


async def bind_back(run: Run[Server]) -> None:
    move = run.record.move
    if move is not None and move.is_elsewhere:
        await bind(run, move.source, wired=await nodes.is_up(run.runtime, move.source))


async def bind(run: Run[Server], name: str, *, wired: bool = True, also: str = "") -> list[NicInfo]:
    """The server's ports are on that host, and wired there; `also`: as they stay elsewhere."""
    server = run.record
    if not server.nics:
        return []
    zone = await nodes.zone_of(run.runtime, name)
    guest = guest_ref(msgspec.structs.replace(server, host=name, zone=zone), zone)
    guest = msgspec.structs.replace(guest, also=also)
    requests = [NicRequest(port_id=nic.port_id) for nic in server.nics]
    network = run.peer(NETWORK)
    nics = await network.attach(run.caller, guest, requests, [])
    if wired:
        await network.plug(server.id, name)
    return nics


async def move_guest(run: Run[Server]) -> Changes:
    """The guest has its new size, or is made anew on the other host out of what this one lends; it is off there."""
    server, wanted, move = run.record, run.becoming, move_of(run.record)
    there = {"nics": server.nics, "volumes": server.volumes}
    if move.is_elsewhere:  # where the guest is off
        await disconnect(run)
    spec = await spec_of(run, msgspec.structs.replace(wanted, **there), host=move.target)
    source = await run.agent(COMPUTE_HOST, on=move.source)
    if not move.is_elsewhere:
        timeout = settings_of(run.runtime).stop_timeout_s
        guest = await source.resize(spec, timeout, not move.was_off)
        return {"power_state": guest.power_state}
    target = await run.agent(COMPUTE_HOST, on=move.target)
    guest = await target.receive(spec, await source.lend(server.id))
    await source.withdraw(server.id)
    await complete(run, server.volumes)
    zone = await nodes.zone_of(run.runtime, move.target)
    return {"host": move.target, "zone": zone, "power_state": guest.power_state}


async def gone_from(run: Run[Server], name: str) -> None:
    """Returns when the guest is gone there, or its host is known to be down: one that just died still seems up."""
    clock = run.runtime.world.clock
    end = clock.monotonic() + LEASE_S + 5
    while True:
        try:
            return await destroy_on(run, name)
        except Unavailable:
            if clock.monotonic() > end:
                raise
        await clock.sleep(1)


async def guest_back(run: Run[Server]) -> None:
    """What is left there of it goes first: it must not run on two hosts."""
    server, move = run.record, run.record.move
    if move is None or not move.target:
        return
    if move.is_elsewhere:
        await gone_from(run, move.target)
        with suppress(Unavailable):  # what it knows there is of use to nobody
            await disconnect(run)
    elif host := await host_if_up(run, server.host):
        await host.revert_resize(server.id, not move.was_off)


async def start_there(run: Run[Server]) -> Changes:
    """From here on it may be there only. The flavor comes last, as its quota is charged already."""
    server, move, wanted = run.record, move_of(run.record), run.becoming
    changes: dict[str, Any] = {"flavor": wanted.flavor, "disk_config": wanted.disk_config}
    if move.is_elsewhere and not move.was_off:
        host = await run.agent(COMPUTE_HOST, on=server.host)
        changes["power_state"] = (await host.start_guest(server.id)).power_state
    await went(run, "finished")
    await noting.success(run)
    return changes


def not_moved(server: Server, failure: Failure) -> Changes:
    """It is where it was, as it was."""
    found = dict(failed(server, failure))
    move = server.move
    if move is not None and move.target:
        power = SHUTDOWN if move.was_off else RUNNING
        found |= {"host": move.source, "zone": move.zone, "power_state": power}
    return found | {"move": None}


def steps() -> tuple[Step[Server], ...]:
    """Of a resize and of a migration: the one may stay where it is, the other keeps its size."""
    return (
        Step(take_room, give_room_back),
        Step(power_down, power_up),
        Step(bind_there, bind_back),
        Step(move_guest, guest_back, timeout_s=1800),
        Step(start_there),
    )


MIGRATE = noting.saga("resize", "migrate", *steps(), failed=not_moved, done=healed)


class ServerMoving(OfServer):
    rules: ClassVar[Mapping[str, str]] = {
        _RULE: MANAGER,
        _RULE + ":host": "rule:context_is_admin",
    }
    sagas = (MIGRATE,)

    @operation("POST", PATH, _RULE, action="migrate", status=202)
    async def migrate(self, ctx: Context, server: Server, body: MigrateServer) -> None:
        """To the host that is named, which must be fit for it, or to any other."""
        host = body.host or ""
        if host:
            ctx.require(_RULE + ":host", self.target(ctx, server))
        await ready_to_leave(ctx, server, "migrate")
        if host == server.host:
            raise Invalid("Cannot migrate to the host where the server exists.")
        await known_host(ctx, host)
        changes = {"move": new_move(ctx, server), "requested_host": host}
        await act(ctx, MIGRATE, server, "migrate", None, **changes)


async def ready_to_leave(ctx: Context, server: Server, verb: str) -> None:
    """Raises Conflict: for a lock, a wrong state, and a host that is down, from which nothing can be moved."""
    unlocked(ctx, server)
    states.LIFECYCLE.check(verb, server)
    launched(server, verb)
    if not await nodes.is_serving(ctx.runtime, server.host):
        raise Conflict(
            f"Service is unavailable at this time: host {server.host} of instance {server.id} does not answer; "
            "`evacuate` makes the server anew on another."
        )


async def known_host(ctx: Context, host: str) -> None:
    """Raises Invalid."""
    if host and await NODES.one(ctx.runtime.store, host=host) is None:
        raise Invalid(f"Compute host {host} could not be found.")


def new_move(ctx: Context, server: Server) -> Move:
    id, was_off = ctx.runtime.world.new_id(), server.vm_state == states.STOPPED
    return Move(id=id, flavor=server.flavor, was_off=was_off, volumes=server.volumes)

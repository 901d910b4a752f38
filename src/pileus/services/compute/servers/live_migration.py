"""A server that is moved to another host while it runs, and what can be done about it meanwhile.

https://docs.openstack.org/api-ref/compute/#live-migrate-server-os-migratelive-action

The guest is sent to where it is expected and stopped; only when its ports are bound there it goes on. Until the record
says that it is there, the old host can let it go on as if nothing had been; from then on what is left there goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Conflict, Invalid, Unavailable
from pileus.kernel.resources import Context, operation
from pileus.kernel.sagas import Changes, Failure, Run, Step
from pileus.kernel.schema import Body, since, until
from pileus.services.compute import checks, migrations, nodes
from pileus.services.compute.agent_contract import COMPUTE_HOST
from pileus.services.compute.checks import Flag
from pileus.services.compute.migrations import MIGRATIONS, Migration
from pileus.services.compute.server import Server
from pileus.services.compute.servers import noting, states
from pileus.services.compute.servers.moving import (
    MANAGER,
    bind,
    choose_target,
    detach_others,
    forget_target,
    gone_from,
    is_there,
    known_host,
    move_of,
    new_move,
    ready_to_leave,
    went,
)
from pileus.services.compute.servers.operations import PATH, OfServer, act
from pileus.services.compute.servers.plugging import complete, reserve
from pileus.services.compute.servers.sagas import destroy_on, failed, healed, host_if_up, spec_of
from pileus.services.network.contract import NETWORK
from pileus.services.placement.contract import PLACEMENT

_RULE = "os_compute_api:os-migrate-server:migrate_live"
VERB = "os-migrateLive"


class MigrateLive(Body):
    """`block_migration` is kept to itself: disks are on their hosts, so they always move along."""

    root: ClassVar[str] = VERB
    host: str | None
    block_migration: Flag
    disk_over_commit: Annotated[Flag | UnsetType, until("2.25")] = UNSET
    force: Annotated[Flag | UnsetType, since("2.30", until="2.68")] = UNSET


async def wire_target(run: Run[Server]) -> None:
    """The taps are there before the guest is, and nobody sends to them yet."""
    server, target = run.record, move_of(run.record).target
    if server.nics:
        network = run.peer(NETWORK)
        await network.expect(server.id, target)
        await network.plug(server.id, target)


async def unwire_target(run: Run[Server]) -> None:
    if run.record.nics and not is_there(run):
        await run.peer(NETWORK).expect(run.record.id, "")


async def transfer(run: Run[Server]) -> None:
    """Everything is there in the end, and the guest stands still on both hosts."""
    server, move = run.record, move_of(run.record)
    _refuse_cancelled(await MIGRATIONS.get(run.runtime.store, move.id))
    source = await run.agent(COMPUTE_HOST, on=move.source)
    target = await run.agent(COMPUTE_HOST, on=move.target)
    await reserve(run, move.volumes)
    wanted = msgspec.structs.replace(server, volumes=move.volumes)
    spec = await spec_of(run, wanted, host=move.target)
    there = await target.expect(spec, await source.lend(server.id))
    await went(run, migrations.RUNNING)
    stood_s = await source.send(server.id, there)
    async with run.runtime.store.tx(wait=False) as tx:  # nobody can give it up from here on
        migration = await MIGRATIONS.get(tx, move.id)
        _refuse_cancelled(migration)
        stood_ms = round(stood_s * 1000)
        await migrations.went(tx, move.id, migrations.POST_MIGRATING, downtime_ms=stood_ms)


async def stay(run: Run[Server]) -> None:
    """It goes on here. It never ran there, so a host that does not answer may destroy it when it joins again."""
    server, move = run.record, move_of(run.record)
    if is_there(run):
        return
    with suppress(Unavailable):
        await destroy_on(run, move.target)
    if source := await host_if_up(run, move.source):
        await source.stay(server.id, _runs(server))
    await detach_others(run)


def _runs(server: Server) -> bool:
    return server.vm_state != states.PAUSED


async def switch(run: Run[Server]) -> Changes:
    """The ports are its new host's, and it goes on there."""
    server, move = run.record, move_of(run.record)
    clock = run.runtime.world.clock
    began = clock.monotonic()
    # What the guest has open here stays, so that it could go on here.
    nics = await bind(run, move.target, wired=False, also=move.source)
    host = await run.agent(COMPUTE_HOST, on=move.target)
    guest = await host.arrive(server.id, _runs(server))
    stood_ms = round((clock.monotonic() - began) * 1000)
    if nics:
        await run.peer(NETWORK).plug(server.id, move.target)
    await _add_downtime(run, stood_ms)
    await complete(run, move.volumes)
    zone = await nodes.zone_of(run.runtime, move.target)
    changes = {"host": move.target, "zone": zone, "power_state": guest.power_state}
    left = msgspec.structs.replace(move, volumes=server.volumes)
    return {**changes, "volumes": move.volumes, "move": left}


async def switch_back(run: Run[Server]) -> None:
    """Before its ports are bound here again it is gone there."""
    move = move_of(run.record)
    if not is_there(run):
        await gone_from(run, move.target)
        await bind(run, move.source, wired=await nodes.is_up(run.runtime, move.source))


async def leave_source(run: Run[Server]) -> Changes:
    move = move_of(run.record)
    await destroy_on(run, move.source)
    await detach_others(run)
    if run.record.nics:
        await run.peer(NETWORK).expect(run.record.id, "")
    await run.peer(PLACEMENT).release(move.id)
    await went(run, migrations.COMPLETED)
    await run.runtime.store.visible()
    migration = await MIGRATIONS.get(run.runtime.store, move.id)
    await noting.success(run, f"The guest stood still for {migration.downtime_ms} ms.")
    return {"move": None}


async def _add_downtime(run: Run[Server], more_ms: int) -> None:
    async with run.runtime.store.tx(wait=False) as tx:
        migration = await MIGRATIONS.get(tx, move_of(run.record).id)
        await MIGRATIONS.change(tx, migration, downtime_ms=migration.downtime_ms + more_ms)


def _refuse_cancelled(migration: Migration) -> None:
    """Raises Conflict where somebody has asked for its end."""
    if migration.cancelled:
        raise Conflict("The live migration was aborted.")


def _not_migrated(server: Server, failure: Failure) -> Changes:
    """Where it is, it stays."""
    return {**failed(server, failure), "move": None}


LIVE_MIGRATE = noting.saga(
    "live_migration",
    VERB,
    Step(choose_target, forget_target),
    Step(wire_target, unwire_target),
    Step(transfer, stay, timeout_s=3600),
    Step(switch, switch_back, patience_s=25),  # a little longer than a dead host's lease
    Step(leave_source),
    failed=_not_migrated,
    done=healed,
)


class ServerLiveMigration(OfServer):
    rules: ClassVar[Mapping[str, str]] = {_RULE: MANAGER, _RULE + ":host": "rule:context_is_admin"}
    sagas = (LIVE_MIGRATE,)

    @operation("POST", PATH, _RULE, action=VERB, status=202)
    async def migrate_live(self, ctx: Context, server: Server, body: MigrateLive) -> None:
        """To the host that is named, which must be fit for it even if it is forced, or to any other."""
        host = body.host or ""
        if host:
            ctx.require(_RULE + ":host", self.target(ctx, server))
        _check(ctx, body)
        await ready_to_leave(ctx, server, VERB)
        await known_host(ctx, host)
        if host == server.host:
            raise Invalid(f"Unable to migrate instance ({server.id}) to current host ({host}).")
        move = new_move(ctx, server)
        new_id = ctx.runtime.world.new_id
        served = [msgspec.structs.replace(d, attachment_id=new_id()) for d in server.volumes]
        move = msgspec.structs.replace(move, volumes=served)
        changes = {"move": move, "requested_host": host}
        await act(ctx, LIVE_MIGRATE, server, "live-migration", None, **changes)


def _check(ctx: Context, body: MigrateLive) -> None:
    """Raises Invalid."""
    if not (ctx.version >= (2, 25) and body.block_migration == "auto"):
        checks.flag(body.block_migration, "block_migration")
    if ctx.version < (2, 25):
        if body.disk_over_commit is UNSET:
            raise checks.wrong(VERB, {}, "'disk_over_commit' is a required property")
        checks.flag(body.disk_over_commit, "disk_over_commit")
    if body.force is not UNSET and checks.flag(body.force, "force") and not body.host:
        raise Invalid("Can't force to a non-provided destination")

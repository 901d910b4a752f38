"""A server whose host is lost: made anew on another, with its ports, out of its image.

https://docs.openstack.org/api-ref/compute/#evacuate-server-evacuate-action

What the lost host still has of it goes when that host is heard of again: no server stands for it there.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pileus.kernel.faults import Invalid, NotFound, Unavailable
from pileus.kernel.resources import Context, operation
from pileus.kernel.sagas import Changes, Failure, Run, Step
from pileus.kernel.schema import Body, since, until
from pileus.services.compute import checks, nodes
from pileus.services.compute.agent_contract import COMPUTE_HOST
from pileus.services.compute.checks import Flag
from pileus.services.compute.nodes import NODES
from pileus.services.compute.server import Server
from pileus.services.compute.servers import noting, states
from pileus.services.compute.servers.moving import (
    bind_back,
    bind_there,
    choose_target,
    forget_target,
    gone_from,
    is_there,
    move_of,
    new_move,
    went,
)
from pileus.services.compute.servers.operations import (
    PATH,
    OfServer,
    begin,
    launched,
    password,
)
from pileus.services.compute.servers.plugging import complete, disconnect, plugged_volumes
from pileus.services.compute.servers.sagas import destroy_on, failed, healed, spec_of
from pileus.services.placement.contract import PLACEMENT

_RULE = "os_compute_api:os-evacuate"


class EvacuateServer(Body):
    root: ClassVar[str] = "evacuate"
    host: Annotated[str, Meta(min_length=1, max_length=255)] | UnsetType = UNSET
    on_shared_storage: Annotated[Flag | UnsetType, until("2.14")] = msgspec.field(
        default=UNSET, name="onSharedStorage"
    )
    adminPass: str | UnsetType = UNSET
    force: Annotated[Flag | UnsetType, since("2.29", until="2.68")] = UNSET


async def unbind_there(run: Run[Server]) -> None:
    if not is_there(run):
        await bind_back(run)


async def make_anew(run: Run[Server]) -> Changes:
    """What the lost host may still run cannot write to the volumes by then."""
    server, target = run.record, move_of(run.record).target
    await disconnect(run)
    spec = await spec_of(run, host=target)
    host = await run.agent(COMPUTE_HOST, on=target)
    guest = await host.spawn(spec)
    if run.becoming.vm_state == states.STOPPED:
        guest = await host.stop_guest(server.id, 0)
    await complete(run, server.volumes)
    zone = await nodes.zone_of(run.runtime, target)
    return {"host": target, "zone": zone, "power_state": guest.power_state}


async def unmake(run: Run[Server]) -> None:
    """The volumes are for the lost host again, though nobody plugs them."""
    server, move = run.record, move_of(run.record)
    if not is_there(run):
        await gone_from(run, move.target)
        with suppress(Unavailable):  # one that lies on the lost host
            await disconnect(run)
            await plugged_volumes(run, server.volumes, move.source)
            await complete(run, server.volumes)


async def forget_lost(run: Run[Server]) -> Changes:
    """A host that was said to be down and is not is told at once."""
    move = move_of(run.record)
    await destroy_on(run, move.source)
    await run.peer(PLACEMENT).release(move.id)
    await went(run, "done")
    await noting.success(run)
    return {"move": None, "vm_state": run.becoming.vm_state}


def _not_evacuated(server: Server, failure: Failure) -> Changes:
    return {**failed(server, failure), "move": None}


EVACUATE = noting.saga(
    "evacuate",
    "evacuate",
    Step(choose_target, forget_target),
    Step(bind_there, unbind_there),
    Step(make_anew, unmake, timeout_s=1800),
    Step(forget_lost),
    failed=_not_evacuated,
    done=healed,
)


class ServerEvacuation(OfServer):
    rules: ClassVar[Mapping[str, str]] = {_RULE: "rule:context_is_admin"}
    sagas = (EVACUATE,)

    @operation("POST", PATH, _RULE, action="evacuate", status=200)
    async def evacuate(self, ctx: Context, server: Server, body: EvacuateServer) -> Any:
        """To the host that is named, which must be fit for it even if it is forced, or to any other."""
        host = "" if body.host is UNSET else body.host
        _check(ctx, body)
        if host and await NODES.one(ctx.runtime.store, host=host) is None:
            raise NotFound(f"Compute host {host} not found.")
        if host == server.host:
            raise Invalid("The target host can't be the same one.")
        states.LIFECYCLE.check("evacuate", server)
        launched(server, "evacuate")
        if await nodes.is_serving(ctx.runtime, server.host):
            raise Invalid(
                f"Compute service of {server.host} is still in use. Servers are moved from a host that is up; "
                "one that does not answer can be forced down."
            )
        off = server.vm_state == states.STOPPED or ctx.version >= (2, 95)
        changes: dict[str, Any] = {
            "move": new_move(ctx, server),
            "requested_host": host,
            "vm_state": states.STOPPED if off else states.ACTIVE,
        }
        await begin(ctx, EVACUATE, server, "evacuate", None, **changes)
        if ctx.version < (2, 14):
            return {"adminPass": body.adminPass if body.adminPass is not UNSET else password(ctx)}
        return None


def _check(ctx: Context, body: EvacuateServer) -> None:
    """Raises Invalid."""
    if body.force is not UNSET and checks.flag(body.force, "force") and body.host is UNSET:
        raise Invalid("Can't force to a non-provided destination")
    if ctx.version >= (2, 14):
        return
    if body.on_shared_storage is UNSET:
        raise checks.wrong("evacuate", {}, "'onSharedStorage' is a required property")
    if checks.flag(body.on_shared_storage, "onSharedStorage"):
        if body.adminPass is not UNSET:
            raise Invalid("admin password can't be changed on existing disk")
        raise Invalid("Instance files are not on shared storage; onSharedStorage must be false.")

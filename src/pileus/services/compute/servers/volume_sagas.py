"""Giving a server a volume while it lives, taking one away, another in its place; telling its guest that one has grown or moved.

What the server shall have in the end is in `becoming`: one more of its `volumes`, which is shown at once, or one less,
which is shown until it is gone. A server on no host has no guest to tell: the volume is only its own.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from pileus.kernel.auth import Caller
from pileus.kernel.events import Event
from pileus.kernel.faults import Conflict, Fault, NotFound, Unavailable
from pileus.kernel.runtime import Runtime
from pileus.kernel.sagas import Changes, Run, Saga, Step
from pileus.services.block_storage.contract import VOLUMES
from pileus.services.compute import nodes
from pileus.services.compute.agent_contract import COMPUTE_HOST
from pileus.services.compute.block_device import BlockDevice
from pileus.services.compute.instance_actions import ACTIONS, Action
from pileus.services.compute.server import SERVERS, Server
from pileus.services.compute.servers import noting, states
from pileus.services.compute.servers.plugging import complete, plug_again, plugged, reserve
from pileus.services.compute.servers.sagas import host_if_up

SIZES, PLACES = "compute.volume_sizes", "compute.volume_places"
GROWN, RELOCATED = "volume.resize.end", "volume.relocate.served"
_COMPUTE = Caller(roles=frozenset({"admin"}))


def _coming(run: Run[Server]) -> BlockDevice:
    return run.becoming.volumes[-1]


async def make_sure(run: Run[Server]) -> None:
    """It was reserved before the caller was answered, or is now."""
    await reserve(run, [_coming(run)])


async def give_up(run: Run[Server]) -> None:
    device = _coming(run)
    await run.peer(VOLUMES).detach(device.attachment_id)
    async with run.runtime.store.tx(wait=False) as tx:
        server = await SERVERS.get(tx, run.record.id)
        kept = [d for d in server.volumes if d.attachment_id != device.attachment_id]
        await SERVERS.change(tx, server, volumes=kept)
    await noting.failure(run)


async def plug(run: Run[Server]) -> None:
    server, device = run.record, _coming(run)
    if server.host:
        host = await run.agent(COMPUTE_HOST, on=server.host)
        await host.plug_volume(server.id, await plugged(run, device, server.host))
    await complete(run, [device])
    await noting.success(run)


async def unplug(run: Run[Server]) -> None:
    """A host that is down runs no guest, and a guest that is gone has no volume."""
    await _taken_from(run, _coming(run), must=False)


async def _taken_from(run: Run[Server], device: BlockDevice, *, must: bool) -> None:
    name = run.record.host
    if not name or not (must or await nodes.is_up(run.runtime, name)):
        return
    host = await run.agent(COMPUTE_HOST, on=name)
    with suppress(NotFound):
        await host.unplug_volume(run.record.id, device.volume_id)


def _going(run: Run[Server]) -> BlockDevice:
    kept = {device.volume_id for device in run.becoming.volumes}
    return next(device for device in run.record.volumes if device.volume_id not in kept)


async def let_go(run: Run[Server]) -> None:
    """If the guest does not let go, the volume stays its own."""
    await _taken_from(run, _going(run), must=True)


async def keep(run: Run[Server]) -> None:
    """A guest that has let go, or is about to, gets it again. What hinders that ends with its next start."""
    server, device = run.record, _going(run)
    if host := await host_if_up(run, server.host):
        with suppress(Fault):
            await host.plug_volume(server.id, await plugged(run, device, server.host))
            await complete(run, [device])
    await run.peer(VOLUMES).detaching(device.attachment_id, False)
    await noting.failure(run)


async def free(run: Run[Server]) -> Changes:
    device = _going(run)
    await run.peer(VOLUMES).detach(device.attachment_id)
    await noting.success(run)
    return {"volumes": [d for d in run.record.volumes if d.volume_id != device.volume_id]}


# Another in its place: it has that one's name, and goes when that one would have gone


def _replacing(run: Run[Server]) -> BlockDevice:
    had = {device.volume_id for device in run.record.volumes}
    return next(device for device in run.becoming.volumes if device.volume_id not in had)


async def promise(run: Run[Server]) -> None:
    """As it was before the caller was answered, or is now."""
    await reserve(run, [_replacing(run)])
    await run.peer(VOLUMES).detaching(_going(run).attachment_id, True)


async def _is_through(run: Run[Server]) -> bool:
    """The old one is the server's no longer: there is no way back."""
    known = await run.peer(VOLUMES).attachments(run.record.id)
    return _going(run).attachment_id not in {one.id for one in known}


def _exchanged(run: Run[Server]) -> Changes:
    old, new = _going(run), _replacing(run)
    return {"volumes": [new if d.volume_id == old.volume_id else d for d in run.record.volumes]}


async def break_promise(run: Run[Server]) -> None:
    if await _is_through(run):
        async with run.runtime.store.tx(wait=False) as tx:
            server = await SERVERS.get(tx, run.record.id)
            await SERVERS.change(tx, server, **_exchanged(run))
    else:
        await run.peer(VOLUMES).detach(_replacing(run).attachment_id)
        await run.peer(VOLUMES).detaching(_going(run).attachment_id, False)
    await noting.failure(run)


async def swap(run: Run[Server]) -> None:
    server, new = run.record, _replacing(run)
    host = await run.agent(COMPUTE_HOST, on=server.host)
    served = await plugged(run, new, server.host)
    await host.swap_volume(server.id, _going(run).volume_id, served)
    await complete(run, [new])


async def swap_back(run: Run[Server]) -> None:
    """What the guest has written to the new one since is copied back. What hinders that ends with its next start."""
    server, old, new = run.record, _going(run), _replacing(run)
    if not await _is_through(run) and (host := await host_if_up(run, server.host)):
        with suppress(Fault):
            served = await plugged(run, old, server.host)
            with suppress(Conflict):  # of a guest that is off
                await host.swap_volume(server.id, new.volume_id, served)
            await host.unplug_volume(server.id, new.volume_id)
            await host.plug_volume(server.id, served)


async def free_old(run: Run[Server]) -> Changes:
    await run.peer(VOLUMES).detach(_going(run).attachment_id)
    await noting.success(run)
    return _exchanged(run)


async def tell_size(run: Run[Server]) -> None:
    await plug_again(run, run.record.host)


ATTACH = noting.saga("volume_attach", "attach_volume", Step(make_sure, give_up), Step(plug, unplug))
DETACH = noting.saga("volume_detach", "detach_volume", Step(let_go, keep), Step(free))
SWAP = noting.saga(
    "volume_swap",
    "swap_volume",
    Step(promise, break_promise),
    Step(swap, swap_back, timeout_s=3600),
    Step(free_old),
)
EXTEND = noting.saga("volume_extend", "extend_volume", noting.noted(tell_size))
FOLLOW = noting.saga("volume_follow", "follow_volume", noting.noted(tell_size))


# Volumes that grow, and those that lie elsewhere now


async def changed(runtime: Runtime, event: Event) -> None:
    """The guests that have the volume are told when nothing else is done to them."""
    of = PLACES if event.kind == RELOCATED else SIZES
    try:
        volume = await runtime.contracts.get(VOLUMES).volume(_COMPUTE, str(event.payload["id"]))
    except NotFound:
        return
    for server_id in {one.server_id for one in volume.attachments}:
        runtime.reconcilers.hint(of, server_id)


async def _tell(saga: Saga[Server], action_name: str, runtime: Runtime, server_id: str) -> None:
    """Raises Unavailable while something else is done to the server: it is asked for again."""
    server = await SERVERS.find(runtime.store, server_id) if server_id else None
    if server is None or not server.host or server.vm_state not in states.TELLS_SIZES:
        return  # the next start tells the guest
    if server.task_state:
        raise Unavailable(f"Instance {server_id} is {server.task_state}.")
    async with runtime.store.tx() as tx:
        _, entry = await runtime.sagas.begin(tx, saga, await SERVERS.get(tx, server_id))
        action = Action(
            id=entry.id,
            server_id=server_id,
            action=action_name,
            request_id=f"req-{runtime.world.new_id()}",
            user_id="",
            project_id=server.project_id,
        )
        await ACTIONS.insert(tx, action)
    runtime.sagas.launch(entry)


tell_sizes, tell_places = partial(_tell, EXTEND, EXTEND.verb), partial(_tell, FOLLOW, SWAP.verb)

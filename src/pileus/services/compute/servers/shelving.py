"""Servers put away: the root disk is kept as an image, and their host may be left for another.

https://docs.openstack.org/api-ref/compute/#shelve-server-shelve-action
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from msgspec import UNSET, UnsetType

from pileus.kernel.auth import Caller
from pileus.kernel.faults import Conflict, Invalid, NotFound, Unavailable
from pileus.kernel.resources import Context, operation
from pileus.kernel.sagas import Changes, Failure, Run, Step
from pileus.kernel.schema import Body, since
from pileus.services.compute import checks, nodes
from pileus.services.compute.agent_contract import COMPUTE_HOST
from pileus.services.compute.driver import RUNNING, SHUTDOWN
from pileus.services.compute.server import ImageCopy, Server, Snapshot
from pileus.services.compute.servers import creation, images, moving, noting, states
from pileus.services.compute.servers.operations import (
    ADMIN,
    MEMBER,
    PATH,
    OfServer,
    act,
    plain,
    unlocked,
    unmoved,
)
from pileus.services.compute.servers.placing import (
    claim_here,
    demand_of,
    place,
    sit,
    unplace,
    vacate,
    with_ports,
)
from pileus.services.compute.servers.plugging import complete, disconnect, plug_again
from pileus.services.compute.servers.sagas import destroy, failed, host_if_up, power_on, spec_of
from pileus.services.compute.settings import settings_of
from pileus.services.image.contract import IMAGES
from pileus.services.network.contract import NETWORK

log = logging.getLogger(__name__)
_RULE = "os_compute_api:os-shelve:"
_NAME_LIMIT = 255
_COMPUTE = Caller(roles=frozenset({"admin"}))  # nobody else asks for a disk's image


class UnshelveServer(Body):
    root: ClassVar[str] = "unshelve"
    availability_zone: str | UnsetType | None = UNSET
    host: Annotated[str | UnsetType, since("2.91")] = UNSET


# Shelving


async def shut_down(run: Run[Server]) -> Changes:
    """A suspended guest's disk is at rest already."""
    if _is_kept(run):
        await images.reserve(run)
    server = run.record
    if server.vm_state in (states.ACTIVE, states.PAUSED):
        runs = server.vm_state == states.ACTIVE
        patience = settings_of(run.runtime).stop_timeout_s if runs else 0
        host = await run.agent(COMPUTE_HOST, on=server.host)
        await host.stop_guest(server.id, patience)
    return {"task_state": "shelving_image_pending_upload"}


async def run_again(run: Run[Server]) -> None:
    """As it was, but that a paused guest goes on."""
    server = run.record
    was_on = server.vm_state in (states.ACTIVE, states.PAUSED)
    if was_on and (host := await host_if_up(run, server.host)):
        await plug_again(run, server.host)
        await host.start_guest(server.id)
    if _is_kept(run):
        await images.discard(run)


async def take_disk(run: Run[Server]) -> Changes:
    if _is_kept(run):
        await images.take(run)
    return {"task_state": "shelving_image_uploading"}


async def send_disk(run: Run[Server]) -> Changes:
    if _is_kept(run):
        await images.send(run)
    return {"task_state": "shelving"}


def _is_kept(run: Run[Server]) -> bool:
    """Whether there is a disk to keep as an image; a volume keeps itself."""
    return run.becoming.snapshot is not None


def _leaves(run: Run[Server]) -> bool:
    """Whether the host is left at once."""
    offloads = run.runtime.sagas.known[run.entry.saga] is SHELVE_OFFLOAD
    return offloads or not _is_kept(run) or settings_of(run.runtime).shelved_offload_s == 0


async def unbind(run: Run[Server]) -> Changes:
    if not _leaves(run):
        return {}
    if run.record.nics:
        await run.peer(NETWORK).unbind(run.record.id)
    return {"task_state": "shelving_offloading"}


async def come_back(run: Run[Server]) -> None:
    """Room, ports and guest are where they were; a guest that is gone already is made of its image."""
    server = run.record
    if not _leaves(run):
        return
    demand = await with_ports(run, server, demand_of(server.flavor, server.image))
    await claim_here(run, demand, server.id)
    await sit(run, server, server.host)
    is_up = await nodes.is_up(run.runtime, server.host)
    await moving.bind(run, server.host, wired=is_up)
    if not is_up:
        return
    spec = await spec_of(run, disk=await _disk(run, run.becoming))
    host = await run.agent(COMPUTE_HOST, on=server.host)
    await host.spawn(spec)
    await host.stop_guest(server.id, 0)
    await complete(run, server.volumes)


async def leave(run: Run[Server]) -> Changes:
    """A host that does not answer destroys the guest as soon as it hears that no server stands for it."""
    changes: dict[str, Any] = {"vm_state": states.SHELVED}
    if _leaves(run) or run.record.vm_state != states.SUSPENDED:  # whose memory stays too
        changes["power_state"] = SHUTDOWN
    if run.becoming.snapshot is not None:
        changes["shelved_image"] = run.becoming.snapshot.image_id
        changes["kept_since"] = run.runtime.world.clock.now()
    if _leaves(run):
        try:
            await destroy(run)
        except Unavailable as e:
            log.warning("guest %s is left to its host: %s", run.record.id, e.message)
        await disconnect(run)
        await vacate(run)
        changes |= {"vm_state": states.OFFLOADED, "host": ""}
    await noting.success(run)
    return changes


async def not_offloaded(run: Run[Server]) -> None:
    await come_back(run)
    await noting.failure(run)


def _not_shelved(server: Server, failure: Failure) -> Changes:
    paused = server.vm_state == states.PAUSED
    went_on = {"vm_state": states.ACTIVE, "power_state": RUNNING} if paused else {}
    return {**failed(server, failure), **went_on}


# Unshelving: a server that left its host is in vm_state shelved_offloaded until the end


def _is_away(run: Run[Server]) -> bool:
    return run.record.vm_state == states.OFFLOADED


async def find_place(run: Run[Server]) -> Changes:
    return {**await place(run), "task_state": "unshelving"} if _is_away(run) else {}


async def give_place_back(run: Run[Server]) -> None:
    await (unplace(run) if _is_away(run) else noting.failure(run))


async def bind(run: Run[Server]) -> Changes:
    if not _is_away(run):
        return {}
    return {"nics": await moving.bind(run, run.record.host, wired=False)}


async def unbind_again(run: Run[Server]) -> None:
    if _is_away(run) and run.record.nics:
        await run.peer(NETWORK).unbind(run.record.id)


async def wake(run: Run[Server]) -> Changes:
    changes = await (_wake_elsewhere(run) if _is_away(run) else power_on(run))
    await noting.success(run)
    return changes


async def _wake_elsewhere(run: Run[Server]) -> Changes:
    """The guest is made anew of its own disk's image."""
    server = run.record
    spec = await spec_of(run, disk=await _disk(run, server))
    host = await run.agent(COMPUTE_HOST, on=server.host)
    if server.nics:
        await run.peer(NETWORK).plug(server.id, server.host)
    guest = await host.spawn(spec)
    await complete(run, server.volumes)
    return {"power_state": guest.power_state}


async def _disk(run: Run[Server], server: Server) -> ImageCopy | None:
    """The image that it was shelved as, or is being; None of one whose disk is a volume."""
    if server.is_on_volume:
        return None
    id = server.snapshot.image_id if server.snapshot else server.shelved_image
    try:
        return creation.copy_of(await run.peer(IMAGES).image(_COMPUTE, id))
    except NotFound:
        raise Conflict(
            f"Instance {server.id} was shelved as image {id}, which is gone: there is no disk to "
            "make it of. It can only be deleted."
        ) from None


async def sleep_again(run: Run[Server]) -> None:
    if _is_away(run):
        await destroy(run)
        await disconnect(run)
    elif host := await host_if_up(run, run.record.host):
        await host.stop_guest(run.record.id, 0)


async def drop_image(run: Run[Server]) -> Changes:
    """Nothing may come after it: it was the guest's only other copy."""
    if run.record.shelved_image:
        await run.peer(IMAGES).discard(run.record.shelved_image)
    return {}


def _still_shelved(server: Server, failure: Failure) -> Changes:
    away = server.vm_state == states.OFFLOADED
    return {**failed(server, failure), **({"host": ""} if away else {})}


def _unshelved(server: Server, now: str) -> Changes:
    return {"launched_at": now, "fault": None, "shelved_image": "", "kept_since": ""}


SHELVE = noting.saga(
    "shelve",
    "shelve",
    Step(shut_down, run_again),
    Step(take_disk, timeout_s=1800),
    Step(send_disk, timeout_s=1800, patience_s=300),
    Step(unbind, come_back),
    Step(leave),
    failed=_not_shelved,
)
SHELVE_OFFLOAD = noting.saga(
    "shelve_offload", "shelveOffload", Step(unbind, not_offloaded), Step(leave), failed=failed
)
UNSHELVE = noting.saga(
    "unshelve",
    "unshelve",
    Step(find_place, give_place_back),
    Step(bind, unbind_again),
    Step(wake, sleep_again, timeout_s=1800),
    Step(drop_image),
    failed=_still_shelved,
    done=_unshelved,
)


# The operations


class ServerShelving(OfServer):
    rules: ClassVar[Mapping[str, str]] = {
        _RULE + "shelve": MEMBER,
        _RULE + "unshelve": MEMBER,
        _RULE + "unshelve_to_host": ADMIN,
        _RULE + "shelve_offload": ADMIN,
    }
    sagas = (SHELVE, SHELVE_OFFLOAD, UNSHELVE)

    @operation("POST", PATH, _RULE + "shelve", action="shelve", status=202)
    async def shelve(self, ctx: Context, server: Server) -> None:
        unlocked(ctx, server)
        unmoved(server, "shelve")
        if server.is_on_volume:
            return await act(ctx, SHELVE, server, "shelve")
        suffix = "-shelved"
        name = server.name[: _NAME_LIMIT - len(suffix)] + suffix
        wanted = Snapshot(image_id=ctx.runtime.world.new_id(), name=name)
        await images.make_image(ctx, SHELVE, server, wanted)

    offload = plain(_RULE + "shelve_offload", "shelveOffload", SHELVE_OFFLOAD)

    @operation("POST", PATH, _RULE + "unshelve", action="unshelve", status=202, until="2.77")
    async def unshelve_anywhere(self, ctx: Context, server: Server) -> None:
        await act(ctx, UNSHELVE, server, "unshelve", {"requested_host": ""})

    @operation("POST", PATH, _RULE + "unshelve", action="unshelve", status=202, since="2.77")
    async def unshelve(self, ctx: Context, server: Server, body: UnshelveServer) -> None:
        unlocked(ctx, server)
        states.LIFECYCLE.check("unshelve", server)
        await act(ctx, UNSHELVE, server, "unshelve", await self._where(ctx, server, body))

    async def _where(self, ctx: Context, server: Server, body: UnshelveServer) -> dict[str, str]:
        """The zone that it is pinned to from here on, and the host. Raises Invalid, Conflict, Forbidden."""
        zone, host = body.availability_zone, body.host if body.host is not UNSET else ""
        given = ctx.document["unshelve"] is not None
        if given and ctx.version < (2, 91) and not isinstance(zone, str):
            raise checks.wrong("unshelve", zone, "'availability_zone' must be a zone's name")
        if (zone is not UNSET or host) and server.vm_state != states.OFFLOADED:
            raise Conflict(
                "Specifying an availability zone or a host when unshelving server "
                f'"{server.id}" with status "{server.vm_state}" is not supported. The server '
                "status must be SHELVED_OFFLOADED."
            )
        pinned = server.pinned_zone if zone is UNSET else checks.name(zone) if zone else ""
        if host:
            ctx.require(_RULE + "unshelve_to_host", self.target(ctx, server))
        places = await nodes.places(ctx.runtime)
        if zone and pinned not in {p.zone for p in places if not p.why_not}:
            raise Invalid("The requested availability zone is not available")
        there = [p for p in places if p.node.host == host]
        if host and not there:
            raise Invalid(f"Compute host {host} could not be found.")
        if host and pinned and there[0].zone != pinned:
            raise Conflict(f'Host "{host}" is not in the availability zone "{pinned}".')
        return {"pinned_zone": pinned, "requested_host": host}

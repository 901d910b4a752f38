"""Long work on servers: each step may run twice, each undo uses only the record."""

from __future__ import annotations

from collections.abc import Sequence

from pileus.kernel.sagas import Changes, Failure, Run, Step
from pileus.services.compute import instance_actions, migrations, nodes, server_groups
from pileus.services.compute.agent_contract import COMPUTE_HOST, ComputeHost
from pileus.services.compute.driver import GuestSpec, ImageSource, Nic, Route
from pileus.services.compute.guest_files import drive_files
from pileus.services.compute.server import (
    MESSAGE_LIMIT,
    FaultCopy,
    ImageCopy,
    Server,
)
from pileus.services.compute.servers import noting, states
from pileus.services.compute.servers.placing import place, unplace
from pileus.services.compute.servers.plugging import complete, plug_again, plugged_volumes
from pileus.services.compute.servers.provisioning import left, part, provide, take_back
from pileus.services.compute.settings import settings_of
from pileus.services.image.contract import IMAGES
from pileus.services.network.contract import NETWORK, Dress, GuestRef, NicInfo
from pileus.services.placement.contract import PLACEMENT

_PLAIN = Dress(addresses=[], routes=[], nameservers=[])

# Creating


def guest_ref(server: Server, zone: str) -> GuestRef:
    return GuestRef(
        id=server.id,
        name=server.hostname,
        project_id=server.project_id,
        host=server.host,
        zone=server.zone or zone,
    )


async def attach(run: Run[Server]) -> Changes:
    """Makes or binds the ports on the host."""
    server = run.record
    state = states.MAPPING if server.volumes else states.SPAWNING
    changes: dict[str, object] = {"task_state": state}
    if server.networks:
        guest = guest_ref(server, settings_of(run.runtime).default_zone)
        changes["nics"] = await run.peer(NETWORK).attach(
            run.caller, guest, server.networks, server.security_groups
        )
    return changes


async def detach(run: Run[Server]) -> None:
    if run.record.networks or run.record.nics:
        await run.peer(NETWORK).detach(run.record.id)


async def spawn(run: Run[Server]) -> Changes:
    """Wires the ports, makes the guest with its volumes and runs it."""
    server = run.record
    await provide(run)
    spec = await spec_of(run)  # its ticket is on disk with all that led here: one commit, not two
    host = await run.agent(COMPUTE_HOST, on=server.host)
    network = run.peer(NETWORK) if server.nics else None
    if network is not None:
        await network.plug(server.id, server.host)
    guest = await host.spawn(spec)
    await complete(run, server.volumes)
    changes: dict[str, object] = {"power_state": guest.power_state}
    if network is not None:
        changes["nics"] = (await network.nics([server.id])).get(server.id, server.nics)
    await noting.success(run)
    return changes


async def give_up(run: Run[Server]) -> None:
    """Its volumes were reserved before it had a place."""
    await take_back(run)
    await unplace(run)


async def image_source(run: Run[Server], image: ImageCopy, *, here: bool = False) -> ImageSource:
    """Where a host finds the bytes, for the next ten minutes. `here`: it has them, though the image may be gone."""
    return ImageSource(
        id=image.id,
        url="" if here else await run.peer(IMAGES).ticket(image.id),
        checksum_sha512=image.sha512,
        disk_format=image.disk_format,
        size=image.size,
        container_format=image.container_format,
        command=image.properties.get("os_command_line", ""),
    )


async def cards(
    run: Run[Server], nics: Sequence[NicInfo], image: ImageCopy | None
) -> tuple[Nic, ...]:
    """The NICs as the host gives them to the guest; a container is told its addresses with them."""
    dress: dict[str, Dress] = {}
    if nics and image and image.is_for_containers:
        dress = await run.peer(NETWORK).dress(run.record.id)
    return tuple(_card(nic, dress.get(nic.port_id, _PLAIN)) for nic in nics)


def _card(nic: NicInfo, dress: Dress) -> Nic:
    return Nic(
        port_id=nic.port_id,
        network_id=nic.network_id,
        mac=nic.mac,
        mtu=nic.mtu,
        addresses=tuple(dress.addresses),
        routes=tuple(Route(destination=r.destination, nexthop=r.nexthop) for r in dress.routes),
        nameservers=tuple(dress.nameservers),
    )


async def spec_of(
    run: Run[Server],
    wanted: Server | None = None,
    disk: ImageCopy | None = None,
    host: str = "",
) -> GuestSpec:
    """The guest that the record describes, or that which is wanted of one whose disk is there.

    `disk`: the image that its root disk is made of, where that is not the server's own. `host`: where it is to be,
    if not where it is: its volumes are served there from now on.
    """
    server, image, disk = wanted or run.record, None, disk or run.record.image
    flavor = server.flavor
    if disk is not None and not server.is_on_volume:
        image = await image_source(run, disk, here=wanted is not None)
    return GuestSpec(
        id=server.id,
        name=server.name,
        project_id=server.project_id,
        hostname=server.hostname,
        vcpus=flavor.vcpus,
        ram_mib=flavor.ram,
        root_gib=0 if server.is_on_volume else flavor.disk,
        ephemeral_gib=server.ephemeral_gib,
        swap_mib=server.swap_mib,
        image=image,
        nics=await cards(run, server.nics, server.image),
        volumes=await plugged_volumes(run, server.volumes, host or server.host),
        config_drive=server.config_drive,
        metadata=drive_files(server) if server.config_drive else {},
    )


async def host_if_up(run: Run[Server], name: str) -> ComputeHost | None:
    """The host, unless it is down: then it is told when it joins again."""
    if not name or not await nodes.is_up(run.runtime, name):
        return None
    return await run.agent(COMPUTE_HOST, on=name)


async def destroy(run: Run[Server]) -> None:
    """Takes the guest off its host."""
    await destroy_on(run, run.record.host)


async def destroy_on(run: Run[Server], name: str) -> None:
    """A host that is down is told so when it joins again."""
    if host := await host_if_up(run, name):
        await host.destroy(run.record.id)


# Deleting


async def remove_guest(run: Run[Server]) -> None:
    """And what else is left of it, where it came from or was going to."""
    server = run.record
    await destroy(run)
    if server.move is not None:
        await destroy_on(run, server.move.other(server.host))


async def free_what_it_had(run: Run[Server]) -> None:
    """Its ports and volumes, which others may have from now on."""
    await detach(run)
    await part(run, run.record.volumes)


async def release(run: Run[Server]) -> None:
    """Gives back the room; the actions become history."""
    server = run.record
    await run.peer(PLACEMENT).release(server.id)
    if server.shelved_image:
        await run.peer(IMAGES).discard(server.shelved_image)
    await noting.success(run)
    for move in await migrations.of(run.runtime.store, server.id):  # what a parked undo left, too
        await run.peer(PLACEMENT).release(move.id)
    async with run.runtime.store.tx(wait=False) as tx:
        await instance_actions.bury(tx, server.id)
        await migrations.bury(tx, server.id)
        await server_groups.leave(tx, server.group, server.id)


async def not_deleted(run: Run[Server]) -> None:
    """An undo that undoes nothing: what is gone is gone. It notes the failure."""
    await noting.failure(run)


# Power


async def _host(run: Run[Server]) -> ComputeHost:
    return await run.agent(COMPUTE_HOST, on=run.record.host)


async def power_on(run: Run[Server]) -> Changes:
    await plug_again(run, run.record.host)
    guest = await (await _host(run)).start_guest(run.record.id)
    return {"power_state": guest.power_state}


async def power_off(run: Run[Server]) -> Changes:
    timeout = settings_of(run.runtime).stop_timeout_s
    guest = await (await _host(run)).stop_guest(run.record.id, timeout)
    return {"power_state": guest.power_state}


async def rest(run: Run[Server]) -> Changes:
    """Off until it is restored or deleted; on a host that is down it can't be."""
    if not await nodes.is_up(run.runtime, run.record.host):
        return {}
    return await power_off(run)


async def soft_reboot(run: Run[Server]) -> Changes:
    guest = await (await _host(run)).reboot(run.record.id, False)
    return {"power_state": guest.power_state}


async def hard_reboot(run: Run[Server]) -> Changes:
    """Its volumes are plugged anew: whatever hindered that before may be over."""
    if run.record.vm_state != states.SUSPENDED:
        await plug_again(run, run.record.host)
    guest = await (await _host(run)).reboot(run.record.id, True)
    return {"power_state": guest.power_state}


# What the record says afterwards


def fault_of(failure: Failure) -> FaultCopy:
    """Shortened for users; the whole story is for administrators."""
    message = failure.message
    if len(message) > MESSAGE_LIMIT:
        message = message[: MESSAGE_LIMIT - 3] + "..."
    code = 400 if failure.code == 400 else 500
    return FaultCopy(code=code, created=failure.at, message=message, details=failure.detail)


def failed(server: Server, failure: Failure) -> Changes:
    return {"fault": fault_of(failure)}


def _never_built(server: Server, failure: Failure) -> Changes:
    gone = {"host": "", "zone": "", "nics": [], "volumes": left(server)}
    return {"fault": fault_of(failure), **gone}


def _launched(server: Server, now: str) -> Changes:
    return {"launched_at": now, "fault": None}


def _gone(server: Server, now: str) -> Changes:
    terminated = {"terminated_at": now, "vm_state": states.DELETED, "task_state": ""}
    return {**terminated, "power_state": 0, "nics": []}


def healed(server: Server, now: str) -> Changes:
    return {"fault": None}


CREATE = noting.saga(
    "create",
    "create",
    Step(place, give_up),
    Step(attach, detach),
    Step(spawn, destroy, timeout_s=1800),
    failed=_never_built,
    done=_launched,
)
DELETE = noting.saga(
    "delete",
    "delete",
    Step(remove_guest, not_deleted),
    Step(free_what_it_had),
    Step(release),
    failed=failed,
    done=_gone,
)
START = noting.saga("power_on", "start", noting.noted(power_on), failed=failed, done=healed)
STOP = noting.saga("power_off", "stop", noting.noted(power_off), failed=failed, done=healed)
REBOOT = noting.saga("reboot", "reboot", noting.noted(soft_reboot), failed=failed, done=healed)
HARD_REBOOT = noting.saga(
    "reboot", "hard reboot", noting.noted(hard_reboot), failed=failed, done=healed
)
SOFT_DELETE = noting.saga(
    "soft_delete",
    "soft delete",
    noting.noted(rest),
    failed=failed,
    done=lambda server, now: {"kept_since": now},
)
RESTORE = noting.saga(
    "restore",
    "restore",
    noting.noted(power_on),
    failed=failed,
    done=lambda server, now: {"kept_since": "", "fault": None},
)
SAGAS = (CREATE, DELETE, START, STOP, REBOOT, HARD_REBOOT, SOFT_DELETE, RESTORE)

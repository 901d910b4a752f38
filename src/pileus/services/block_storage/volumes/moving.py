"""Volumes that change their place: migration between hosts, and what a host had before we knew of it.

https://docs.openstack.org/api-ref/block-storage/v3/#volume-manage-extension-manageable-volumes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from pileus.kernel.events import emit
from pileus.kernel.faults import Conflict, Invalid, NotFound
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.sagas import Changes, Run, Saga, Step
from pileus.kernel.schema import IGNORE, Body, Extra

from .. import attaching, attachment, checks, pools, states, tickets
from ..agent_contract import VOLUME_HOST, VolumeHost
from ..checks import Flag, Text
from ..driver import Export
from ..driver import Volume as Found
from ..scheduling import Pool
from ..snapshot import count_of
from ..states import VOLUME
from ..unmanaged import UNMANAGED, Unmanaged, unmanaged_in
from ..volume import VOLUMES, Volume, backend_of
from ..volume_type import default_type, type_named
from .operations import PATH, OfVolume
from .sagas import becoming, chosen, spec_of
from .views import made

ACTION = PATH + "/action"
_ADMIN = "volume_extension:volume_admin_actions:"
_LIST, _MANAGE = "volume_extension:list_manageable", "volume_extension:volume_manage"
_COPY_S = 6 * 3600
RELOCATED = "volume.relocate.served"
_COPIES = "nbd"  # the protocol of back ends that hand over what is in use


class Migrate(Body):
    root: ClassVar[str] = "os-migrate_volume"
    host: Text = UNSET
    force_host_copy: Flag | None = None
    lock_volume: Flag | None = None
    cluster: Text = UNSET


class Manage(Body):
    root: ClassVar[str] = "volume"
    unknown: ClassVar[Extra] = IGNORE
    ref: dict[str, Any] | str
    host: Text = UNSET
    name: Text = UNSET
    description: Text = UNSET
    volume_type: Text = UNSET
    availability_zone: Text = UNSET
    metadata: dict[str, Any] | None = None
    bootable: Flag | UnsetType = UNSET


# The sagas


async def announce(run: Run[Volume]) -> Changes:
    """Its name where it goes, so that it is known there."""
    return {"next_id": run.becoming.backend_id}


async def make_there(run: Run[Volume]) -> None:
    """A blank volume of its size at the other back end, by another name."""
    there = await run.agent(VOLUME_HOST, on=run.becoming.host)
    spec = await spec_of(run)
    wanted = {"id": backend_of(run.becoming), "pool": run.becoming.pool}
    await there.create(msgspec.structs.replace(spec, **wanted))


async def unmake_there(run: Run[Volume]) -> None:
    """Unless it lies there by now, and what went wrong is only what it left behind."""
    name = backend_of(run.becoming)
    if backend_of(run.record) == name:
        return
    there = await run.agent(VOLUME_HOST, on=run.becoming.host)
    await _serve_only(there, name, set())
    await there.delete(name)


async def _serve_only(host: VolumeHost, name: str, attachments: set[str]) -> None:
    """Those that ended meanwhile knew of one place only."""
    for found in await host.volumes():
        for one in set(found.exports) - attachments if found.id == name else ():
            await host.withdraw(name, one)


async def carry(run: Run[Volume]) -> Changes:
    """Its bytes, by way of a file of control's."""
    runtime, volume, name = run.runtime, run.record, run.id
    here = await run.agent(VOLUME_HOST, on=volume.host)
    url = await tickets.issue(runtime, name, tickets.WRITE)
    size = await here.send(backend_of(volume), "", "raw", url)
    there = await run.agent(VOLUME_HOST, on=run.becoming.host)
    url = await tickets.issue(runtime, name, tickets.READ)
    await there.receive(backend_of(run.becoming), url, size)
    await tickets.drop(runtime, name)
    return _moved(run)


def _moved(run: Run[Volume]) -> Changes:
    """It lies there, and what it left is known where it came from until that is gone."""
    old, new = run.record, run.becoming
    there = {"host": new.host, "pool": new.pool, "backend_id": new.backend_id}
    return {**there, "next_id": backend_of(old), "wanted_host": old.host}


async def drop_file(run: Run[Volume]) -> None:
    await tickets.drop(run.runtime, run.id)


async def hand_over(run: Run[Volume]) -> Changes:
    """Its bytes, from back end to back end under its guest. Raises Conflict where it was detached meanwhile."""
    runtime, volume = run.runtime, run.record
    here = await run.agent(VOLUME_HOST, on=volume.host)
    used = await attachment.of_volume(runtime.store, volume.id)
    if len(used) != 1:
        raise Conflict(f"Volume {volume.id} has {len(used)} attachments; it had one.")
    to = {"host": volume.host}
    heir = await attaching.exported(runtime, run.becoming, used[0].id, False, to)
    await here.hand_over(backend_of(volume), heir)
    return _moved(run)


async def stay(run: Run[Volume]) -> None:
    """Where it is: there, if all that is written is written there by now."""
    volume = run.record
    if backend_of(volume) == run.becoming.backend_id:
        return
    here = await run.agent(VOLUME_HOST, on=volume.host)
    if not await here.stay(backend_of(volume)):
        async with run.runtime.store.tx() as tx:
            fresh = await VOLUMES.get(tx, volume.id)
            run.record = await VOLUMES.change(tx, fresh, **_moved(run))
        await serve_there(run)
        await leave(run)


async def serve_there(run: Run[Volume]) -> None:
    """Who has it is told, and goes over."""
    volume, store = run.becoming, run.runtime.store
    await attaching.serve_again(run.runtime, volume)
    there = await run.agent(VOLUME_HOST, on=volume.host)
    used = await attachment.of_volume(store, volume.id)
    await _serve_only(there, backend_of(volume), {one.id for one in used})
    async with store.tx() as tx:
        await emit(tx, RELOCATED, volume.project_id, id=volume.id)


async def leave(run: Run[Volume]) -> Changes:
    """What is left where it came from goes; where that is down now, when it joins again."""
    volume, wanted = run.record, run.becoming
    here = await run.agent(VOLUME_HOST, on=volume.wanted_host)
    await here.delete(volume.next_id)
    of_type = {"volume_type_id": wanted.volume_type_id, "is_multiattach": wanted.is_multiattach}
    return {"wanted_host": "", "next_id": "", "migration_status": "success", **of_type}


def _stayed(record: Volume, failure: object) -> Changes:
    return {"wanted_host": "", "next_id": "", "migration_status": "error"}


_BEGIN = (Step(announce), Step(make_there, unmake_there))
MIGRATE = Saga(
    "volume.migrate",
    VOLUMES,
    VOLUME,
    "migrate",
    *_BEGIN,
    Step(carry, drop_file, timeout_s=_COPY_S),
    Step(leave),
    failed=_stayed,
)
RELOCATE = Saga(
    "volume.relocate",
    VOLUMES,
    VOLUME,
    "relocate",
    *_BEGIN,
    Step(hand_over, stay, timeout_s=_COPY_S),
    Step(serve_there),
    Step(leave),
    failed=_stayed,
)


async def adopt(run: Run[Volume]) -> Changes:
    """The host has it, and its size is what the host says."""
    return {"size": (await _at(run, backend_of(run.record))).size_gib}


async def let_go(run: Run[Volume]) -> None:
    """Nobody's again; the record that failed may be deleted without it."""
    v = run.record
    async with run.runtime.store.tx() as tx:
        if await UNMANAGED.find(tx, backend_of(v)) is None:
            await UNMANAGED.insert(tx, _given_up(v))


def _given_up(v: Volume) -> Unmanaged:
    return Unmanaged(id=backend_of(v), host=v.host, pool=v.pool, size=v.size)


async def _at(run: Run[Volume], name: str) -> Found:
    host = await run.agent(VOLUME_HOST, on=run.record.host)
    for found in await host.volumes():
        if found.id == name:
            return found
    raise NotFound(f"Volume {name} is not on {run.record.host}.")


MANAGE = Saga("volume.manage_existing", VOLUMES, VOLUME, "manage", Step(adopt, let_go))


def _follows(export: Export) -> bool:
    """Whether who has it goes over to where it is served then."""
    return not export.is_read_only and not export.is_iscsi


async def migration(
    ctx: Context, volume: Volume, pool: Pool, moves_as: str, **changes: Any
) -> None:
    """Begins the move; `moves_as` is its status meanwhile, "" the one that it has. Raises Invalid for a volume that cannot be moved as it is."""
    place = await pools.place_of(ctx.runtime, volume)
    if await count_of(ctx.runtime.store, volume.id):
        raise checks.unfit("volume", f"Volume {volume.id} has snapshots; delete them first.")
    here = await pools.known(ctx.runtime, place)
    used = await attachment.of_volume(ctx.runtime.store, volume.id)
    if used and {here.storage_protocol, pool.storage_protocol} != {_COPIES}:
        raise checks.unfit(
            "volume",
            f"Volume {volume.id} is attached, and goes from {here.storage_protocol} to "
            f"{pool.storage_protocol} when it is detached; from {_COPIES} to {_COPIES} it could now.",
        )
    exports = [one.export for one in used]
    if used and not (len(used) == 1 and exports[0] and _follows(exports[0])):
        raise checks.unfit(
            "volume",
            f"Volume {volume.id} is attached {len(used)} times; it must be attached to one server "
            "that may write to it and has it by NBD, or to none.",
        )
    there = {"host": pool.host, "pool": pool.name, "backend_id": ctx.runtime.world.new_id()}
    saga = RELOCATE if used else MIGRATE
    said = becoming(volume, migration_status=states.MIGRATING, moves_as=moves_as)
    await checks.begin(ctx, saga, said, becoming=becoming(said, **there, **changes))


class VolumeMoving(OfVolume):
    sagas = (MIGRATE, RELOCATE, MANAGE)

    @operation("POST", ACTION, _ADMIN + "migrate_volume", action="os-migrate_volume", status=202)
    async def migrate(self, ctx: Context, volume: Volume, body: Migrate) -> None:
        here = await pools.place_of(ctx.runtime, volume)
        only = (await pools.known(ctx.runtime, body.host)).place if body.host else ""
        if only == here:
            raise checks.unfit(
                "host", f"Destination host must be different from the current host {here}."
            )
        is_locked = checks.flag(body.lock_volume or False, "lock_volume")
        moves_as = states.MAINTENANCE if is_locked and volume.status == states.AVAILABLE else ""
        await migration(ctx, volume, await chosen(ctx.runtime, volume, only, here), moves_as)

    @operation(
        "POST",
        ACTION,
        _ADMIN + "migrate_volume_completion",
        action="os-migrate_volume_completion",
        status=200,
    )
    async def complete(self, ctx: Context, volume: Volume) -> dict[str, Any]:
        raise checks.unfit(
            "volume", f"Volume {volume.id} is not being migrated by another service."
        )

    @operation("POST", ACTION, "volume_extension:volume_unmanage", action="os-unmanage", status=202)
    async def unmanage(self, ctx: Context, volume: Volume) -> None:
        """The host keeps it, and we forget it."""
        if volume.shown not in states.FAILED | {states.AVAILABLE}:
            raise checks.unfit(
                "volume", f"Volume {volume.id} status must be available, but it is {volume.shown}."
            )
        async with ctx.runtime.store.tx() as tx:
            if await count_of(tx, volume.id):
                raise checks.unfit(
                    "volume", f"Volume {volume.id} has snapshots; delete them first."
                )
            await UNMANAGED.insert(tx, _given_up(volume))
            await VOLUMES.delete(tx, volume)
            await emit(tx, "volume.unmanage.end", volume.project_id, id=volume.id)


class ManageableVolumes(Resource[Volume]):
    table = VOLUMES

    @operation("POST", "/os-volume-manage", _MANAGE, status=202)
    @operation("POST", "/manageable_volumes", _MANAGE, status=202, since="3.8")
    async def manage(self, ctx: Context, body: Manage) -> dict[str, Any]:
        if not body.host:
            raise Invalid("The host must be named on which the volume is.")
        runtime, name = ctx.runtime, reference(body.ref)
        pool = await pools.known(runtime, body.host)
        kind = (
            await type_named(ctx, body.volume_type)
            if body.volume_type
            else await default_type(runtime.store, ctx.caller.project_id)
        )
        here = await unmanaged_in(runtime, pool)
        if name not in here:
            raise Invalid(
                f"Manage existing volume failed: there is no volume {name} on {body.host}."
            )
        volume = Volume(
            id=runtime.world.new_id(),
            project_id=ctx.caller.project_id,
            user_id=ctx.caller.user_id,
            size=here[name],
            volume_type_id=kind.id,
            is_multiattach=kind.wants("multiattach"),
            host=pool.host,
            pool=pool.name,
            backend_id=name,
            metadata=checks.metadata(body.metadata),
            is_bootable=checks.flag(body.bootable or False, "bootable"),
            **checks.changed(body, "name", "description"),
        )
        async with runtime.store.tx() as tx:
            await UNMANAGED.delete(tx, await UNMANAGED.get(tx, name))
            volume, entry = await runtime.sagas.begin(
                tx, MANAGE, volume, caller=ctx.caller, request_id=ctx.request_id
            )
        runtime.sagas.launch(entry)
        return {"volume": await made(ctx, volume)}

    @operation("GET", "/manageable_volumes", _LIST, since="3.8")
    @operation("GET", "/os-volume-manage", _LIST)
    async def index(self, ctx: Context) -> dict[str, Any]:
        return {"manageable-volumes": await self._listed(ctx, full=False)}

    @operation("GET", "/manageable_volumes/detail", _LIST, since="3.8")
    @operation("GET", "/os-volume-manage/detail", _LIST)
    async def detail(self, ctx: Context) -> dict[str, Any]:
        return {"manageable-volumes": await self._listed(ctx, full=True)}

    async def _listed(self, ctx: Context, *, full: bool) -> list[dict[str, Any]]:
        """What the pool has, ours and what nobody manages."""
        pool = await pools.known(ctx.runtime, ctx.query.get("host"))
        free = await unmanaged_in(ctx.runtime, pool)
        ours: Sequence[Volume] = await VOLUMES.all(ctx.runtime.store, host=pool.host)
        rows = [(backend_of(v), v.size, v.id) for v in ours if v.pool in ("", pool.name)]
        rows += [(name, size, "") for name, size in free.items()]
        return [manageable(*row, full=full) for row in sorted(rows)]


def manageable(name: str, size: int, id: str, *, full: bool) -> dict[str, Any]:
    """One row of what a host has; `id` is ours, "" for what nobody manages."""
    found: dict[str, Any] = {
        "reference": {"source-name": name},
        "size": size,
        "safe_to_manage": not id,
    }
    if full:
        found |= {
            "reason_not_safe": "already managed" if id else None,
            "cinder_id": id or None,
            "extra_info": None,
        }
    return found


def reference(ref: object) -> str:
    """The name in `{"source-name": ...}` or `{"source-id": ...}`. Raises Invalid."""
    given = ref if isinstance(ref, dict) else {"source-name": ref}
    name = given.get("source-name") or given.get("source-id")
    if not isinstance(name, str) or not name:
        raise Invalid("The reference must have a source-name or a source-id.")
    return name.removeprefix("volume-")

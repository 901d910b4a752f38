"""Volumes that change their place: migration between hosts, and what a host had before we knew of it.

https://docs.openstack.org/api-ref/block-storage/v3/#volume-manage-extension-manageable-volumes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from pileus.kernel.events import emit
from pileus.kernel.faults import Invalid, NotFound
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.sagas import Changes, Run, Saga, Step
from pileus.kernel.schema import IGNORE, Body, Extra

from .. import attachment, checks, pools, states, tickets
from ..agent_contract import VOLUME_HOST
from ..checks import Flag, Text
from ..driver import Volume as Found
from ..snapshot import count_of
from ..states import VOLUME
from ..unmanaged import UNMANAGED, Unmanaged, unmanaged_on
from ..volume import VOLUMES, Volume, backend_of
from ..volume_type import default_type, type_named
from .operations import PATH, OfVolume
from .sagas import becoming, chosen, spec_of
from .views import made

ACTION = PATH + "/action"
_ADMIN = "volume_extension:volume_admin_actions:"
_COPY_S = 3600


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


async def make_there(run: Run[Volume]) -> None:
    """A blank volume of its size and name at the other host."""
    there = await run.agent(VOLUME_HOST, on=run.becoming.host)
    await there.create(await spec_of(run))


async def unmake_there(run: Run[Volume]) -> None:
    """Unless it lies there by now, and what went wrong is only what it left behind."""
    if run.record.host == run.becoming.host:
        return
    there = await run.agent(VOLUME_HOST, on=run.becoming.host)
    await there.delete(backend_of(run.record))


async def carry(run: Run[Volume]) -> Changes:
    """Its bytes, by way of a file of control's."""
    runtime, volume, name = run.runtime, run.record, run.id
    here = await run.agent(VOLUME_HOST, on=volume.host)
    url = await tickets.issue(runtime, name, tickets.WRITE)
    size = await here.send(backend_of(volume), "", "raw", url)
    there = await run.agent(VOLUME_HOST, on=run.becoming.host)
    url = await tickets.issue(runtime, name, tickets.READ)
    await there.receive(backend_of(volume), url, size)
    await tickets.drop(runtime, name)
    return {"host": run.becoming.host, "wanted_host": volume.host}


async def drop_file(run: Run[Volume]) -> None:
    await tickets.drop(run.runtime, run.id)


async def leave(run: Run[Volume]) -> Changes:
    """What is left at the host that it came from goes; if that is down now, when it joins again."""
    volume = run.record
    if volume.wanted_host and volume.wanted_host != volume.host:
        here = await run.agent(VOLUME_HOST, on=volume.wanted_host)
        await here.delete(backend_of(volume))
    changes = {"volume_type_id": run.becoming.volume_type_id}
    return {"wanted_host": "", "migration_status": "success", **changes}


def _stayed(record: Volume, failure: object) -> Changes:
    return {"wanted_host": "", "migration_status": "error"}


_MOVE = (
    Step(make_there, unmake_there),
    Step(carry, drop_file, timeout_s=_COPY_S),
    Step(leave),
)
MIGRATE = Saga("volume.migrate", VOLUMES, VOLUME, "migrate", *_MOVE, failed=_stayed)


async def adopt(run: Run[Volume]) -> Changes:
    """The host has it, and its size is what the host says."""
    return {"size": (await _at(run, backend_of(run.record))).size_gib}


async def let_go(run: Run[Volume]) -> None:
    """Nobody's again; the record that failed may be deleted without it."""
    v = run.record
    async with run.runtime.store.tx() as tx:
        if await UNMANAGED.find(tx, backend_of(v)) is None:
            await UNMANAGED.insert(tx, Unmanaged(id=backend_of(v), host=v.host, size=v.size))


async def _at(run: Run[Volume], name: str) -> Found:
    host = await run.agent(VOLUME_HOST, on=run.record.host)
    for found in await host.volumes():
        if found.id == name:
            return found
    raise NotFound(f"Volume {name} is not on {run.record.host}.")


MANAGE = Saga("volume.manage_existing", VOLUMES, VOLUME, "manage", Step(adopt, let_go))


async def migration(ctx: Context, volume: Volume, host: str, **changes: Any) -> None:
    """Begins the move. Raises Invalid for a volume that is attached or has snapshots."""
    store = ctx.runtime.store
    if await attachment.of_volume(store, volume.id) or await count_of(store, volume.id):
        raise checks.unfit(
            "volume",
            f"Volume {volume.id} status must be available, the volume must not be migrating, have "
            "snapshots or be attached.",
        )
    if host == volume.host:
        raise checks.unfit(
            "host", f"Destination host must be different from the current host {host}."
        )
    await checks.begin(ctx, MIGRATE, volume, becoming=becoming(volume, host=host, **changes))


class VolumeMoving(OfVolume):
    sagas = (MIGRATE, MANAGE)

    @operation("POST", ACTION, _ADMIN + "migrate_volume", action="os-migrate_volume", status=202)
    async def migrate(self, ctx: Context, volume: Volume, body: Migrate) -> None:
        host = await pools.known(ctx.runtime, body.host) if body.host else ""
        host = await chosen(ctx.runtime, volume, host, volume.host)
        await migration(ctx, volume, host)

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
            name = backend_of(volume)
            kept = Unmanaged(id=name, host=volume.host, size=volume.size)
            await UNMANAGED.insert(tx, kept)
            await VOLUMES.delete(tx, volume)
            await emit(tx, "volume.unmanage.end", volume.project_id, id=volume.id)


class ManageableVolumes(Resource[Volume]):
    table = VOLUMES

    @operation("POST", "/os-volume-manage", "volume_extension:volume_manage", status=202)
    async def manage_old(self, ctx: Context, body: Manage) -> dict[str, Any]:
        return await self._manage(ctx, body)

    @operation(
        "POST", "/manageable_volumes", "volume_extension:volume_manage", status=202, since="3.8"
    )
    async def manage(self, ctx: Context, body: Manage) -> dict[str, Any]:
        return await self._manage(ctx, body)

    async def _manage(self, ctx: Context, body: Manage) -> dict[str, Any]:
        if not body.host:
            raise Invalid("The host must be named on which the volume is.")
        runtime, name = ctx.runtime, reference(body.ref)
        host = await pools.known(runtime, body.host)
        kind = (
            await type_named(ctx, body.volume_type)
            if body.volume_type
            else await default_type(runtime.store, ctx.caller.project_id)
        )
        here = await unmanaged_on(runtime, host, "volume")
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
            host=host,
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

    @operation("GET", "/manageable_volumes", "volume_extension:list_manageable", since="3.8")
    async def index(self, ctx: Context) -> dict[str, Any]:
        return {"manageable-volumes": await self._listed(ctx, full=False)}

    @operation("GET", "/manageable_volumes/detail", "volume_extension:list_manageable", since="3.8")
    async def detail(self, ctx: Context) -> dict[str, Any]:
        return {"manageable-volumes": await self._listed(ctx, full=True)}

    @operation("GET", "/os-volume-manage", "volume_extension:list_manageable")
    async def index_old(self, ctx: Context) -> dict[str, Any]:
        return {"manageable-volumes": await self._listed(ctx, full=False)}

    @operation("GET", "/os-volume-manage/detail", "volume_extension:list_manageable")
    async def detail_old(self, ctx: Context) -> dict[str, Any]:
        return {"manageable-volumes": await self._listed(ctx, full=True)}

    async def _listed(self, ctx: Context, *, full: bool) -> list[dict[str, Any]]:
        """What the host has, ours and what nobody manages."""
        host = await pools.known(ctx.runtime, ctx.query.get("host"))
        free = await unmanaged_on(ctx.runtime, host, "volume")
        ours: Sequence[Volume] = await VOLUMES.all(ctx.runtime.store, host=host)
        rows = [(backend_of(v), v.size, v.id) for v in ours]
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

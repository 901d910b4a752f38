"""The long work on volumes."""

from __future__ import annotations

from typing import Any

import msgspec

from pileus.kernel.events import emit
from pileus.kernel.faults import Conflict, Invalid, NotFound
from pileus.kernel.runtime import Runtime
from pileus.kernel.sagas import Changes, Run, Saga, Step
from pileus.kernel.store import Table
from pileus.services.image.contract import IMAGES, ImageInfo

from .. import attaching, messages, pools, tickets
from ..agent_contract import VOLUME_HOST, VolumeHost
from ..backup import BACKUPS
from ..driver import ImageBytes, OfSnapshot, OfVolume, Source, VolumeSpec
from ..scheduling import Pool, Wanted, choose
from ..snapshot import SNAPSHOTS, Snapshot, backend_name
from ..states import ERROR_MANAGING, VOLUME
from ..unmanaged import UNMANAGED
from ..volume import VOLUMES, Volume, backend_of
from ..volume_type import VOLUME_TYPES

_COPIES_S = 3600  # how long bytes may take


async def at_host(run: Run[Volume]) -> VolumeHost:
    return await run.agent(VOLUME_HOST, on=run.record.host)


async def tell_create(run: Run[Volume]) -> None:
    await messages.tell(run, "VOLUME", "create")


async def schedule(run: Run[Volume]) -> Changes:
    """Chooses the host: where its source lies, or what a pool has. Raises NoCapacity."""
    volume = run.record
    if volume.host:
        return {}
    pool = await chosen(run.runtime, volume, await _source_place(run.runtime, volume))
    return {"host": pool.host, "pool": pool.name}


async def chosen(runtime: Runtime, volume: Volume, only: str = "", never: str = "") -> Pool:
    """Raises NoCapacity, Unavailable."""
    kind = await VOLUME_TYPES.find(runtime.store, volume.volume_type_id)
    asked = only or volume.wanted_host
    wanted = Wanted(volume.size, kind.extra_specs if kind else {}, volume.zone, asked, never)
    return choose(await pools.pools(runtime), wanted)


async def _source_place(runtime: Runtime, volume: Volume) -> str:
    """Copies are made where the original lies, "" if there is none."""
    origin = volume.source_volid
    if volume.snapshot_id:
        origin = (await SNAPSHOTS.get(runtime.store, volume.snapshot_id)).volume_id
    return await pools.place_of(runtime, await VOLUMES.get(runtime.store, origin)) if origin else ""


async def build(run: Run[Volume]) -> Changes:
    """The host makes it, out of its source if it has one."""
    await (await at_host(run)).create(await spec_of(run, await _source(run)))
    return {"wanted_host": ""}


async def spec_of(run: Run[Volume], source: Source | None = None) -> VolumeSpec:
    """What a host makes it from. Raises Conflict for one whose key is lost."""
    volume = run.record
    return VolumeSpec(
        id=backend_of(volume),
        size_gib=volume.size,
        project_id=volume.project_id,
        pool=volume.pool,
        source=source,
        passphrase=await attaching.revealed(run.runtime, volume.sealed),
    )


async def _source(run: Run[Volume]) -> Source | None:
    volume, store = run.record, run.runtime.store
    if volume.snapshot_id:
        snapshot: Snapshot = await SNAPSHOTS.get(store, volume.snapshot_id)
        origin = await VOLUMES.get(store, snapshot.volume_id)
        return OfSnapshot(volume_id=backend_of(origin), snapshot_id=backend_name(snapshot))
    if volume.source_volid:
        return OfVolume(volume_id=backend_of(await VOLUMES.get(store, volume.source_volid)))
    if volume.image_id:
        return await image_bytes(run, volume.image_id)
    return None


async def image_bytes(run: Run[Volume], image_id: str) -> ImageBytes:
    """Raises Invalid for an image that nobody may open, NotFound."""
    images = run.peer(IMAGES)
    image = await images.image(run.caller, image_id)
    check_image(image)
    return ImageBytes(
        id=image.id,
        url=await images.ticket(image.id),
        disk_format=image.disk_format,
        checksum_sha512=image.sha512,
        size=image.size,
    )


def check_image(image: ImageInfo) -> None:
    """Raises Invalid."""
    if image.status != "active":
        raise Invalid(f"Image {image.id} is not active: its status is {image.status}.")
    if image.unsafe:
        raise Invalid(f"Image {image.id} is unacceptable: {image.unsafe}")


async def refill(run: Run[Volume]) -> None:
    """What its backup holds, where it is made of one."""
    if run.record.backup_id:
        backup = await BACKUPS.get(run.runtime.store, run.record.backup_id)
        url = await tickets.issue(run.runtime, backup.file, tickets.READ)
        await (await at_host(run)).receive(backend_of(run.record), url, backup.stored)


async def unbuild(run: Run[Volume]) -> None:
    if run.record.host:
        await (await at_host(run)).delete(backend_of(run.record))


def _homeless(record: Volume, failure: object) -> Changes:
    return {"host": "", "pool": "", "wanted_host": ""}


async def remove_snapshots(run: Run[Volume]) -> None:
    """Those that go with it, and those that nobody manages any more."""
    store, volume = run.runtime.store, run.record
    tables: dict[str, Table[Any]] = {"volume_id": SNAPSHOTS, "of": UNMANAGED}
    for column, table in tables.items():
        for one in await table.all(store, **{column: volume.id}):
            if volume.host:
                name = getattr(one, "backend_id", "") or one.id
                await (await at_host(run)).delete_snapshot(backend_of(volume), name)
            async with store.tx() as tx:
                found = await table.find(tx, one.id)
                if found is not None:
                    await table.delete(tx, found)
                    await emit(tx, "snapshot.delete.end", volume.project_id, id=one.id)


async def remove(run: Run[Volume]) -> None:
    """One that could not be managed is still its host's."""
    if run.record.host and run.record.status != ERROR_MANAGING:
        try:
            await (await at_host(run)).delete(backend_of(run.record))
        except NotFound:
            return


async def tell_delete(run: Run[Volume]) -> None:
    await messages.tell(run, "VOLUME", "delete")


async def grow(run: Run[Volume]) -> Changes:
    await (await at_host(run)).extend(backend_of(run.record), run.becoming.size)
    await attaching.serve_again(run.runtime, run.record)
    return {"size": run.becoming.size}


async def tell_extend(run: Run[Volume]) -> None:
    await messages.tell(run, "VOLUME", "extend")


async def turn_back(run: Run[Volume]) -> None:
    """What it was at its snapshot."""
    snapshot = await SNAPSHOTS.get(run.runtime.store, run.becoming.snapshot_id or "")
    await (await at_host(run)).revert(backend_of(run.record), backend_name(snapshot))


async def change_type(run: Run[Volume]) -> Changes:
    """Whom it is served to, it is with the new type's limits."""
    kind = await VOLUME_TYPES.get(run.runtime.store, run.becoming.volume_type_id)
    if run.becoming.is_multiattach != kind.wants("multiattach"):
        raise Conflict(f"Volume type {kind.name} has changed meanwhile.")
    await attaching.serve_again(run.runtime, becoming(run.record, volume_type_id=kind.id))
    return {"volume_type_id": kind.id, "is_multiattach": run.becoming.is_multiattach}


async def limit_as_before(run: Run[Volume]) -> None:
    await attaching.serve_again(run.runtime, run.record)


async def overwrite(run: Run[Volume]) -> Changes:
    """The image's bytes in the place of its own: made anew under the same name."""
    source = await image_bytes(run, run.becoming.image_id)
    host, spec = await at_host(run), await spec_of(run, source)
    await host.delete(spec.id)
    await host.create(spec)
    return {
        "image_id": run.becoming.image_id,
        "image_metadata": run.becoming.image_metadata,
        "is_bootable": True,
    }


CREATE = Saga(
    "volume.create",
    VOLUMES,
    VOLUME,
    "create",
    Step(schedule, tell_create),
    Step(build, unbuild, timeout_s=_COPIES_S),
    Step(refill, timeout_s=_COPIES_S),
    failed=_homeless,
)
DELETE = Saga(
    "volume.delete", VOLUMES, VOLUME, "delete", Step(remove_snapshots, tell_delete), Step(remove)
)
EXTEND = Saga("volume.resize", VOLUMES, VOLUME, "extend", Step(grow, tell_extend))
REVERT = Saga("volume.revert", VOLUMES, VOLUME, "revert", Step(turn_back))
RETYPE = Saga("volume.retype", VOLUMES, VOLUME, "retype", Step(change_type, limit_as_before))
REIMAGE = Saga("volume.reimage", VOLUMES, VOLUME, "reimage", Step(overwrite, timeout_s=_COPIES_S))


def becoming(volume: Volume, **changes: object) -> Volume:
    return msgspec.structs.replace(volume, **changes)

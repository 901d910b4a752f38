"""The long work on groups: their volumes are made, kept and deleted together."""

from __future__ import annotations

from pileus.kernel.sagas import Run, Saga, Step

from . import states
from .agent_contract import VOLUME_HOST
from .group import GROUP_SNAPSHOTS, GROUPS, Group, GroupSnapshot
from .snapshot import SNAPSHOTS, Snapshot, backend_name
from .volume import VOLUMES, Volume, backend_of


async def members(run: Run[Group]) -> list[Volume]:
    return await VOLUMES.all(run.runtime.store, group_id=run.record.id)


async def remove_members(run: Run[Group]) -> None:
    """Its volumes go, if the group was to be deleted with them."""
    store = run.runtime.store
    for volume in await members(run):
        if volume.host:
            host = await run.agent(VOLUME_HOST, on=volume.host)
            await host.delete(backend_of(volume))
        async with store.tx() as tx:
            found = await VOLUMES.find(tx, volume.id)
            if found is not None:
                await VOLUMES.delete(tx, found)


DELETE = Saga("group.delete", GROUPS, states.GROUP, "delete", Step(remove_members, timeout_s=900))


async def parts(run: Run[GroupSnapshot]) -> list[Snapshot]:
    return await SNAPSHOTS.all(run.runtime.store, group_snapshot_id=run.record.id)


async def take_all(run: Run[GroupSnapshot]) -> None:
    """One after the other, while they may be written."""
    store = run.runtime.store
    for snapshot in await parts(run):
        volume = await VOLUMES.get(store, snapshot.volume_id)
        host = await run.agent(VOLUME_HOST, on=volume.host)
        await host.snapshot(backend_of(volume), backend_name(snapshot))
        async with store.tx() as tx:
            fresh = await SNAPSHOTS.get(tx, snapshot.id)
            await SNAPSHOTS.change(tx, fresh, status=states.AVAILABLE)


async def drop_all(run: Run[GroupSnapshot]) -> None:
    store = run.runtime.store
    for snapshot in await parts(run):
        volume = await VOLUMES.find(store, snapshot.volume_id)
        if volume is not None and volume.host:
            host = await run.agent(VOLUME_HOST, on=volume.host)
            await host.delete_snapshot(backend_of(volume), backend_name(snapshot))
        async with store.tx() as tx:
            found = await SNAPSHOTS.find(tx, snapshot.id)
            if found is not None:
                await SNAPSHOTS.delete(tx, found)


TAKE = Saga(
    "group_snapshot.create",
    GROUP_SNAPSHOTS,
    states.GROUP_SNAPSHOT,
    "create",
    Step(take_all, drop_all, timeout_s=900),
)
DROP = Saga(
    "group_snapshot.delete",
    GROUP_SNAPSHOTS,
    states.GROUP_SNAPSHOT,
    "delete",
    Step(drop_all, timeout_s=900),
)

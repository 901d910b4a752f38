"""What is done to groups, by their own name and by that of consistency groups: volumes made, kept, deleted together."""

from __future__ import annotations

from typing import Any

from pileus.kernel.resources import Context
from pileus.kernel.sagas import Journal, Run, Saga, Step
from pileus.kernel.store import Page, Tx

from . import checks, states
from .agent_contract import VOLUME_HOST
from .group import GROUP_SNAPSHOTS, GROUPS, Group, GroupSnapshot
from .snapshot import SNAPSHOTS, Snapshot, backend_name, count_of
from .volume import VOLUMES, Volume, backend_of
from .volumes.creation import inherited
from .volumes.sagas import CREATE


async def remove_members(run: Run[Group]) -> None:
    """Its volumes go, if the group was to be deleted with them."""
    store = run.runtime.store
    for volume in await VOLUMES.all(store, group_id=run.record.id):
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


# What begins them


async def members(ctx: Context, group: Group) -> list[Volume]:
    return await VOLUMES.all(ctx.runtime.store, group_id=group.id)


def new_group(ctx: Context, group_type: str, volume_types: tuple[str, ...], **said: Any) -> Group:
    return Group(
        id=ctx.runtime.world.new_id(),
        project_id=ctx.caller.project_id,
        user_id=ctx.caller.user_id,
        group_type_id=group_type,
        volume_types=volume_types,
        **said,
    )


async def copied(ctx: Context, source: Group, kept: GroupSnapshot | None, **said: Any) -> Group:
    """A group of copies of another's volumes, or of what a snapshot of it kept."""
    store, entries = ctx.runtime.store, []
    made = new_group(
        ctx,
        source.group_type_id,
        source.volume_types,
        group_snapshot_id=kept.id if kept else None,
        source_group_id=None if kept else source.id,
        is_consistent=source.is_consistent,
        **said,
    )
    originals: list[tuple[Volume, Snapshot | None]] = []
    if kept is None:
        originals = [(v, None) for v in await members(ctx, source)]
    else:
        for part in await SNAPSHOTS.all(store, group_snapshot_id=kept.id):
            originals.append((await VOLUMES.get(store, part.volume_id), part))
    async with store.tx() as tx:
        made = await GROUPS.insert(tx, made)
        for original, snapshot in originals:
            entries.append(await _member(ctx, tx, made, original, snapshot))
    ctx.runtime.sagas.launch(*entries)
    return made


async def _member(
    ctx: Context, tx: Tx, group: Group, original: Volume, snapshot: Snapshot | None
) -> Journal:
    """Begins a volume of the new group."""
    copy = Volume(
        id=ctx.runtime.world.new_id(),
        project_id=ctx.caller.project_id,
        user_id=ctx.caller.user_id,
        size=snapshot.size if snapshot else original.size,
        volume_type_id=original.volume_type_id,
        name=original.name,
        group_id=group.id,
        is_consistent=group.is_consistent,
        is_multiattach=original.is_multiattach,
        **inherited(original),
        snapshot_id=snapshot.id if snapshot else None,
        source_volid=None if snapshot else original.id,
    )
    _, entry = await ctx.runtime.sagas.begin(
        tx, CREATE, copy, caller=ctx.caller, request_id=ctx.request_id
    )
    return entry


async def delete(ctx: Context, group: Group, *, with_volumes: bool) -> None:
    """Begins it. Raises Invalid for what is in it and shall stay, or is in use."""
    store, there = ctx.runtime.store, await members(ctx, group)
    if there and not with_volumes:
        raise checks.unfit(
            "group",
            f"Group {group.id} still contains volumes. The delete-volumes flag is required to "
            "delete it.",
        )
    if await GROUP_SNAPSHOTS.count(store, Page({"group_id": group.id})):
        raise checks.unfit("group", f"Group {group.id} has group snapshots; delete them first.")
    for volume in there:
        free = volume.shown in states.FAILED | {states.AVAILABLE}
        if not free or await count_of(store, volume.id):
            raise checks.unfit("group", f"Volume {volume.id} is {volume.shown} or has snapshots.")
    await checks.begin(ctx, DELETE, group)


async def taken(ctx: Context, group: Group, **said: Any) -> GroupSnapshot:
    """Begins a snapshot of each of its volumes. Raises Invalid."""
    there = await members(ctx, group)
    if not there:
        raise checks.unfit("group", f"Group {group.id} has no volumes to take snapshots of.")
    for volume in there:
        if volume.shown not in (states.AVAILABLE, states.IN_USE):
            raise checks.unfit("group", f"Volume {volume.id} is {volume.shown}.")
    made = GroupSnapshot(
        id=ctx.runtime.world.new_id(),
        project_id=ctx.caller.project_id,
        user_id=ctx.caller.user_id,
        group_id=group.id,
        group_type_id=group.group_type_id,
        is_consistent=group.is_consistent,
        **said,
    )
    async with ctx.runtime.store.tx() as tx:
        for volume in there:
            await SNAPSHOTS.insert(tx, _part(ctx, made, volume))
        made, entry = await ctx.runtime.sagas.begin(
            tx, TAKE, made, caller=ctx.caller, request_id=ctx.request_id
        )
    ctx.runtime.sagas.launch(entry)
    return made


def _part(ctx: Context, whole: GroupSnapshot, volume: Volume) -> Snapshot:
    return Snapshot(
        id=ctx.runtime.world.new_id(),
        project_id=whole.project_id,
        user_id=whole.user_id,
        volume_id=volume.id,
        volume_type_id=volume.volume_type_id,
        size=volume.size,
        name=whole.name,
        description=whole.description,
        group_snapshot_id=whole.id,
    )

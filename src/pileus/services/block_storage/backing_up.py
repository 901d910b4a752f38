"""The long work on backups: make, restore, delete."""

from __future__ import annotations

from pileus.kernel.faults import Conflict, Unavailable
from pileus.kernel.runtime import Runtime
from pileus.kernel.sagas import Changes, Failure, Run, Saga, Step
from pileus.kernel.store import Page

from . import messages, states, tickets
from .agent_contract import VOLUME_HOST
from .backup import BACKUPS, Backup
from .snapshot import SNAPSHOTS, backend_name
from .volume import VOLUMES, Volume, backend_of

BACKING_UP, RESTORING = "backing-up", "restoring-backup"
_COPY_S = 3600


async def occupy(runtime: Runtime, volume_id: str, task: str) -> None:
    """The volume is busy with that. Raises NotFound, Conflict while it is busy with something else."""
    async with runtime.store.tx() as tx:
        volume = await VOLUMES.get(tx, volume_id)
        if volume.task not in ("", task):
            raise Conflict(f"Volume {volume_id} is {volume.task}.")
        if volume.task != task:
            await VOLUMES.change(tx, volume, task=task)


async def release(runtime: Runtime, volume_id: str, task: str, **changes: str) -> None:
    """It is busy with that no longer, and changed so."""
    async with runtime.store.tx() as tx:
        volume = await VOLUMES.find(tx, volume_id)
        if volume is not None and volume.task == task:
            await VOLUMES.change(tx, volume, task="", **changes)


# Create


async def begin_backing_up(run: Run[Backup]) -> None:
    """Unless what it stands on goes: whoever deletes that looks for children when it is `deleting`."""
    await run.runtime.store.visible()
    if (parent_id := run.record.parent_id) is not None:
        parent = await BACKUPS.get(run.runtime.store, parent_id)
        if parent.status not in (states.AVAILABLE, "restoring"):
            raise Conflict(f"Backup {parent_id}, on which it stands, is {parent.status}.")
    await occupy(run.runtime, run.record.volume_id, BACKING_UP)


async def stop_backing_up(run: Run[Backup]) -> None:
    await release(run.runtime, run.record.volume_id, BACKING_UP)
    await messages.tell(run, "VOLUME_BACKUP", "backup")


async def copy(run: Run[Backup]) -> Changes:
    """The host of the volume sends its bytes, or its snapshot's."""
    backup, store = run.record, run.runtime.store
    volume: Volume = await VOLUMES.get(store, backup.volume_id)
    snapshot = await SNAPSHOTS.get(store, backup.snapshot_id) if backup.snapshot_id else None
    url = await tickets.issue(run.runtime, backup.file, tickets.WRITE)
    host = await run.agent(VOLUME_HOST, on=volume.host)
    name = backend_name(snapshot) if snapshot else ""
    return {"stored": await host.send(backend_of(volume), name, "raw", url)}


async def drop(run: Run[Backup]) -> None:
    await tickets.drop(run.runtime, run.record.file)


async def finish_backing_up(run: Run[Backup]) -> None:
    await release(run.runtime, run.record.volume_id, BACKING_UP)


def _why(record: Backup, failure: Failure) -> Changes:
    return {"fail_reason": failure.message[:255], "into": ""}


CREATE = Saga(
    "backup.create",
    BACKUPS,
    states.BACKUP,
    "create",
    Step(begin_backing_up, stop_backing_up),
    Step(copy, drop, timeout_s=_COPY_S),
    Step(finish_backing_up),
    failed=_why,
)

# Restore


async def begin_restoring(run: Run[Backup]) -> None:
    """Once the volume is there: one that is made for this is on its way still. Raises Unavailable, Conflict."""
    await run.runtime.store.visible()
    volume = await VOLUMES.get(run.runtime.store, run.becoming.into)
    if volume.task == states.CREATING:
        raise Unavailable(f"Volume {volume.id} is being made.")
    if volume.status != states.AVAILABLE:
        raise Conflict(f"Volume {volume.id} is {volume.shown}; it must be available.")
    await occupy(run.runtime, volume.id, RESTORING)


async def stop_restoring(run: Run[Backup]) -> None:
    await release(run.runtime, run.becoming.into, RESTORING)
    await messages.tell(run, "VOLUME_BACKUP", "restore")


async def fill(run: Run[Backup]) -> None:
    """The host of the volume fetches the backup's bytes."""
    backup, runtime = run.record, run.runtime
    volume: Volume = await VOLUMES.get(runtime.store, run.becoming.into)
    url = await tickets.issue(runtime, backup.file, tickets.READ)
    host = await run.agent(VOLUME_HOST, on=volume.host)
    await host.receive(backend_of(volume), url, backup.stored)


async def leave_half(run: Run[Backup]) -> None:
    """What is in it now is neither the old nor the new."""
    await release(run.runtime, run.becoming.into, RESTORING, status=states.ERROR_RESTORING)


async def finish_restoring(run: Run[Backup]) -> Changes:
    """What is in it now opens with the backup's key."""
    key = {"encryption_key_id": run.record.encryption_key_id, "sealed": run.record.sealed}
    await release(run.runtime, run.becoming.into, RESTORING, **key)
    return {"into": ""}


RESTORE = Saga(
    "backup.restore",
    BACKUPS,
    states.BACKUP,
    "restore",
    Step(begin_restoring, stop_restoring, patience_s=600),
    Step(fill, leave_half, timeout_s=_COPY_S),
    Step(finish_restoring),
    failed=_why,
)

# Delete


async def has_children(runtime: Runtime, backup: Backup) -> bool:
    return await BACKUPS.count(runtime.store, Page({"parent_id": backup.id})) > 0


async def remove(run: Run[Backup]) -> None:
    """The file goes with the last backup that shares it. Raises Conflict if one was begun on it meanwhile."""
    await run.runtime.store.visible()
    if await has_children(run.runtime, run.record):
        raise Conflict(f"Incremental backups exist for backup {run.record.id}.")
    if await BACKUPS.count(run.runtime.store, Page({"file": run.record.file})) < 2:
        await tickets.drop(run.runtime, run.record.file)


DELETE = Saga("backup.delete", BACKUPS, states.BACKUP, "delete", Step(remove))

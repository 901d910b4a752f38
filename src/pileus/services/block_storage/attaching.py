"""Attach and detach: who may have a volume, and what its status says of that.

The API of attachments, the older actions and the contract all end here. What a volume is for others is changed in the
transaction that changes its attachments.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from msgspec.structs import replace

from pileus.kernel.agents import Fence
from pileus.kernel.events import emit
from pileus.kernel.faults import Invalid, NotFound, Stale, Unavailable
from pileus.kernel.hosts import hosts_of
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Page, Tx
from pileus.services.identity.contract import SECRETS

from . import attachment, qos, states
from .agent_contract import VOLUME_HOST, VolumeHost
from .attachment import ATTACHED, ATTACHING, ATTACHMENTS, DETACHING, RESERVED, Attachment
from .driver import Export
from .volume import VOLUMES, Volume, backend_of

# The status of a volume by what its attachments are; the first that any of them is.
_STATUSES = {
    DETACHING: states.DETACHING,
    ATTACHED: states.IN_USE,
    ATTACHING: states.ATTACHING,
    RESERVED: states.RESERVED,
}


def status_of(attachments: Sequence[Attachment]) -> str:
    """What a volume is that has these attachments."""
    there = {a.status for a in attachments}
    return next((s for of, s in _STATUSES.items() if of in there), states.AVAILABLE)


async def reserve(tx: Tx, volume_id: str, wanted: Attachment) -> Attachment:
    """Adds the attachment, if there is none with its id. Raises NotFound, Invalid."""
    volume = await VOLUMES.get(tx, volume_id)
    known = await ATTACHMENTS.find(tx, wanted.id)
    if known is not None:
        return known
    others = await attachment.of_volume(tx, volume_id)
    check_free(volume, others, wanted.server_id)
    made = await ATTACHMENTS.insert(tx, wanted)
    await _say(tx, volume, [*others, made])
    return made


def check_free(volume: Volume, others: Sequence[Attachment], server_id: str) -> None:
    """Raises Invalid unless the volume may have one more attachment."""
    if "error" in volume.shown:
        raise Invalid(
            "Invalid volume: Volume attachments can not be created if the volume is in an error "
            f"state. The Volume {volume.id} currently has a status of: {volume.shown}"
        )
    free = {states.AVAILABLE} | ({states.IN_USE} if volume.is_multiattach else set())
    moves = bool(server_id) and any(a.server_id == server_id for a in others)
    if volume.task or not (
        volume.status in free
        or (volume.is_multiattach and volume.status in states.ATTACHED_STATES)
        or (moves and volume.status in (states.IN_USE, states.RESERVED))
    ):
        raise Invalid(
            f"Invalid volume: Volume {volume.id} status must be {' or '.join(sorted(free))} to "
            f"reserve, but the current status is {volume.shown}."
        )


async def _say(tx: Tx, volume: Volume, attachments: Sequence[Attachment]) -> Volume:
    """The volume's status follows its attachments, unless an administrator set another."""
    status = status_of(attachments)
    if volume.status in (states.ATTACHED_STATES | {states.AVAILABLE}) and volume.status != status:
        volume = await VOLUMES.change(tx, volume, status=status)
    return volume


async def change(tx: Tx, one: Attachment, **changes: Any) -> Attachment:
    """Changes an attachment, and the status of its volume with it."""
    one = await ATTACHMENTS.change(tx, one, **changes)
    volume = await VOLUMES.get(tx, one.volume_id)
    await _say(tx, volume, await attachment.of_volume(tx, volume.id))
    return one


async def connect(
    runtime: Runtime, one: Attachment, connector: dict[str, Any], status: str = ATTACHING
) -> Attachment:
    """The host of the volume serves it: whoever lets it go knows before that it may. Raises Unavailable, Invalid."""
    if not one.connector:
        async with runtime.store.tx() as tx:
            fresh = await ATTACHMENTS.get(tx, one.id)
            one = await ATTACHMENTS.change(tx, fresh, connector=connector)
    volume = await VOLUMES.get(runtime.store, one.volume_id)
    read_only = one.mode == "ro" or bool(volume.is_read_only)
    export = await exported(runtime, volume, one.id, read_only, connector)
    kept = await _kept(runtime, export)
    async with _only_while_there(runtime, one), runtime.store.tx() as tx:
        fresh = await ATTACHMENTS.get(tx, one.id)
        changes: dict[str, Any] = {
            **kept,
            "connector": connector,
            "host_name": connector.get("host") or fresh.host_name,
            "device": connector.get("mountpoint") or fresh.device,
        }
        if fresh.mode == "null":
            changes["mode"] = "ro" if read_only else "rw"
        if fresh.status in (RESERVED, ATTACHING):
            changes["status"] = status
            changes["attached_at"] = tx.now if status == ATTACHED else ""
        return await change(tx, fresh, **changes)


async def exported(
    runtime: Runtime,
    volume: Volume,
    attachment_id: str,
    is_read_only: bool,
    connector: Mapping[str, Any],
) -> Export:
    """Serves it for one attachment, as the other side says that it can take it; asked again, as large as it is by now.

    Who names an iSCSI `initiator` and does not say `nbd` gets a target.
    """
    limits = await qos.limits_of(runtime.store, volume.volume_type_id)
    host, asked = await at(runtime, volume), (backend_of(volume), attachment_id, is_read_only)
    if connector.get("initiator") and not connector.get("nbd"):
        return await host.export_target(*asked, limits)
    return await host.export(*asked, limits, str(connector.get("host", "")) != volume.host)


async def _kept(runtime: Runtime, export: Export) -> dict[str, Any]:
    """As a row has it: without keys, and sealed as a whole if it has any."""
    image = replace(export.rbd, key="") if export.rbd else None
    bare, sealed = replace(export, secret="", rbd=image), ""
    if bare != export:
        sealed = await runtime.contracts.get(SECRETS).seal(msgspec.json.encode(export))
    return {"export": bare, "sealed": sealed}


async def opened(runtime: Runtime, one: Attachment) -> Export | None:
    """Its export with its keys. Raises Conflict if what sealed them is lost."""
    if not one.sealed:
        return one.export
    return msgspec.json.decode(await revealed(runtime, one.sealed), type=Export)


async def revealed(runtime: Runtime, sealed: str) -> str:
    """What is sealed, "" of nothing. Raises Conflict if the key is lost."""
    return (await runtime.contracts.get(SECRETS).open(sealed)).decode() if sealed else ""


async def serve_again(runtime: Runtime, volume: Volume) -> None:
    """Who has it finds out how large it is now."""
    for one in await attachment.of_volume(runtime.store, volume.id):
        if one.export is not None:
            read_only = one.export.is_read_only
            export = await exported(runtime, volume, one.id, read_only, one.connector)
            kept = await _kept(runtime, export)
            async with _only_while_there(runtime, one), runtime.store.tx() as tx:
                await ATTACHMENTS.change(tx, one, **kept)


@asynccontextmanager
async def _only_while_there(runtime: Runtime, one: Attachment) -> AsyncIterator[None]:
    """Whoever detached it while it was served could not withdraw that."""
    try:
        yield
    except (NotFound, Stale):
        await runtime.store.sync()
        if await ATTACHMENTS.find(runtime.store, one.id) is None:
            await _withdraw(runtime, one)
        raise


async def at(runtime: Runtime, volume: Volume) -> VolumeHost:
    """The agent where it lies. Raises Unavailable."""
    if not volume.host:
        raise Unavailable(f"Volume {volume.id} lies nowhere yet.")
    await runtime.store.sync()
    return runtime.agents.proxy(VOLUME_HOST, volume.host, Fence())


async def complete(runtime: Runtime, attachment_id: str, **changes: Any) -> Attachment:
    """It is attached now. Raises NotFound."""
    async with runtime.store.tx() as tx:
        one = await ATTACHMENTS.get(tx, attachment_id)
        at = one.attached_at or tx.now
        one = await change(tx, one, status=ATTACHED, attached_at=at, **changes)
        await emit(tx, "volume.attach.end", one.project_id, id=one.volume_id, attachment_id=one.id)
    return one


async def disconnect(runtime: Runtime, attachment_id: str) -> None:
    """It is served no longer, and reserved: the host that had it is out, what it knows is worth nothing."""
    one = await ATTACHMENTS.get(runtime.store, attachment_id)
    await _withdraw(runtime, one)
    async with runtime.store.tx() as tx:
        fresh = await ATTACHMENTS.get(tx, attachment_id)
        gone: dict[str, Any] = {"export": None, "sealed": "", "connector": {}}
        await change(tx, fresh, status=RESERVED, host_name=None, attached_at="", **gone)


async def _withdraw(runtime: Runtime, one: Attachment) -> None:
    volume = await VOLUMES.find(runtime.store, one.volume_id)
    if volume is not None and volume.host and (one.export is not None or one.connector):
        await (await at(runtime, volume)).withdraw(backend_of(volume), one.id)


async def detach(runtime: Runtime, attachment_id: str) -> list[Attachment]:
    """It is served no longer, and gone; those that the volume has left. An unknown one is detached. Raises Stale."""
    one = await ATTACHMENTS.find(runtime.store, attachment_id)
    if one is None:
        return []
    await _withdraw(runtime, one)
    async with runtime.store.tx() as tx:
        if await ATTACHMENTS.find(tx, attachment_id) is not None:
            await ATTACHMENTS.delete(tx, one)  # Stale where it was served anew meanwhile
            await emit(tx, "volume.detach.end", one.project_id, id=one.volume_id)
        left = await attachment.of_volume(tx, one.volume_id)
        volume = await VOLUMES.find(tx, one.volume_id)
        if volume is not None:
            await _say(tx, volume, left)
    return left


async def take_back(runtime: Runtime, key: str) -> None:
    """The standing fact: nothing is served for an attachment that is gone. Who serves what is detached meanwhile takes
    it back, unless he dies.
    """
    store, now = runtime.store, runtime.world.clock.time()
    for host in [h for h in await hosts_of(store, VOLUME_HOST) if h.is_up(now)]:
        agent = runtime.agents.proxy(VOLUME_HOST, host.id)
        found = await agent.volumes()
        await store.visible()  # a row is there before what is served for it
        page = Page({"id": {one for volume in found for one in volume.exports}}, limit=1_000_000)
        rows = await ATTACHMENTS.page(store, page, select=("id",))
        rows = [*rows, *await VOLUMES.page(store, page, select=("id",))]  # connected without any
        known = {id for (id,) in rows}
        for volume in found:
            for one in set(volume.exports) - known:
                await agent.withdraw(volume.id, one)

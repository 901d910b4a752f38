"""Block storage for the other services: keeps the contract VOLUMES."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from pileus.kernel.auth import Caller
from pileus.kernel.events import emit
from pileus.kernel.faults import Conflict, Fault, Invalid, NotFound, OverQuota, Stale
from pileus.kernel.quota import Quota, limit_of, usage
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Page, Record
from pileus.services.image.contract import IMAGES

from . import attaching, attachment, checks, pools, states
from .attachment import ATTACHED, ATTACHMENTS, DETACHING, Attachment
from .contract import AttachmentInfo, NewVolume, SnapshotInfo, VolumeInfo
from .driver import Export
from .messages import MESSAGES
from .snapshot import SNAPSHOTS, Snapshot, backend_name, count_of
from .snapshots import DELETE as DELETE_SNAPSHOT
from .snapshots import check_source
from .volume import VOLUMES, Volume, backend_of
from .volume_type import VOLUME_TYPES, VolumeType, default_type
from .volumes.creation import check_image_fits, image_metadata, inherited, secured
from .volumes.sagas import CREATE, DELETE, REIMAGE, check_image


class Volumes:
    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    async def _seen(self, caller: Caller, rule: str, found: Record | None, what: str) -> None:
        """Raises NotFound for what the caller may not see."""
        target = {"project_id": getattr(found, "project_id", "")}
        if found is None or not self.runtime.rules("block-storage").allows(rule, caller, target):
            raise NotFound(f"{what} could not be found.")

    async def _volume(self, caller: Caller, volume_id: str) -> Volume:
        found = await VOLUMES.find(self.runtime.store, volume_id)
        await self._seen(caller, "volume:get", found, f"Volume {volume_id}")
        assert found is not None
        return found

    async def _snapshot(self, caller: Caller, snapshot_id: str) -> Snapshot:
        found = await SNAPSHOTS.find(self.runtime.store, snapshot_id)
        await self._seen(caller, "volume:get_snapshot", found, f"Snapshot {snapshot_id}")
        assert found is not None
        return found

    async def volume(self, caller: Caller, volume_id: str) -> VolumeInfo:
        v = await self._volume(caller, volume_id)
        return VolumeInfo(
            id=v.id,
            name=v.name or "",
            status=v.shown,
            size=v.size,
            project_id=v.project_id,
            zone=v.zone,
            host=v.host,
            is_bootable=v.is_bootable,
            is_multiattach=v.is_multiattach,
            is_encrypted=bool(v.encryption_key_id),
            image_metadata=v.image_metadata or {},
            migration_status=v.migration_status or "",
            attachments=[_info(a) for a in await attachment.of_volume(self.runtime.store, v.id)],
        )

    async def snapshot(self, caller: Caller, snapshot_id: str) -> SnapshotInfo:
        s = await self._snapshot(caller, snapshot_id)
        return SnapshotInfo(
            id=s.id,
            name=s.name or "",
            status=s.status,
            size=s.size,
            volume_id=s.volume_id,
            project_id=s.project_id,
        )

    async def check(self, caller: Caller, wanted: Sequence[NewVolume]) -> None:
        costs: Counter[tuple[Quota[Volume], str]] = Counter()
        for one in wanted:
            volume = await self._asked(caller, one)
            for quota in VOLUMES.quotas:
                costs[quota, quota.project(volume)] += quota.of(volume)
        store = self.runtime.store
        for (quota, project), cost in costs.items():
            limit = await limit_of(store, quota.service, quota.name, project, quota.default)
            used = (await usage(store, quota.service, project)).get(quota.name, 0)
            if cost and 0 <= limit < used + cost:
                raise OverQuota(quota.name, cost, used, limit)

    async def create(self, caller: Caller, wanted: NewVolume) -> None:
        runtime = self.runtime
        if await VOLUMES.find(runtime.store, wanted.id) is not None:
            return
        volume = await self._asked(caller, wanted)
        async with runtime.store.tx() as tx:
            if await VOLUMES.find(tx, wanted.id) is not None:
                return
            _, entry = await runtime.sagas.begin(tx, CREATE, volume, caller=caller)
        runtime.sagas.launch(entry)

    async def _asked(self, caller: Caller, wanted: NewVolume) -> Volume:
        """The record. Raises NotFound, Invalid."""
        volume, kind = await self._copied(caller, wanted)
        if volume.size < 1:
            raise Invalid(f"Volume {wanted.id} needs a size of at least 1 GiB.")
        volume = _with(volume, volume_type_id=kind.id, is_multiattach=kind.wants("multiattach"))
        return await secured(self.runtime, volume, kind)

    async def _copied(self, caller: Caller, wanted: NewVolume) -> tuple[Volume, VolumeType]:
        """The record, and the type that it is to have. Raises NotFound, Invalid."""
        volume = Volume(
            id=wanted.id,
            project_id=caller.project_id,
            user_id=caller.user_id,
            size=wanted.size,
            name=wanted.name,
            zone=wanted.zone or pools.ZONE,
        )
        kind = await self._type(caller, wanted.volume_type)
        if wanted.image_id:
            image = await self.runtime.contracts.get(IMAGES).image(caller, wanted.image_id)
            check_image(image)
            check_image_fits(image, wanted.size)
            metadata = image_metadata(image)
            return _with(volume, image_id=image.id, image_metadata=metadata, is_bootable=True), kind
        if not wanted.snapshot_id and not wanted.volume_id:
            return volume, kind
        source = wanted.volume_id
        if wanted.snapshot_id:
            snapshot = await self._snapshot(caller, wanted.snapshot_id)
            volume = _with(volume, snapshot_id=snapshot.id, size=wanted.size or snapshot.size)
            source = snapshot.volume_id
        origin = await self._volume(caller, source)
        if wanted.volume_id:
            volume = _with(volume, source_volid=origin.id, size=wanted.size or origin.size)
        if not wanted.volume_type:
            kind = await VOLUME_TYPES.get(self.runtime.store, origin.volume_type_id)
        return _with(volume, **inherited(origin)), kind

    async def _type(self, caller: Caller, asked: str) -> VolumeType:
        store = self.runtime.store
        if not asked:
            return await default_type(store, caller.project_id)
        found = await VOLUME_TYPES.find(store, asked) or await VOLUME_TYPES.one(store, name=asked)
        if found is None or not found.serves(caller.project_id, caller.is_admin):
            raise NotFound(f"Volume type {asked} could not be found.")
        return found

    async def state(self, volume_id: str) -> tuple[str, str]:
        await self.runtime.store.visible()
        volume = await VOLUMES.find(self.runtime.store, volume_id)
        if volume is None:
            return "", ""
        if volume.shown not in states.FAILED:
            return volume.shown, ""
        last = await MESSAGES.list(self.runtime.store, Page({"resource_uuid": volume_id}, limit=1))
        return volume.shown, last[0].user_message if last else ""

    async def remove(self, volume_id: str) -> None:
        runtime = self.runtime
        try:
            async with runtime.store.tx() as tx:
                volume = await VOLUMES.find(tx, volume_id)
                if volume is None or volume.task == states.DELETING:
                    return
                if await attachment.of_volume(tx, volume_id) or await count_of(tx, volume_id):
                    raise checks.unfit("volume", f"{volume_id} is attached or has snapshots.")
                _, entry = await runtime.sagas.begin(tx, DELETE, volume)
        except Stale:
            raise
        except Conflict as e:
            raise Invalid(e.message) from None
        runtime.sagas.launch(entry)

    async def reserve(
        self, caller: Caller, volume_id: str, attachment_id: str, server_id: str, mode: str
    ) -> None:
        volume = await self._volume(caller, volume_id)
        wanted = Attachment(
            id=attachment_id,
            volume_id=volume_id,
            project_id=volume.project_id,
            server_id=server_id,
            mode="ro" if volume.is_read_only else mode,
            is_used=True,
        )
        async with self.runtime.store.tx() as tx:
            await attaching.reserve(tx, volume_id, wanted)

    async def connect(self, attachment_id: str, host: str) -> Export:
        await self.runtime.store.visible()
        one = await ATTACHMENTS.get(self.runtime.store, attachment_id)
        one = await attaching.connect(self.runtime, one, {"host": host})
        found = await attaching.opened(self.runtime, one)
        assert found is not None
        return found

    async def passphrase(self, attachment_id: str) -> str:
        store = self.runtime.store
        one = await ATTACHMENTS.get(store, attachment_id)
        volume = await VOLUMES.get(store, one.volume_id)
        return await attaching.revealed(self.runtime, volume.sealed)

    async def complete(self, attachment_id: str, device: str) -> None:
        await attaching.complete(self.runtime, attachment_id, device=device)

    async def detaching(self, attachment_id: str, is_so: bool) -> None:
        before, after = (ATTACHED, DETACHING) if is_so else (DETACHING, ATTACHED)
        async with self.runtime.store.tx() as tx:
            one = await ATTACHMENTS.find(tx, attachment_id)
            if one is not None and one.status == before:
                await attaching.change(tx, one, status=after)

    async def disconnect(self, attachment_id: str) -> None:
        await self.runtime.store.visible()
        await attaching.disconnect(self.runtime, attachment_id)

    async def detach(self, attachment_id: str) -> None:
        await self.runtime.store.visible()
        await attaching.detach(self.runtime, attachment_id)

    async def attachments(self, server_id: str) -> list[AttachmentInfo]:
        await self.runtime.store.visible()
        return [_info(a) for a in await ATTACHMENTS.all(self.runtime.store, server_id=server_id)]

    async def take_snapshot(
        self, caller: Caller, volume_id: str, snapshot_id: str, name: str
    ) -> None:
        """In one call, so that a saga of another service may repeat it."""
        volume, store = await self._volume(caller, volume_id), self.runtime.store
        async with store.tx() as tx:
            if (found := await SNAPSHOTS.find(tx, snapshot_id)) is None:
                check_source(volume, force=True)
                found = await SNAPSHOTS.insert(
                    tx,
                    Snapshot(
                        id=snapshot_id,
                        project_id=volume.project_id,
                        user_id=caller.user_id,
                        volume_id=volume.id,
                        volume_type_id=volume.volume_type_id,
                        size=volume.size,
                        name=name,
                    ),
                )
        if found.status == states.AVAILABLE:
            return
        try:
            host = await attaching.at(self.runtime, volume)
            await host.snapshot(backend_of(volume), backend_name(found))
        except Fault:
            async with store.tx() as tx:
                await SNAPSHOTS.delete(tx, await SNAPSHOTS.get(tx, snapshot_id))
            raise
        async with store.tx() as tx:
            fresh = await SNAPSHOTS.get(tx, snapshot_id)
            await SNAPSHOTS.change(tx, fresh, status=states.AVAILABLE)
            await emit(tx, "snapshot.create.end", volume.project_id, id=snapshot_id)

    async def reimage(self, caller: Caller, volume_id: str, image_id: str) -> None:
        runtime, volume = self.runtime, await self._volume(caller, volume_id)
        image = await runtime.contracts.get(IMAGES).image(caller, image_id)
        check_image(image)
        check_image_fits(image, volume.size)
        wanted = _with(volume, image_id=image.id, image_metadata=image_metadata(image))
        async with runtime.store.tx() as tx:
            fresh = await VOLUMES.get(tx, volume_id)
            if fresh.task == REIMAGE.lifecycle[REIMAGE.verb].via:
                return  # it is on its way
            if await count_of(tx, volume_id):
                raise checks.unfit("volume", f"{volume_id} has snapshots; delete them first.")
            _, entry = await runtime.sagas.begin(tx, REIMAGE, fresh, becoming=wanted, caller=caller)
        runtime.sagas.launch(entry)

    async def drop_snapshot(self, snapshot_id: str) -> None:
        runtime = self.runtime
        async with runtime.store.tx() as tx:
            found = await SNAPSHOTS.find(tx, snapshot_id)
            if found is None or found.status == states.DELETING:
                return
            if found.status == states.CREATING:  # whoever took it is gone
                found = await SNAPSHOTS.change(tx, found, status=states.ERROR)
            _, entry = await runtime.sagas.begin(tx, DELETE_SNAPSHOT, found)
        runtime.sagas.launch(entry)


def _with(volume: Volume, **changes: object) -> Volume:
    return msgspec.structs.replace(volume, **changes)


def _info(a: Attachment) -> AttachmentInfo:
    return AttachmentInfo(
        id=a.id,
        volume_id=a.volume_id,
        server_id=a.server_id,
        status=a.status,
        mode=a.mode,
        device=a.device or "",
    )

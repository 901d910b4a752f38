"""Backups: copies of volumes that outlive them.

https://docs.openstack.org/api-ref/block-storage/v3/#backups-backups
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Invalid, NotFound
from pileus.kernel.query import Filter, Listing
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import Body, since
from pileus.kernel.store import Page

from . import checks, states
from .backing_up import CREATE, DELETE, RESTORE, has_children
from .backup import BACKUPS, Backup
from .checks import Flag, Text
from .snapshot import SNAPSHOTS, Snapshot
from .volume import VOLUMES, Volume
from .volume_type import default_type
from .volumes import sagas as volume_sagas

PATH = "/backups/{backup_id}"
_ACTION, _ADMIN = PATH + "/action", "volume_extension:backup_admin_actions:"
_SERVICE = "cinder.backup.drivers.posix.PosixBackupDriver"  # what keeps files does the same


class CreateBackup(Body):
    root: ClassVar[str] = "backup"
    volume_id: str
    container: Text = UNSET
    name: Text = UNSET
    description: Text = UNSET
    incremental: Flag | None = None
    force: Flag | None = None
    snapshot_id: str | UnsetType | None = UNSET
    metadata: Annotated[dict[str, Any] | UnsetType | None, since("3.43")] = UNSET
    availability_zone: Annotated[Text, since("3.51")] = UNSET


class UpdateBackup(Body):
    root: ClassVar[str] = "backup"
    name: Text = UNSET
    description: Text = UNSET
    metadata: Annotated[dict[str, Any] | UnsetType | None, since("3.43")] = UNSET


class RestoreBackup(Body):
    root: ClassVar[str] = "restore"
    volume_id: str | None = None
    name: Text = UNSET


class ImportBackup(Body):
    root: ClassVar[str] = "backup-record"
    backup_service: str
    backup_url: str


class ResetStatus(Body):
    root: ClassVar[str] = "os-reset_status"
    status: Literal["available", "error"]


def _brief(ctx: Context, b: Backup) -> dict[str, Any]:
    return {"id": b.id, "name": b.name, "links": checks.links(ctx, "backups", b)}


async def _views(ctx: Context, found: Sequence[Backup]) -> list[dict[str, Any]]:
    ids = [b.id for b in found]
    page = Page({"parent_id": ids}, limit=100_000)
    children = await BACKUPS.list(ctx.runtime.store, page) if ids else []
    parents = {b.parent_id for b in children}
    return [_view(ctx, b, has_children=b.id in parents) for b in found]


def _view(ctx: Context, b: Backup, *, has_children: bool) -> dict[str, Any]:
    shown = _brief(ctx, b) | {
        "status": b.status,
        "size": b.size,
        "object_count": 1 if b.stored else 0,
        "availability_zone": b.zone,
        "container": b.container,
        "created_at": checks.moment(b.created_at),
        "updated_at": checks.moment(b.updated_at),
        "description": b.description,
        "fail_reason": b.fail_reason,
        "volume_id": b.volume_id,
        "is_incremental": b.parent_id is not None,
        "has_dependent_backups": has_children,
        "snapshot_id": b.snapshot_id,
        "data_timestamp": checks.moment(b.data_timestamp or b.created_at),
    }
    if ctx.version >= (3, 18) and ctx.allows("backup:backup_project_attribute"):
        shown["os-backup-project-attr:project_id"] = b.project_id
    if ctx.version >= (3, 43):
        shown["metadata"] = b.metadata
    if ctx.version >= (3, 56):
        shown["user_id"] = b.user_id
    if ctx.version >= (3, 64):
        shown["encryption_key_id"] = b.encryption_key_id or None
    return shown


class Backups(Resource[Backup]):
    table = BACKUPS
    id_param = "backup_id"
    see = "backup:get"
    sagas = (CREATE, RESTORE, DELETE)
    listing = Listing(
        filters={"name": Filter(), "status": Filter(), "volume_id": Filter()},
        sorts={name: name for name in ("id", "status", "size", "volume_id", "created_at", "name")},
        colon_sort=True,
    )

    @operation("POST", "/backups", "backup:create", status=202)
    async def create(self, ctx: Context, body: CreateBackup) -> dict[str, Any]:
        volume = await VOLUMES.find(ctx.runtime.store, checks.uuid_of(body.volume_id, "volume_id"))
        target = {"project_id": volume.project_id if volume else ""}
        if volume is None or not ctx.allows("volume:get", target):
            raise NotFound(f"Volume {body.volume_id} could not be found.")
        ctx.require("backup:create", target)
        snapshot = await self._snapshot(ctx, volume, body.snapshot_id)
        if snapshot is None:
            _check_volume(volume, force=bool(body.force and checks.flag(body.force, "force")))
        parent = await self._parent(ctx, volume, body)
        id = ctx.runtime.world.new_id()
        made = Backup(
            id=id,
            project_id=ctx.caller.project_id,
            user_id=ctx.caller.user_id,
            volume_id=volume.id,
            size=volume.size,
            file=id,
            container=checks.name_of(body.container) or "volumebackups",
            snapshot_id=snapshot.id if snapshot else None,
            parent_id=parent.id if parent else None,
            is_whole=parent is None,
            metadata=checks.metadata(body.metadata or {}),
            data_timestamp=snapshot.created_at if snapshot else "",
            encryption_key_id=volume.encryption_key_id,
            sealed=volume.sealed,
            **checks.changed(body, "name", "description"),
        )
        return {"backup": _brief(ctx, await checks.begin(ctx, CREATE, made))}

    async def _snapshot(
        self, ctx: Context, volume: Volume, asked: str | UnsetType | None
    ) -> Snapshot | None:
        if not asked:
            return None
        found = await SNAPSHOTS.find(ctx.runtime.store, checks.uuid_of(asked, "snapshot_id"))
        if found is None or not ctx.allows("volume:get_snapshot", {"project_id": found.project_id}):
            raise NotFound(f"Snapshot {asked} could not be found.")
        if found.volume_id != volume.id:
            raise checks.unfit("volume", f"Volume {volume.id} has no snapshot {found.id}.")
        if found.status != states.AVAILABLE:
            raise checks.unfit(
                "snapshot",
                f'Snapshot to be backed up must be available, but the current status is "{found.status}".',
            )
        return found

    async def _parent(self, ctx: Context, volume: Volume, body: CreateBackup) -> Backup | None:
        """The caller's newest backup, which an incremental one stands on. Raises Invalid where there is none."""
        if not body.incremental or not checks.flag(body.incremental, "incremental"):
            return None
        page = Page(
            {
                "volume_id": volume.id,
                "status": states.AVAILABLE,
                "project_id": ctx.caller.project_id,
            },
            limit=1,
        )
        found = await BACKUPS.list(ctx.runtime.store, page)
        if not found:
            raise checks.unfit("backup", "No backups available to do an incremental backup.")
        return found[0]

    @operation("GET", "/backups", "backup:get_all")
    async def index(self, ctx: Context) -> dict[str, Any]:
        return await self._listed(ctx, checks.each(partial(_brief, ctx)))

    @operation("GET", "/backups/detail", "backup:get_all")
    async def detail(self, ctx: Context) -> dict[str, Any]:
        return await self._listed(ctx, partial(_views, ctx))

    async def _listed(self, ctx: Context, view: Any) -> dict[str, Any]:
        page = checks.page_of(ctx, self.listing)
        return await checks.listed(ctx, BACKUPS, page, "backups", view)

    @operation("GET", PATH, "backup:get")
    async def show(self, ctx: Context, backup: Backup) -> dict[str, Any]:
        return {"backup": (await _views(ctx, [backup]))[0]}

    @operation("PUT", PATH, "backup:update", since="3.9")
    async def update(self, ctx: Context, backup: Backup, body: UpdateBackup) -> dict[str, Any]:
        changes = checks.changed(body, "name", "description")
        if body.metadata is not UNSET:
            changes["metadata"] = checks.metadata(body.metadata)
        if not changes:
            raise Invalid("At least one of name, description and metadata is needed.")
        async with ctx.runtime.store.tx() as tx:
            backup = await BACKUPS.change(tx, backup, **changes)
        return {"backup": _brief(ctx, backup)}

    @operation("DELETE", PATH, "backup:delete", status=202)
    async def delete(self, ctx: Context, backup: Backup) -> None:
        await _check_childless(ctx, backup)
        await checks.begin(ctx, DELETE, backup)

    @operation("POST", PATH + "/restore", "backup:restore", status=202)
    async def restore(self, ctx: Context, backup: Backup, body: RestoreBackup) -> dict[str, Any]:
        if backup.status != states.AVAILABLE:
            raise checks.unfit("backup", f"Backup status must be available, not {backup.status}.")
        volume = await self._into(ctx, backup, body)
        wanted = msgspec.structs.replace(backup, into=volume.id)
        if volume.generation == 0:
            volume = await checks.begin(ctx, volume_sagas.CREATE, volume)
        await checks.begin(ctx, RESTORE, backup, becoming=wanted)
        restored = {"backup_id": backup.id, "volume_id": volume.id, "volume_name": volume.name}
        return {"restore": restored}

    async def _into(self, ctx: Context, backup: Backup, body: RestoreBackup) -> Volume:
        """The volume that is named, or a new one. Raises NotFound, Invalid."""
        if not body.volume_id:
            return await new_volume(ctx, backup, checks.name_of(body.name))
        volume = await VOLUMES.find(ctx.runtime.store, body.volume_id)
        if volume is None or not ctx.allows("volume:update", {"project_id": volume.project_id}):
            raise NotFound(f"Volume {body.volume_id} could not be found.")
        if volume.shown != states.AVAILABLE:
            raise checks.unfit("volume", "Volume to be restored to must be available.")
        if volume.size < backup.size:
            raise checks.unfit(
                "volume",
                f"volume size {volume.size} is too small to restore backup of size {backup.size}.",
            )
        if bool(volume.sealed) != bool(backup.sealed):
            raise checks.unfit(
                "volume", "An encrypted volume's backup is restored to an encrypted volume only."
            )
        return volume

    # Records of backups, from one cloud to another

    @operation("GET", PATH + "/export_record", "backup:export-import")
    async def export_record(self, ctx: Context, backup: Backup) -> dict[str, Any]:
        if backup.status != states.AVAILABLE:
            raise checks.unfit("backup", f"Backup status must be available, not {backup.status}.")
        kept = msgspec.json.encode(backup)
        url = base64.encodebytes(kept).decode()
        return {"backup-record": {"backup_service": _SERVICE, "backup_url": url}}

    @operation("POST", "/backups/import_record", "backup:backup-import", status=201)
    async def import_record(self, ctx: Context, body: ImportBackup) -> dict[str, Any]:
        try:
            given = msgspec.json.decode(base64.b64decode(body.backup_url), type=Backup)
        except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError):
            raise checks.unfit("backup", "Can't parse backup record.") from None
        made = msgspec.structs.replace(
            given,
            id=checks.uuid_of(given.id, "id"),
            file=checks.uuid_of(given.file, "file"),
            project_id=ctx.caller.project_id,
            user_id=ctx.caller.user_id,
            parent_id=None if given.is_whole else given.parent_id,
            into="",
            status=states.AVAILABLE,
            created_at="",
            updated_at="",
            generation=0,
        )
        async with ctx.runtime.store.tx() as tx:
            if await BACKUPS.find(tx, made.id) is not None:
                raise checks.unfit("backup", f"Backup {made.id} already exists.")
            if made.parent_id and await BACKUPS.find(tx, made.parent_id) is None:
                raise checks.unfit("backup", f"Import {made.parent_id} first: it stands on that.")
            made = await BACKUPS.insert(tx, made)
        return {"backup": _brief(ctx, made)}

    # Administrators

    @operation("POST", _ACTION, _ADMIN + "reset_status", action="os-reset_status", status=202)
    async def reset_status(self, ctx: Context, backup: Backup, body: ResetStatus) -> None:
        async with ctx.runtime.store.tx() as tx:
            await BACKUPS.change(tx, backup, status=body.status)

    @operation("POST", _ACTION, _ADMIN + "force_delete", action="os-force_delete", status=202)
    async def force_delete(self, ctx: Context, backup: Backup) -> None:
        await _check_childless(ctx, backup)
        if backup.status not in states.BACKUP["delete"].frm:
            async with ctx.runtime.store.tx() as tx:
                backup = await BACKUPS.change(tx, backup, status=states.ERROR)
        await checks.begin(ctx, DELETE, backup)

    def target(self, ctx: Context, record: Backup) -> Mapping[str, object]:
        return {"project_id": record.project_id, "user_id": record.user_id}


async def _check_childless(ctx: Context, backup: Backup) -> None:
    """Raises Invalid."""
    if await has_children(ctx.runtime, backup):
        raise checks.unfit("backup", "Incremental backups exist for this backup.")


async def new_volume(ctx: Context, backup: Backup, name: str | None) -> Volume:
    """A volume to be made of it."""
    kind = await default_type(ctx.runtime.store, ctx.caller.project_id)
    return Volume(
        id=ctx.runtime.world.new_id(),
        project_id=ctx.caller.project_id,
        user_id=ctx.caller.user_id,
        size=backup.size,
        name=name or f"restore_backup_{backup.id}",
        volume_type_id=kind.id,
        is_multiattach=kind.wants("multiattach"),
        encryption_key_id=backup.encryption_key_id,
        sealed=backup.sealed,
    )


def _check_volume(volume: Volume, *, force: bool) -> None:
    """Raises Invalid unless it may be backed up."""
    if volume.shown not in (states.AVAILABLE, states.IN_USE):
        raise checks.unfit(
            "volume",
            "Volume to be backed up must be available or in-use, but the current status is "
            f'"{volume.shown}".',
        )
    if volume.shown == states.IN_USE and not force:
        raise checks.unfit("volume", "Backing up an in-use volume must use the force flag.")

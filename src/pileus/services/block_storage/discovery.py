"""What clients ask before they start: extensions, and which filters lists take.

https://docs.openstack.org/api-ref/block-storage/v3/#api-extensions-extensions
"""

from __future__ import annotations

from typing import Any

from pileus.kernel.faults import NotFound
from pileus.kernel.resources import Context, Resource, operation

from .volume import VOLUMES, Volume

_ALIASES = {
    "backups": "Backups",
    "capabilities": "Capabilities",
    "cgsnapshots": "Cgsnapshots",
    "consistencygroups": "Consistencygroups",
    "encryption": "VolumeTypeEncryption",
    "OS-SCH-HNT": "SchedulerHints",
    "os-admin-actions": "AdminActions",
    "os-availability-zone": "AvailabilityZones",
    "os-extended-services": "ExtendedServices",
    "os-extended-snapshot-attributes": "ExtendedSnapshotAttributes",
    "os-hosts": "Hosts",
    "os-quota-class-sets": "QuotaClasses",
    "os-quota-sets": "Quotas",
    "os-services": "Services",
    "os-snapshot-actions": "SnapshotActions",
    "os-snapshot-manage": "SnapshotManage",
    "os-snapshot-unmanage": "SnapshotUnmanage",
    "os-types-extra-specs": "TypesExtraSpecs",
    "os-types-manage": "TypesManage",
    "os-used-limits": "UsedLimits",
    "os-vol-host-attr": "VolumeHostAttribute",
    "os-vol-image-meta": "VolumeImageMetadata",
    "os-vol-mig-status-attr": "VolumeMigStatusAttribute",
    "os-vol-tenant-attr": "VolumeTenantAttribute",
    "os-volume-actions": "VolumeActions",
    "os-volume-encryption-metadata": "VolumeEncryptionMetadata",
    "os-volume-manage": "VolumeManage",
    "os-volume-transfer": "VolumeTransfer",
    "os-volume-type-access": "VolumeTypeAccess",
    "os-volume-unmanage": "VolumeUnmanage",
    "qos-specs": "Qos_specs_manage",
    "scheduler-stats": "Scheduler_stats",
}
_FILTERS = {
    "volume": (
        "name status metadata bootable migration_status availability_zone group_id size "
        "created_at updated_at"
    ),
    "backup": "name status volume_id",
    "snapshot": "name status volume_id metadata",
    "group": "",
    "group_snapshot": "status group_id",
    "attachment": "volume_id status instance_id attach_status",
    "message": "resource_uuid resource_type event_id request_id message_level",
    "pool": "name volume_type",
    "volume_type": "is_public extra_specs",
}


def _view(alias: str) -> dict[str, Any]:
    name = _ALIASES[alias]
    return {
        "alias": alias,
        "name": name,
        "description": f"{name} support.",
        "updated": "2012-03-12T00:00:00+00:00",
        "links": [],
    }


class Discovery(Resource[Volume]):
    table = VOLUMES  # it names no record

    @operation("GET", "/extensions", "volume:get_all")
    async def extensions(self, ctx: Context) -> dict[str, Any]:
        return {"extensions": [_view(alias) for alias in _ALIASES]}

    @operation("GET", "/extensions/{alias}", "volume:get_all")
    async def extension(self, ctx: Context, alias: str) -> dict[str, Any]:
        if alias not in _ALIASES:
            raise NotFound(f"There is no extension {alias}.")
        return {"extension": _view(alias)}

    @operation("GET", "/resource_filters", "volume:get_all", since="3.33")
    async def filters(self, ctx: Context) -> dict[str, Any]:
        wanted = ctx.query.get("resource")
        rows = [
            {"resource": name, "filters": names.split()}
            for name, names in _FILTERS.items()
            if wanted in ("", name)
        ]
        return {"resource_filters": rows}

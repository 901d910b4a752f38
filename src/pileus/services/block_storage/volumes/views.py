"""What is shown of a volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pileus.kernel.resources import Context

from .. import checks, pools, states, volume_type
from ..attachment import HAD, Attachment, of_volumes
from ..volume import Volume

_IMAGE = "volume_image_metadata"
HOST = "volume_extension:volume_host_attribute"
_MIGRATION, _TENANT = (
    "volume_extension:volume_mig_status_attribute",
    "volume_extension:volume_tenant_attribute",
)


def brief(ctx: Context, volume: Volume) -> dict[str, Any]:
    return {"id": volume.id, "name": volume.name, "links": checks.links(ctx, "volumes", volume)}


async def made(ctx: Context, volume: Volume) -> dict[str, Any]:
    """As a create or an update answers: without what was once added to what a show answers."""
    (shown,) = await details(ctx, [volume])
    return {k: v for k, v in shown.items() if not k.startswith("os-") and k != _IMAGE}


async def details(ctx: Context, volumes: Sequence[Volume]) -> list[dict[str, Any]]:
    store = ctx.runtime.store
    attached = await of_volumes(store, [v.id for v in volumes])
    types = await volume_type.names(store)
    places = [await pools.place_of(ctx.runtime, v) for v in volumes]
    return [
        _detail(ctx, v, attached[v.id], types, place)
        for v, place in zip(volumes, places, strict=True)
    ]


def _detail(
    ctx: Context, v: Volume, attached: Sequence[Attachment], types: Mapping[str, str], place: str
) -> dict[str, Any]:
    found = {
        "id": v.id,
        "status": v.moves_as or v.status if v.task == states.MIGRATING else v.shown,
        "size": v.size,
        "availability_zone": v.zone,
        "created_at": checks.moment(v.created_at),
        "updated_at": checks.moment(v.updated_at),
        "name": v.name,
        "description": v.description,
        "volume_type": types.get(v.volume_type_id),
        "snapshot_id": v.snapshot_id,
        "source_volid": v.source_volid,
        "metadata": _metadata(v, attached),
        "links": checks.links(ctx, "volumes", v),
        "user_id": v.user_id,
        "bootable": str(v.is_bootable).lower(),
        "encrypted": bool(v.encryption_key_id),
        "replication_status": None,
        "consistencygroup_id": v.group_id if v.is_consistent else None,
        "multiattach": v.is_multiattach,
        "attachments": [_attachment(ctx, a) for a in attached if a.status in HAD],
    }
    if v.image_metadata is not None:
        found[_IMAGE] = v.image_metadata
    return found | _of_administrators(ctx, v, place) | _of_versions(ctx, v)


def _metadata(v: Volume, attached: Sequence[Attachment]) -> dict[str, str]:
    """With what administrators keep there and everybody sees."""
    shown = dict(v.metadata)
    if v.is_read_only is not None:
        shown["readonly"] = str(v.is_read_only)
    modes = [a.mode for a in attached if a.status in HAD and a.mode in ("rw", "ro")]
    return shown | ({"attached_mode": modes[0]} if modes else {})


def _of_administrators(ctx: Context, v: Volume, place: str) -> dict[str, Any]:
    target, found = {"project_id": v.project_id, "user_id": v.user_id}, dict[str, Any]()
    if ctx.allows(HOST, target):
        found["os-vol-host-attr:host"] = place or None
    if ctx.allows(_TENANT, target):
        found["os-vol-tenant-attr:tenant_id"] = v.project_id
    if ctx.allows(_MIGRATION, target):
        found["migration_status"] = v.migration_status
        found["os-vol-mig-status-attr:migstat"] = v.migration_status
        found["os-vol-mig-status-attr:name_id"] = v.backend_id or None
    return found


def _of_versions(ctx: Context, v: Volume) -> dict[str, Any]:
    at, admin, found = ctx.version, ctx.caller.is_admin, dict[str, Any]()
    if at >= (3, 13):
        found["group_id"] = v.group_id
    if at >= (3, 21) and admin:
        found["provider_id"] = None
    if at >= (3, 48):
        found |= {"shared_targets": False, "service_uuid": None}
    if at >= (3, 61) and admin:
        found["cluster_name"] = None
    if at >= (3, 63):
        found["volume_type_id"] = v.volume_type_id or None
    if at >= (3, 64) and v.encryption_key_id:
        found["encryption_key_id"] = v.encryption_key_id
    if at >= (3, 65):
        found["consumes_quota"] = True
    return found


def _attachment(ctx: Context, a: Attachment) -> dict[str, Any]:
    inside = ctx.caller.is_admin or "service" in ctx.caller.roles
    return {
        "id": a.volume_id,
        "attachment_id": a.id,
        "volume_id": a.volume_id,
        "server_id": a.server_id or None,
        "host_name": a.host_name if inside else None,
        "device": a.device,
        "attached_at": checks.moment(a.attached_at),
    }

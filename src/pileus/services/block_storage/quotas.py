"""Quota sets, quota classes and limits: what a project may use, and what it does.

https://docs.openstack.org/api-ref/block-storage/v3/#quota-sets-extension-os-quota-sets
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pileus.kernel.faults import Invalid
from pileus.kernel.quota import DEFAULTS, clear_limits, limits, set_limits, usage
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import KEEP, Body, Extra
from pileus.kernel.store import Tx

from . import checks, volume_type
from .volume import BY_TYPE, PER_VOLUME, SERVICE, VOLUMES, Volume

_RULE, _CLASS = "volume_extension:quotas:", "volume_extension:quota_classes:"
_PATH, _CLASS_PATH = "/os-quota-sets/{project_id}", "/os-quota-class-sets/{quota_class}"
BUILT_IN = {
    "volumes": 10,
    PER_VOLUME: -1,
    "snapshots": 10,
    "gigabytes": 1000,
    "backups": 10,
    "backup_gigabytes": 1000,
    "groups": 10,
}
_BY_TYPE = ("volumes", "snapshots", "gigabytes")
_IGNORED = frozenset(("tenant_id", "id", "force", "project_id"))


class QuotaBody(Body):
    root: ClassVar[str] = "quota_set"
    unknown: ClassVar[Extra] = KEEP


class ClassBody(Body):
    root: ClassVar[str] = "quota_class_set"
    unknown: ClassVar[Extra] = KEEP


async def in_force(ctx: Context, project_id: str) -> dict[str, int]:
    """The project's limits, those of each volume type too."""
    store = ctx.runtime.store
    own = await limits(store, SERVICE, project_id) if project_id != DEFAULTS else {}
    found = BUILT_IN | await limits(store, SERVICE, DEFAULTS) | own
    for id, name in (await volume_type.names(store)).items():
        typed = await limits(store, BY_TYPE, f"{project_id}/{id}")
        found |= {f"{what}_{name}": typed.get(what, -1) for what in _BY_TYPE}
    return found


async def used(ctx: Context, project_id: str) -> dict[str, int]:
    store = ctx.runtime.store
    found = await usage(store, SERVICE, project_id)
    for id, name in (await volume_type.names(store)).items():
        typed = await usage(store, BY_TYPE, f"{project_id}/{id}")
        found |= {f"{what}_{name}": typed.get(what, 0) for what in _BY_TYPE}
    return found


async def _set(ctx: Context, tx: Tx, holder: str, numbers: Mapping[str, int]) -> None:
    types = {name: id for id, name in (await volume_type.names(tx)).items()}
    general = {k: v for k, v in numbers.items() if k in BUILT_IN}
    await set_limits(tx, SERVICE, holder, general)
    for key, number in numbers.items():
        what, _, name = key.partition("_")
        if key not in BUILT_IN:
            await set_limits(tx, BY_TYPE, f"{holder}/{types[name]}", {what: number})


def asked(given: Mapping[str, Any], known: Mapping[str, int]) -> dict[str, int]:
    """The numbers sent. Raises Invalid."""
    found = {}
    for name, value in given.items():
        if name in _IGNORED:
            continue
        if name not in known:
            raise Invalid(f"Bad key(s) in quota set: {name}.")
        text = str(value)
        if isinstance(value, bool) or not text.removeprefix("-").isdecimal() or len(text) > 10:
            raise checks.wrong(name, value, f"{value!r} is not of type 'integer'")
        if not -1 <= int(text) <= checks.LARGEST:
            raise checks.wrong(name, value, f"It must be from -1 to {checks.LARGEST}")
        found[name] = int(text)
    return found


class QuotaSets(Resource[Volume]):
    table = VOLUMES  # it names no record

    def scope_target(self, ctx: Context, params: Mapping[str, str]) -> Mapping[str, object]:
        """The project in the path is whose quota is asked about."""
        return {**ctx.own, "project_id": params.get("project_id", ctx.caller.project_id)}

    @operation("GET", _PATH, _RULE + "show")
    async def show(self, ctx: Context, project_id: str) -> dict[str, Any]:
        limit = await in_force(ctx, project_id)
        if not ctx.query.flag("usage"):
            return {"quota_set": {"id": project_id, **limit}}
        now = await used(ctx, project_id)
        rows = {
            n: {"limit": limit[n], "in_use": now.get(n, 0), "reserved": 0, "allocated": 0}
            for n in limit
        }
        return {"quota_set": {"id": project_id, **rows}}

    @operation("GET", _PATH + "/defaults", _RULE + "show")
    async def defaults(self, ctx: Context, project_id: str) -> dict[str, Any]:
        return {"quota_set": {"id": project_id, **await in_force(ctx, DEFAULTS)}}

    @operation("PUT", _PATH, _RULE + "update")
    async def update(self, ctx: Context, project_id: str, body: QuotaBody) -> dict[str, Any]:
        numbers = asked(ctx.document["quota_set"], await in_force(ctx, project_id))
        if not numbers:
            raise Invalid("At least one quota is needed in the quota set.")
        async with ctx.runtime.store.tx() as tx:
            await _set(ctx, tx, project_id, numbers)
        return {"quota_set": await in_force(ctx, project_id)}

    @operation("DELETE", _PATH, _RULE + "delete", status=200)
    async def delete(self, ctx: Context, project_id: str) -> None:
        async with ctx.runtime.store.tx() as tx:
            await clear_limits(tx, SERVICE, project_id)
            for id in await volume_type.names(tx):
                await clear_limits(tx, BY_TYPE, f"{project_id}/{id}")


class QuotaClassSets(Resource[Volume]):
    """The class `default` is what projects have that were given nothing of their own."""

    table = VOLUMES  # it names no record

    @operation("GET", _CLASS_PATH, _CLASS + "get")
    async def show(self, ctx: Context, quota_class: str) -> dict[str, Any]:
        found = await in_force(ctx, _holder(quota_class))
        return {"quota_class_set": {"id": quota_class, **found}}

    @operation("PUT", _CLASS_PATH, _CLASS + "update")
    async def update(self, ctx: Context, quota_class: str, body: ClassBody) -> dict[str, Any]:
        holder = _holder(quota_class)
        numbers = asked(ctx.document["quota_class_set"], await in_force(ctx, holder))
        async with ctx.runtime.store.tx() as tx:
            await _set(ctx, tx, holder, numbers)
        return {"quota_class_set": await in_force(ctx, holder)}


def _holder(quota_class: str) -> str:
    return DEFAULTS if quota_class == "default" else f"class:{quota_class}"


class Limits(Resource[Volume]):
    table = VOLUMES  # it names no record

    @operation("GET", "/limits", "limits_extension:used_limits")
    async def index(self, ctx: Context) -> dict[str, Any]:
        project_id = ctx.caller.project_id
        if ctx.version >= (3, 39) and ctx.caller.is_admin and ctx.query.has("project_id"):
            project_id = ctx.query.get("project_id")
        limit, now = await in_force(ctx, project_id), await used(ctx, project_id)
        return {
            "limits": {
                "rate": [],
                "absolute": {
                    "maxTotalVolumes": limit["volumes"],
                    "maxTotalSnapshots": limit["snapshots"],
                    "maxTotalVolumeGigabytes": limit["gigabytes"],
                    "maxTotalBackups": limit["backups"],
                    "maxTotalBackupGigabytes": limit["backup_gigabytes"],
                    "totalVolumesUsed": now.get("volumes", 0),
                    "totalSnapshotsUsed": now.get("snapshots", 0),
                    "totalGigabytesUsed": now.get("gigabytes", 0),
                    "totalBackupsUsed": now.get("backups", 0),
                    "totalBackupGigabytesUsed": now.get("backup_gigabytes", 0),
                },
            }
        }

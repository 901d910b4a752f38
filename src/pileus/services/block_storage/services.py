"""What an administrator sees of the hosts of volumes: services, hosts, pools, capabilities; and zones, for everybody.

https://docs.openstack.org/api-ref/block-storage/v3/#services-os-services
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pileus.kernel.faults import Invalid, NotFound
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Page
from pileus.kernel.world import stamp

from . import checks, pools
from .pools import SERVICES, VOLUME, VolumeService
from .scheduling import DOWN, OVERSUBSCRIBED, Pool
from .snapshot import SNAPSHOTS
from .volume import VOLUMES

_SERVICES = "volume_extension:services:"
_BACKUP, _SCHEDULER = "cinder-backup", "cinder-scheduler"
Place = Annotated[str, Meta(min_length=1, max_length=255)]


class PutService(Body):
    host: Place
    binary: Place | UnsetType = UNSET
    service: Place | UnsetType = UNSET
    cluster: str | UnsetType | None = UNSET
    disabled_reason: Place | UnsetType | None = UNSET
    backend_id: Place | UnsetType | None = UNSET


async def _rows(ctx: Context) -> list[dict[str, Any]]:
    """Control's own parts, and each host's."""
    said = {s.id: s for s in await SERVICES.all(ctx.runtime.store)}
    now = ctx.runtime.world.clock.time()
    name, own = ctx.runtime.name, ctx.runtime.world.clock.now()
    rows = [
        _row(ctx, binary, name, "up", own, said.get(f"{name}/{binary}"))
        for binary in (_SCHEDULER, _BACKUP)
    ]
    for host in await pools.hosts(ctx.runtime):
        state = "up" if host.is_up(now) else "down"
        for pool in host.facts.get("volume_pools", ()):
            back_end = f"{host.id}@{pool['name']}"
            service = pools.service_of(said, back_end)
            row = _row(ctx, VOLUME, back_end, state, stamp(host.seen_at), service)
            rows.append(row | _replication(ctx, service))
    return rows


def _names(row: dict[str, Any], place: str) -> bool:
    """Whether that is its host, with or without its back end."""
    return place in (row["host"], row["host"].partition("@")[0])


def _row(
    ctx: Context, binary: str, host: str, state: str, seen: str, said: VolumeService | None
) -> dict[str, Any]:
    found = {
        "binary": binary,
        "host": host,
        "zone": pools.ZONE,
        "status": "disabled" if said and said.disabled else "enabled",
        "state": state,
        "updated_at": checks.moment(seen),
        "disabled_reason": said.disabled_reason if said else None,
    }
    if ctx.version >= (3, 7):
        found["cluster"] = None
    if ctx.version >= (3, 49) and binary == VOLUME:
        found["backend_state"] = state
    return found


def _replication(ctx: Context, said: VolumeService | None) -> dict[str, Any]:
    return {
        "replication_status": "failed-over" if said and said.failed_over else "disabled",
        "active_backend_id": said.failed_over or None if said else None,
        "frozen": bool(said and said.is_frozen),
    }


class VolumeServices(Resource[VolumeService]):
    table = SERVICES

    @operation("GET", "/os-services", _SERVICES + "index")
    async def index(self, ctx: Context) -> dict[str, Any]:
        host, binary = ctx.query.get("host"), ctx.query.get("binary")
        return {
            "services": [
                row
                for row in await _rows(ctx)
                if binary in ("", row["binary"]) and (not host or _names(row, host))
            ]
        }

    @operation("PUT", "/os-services/{verb}", _SERVICES + "update")
    async def update(self, ctx: Context, verb: str, body: PutService) -> dict[str, Any]:
        if verb in ("freeze", "thaw", "failover_host", "failover"):
            await self._replicate(ctx, verb, body)
            return {}
        if verb not in ("enable", "disable", "disable-log-reason"):
            raise NotFound("Unknown action")
        binary = body.binary if body.binary is not UNSET else body.service
        if binary is UNSET or not binary:
            raise Invalid("Missing required element 'binary' in request body.")
        reason = body.disabled_reason if body.disabled_reason is not UNSET else None
        if verb == "disable-log-reason" and not reason:
            raise Invalid("A disabled_reason of 1 to 255 characters is needed.")
        disabled = verb != "enable"
        reason = reason if verb == "disable-log-reason" else None
        await self._say(ctx, body.host, binary, disabled=disabled, disabled_reason=reason)
        found = {
            "host": body.host,
            "service": binary,
            "binary": binary,
            "disabled": disabled,
            "status": "disabled" if disabled else "enabled",
        }
        return found | ({"disabled_reason": reason} if reason else {})

    async def _replicate(self, ctx: Context, verb: str, body: PutService) -> None:
        """Freezing keeps new volumes away; there is no other back end to fail over to."""
        rules = {"freeze": "freeze_host", "thaw": "thaw_host"}
        ctx.require("volume:" + rules.get(verb, "failover_host"))
        try:
            if verb.startswith("failover"):
                await self._known(ctx, body.host, VOLUME)
                raise Invalid(
                    f"Unable to failover {body.host}: no replication target is set up for it, so "
                    "there is nothing to fail over to."
                )
            await self._say(ctx, body.host, VOLUME, is_frozen=verb == "freeze")
        except NotFound as e:
            raise Invalid(e.message) from None

    async def _known(self, ctx: Context, host: str, binary: str) -> list[str]:
        """What is meant: of a host all its back ends. Raises NotFound."""
        rows = await _rows(ctx)
        if found := [r["host"] for r in rows if r["binary"] == binary and _names(r, host)]:
            return found
        raise NotFound(f"Service {binary} could not be found on host {host}.")

    async def _say(self, ctx: Context, host: str, binary: str, **changes: Any) -> None:
        """Of a back end of which nothing was said, what was said of its host holds."""
        found = await self._known(ctx, host, binary)
        async with ctx.runtime.store.tx() as tx:
            for place in found:
                id, of_host = f"{place}/{binary}", f"{place.partition('@')[0]}/{binary}"
                known = await SERVICES.find(tx, id)
                if known is None:
                    new = await SERVICES.find(tx, of_host) or VolumeService(id=id)
                    new = msgspec.structs.replace(new, id=id, generation=0)
                    known = await SERVICES.insert(tx, new)
                await SERVICES.change(tx, known, **changes)


class VolumeHosts(Resource[VolumeService]):
    """`os-hosts`: the same by an older name."""

    table = SERVICES

    @operation("GET", "/os-hosts", "volume_extension:hosts")
    async def index(self, ctx: Context) -> dict[str, Any]:
        zone = ctx.query.get("zone")
        return {
            "hosts": [
                {
                    "host_name": row["host"],
                    "service": row["binary"],
                    "zone": row["zone"],
                    "service-status": "available" if row["state"] == "up" else "unavailable",
                    "service-state": row["status"],
                    "last-update": row["updated_at"],
                }
                for row in await _rows(ctx)
                if zone in ("", row["zone"]) and row["status"] == "enabled"
            ]
        }

    @operation("GET", "/os-hosts/{host_name}", "volume_extension:hosts")
    async def show(self, ctx: Context, host_name: str) -> dict[str, Any]:
        host = (await pools.known(ctx.runtime, host_name)).host
        store = ctx.runtime.store
        sums: dict[str, list[int]] = {"(total)": [0, 0, 0, 0]}
        for volume in await VOLUMES.list(store, Page({"host": host}, limit=1_000_000)):
            place = await pools.place_of(ctx.runtime, volume)
            if host_name not in (host, place.partition("#")[0]):
                continue
            taken = await SNAPSHOTS.all(store, volume_id=volume.id)
            counts = (1, volume.size, len(taken), sum(s.size for s in taken))
            for of in ("(total)", volume.project_id):
                row = sums.setdefault(of, [0, 0, 0, 0])
                row[:] = [a + b for a, b in zip(row, counts, strict=True)]
        keys = ("volume_count", "total_volume_gb", "snapshot_count", "total_snapshot_gb")
        return {
            "host": [
                {
                    "resource": {"host": host_name, "project": of}
                    | {k: str(n) for k, n in zip(keys, row, strict=True)}
                }
                for of, row in sums.items()
            ]
        }


class Pools(Resource[VolumeService]):
    table = SERVICES

    @operation("GET", "/scheduler-stats/get_pools", "scheduler_extension:scheduler_stats:get_pools")
    async def index(self, ctx: Context) -> dict[str, Any]:
        found = await pools.pools(ctx.runtime)
        if ctx.version >= (3, 28) and ctx.query.has("name"):
            found = [p for p in found if p.place == ctx.query.get("name")]
        detail = ctx.query.flag("detail")
        return {"pools": [_pool(ctx, p, detail=detail) for p in found]}

    @operation("GET", "/capabilities/{host_name}", "volume_extension:capabilities")
    async def capabilities(self, ctx: Context, host_name: str) -> dict[str, Any]:
        try:
            pool = await pools.known(ctx.runtime, host_name)
        except NotFound:
            raise NotFound(f"Can't find service: {host_name}") from None
        shared = ("vendor_name", "volume_backend_name", "driver_version", "storage_protocol")
        return {
            "namespace": f"OS::Storage::Capabilities::{pool.back_end}",
            **{key: pool.capabilities[key] for key in shared},
            "pool_name": pool.name,
            "display_name": f"Capabilities of {pool.name}",
            "description": "These are the volume type options that the back end offers.",
            "visibility": "public",
            "replication_targets": [],
            "properties": _PROPERTIES,
        }


_PROPERTIES = {
    "thin_provisioning": {
        "title": "Thin Provisioning",
        "description": "Sets thin provisioning.",
        "type": "boolean",
    },
    "qos": {"title": "QoS", "description": "Enables QoS.", "type": "boolean"},
    "replication_enabled": {
        "title": "Replication",
        "description": "Enables replication.",
        "type": "boolean",
    },
    "multiattach": {
        "title": "Multiattach",
        "description": "Lets several servers have a volume.",
        "type": "boolean",
    },
}


def _pool(ctx: Context, p: Pool, *, detail: bool) -> dict[str, Any]:
    if not detail:
        return {"name": p.place}
    return {
        "name": p.place,
        "capabilities": p.capabilities
        | {
            "timestamp": checks.moment(ctx.runtime.world.clock.now()),
            "total_capacity_gb": p.total_gib,
            "free_capacity_gb": p.free_gib,
            "allocated_capacity_gb": p.promised_gib,
            "provisioned_capacity_gb": p.promised_gib,
            "reserved_percentage": 0,
            "max_over_subscription_ratio": str(OVERSUBSCRIBED),
            "location_info": p.host,
            "backend_state": DOWN if p.why_not == DOWN else "up",
            "filter_function": None,
            "goodness_function": None,
        },
    }


class Zones(Resource[VolumeService]):
    table = SERVICES

    @operation("GET", "/os-availability-zone", "volume:get_all")
    async def index(self, ctx: Context) -> dict[str, Any]:
        zone = {"zoneName": pools.ZONE, "zoneState": {"available": True}}
        return {"availabilityZoneInfo": [zone]}


class Workers(Resource[VolumeService]):
    """`workers/cleanup`: what a dead control left is taken over by the living at once, so there is nothing to ask."""

    table = SERVICES

    @operation("POST", "/workers/cleanup", "workers:cleanup", status=202, since="3.24")
    async def cleanup(self, ctx: Context) -> dict[str, Any]:
        return {"cleaning": [], "unavailable": []}

"""Availability zones. https://docs.openstack.org/api-ref/compute/#availability-zones-os-availability-zone"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, ClassVar

from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.runtime import Runtime
from pileus.kernel.world import stamp
from pileus.services.compute import nodes
from pileus.services.compute.aggregates import zones_of
from pileus.services.compute.nodes import NODES, Node, Place
from pileus.services.compute.services import COMPUTE
from pileus.services.compute.settings import settings_of

_RULE = "os_compute_api:os-availability-zone:"
_FEW = 16  # hosts looked at first


async def _available(runtime: Runtime) -> dict[str, bool]:
    """Each zone with a host, and whether it has one that takes servers: few are looked at, however many there are."""
    by_zone: dict[str, list[str]] = defaultdict(list)
    for host, zone in (await zones_of(runtime.store)).items():
        by_zone[zone].append(host)
    found: dict[str, bool] = {}
    for zone, hosts in by_zone.items():
        await _look(runtime, zone, hosts, found)
    await _look(runtime, settings_of(runtime).default_zone, None, found)
    return found


async def _look(
    runtime: Runtime, zone: str, hosts: list[str] | None, found: dict[str, bool]
) -> None:
    async for places in nodes.slices(runtime, hosts, _FEW):
        for p in places:
            if p.zone == zone:
                found[zone] = found.get(zone, False) or not p.why_not
        if found.get(zone):
            return


def _hosts(places: list[Place], zone: str) -> dict[str, Any]:
    return {
        p.node.host: {
            COMPUTE: {
                "available": p.is_up,
                "active": not p.node.disabled,
                "updated_at": stamp(p.beat.seen_at).removesuffix("Z") if p.beat else None,
            }
        }
        for p in places
        if p.zone == zone and not p.node.disabled
    }


class AvailabilityZones(Resource[Node]):
    table = NODES
    rules: ClassVar[Mapping[str, str]] = {
        _RULE + "list": "@",
        _RULE + "detail": "rule:context_is_admin",
    }

    @operation("GET", "/os-availability-zone", _RULE + "list")
    async def index(self, ctx: Context) -> dict[str, Any]:
        zones = await _available(ctx.runtime)
        found = [
            {"zoneName": zone, "zoneState": {"available": up}, "hosts": None}
            for zone, up in sorted(zones.items(), key=lambda z: (not z[1], z[0]))
        ]
        return {"availabilityZoneInfo": found}

    @operation("GET", "/os-availability-zone/detail", _RULE + "detail")
    async def detail(self, ctx: Context) -> dict[str, Any]:
        places = await nodes.places(ctx.runtime)
        now = ctx.runtime.world.clock.now().removesuffix("Z")
        own = {"available": True, "active": True, "updated_at": now}
        control = {ctx.runtime.name: {"nova-scheduler": own, "nova-conductor": own}}
        found: list[dict[str, Any]] = [
            {
                "zoneName": nodes.INTERNAL_ZONE,
                "zoneState": {"available": True},
                "hosts": control,
            }
        ]
        for zone, up in sorted((await _available(ctx.runtime)).items()):
            hosts = _hosts(places, zone) if up else None
            found.append({"zoneName": zone, "zoneState": {"available": up}, "hosts": hosts})
        return {"availabilityZoneInfo": found}

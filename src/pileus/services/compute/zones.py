"""Availability zones. https://docs.openstack.org/api-ref/compute/#availability-zones-os-availability-zone"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.world import stamp
from pileus.services.compute import nodes
from pileus.services.compute.nodes import NODES, Node, Place
from pileus.services.compute.services import COMPUTE

_RULE = "os_compute_api:os-availability-zone:"


def _available(places: list[Place]) -> dict[str, bool]:
    """Each zone, and whether it has a host that takes servers."""
    found: dict[str, bool] = {}
    for p in places:
        found[p.zone] = found.get(p.zone, False) or not p.why_not
    return found


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
        zones = _available(await nodes.places(ctx.runtime))
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
        for zone, up in sorted(_available(places).items()):
            hosts = _hosts(places, zone) if up else None
            found.append({"zoneName": zone, "zoneState": {"available": up}, "hosts": hosts})
        return {"availabilityZoneInfo": found}

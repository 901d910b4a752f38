"""On which host a router lives: the least loaded that is up. Routers of a host that is gone move."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from pileus.kernel.hosts import HOSTS, hosts_of
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Page, Reader, Tx

from ..floating_ip import FLOATING_IPS, tell_floating
from ..port import ACTIVE, DOWN, PORTS, ROUTER_OWNERS, Port
from ..router import ROUTERS, Router
from ..wiring import NETWORK_HOST, wake, wake_networks

log = logging.getLogger(__name__)
PERIOD_S = 5.0
RECONCILER = "network.routers"
_FEW = 64  # hosts looked at together
_ALL = 1 << 30


async def _up(db: Reader, now: float, names: Sequence[str]) -> set[str]:
    """Those of the hosts that are up."""
    return {h.id for h in await hosts_of(db, NETWORK_HOST, id=names) if h.is_up(now)}


async def _loads(db: Reader) -> Counter[str]:
    """How many routers each host has that has any."""
    rows = await ROUTERS.page(db, Page({}, (("id", False),), limit=_ALL), select=("host",))
    return Counter(host for (host,) in rows)


async def choose_host(db: Reader, now: float) -> str:
    """The host with the fewest routers; "" if none is up. Few hosts are looked at, however many there are."""
    loads = await _loads(db)
    rows = await HOSTS.page(db, Page({}, (("id", False),), limit=_ALL), select=("id",))
    names = sorted((name for (name,) in rows), key=lambda name: loads[name])  # else by name
    for at in range(0, len(names), _FEW):
        up = await _up(db, now, names[at : at + _FEW])
        if up:
            return min(up, key=names.index)
    return ""


async def legs(db: Reader, router_id: str) -> list[Port]:
    """The router's ports, interfaces and gateway."""
    ports = await PORTS.all(db, device_id=router_id)
    return [p for p in ports if p.device_owner in ROUTER_OWNERS]


async def place_routers(runtime: Runtime, key: str) -> None:
    """The standing fact: every router is on a host that is up, as long as there is one."""
    store, now = runtime.store, runtime.world.clock.time()
    used = sorted(await _loads(store))
    gone = set(used) - await _up(store, now, used) if used else set()
    if not gone or not await choose_host(store, now):
        return
    stray = Page({"host": sorted(gone), "parked": 0}, limit=100)  # the next run takes the rest
    for router in await ROUTERS.list(store, stray):
        async with store.tx() as tx:
            router = await ROUTERS.get(tx, router.id)
            host = await choose_host(tx, now)
            if router.parked or not host:
                continue
            await move(tx, router, host)
        log.info("router %s moves from %r to %s", router.id, router.host, host)
        await wake_moved(runtime, router, host)


async def move(tx: Tx, router: Router, host: str) -> None:
    """Places the router and its ports; "": nowhere, until somebody places it. Its floating IPs work when it does."""
    for port in await legs(tx, router.id):
        await PORTS.change(tx, port, host=host, status=DOWN)
    for fip in await FLOATING_IPS.all(tx, router_id=router.id, status=ACTIVE):
        await tell_floating(tx, "update", await FLOATING_IPS.change(tx, fip, status=DOWN))
    await ROUTERS.change(tx, router, host=host, parked=not host)


async def wake_moved(runtime: Runtime, router: Router, host: str) -> None:
    """Those that it left and came to, and its networks' others, whose frames go elsewhere now."""
    await wake(runtime, {router.host, host})
    networks = {p.network_id for p in await legs(runtime.store, router.id)}
    await wake_networks(runtime, *networks)

"""On which host a router lives: the least loaded that is up. Routers of a host that is gone move."""

from __future__ import annotations

import logging

from pileus.kernel.hosts import hosts_of
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Match, Page, Reader, Tx

from ..port import DOWN, PORTS, ROUTER_OWNERS, Port
from ..router import ROUTERS, Router
from ..wiring import NETWORK_HOST, wake, wake_networks

log = logging.getLogger(__name__)
PERIOD_S = 5.0
RECONCILER = "network.routers"


async def up_hosts(db: Reader, now: float) -> list[str]:
    return [h.id for h in await hosts_of(db, NETWORK_HOST) if h.is_up(now)]


async def choose_host(db: Reader, now: float) -> str:
    """The host with the fewest routers; "" if none is up."""
    hosts = await up_hosts(db, now)
    loads = [(await ROUTERS.count(db, Page({"host": host})), host) for host in hosts]
    return min(loads)[1] if loads else ""


async def legs(db: Reader, router_id: str) -> list[Port]:
    """The router's ports, interfaces and gateway."""
    ports = await PORTS.all(db, device_id=router_id)
    return [p for p in ports if p.device_owner in ROUTER_OWNERS]


async def place_routers(runtime: Runtime, key: str) -> None:
    """The standing fact: every router is on a host that is up, as long as there is one."""
    store, now = runtime.store, runtime.world.clock.time()
    up = await up_hosts(store, now)
    if not up:
        return
    stray = Page({"host": Match("ne", up)}, limit=100)  # the next run takes the rest
    for router in await ROUTERS.list(store, stray):
        async with store.tx() as tx:
            moved = await _move(tx, await ROUTERS.get(tx, router.id), now)
            networks = {p.network_id for p in await legs(tx, router.id)}
        log.info("router %s moves from %r to %s", router.id, router.host, moved.host)
        await wake(runtime, {router.host, moved.host})
        await wake_networks(runtime, *networks)


async def _move(tx: Tx, router: Router, now: float) -> Router:
    host = await choose_host(tx, now)
    for port in await legs(tx, router.id):
        await PORTS.change(tx, port, host=host, status=DOWN)
    return await ROUTERS.change(tx, router, host=host)

"""On which host a router lives: the least loaded that is up. Routers of a host that is gone move.

No two hosts have a router: what one is told by `tenure` ends before control moves it (docs/adr/0027-fenced-routers.md).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from math import inf
from weakref import WeakKeyDictionary

from pileus.kernel.hosts import HOSTS, LEASE_S, heard, hosts_of
from pileus.kernel.reconcile import Reconcilers
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Match, Page, Reader, Tx

from ..agents import ROUTERS_TYPE, agent_id, lets_go, note_down
from ..floating_ip import FLOATING_IPS, tell_floating
from ..port import ACTIVE, DOWN, PORTS, ROUTER_OWNERS, Port
from ..router import ROUTERS, Router
from ..wiring import NETWORK_HOST, wake, wake_networks

log = logging.getLogger(__name__)
PERIOD_S = 5.0
RECONCILER = "network.routers"
MARGIN_S = 3.0  # between the end of a host's tenure and that of its lease: for the clocks of several controls
_ABSENT_S = 2 * PERIOD_S
_FEW = 64  # hosts looked at together
_ALL = 1 << 30
_looks: WeakKeyDictionary[Reconcilers, tuple[float, float]] = (
    WeakKeyDictionary()
)  # last, unbroken since


async def _up(db: Reader, now: float, names: Sequence[str]) -> set[str]:
    """Those of the hosts that are up."""
    return {h.id for h in await hosts_of(db, NETWORK_HOST, id=names) if h.is_up(now)}


async def _loads(db: Reader) -> Counter[str]:
    """How many routers each host has that has any."""
    rows = await ROUTERS.page(db, Page({}, (("id", False),), limit=_ALL), select=("host",))
    return Counter(host for (host,) in rows)


async def choose_hosts(db: Reader, now: float, most: int) -> list[str]:
    """The hosts that are up with the fewest routers. Few hosts are looked at, however many there are."""
    loads = await _loads(db)
    rows = await HOSTS.page(db, Page({}, (("id", False),), limit=_ALL), select=("id",))
    names = sorted((name for (name,) in rows), key=lambda name: loads[name])  # else by name
    return await _first_up(db, now, names, most)


async def _first_up(db: Reader, now: float, names: list[str], most: int) -> list[str]:
    found: list[str] = []
    for at in range(0, len(names), _FEW):
        up = await _up(db, now, names[at : at + _FEW])
        found += sorted(up, key=names.index)
        if len(found) >= most:
            break
    return found[:most]


async def _is_anybody_up(db: Reader, now: float, but: str = "") -> bool:
    rows = await HOSTS.page(
        db, Page({"id": Match("ne", but)}, (("id", False),), limit=_ALL), select=("id",)
    )
    return bool(await _first_up(db, now, [name for (name,) in rows], 1))


async def choose_host(db: Reader, now: float) -> str:
    """The least loaded host; "" if none is up."""
    return "".join(await choose_hosts(db, now, 1))


async def candidates_with(db: Reader, now: float, host: str) -> dict[str, int]:
    """The priorities of a router's host and of another, which is to take over."""
    others = [h for h in await choose_hosts(db, now, 2) if h != host]
    found = [h for h in (host, *others[:1]) if h]
    return {h: n for n, h in enumerate(reversed(found), 1)}


async def home_of(db: Reader, now: float, router: Router) -> str:
    """The highest of its candidates that is up; the least loaded host where none is; "" where that is none."""
    up = await _up(db, now, router.ranked) if router.candidates else set()
    return next((h for h in router.ranked if h in up), "") or await choose_host(db, now)


async def legs(db: Reader, router_id: str) -> list[Port]:
    """The router's ports, interfaces and gateway."""
    ports = await PORTS.all(db, device_id=router_id)
    return [p for p in ports if p.device_owner in ROUTER_OWNERS]


async def tenure(runtime: Runtime, host: str, ends: bool) -> float:
    """As `NetworkControl.tenure`. Raises NotFound."""
    store, now = runtime.store, runtime.world.clock.time()
    (known,) = await heard(store, [await HOSTS.get(store, host)])
    has_heirs = await _is_anybody_up(store, now, but=host)
    if ends or not has_heirs:
        await note_down(store, agent_id(host, ROUTERS_TYPE), lets_go=has_heirs)
    return known.seen_at + LEASE_S - MARGIN_S - now if has_heirs else inf


async def keep_placed(runtime: Runtime, key: str) -> None:
    """The standing fact. A control that was away itself, or heard nobody, has everybody heard first: for a lease."""
    clock = runtime.world.clock
    is_heard = await _is_anybody_up(runtime.store, clock.time())
    now = clock.monotonic()
    last, since = _looks.get(runtime.reconcilers, (-inf, now))
    since = since if is_heard and now < last + _ABSENT_S else now
    _looks[runtime.reconcilers] = now, since
    await place_routers(runtime, key, moves=now >= since + LEASE_S)


async def place_routers(runtime: Runtime, key: str, *, moves: bool = True) -> None:
    """Every router is on a host that is up, as long as there is one, and on the first of its candidates, as long as that
    is. Those of a host that does not let go stay, for somebody to move them. `moves`: not only those that are nowhere.
    """
    store, now = runtime.store, runtime.world.clock.time()
    used = sorted(await _loads(store)) if moves else [""]
    gone = set(used) - await _up(store, now, used) if used else set()
    away = Page({"preferred": Match("ne", "")}, (("id", False),), limit=_ALL)
    back = {host for (host,) in await ROUTERS.page(store, away, select=("preferred",))}
    back = await _up(store, now, sorted(back)) if back and moves else set()
    if not (gone or back) or not await choose_host(store, now):
        return
    stray = []
    for column, hosts in (("host", gone), ("preferred", back)):  # the next run takes the rest
        page = Page({column: sorted(hosts), "parked": 0}, limit=100)
        stray += await ROUTERS.list(store, page) if hosts else []
    for router in stray:
        async with store.tx() as tx:
            router = await ROUTERS.get(tx, router.id)
            host = await home_of(tx, now, router)
            if router.parked or host in ("", router.host):
                continue
            if await _up(tx, now, [router.host]):
                if host not in router.candidates:
                    continue  # it was heard again
            elif not await lets_go(tx, router.host):
                log.warning(
                    "router %s stays on %s, which may have it still", router.id, router.host
                )
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

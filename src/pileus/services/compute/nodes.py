"""Compute nodes: what each host has, whether it may be given servers, and whether it is alive.

A node is at once what the API calls a service (`os-services`) and a hypervisor (`os-hypervisors`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, replace

from pileus.kernel.faults import NotFound
from pileus.kernel.hosts import START_S, Host, hosts_of
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Page, Reader, Record, Table, Unique
from pileus.services.compute.agent_contract import COMPUTE_HOST
from pileus.services.compute.aggregates import Aggregate, aggregates_of, zone_in, zones_of
from pileus.services.compute.driver import Inventory
from pileus.services.compute.settings import settings_of

INTERNAL_ZONE = "internal"
_BY_NUMBER = (("number", False), ("id", False))
_SLICE = 500  # nodes decoded before others have a turn


class Node(Record, kw_only=True, frozen=True):
    """`id` is the hypervisor's UUID, `service_id` the service's; `number` is both before 2.53."""

    host: str
    service_id: str
    number: int
    inventory: Inventory
    disabled: bool = False
    disabled_reason: str | None = None
    forced_down: bool = False


NODES = Table(
    "compute_nodes",
    Node,
    columns=("host", "service_id", "number"),
    indexes=(("number",), ("service_id",)),
    unique=(Unique(("host",), lambda n: f"Compute host {n.host} already exists."),),
)


@dataclass(frozen=True)
class Place:
    """A node with what is known about it now."""

    node: Node
    beat: Host | None
    zone: str
    is_up: bool
    aggregates: Sequence[Aggregate] = ()

    @property
    def state(self) -> str:
        return "up" if self.is_up else "down"

    @property
    def status(self) -> str:
        return "disabled" if self.node.disabled else "enabled"

    @property
    def shown(self) -> str:
        """As a server's `host_status`."""
        if self.node.disabled:
            return "MAINTENANCE"
        return "UP" if self.is_up else "DOWN" if self.node.forced_down else "UNKNOWN"

    @property
    def why_not(self) -> str:
        """Why it gets no servers, "" if it may."""
        if self.node.disabled:
            return f"disabled ({self.node.disabled_reason or 'no reason given'})"
        return "" if self.is_up else "down"


async def slices(
    runtime: Runtime, hosts: Collection[str] | None = None, first: int = _SLICE
) -> AsyncIterator[list[Place]]:
    """Compute nodes by number, those of the hosts or all, in growing slices."""
    page = Page({} if hosts is None else {"host": sorted(hosts)}, _BY_NUMBER, limit=first)
    while True:
        nodes = await NODES.list(runtime.store, page)
        yield await _placed(runtime, nodes)
        if len(nodes) < page.limit:
            return
        page = replace(page, marker=nodes[-1].id, limit=min(_SLICE, page.limit * 2))
        await runtime.world.clock.sleep(0)  # others have their turn


async def places(runtime: Runtime, hosts: Collection[str] | None = None) -> list[Place]:
    return [place async for some in slices(runtime, hosts) for place in some]


async def place(runtime: Runtime, host: str) -> Place:
    """One of them. Raises NotFound."""
    found = await places(runtime, [host])
    if not found:
        raise NotFound(f"Compute host {host} could not be found.")
    return found[0]


async def _placed(runtime: Runtime, nodes: Sequence[Node]) -> list[Place]:
    """With what is known of them now."""
    names = [n.host for n in nodes]
    beats = {h.id: h for h in await hosts_of(runtime.store, COMPUTE_HOST, id=names)}
    groups = await aggregates_of(runtime.store)
    default, now = settings_of(runtime).default_zone, runtime.world.clock.time()
    found = []
    for node in nodes:
        beat, own = beats.get(node.host), groups.get(node.host, ())
        is_up = _is_up(node, beat, now)
        found.append(Place(node, beat, zone_in(own) or default, is_up, own))
    return found


def _is_up(node: Node, beat: Host | None, now: float) -> bool:
    return beat is not None and beat.is_up(now) and not node.forced_down


def as_back(places: Sequence[Place]) -> list[Place]:
    """Those that may soon be back, as they are then: silent no longer than a start may take before the last word of any.

    So all are where the cloud itself was away, and one that was lost while others went on is not.
    """
    last = max((p.beat.seen_at for p in places if p.beat), default=0.0)
    return [
        replace(p, is_up=True)
        for p in places
        if not p.is_up and not p.node.forced_down and p.beat and p.beat.is_up(last, START_S)
    ]


async def zone_of(runtime: Runtime, host: str) -> str:
    return (await zones_of(runtime.store)).get(host, settings_of(runtime).default_zone)


async def is_up(runtime: Runtime, host: str) -> bool:
    """Whether the host has been heard of lately."""
    _, beat = await _node_and_beat(runtime.store, host)
    return beat is not None and beat.is_up(runtime.world.clock.time())


async def is_serving(runtime: Runtime, host: str) -> bool:
    """The same, and nobody has said that it is down."""
    node, beat = await _node_and_beat(runtime.store, host)
    return node is not None and _is_up(node, beat, runtime.world.clock.time())


async def host_statuses(runtime: Runtime, hosts: Collection[str]) -> dict[str, str]:
    """`UP`, `DOWN`, `UNKNOWN` or `MAINTENANCE` by host."""
    return {p.node.host: p.shown for p in await places(runtime, hosts)}


async def host_status(runtime: Runtime, host: str) -> str:
    """The same of one host, "" if none has that name; it doesn't cost more the more hosts there are."""
    memo, key = runtime.store.memo, ("host_status", host)
    known = None if memo is None else memo.get(key)
    if known is None:
        known = await _node_and_beat(runtime.store, host)
        if memo is not None:
            memo[key] = known
    node, beat = known
    if node is None:
        return ""
    return Place(node, beat, "", _is_up(node, beat, runtime.world.clock.time())).shown


async def _node_and_beat(db: Reader, host: str) -> tuple[Node | None, Host | None]:
    node = await NODES.one(db, host=host)
    beats = await hosts_of(db, COMPUTE_HOST, id=host)
    return node, beats[0] if beats else None

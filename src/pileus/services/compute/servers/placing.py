"""Where a server goes: placement says where there is room, `scheduling` who may have it and who is best."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_network
from typing import Any
from weakref import WeakKeyDictionary

from msgspec.structs import replace

from pileus.kernel.faults import Fault, NoCapacity, Stale, Unavailable
from pileus.kernel.runtime import Runtime
from pileus.kernel.sagas import Changes, Run
from pileus.kernel.store import Page, Store
from pileus.services.compute import nodes, scheduling, server_groups
from pileus.services.compute.aggregates import zones_of
from pileus.services.compute.scheduling import Ask, Seat
from pileus.services.compute.server import SERVERS, Server
from pileus.services.compute.servers import noting, states
from pileus.services.compute.servers.demands import demand_of
from pileus.services.compute.settings import settings_of
from pileus.services.network.contract import NETWORK, Needs, NicRequest
from pileus.services.placement.contract import PLACEMENT, Demand, Group, Offer, refusal

__all__ = ["demand_of", "find_place", "place", "sit", "unplace", "vacate"]
log = logging.getLogger(__name__)
_MOMENT_S = 1.0
_REMEMBERED = 16  # refusals


@dataclass
class _Lately:
    """What was asked, when it was refused and why; `look`: whose turn it is to look beyond the first hosts.

    Many that ask at once where nobody serves would each look at all there are, and no sign of life be heard meanwhile.
    """

    refused: dict[str, tuple[float, type[Fault], dict[str, str]]] = field(default_factory=dict)
    look: asyncio.Lock = field(default_factory=asyncio.Lock)

    def since(self, key: str, moment: float) -> bool:
        return key in self.refused and self.refused[key][0] >= moment


_LATELY: WeakKeyDictionary[Store, _Lately] = WeakKeyDictionary()


async def place(run: Run[Server]) -> Changes:
    host, zone = await find_place(run, run.record)
    return {"host": host, "zone": zone, "task_state": states.NETWORKING}


async def find_place(run: Run[Server], server: Server, leaving: str = "") -> tuple[str, str]:
    """Takes room on a host for the server as given, and a seat in its group; the host and its zone.

    `leaving`: the host it goes away from. Raises NoCapacity, which tells how many hosts were passed over and why, and
    the administrators which ones; or says the same as Unavailable, to be asked again, where a host may soon return.
    """
    needs = await _needs(run, server)
    ask = await _asking(run.runtime, server, leaving, needs.hosts)
    demand = _besides(demand_of(server.flavor, server.image), needs)
    host = await _took(run, ask, demand)
    await sit(run, server, host)
    zones = await zones_of(run.runtime.store)
    return host, zones.get(host, settings_of(run.runtime).default_zone)


async def with_ports(run: Run[Server], server: Server, demand: Demand) -> Demand:
    """The demand, and what the server's ports were promised of a host's network."""
    return _besides(demand, await _needs(run, server))


async def _needs(run: Run[Server], server: Server) -> Needs:
    """Of the ports that it has; of those that it asks for, before it has any."""
    is_new = server.vm_state == states.BUILDING
    own = [NicRequest(port_id=nic.port_id) for nic in server.nics]
    return await run.peer(NETWORK).needs(server.networks if is_new else own)


def _besides(demand: Demand, needs: Needs) -> Demand:
    groups = _groups(needs)
    return replace(demand, groups={**demand.groups, **groups}) if groups else demand


def _groups(needs: Needs) -> dict[str, Group]:
    return {
        r.id: Group(resources=r.resources, required=frozenset(r.required))
        for r in needs.reservations
    }


async def promised(run: Run[Server], port_ids: Iterable[str]) -> dict[str, Group]:
    """What QoS policies keep of a host's network for these ports."""
    return _groups(await run.peer(NETWORK).needs([NicRequest(port_id=id) for id in port_ids]))


async def claim_here(run: Run[Server], demand: Demand, holder: str) -> str:
    """Room on the server's own host, held by `holder`. Raises NoCapacity."""
    server = run.record
    claim = run.peer(PLACEMENT).claim
    return await claim(holder, demand, [server.host], server.project_id, server.user_id)


async def _asking(
    runtime: Runtime, server: Server, leaving: str, wired: Collection[str] | None
) -> Ask:
    """With what the scheduler hints say of other servers and of addresses."""
    hints = server.scheduler_hints
    near = None
    if address := hints.get("build_near_host_ip"):
        near = ip_network(f"{address}{hints.get('cidr') or '/24'}", strict=False)
    same = _ids(hints.get("same_host"))
    return Ask(
        server,
        group=await server_groups.group_of(runtime.store, server.group),
        leaving=leaving,
        apart=await _hosts_of(runtime, server, _ids(hints.get("different_host"))),
        beside=await _hosts_of(runtime, server, same) if same else None,
        near=near,
        wired=wired,
    )


def _ids(hint: Any) -> list[str]:
    return [hint] if isinstance(hint, str) and hint else list(hint or [])


async def _hosts_of(runtime: Runtime, server: Server, ids: list[str]) -> frozenset[str]:
    """Where those of the project's servers are."""
    if not ids:
        return frozenset()
    page = Page({"id": ids, "project_id": server.project_id}, limit=len(ids))
    rows = await SERVERS.page(runtime.store, page, select=("host",))
    return frozenset(host for (host,) in rows if host)


async def _took(run: Run[Server], ask: Ask, demand: Demand) -> str:
    """The host whose room was taken. A step that runs again finds what it took before. Raises as `_refused` says.

    Of several that are placed at once each takes another host, but where they shall share one.
    """
    lately = _LATELY.setdefault(run.runtime.store, _Lately())
    key, began = _key(ask, demand), run.runtime.world.clock.monotonic()
    server, stack = ask.server, settings_of(run.runtime).stack
    shares = stack or ask.likes_company
    take = partial(run.peer(PLACEMENT).take, server.id)
    is_mine = False
    async with AsyncExitStack() as turn:
        async for offers in _offers(run, ask, demand):
            by_host = {offer.host: offer for offer in offers}
            places = await nodes.places(run.runtime, by_host)
            seats = [
                Seat(p, by_host[p.node.host].room) for p in places if not scheduling.why_not(ask, p)
            ]
            best = [by_host[s.place.node.host] for s in scheduling.ranked(ask, seats, stack=stack)]
            for some in [[offer] for offer in best] if shares else [best]:
                if some and (host := await take(some, server.project_id, server.user_id)):
                    return host
            if not is_mine:
                await turn.enter_async_context(lately.look)
                is_mine = True
            if lately.since(key, began):
                break
        if host := await take((), server.project_id, server.user_id):
            return host
        raise await _refused(run, ask, demand, lately)


async def _offers(run: Run[Server], ask: Ask, demand: Demand) -> AsyncIterator[list[Offer]]:
    """Of few hosts, where it is known who they must be; first of those where a soft policy has company."""
    placement, stack = run.peer(PLACEMENT), settings_of(run.runtime).stack
    if ask.likes_company and ask.seats:
        async for offers in placement.offers(demand, among=set(ask.seats), stack=stack):
            yield offers
    async for offers in placement.offers(demand, among=await _among(run.runtime, ask), stack=stack):
        yield offers


async def _among(runtime: Runtime, ask: Ask) -> Collection[str] | None:
    """The hosts that it must be one of; None: any."""
    server = ask.server
    if server.requested_host:
        return {server.requested_host}
    if ask.group and ask.group.policy == "affinity" and ask.seats:
        return set(ask.seats)
    if ask.beside is not None:
        return ask.beside
    if server.pinned_zone not in ("", settings_of(runtime).default_zone):
        zones = await zones_of(runtime.store)
        return {host for host, zone in zones.items() if zone == server.pinned_zone}
    return ask.wired


def _key(ask: Ask, demand: Demand) -> str:
    """The same of those that ask alike."""
    hinted = (ask.apart, ask.beside, ask.near, ask.wired)
    return repr((demand, ask.group, ask.leaving, *hinted, _shape(ask.server)))


async def _refused(run: Run[Server], ask: Ask, demand: Demand, lately: _Lately) -> Fault:
    """Every host is asked why, one by one; those that ask alike within a moment share the answer."""
    key, clock = _key(ask, demand), run.runtime.world.clock
    if lately.since(key, clock.monotonic() - _MOMENT_S):
        log.info("server %s: no valid host, as it was told of another", ask.server.id)
    else:
        kind, reasons = await _reasons(run, ask, demand)
        log.info("server %s: no valid host: %s", ask.server.id, reasons)
        if len(lately.refused) >= _REMEMBERED:
            lately.refused.clear()
        lately.refused[key] = (clock.monotonic(), kind, reasons)
    _, kind, reasons = lately.refused[key]
    why = refusal(reasons)
    return kind(why.message, internal=why.internal)


async def _reasons(
    run: Run[Server], ask: Ask, demand: Demand
) -> tuple[type[Fault], dict[str, str]]:
    """By host; and NoCapacity, or Unavailable where one that is down could have it and may soon be back."""
    places, placement = await nodes.places(run.runtime), run.peer(PLACEMENT)
    reasons = {p.node.host: scheduling.why_not(ask, p) for p in places}
    open_to_it = [host for host, why in reasons.items() if not why]
    reasons |= await placement.why_not(demand, open_to_it)
    back = {p.node.host for p in nodes.as_back(places) if not scheduling.why_not(ask, p)}
    if back:
        async for _ in placement.offers(demand, among=back):
            return Unavailable, reasons
    return NoCapacity, reasons


def _shape(server: Server) -> tuple[object, ...]:
    """What filters read of a server."""
    image = server.image.properties if server.image else {}
    specs = server.flavor.extra_specs
    return (server.project_id, server.pinned_zone, server.requested_host, image, specs)


async def sit(run: Run[Server], server: Server, host: str) -> None:
    """Raises Stale, to be placed anew, where another member was faster."""
    if not server.group:
        return
    async with run.runtime.store.tx(wait=False) as tx:
        seated = await server_groups.sit(tx, server.group, server.id, host)
    if not seated:
        await run.peer(PLACEMENT).release(server.id)
        await run.runtime.store.sync()
        raise Stale(f"Another server of group {server.group} took its place on {host}.")


async def unplace(run: Run[Server]) -> None:
    await vacate(run)
    await noting.failure(run)


async def vacate(run: Run[Server]) -> None:
    """Gives back the room, and the seat in the group."""
    server = run.record
    await run.peer(PLACEMENT).release(server.id)
    if server.group:
        async with run.runtime.store.tx(wait=False) as tx:
            await server_groups.sit(tx, server.group, server.id, "")

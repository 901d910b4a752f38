"""The network driver for Linux: bridges, taps, VXLAN, nftables, and this process as DHCP, DNS and
metadata server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from pileus.host import conntrack
from pileus.host import netlink_wire as wire
from pileus.host.netlink import Netlink
from pileus.host.netns import Namespaces
from pileus.host.nflog import LoggedPackets
from pileus.host.ruleset import LiveTable
from pileus.kernel.faults import Fault
from pileus.kernel.world import World
from pileus.services.network.driver import HostNetwork, Metadata, Observed, PortSpec
from pileus.services.network.drivers.linux import connections, filters, plan, underlay
from pileus.services.network.drivers.linux.examination import examine
from pileus.services.network.drivers.linux.fence import Fence
from pileus.services.network.drivers.linux.filters import ACCEPTED
from pileus.services.network.drivers.linux.forwarding import Forwarder
from pileus.services.network.drivers.linux.machine import Machine
from pileus.services.network.drivers.linux.metering import Meters
from pileus.services.network.drivers.linux.names import Names
from pileus.services.network.drivers.linux.plan import Plan
from pileus.services.network.drivers.linux.routers import Advertiser, Routing, want_router
from pileus.services.network.drivers.linux.segments import want_segment, want_tap
from pileus.services.network.drivers.linux.serving import (
    NetworkService,
    Offer,
    want_service_namespace,
)

packet_log = logging.getLogger("pileus.packets")


@dataclass(frozen=True, kw_only=True)
class Options:
    """`home` holds bridges and taps ("" is the process's own namespace, where QEMU runs).

    `home` and `underlay` are names in the folder `namespaces`, or absolute paths.
    """

    prefix: str = "pl"  # tells instances on one machine apart: up to three characters
    underlay: str = "underlay"  # made a name of the process's own namespace if nobody made it
    home: str = ""
    namespaces: Path = Path("/run/netns")
    tap_owner: int | None = None  # the user that QEMU runs as
    vxlan_port: int = 4789  # two instances in one underlay need two ports
    gateway_here: bool = True  # this machine holds the external subnets' gateway addresses
    open_ports: tuple[int, ...] = ()  # TCP ports of this machine that guests may reach
    physical: Mapping[str, str] = field(default_factory=dict)  # devices of the underlay, by network
    resolvers: tuple[str, ...] = ()  # who answers guests' questions about foreign names


class LinuxNetworkDriver:
    """One per host process. `changes` counts what was done to the kernel's network so far."""

    def __init__(self, metadata: Metadata, *, options: Options, world: World | None = None) -> None:
        self._options = options
        self._metadata = metadata
        self._names = Names(options.prefix)
        self._machine = Machine(
            self._names,
            Namespaces(options.namespaces),
            home=options.home,
            underlay=options.underlay,
        )
        world = world or World()
        self._fence = Fence(self._machine, world.clock)
        self._forwarder = Forwarder(options.resolvers, world.random)
        names, machine = self._names, self._machine
        self._bridge_table = LiveTable(filters.bridge_table(names.table), machine.home_rules)
        self._tracking = LiveTable(filters.tracking_table(names.table), machine.home_rules)
        self._guard = LiveTable(
            underlay.guard(names.underlay_table, options.open_ports), machine.underlay_rules
        )
        self._lock = asyncio.Lock()
        self._zones: dict[str, int] = {}
        self._kept = plan.Kept()
        self._plan: Plan | None = None
        self._applied: HostNetwork | None = None
        self._is_whole = False  # did the last apply make everything that it meant to?
        self._done: dict[str, object] = {}
        self._devices: dict[str, set[str]] = {"home": set(), "underlay": set()}
        self._services: dict[str, NetworkService] = {}
        self._advertisers: dict[str, Advertiser] = {}
        self._meters = Meters(machine)
        self._logged: LoggedPackets | None = None

    @property
    def changes(self) -> int:
        tables = (self._bridge_table, self._tracking, self._guard)
        return self._machine.changes + sum(table.changes for table in tables)

    async def start_up(self) -> None:
        await self._machine.start_up()

    async def apply(self, desired: HostNetwork) -> Observed:
        async with self._lock:
            if self._plan is None:
                await self._survey()
            elif await self._is_made(desired):
                return self._observed(desired, self._plan)
            # A large document takes a while to plan: not on the loop, which serves guests.
            parts = (desired, self._zones, self._kept)
            machine, physical = self._machine, self._options.physical
            planning = partial(plan.plan_for, *parts, queues=machine.queues, physical=physical)
            goal = await self._machine.namespaces.call("", planning)
            self._is_whole = False
            await self._remove(goal)
            await self._listen(goal)
            await self._write_rules(goal)
            await self._fence.want(plan.router_ends(goal, self._names))
            await self._end_connections(goal)
            await self._realise(goal)
            self._plan, self._applied = goal, _without_revision(desired)
            return self._observed(desired, goal)

    async def _is_made(self, desired: HostNetwork) -> bool:
        """Whether the machine is so already, or is so now because only rules had to change."""
        before, known = self._plan, self._applied
        if before is None or known is None or not self._is_whole:
            return False
        if _without_revision(desired) == known:
            return True
        goal = plan.regrouped(before, known, desired)
        if goal is None:
            return False
        altered = [g for id, g in goal.groups.items() if g is not before.groups[id]]
        fragments = plan.group_fragments(goal, altered)
        if len(fragments) < len(altered):
            return False
        self._is_whole = False
        if await self._machine.at_home(lambda _: self._bridge_table.alter(fragments)):
            return False
        await self._end_connections(goal)
        self._plan, self._applied, self._is_whole = goal, _without_revision(desired), True
        return True

    async def hold(self, until: float, routers: Collection[str]) -> None:
        await self._fence.hold(until, routers)  # whatever is being applied meanwhile

    async def sweep(self) -> None:
        async with self._lock:
            await self._survey()
            await self._remove(self._plan or Plan())
            if self._plan is None or not self._plan.segments:
                await self._remove_rules()

    async def metered(self) -> dict[str, tuple[int, int]]:
        async with self._lock:
            return await self._meters.taken()

    async def examine(self, ids: Sequence[str], addresses: Sequence[str]) -> dict[str, str]:
        async with self._lock:
            return await examine(self._machine, self._plan or Plan(), ids, addresses)

    async def close(self) -> None:
        async with self._lock:
            for service in self._services.values():
                await service.close()
            for advertiser in self._advertisers.values():
                advertiser.close()
            self._services, self._advertisers = {}, {}
            if self._logged is not None:
                asyncio.get_running_loop().remove_reader(self._logged.socket)
                self._logged.close()
                self._logged = None
            await self._forwarder.close()
            await self._machine.close()

    def _observed(self, desired: HostNetwork, goal: Plan) -> Observed:
        wired = {id: f"port/{id}" in self._done and p.admin_up for id, p in goal.guests.items()}
        ports = {p.id: wired.get(p.id, p.id not in goal.errors) for p in desired.ports}
        return Observed(revision=desired.revision, ports=ports, errors=goal.errors)

    async def _survey(self) -> None:
        """What of ours is on the machine: devices by their alias, zones from the bridges' aliases."""
        names = self._names
        at_home = await self._machine.at_home(Netlink.links)
        ours = [link for link in at_home.values() if names.is_our_device(link.name, link.alias)]
        outer = await self._machine.at_underlay(Netlink.links)
        self._devices["home"] |= {link.name for link in ours}
        found = {link.name for link in outer.values() if names.is_our_device(link.name, link.alias)}
        self._devices["underlay"] |= found
        if self._machine.same_namespace:
            everywhere = self._devices["home"] | self._devices["underlay"]
            self._devices = {"home": everywhere, "underlay": set()}
        for link in ours:
            id, zone = names.network_of(link.alias)
            if zone:
                self._zones.setdefault(id, zone)

    async def _remove(self, goal: Plan) -> None:
        """Whatever is ours and not in the goal."""
        wanted = {
            "home": plan.home_devices(goal, self._names),
            "underlay": plan.underlay_devices(goal, self._names),
        }
        if self._machine.same_namespace:
            wanted["home"] |= wanted["underlay"]
        for id in [id for id in self._advertisers if id not in goal.routings]:
            self._advertisers.pop(id).close()
        served = {id for id, segment in goal.segments.items() if segment.has_guests}
        for id in [id for id in self._services if id not in served]:
            await self._services.pop(id).close()
        for place, visit in (
            ("home", self._machine.at_home),
            ("underlay", self._machine.at_underlay),
        ):
            if gone := self._devices[place] - wanted[place]:
                await visit(partial(_delete_all, gone, self._names))
                self._devices[place] -= gone
        await self._meters.keep(goal.routings)
        spaces = plan.namespaces(goal, self._names)
        for name in self._machine.namespaces.names() - spaces:
            if self._names.is_our_namespace(name):
                await self._machine.namespaces.remove(name)
                self._machine.changes += 1

    async def _write_rules(self, goal: Plan) -> None:
        """All rules at once and before any device: a port without rules passes nothing."""
        names = self._names

        def write_home(_: Netlink) -> dict[str, str]:
            self._tracking.write(plan.tracking_fragments(goal, names))
            return self._bridge_table.write(plan.bridge_fragments(goal, names))

        outer = plan.underlay_fragments(goal, names)
        await self._machine.at_underlay(lambda _: self._guard.write(outer))
        refused = await self._machine.at_home(write_home)
        goal.errors.update(refused)
        self._is_whole = not refused
        for id in refused:
            goal.guests.pop(id, None)

    async def _listen(self, goal: Plan) -> None:
        """Before rules that have packets written down there is one who does it; or ports go without."""
        wanted = [p for p in goal.guests.values() if p.logs]
        if self._logged is not None or not wanted:
            return
        opening = partial(LoggedPackets, self._names.log_group)
        try:
            self._logged = await self._machine.at_home(lambda _: opening())
        except (wire.Refused, OSError) as error:
            goal.guests |= {p.id: msgspec.structs.replace(p, logs=()) for p in wanted}
            goal.errors |= {p.id: f"Its packets cannot be logged: {error}." for p in wanted}
            return
        asyncio.get_running_loop().add_reader(self._logged.socket, self._write_down)

    def _write_down(self) -> None:
        guests = self._plan.guests if self._plan else {}
        for prefix, packet in self._logged.read() if self._logged else ():
            decision, _, mark = prefix.partition(" ")
            port = guests.get(mark[1:].replace("_", "-"))
            if port is not None:
                packet_log.info("%s pkt=%s", _heading(decision, port), packet)

    async def _end_connections(self, goal: Plan) -> None:
        judgement = connections.judge(self._plan, goal)
        if (places := judgement.places) != set():
            forget = partial(conntrack.forget, judgement.unwanted, places)
            self._machine.changes += await self._machine.at_home(lambda _: forget())

    async def _remove_rules(self) -> None:
        await self._fence.want({})
        await self._machine.at_home(lambda _: self._bridge_table.remove())
        await self._machine.at_home(lambda _: self._tracking.remove())
        await self._machine.at_underlay(lambda _: self._guard.remove())

    async def _realise(self, goal: Plan) -> None:
        """Each object whose inputs changed since it was last made; one that fails is tried again
        next time.
        """
        before, self._done = self._done, {}
        for work in self._works(goal):
            if before.get(work.key) != work.inputs:
                try:
                    await work.job()
                except (Fault, OSError) as error:
                    goal.errors[work.id] = _sentence(error)
                    self._is_whole = False
                    continue
            self._done[work.key] = work.inputs
        self._devices["home"] |= plan.home_devices(goal, self._names)
        outer = plan.underlay_devices(goal, self._names)
        self._devices["home" if self._machine.same_namespace else "underlay"] |= outer

    def _works(self, goal: Plan) -> Iterator[Work]:
        options, machine = self._options, self._machine
        for id, segment in goal.outer.items():
            job = partial(underlay.want_outer, machine, segment, gateway_here=options.gateway_here)
            yield Work(f"outer/{id}", (segment.network, segment.device), job)
        for id, segment in goal.segments.items():
            job = partial(want_segment, machine, segment, vxlan_port=options.vxlan_port)
            yield Work(f"network/{id}", segment, job)
        for id, port in goal.guests.items():
            network = goal.segments[port.network_id].network
            place = (port.admin_up, network.id, network.mtu, port.parent, port.vlan)
            inputs = (place, port.limits)
            job = partial(want_tap, machine, port, network, owner=options.tap_owner)
            yield Work(f"port/{id}", inputs, job)
        for id, segment in goal.segments.items():
            if segment.has_guests:
                offer = goal.offers[id]
                yield Work(f"service/{id}", offer, partial(self._serve, offer))
        for id, routing in goal.routings.items():
            yield Work(f"router/{id}", routing, partial(self._route, routing))

    async def _serve(self, offer: Offer) -> None:
        id = offer.network.id
        service = self._services.get(id)
        if service is None or service.offer.wiring != offer.wiring:
            await want_service_namespace(self._machine, offer)
        if service is None:
            service = NetworkService(offer, self._metadata, self._forwarder)
            await service.start(self._machine)
            self._services[id] = service
        service.replace(offer)

    async def _route(self, routing: Routing) -> None:
        await want_router(self._machine, routing)
        router = routing.router
        await self._meters.want(router)
        before = self._plan.routings.get(router.id) if self._plan else None
        unwanted = connections.lost_floating(before.router if before else None, router)
        if unwanted:
            namespace = self._names.router_namespace(router.id)
            await self._machine.namespaces.call(namespace, partial(conntrack.forget, unwanted))
        advertiser = self._advertisers.setdefault(router.id, Advertiser())
        await advertiser.replace(self._machine, routing)


def _heading(decision: str, port: PortSpec) -> str:
    """As Neutron's own agents begin such a line."""
    asked = [n for n in port.logs if (n.accepted if decision == ACCEPTED else n.dropped)]
    ids = ", ".join(sorted(n.id for n in asked))
    owner = asked[0].project_id if asked else ""
    return f"action={decision} project_id={owner} log_resource_ids=[{ids}] vm_port={port.id}"


@dataclass(frozen=True)
class Work:
    """One object to be made, when its inputs are not those it was last made of."""

    key: str  # kind/id
    inputs: object
    job: Callable[[], Awaitable[None]]

    @property
    def id(self) -> str:
        return self.key.partition("/")[2]


def _sentence(error: Fault | OSError) -> str:
    return error.message if isinstance(error, Fault) else f"The kernel refused: {error}."


def _delete_all(gone: set[str], names: Names, link: Netlink) -> None:
    underlay.unwire(link, filter(names.is_wire, gone))
    link.delete_all(sorted(gone))


def _without_revision(desired: HostNetwork) -> HostNetwork:
    return msgspec.structs.replace(desired, revision=0)

"""A host's network agent: fetches what the host should be, has the driver make it so, and reports."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from math import inf
from typing import Any

import msgspec

from pileus.host.metadata import Answer, Request
from pileus.kernel.agents import CONTROL
from pileus.kernel.faults import Fault, Unavailable
from pileus.kernel.hosts import LEASE_S, HostRuntime
from pileus.kernel.reconcile import Reconcilers

from .contract import GUEST_METADATA
from .control import decode_document, digest_of, encode_document
from .desired import HostDocument
from .driver import GroupSpec, HostNetwork, NetworkDriver, Observed, RuleSpec
from .routers.placement import MARGIN_S
from .segment import WIRED
from .settings import NetworkSettings
from .wiring import NETWORK_CONTROL, NETWORK_HOST, Traffic

log = logging.getLogger(__name__)
_PERIOD_S = 30.0  # hints may be lost
_EMPTY_S = 300.0  # of a host with nothing on it, whose first guest asks for itself
_METERED_S = 60.0
_TENURE_S = 4.0
_GATHER_S = 0.03  # hints come in swarms; whoever cannot wait calls `sync`
_TRIES = 8
_AT_ONCE = 2000  # ids in one report


class NetworkAgent:
    """Keeps `wiring.NetworkHost` on one host."""

    def __init__(self, host: HostRuntime) -> None:
        self.host = host
        self.driver = _driver(host, self.metadata)
        self.observed = Observed(revision=0)
        self._document = HostDocument(network=HostNetwork(host=host.name, revision=0))
        self._digest = ""
        self._applied: HostNetwork | None = None
        self._until = -inf  # when the routers here are to fall silent, if control is not heard
        self._ends = False  # does the kernel know that?
        self._lock = asyncio.Lock()
        self._asked = self._served = 0
        self._loop = Reconcilers(host.world)
        self._ready, self._is_hinted = asyncio.Event(), False
        self._looked_at = -_EMPTY_S
        self._passed: dict[str, tuple[int, int]] = {}
        self._metered_at = host.world.clock.monotonic()

    async def start(self) -> dict[str, Any]:
        if not self._ready.is_set():
            await self.driver.start_up()
            self._loop.add("network", _PERIOD_S, self._run)
            self._loop.add("network.tenure", _TENURE_S, self._stay)
            self._loop.add("network.meters", _METERED_S, self._tell_metered)
            await self.host.agents.on_hint(NETWORK_HOST, self.host.name, self._hint)
            self._ready.set()
        await self.refresh()
        await self.driver.sweep()
        await self._loop.start()
        driver = "fake" if self.host.driver == "fake" else "linux"
        return {"network_driver": driver, WIRED: sorted(_devices(self.host))}

    async def stop(self) -> None:
        await self._loop.stop()
        await self.driver.close()

    async def forget(self) -> None:
        """Removes every device, namespace and rule of this host."""
        await self.driver.start_up()
        await self.driver.apply(HostNetwork(host=self.host.name, revision=0))
        await self.driver.sweep()
        await self.driver.close()

    async def sync(self, port_ids: list[str]) -> Observed:
        await self._ready.wait()  # a control that starts with us goes on with what it finds at once
        await self.refresh()
        seen = self.observed
        wanted = set(port_ids)
        return Observed(
            revision=seen.revision,
            ports={id: up for id, up in seen.ports.items() if id in wanted},
            errors={id: text for id, text in seen.errors.items() if id in wanted},
        )

    async def regroup(self, group_id: str, rules: list[RuleSpec]) -> None:
        async with self._lock:
            before = self._document.network
            groups = tuple(
                msgspec.structs.replace(g, rules=tuple(rules)) if g.id == group_id else g
                for g in before.groups
            )
            if groups != before.groups:
                network = msgspec.structs.replace(before, groups=groups)
                self._document = msgspec.structs.replace(self._document, network=network)
                self._digest = ""
                await self._apply()
            known, named = {g.id for g in before.groups}, _named(before.groups)
            if group_id not in known or not named.issuperset(r.remote_group for r in rules):
                self._hint()  # what is not here yet, members above all, comes with the document

    async def examine(self, ids: list[str], addresses: list[str]) -> dict[str, str]:
        await self._ready.wait()
        return await self.driver.examine(ids, addresses)

    def _hint(self) -> None:
        self._is_hinted = True
        self._loop.hint("network")

    async def _run(self, key: str) -> None:
        clock, wanted = self.host.world.clock, self._document.network
        is_empty = not (wanted.ports or wanted.routers or self.observed.errors)
        if is_empty and not self._is_hinted and clock.monotonic() < self._looked_at + _EMPTY_S:
            return
        self._is_hinted, self._looked_at = False, -_EMPTY_S  # due until it has worked
        await clock.sleep(_GATHER_S)
        await self.refresh()
        self._looked_at = clock.monotonic()

    async def _tell_metered(self, key: str) -> None:
        """What control could not be told stays to be told."""
        now = self.host.world.clock.monotonic()
        for id, (packets, octets) in (await self.driver.metered()).items():
            before = self._passed.get(id, (0, 0))
            self._passed[id] = before[0] + packets, before[1] + octets
        told = {
            id: Traffic(packets=packets, octets=octets, span_s=now - self._metered_at)
            for id, (packets, octets) in self._passed.items()
        }
        if told:
            await self.host.agents.proxy(NETWORK_CONTROL, CONTROL).metered(self.host.name, told)
        self._passed.clear()
        self._metered_at = now

    async def refresh(self) -> None:
        """Returns when the host is what control wanted at the time of the call, or later. Calls share the work."""
        self._asked += 1
        mine = self._asked
        async with self._lock:
            if self._served >= mine:
                return
            served = self._asked
            await self._fetch()
            if self._document.network.routers and self._is_over:
                await self._ask_tenure()
                await self._fetch()  # what another host has meanwhile is not held again
                await self._hold()
            await self._apply()
            await self._report()
            self._served = served

    @property
    def _is_over(self) -> bool:
        return self.host.world.clock.monotonic() >= self._until

    async def _stay(self, key: str) -> None:
        """Puts off the end of the routers here, or takes them up again."""
        if not self._document.network.routers:
            return
        if self._is_over:
            await self.refresh()
        else:
            await self._ask_tenure()
            await self._hold()

    async def _ask_tenure(self) -> None:
        """Without an answer this host goes on: better two that have a router, where control hears all but us, than none
        wherever the bus is down. A control that was away moves no routers before it has heard hosts for a lease.
        """
        begun = self.host.world.clock.monotonic()
        control = self.host.agents.proxy(NETWORK_CONTROL, CONTROL)
        try:
            async with asyncio.timeout(_TENURE_S):
                left_s = await control.tenure(self.host.name, self._ends)
        except (Fault, TimeoutError):
            log.warning("control does not say whose the routers of %s are", self.host.name)
            left_s = inf if self._until == inf else LEASE_S - MARGIN_S  # no heir, and control knows
        if left_s > 0:  # less than it said before: a beat is on its way
            until = begun + left_s
            self._until = until if self._until == inf else max(until, self._until)

    async def _hold(self) -> None:
        await self.driver.hold(self._until, [r.id for r in self._document.network.routers])
        self._ends = self._until < inf and self._applied is not None

    async def _fetch(self) -> None:
        """Takes a new document in pieces, if there is one."""
        control = self.host.agents.proxy(NETWORK_CONTROL, CONTROL)
        self._digest = self._digest or digest_of(encode_document(self._document))
        for _ in range(_TRIES):
            data, digest = b"", ""
            while True:
                piece = await control.desired(self.host.name, self._digest, digest, len(data))
                if piece.digest == self._digest:
                    return
                if digest and piece.digest != digest:
                    break  # it changed meanwhile
                data, digest = data + piece.data, piece.digest
                if len(data) >= piece.size:
                    self._document, self._digest = decode_document(data), digest
                    return
        raise Unavailable(f"The network document of host {self.host.name} changes all the time.")

    async def _apply(self) -> None:
        wanted = self._document.network
        if wanted != self._applied or self.observed.errors:
            revision = self.observed.revision + 1
            self.observed = await self.driver.apply(
                msgspec.structs.replace(wanted, revision=revision)
            )
            self._applied = wanted

    async def _report(self) -> None:
        """Says what differs from what control believes."""
        waiting = set(self._document.waiting)
        state = _states(self._document.network, self.observed)
        up = sorted(id for id, works in state.items() if works and id in waiting)
        down = sorted(id for id, works in state.items() if not works and id not in waiting)
        for id, text in sorted(self.observed.errors.items()):
            log.warning("host %s: %s: %s", self.host.name, id, text)
        control = self.host.agents.proxy(NETWORK_CONTROL, CONTROL)
        for at in range(0, max(len(up), len(down)), _AT_ONCE):
            part = slice(at, at + _AT_ONCE)
            await control.observed(self.host.name, up[part], down[part])

    async def metadata(self, port_id: str, request: Request) -> Answer:
        """What a guest behind that port is told about itself. Its own headers count for nothing."""
        try:
            keeper = self.host.agents.proxy(GUEST_METADATA, CONTROL)
            reply = await keeper.answer(port_id, request.method, request.path, request.body)
        except Fault as fault:
            log.info("metadata for port %s: %s", port_id, fault.internal or fault.message)
            return fault.status, "text/plain", fault.title.encode()
        return reply.status, reply.content_type, reply.body


def _named(groups: Iterable[GroupSpec]) -> set[str]:
    """The groups whose members the host has."""
    return {r.remote_group for g in groups for r in g.rules} | {""}


def _states(wanted: HostNetwork, seen: Observed) -> dict[str, bool]:
    """Whether each port, router interface and floating IP of the document works."""
    state = {p.id: seen.ports.get(p.id, False) for p in wanted.ports}
    for router in wanted.routers:
        works = router.id not in seen.errors
        state |= {i.port_id: works and i.port_id not in seen.errors for i in router.interfaces}
        for gateway in router.gateways:
            amiss = {gateway.port_id, gateway.network_id} & seen.errors.keys()
            state[gateway.port_id] = works and not amiss
        leads_out = all(state[g.port_id] for g in router.gateways)
        for floating in router.floating_ips:
            state[floating.id] = leads_out and works and floating.id not in seen.errors
    return state


def _devices(host: HostRuntime) -> dict[str, str]:
    """Of this host, by physical network."""
    chosen: NetworkSettings = host.settings.get("network") or NetworkSettings()
    return chosen.devices(host.name)


def _driver(host: HostRuntime, metadata: Any) -> NetworkDriver:
    if host.driver == "fake":
        from .drivers.fake import FakeNetworkDriver

        return FakeNetworkDriver(metadata, physical=_devices(host))
    from .drivers.linux.driver import LinuxNetworkDriver, Options
    from .drivers.linux.forwarding import system_resolvers

    # Guests reach no port of this machine: nothing of the cloud needs it, metadata comes to them.
    options = Options(
        prefix=host.prefix or "pl",
        underlay=host.underlay or "underlay",
        resolvers=system_resolvers(),
        physical=_devices(host),
    )
    return LinuxNetworkDriver(metadata, options=options, world=host.world)

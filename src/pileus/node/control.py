"""The control role: API, sagas and reconcilers over the store; any number of them, all alike."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pileus import services as packages
from pileus.kernel import events, http
from pileus.kernel.agents import CONTROL, Agents
from pileus.kernel.auth import TOKENS, Callers
from pileus.kernel.bus import Bus
from pileus.kernel.hosts import HOST_REGISTRY, Registry
from pileus.kernel.policy import PolicyFile
from pileus.kernel.reconcile import Reconcilers
from pileus.kernel.resources import Service
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import METADATA, Record, Store, Table, Tx
from pileus.kernel.world import World, stamp

_KEEP_EVENTS_S = 600
_SWEEP_S = 60.0
_LEASE_S = 2.0


def find_services(off: Sequence[str] = ()) -> list[Service]:
    """The services whose folders are there, but those named in `off`, by type."""
    found = []
    for module in pkgutil.iter_modules(packages.__path__):
        service = getattr(
            importlib.import_module(f"pileus.services.{module.name}"), "SERVICE", None
        )
        if service is not None and service.type not in off:
            found.append(service)
    return sorted(found, key=lambda s: s.type)


class Lease(Record, kw_only=True, frozen=True):
    """A control that is alive, by the id under which its sagas run. `place`: the machine and folder it runs out of."""

    seen_at: float
    place: str = ""


LEASES = Table("controls", Lease)


@dataclass
class Control:
    """One control. `start` returns when every service answers."""

    world: World
    store: Store
    bus: Bus
    agents: Agents
    data: Path
    public_url: str
    name: str = "control"
    services: Sequence[Service] = field(default_factory=find_services)
    settings: Mapping[str, Any] = field(default_factory=dict)
    runtime: Runtime = field(init=False)
    app: Any = field(init=False)

    def __post_init__(self) -> None:
        self.runtime = Runtime(
            world=self.world,
            store=self.store,
            bus=self.bus,
            agents=self.agents,
            reconcilers=Reconcilers(self.world),
            data=self.data,
            public_url=self.public_url,
            name=self.name,
            services=self.services,
        )
        for service in self.services:
            self.runtime.policies[service.type] = PolicyFile(
                self.world,
                service.all_rules(),
                self.data / "policy" / f"{service.type}.yaml",
                scopes=service.all_scopes(),
            )
            self.runtime.settings[service.type] = (
                self.settings.get(service.type) or service.settings()
            )
            self.runtime.sagas.register(*service.all_sagas())
        self.app = http.Application(self.runtime)
        watches = [w for s in self.services for w in s.watches]
        self._outbox = events.Outbox(self.runtime, watches)

    async def start(self) -> None:
        runtime = self.runtime
        await self.store.start()
        registry = Registry(runtime)
        await registry.start()
        await self.agents.serve(HOST_REGISTRY, registry, CONTROL)
        for service in self.services:
            for provided in service.provides:
                await provided.offer(runtime)
        runtime.callers = Callers(self.store, self.world, runtime.contracts.get(TOKENS))
        for service in sorted(self.services, key=_knows_tokens, reverse=True):
            await service.bootstrap(runtime)
        self._add_reconcilers()
        await self._outbox.start()
        await self._succeed()
        await self._adopt("")
        await self._tell_hosts()
        await runtime.reconcilers.start()

    async def stop(self) -> None:
        """Leaves everything where it stands; guests live on."""
        await self.runtime.reconcilers.stop()
        await self._outbox.stop()
        await self.runtime.sagas.stop()
        await self.store.stop()

    def _add_reconcilers(self) -> None:
        add = self.runtime.reconcilers.add
        for service in self.services:
            for standing in service.reconcilers:
                add(standing.name, standing.period_s, _bind(standing.run, self.runtime))
        add("kernel.sweep", _SWEEP_S, self._sweep)
        # Alone, too: a full disk may have lost the end of a saga whose runner is gone.
        add("kernel.adopt", _LEASE_S if self.store.shared else _SWEEP_S, self._adopt)

    @property
    def _place(self) -> str:
        return f"{self.name}:{self.data.absolute()}"

    async def _succeed(self) -> None:
        """Who ran out of this folder before us is dead: nobody waits until its lease has run out."""
        if self.store.shared:
            async with self.store.tx() as tx:
                for lease in await LEASES.all(tx):
                    if lease.place == self._place:
                        await LEASES.delete(tx, lease)

    async def _adopt(self, key: str) -> None:
        """Renews our lease and takes over the sagas of controls whose lease has run out."""
        now, me = self.world.clock.time(), self.runtime.sagas.me
        alive = {me}
        if self.store.shared:
            async with self.store.tx() as tx:
                mine = await LEASES.find(tx, me)
                if mine is None:
                    await LEASES.insert(tx, Lease(id=me, seen_at=now, place=self._place))
                else:
                    await LEASES.change(tx, mine, seen_at=now)
                for lease in await LEASES.all(tx):
                    if now - lease.seen_at < 5 * _LEASE_S:
                        alive.add(lease.id)
                    elif now - lease.seen_at > 3600:
                        await LEASES.delete(tx, lease)
        died = self.runtime.sagas.alive - alive
        await self.runtime.sagas.adopt(frozenset(alive))
        if died:
            await self._tell_hosts()

    async def _tell_hosts(self) -> None:
        """Hosts that wait for an answer of a control that is gone ask again."""
        await self.agents.hint(HOST_REGISTRY, CONTROL)

    async def _sweep(self, key: str) -> None:
        """Drops tombstones and events that have been kept long enough."""
        now = self.world.clock.time()
        await self._drop(events.prune, stamp(now - _KEEP_EVENTS_S))
        for table in [t.info["table"] for t in METADATA.sorted_tables if "table" in t.info]:
            if table.tombstone_s:
                await self._drop(table.sweep, stamp(now - table.tombstone_s))

    async def _drop(self, some: Callable[[Tx, str], Awaitable[int]], before: str) -> None:
        """A slice at a time, so that nobody waits long for the writer or the loop."""
        dropped = 1
        while dropped:
            async with self.store.tx(wait=False) as tx:
                dropped = await some(tx, before)
            await self.world.clock.sleep(0)


def _knows_tokens(service: Service) -> bool:
    """Whoever keeps users and projects starts first: the others' first rows belong to some."""
    return any(p.contract is TOKENS for p in service.provides)


def _bind(run: Any, runtime: Runtime) -> Any:
    async def once(key: str) -> None:
        await run(runtime, key)

    return once

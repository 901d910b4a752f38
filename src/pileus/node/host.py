"""The host role: the agents of every service on one machine (or, with the fake driver, on as many as asked for)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from pileus.kernel.agents import CONTROL
from pileus.kernel.faults import Fault
from pileus.kernel.hosts import BEAT_S, HOST_REGISTRY, AgentSpec, Beat, HostRuntime
from pileus.kernel.resources import Service

log = logging.getLogger(__name__)
_RETRY_S = 1.0
_AT_ONCE = 32  # hosts that join together: their commits are shared


def in_order(specs: Sequence[AgentSpec]) -> list[AgentSpec]:
    """Each after those it names, else as given. Raises ValueError if they wait for each other."""
    left, found = list(specs), list[AgentSpec]()
    while left:
        waiting = {spec.contract.name for spec in left}
        ready = [spec for spec in left if not waiting.intersection(spec.after)]
        if not ready:
            raise ValueError(f"agents that wait for each other: {', '.join(sorted(waiting))}")
        found += ready
        left = [spec for spec in left if spec not in ready]
    return found


@dataclass
class Hosts:
    """The hosts of this process, which beat together."""

    hosts: Sequence[HostRuntime]
    services: Sequence[Service]
    _agents: list[tuple[HostRuntime, Any]] = field(default_factory=list)
    _beats: dict[str, Beat] = field(default_factory=dict)
    _task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Joins: the agents serve their contracts, adopt what the machine holds, and the first beat is sent."""
        for host in self.hosts:
            contracts: dict[str, int] = {}
            facts: dict[str, Any] = {}
            for spec in self._specs():
                agent = spec.make(host)
                await host.agents.serve(spec.contract, agent, host.name)
                self._agents.append((host, agent))
                contracts[spec.contract.name] = spec.contract.version
            self._beats[host.name] = Beat(
                host=host.name,
                contracts=contracts,
                address=host.address,
                facts=facts,
                speaker=self.hosts[0].name if host is not self.hosts[0] else "",
            )
        if self.hosts:
            agents = self.hosts[0].agents
            await agents.on_hint(HOST_REGISTRY, CONTROL, lambda: agents.restarted(CONTROL))
        await self._join()
        self._task = asyncio.create_task(self._beat(), name="heartbeat")

    def _specs(self) -> list[AgentSpec]:
        return in_order([a for s in self.services for a in s.agents])

    async def _join(self) -> None:
        """The registry hears of the hosts first, so that what the agents report has somewhere to go."""
        while True:
            try:
                await self._say(joining=True)
                by_host = [list(g) for _, g in groupby(self._agents, lambda a: a[0].name)]
                for at in range(0, len(by_host), _AT_ONCE):
                    await asyncio.gather(*map(self._start, by_host[at : at + _AT_ONCE]))
                await self._say(joining=False)
                return
            except Fault as e:
                log.warning(
                    "control does not answer yet (%s); trying again", e.internal or e.message
                )
                await self.hosts[0].world.clock.sleep(_RETRY_S)

    async def _start(self, agents: list[tuple[HostRuntime, Any]]) -> None:
        for host, agent in agents:
            self._beats[host.name].facts.update(await agent.start())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for _, agent in self._agents:
            await agent.stop()

    async def forget(self) -> None:
        """Guests go before the devices they use."""
        for host in self.hosts:
            for spec in reversed(self._specs()):
                await spec.make(host).forget()

    async def _say(self, *, joining: bool, most: int | None = None) -> None:
        registry = self.hosts[0].agents.proxy(HOST_REGISTRY, CONTROL)
        beats = list(self._beats.values())[:most]
        for at in range(0, len(beats), 200):  # one message stays small
            await registry.beat(beats[at : at + 200], joining)

    async def _beat(self) -> None:
        while True:
            await self.hosts[0].world.clock.sleep(BEAT_S)
            try:
                await self._say(joining=False, most=1)  # the first speaks for all
            except Fault as e:
                log.warning("heartbeat not heard: %s", e.internal or e.message)

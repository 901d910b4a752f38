"""A whole cloud in virtual time: one control and a few fake hosts, each a node that can be killed and started again.

Every node has a bus of its own on one exchange, and tasks of its own. A kill drops its tasks and its open transaction
as a dying process would; what is on its disk stays.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pileus.kernel.agents import Agents
from pileus.kernel.bus import Exchange, MemoryBus, Mishaps
from pileus.kernel.faults import Fault, Unavailable
from pileus.kernel.hosts import HostRuntime
from pileus.kernel.resources import Service
from pileus.kernel.runtime import Runtime
from pileus.kernel.sqlite import SqliteStore
from pileus.node.control import Control, find_services
from pileus.node.host import Hosts
from pileus.testing.client import Client, Reply
from pileus.testing.cloud import PASSWORD, Cloud
from pileus.testing.simloop import SimLoop, SimWorld

T = TypeVar("T")
URL = "http://cloud.test:5000"
ANSWER_S = 15.0  # how long a node waits for another's answer
_node: contextvars.ContextVar[str] = contextvars.ContextVar("node", default="")


class ConnectionLost(Exception):
    """The control died with a request under way: nobody knows what became of it."""


@dataclass
class Node:
    """A process: its bus, and what runs in it."""

    name: str
    bus: MemoryBus
    agents: Agents
    control: Control | None = None
    hosts: Hosts | None = None


@dataclass
class Town:
    """The nodes by name; those that are down are missing."""

    folder: Path
    services: list[Service] = field(default_factory=find_services)
    nodes: dict[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.world = SimWorld()
        self.random = self.world.random
        self.mishaps = Mishaps()
        self.exchange = Exchange(self.world, self.mishaps)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        loop.set_task_factory(self._of_a_node)
        self._loop = loop

    def _of_a_node(self, loop: Any, coroutine: Any, context: Any = None) -> Any:
        task: Any = self._loop._new_task(loop, coroutine, context)
        task.node = context.get(_node, "") if context is not None else _node.get()
        return task

    async def inside(self, name: str, work: Coroutine[Any, Any, T]) -> T:
        """Does it as a task of that node. Raises ConnectionLost if the node is killed meanwhile."""
        context = contextvars.copy_context()
        context.run(_node.set, name)
        task = asyncio.get_running_loop().create_task(work, context=context)
        try:
            return await task
        except asyncio.CancelledError:
            if task.cancelled() and name not in self.nodes:
                raise ConnectionLost(name) from None
            raise

    # Up and down

    def _new_node(self, name: str) -> Node:
        bus = MemoryBus(self.world, self.exchange)
        self.nodes[name] = Node(name, bus, Agents(bus, timeout_s=ANSWER_S))
        return self.nodes[name]

    async def start_control(self) -> None:
        node = self._new_node("control")
        (self.folder / "admin-password").write_text(PASSWORD)
        store = SqliteStore(str(self.folder / "cloud.sqlite"), self.world)
        node.control = Control(
            self.world, store, node.bus, node.agents, self.folder, URL, services=self.services
        )
        await node.bus.start()
        await self.inside("control", node.control.start())

    async def start_host(self, name: str) -> None:
        node = self._new_node(name)
        host = HostRuntime(
            self.world,
            node.agents,
            name,
            self.folder / name,
            "fake",
            URL,
            deliver=self._deliver,
        )
        host.state.mkdir(exist_ok=True)
        node.hosts = Hosts([host], self.services)
        await node.bus.start()
        await self.inside(name, node.hosts.start())

    async def _deliver(self, path: str, data: bytes) -> None:
        """Bytes from a host. Raises Unavailable where control dies or is dead."""
        try:
            await self.client().deliver(path, data)
        except ConnectionLost:
            raise Unavailable("control has died") from None

    async def kill(self, name: str) -> None:
        """At once, whatever it is doing."""
        node = self.nodes.pop(name)
        await node.bus.kill()
        if node.control is not None:
            _power_off(node.control.runtime.store, was_lucky=self.random.random() < 0.5)
        mine = [t for t in asyncio.all_tasks() if getattr(t, "node", "") == name]
        tasks = [t for t in mine if not _is_thread(t)]  # threads end by themselves
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def stop(self) -> None:
        for name in sorted(self.nodes):
            await self.kill(name)

    # What clients see

    @property
    def control(self) -> Control:
        control = self.nodes["control"].control
        assert control is not None
        return control

    @property
    def runtime(self) -> Runtime:
        return self.control.runtime

    def client(self, headers: Any = None) -> Client:
        """Its requests run in whatever control there is."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if "control" not in self.nodes:
                raise ConnectionLost("control")
            await self.inside("control", self.control.app(scope, receive, send))

        return Client(app, headers)

    def cloud(self) -> Cloud:
        """As tests know it, for those who only talk HTTP."""
        client = self.client()
        return Cloud(self.control, None, client, client)

    def every_host(self) -> Hosts:
        """The hosts that are up, as one."""
        found = Hosts([], self.services)
        for node in self.nodes.values():
            if node.hosts is not None:
                found._agents += node.hosts._agents
        return found


def _is_thread(task: asyncio.Task[Any]) -> bool:
    return getattr(task.get_coro(), "__name__", "") == SimLoop._as_thread.__name__


def _power_off(store: Any, *, was_lucky: bool) -> None:
    """Nothing more reaches the disk; a commit under way may have, just."""
    if store._flushing is not None:
        store._flushing.cancel()
    if was_lucky and store._committing is not None and store._write.in_transaction:
        store._write.execute("COMMIT")
    store._committed = lambda done, error: None
    for connection in (store._write, store._read, store._idle):
        connection.close()


async def patiently(ask: Callable[[], Coroutine[Any, Any, Reply]], world: SimWorld) -> Reply:
    """A request by a client that tries again when the control is away or does not answer well."""
    while True:
        try:
            reply = await ask()
            if reply.status < 500:
                return reply
        except (ConnectionLost, Fault):
            pass
        await world.clock.sleep(1)

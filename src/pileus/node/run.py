"""Composition root: one process in the role of control, of host, or of both."""

from __future__ import annotations

import asyncio
import base64
import ctypes
import gc
import hashlib
import json
import logging
import os
import resource
import secrets
import shutil
import signal
import socket
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pileus.host import userns
from pileus.host.socks import Proxy
from pileus.kernel.agents import Agents
from pileus.kernel.bus import Bus, MemoryBus
from pileus.kernel.hosts import HostRuntime
from pileus.kernel.store import Store
from pileus.kernel.world import World
from pileus.node import first_image
from pileus.node.consoles import Consoles
from pileus.node.control import Control, find_services
from pileus.node.cors import cross_origin
from pileus.node.host import Hosts
from pileus.node.server import Server, listen_on
from pileus.node.settings import chosen
from pileus.node.status import Operations

log = logging.getLogger(__name__)
_AGAIN_S = 2.0  # asyncio.wait_for, under NATS's client, loses a cancellation that meets a refusal


@dataclass(frozen=True)
class Options:
    """How a process was asked to run. `store` and `bus` are URLs; "" means SQLite in the state folder and in process."""

    state: Path
    listen: str = "127.0.0.1:5000"
    driver: str = "qemu"
    store: str = field(default="", repr=False)  # both may hold passwords
    bus: str = field(default="", repr=False)
    public_url: str = ""
    control_url: str = ""
    hosts: int = 0  # 0: one, or two of the fake driver
    host_name: str = ""
    address: str = ""
    underlay: str = ""
    prefix: str = ""
    off: tuple[str, ...] = ()
    set: tuple[str, ...] = ()  # SERVICE.NAME=VALUE
    origin: tuple[str, ...] = ()  # whose pages a browser lets speak to us
    began: float = field(default_factory=time.monotonic)


def open_store(options: Options, world: World) -> Store:
    if not options.store:
        from pileus.kernel.sqlite import SqliteStore

        return SqliteStore(str(options.state / "cloud.sqlite"), world)
    from pileus.kernel.postgres import PostgresStore

    return PostgresStore(options.store, world)


def open_bus(options: Options, world: World) -> Bus:
    if not options.bus:
        return MemoryBus(world)
    from pileus.kernel.nats_bus import NatsBus, NatsSettings

    return NatsBus(world, NatsSettings(servers=tuple(options.bus.split(","))))


def url_of(options: Options) -> str:
    host, _, port = options.listen.rpartition(":")
    return (
        options.public_url
        or f"http://{'127.0.0.1' if host in ('', '0.0.0.0', '[::]') else host}:{port}"
    )


def admin_password(state: Path) -> str:
    """The administrator's first password, made once and kept 0600 in the state folder."""
    path = state / "admin-password"
    if not path.exists():
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as f:
            f.write(secrets.token_urlsafe(18) + "\n")
            f.flush()
            os.fsync(f.fileno())
    return path.read_text().strip()


def note(options: Options) -> None:
    """Writes where the cloud is, for `pileus env`, and how it was asked to run, for `pileus forget`."""
    path = options.state / "cloud.json"
    kept = {n: getattr(options, n) for n in ("driver", "host_name", "underlay", "prefix", "hosts")}
    path.write_text(json.dumps({"url": url_of(options), "pid": os.getpid(), **kept}))


def prefix_of(options: Options) -> str:
    """What the names of this cloud's devices, namespaces and rules begin with: its own, unless one is asked for."""
    digest = hashlib.sha256(str(options.state.absolute()).encode()).digest()
    return options.prefix or "p" + base64.b32encode(digest)[:2].decode().lower()


class Node:
    """What runs in this process, started and stopped in order."""

    def __init__(self, options: Options, *, control: bool, host: bool) -> None:
        self.options, self.world = options, World()
        self.is_control, self.is_host = control, host
        self.stop = asyncio.Event()
        self.is_up = False

    async def run(self) -> None:
        loop, me = asyncio.get_running_loop(), asyncio.current_task()
        assert me is not None

        def end() -> None:
            """Until it is up it may wait for a bus, or for control, as long as there is none."""
            self.stop.set()
            if not self.is_up and not me.done():
                me.cancel()
                loop.call_later(_AGAIN_S, end)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end)
        try:
            await self._run()
        except asyncio.CancelledError:
            if not self.stop.is_set():
                raise

    async def _run(self) -> None:
        options = self.options
        options.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        async with AsyncExitStack() as stack:
            bus = open_bus(options, self.world)
            await bus.start()
            stack.push_async_callback(bus.stop)
            agents = Agents(bus)
            if self.is_control:
                await self._control(stack, bus, agents)
            else:
                note(options)
                await self._start_hosts(stack, agents)
                self._up()
                print(f"host {', '.join(self._names())} has joined in {self._age()} ms", flush=True)
                await self.stop.wait()

    async def _control(self, stack: AsyncExitStack, bus: Bus, agents: Agents) -> None:
        options, world = self.options, self.world
        services = find_services(options.off)
        settings = chosen(options.set, services)
        sock = listen_on(options.listen)
        stack.callback(sock.close)
        admin_password(options.state)
        first_image.place(options.state, options.driver)
        control = Control(
            world,
            open_store(options, world),
            bus,
            agents,
            options.state,
            url_of(options),
            name=socket.gethostname(),
            services=services,
            settings=settings,
        )
        await control.start()
        stack.push_async_callback(control.stop)
        note(options)
        own = Operations(control.app, control.runtime)
        app = cross_origin(Consoles(own, control.runtime, options.origin), options.origin)
        server = Server(app, sock, world)

        async def ready() -> None:
            if self.is_host:
                await self._start_hosts(stack, agents)
            self._up()
            print(f"ready {url_of(options)} in {self._age()} ms", flush=True)

        await server.run(self.stop, ready)

    async def _start_hosts(self, stack: AsyncExitStack, agents: Agents) -> None:
        hosts = Hosts(self._runtimes(agents), find_services(self.options.off))
        await hosts.start()
        stack.push_async_callback(hosts.stop)
        if self.options.driver != "fake":
            proxy = Proxy(self.options.state, self.options.underlay)
            await proxy.start()
            stack.push_async_callback(proxy.stop)

    def _runtimes(self, agents: Agents) -> list[HostRuntime]:
        options = self.options
        settings = chosen(options.set, find_services(options.off))
        return [
            HostRuntime(
                self.world,
                agents,
                name,
                options.state / "hosts" / name,
                options.driver,
                options.control_url or url_of(options),
                address=options.address,
                underlay=options.underlay,
                prefix=prefix_of(options),
                settings=settings,
            )
            for name in self._names()
        ]

    def _up(self) -> None:
        """What was made by now stays, so the collector, off since the command began, need not look at it."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        gc.enable()
        self.is_up = True

    async def forget(self) -> None:
        """Removes guests, devices, namespaces and rules; the state folder is the caller's to remove."""
        runtimes = self._runtimes(Agents(MemoryBus(self.world)))
        await Hosts(runtimes, find_services(self.options.off)).forget()

    def _names(self) -> list[str]:
        options = self.options
        base = options.host_name or socket.gethostname()
        if options.driver == "fake":
            return [f"{base}-{n + 1}" for n in range(options.hosts or 2)]
        return [base]

    def _age(self) -> int:
        return round((time.monotonic() - self.options.began) * 1000)


def _tune_malloc() -> None:
    """Big lists cost less than half if glibc keeps what it is given back; other C libraries have no such setting."""
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(trim_threshold, 128 << 20)
        mallopt(mmap_threshold, 128 << 20)
        mallopt(top_pad, 16 << 20)


def _allow_many_files() -> None:
    """A host holds several descriptors for each network and guest, and most shells allow 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def run(options: Options, *, control: bool, host: bool) -> None:
    """Runs until SIGTERM or SIGINT."""
    import uvloop

    if host and _become_able(options):
        log.warning("run by an ordinary user: %s", userns.DEGRADED)
    _tune_malloc()
    _allow_many_files()

    async def main() -> None:
        await Node(options, control=control, host=host).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def forget(options: Options) -> None:
    """Removes what the hosts of a stopped process left on this machine."""
    is_ordinary = _become_able(options)
    asyncio.run(Node(options, control=False, host=True).forget())
    if is_ordinary:  # what is left, caches, belongs to users whom only this namespace has
        shutil.rmtree(options.state / "hosts")
        userns.leave(options.state)


def _become_able(options: Options) -> bool:
    """Real guests need a machine of one's own, which root has. Whether a user namespace was entered."""
    if options.driver == "fake" or os.geteuid() == 0:
        return False
    userns.enter(options.state)
    return True

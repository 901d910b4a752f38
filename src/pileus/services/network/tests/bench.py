"""The network service on a control and fake hosts of its own, with tokens that say whom they stand for."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pileus.kernel import faults
from pileus.kernel.agents import Agents
from pileus.kernel.auth import TOKENS, Caller
from pileus.kernel.bus import MemoryBus
from pileus.kernel.hosts import HostRuntime
from pileus.kernel.resources import Service
from pileus.kernel.runtime import Provided
from pileus.kernel.sqlite import SqliteStore
from pileus.kernel.store import Store
from pileus.kernel.world import World
from pileus.node.control import Control
from pileus.node.host import Hosts
from pileus.services.identity.contract import IDENTITY, ProjectInfo
from pileus.services.network import SERVICE
from pileus.services.network.contract import NETWORK, GuestRef, NicInfo, NicRequest
from pileus.services.network.guests.kept import KeptNetwork
from pileus.services.network.settings import NetworkSettings
from pileus.testing.client import Client, Reply
from pileus.testing.personas import closure

API = "/network/v2.0"
Row = dict[str, Any]


class _Tokens:
    """`project/role`: a user of that project with that role and those it implies."""

    async def caller(self, token: str, late: bool) -> Caller:
        project, _, role = token.partition("/")
        return Caller(
            user_id=f"user-of-{project}", project_id=project, roles=closure(role), expires_at=2e10
        )


class _Identity:
    async def project(self, project_id: str) -> ProjectInfo | None:
        return ProjectInfo(id=project_id, name=project_id, domain_id="default")

    async def region(self) -> str:
        return "RegionOne"

    async def limits(self, service_type: str) -> dict[str, dict[str, int]]:
        return {}

    async def admin_project(self) -> ProjectInfo:
        return ProjectInfo(id="admin", name="admin", domain_id="default")


_STAND_IN = Service(
    type="a-identity",
    name="stand-in",
    prefix="/a-identity",
    api="",
    endpoint="",
    dialect=faults.KEYSTONE,
    resources=(),
    provides=(Provided(TOKENS, lambda _: _Tokens()), Provided(IDENTITY, lambda _: _Identity())),
)


@dataclass
class Bench:
    control: Control
    hosts: Hosts
    client: Client

    def as_(self, project: str, role: str = "member") -> Api:
        return Api(self.client.as_(f"{project}/{role}"))

    @property
    def admin(self) -> Api:
        return self.as_("admin", "admin")

    @property
    def contract(self) -> KeptNetwork:
        kept = self.control.runtime.contracts.get(NETWORK)
        assert isinstance(kept, KeptNetwork)
        return kept

    def driver(self, host: str = "fake-1") -> Any:
        """The fake driver of a host."""
        return next(a.driver for h, a in self.hosts._agents if h.name == host)

    async def settle(self) -> None:
        """Returns when the hosts have done what was hinted and all is committed."""
        for _ in range(20):
            await asyncio.sleep(0)
        await self.control.runtime.store.sync()  # hosts are told what is committed
        for _, agent in self.hosts._agents:
            await agent.refresh()
            await agent.refresh()  # the second time to report what the first made
        await self.control.runtime.store.sync()

    async def boot(
        self, project: str, guest: str, network: str = "", *, host: str = "fake-1", **more: Any
    ) -> list[NicInfo]:
        """Attaches and plugs a guest, as compute does."""
        caller = await _Tokens().caller(f"{project}/member", False)
        wanted = more.get("requests") or [NicRequest(network_id=network)]
        requests = await self.contract.resolve(caller, wanted, more.get("groups", []))
        ref = GuestRef(id=guest, name=guest, project_id=project, host=host)
        nics = await self.contract.attach(caller, ref, requests, more.get("groups", []))
        await self.contract.plug(guest, host)
        await self.control.runtime.store.sync()
        return nics


@dataclass
class Api:
    """Calls of one caller, below the versioned root."""

    client: Client

    async def get(self, path: str, **headers: str) -> Reply:
        return await self.client.get(API + path, **headers)

    async def post(self, path: str, document: Any) -> Reply:
        return await self.client.post(API + path, document)

    async def put(self, path: str, document: Any = None, **headers: str) -> Reply:
        return await self.client.put(API + path, document, **headers)

    async def delete(self, path: str, **headers: str) -> Reply:
        return await self.client.delete(API + path, **headers)

    async def make(self, noun: str, path: str = "", **attributes: Any) -> Row:
        """Creates one and gives it, or fails the test."""
        path = path or f"/{noun.replace('_', '-')}s"
        reply = await self.post(path, {noun: {_spelt(k): v for k, v in attributes.items()}})
        assert reply.status == 201, reply
        made: Row = reply.json[noun]
        return made

    async def rows(self, path: str) -> list[Row]:
        reply = await self.get(path)
        assert reply.status == 200, reply
        plural = path.strip("/").partition("?")[0].replace("-", "_")
        found: list[Row] = reply.json[plural]
        return found

    async def network(self, cidr: str = "10.0.0.0/24", **attributes: Any) -> tuple[Row, Row]:
        """A network with a subnet."""
        network = await self.make("network", name="net")
        version = 6 if ":" in cidr else 4
        asked = {"network_id": network["id"], "cidr": cidr, "ip_version": version, **attributes}
        return network, await self.make("subnet", **asked)

    async def public(self) -> str:
        return str((await self.rows("/networks?router:external=True"))[0]["id"])

    async def routed(self, cidr: str = "10.0.0.0/24") -> tuple[Row, Row, Row]:
        """A network and its subnet behind a router with a gateway."""
        network, subnet = await self.network(cidr)
        info = {"network_id": await self.public()}
        router = await self.make("router", name="router", external_gateway_info=info)
        reply = await self.put(
            f"/routers/{router['id']}/add_router_interface", {"subnet_id": subnet["id"]}
        )
        assert reply.status == 200, reply
        return network, subnet, router


def _spelt(name: str) -> str:
    """`binding__host_id` for `binding:host_id`."""
    return name.replace("__", ":")


def said(reply: Reply) -> tuple[int, str]:
    """Status and type of a refusal."""
    return reply.status, reply.json["NeutronError"]["type"]


@asynccontextmanager
async def bench(
    hosts: int = 1,
    store: Store | None = None,
    driver: str = "fake",
    underlay: str = "",
    prefix: str = "",
    settings: NetworkSettings | None = None,
) -> AsyncIterator[Bench]:
    """A real driver's hosts need an `underlay` and a `prefix` of their own."""
    world = World()
    with tempfile.TemporaryDirectory(prefix="pileus-network-") as made:
        folder = Path(made)
        bus = MemoryBus(world)
        agents = Agents(bus)
        kept = store or SqliteStore(str(folder / "network.sqlite"), world)
        services = [_STAND_IN, SERVICE]
        url = "http://cloud.test:5000"
        chosen = {"network": settings or NetworkSettings()}
        control = Control(world, kept, bus, agents, folder, url, services=services, settings=chosen)
        await bus.start()
        await control.start()
        names = [f"fake-{n + 1}" for n in range(hosts)]
        make = partial(HostRuntime, world, agents, underlay=underlay, prefix=prefix)
        runtimes = [
            make(name=n, state=folder / n, driver=driver, control_url=url, settings=chosen)
            for n in names
        ]
        running = Hosts(runtimes, services)
        if hosts:
            await running.start()
        try:
            yield Bench(control, running, Client(control.app))
        finally:
            if hosts:
                await running.stop()
            await control.stop()
            await bus.stop()


def run(test: Callable[[Bench], Awaitable[None]], hosts: int = 1) -> None:
    """Runs a test on a bench of its own."""

    async def whole() -> None:
        async with bench(hosts) as found:
            await test(found)

    asyncio.run(whole())

"""A whole cloud in this process for tests: fake drivers, memory bus, SQLite in a folder of its own."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pileus.kernel.agents import Agents
from pileus.kernel.bus import MemoryBus
from pileus.kernel.hosts import HostRuntime
from pileus.kernel.resources import Service
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Store
from pileus.kernel.world import World
from pileus.node.control import Control, find_services
from pileus.node.host import Hosts
from pileus.services.identity.settings import Settings
from pileus.testing.client import Client
from pileus.testing.stores import PLACES

PASSWORD = "correct-horse-battery"


@dataclass
class Cloud:
    """`client` has no token; `admin` has one for the admin project. `closing`: what ends with the cloud."""

    control: Control
    hosts: Hosts | None
    client: Client
    admin: Client
    closing: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def runtime(self) -> Runtime:
        return self.control.runtime

    async def settle(self) -> None:
        """Returns when no saga runs and all is committed."""
        await self.runtime.sagas.settled()
        await self.runtime.store.sync()

    async def login(self, **password: Any) -> Client:
        """A client with a token for `user`, `project` (ids) and PASSWORD, or system scope."""
        scope: Any = (
            {"system": {"all": True}}
            if password.get("system")
            else {"project": {"id": password.get("project")}}
        )
        user = {"id": password["user"], "password": password.get("password", PASSWORD)}
        identity = {"methods": ["password"], "password": {"user": user}}
        reply = await self.client.post(
            "/identity/v3/auth/tokens", {"auth": {"identity": identity, "scope": scope}}
        )
        if reply.status != 201:
            raise AssertionError(f"login: {reply}")
        return self.client.as_(reply.headers["x-subject-token"])

    async def project(self, name: str, role: str = "member") -> Client:
        """A client of a new user with `role` on a new project, both named `name`."""
        made = await self.admin.post(
            "/identity/v3/projects", {"project": {"name": name, "domain_id": "default"}}
        )
        project = made.json["project"]["id"]
        return await self.user(name, project, role)

    async def user(self, name: str, project: str, role: str = "member") -> Client:
        """A client of a new user with `role` on the project."""
        body = {"user": {"name": f"{name}-{role}", "password": PASSWORD, "domain_id": "default"}}
        user = (await self.admin.post("/identity/v3/users", body)).json["user"]["id"]
        roles = (await self.admin.get(f"/identity/v3/roles?name={role}")).json["roles"]
        url = f"/identity/v3/projects/{project}/users/{user}/roles/{roles[0]['id']}"
        granted = await self.admin.put(url)
        if granted.status != 204:
            raise AssertionError(f"grant: {granted}")
        client = await self.login(user=user, project=project)
        client.project_id, client.user_id = project, user
        return client


def _cheap(settings: Settings | None) -> Settings:
    """Passwords that cost nothing: whoever tests logs in often."""
    return msgspec.structs.replace(
        settings or Settings(), password_hash_memory_kib=8, password_hash_passes=1
    )


@asynccontextmanager
async def cloud(
    services: Sequence[Service] | None = None,
    *,
    hosts: int = 2,
    settings: Mapping[str, Any] | None = None,
    store: Store | None = None,
    data: Path | None = None,
    world: World | None = None,
) -> AsyncIterator[Cloud]:
    """A running cloud. `data`: its folder, to start it again on the same state."""
    world = world or World()
    async with AsyncExitStack() as stack:
        made = stack.enter_context(tempfile.TemporaryDirectory(prefix="pileus-test-"))
        folder = data or Path(made)
        (folder / "admin-password").write_text(PASSWORD)
        bus = MemoryBus(world)
        agents = Agents(bus)
        chosen = find_services() if services is None else services
        if store is None:
            rows = PLACES.store(folder, world, keep=data is not None)
            store = await stack.enter_async_context(rows)
        control = Control(
            world,
            store,
            bus,
            agents,
            folder,
            "http://cloud.test:5000",
            services=chosen,
            settings={**(settings or {}), "identity": _cheap((settings or {}).get("identity"))},
        )
        await bus.start()
        await control.start()
        client = Client(control.app)
        running = None
        if hosts:
            names = [f"fake-{n + 1}" for n in range(hosts)]
            made_hosts = [
                HostRuntime(
                    world,
                    agents,
                    name,
                    folder / name,
                    "fake",
                    "http://cloud.test:5000",
                    deliver=client.deliver,
                    settings=settings or {},
                )
                for name in names
            ]
            running = Hosts(made_hosts, chosen)
            await running.start()
        found = Cloud(control, running, client, client, stack)
        found.admin = await _admin(client)
        try:
            yield found
        finally:
            if running is not None:
                await running.stop()
            await control.stop()
            await bus.stop()


async def _admin(client: Client) -> Client:
    user = {"name": "admin", "domain": {"id": "default"}, "password": PASSWORD}
    identity = {"methods": ["password"], "password": {"user": user}}
    scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
    reply = await client.post(
        "/identity/v3/auth/tokens", {"auth": {"identity": identity, "scope": scope}}
    )
    if reply.status != 201:
        raise AssertionError(f"admin login: {reply}")
    found = client.as_(reply.headers["x-subject-token"])
    token = reply.json["token"]
    found.project_id, found.user_id = token["project"]["id"], token["user"]["id"]
    return found

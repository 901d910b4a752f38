"""One service by itself, in this process: no identity, no hosts; a token is whoever the test says.

For tests of a single service; those of several together use `pileus.testing.cloud`.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from pileus.kernel import http
from pileus.kernel.agents import Agents
from pileus.kernel.auth import Caller, Callers
from pileus.kernel.bus import MemoryBus
from pileus.kernel.faults import Unauthenticated
from pileus.kernel.policy import PolicyFile
from pileus.kernel.reconcile import Reconcilers
from pileus.kernel.resources import Service
from pileus.kernel.runtime import Runtime
from pileus.kernel.world import World
from pileus.services.identity.contract import SECRETS
from pileus.services.identity.keys import KEYRING, Keyring, SecretsKept, make_first

from .client import Client
from .personas import PERSONAS, closure
from .stores import PLACES

Test = Callable[..., Coroutine[Any, Any, None]]


class Tokens:
    """Knows the callers that the test introduced."""

    def __init__(self) -> None:
        self.known: dict[str, Caller] = {}

    async def caller(self, token: str, late: bool) -> Caller:
        if token not in self.known:
            raise Unauthenticated()
        return self.known[token]


@dataclass
class Alone:
    """`client` has no token."""

    runtime: Runtime
    client: Client
    tokens: Tokens

    def introduce(self, token: str, caller: Caller) -> Client:
        self.tokens.known[token] = caller
        return self.client.as_(token)

    async def keys(self) -> None:
        """As identity keeps them: for what a service has sealed."""
        self.runtime.contracts.provide(KEYRING, Keyring(self.runtime))
        self.runtime.contracts.provide(SECRETS, SecretsKept(self.runtime))
        await make_first(self.runtime)

    def user(self, project: str, role: str = "member", name: str = "") -> Client:
        """A client of a user with a role on a project; all are ids."""
        name = name or f"{role}-of-{project}"
        caller = Caller(
            user_id=name, project_id=project, roles=closure(role), expires_at=float("inf")
        )
        return self.introduce(name, caller)

    def persona(self, name: str) -> Client:
        """A client of one of `pileus.testing.personas`."""
        one = PERSONAS[name]
        caller = Caller(
            user_id=one.user_id,
            user_domain_id=one.user_domain_id,
            project_id=one.project_id or "",
            project_domain_id=one.project_domain_id or "",
            domain_id=one.domain_id or "",
            system_scope=one.system_scope or "",
            roles=one.roles,
            service_roles=one.service_roles,
            expires_at=float("inf"),
        )
        return self.introduce(name, caller)


@asynccontextmanager
async def alone(
    service: Service, *, settings: Any = None, data: Path | None = None, world: World | None = None
) -> AsyncIterator[Alone]:
    """`data`: the state folder, to start the service again on the same state."""
    world = world or World()
    async with AsyncExitStack() as stack:
        made = stack.enter_context(tempfile.TemporaryDirectory(prefix="pileus-test-"))
        folder = data or Path(made)
        rows = PLACES.store(folder, world, keep=data is not None)
        store = await stack.enter_async_context(rows)
        bus = MemoryBus(world)
        runtime = Runtime(
            world=world,
            store=store,
            bus=bus,
            agents=Agents(bus),
            reconcilers=Reconcilers(world),
            data=folder,
            public_url="http://cloud.test:5000",
            name="control",
            services=(service,),
        )
        runtime.settings[service.type] = settings or service.settings()
        runtime.policies[service.type] = PolicyFile(
            world, service.all_rules(), scopes=service.all_scopes()
        )
        tokens = Tokens()
        await store.start()
        for provided in service.provides:
            await provided.offer(runtime)
        runtime.callers = Callers(store, world, tokens)
        runtime.sagas.register(*service.all_sagas())
        try:
            yield Alone(runtime, Client(http.Application(runtime)), tokens)
        finally:
            await runtime.sagas.stop()
            await store.stop()


def in_loop(test: Test) -> Callable[..., None]:
    """Lets pytest call a coroutine."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run

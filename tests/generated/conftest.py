"""One cloud of every service for all generated tests that go over HTTP."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from pileus.testing.client import Client
from pileus.testing.cloud import PASSWORD, Cloud, cloud

T = TypeVar("T")
S = TypeVar("S", bound="Site")
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@dataclass
class Site:
    """A running cloud on a loop of its own, and clients of a few personas in one project."""

    runner: asyncio.Runner
    cloud: Cloud
    clients: dict[str, Client] = field(default_factory=dict)

    def run(self, call: Awaitable[T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(60):
                return await call

        return self.runner.run(bounded())

    def client(self, persona: str) -> Client:
        """`nobody` has no token, `unscoped` one without scope; others their role on a project."""
        if persona not in self.clients:
            self.clients[persona] = self.run(self._make(persona))
        return self.clients[persona]

    async def _make(self, persona: str) -> Client:
        if persona == "nobody":
            return self.cloud.client
        if persona == "unscoped":
            return await _unscoped(self.cloud)
        return await self.cloud.project(f"generated-{persona}", persona)


async def _unscoped(cloud: Cloud) -> Client:
    user = {"name": "admin", "domain": {"id": "default"}, "password": PASSWORD}
    identity = {"methods": ["password"], "password": {"user": user}}
    reply = await cloud.client.post(
        "/identity/v3/auth/tokens", {"auth": {"identity": identity, "scope": "unscoped"}}
    )
    assert reply.status == 201, reply
    return cloud.client.as_(reply.headers["x-subject-token"])


@contextmanager
def started(kind: type[S], runner: asyncio.Runner, **of: Any) -> Iterator[S]:
    """A cloud without hosts, its state in memory."""
    before, tempfile.tempdir = tempfile.tempdir, IN_MEMORY or tempfile.tempdir
    manager: Any = cloud(hosts=0, **of)
    found = kind(runner, runner.run(manager.__aenter__()))
    try:
        yield found
    finally:
        runner.run(manager.__aexit__(None, None, None))
        tempfile.tempdir = before


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with asyncio.Runner() as runner, started(Site, runner) as found:
        yield found


Story = Callable[[Site], Awaitable[None]]

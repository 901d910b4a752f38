"""One cloud for each module, and the loop that it runs in."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from pileus.testing.client import Client
from pileus.testing.cloud import Cloud, cloud


class Stage:
    """A cloud of two hosts, and a member of a project of his own for each test that asks."""

    def __init__(self, runner: asyncio.Runner, cloud: Cloud) -> None:
        self.runner, self.cloud, self._members = runner, cloud, 0

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    async def member(self) -> Client:
        self._members += 1
        return await self.cloud.project(f"volumes-{self._members}")


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with asyncio.Runner() as runner:
        manager = cloud()
        found = Stage(runner, runner.run(manager.__aenter__()))
        try:
            yield found
        finally:
            runner.run(manager.__aexit__(None, None, None))

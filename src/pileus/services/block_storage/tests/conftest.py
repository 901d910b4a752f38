"""One cloud for each module, and the loop that it runs in; a folder for a real driver."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from pileus.host import caches
from pileus.host.storage_daemon import running_below
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


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """Where the file driver's volumes are; its daemons go with it."""
    yield tmp_path / "state"
    for pid in running_below(tmp_path / "state").values():
        os.kill(pid, 9)
    shutil.rmtree(caches.sockets(tmp_path / "state" / "volumes"))

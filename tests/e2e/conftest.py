"""A cloud on the fake driver and one with real guests, for the tests that ask the same of both."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pileus.cli import background
from pileus.kernel.world import Clock
from pileus.testing.places import Place, need_root, place
from pileus.testing.running import RunningCloud, running


@pytest.fixture(params=["fake", pytest.param("qemu", marks=pytest.mark.e2e)])
def outside(request: pytest.FixtureRequest) -> Iterator[Place | None]:
    """Where a floating IP can be reached, if guests are real."""
    if request.param == "fake":
        yield None
        return
    need_root()
    with place() as here:
        yield here


@pytest.fixture
def cloud(outside: Place | None, tmp_path: Path) -> Iterator[RunningCloud]:
    with _started(tmp_path / "state", outside) as found:
        found.wait_for_image()
        yield found
        asyncio.run(background.delete_servers(found.client(), Clock()))


def _started(state: Path, outside: Place | None) -> AbstractContextManager[RunningCloud]:
    if outside is None:
        return running(state)
    return running(state, "qemu", outside.options, outside.near)

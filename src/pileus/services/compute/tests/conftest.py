"""The stage is built once for the session."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from pileus.services.compute.tests.scene import Stage


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    with asyncio.Runner() as runner:
        found = Stage(runner)
        yield found
        found.close()

"""Fifty clients create at the same moment, against a quota of ten: ten get one, on both databases."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from pileus.cli.client import ApiError, Client
from pileus.testing.roles import two_roles
from pileus.testing.running import RunningCloud, running
from tests.e2e.shell import until

AT_ONCE, QUOTA = 50, 10


@contextmanager
def sqlite(folder: Path) -> Iterator[RunningCloud]:
    with running(folder / "state") as cloud:
        yield cloud


@contextmanager
def postgresql(folder: Path) -> Iterator[RunningCloud]:
    with two_roles(folder) as roles:
        yield roles.cloud


@pytest.mark.parametrize("started", [sqlite, postgresql])
def test_fifty_creates_at_once_against_a_quota_of_ten_give_ten(
    tmp_path: Path, started: Callable[[Path], AbstractContextManager[RunningCloud]]
) -> None:
    with started(tmp_path) as cloud:
        cloud.wait_for_image()
        first = cloud.client()
        path = f"/os-quota-sets/{first.project_id}"
        first.call("PUT", "compute", path, {"quota_set": {"instances": QUOTA, "cores": -1}})
        image = first.call("GET", "image", "/v2/images?status=active")["images"][0]["id"]
        asked = {"name": "one", "imageRef": image, "flavorRef": "1"}

        def create(client: Client) -> int:
            try:
                client.call("POST", "compute", "/servers", {"server": asked})
            except ApiError as e:
                assert "Quota exceeded for instances" in e.message
                return e.status
            return 202

        clients = [_same(first) for _ in range(AT_ONCE)]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            answers = Counter(threads.map(create, clients))
        assert answers == {202: QUOTA, 403: AT_ONCE - QUOTA}

        def states() -> list[str]:
            found = first.call("GET", "compute", "/servers/detail")["servers"]
            return [s["status"] for s in found]

        asyncio.run(until("all run", lambda: states() == ["ACTIVE"] * QUOTA, 60))


def _same(first: Client) -> Client:
    """Another connection with the same token."""
    client = Client(first.credentials)
    client.token, client.catalog = first.token, first.catalog
    return client

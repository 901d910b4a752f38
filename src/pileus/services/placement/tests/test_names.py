"""Names that several make at the same time: whoever comes second finds them made."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest

from pileus.services.placement.names import make_missing
from pileus.services.placement.tests.given import operator
from pileus.testing.alone import in_loop
from pileus.testing.postgres_server import postgres, programs
from pileus.testing.stores import PLACES

TRAIT, CLASS = "/placement/traits/CUSTOM_FAST", "/placement/resource_classes/CUSTOM_SEAT"


@pytest.fixture
def on_postgresql(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where two transactions are open at the same time."""
    with postgres() as url:
        monkeypatch.setattr(PLACES, "server", url)
        yield


@pytest.mark.skipif(programs() is None, reason="PostgreSQL is not installed")
@pytest.mark.usefixtures("on_postgresql")
@in_loop
async def test_a_name_that_a_joining_host_is_about_to_make_is_waited_for_and_there() -> None:
    async with operator() as ops:
        store = ops.cloud.runtime.store
        async with store.tx() as tx:
            await make_missing(tx, ["CUSTOM_FAST"], ["CUSTOM_SEAT"])
            asked = [asyncio.create_task(ops.client.put(url)) for url in (TRAIT, CLASS)]
            done, _ = await asyncio.wait(asked, timeout=0.2)
            assert not done
        assert [reply.status for reply in await asyncio.gather(*asked)] == [204, 204]


@in_loop
async def test_a_class_that_another_is_renamed_to_meanwhile_is_there() -> None:
    async with operator() as ops:
        await ops.client.put("/placement/resource_classes/CUSTOM_OLD")
        for _ in range(4):
            old = ops.at("1.6").client.put(
                "/placement/resource_classes/CUSTOM_OLD", {"name": "CUSTOM_SEAT"}
            )
            renamed, made = await asyncio.gather(old, ops.client.put(CLASS))
            assert (renamed.status, made.status) in ((200, 204), (409, 201))
            await ops.client.delete(CLASS)
            await ops.client.put("/placement/resource_classes/CUSTOM_OLD")


@in_loop
async def test_of_many_who_make_a_name_at_once_one_makes_it() -> None:
    async with operator() as ops:
        for url in (TRAIT, CLASS):
            replies = await asyncio.gather(*(ops.client.put(url) for _ in range(5)))
            assert Counter(reply.status for reply in replies) == {201: 1, 204: 4}

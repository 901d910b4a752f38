"""Allocations of consumers, and the generations that guard them."""

from __future__ import annotations

import asyncio
import uuid

from pileus.services.placement.tests.given import (
    CONSUMER,
    PROVIDERS_URL,
    check_books,
    code_of,
    operator,
)
from pileus.testing.alone import in_loop

URL = f"/placement/allocations/{CONSUMER}"


def other(n: int) -> str:
    return str(uuid.UUID(int=n + 1))


@in_loop
async def test_an_allocation_is_made_shown_changed_and_deleted() -> None:
    async with operator() as ops:
        id = await ops.provider("one")
        await ops.stock(id, VCPU=4, MEMORY_MB=1024)
        assert (await ops.allocate(id, VCPU=1, MEMORY_MB=512)).status == 204
        shown = (await ops.client.get(URL)).json
        assert shown == {
            "allocations": {id: {"generation": 2, "resources": {"VCPU": 1, "MEMORY_MB": 512}}},
            "project_id": "p",
            "user_id": "u",
            "consumer_generation": 1,
            "consumer_type": "INSTANCE",
        }
        assert await ops.usages(id) == {"VCPU": 1, "MEMORY_MB": 512}
        assert (await ops.allocate(id, generation=1, VCPU=4)).status == 204
        assert await ops.usages(id) == {"VCPU": 4, "MEMORY_MB": 0}
        assert (await ops.client.delete(URL)).status == 204
        assert (await ops.client.delete(URL)).status == 404
        assert (await ops.client.get(URL)).json == {"allocations": {}}
        assert await ops.usages(id) == {"VCPU": 0, "MEMORY_MB": 0}


@in_loop
async def test_the_consumers_generation_guards_its_allocations() -> None:
    async with operator() as ops:
        id = await ops.provider("one")
        await ops.stock(id, VCPU=4)
        early = await ops.allocate(id, generation=1, VCPU=1)
        assert (early.status, code_of(early)) == (409, "placement.concurrent_update")
        assert (await ops.allocate(id, VCPU=1)).status == 204
        again = await ops.allocate(id, VCPU=2)
        assert (again.status, code_of(again)) == (409, "placement.concurrent_update")
        assert (await ops.allocate(id, generation=1)).status == 204  # nothing any more
        assert (await ops.allocate(id, VCPU=1)).status == 204  # as if new


@in_loop
async def test_what_there_is_not_can_not_be_allocated() -> None:
    async with operator() as ops:
        id = await ops.provider("one")
        await ops.stock(id, VCPU={"total": 8, "min_unit": 2, "max_unit": 6, "step_size": 2})
        assert (await ops.allocate(id, VCPU=7)).status == 409  # not a step
        assert (await ops.allocate(id, VCPU=8)).status == 409  # too much at once
        assert (await ops.allocate(id, DISK_GB=1)).status == 409  # no such inventory
        assert (await ops.allocate(id, NO_SUCH_CLASS=1)).status == 400
        assert (await ops.allocate(other(0), VCPU=2)).status == 400  # no such provider
        assert (await ops.allocate(id, VCPU=0)).status == 400
        assert (await ops.allocate(id, "no-uuid", VCPU=2)).status == 400
        assert (await ops.allocate(id, other(1), VCPU=6)).status == 204
        full = await ops.allocate(id, VCPU=4)
        assert full.status == 409
        assert "10 of 8 would be used" in full.json["errors"][0]["detail"]
        assert (await ops.client.get(URL)).json == {"allocations": {}}  # no consumer is left
        await check_books(ops.cloud)


@in_loop
async def test_a_capacity_that_shrank_below_its_usage_lets_usage_only_fall() -> None:
    async with operator() as ops:
        id = await ops.provider("one")
        await ops.stock(id, VCPU=8)
        await ops.allocate(id, VCPU=6)
        await ops.stock(id, 2, VCPU=2)
        assert (await ops.allocate(id, other(1), VCPU=1)).status == 409
        assert (await ops.allocate(id, generation=1, VCPU=4)).status == 204


@in_loop
async def test_resources_change_hands_all_or_none() -> None:
    async with operator() as ops:
        here, there = await ops.provider("here"), await ops.provider("there")
        await ops.stock(here, VCPU=2)
        await ops.stock(there, VCPU=2)
        await ops.allocate(here, VCPU=2)

        def one(provider: str, amount: int, generation: int | None) -> dict[str, object]:
            return {
                "allocations": {provider: {"resources": {"VCPU": amount}}},
                "project_id": "p",
                "user_id": "u",
                "consumer_generation": generation,
                "consumer_type": "INSTANCE",
            }

        move = {CONSUMER: one(there, 2, 1), other(1): one(here, 3, None)}
        assert (await ops.client.post("/placement/allocations", move)).status == 409
        assert await ops.usages(here) == {"VCPU": 2}
        move[other(1)] = one(here, 2, None)
        assert (await ops.client.post("/placement/allocations", move)).status == 204
        assert await ops.usages(here) == await ops.usages(there) == {"VCPU": 2}
        assert (await ops.client.post("/placement/allocations", {})).status == 400
        await check_books(ops.cloud)


@in_loop
async def test_older_versions_send_less() -> None:
    async with operator() as ops:
        id = await ops.provider("one")
        await ops.stock(id, VCPU=8)
        listed = {"allocations": [{"resource_provider": {"uuid": id}, "resources": {"VCPU": 1}}]}
        assert (await ops.at("1.0").client.put(URL, listed)).status == 204
        assert (await ops.at("1.8").client.put(URL, listed)).status == 400  # no project
        owned = {**listed, "project_id": "p", "user_id": "u"}
        assert (await ops.at("1.7").client.put(URL, owned)).status == 400
        assert (await ops.at("1.11").client.put(URL, owned)).status == 204
        assert set((await ops.at("1.11").client.get(URL)).json) == {"allocations"}
        by_id = {
            "allocations": {id: {"resources": {"VCPU": 2}}},
            "project_id": "p",
            "user_id": "u",
        }
        assert (await ops.at("1.12").client.put(URL, by_id)).status == 204
        assert (await ops.at("1.27").client.put(URL, {**by_id, "allocations": {}})).status == 400
        assert (await ops.at("1.28").client.put(URL, by_id)).status == 400  # no generation
        assert await ops.usages(id) == {"VCPU": 2}


@in_loop
async def test_fifty_consumers_at_once_never_hold_more_than_there_is() -> None:
    async with operator() as ops:
        id = await ops.provider("one")
        await ops.stock(id, VCPU=10)
        replies = await asyncio.gather(*(ops.allocate(id, other(n), VCPU=1) for n in range(50)))
        assert sorted(r.status for r in replies) == [204] * 10 + [409] * 40
        assert await ops.usages(id) == {"VCPU": 10}
        await check_books(ops.cloud)


@in_loop
async def test_a_provider_lists_who_holds_what_of_it() -> None:
    async with operator() as ops:
        id = await ops.provider("one")
        await ops.stock(id, VCPU=4)
        await ops.allocate(id, VCPU=1)
        listed = (await ops.client.get(f"{PROVIDERS_URL}/{id}/allocations")).json
        assert listed == {
            "allocations": {CONSUMER: {"resources": {"VCPU": 1}, "consumer_generation": 1}},
            "resource_provider_generation": 2,
        }


@in_loop
async def test_usages_of_a_project_are_summed_by_type_of_consumer() -> None:
    async with operator() as ops:
        id = await ops.provider("one")
        await ops.stock(id, VCPU=8)
        for n in range(3):
            await ops.allocate(id, other(n), VCPU=2)
        url = "/placement/usages?project_id=p"
        new = await ops.client.get(url)
        assert new.json == {"usages": {"INSTANCE": {"consumer_count": 3, "VCPU": 6}}}
        every = await ops.client.get(url + "&consumer_type=all")
        assert every.json == {"usages": {"all": {"consumer_count": 3, "VCPU": 6}}}
        assert (await ops.at("1.9").client.get(url)).json == {"usages": {"VCPU": 6}}
        assert (await ops.client.get(url + "&user_id=none")).json == {"usages": {}}
        assert (await ops.client.get("/placement/usages")).status == 400

"""Resource providers, their inventories, traits and aggregates, and the generation that covers them."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from pileus.services.placement.tests.given import PROVIDERS_URL, code_of, operator
from pileus.testing.alone import in_loop


@in_loop
async def test_a_provider_is_made_shown_renamed_and_deleted() -> None:
    async with operator() as ops:
        made = await ops.client.post(PROVIDERS_URL, {"name": "one"})
        id = made.json["uuid"]
        assert made.headers["location"] == f"http://cloud.test:5000{PROVIDERS_URL}/{id}"
        assert made.json["generation"] == 0
        assert made.json["root_provider_uuid"] == id
        assert made.json["parent_provider_uuid"] is None
        assert [link["rel"] for link in made.json["links"]] == [
            "self",
            "inventories",
            "usages",
            "aggregates",
            "traits",
            "allocations",
        ]
        renamed = await ops.client.put(f"{PROVIDERS_URL}/{id}", {"name": "two"})
        assert (renamed.json["name"], renamed.json["generation"]) == ("two", 0)
        assert (await ops.client.delete(f"{PROVIDERS_URL}/{id}")).status == 204
        assert (await ops.client.delete(f"{PROVIDERS_URL}/{id}")).status == 404


@in_loop
async def test_answers_follow_the_version() -> None:
    async with operator() as ops:
        old = ops.at("1.0")
        made = await old.client.post(PROVIDERS_URL, {"name": "one"})
        assert (made.status, made.body) == (201, b"")
        shown = await old.client.get(made.headers["location"])
        assert set(shown.json) == {"uuid", "name", "generation", "links"}
        assert "last-modified" not in shown.headers
        shown = await ops.client.get(made.headers["location"])
        assert "root_provider_uuid" in shown.json
        assert shown.headers["cache-control"] == "no-cache"
        assert shown.headers["last-modified"].endswith("GMT")
        parent = {"name": "x", "parent_provider_uuid": None}
        assert (await ops.at("1.13").client.post(PROVIDERS_URL, parent)).status == 400


@in_loop
async def test_names_and_uuids_are_unique() -> None:
    async with operator() as ops:
        id = await ops.provider("one")
        for body in ({"name": "one"}, {"name": "two", "uuid": id}):
            reply = await ops.client.post(PROVIDERS_URL, body)
            assert (reply.status, code_of(reply)) == (409, "placement.duplicate_name")
        reply = await ops.client.post(PROVIDERS_URL, {"name": "two", "uuid": "no-uuid"})
        assert reply.status == 400
        assert (await ops.client.post(PROVIDERS_URL, {"name": "x" * 201})).status == 400


@in_loop
async def test_a_tree_keeps_its_root_when_a_subtree_moves() -> None:
    async with operator() as ops:
        a, b = await ops.provider("a"), await ops.provider("b")
        child = await ops.provider("child", parent_provider_uuid=a)
        grandchild = await ops.provider("grandchild", parent_provider_uuid=child)
        moved = await ops.client.put(
            f"{PROVIDERS_URL}/{child}", {"name": "child", "parent_provider_uuid": b}
        )
        assert moved.json["root_provider_uuid"] == b
        below = await ops.client.get(f"{PROVIDERS_URL}/{grandchild}")
        assert below.json["root_provider_uuid"] == b
        in_tree = await ops.client.get(f"{PROVIDERS_URL}?in_tree={grandchild}")
        assert {p["uuid"] for p in in_tree.json["resource_providers"]} == {b, child, grandchild}
        loop = {"name": "b", "parent_provider_uuid": grandchild}
        assert (await ops.client.put(f"{PROVIDERS_URL}/{b}", loop)).status == 400
        back = {"name": "child", "parent_provider_uuid": a}
        assert (await ops.at("1.36").client.put(f"{PROVIDERS_URL}/{child}", back)).status == 400
        refused = await ops.client.delete(f"{PROVIDERS_URL}/{b}")
        assert code_of(refused) == "placement.resource_provider.cannot_delete_parent"


@in_loop
async def test_inventories_are_set_all_at_once_under_the_generation_read() -> None:
    async with operator() as ops:
        id = await ops.provider("one")
        first = await ops.stock(id, VCPU=4, MEMORY_MB={"total": 1024, "reserved": 24})
        assert first.json["resource_provider_generation"] == 1
        assert first.json["inventories"]["VCPU"] == {
            "total": 4,
            "reserved": 0,
            "min_unit": 1,
            "max_unit": 2147483647,
            "step_size": 1,
            "allocation_ratio": 1.0,
        }
        late = await ops.stock(id, 0, VCPU=8)
        assert (late.status, code_of(late)) == (409, "placement.concurrent_update")
        assert (await ops.stock(id, 1, VCPU=8)).status == 200
        left = await ops.client.get(f"{PROVIDERS_URL}/{id}/inventories")
        assert set(left.json["inventories"]) == {"VCPU"}
        assert (await ops.client.delete(f"{PROVIDERS_URL}/{id}/inventories")).status == 204
        assert await ops.generation(id) == 3


@in_loop
async def test_one_inventory_is_added_changed_and_taken_away() -> None:
    async with operator() as ops:
        id = await ops.provider("one")
        url = f"{PROVIDERS_URL}/{id}/inventories"
        made = await ops.client.post(url, {"resource_class": "VCPU", "total": 4})
        assert (made.status, made.json["resource_provider_generation"]) == (201, 1)
        again = await ops.client.post(url, {"resource_class": "VCPU", "total": 4})
        assert (again.status, code_of(again)) == (409, "placement.concurrent_update")
        body = {"total": 8, "resource_provider_generation": 1}
        assert (await ops.client.put(url + "/VCPU", body)).json["total"] == 8
        assert (await ops.client.put(url + "/VCPU", body)).status == 409
        assert (await ops.client.put(url + "/DISK_GB", body)).status == 409
        assert (await ops.client.delete(url + "/VCPU")).status == 204
        assert (await ops.client.get(url + "/VCPU")).status == 404


@in_loop
async def test_inventories_that_cannot_be_are_refused() -> None:
    async with operator() as ops:
        id = await ops.provider("one")
        wrong: dict[str, Any]
        for wrong in (
            {"NO_SUCH_CLASS": 1},
            {"VCPU": 0},
            {"VCPU": {"total": 4, "reserved": 5}},
            {"VCPU": {"total": "4"}},
            {"VCPU": {"total": 4, "min_unit": 0}},
            {"VCPU": {"total": 4, "allocation_ratio": 0}},
            {"VCPU": {"total": 4, "colour": "red"}},
            {"vcpu": 4},
            {"VCPU": {}},
        ):
            assert (await ops.stock(id, **wrong)).status == 400, wrong
        assert (await ops.stock(id, VCPU={"total": 4, "reserved": 4})).status == 200
        reply = await ops.at("1.25").stock(id, 1, VCPU={"total": 4, "reserved": 4})
        assert reply.status == 400


@in_loop
async def test_of_many_writers_with_the_same_generation_one_wins() -> None:
    async with operator() as ops:
        id = await ops.provider("one")
        replies = await asyncio.gather(*(ops.stock(id, 0, VCPU=n + 1) for n in range(20)))
        assert sorted(r.status for r in replies) == [200] + [409] * 19
        assert {code_of(r) for r in replies if r.status == 409} == {"placement.concurrent_update"}
        assert await ops.generation(id) == 1


@in_loop
async def test_inventory_in_use_stays() -> None:
    async with operator() as ops:
        id = await ops.provider("one")
        await ops.stock(id, VCPU=4, DISK_GB=10)
        assert (await ops.allocate(id, VCPU=1)).status == 204
        gone = await ops.stock(id, 2, DISK_GB=10)
        assert (gone.status, code_of(gone)) == (409, "placement.inventory.inuse")
        one = await ops.client.delete(f"{PROVIDERS_URL}/{id}/inventories/VCPU")
        assert (one.status, code_of(one)) == (409, "placement.concurrent_update")
        whole = await ops.client.delete(f"{PROVIDERS_URL}/{id}")
        assert (whole.status, code_of(whole)) == (409, "placement.resource_provider.inuse")
        assert (await ops.client.delete(f"{PROVIDERS_URL}/{id}/inventories/DISK_GB")).status == 204


@in_loop
async def test_traits_are_standard_or_custom_and_bump_the_generation() -> None:
    async with operator() as ops:
        id = await ops.provider("one")
        url = f"{PROVIDERS_URL}/{id}/traits"
        assert [
            (await ops.client.put("/placement/traits/CUSTOM_FAST")).status for _ in range(2)
        ] == [201, 204]
        for wrong in ("FAST", "CUSTOM_fast", "CUSTOM_" + "X" * 250):
            assert (await ops.client.put("/placement/traits/" + wrong)).status == 400
        body = {"traits": ["HW_CPU_X86_VMX", "CUSTOM_FAST"], "resource_provider_generation": 0}
        reply = await ops.client.put(url, body)
        assert reply.json["resource_provider_generation"] == 1
        assert (await ops.client.put(url, body)).status == 409
        unknown = {"traits": ["CUSTOM_NONE"], "resource_provider_generation": 1}
        assert (await ops.client.put(url, unknown)).status == 400
        assert (await ops.client.delete("/placement/traits/CUSTOM_FAST")).status == 409
        assert (await ops.client.delete("/placement/traits/HW_CPU_X86_VMX")).status == 400
        associated = await ops.client.get("/placement/traits?associated=true")
        assert set(associated.json["traits"]) == {"HW_CPU_X86_VMX", "CUSTOM_FAST"}
        assert (await ops.client.delete(url)).status == 204
        assert (await ops.client.delete("/placement/traits/CUSTOM_FAST")).status == 204
        assert (await ops.client.get("/placement/traits/CUSTOM_FAST")).status == 404
        assert (await ops.client.get("/placement/traits/HW_CPU_X86_VMX")).status == 204


@in_loop
async def test_traits_are_listed_by_prefix_or_name() -> None:
    async with operator() as ops:
        url = "/placement/traits?name="
        some = await ops.client.get(url + "startswith:HW_CPU_X86_V")
        assert "HW_CPU_X86_VMX" in some.json["traits"]
        assert all(t.startswith("HW_CPU_X86_V") for t in some.json["traits"])
        named = await ops.client.get(url + "in:COMPUTE_NODE,NO_SUCH")
        assert named.json["traits"] == ["COMPUTE_NODE"]
        assert (await ops.client.get(url + "COMPUTE_NODE")).status == 400


@in_loop
async def test_resource_classes_are_standard_or_custom() -> None:
    async with operator() as ops:
        url = "/placement/resource_classes"
        names = [c["name"] for c in (await ops.client.get(url)).json["resource_classes"]]
        assert names[:3] == ["VCPU", "MEMORY_MB", "DISK_GB"]
        assert (await ops.client.post(url, {"name": "CUSTOM_GOLD"})).status == 201
        assert (await ops.client.post(url, {"name": "CUSTOM_GOLD"})).status == 409
        assert (await ops.client.post(url, {"name": "GOLD"})).status == 400
        assert (await ops.client.put(url + "/CUSTOM_GOLD")).status == 204
        assert (await ops.client.put(url + "/CUSTOM_IRON")).status == 201
        id = await ops.provider("one")
        await ops.stock(id, CUSTOM_GOLD=1)
        assert (await ops.client.delete(url + "/CUSTOM_GOLD")).status == 409
        assert (await ops.client.delete(url + "/CUSTOM_IRON")).status == 204
        assert (await ops.client.delete(url + "/CUSTOM_IRON")).status == 404
        assert (await ops.client.delete(url + "/VCPU")).status == 400


@in_loop
async def test_aggregates_are_uuids_under_the_generation() -> None:
    async with operator() as ops:
        id, group = await ops.provider("one"), str(uuid.UUID(int=7))
        url = f"{PROVIDERS_URL}/{id}/aggregates"
        body = {"aggregates": [group], "resource_provider_generation": 0}
        assert (await ops.client.put(url, body)).json == {
            "aggregates": [group],
            "resource_provider_generation": 1,
        }
        assert code_of(await ops.client.put(url, body)) == "placement.concurrent_update"
        body = {"aggregates": ["x"], "resource_provider_generation": 1}
        assert (await ops.client.put(url, body)).status == 400
        assert (await ops.at("1.18").client.get(url)).json == {"aggregates": [group]}
        found = await ops.client.get(f"{PROVIDERS_URL}?member_of={group}")
        assert [p["uuid"] for p in found.json["resource_providers"]] == [id]
        none = await ops.client.get(f"{PROVIDERS_URL}?member_of=!{group}")
        assert none.json["resource_providers"] == []


@in_loop
async def test_providers_are_found_by_what_they_have() -> None:
    async with operator() as ops:
        big, small = await ops.provider("big"), await ops.provider("small")
        await ops.stock(big, VCPU=16)
        await ops.stock(small, VCPU=2)
        body = {"traits": ["HW_CPU_X86_VMX"], "resource_provider_generation": 1}
        await ops.client.put(f"{PROVIDERS_URL}/{small}/traits", body)

        async def found(query: str) -> set[str]:
            reply = await ops.client.get(f"{PROVIDERS_URL}?{query}")
            assert reply.status == 200, reply
            return {p["name"] for p in reply.json["resource_providers"]}

        assert await found("resources=VCPU:4") == {"big"}
        assert await found("resources=VCPU:2") == {"big", "small"}
        assert await found("required=HW_CPU_X86_VMX") == {"small"}
        assert await found("required=!HW_CPU_X86_VMX") == {"big"}
        assert await found("required=in:HW_CPU_X86_VMX,HW_CPU_X86_AVX") == {"small"}
        assert await found("name=big") == {"big"}
        assert await found(f"uuid={small}") == {"small"}
        for wrong in (
            "resources=VCPU",
            "resources=VCPU:0",
            "resources=NONE:1",
            "required=NONE",
            "required=",
            "colour=red",
            "required=HW_CPU_X86_VMX,!HW_CPU_X86_VMX",
        ):
            assert (await ops.client.get(f"{PROVIDERS_URL}?{wrong}")).status == 400, wrong

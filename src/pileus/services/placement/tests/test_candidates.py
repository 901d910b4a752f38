"""Allocation candidates: what could be allocated."""

from __future__ import annotations

import pytest

from pileus.kernel.faults import Invalid
from pileus.services.placement.candidates import search_all
from pileus.services.placement.demands import Demands
from pileus.services.placement.matching import Wanted
from pileus.services.placement.tests.given import PROVIDERS_URL, code_of, operator
from pileus.testing.alone import in_loop

URL = "/placement/allocation_candidates?"


@in_loop
async def test_candidates_are_what_can_be_put_as_an_allocation() -> None:
    async with operator() as ops:
        big, small = await ops.provider("big"), await ops.provider("small")
        await ops.stock(big, VCPU=16, MEMORY_MB=1024)
        await ops.stock(small, VCPU=2, MEMORY_MB=1024)
        found = (await ops.client.get(URL + "resources=VCPU:4,MEMORY_MB:512")).json
        request = found["allocation_requests"][0]
        assert request["mappings"] == {"": [big]}
        assert set(found["provider_summaries"]) == {big}
        assert found["provider_summaries"][big] == {
            "resources": {
                "VCPU": {"capacity": 16, "used": 0},
                "MEMORY_MB": {"capacity": 1024, "used": 0},
            },
            "traits": [],
            "parent_provider_uuid": None,
            "root_provider_uuid": big,
        }
        assert (await ops.put_allocations(request["allocations"])).status == 204
        assert (await ops.usages(big))["VCPU"] == 4


@in_loop
async def test_candidates_follow_traits_trees_and_limit() -> None:
    async with operator() as ops:
        ids = [await ops.provider(f"host-{n}") for n in range(5)]
        for id in ids:
            await ops.stock(id, VCPU=4)
        for id in ids[:3]:
            body = {"traits": ["HW_CPU_X86_VMX"], "resource_provider_generation": 1}
            await ops.client.put(f"{PROVIDERS_URL}/{id}/traits", body)

        async def found(query: str, version: str = "1.39") -> set[str]:
            reply = await ops.at(version).client.get(f"{URL}resources=VCPU:1&{query}")
            assert reply.status == 200, reply
            requests = reply.json["allocation_requests"]
            return {provider for one in requests for provider in one["allocations"]}

        assert await found("required=HW_CPU_X86_VMX") == set(ids[:3])
        assert await found("required=!HW_CPU_X86_VMX") == set(ids[3:])
        assert len(await found("limit=2")) == 2
        assert await found(f"in_tree={ids[4]}") == {ids[4]}
        assert len(await found("required=HW_CPU_X86_VMX", "1.17")) == 3


@in_loop
async def test_a_single_suffixed_group_is_mapped_by_its_suffix() -> None:
    async with operator() as ops:
        id = await ops.provider("one")
        await ops.stock(id, VCPU=4)
        found = await ops.client.get(URL + "resources_COMPUTE=VCPU:1")
        assert found.json["allocation_requests"][0]["mappings"] == {"_COMPUTE": [id]}


@in_loop
async def test_groups_are_served_by_the_providers_of_one_tree() -> None:
    async with operator() as ops:
        host = await ops.provider("host")
        disk = await ops.provider("disk", parent_provider_uuid=host)
        await ops.stock(host, VCPU=4)
        await ops.stock(disk, DISK_GB=10)
        several = URL + "resources1=VCPU:1&resources_D=DISK_GB:2&group_policy=isolate"
        found = (await ops.client.get(several)).json["allocation_requests"]
        assert found == [
            {
                "allocations": {
                    host: {"resources": {"VCPU": 1}},
                    disk: {"resources": {"DISK_GB": 2}},
                },
                "mappings": {"1": [host], "_D": [disk]},
            }
        ]


@in_loop
async def test_a_search_that_would_never_end_is_given_up_and_says_so() -> None:
    async with operator() as ops:
        host = await ops.provider("host")
        for n in range(6):
            port = await ops.provider(f"port{n}", parent_provider_uuid=host)
            await ops.stock(port, SRIOV_NET_VF=1)
        groups = {str(n): Wanted({"SRIOV_NET_VF": 1}) for n in range(1, 7)}
        impossible = Demands(groups=groups, subtrees=(frozenset(groups),), most_tried=1000)
        with pytest.raises(Invalid, match=r"given up after 1000 choices.*with 0 candidates found"):
            await search_all(ops.cloud.runtime.store, impossible)


@in_loop
async def test_malformed_demands_are_refused() -> None:
    async with operator() as ops:
        nothing = await ops.client.get(URL + "limit=1")
        assert (nothing.status, code_of(nothing)) == (400, "placement.query.missing_value")
        for wrong in (
            "resources=VCPU:1&limit=0",
            "resources=VCPU:1&colour=red",
            "resources=VCPU:-1",
            "resources=VCPU:1&required1=HW_CPU_X86_VMX",
            "resources=VCPU:1&in_tree=x",
        ):
            assert (await ops.client.get(URL + wrong)).status == 400, wrong
        old = ops.at("1.15")
        assert (await old.client.get(URL + "resources=VCPU:1&limit=1")).status == 400
        assert (await ops.at("1.9").client.get(URL + "resources=VCPU:1")).status == 404


@in_loop
async def test_a_version_past_the_newest_is_not_acceptable() -> None:
    async with operator() as ops:
        assert (await ops.at("1.40").client.get(PROVIDERS_URL)).status == 406
        latest = await ops.at("latest").client.get(PROVIDERS_URL)
        assert latest.headers["openstack-api-version"] == "placement 1.39"

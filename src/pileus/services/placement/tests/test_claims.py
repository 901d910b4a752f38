"""Hosts report, servers claim: the contract that compute relies on."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from pileus.kernel.faults import Conflict, Invalid, NoCapacity
from pileus.services.placement import SERVICE
from pileus.services.placement.contract import Demand, Group, Inventory
from pileus.services.placement.fit import Stock
from pileus.services.placement.ledger import CONSUMERS
from pileus.services.placement.providers import PROVIDERS, ResourceProvider
from pileus.services.placement.tests.given import ONE, SMALL, check_books, placement_of
from pileus.testing.alone import Alone, alone, in_loop

NODE = frozenset({"COMPUTE_NODE"})


@in_loop
async def test_a_report_makes_the_provider_and_the_same_report_writes_nothing() -> None:
    async with alone(SERVICE) as cloud:
        placement = placement_of(cloud)
        await placement.report("host-1", SMALL, NODE)
        first = await PROVIDERS.one(cloud.runtime.store, name="host-1")
        assert first is not None and first.traits == ["COMPUTE_NODE"]
        assert first.inventories["DISK_GB"].capacity == 8
        await placement.report("host-1", SMALL, NODE)
        assert await PROVIDERS.one(cloud.runtime.store, name="host-1") == first


@in_loop
async def test_a_changed_report_keeps_usage_and_traits_that_an_operator_gave() -> None:
    async with alone(SERVICE) as cloud:
        placement, store = placement_of(cloud), cloud.runtime.store
        await placement.report("host-1", SMALL, NODE)
        await placement.claim("c", ONE, ["host-1"], "p", "u")
        async with store.tx() as tx:
            provider = await PROVIDERS.one(tx, name="host-1")
            assert provider is not None
            await PROVIDERS.change(tx, provider, traits=["COMPUTE_NODE", "HW_CPU_X86_AVX"])
        more = {**SMALL, "MEMORY_MB": Inventory(total=4096)}
        await placement.report("host-1", more, frozenset({"COMPUTE_TRUSTED_CERTS"}))
        provider = await PROVIDERS.one(store, name="host-1")
        assert provider is not None
        assert provider.traits == ["COMPUTE_TRUSTED_CERTS", "HW_CPU_X86_AVX"]
        memory = provider.inventories["MEMORY_MB"]
        assert (memory.total, memory.used) == (4096, 128)


@in_loop
async def test_a_class_in_use_stays_though_the_host_no_longer_reports_it() -> None:
    async with alone(SERVICE) as cloud:
        placement = placement_of(cloud)
        await placement.report("host-1", SMALL, NODE)
        await placement.claim("c", ONE, ["host-1"], "p", "u")
        await placement.report("host-1", {"VCPU": SMALL["VCPU"]}, NODE)
        provider = await PROVIDERS.one(cloud.runtime.store, name="host-1")
        assert provider is not None and set(provider.inventories) == set(SMALL)
        await placement.release("c")
        await placement.report("host-1", {"VCPU": SMALL["VCPU"]}, NODE)
        provider = await PROVIDERS.one(cloud.runtime.store, name="host-1")
        assert provider is not None and set(provider.inventories) == {"VCPU"}


@in_loop
async def test_a_custom_trait_of_a_host_is_made_and_an_unknown_name_refused() -> None:
    async with alone(SERVICE) as cloud:
        placement = placement_of(cloud)
        await placement.report("host-1", SMALL, frozenset({"CUSTOM_FAST"}))
        with pytest.raises(Invalid, match="NO_SUCH_TRAIT"):
            await placement.report("host-2", SMALL, frozenset({"NO_SUCH_TRAIT"}))
        assert await PROVIDERS.one(cloud.runtime.store, name="host-2") is None


@in_loop
async def test_what_others_say_of_a_host_outlives_its_reports_and_is_written_once() -> None:
    async with alone(SERVICE) as cloud:
        placement, store = placement_of(cloud), cloud.runtime.store
        await placement.describe("host-1", {"COMPUTE_STATUS_DISABLED": True}, {})  # not there yet
        await placement.report("host-1", SMALL, NODE, id="11111111-0000-0000-0000-000000000001")
        await placement.describe("host-1", {"COMPUTE_STATUS_DISABLED": True}, {"a": True})
        await placement.describe("host-1", {}, {"b": True, "c": False})
        await placement.report("host-1", SMALL, NODE)
        told = await PROVIDERS.one(store, name="host-1")
        assert told is not None and told.id == "11111111-0000-0000-0000-000000000001"
        assert told.traits == ["COMPUTE_NODE", "COMPUTE_STATUS_DISABLED"]
        assert told.aggregates == ["a", "b"]
        await placement.describe("host-1", {"COMPUTE_STATUS_DISABLED": True}, {"b": True})
        assert await PROVIDERS.one(store, name="host-1") == told
        await placement.describe("host-1", {"COMPUTE_STATUS_DISABLED": False}, {"a": False})
        now = await PROVIDERS.one(store, name="host-1")
        assert now is not None and (now.traits, now.aggregates) == (["COMPUTE_NODE"], ["b"])


@in_loop
async def test_a_host_is_forgotten_with_its_whole_tree_once_nothing_is_held_of_it() -> None:
    async with alone(SERVICE) as cloud:
        placement, store = placement_of(cloud), cloud.runtime.store
        await placement.report("host-1", SMALL, NODE)
        root = await PROVIDERS.one(store, name="host-1")
        assert root is not None
        async with store.tx() as tx:
            child = ResourceProvider(id="child", name="numa", parent_id=root.id, root_id=root.id)
            await PROVIDERS.insert(tx, child)
        await placement.claim("c", ONE, ["host-1"], "p", "u")
        with pytest.raises(Conflict, match="host-1"):
            await placement.forget("host-1")
        await placement.release("c")
        await placement.forget("host-1")
        await placement.forget("host-1")
        assert await PROVIDERS.all(store) == []


@in_loop
async def test_a_claim_takes_the_host_with_the_greatest_part_of_its_memory_free() -> None:
    async with alone(SERVICE) as cloud:
        placement = placement_of(cloud)
        for name, memory in (("small", 1024), ("large", 4096)):
            await placement.report(name, {**SMALL, "MEMORY_MB": Inventory(total=memory)}, NODE)
        both = ["small", "large"]
        await placement.claim("first", ONE, ["small"], "p", "u")
        assert await placement.claim("second", ONE, both, "p", "u") == "large"
        for n in range(4):
            await placement.claim(f"fill-{n}", ONE, ["large"], "p", "u")
        await cloud.runtime.store.sync()
        assert await placement.claim("third", ONE, both, "p", "u") == "small"


@in_loop
async def test_a_claim_only_takes_hosts_it_was_given() -> None:
    async with alone(SERVICE) as cloud:
        placement = placement_of(cloud)
        await placement.report("other", {**SMALL, "MEMORY_MB": Inventory(total=65_536)}, NODE)
        await placement.report("mine", SMALL, NODE)
        assert await placement.claim("c", ONE, ["mine"], "p", "u") == "mine"


@in_loop
async def test_asking_again_gives_the_same_host_and_holds_no_more() -> None:
    async with alone(SERVICE) as cloud:
        placement = placement_of(cloud)
        for name in ("host-1", "host-2"):
            await placement.report(name, SMALL, NODE)
        first = await placement.claim("c", ONE, ["host-1"], "p", "u")
        assert await placement.claim("c", ONE, ["host-2"], "p", "u") == first == "host-1"
        await cloud.runtime.store.sync()
        await check_books(cloud)
        assert len(await CONSUMERS.all(cloud.runtime.store)) == 1


@in_loop
async def test_a_release_gives_everything_back_and_a_second_one_does_nothing() -> None:
    async with alone(SERVICE) as cloud:
        placement = placement_of(cloud)
        await placement.report("host-1", SMALL, NODE)
        await placement.claim("c", ONE, ["host-1"], "p", "u")
        await placement.release("c")
        await placement.release("c")
        await cloud.runtime.store.sync()
        provider = await PROVIDERS.one(cloud.runtime.store, name="host-1")
        assert provider is not None and not provider.in_use
        assert await CONSUMERS.all(cloud.runtime.store) == []


@in_loop
async def test_traits_required_and_forbidden_decide_among_hosts() -> None:
    async with alone(SERVICE) as cloud:
        placement = placement_of(cloud)
        await placement.report("plain", SMALL, NODE)
        await placement.report("vmx", SMALL, NODE | {"HW_CPU_X86_VMX"})
        both = ["plain", "vmx"]
        with_vmx = Demand(resources=ONE.resources, required=frozenset({"HW_CPU_X86_VMX"}))
        without = Demand(resources=ONE.resources, forbidden=frozenset({"HW_CPU_X86_VMX"}))
        assert await placement.claim("a", with_vmx, both, "p", "u") == "vmx"
        assert await placement.claim("b", without, both, "p", "u") == "plain"
        with pytest.raises(NoCapacity, match="1 host: it lacks the trait HW_CPU_X86_VMX"):
            await placement.claim("c", with_vmx, ["plain"], "p", "u")


@in_loop
async def test_no_capacity_names_each_host_and_why() -> None:
    async with alone(SERVICE) as cloud:
        placement = placement_of(cloud)
        await placement.report("host-1", SMALL, NODE)
        await placement.report("host-2", {"VCPU": SMALL["VCPU"]}, NODE)
        big = Demand(resources={"MEMORY_MB": 1024, "DISK_GB": 9})
        with pytest.raises(NoCapacity) as caught:
            await placement.claim("c", big, ["host-1", "host-2", "host-3"], "p", "u")
        assert "host-" not in caught.value.message, "users do not learn the names of hosts"
        text = caught.value.internal
        assert "too little DISK_GB: host-1 (9 asked, 8 of 8 free)" in text
        assert "it has no MEMORY_MB: host-2" in text
        assert "it has not reported what it has: host-3" in text


@in_loop
async def test_no_capacity_of_many_hosts_counts_those_past_the_first_twenty() -> None:
    async with alone(SERVICE) as cloud:
        placement = placement_of(cloud)
        names = [f"host-{n:03}" for n in range(350)]
        await asyncio.gather(*(placement.report(n, SMALL, NODE) for n in names))
        full = Demand(resources={"DISK_GB": 9})
        with pytest.raises(NoCapacity) as caught:
            await placement.claim("c", full, names, "p", "u")
        assert caught.value.message == "No valid host was found. 350 hosts: too little DISK_GB."
        assert caught.value.internal.count("(9 asked, 8 of 8 free)") == 20
        assert caught.value.internal.endswith("and 330 more.")


@in_loop
async def test_of_more_hosts_than_are_named_to_the_store_only_the_given_ones_are_taken() -> None:
    async with alone(SERVICE) as cloud:
        placement = placement_of(cloud)
        names = [f"host-{n:03}" for n in range(350)]
        await asyncio.gather(*(placement.report(n, SMALL, NODE) for n in names))
        given = names[:320]
        for n in range(40):
            assert await placement.claim(f"c{n}", ONE, given, "p", "u") in given


@in_loop
async def test_fifty_claims_at_once_never_hold_more_than_there_is() -> None:
    async with alone(SERVICE) as cloud:
        placement = placement_of(cloud)
        for name in ("host-1", "host-2", "host-3"):
            await placement.report(name, SMALL, NODE)  # 8 of ONE fit on each
        among = ["host-1", "host-2", "host-3"]
        results = await asyncio.gather(
            *(placement.claim(f"c{n}", ONE, among, "p", "u") for n in range(50)),
            return_exceptions=True,
        )
        placed = [r for r in results if isinstance(r, str)]
        assert sorted(placed) == sorted(among * 8)
        assert all(isinstance(r, str | NoCapacity) for r in results)
        await check_books(cloud)


@in_loop
async def test_claims_and_releases_mixed_leave_the_books_straight() -> None:
    async with alone(SERVICE) as cloud:
        placement = placement_of(cloud)
        among = ["host-1", "host-2"]
        for name in among:
            await placement.report(name, SMALL, NODE)

        async def come_and_go(n: int) -> None:
            await placement.claim(f"c{n}", ONE, among, "p", "u")
            await check_books(cloud)
            await placement.release(f"c{n}")

        for _ in range(3):
            await asyncio.gather(*(come_and_go(n) for n in range(14)))
            await check_books(cloud)
        assert await CONSUMERS.all(cloud.runtime.store) == []


@in_loop
async def test_the_same_consumer_claimed_twice_at_once_holds_once() -> None:
    async with alone(SERVICE) as cloud:
        placement = placement_of(cloud)
        among = ["host-1", "host-2"]
        for name in among:
            await placement.report(name, SMALL, NODE)
        results = await asyncio.gather(
            *(placement.claim("c", ONE, among, "p", "u") for _ in range(10))
        )
        assert len(set(results)) == 1
        await check_books(cloud)


async def card(cloud: Alone, host: str, **changes: Any) -> str:
    """A provider below a host, with one VGPU."""
    async with cloud.runtime.store.tx() as tx:
        root = await PROVIDERS.one(tx, name=host)
        assert root is not None
        id = f"{host}-card"
        stock = {"VGPU": Stock(total=1)}
        below = ResourceProvider(
            id=id, name=id, parent_id=root.id, root_id=root.id, inventories=stock, **changes
        )
        await PROVIDERS.insert(tx, below)
    return id


@in_loop
async def test_a_group_is_served_by_a_nested_provider_and_given_back() -> None:
    async with alone(SERVICE) as cloud:
        placement, among = placement_of(cloud), ["plain", "slow", "fast"]
        for name in among:
            await placement.report(name, SMALL, NODE)
        await card(cloud, "slow")
        fast = await card(cloud, "fast", traits=["CUSTOM_FAST"], aggregates=["rack"])
        wants = Group(
            resources={"VGPU": 1},
            required=frozenset({"CUSTOM_FAST"}),
            member_of=(frozenset({"rack", "other"}),),
        )
        demand = Demand(resources=ONE.resources, groups={"1": wants})
        assert await placement.claim("c", demand, among, "p", "u") == "fast"
        await cloud.runtime.store.sync()
        held = await CONSUMERS.get(cloud.runtime.store, "c")
        assert held.allocations[fast] == {"VGPU": 1} and len(held.allocations) == 2
        await check_books(cloud)
        with pytest.raises(NoCapacity) as caught:
            await placement.claim("d", demand, among, "p", "u")
        assert "it has no VGPU: plain" in caught.value.internal
        assert "too little VGPU: fast (1 asked, 0 of 1 free)" in caught.value.internal
        await placement.release("c")
        assert await placement.claim("d", demand, among, "p", "u") == "fast"


@in_loop
async def test_offers_begin_with_the_emptiest_host_or_where_stacked_the_fullest() -> None:
    async with alone(SERVICE) as cloud:
        placement, names = placement_of(cloud), ["one", "two", "three"]
        for name, held in zip(names, (2, 0, 4), strict=True):
            await placement.report(name, SMALL, NODE)
            for n in range(held):
                await placement.claim(f"{name}-{n}", ONE, [name], "p", "u")
        await cloud.runtime.store.sync()

        async def order(*, stack: bool) -> list[str]:
            return [o.host for o in await anext(aiter(placement.offers(ONE, stack=stack)))]

        assert await order(stack=False) == ["two", "one", "three"]
        assert await order(stack=True) == ["three", "one", "two"]


@in_loop
async def test_of_offers_that_changed_meanwhile_the_one_with_most_room_is_taken() -> None:
    async with alone(SERVICE) as cloud:
        placement, names = placement_of(cloud), ["one", "two"]
        for name in names:
            await placement.report(name, SMALL, NODE)

        before = await anext(aiter(placement.offers(ONE)))
        first, second = (o.host for o in before)
        taken = [await placement.take(f"c{n}", before, "p", "u") for n in range(6)]
        assert taken[:2] == [first, second], "whoever is second takes what is as it was seen"
        assert Counter(taken) == {first: 3, second: 3}
        left = [await placement.take(f"d{n}", before, "p", "u") for n in range(11)]
        assert Counter(left) == {first: 5, second: 5, "": 1}, "eight fit on each"
        await check_books(cloud)


@in_loop
async def test_a_part_is_set_aside_and_taken_back_however_often_it_is_asked() -> None:
    async with alone(SERVICE) as cloud:
        placement, store = placement_of(cloud), cloud.runtime.store
        await placement.report("host-1", SMALL, NODE)
        nic = {"NET_BW_EGR_KILOBIT_PER_SEC": Inventory(total=1000)}
        await placement.report("host-1:net", nic, frozenset({"CUSTOM_NET"}), below="host-1")
        wire = Group(
            resources={"NET_BW_EGR_KILOBIT_PER_SEC": 400}, required=frozenset({"CUSTOM_NET"})
        )
        await placement.claim("c", ONE, ["host-1"], "p", "u")
        await store.sync()
        before = (await CONSUMERS.get(store, "c")).allocations
        for _ in range(2):
            await placement.claim(
                "saga", Demand(resources={}, groups={"a": wire}), ["host-1"], "p", "u"
            )
        for _ in range(2):
            await placement.take_back("c", "saga", besides=True)
        await store.sync()
        both = (await CONSUMERS.get(store, "c")).allocations
        net = await PROVIDERS.one(store, name="host-1:net")
        assert net is not None and both == {**before, net.id: dict(wire.resources)}
        await placement.set_aside("c", "saga", only=[wire], keeps=[wire])  # it is another's
        assert await CONSUMERS.find(store, "saga") is None
        for _ in range(2):
            await placement.set_aside("c", "saga", only=[wire])
        await store.sync()
        assert (await CONSUMERS.get(store, "c")).allocations == before
        await check_books(cloud)
        await placement.release("saga")
        await store.sync()
        net = await PROVIDERS.one(store, name="host-1:net")
        assert net is not None and net.inventories["NET_BW_EGR_KILOBIT_PER_SEC"].used == 0

"""Addresses by the rules, whatever the numbers."""

from __future__ import annotations

import random
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pileus.kernel.faults import Conflict, Invalid
from pileus.services.network import addressing

_BLOCKS = st.builds(
    lambda n, length: ip_network((n >> (32 - length) << (32 - length), length)),
    st.integers(1 << 24, (1 << 32) - 1),
    st.integers(8, 32),
)


@settings(max_examples=60, deadline=None)
@given(_BLOCKS, st.integers(0, 1 << 32))
def test_default_pools_hold_all_usable_addresses_but_the_gateway(of: IPv4Network, at: int) -> None:
    gateway = of[at % of.num_addresses]
    pools = addressing.default_pools(of, gateway)
    low, high = addressing.usable(of)
    assert addressing.size(pools) == high - low + 1 - (low <= int(gateway) <= high)
    assert all(low <= a <= b <= high for a, b in pools)
    assert not any(a <= int(gateway) <= b for a, b in pools)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 8)), max_size=4),
    st.sets(st.integers(0, 80)),
)
def test_free_finds_an_address_if_and_only_if_there_is_one(
    spans: list[tuple[int, int]], taken: set[int]
) -> None:
    pools = [(a, a + n) for a, n in spans]
    everything = {x for a, b in pools for x in range(a, b + 1)}
    found = addressing.free(pools, taken)
    assert (found is None) == (everything <= taken)
    assert found is None or found in everything - taken


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(24, 28)), max_size=6), st.integers(24, 28)
)
def test_a_free_prefix_is_inside_and_overlaps_nothing(
    taken: list[tuple[int, int]], length: int
) -> None:
    whole = ip_network("10.0.0.0/22")
    used = [ip_network((f"10.0.0.{n}", size), strict=False) for n, size in taken]
    found = addressing.free_prefix([whole], used, length)
    assert found is not None, "three quarters of the pool are free"
    assert found.prefixlen == length
    assert addressing.inside(found, [whole])
    assert not addressing.overlaps(found, used)


def test_no_free_prefix_in_a_full_pool() -> None:
    pool = ip_network("10.0.0.0/24")
    assert addressing.free_prefix([pool], [ip_network("10.0.0.128/26")], 25) == ip_network(
        "10.0.0.0/25"
    )
    assert (
        addressing.free_prefix([pool], [ip_network("10.0.0.0/26"), ip_network("10.0.0.192/26")], 25)
        is None
    )


def test_eui64_is_the_address_of_the_rfc() -> None:
    prefix = IPv6Network("2001:db8::/64")
    assert str(addressing.eui64(prefix, "fa:16:3e:aa:bb:cc")) == "2001:db8::f816:3eff:feaa:bbcc"


def test_candidates_come_from_the_pools() -> None:
    drawn = addressing.candidates([(10, 12), (20, 21)], random.Random(1), 50)
    assert set(drawn) == {10, 11, 12, 20, 21}
    assert addressing.candidates([], random.Random(1), 5) == []


@pytest.mark.parametrize("pool", [("10.0.0.9", "10.0.0.2"), ("10.0.0.2", "2001:db8::1")])
def test_pools_upside_down_or_of_two_versions_are_refused(pool: tuple[str, str]) -> None:
    with pytest.raises(Invalid) as refused:
        addressing.checked_pools(ip_network("10.0.0.0/24"), [pool], None)
    assert refused.value.code == "InvalidAllocationPool"


def test_pools_may_not_overlap_nor_hold_the_gateway() -> None:
    block = ip_network("10.0.0.0/24")
    with pytest.raises(Conflict) as overlap:
        addressing.checked_pools(block, [("10.0.0.2", "10.0.0.9"), ("10.0.0.9", "10.0.0.12")], None)
    assert overlap.value.code == "OverlappingAllocationPools"
    with pytest.raises(Conflict) as gateway:
        addressing.checked_pools(block, [("10.0.0.1", "10.0.0.9")], ip_address("10.0.0.1"))
    assert gateway.value.code == "GatewayConflictWithAllocationPools"
    with pytest.raises(Invalid):
        addressing.checked_pools(block, [("10.0.0.1", "10.0.0.255")], None)

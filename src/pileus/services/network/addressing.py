"""Arithmetic of addresses: pools, gateways, free prefixes, IPv6 interface identifiers. Pure functions."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_network,
)

from pileus.kernel.faults import Conflict, Invalid

from .refusals import bad_input

Block = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
Range = tuple[int, int]  # first and last, both inside
AUTO_MODES = frozenset({"slaac", "dhcpv6-stateless"})
MODES = (*sorted(AUTO_MODES), "dhcpv6-stateful")


def block(cidr: str, name: str = "cidr") -> Block:
    """A prefix, host bits forgotten as upstream does. Raises Invalid."""
    try:
        if len(cidr) > 64 or "%" in cidr:
            raise ValueError("too long")
        return ip_network(cidr, strict=False)
    except ValueError:
        raise Invalid(
            f"Invalid input for {name}. Reason: '{cidr[:64]}' is not a valid IP subnet."
        ) from None


def address(text: str, name: str = "ip_address") -> Address:
    """Raises Invalid."""
    try:
        if len(text) > 64 or "%" in text:
            raise ValueError("too long")
        return ip_address(text)
    except ValueError:
        raise Invalid(
            f"Invalid input for {name}. Reason: '{text[:64]}' is not a valid IP address."
        ) from None


def same_version(value: Address | Block, version: int, name: str) -> None:
    if value.version != version:
        raise bad_input(f"{name} '{value}' does not match the ip_version '{version}'")


def usable(of: Block) -> Range:
    """The first and last address that a port may have."""
    first, last = int(of.network_address), int(of.broadcast_address)
    if of.version == 4:
        return (first + 1, last - 1) if of.prefixlen <= 30 else (first, last)
    return (first + 1, last) if of.prefixlen < 127 else (first, last)


def default_gateway(of: Block) -> Address:
    """The first address, as upstream."""
    if of.num_addresses == 1:
        return of.network_address
    return of.network_address + 1


def default_pools(of: Block, gateway: Address | None) -> list[Range]:
    """All that is usable, around the gateway."""
    first, last = usable(of)
    at = int(gateway) if gateway is not None and gateway in of else -1
    ranges = [(first, min(last, at - 1)), (max(first, at + 1), last)] if at >= 0 else []
    return [(a, b) for a, b in ranges or [(first, last)] if a <= b]


def checked_pools(
    of: Block, pools: Sequence[tuple[str, str]], gateway: Address | None
) -> list[Range]:
    """Raises Invalid for pools out of bounds or upside down, Conflict for overlaps."""
    low, high = usable(of)
    found: list[Range] = []
    for start, end in pools:
        a, b = address(start, "allocation_pools"), address(end, "allocation_pools")
        spelt = f"{start}-{end}"
        if a.version != of.version or b.version != of.version or int(a) > int(b):
            raise Invalid(
                f"The allocation pool {spelt} is not valid.", code="InvalidAllocationPool"
            )
        if int(a) < low or int(b) > high:
            raise Invalid(
                f"The allocation pool {spelt} spans beyond the subnet cidr {of}.",
                code="OutOfBoundsAllocationPool",
            )
        found.append((int(a), int(b)))
    for one, two in zip(sorted(found), sorted(found)[1:], strict=False):
        if one[1] >= two[0]:
            raise Conflict(
                f"Found overlapping allocation pools: {_spelt(of, one)} {_spelt(of, two)} for subnet {of}.",
                code="OverlappingAllocationPools",
            )
    if gateway is not None:
        gateway_outside(of, found, gateway)
    return found


def gateway_outside(of: Block, pools: Iterable[Range], gateway: Address) -> None:
    """Raises Conflict if the gateway could be given to a port."""
    for pool in pools:
        if pool[0] <= int(gateway) <= pool[1]:
            raise Conflict(
                f"Gateway ip {gateway} conflicts with allocation pool {_spelt(of, pool)}.",
                code="GatewayConflictWithAllocationPools",
            )


def _spelt(of: Block, pool: Range) -> str:
    return f"{spell(pool[0], of.version)}-{spell(pool[1], of.version)}"


def spell(number: int, version: int) -> str:
    return str(IPv4Address(number) if version == 4 else IPv6Address(number))


def overlaps(one: Block, others: Iterable[Block]) -> bool:
    return any(one.version == o.version and one.overlaps(o) for o in others)


def candidates(pools: Sequence[Range], chance: random.Random, count: int) -> list[int]:
    """Some addresses of the pools, by chance: a freed address is not at once another's."""
    sizes = [b - a + 1 for a, b in pools]
    total = sum(sizes)
    found: dict[int, None] = {}
    for _ in range(count if total else 0):
        at = chance.randrange(total)
        for (a, _), size in zip(pools, sizes, strict=True):
            if at < size:
                found[a + at] = None
                break
            at -= size
    return list(found)


def free(pools: Sequence[Range], taken: Iterable[int]) -> int | None:
    """The first address of the pools that nobody has."""
    used = sorted(set(taken))
    for first, last in sorted(pools):
        at = first
        for number in used:
            if number > last:
                break
            if number == at:
                at += 1
        if at <= last:
            return at
    return None


def size(pools: Iterable[Range]) -> int:
    return sum(b - a + 1 for a, b in pools)


def eui64(prefix: IPv6Network, mac: str) -> IPv6Address:
    """The address that a host makes of its MAC under SLAAC."""
    octets = [int(part, 16) for part in mac.split(":")]
    whole = [octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]]
    return prefix.network_address + int.from_bytes(bytes(whole), "big")


def free_prefix(prefixes: Iterable[Block], taken: Sequence[Block], length: int) -> Block | None:
    """The first prefix of that length which overlaps nothing taken."""
    for whole in sorted(prefixes, key=lambda p: (int(p.network_address), p.prefixlen)):
        if whole.prefixlen > length:
            continue
        for found in _gaps(whole, taken, length):
            return found
    return None


def _gaps(whole: Block, taken: Sequence[Block], length: int) -> Iterator[Block]:
    """Prefixes of the length in the gaps, jumping over what is taken."""
    step = 1 << (whole.max_prefixlen - length)
    at, last = int(whole.network_address), int(whole.broadcast_address)
    ends = sorted(
        (int(t.network_address), int(t.broadcast_address))
        for t in taken
        if t.version == whole.version
    )
    while at + step - 1 <= last:
        clash = next((b for a, b in ends if a <= at + step - 1 and b >= at), None)
        if clash is None:
            yield ip_network((spell(at, whole.version), length))
            return
        at = (clash // step + 1) * step


def inside(one: Block, prefixes: Iterable[Block]) -> bool:
    return any(
        p.version == one.version
        and int(p.network_address) <= int(one.network_address)
        and int(one.broadcast_address) <= int(p.broadcast_address)
        for p in prefixes
    )


def without(prefixes: Sequence[Block], gone: Sequence[Block]) -> list[Block]:
    """What is left of the prefixes."""
    left = list(prefixes)
    for hole in gone:
        left = [part for p in left for part in _around(p, hole)]
    return left


def _around(whole: Block, hole: Block) -> Iterator[Block]:
    if whole.version != hole.version or not whole.overlaps(hole):
        yield whole
    elif inside(hole, [whole]) and hole != whole:
        yield from whole.address_exclude(hole)  # type: ignore[arg-type]


def compact(prefixes: Sequence[Block]) -> list[Block]:
    """The same addresses in as few prefixes as possible, in order."""
    v4 = [p for p in prefixes if isinstance(p, IPv4Network)]
    v6 = [p for p in prefixes if isinstance(p, IPv6Network)]
    return [*collapse_addresses(v4), *collapse_addresses(v6)]

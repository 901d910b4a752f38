"""What a subnet is, and which of its addresses are taken."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Network
from typing import Any

import msgspec

from pileus.kernel.quota import Quota
from pileus.kernel.store import Page, Record, Table, Tx
from pileus.kernel.world import World

from .addressing import AUTO_MODES, Block, Range, address, block, candidates, free, spell
from .network import EXTERNAL_TO, Network
from .refusals import address_taken
from .resource import COLUMNS, SHARED_WITH, TAGS, Nouns, Shared

_DRAWS = (
    16  # free addresses are drawn by chance first, and looked for in order only in full subnets
)


class Route(msgspec.Struct, frozen=True, kw_only=True):
    destination: str
    nexthop: str


class PoolRange(msgspec.Struct, frozen=True, kw_only=True):
    start: str
    end: str


class Subnet(Shared, kw_only=True, frozen=True):
    """`shared`, `external` and `network_project_id` are its network's, kept here for lists and rules."""

    network_id: str
    network_project_id: str = ""
    external: bool = False
    external_to: list[str] = []
    cidr: str
    ip_version: int = 4
    gateway_ip: str = ""
    enable_dhcp: bool = True
    allocation_pools: list[PoolRange] = []
    dns_nameservers: list[str] = []
    host_routes: list[Route] = []
    ipv6_ra_mode: str = ""
    ipv6_address_mode: str = ""
    subnetpool_id: str = ""
    segment_id: str = ""
    service_types: list[str] = []
    dns_publish_fixed_ip: bool = False

    @property
    def block(self) -> Block:
        return block(self.cidr)

    @property
    def ranges(self) -> list[Range]:
        return [(int(address(p.start)), int(address(p.end))) for p in self.allocation_pools]

    @property
    def is_auto(self) -> bool:
        """Do hosts make their addresses themselves?"""
        return self.ip_version == 6 and self.ipv6_address_mode in AUTO_MODES


SUBNETS = Nouns[Subnet](
    "network_subnets",
    Subnet,
    columns=(
        *COLUMNS,
        "network_id",
        "network_project_id",
        "shared",
        "external",
        "cidr",
        "ip_version",
        "gateway_ip",
        "enable_dhcp",
        "ipv6_ra_mode",
        "ipv6_address_mode",
        "subnetpool_id",
        "segment_id",
    ),
    many=(TAGS, SHARED_WITH, EXTERNAL_TO),
    quotas=(Quota("network", "subnet", default=100),),
    indexes=(
        ("network_id",),
        ("project_id", "created_at", "id"),
        ("subnetpool_id",),
        ("segment_id",),
    ),
    noun="Subnet",
).worded("SubnetNotFound", "Subnet {id} could not be found.")


class Allocation(Record, kw_only=True, frozen=True):
    """An address that somebody has. Its id, `network/address`, is what makes it theirs alone."""

    subnet_id: str
    port_id: str
    ip: str


ALLOCATIONS = Table(
    "network_allocations",
    Allocation,
    columns=("subnet_id", "port_id", "ip"),
    indexes=(("subnet_id", "ip"), ("port_id",)),
    noun="IP address",
)


async def release_subnet(tx: Tx, subnet: Subnet) -> None:
    """Deletes the row; the caller has made sure that no port uses it."""
    await SUBNETS.delete(tx, subnet)


async def take(tx: Tx, network_id: str, subnet: Subnet, ip: str, port_id: str) -> None:
    """Makes the address the port's. The network must be held. Raises Conflict if somebody has it."""
    id = f"{network_id}/{ip}"
    if await ALLOCATIONS.find(tx, id) is not None:
        raise address_taken(ip, subnet.id)
    await ALLOCATIONS.insert(tx, Allocation(id=id, subnet_id=subnet.id, port_id=port_id, ip=ip))


async def give_back(tx: Tx, network_id: str, ip: str) -> None:
    found = await ALLOCATIONS.find(tx, f"{network_id}/{ip}")
    if found is not None:
        await ALLOCATIONS.delete(tx, found)


async def take_free(tx: Tx, world: World, subnet: Subnet, port_id: str) -> str | None:
    """An address of the subnet's pools, now the port's; None if all are taken."""
    found = await _free(tx, world, subnet)
    if found is not None:
        await take(tx, subnet.network_id, subnet, found, port_id)
    return found


async def _free(tx: Tx, world: World, subnet: Subnet) -> str | None:
    pools, version = subnet.ranges, subnet.ip_version
    drawn = [spell(n, version) for n in candidates(pools, world.random, _DRAWS)]
    taken = await _taken(tx, {"subnet_id": subnet.id, "ip": drawn})
    for ip in drawn:
        if ip not in taken:
            return ip
    everything = await _taken(tx, {"subnet_id": subnet.id})
    number = free(pools, [int(address(ip)) for ip in everything])
    return None if number is None else spell(number, version)


async def _taken(tx: Tx, filters: dict[str, object]) -> set[str]:
    page = Page(filters, (("id", False),), limit=1 << 30)
    rows = await ALLOCATIONS.page(tx, page, select=("ip",))
    return {row[0] for row in rows}


async def used_of(tx: Tx, subnet_id: str) -> list[Allocation]:
    return await ALLOCATIONS.all(tx, subnet_id=subnet_id)


def auto_prefix(subnet: Subnet) -> IPv6Network:
    found = subnet.block
    assert isinstance(found, IPv6Network)
    return found


def subnet_target(subnet: Subnet, project_id: str) -> dict[str, object]:
    return {
        "project_id": subnet.project_id,
        "shared": subnet.is_shared_to(project_id),
        "router:external": subnet.external or project_id in subnet.external_to,
        "network:project_id": subnet.network_project_id,
    }


def of_network(network: Network) -> dict[str, Any]:
    """What a subnet keeps of its network."""
    return {
        "network_id": network.id,
        "network_project_id": network.project_id,
        "shared": network.shared,
        "shared_with": network.shared_with,
        "external": network.external,
        "external_to": network.external_to,
    }


def pools_of(ranges: Sequence[Range], version: int) -> list[PoolRange]:
    return [PoolRange(start=spell(a, version), end=spell(b, version)) for a, b in ranges]

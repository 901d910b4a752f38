"""What a subnet may look like: gateways, pools, routes, IPv6 modes. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from pileus.kernel.faults import Invalid

from ..addressing import (
    AUTO_MODES,
    MODES,
    Address,
    Block,
    address,
    block,
    checked_pools,
    default_gateway,
    default_pools,
    gateway_outside,
    overlaps,
    same_version,
)
from ..network import Network
from ..refusals import bad_input
from ..subnet import Route, Subnet, pools_of

if TYPE_CHECKING:
    from ..subnetpool import SubnetPool
    from .operations import CreateSubnet

_MOST_NAMESERVERS, _MOST_ROUTES = 5, 20  # upstream's


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A subnet to be made: all that is judged without the database. `gateway` None: none; UNSET: the default."""

    network_id: str
    project_id: str
    name: str
    description: str
    ip_version: int
    cidr: str = ""
    pool: Any = None
    prefixlen: int | None = None
    gateway: Any = UNSET
    pools: Any = UNSET
    enable_dhcp: bool = True
    dns_nameservers: list[str] = []
    host_routes: list[Route] = []
    ra_mode: str = ""
    address_mode: str = ""
    service_types: list[str] = []
    segment_id: str = ""
    dns_publish_fixed_ip: bool = False

    def with_block(self, found: Block) -> Wanted:
        return msgspec.structs.replace(self, cidr=str(found))

    def refuse_overlap(self, others: Sequence[Subnet]) -> None:
        if overlaps(block(self.cidr), [o.block for o in others]):
            raise bad_input(
                f"Requested subnet with cidr: {self.cidr} for network: {self.network_id} "
                "overlaps with another subnet"
            )

    def refuse_mixed_pools(self, others: Sequence[Subnet]) -> None:
        mine = self.pool.id if self.pool is not None else ""
        for other in others:
            if other.ip_version == self.ip_version and other.subnetpool_id != mine:
                raise Invalid(
                    "Subnets hosted on the same network must be allocated from the same subnet pool.",
                    code="NetworkSubnetPoolAffinityError",
                )

    def subnet(self, id: str, of_network: Mapping[str, Any]) -> Subnet:
        """The record. Raises Invalid, Conflict."""
        of = block(self.cidr)
        check_block(of, self.enable_dhcp)
        gateway = _gateway(of, self.gateway)
        if self.pools is UNSET or self.pools is None:
            ranges = default_pools(of, gateway)
        else:
            ranges = checked_pools(of, [(p.start, p.end) for p in self.pools], gateway)
        return Subnet(
            id=id,
            project_id=self.project_id,
            name=self.name,
            description=self.description,
            cidr=str(of),
            ip_version=of.version,
            gateway_ip=str(gateway) if gateway is not None else "",
            enable_dhcp=self.enable_dhcp,
            allocation_pools=pools_of(ranges, of.version),
            dns_nameservers=self.dns_nameservers,
            host_routes=self.host_routes,
            ipv6_ra_mode=self.ra_mode,
            ipv6_address_mode=self.address_mode,
            subnetpool_id=self.pool.id if self.pool is not None else "",
            service_types=self.service_types,
            segment_id=self.segment_id,
            dns_publish_fixed_ip=self.dns_publish_fixed_ip,
            **of_network,
        )


def planned(body: CreateSubnet, owner: str, network: Network, pool: SubnetPool | None) -> Wanted:
    """Raises Invalid."""
    version = _version(body.ip_version, pool)
    if not body.cidr and pool is None:
        raise Invalid(
            "Bad subnets request: a subnetpool must be specified in the absence of a cidr.",
            code="BadRequest",
        )
    if body.cidr and body.prefixlen is not None:
        raise Invalid(
            "Bad subnets request: cidr and prefixlen must not be supplied together.",
            code="BadRequest",
        )
    if pool is not None and body.allocation_pools and not body.cidr:
        raise Invalid(
            "Bad subnets request: allocation_pools allowed only for specific subnet requests.",
            code="BadRequest",
        )
    if body.cidr:
        of = block(body.cidr)
        same_version(of, version, "cidr")
        check_block(of, body.enable_dhcp)
    wanted = Wanted(
        network_id=network.id,
        project_id=owner,
        name=body.name,
        description=body.description,
        ip_version=version,
        cidr=body.cidr or "",
        pool=pool,
        prefixlen=body.prefixlen,
        gateway=body.gateway_ip,
        pools=body.allocation_pools,
        enable_dhcp=body.enable_dhcp,
        dns_nameservers=nameservers(body.dns_nameservers or [], version),
        host_routes=routes(body.host_routes or [], version),
        ra_mode=body.ipv6_ra_mode or "",
        address_mode=body.ipv6_address_mode or "",
        service_types=body.service_types,
        segment_id=body.segment_id or "",
        dns_publish_fixed_ip=body.dns_publish_fixed_ip,
    )
    _modes(wanted)
    if body.cidr:
        wanted.subnet("", {"network_id": network.id})  # says now what is wrong with it
    return wanted


def _version(asked: int | None, pool: SubnetPool | None) -> int:
    if pool is not None and asked is not None and asked != pool.ip_version:
        raise Invalid(
            f"Bad subnets request: Cannot allocate IPv{asked} subnet from IPv{pool.ip_version} subnet pool.",
            code="BadRequest",
        )
    version = asked if asked is not None else pool.ip_version if pool is not None else None
    if version is None:
        raise Invalid(
            "Bad subnets request: ip_version must be specified in the absence of cidr and subnetpool_id.",
            code="BadRequest",
        )
    if version not in (4, 6):
        raise Invalid(f"Invalid input for ip_version. Reason: '{version}' is not in [4, 6].")
    return version


def check_block(of: Block, enable_dhcp: bool) -> None:
    """Raises Invalid for prefixes that no network can use."""
    if of.prefixlen == 0:
        raise bad_input("0 is not allowed as CIDR prefix length")
    if of.version == 6 and int(of.network_address) == 0:
        raise bad_input("IPv6 subnet '::' is not supported")
    if not enable_dhcp:
        return
    if of.prefixlen > (30 if of.version == 4 else 126):
        raise bad_input("Subnet has a prefix length that is incompatible with DHCP service enabled")
    if of.is_multicast:
        raise bad_input("Multicast IP subnet is not supported if enable_dhcp is True")
    if of.is_loopback:
        raise bad_input("Loopback IP subnet is not supported if enable_dhcp is True")
    if of.version == 4 and int(of.network_address) == 0:
        raise bad_input("First IP '0.0.0.0' of network is not supported if enable_dhcp is True.")


def _gateway(of: Block, asked: Any) -> Address | None:
    if asked is UNSET:
        return default_gateway(of)
    if asked is None or asked == "":
        return None
    found = address(asked, "gateway_ip")
    same_version(found, of.version, "gateway_ip")
    edges = {of.network_address, of.broadcast_address} if of.version == 4 else set()
    if of.version == 4 and of.prefixlen < 31 and found in edges:
        raise bad_input("Gateway is not valid on subnet")
    return found


def nameservers(texts: Sequence[str], version: int) -> list[str]:
    """Raises Invalid."""
    if len(texts) > _MOST_NAMESERVERS:
        raise Invalid(
            "Unable to complete operation for new subnet. The number of DNS nameservers "
            f"exceeds the limit {_MOST_NAMESERVERS}.",
            code="DNSNameServersExhausted",
        )
    found = [address(t, "dns_nameservers") for t in texts]
    for server in found:
        same_version(server, version, "dns_nameserver")
    if len(set(found)) != len(found):
        raise Invalid(
            f"Invalid input for dns_nameservers. Reason: Duplicate nameserver in {list(texts)}."
        )
    return [str(f) for f in found]


def routes(given: Sequence[Route], version: int) -> list[Route]:
    """Raises Invalid."""
    if len(given) > _MOST_ROUTES:
        raise Invalid(
            "Unable to complete operation for new subnet. The number of host routes "
            f"exceeds the limit {_MOST_ROUTES}.",
            code="HostRoutesExhausted",
        )
    found = []
    for route in given:
        destination, nexthop = (
            block(route.destination, "host_routes"),
            address(route.nexthop, "host_routes"),
        )
        same_version(destination, version, "destination")
        same_version(nexthop, version, "nexthop")
        found.append(Route(destination=str(destination), nexthop=str(nexthop)))
    return found


def _modes(wanted: Wanted) -> None:
    modes = {"ipv6_ra_mode": wanted.ra_mode, "ipv6_address_mode": wanted.address_mode}
    for name, mode in modes.items():
        if mode and wanted.ip_version == 4:
            raise bad_input(f"{name} is not valid when ip_version is 4")
        if mode and mode not in MODES:
            raise Invalid(f"Invalid input for {name}. Reason: '{mode}' is not in {list(MODES)}.")
    given = [m for m in modes.values() if m]
    if given and not wanted.enable_dhcp:
        raise bad_input(
            "ipv6_ra_mode or ipv6_address_mode cannot be set when enable_dhcp is set to False"
        )
    if len(set(given)) > 1:
        raise bad_input(
            f"ipv6_ra_mode set to '{wanted.ra_mode}' with ipv6_address_mode set to "
            f"'{wanted.address_mode}' is not valid. If both attributes are set, "
            "they must be the same value"
        )
    auto = wanted.address_mode in AUTO_MODES
    if auto and wanted.cidr and block(wanted.cidr).prefixlen != 64:
        raise bad_input(
            f"Invalid CIDR {wanted.cidr} for IPv6 address mode. OpenStack uses the EUI-64 "
            "address format, which requires the prefix to be /64"
        )


def options(subnet: Subnet, changes: dict[str, Any]) -> dict[str, Any]:
    """The checked changes of an update. Raises Invalid, Conflict."""
    of, found = subnet.block, dict(changes)
    if "dns_nameservers" in found:
        found["dns_nameservers"] = nameservers(found["dns_nameservers"], subnet.ip_version)
    if "host_routes" in found:
        found["host_routes"] = routes(found["host_routes"], subnet.ip_version)
    gateway = address(subnet.gateway_ip) if subnet.gateway_ip else None
    if "gateway_ip" in found:
        gateway = _gateway(of, found["gateway_ip"])
        found["gateway_ip"] = str(gateway) if gateway is not None else ""
    if "allocation_pools" in found:
        asked = [(p.start, p.end) for p in found["allocation_pools"]]
        found["allocation_pools"] = pools_of(checked_pools(of, asked, gateway), of.version)
    elif "gateway_ip" in found and gateway is not None:
        gateway_outside(of, subnet.ranges, gateway)
    if found.get("enable_dhcp") and not subnet.enable_dhcp:
        check_block(of, True)
    if found.get("enable_dhcp") is False and (subnet.ipv6_ra_mode or subnet.ipv6_address_mode):
        raise bad_input(
            "Cannot disable enable_dhcp with ipv6 attributes set"
        )  # fmt: skip
    return found

"""What a guest that speaks no DHCP is told of its ports: what DHCP would say, and the same where it is off."""

from __future__ import annotations

from collections.abc import Iterator

from pileus.kernel.store import Page, Reader

from ..contract import Dress, GuestRoute
from ..driver import METADATA_IPV4
from ..port import PORTS, Port
from ..subnet import SUBNETS, Subnet

_ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
_NOBODY = ("0.0.0.0", "::")  # Neutron's way of saying: no name servers at all


async def dress_of(db: Reader, guest_id: str) -> dict[str, Dress]:
    """By port. A destination is reached by the first port that leads there."""
    ports = sorted(await PORTS.all(db, guest=guest_id), key=lambda p: p.order)
    ids = sorted({f.subnet_id for p in ports for f in p.fixed_ips})
    page = Page({"id": ids}, (("id", False),), limit=1 << 30)
    subnets = {s.id: s for s in await SUBNETS.list(db, page)} if ids else {}
    reached: set[str] = set()
    found = {}
    for port in ports:
        theirs = [subnets[f.subnet_id] for f in port.fixed_ips if f.subnet_id in subnets]
        routes = []
        for route in (route for subnet in theirs for route in _routes(subnet)):
            if route.destination not in reached:
                reached.add(route.destination)
                routes.append(route)
        found[port.id] = Dress(
            addresses=list(_addresses(port, subnets)),
            routes=routes,
            nameservers=[server for subnet in theirs for server in _nameservers(subnet)],
        )
    return found


def _addresses(port: Port, subnets: dict[str, Subnet]) -> Iterator[str]:
    for fixed in port.fixed_ips:
        if fixed.subnet_id in subnets:
            yield f"{fixed.ip_address}/{subnets[fixed.subnet_id].block.prefixlen}"


def _routes(subnet: Subnet) -> Iterator[GuestRoute]:
    for route in subnet.host_routes:
        yield GuestRoute(destination=route.destination, nexthop=route.nexthop)
    if subnet.gateway_ip:
        yield GuestRoute(destination=_ANYWHERE[subnet.ip_version], nexthop=subnet.gateway_ip)
    if subnet.ip_version == 4:
        yield GuestRoute(destination=f"{METADATA_IPV4}/32", nexthop="")


def _nameservers(subnet: Subnet) -> list[str]:
    """The network's own where the subnet names none."""
    named = [server for server in subnet.dns_nameservers if server not in _NOBODY]
    own = [METADATA_IPV4] if subnet.ip_version == 4 and not subnet.dns_nameservers else []
    return named or own

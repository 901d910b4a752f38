"""What a guest's interfaces, those that are and those that are to be, need of the host that it will be on."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from uuid import UUID, uuid5

from pileus.kernel.hosts import Host, hosts_of
from pileus.kernel.store import Reader

from ..checks import OUTSIDE
from ..contract import Needs, NicRequest
from ..network import NETWORKS, Network
from ..port import PORTS, Fixed, Port
from ..ports.cards import CARDS
from ..reservations import reservations_of
from ..segment import Segment, at_host, reached, segments_of
from ..subnet import SUBNETS, Subnet
from ..wiring import NETWORK_HOST

_EVERYWHERE = frozenset((OUTSIDE,))  # what each host reaches


async def needs_of(db: Reader, requests: Sequence[NicRequest]) -> Needs:
    asked = [r.port_id for r in requests if r.port_id]
    ports = await PORTS.all(db, id=asked) if asked else []
    ports += [_to_be(r, n) for n, r in enumerate(requests) if not r.port_id]
    ids = sorted({p.network_id for p in ports})
    networks = {n.id: n for n in await NETWORKS.all(db, id=ids)} if ids else {}
    there = [p for p in ports if p.network_id in networks]
    on_cards = any(p.vnic_type in CARDS and not p.guest for p in there)
    kept = await reservations_of(db, there, {n.id: n.qos_policy_id for n in networks.values()})
    somewhere = [n for n in networks.values() if _is_somewhere(n)]
    return Needs(
        reservations=[one for some in kept.values() for one in some],
        hosts=[] if on_cards else await _hosts(db, there, somewhere),
    )


def _to_be(request: NicRequest, number: int) -> Port:
    """The port that `attach` will make for a request, as far as it is known before its guest has a host."""
    return Port(
        id=str(uuid5(UUID(request.network_id), str(number))),
        project_id="",
        network_id=request.network_id,
        mac_address="",
        fixed_ips=[Fixed(subnet_id="", ip_address=request.fixed_ip)] if request.fixed_ip else [],
    )


def _is_somewhere(network: Network) -> bool:
    """Not every host is on it, or not every one alike."""
    return network.routed or (bool(network.places) and reached(network.places, _EVERYWHERE) < 0)


async def _hosts(
    db: Reader, ports: Sequence[Port], networks: Sequence[Network]
) -> list[str] | None:
    """Those that are on a segment of each of these networks, in which the ports' addresses work; None without any."""
    if not networks:
        return None
    found = await hosts_of(db, NETWORK_HOST)
    for network in networks:
        segments = await segments_of(db, network.id)
        subnets = await SUBNETS.all(db, network_id=network.id)
        own = [p for p in ports if p.network_id == network.id]
        found = [h for h in found if all(_works(p, h, segments, subnets) for p in own)]
    return [h.id for h in found]


def _works(port: Port, host: Host, segments: Sequence[Segment], subnets: Sequence[Subnet]) -> bool:
    at = reached(segments, at_host(host))
    if at < 0:
        return False
    usable = [s for s in subnets if s.segment_id in ("", segments[at].id)]
    if subnets and not usable:
        return False
    addresses = [ip_address(f.ip_address) for f in port.fixed_ips]
    return all(any(a in s.block for s in usable) for a in addresses)

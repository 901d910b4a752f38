"""Networks whose subnets are on a segment each: which subnet may be on which, and the ways between them."""

from __future__ import annotations

from collections.abc import Sequence

from pileus.kernel.faults import Invalid
from pileus.kernel.store import Tx

from ..addressing import block
from ..network import NETWORKS, Network
from ..segment import SEGMENTS, segments_of
from ..subnet import SUBNETS, Route, Subnet

_ANYWHERE = "network:routed"  # a subnet of this service type is on no segment


async def join_segment(
    tx: Tx,
    network: Network,
    segment_id: str,
    others: Sequence[Subnet],
    service_types: Sequence[str],
) -> None:
    """May a new subnet be on that segment (""; on none) beside the others? Raises Invalid, NotFound."""
    if segment_id and (await SEGMENTS.get(tx, segment_id)).network_id != network.id:
        raise Invalid(
            f"The subnet's network id, '{network.id}', doesn't match the network_id of segment "
            f"'{segment_id}'",
            code="NetworkIdsDontMatch",
        )
    if _ANYWHERE in service_types:
        return
    if any(bool(o.segment_id) != bool(segment_id) for o in others if _is_bound(o)):
        raise _mixed(network.id)


async def move_to_segment(tx: Tx, subnet: Subnet, segment_id: str) -> None:
    """An only subnet may become one of an only segment, for good. Raises Invalid, NotFound."""
    network = await NETWORKS.get(tx, subnet.network_id)
    await join_segment(tx, network, segment_id, (), ())
    if len([s for s in await SUBNETS.all(tx, network_id=network.id) if _is_bound(s)]) > 1:
        raise _mixed(network.id)
    if subnet.segment_id:
        raise Invalid(
            "A subnet that is already associated with a segment cannot have its segment "
            "association changed.",
            code="SubnetSegmentAssociationChangeNotAllowed",
        )
    if len(await segments_of(tx, network.id)) > 1:
        raise Invalid(
            f"The network '{network.id}' has multiple segments, it is only possible to associate "
            "an existing subnet with a segment on networks with a single segment.",
            code="NoUpdateSubnetWhenMultipleSegmentsOnNetwork",
        )
    await NETWORKS.change(tx, network, routed=True)


def _is_bound(subnet: Subnet) -> bool:
    return _ANYWHERE not in subnet.service_types


def _mixed(network_id: str) -> Invalid:
    return Invalid(
        f"All of the subnets on network '{network_id}' must either all be associated with segments "
        "or all not associated with any segment.",
        code="SubnetsNotAllAssociatedWithSegments",
    )


async def point_at_peers(tx: Tx, changed: Subnet, *, was: str = "", gone: bool = False) -> Subnet:
    """After a subnet on a segment came, changed (`was`: its gateway before) or went: each subnet's guests are told
    the way to the other segments, by their own gateway. Gives the changed one as it is then.
    """
    if not changed.segment_id:
        return changed
    subnets = await SUBNETS.all(tx, network_id=changed.network_id)
    for subnet in subnets:
        peers = [
            p
            for p in subnets
            if p.ip_version == subnet.ip_version and p.segment_id not in ("", subnet.segment_id)
        ]
        stale = {(changed.cidr, subnet.gateway_ip)} if gone else set()
        if subnet.id == changed.id and was != subnet.gateway_ip:
            stale |= {(p.cidr, was) for p in peers}
        routes = [r for r in subnet.host_routes if (r.destination, r.nexthop) not in stale]
        for peer in peers if subnet.gateway_ip else ():
            if not any(peer.block.subnet_of(block(r.destination)) for r in routes):  # type: ignore[arg-type]
                routes.append(Route(destination=peer.cidr, nexthop=subnet.gateway_ip))
        if routes != subnet.host_routes:
            subnet = await SUBNETS.revise(tx, subnet, host_routes=routes)
        changed = subnet if subnet.id == changed.id else changed
    return changed

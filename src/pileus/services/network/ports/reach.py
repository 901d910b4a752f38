"""Where a port's addresses can be: on a network of several segments, those of the one that its host is on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.store import Tx

from ..addressing import address
from ..network import NETWORKS
from ..port import Port
from ..segment import segment_at
from ..subnet import SUBNETS, Subnet

if TYPE_CHECKING:
    from .bodies import FixedRequest


async def within_reach(
    tx: Tx, port: Port, subnets: Sequence[Subnet], fixed: Sequence[FixedRequest] | None
) -> list[Subnet]:
    """The subnets of a routed network that the port's addresses may be of; without a host and a wish: those on no
    segment. Raises Conflict, Invalid.
    """
    if port.host:
        segment = await segment_at(tx, port.network_id, port.host)
        at = ("", segment.id if segment is not None else "")
        if not (found := [s for s in subnets if s.segment_id in at]):
            raise Conflict(
                f"Host {port.host} is not connected to any segments on routed provider network "
                f"'{port.network_id}'.  It should be connected to one.",
                code="HostNotConnectedToAnySegment",
            )
        return found
    if fixed is None:
        return [s for s in subnets if not s.segment_id]
    segments = {s.segment_id for f in fixed for s in subnets if _is_of(f, s)}
    if len(segments) > 1:
        raise Invalid(
            "Cannot allocate addresses from different segments.",
            code="FixedIpsSubnetsNotOnSameSegment",
        )
    return [s for s in subnets if s.segment_id in segments] if segments else list(subnets)


def _is_of(request: FixedRequest, subnet: Subnet) -> bool:
    if request.subnet_id:
        return request.subnet_id == subnet.id
    ip = request.ip_address
    return bool(ip) and address(ip or "", "fixed_ips") in subnet.block


async def refuse_unreached(tx: Tx, port: Port, host: str) -> None:
    """The port's addresses must work on that host too. Raises Conflict."""
    if not host or not port.fixed_ips or not (await NETWORKS.get(tx, port.network_id)).routed:
        return
    subnets = await SUBNETS.all(tx, network_id=port.network_id)
    moved = msgspec.structs.replace(port, host=host)
    valid = {s.id for s in await within_reach(tx, moved, subnets, None)}
    if not valid.issuperset(f.subnet_id for f in port.fixed_ips):
        raise Conflict(
            f"Host {host} is not connected to a segment where the existing fixed_ips on port "
            f"{port.id} will function given the routed network topology.",
            code="HostNotCompatibleWithFixedIps",
        )

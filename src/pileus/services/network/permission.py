"""Would the security groups let this packet begin a connection? The same judgement as the rules on
the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network

from pileus.services.network.checks import WITH_PORTS, protocol_number
from pileus.services.network.driver import GroupSpec, PortSpec, RuleSpec

ICMP, ICMPV6 = 1, 58


def permits(
    port: PortSpec,
    groups: Mapping[str, GroupSpec],
    direction: str,
    peer: str,
    protocol: int,
    number: int,
) -> bool:
    """`number` is the destination port, or the type of ICMP; `peer` the other end's address."""
    if not port.admin_up:
        return False
    return not port.security or bool(permitting(port, groups, direction, peer, protocol, number))


def permitting(
    port: PortSpec,
    groups: Mapping[str, GroupSpec],
    direction: str,
    peer: str,
    protocol: int,
    number: int,
) -> str:
    """The first of the port's groups that has a rule for such a packet; "" if none has."""
    return next(
        (
            id
            for id in port.groups
            if (group := groups.get(id))
            for rule in group.rules
            if rule.direction == direction and _matches(rule, groups, peer, protocol, number)
        ),
        "",
    )


def _matches(
    rule: RuleSpec, groups: Mapping[str, GroupSpec], peer: str, protocol: int, number: int
) -> bool:
    address = ip_address(peer)
    wanted = protocol_number(rule.protocol)
    if wanted == ICMP and rule.ethertype == "IPv6":
        wanted = ICMPV6
    if rule.ethertype != f"IPv{address.version}" or wanted not in (None, protocol):
        return False
    if rule.cidr and address not in ip_network(rule.cidr):
        return False
    if rule.remote_group:
        group = groups.get(rule.remote_group)
        if group is None or not any(address in ip_network(m) for m in group.members):
            return False
    return _is_within(rule, protocol, number)


def _is_within(rule: RuleSpec, protocol: int, number: int) -> bool:
    if rule.port_min is None:
        return True
    if protocol in WITH_PORTS:
        high = rule.port_min if rule.port_max is None else rule.port_max
        return rule.port_min <= number <= high
    return rule.port_min == number

"""Is a desired document sound? Each unsound object is named once; the others are to be realised.

The API's own grammar should let none of this through. It is checked again here because rules and
names are made of these values, and one tenant's odd object must never stop the others' (or become a
command).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address, ip_interface, ip_network
from typing import TypeVar

from pileus.host.dhcp import extra_option
from pileus.kernel.faults import Invalid
from pileus.services.network.driver import (
    GroupSpec,
    HostNetwork,
    Limit,
    NetworkSpec,
    PortSpec,
    RouterGateway,
    RouterInterface,
    RouterSpec,
    RuleSpec,
)

T = TypeVar("T")
LAST_VLAN = 4094
OUTSIDE = "public"  # the physical network that every host has: its own outer one
Checked = NetworkSpec | GroupSpec | PortSpec | RouterSpec
_ID = re.compile(r"[0-9a-zA-Z][0-9a-zA-Z-]{7,63}\Z")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")
_LABEL = re.compile(r"(?!-)[0-9a-zA-Z_-]{1,63}(?<!-)\Z")
PROTOCOLS = {
    "ah": 51, "dccp": 33, "egp": 8, "esp": 50, "gre": 47, "hopopt": 0, "icmp": 1, "icmpv6": 58, "igmp": 2,
    "ip": 4, "ipip": 4, "ipv6-encap": 41, "ipv6-frag": 44, "ipv6-icmp": 58, "ipv6-nonxt": 59,
    "ipv6-opts": 60, "ipv6-route": 43, "ospf": 89, "pgm": 113, "rsvp": 46, "sctp": 132, "tcp": 6,
    "udp": 17, "udplite": 136, "vrrp": 112,
}  # fmt: skip
WITH_PORTS = frozenset({6, 17, 33, 132, 136})


def protocol_number(text: str) -> int | None:
    """`tcp` or `6` as 6; empty or `any` as None. Raises Invalid."""
    if text in ("", "any"):
        return None
    if text.isascii() and text.isdigit() and int(text) <= 255:
        return int(text)
    if text.lower() not in PROTOCOLS:
        raise Invalid(f"Protocol {text!r} is neither a known name nor a number from 0 to 255.")
    return PROTOCOLS[text.lower()]


def check_network(network: NetworkSpec) -> None:
    """Raises Invalid."""
    _id(network.id)
    _place(network)
    if not 68 <= network.mtu <= 65535:
        raise Invalid(f"MTU {network.mtu} of network {network.id} must be 68 to 65535.")
    for label in network.dns_domain.rstrip(".").split("."):
        if network.dns_domain and not _LABEL.match(label):
            raise Invalid(f"DNS domain {network.dns_domain!r} is not a domain name.")
    for subnet in network.subnets:
        block = _parsed(ip_network, subnet.cidr)
        if block.version != subnet.ip_version:
            raise Invalid(
                f"Subnet {subnet.id}: {subnet.cidr} is not of IP version {block.version}."
            )
        addresses = [*subnet.dns_servers, *([subnet.gateway] if subnet.gateway else [])]
        _addresses([*addresses, *(r.nexthop for r in subnet.host_routes)])
        for route in subnet.host_routes:
            _parsed(ip_network, route.destination)
    for remote in network.remote_ports:
        for mac in (remote.mac, *remote.other_macs):
            _mac(mac)
        _hostname(remote.hostname)
        _hostname(remote.zone)
        _addresses(remote.ips)


def check_limits(limits: Iterable[Limit]) -> None:
    """Raises Invalid."""
    for limit in limits:
        if limit.direction not in ("ingress", "egress") or min(limit.rate, limit.burst) < 1:
            raise Invalid(f"A limit of {limit.rate} {limit.direction} can't be kept.")


def _place(network: NetworkSpec) -> None:
    elsewhere = network.external or network.physical
    if not elsewhere and not 1 <= network.segment < 1 << 24:
        raise Invalid(f"Segment {network.segment} of network {network.id} must be 1 to 16777215.")
    if not 0 <= network.vlan <= LAST_VLAN:
        raise Invalid(f"VLAN {network.vlan} of network {network.id} must be 1 to {LAST_VLAN}.")


def check_port(port: PortSpec) -> None:
    """Raises Invalid."""
    _id(port.id)
    check_limits(port.limits)
    if port.parent and not 1 <= port.vlan <= 4094:
        raise Invalid(f"VLAN {port.vlan} of port {port.id} must be from 1 to 4094.")
    if not -1 <= port.dscp <= 63:
        raise Invalid(f"DSCP mark {port.dscp} of port {port.id} must be from 0 to 63.")
    _mac(port.mac)
    _addresses(f.ip for f in port.fixed_ips)
    _hostname(port.hostname)
    _hostname(port.zone)
    for pair in port.allowed_address_pairs:
        _parsed(ip_interface, pair.cidr)
        if pair.mac:
            _mac(pair.mac)


def check_group(group: GroupSpec) -> None:
    """Raises Invalid."""
    _id(group.id)
    for member in group.members:
        _parsed(ip_network, member)
    for rule in group.rules:
        check_rule(rule)


def check_rule(rule: RuleSpec) -> None:
    """Raises Invalid: a rule that can't be written exactly must not be written at all."""
    if rule.direction not in ("ingress", "egress") or rule.ethertype not in ("IPv4", "IPv6"):
        raise Invalid(
            f"A rule is ingress or egress, IPv4 or IPv6, not {rule.direction} {rule.ethertype}."
        )
    number = protocol_number(rule.protocol)
    highest = 65535 if number in WITH_PORTS else 255
    for value in (rule.port_min, rule.port_max):
        if value is not None and (number is None or not 0 <= value <= highest):
            raise Invalid(f"Port {value} does not go with protocol {rule.protocol or 'any'!r}.")
    if number in WITH_PORTS and (rule.port_min is None) != (rule.port_max is None):
        raise Invalid("A port range needs both its ends.")
    if number in WITH_PORTS and (rule.port_min or 0) > (rule.port_max or 0):
        raise Invalid(f"Port range {rule.port_min}:{rule.port_max} is upside down.")
    if rule.cidr:
        block = _parsed(ip_network, rule.cidr)
        if f"IPv{block.version}" != rule.ethertype:
            raise Invalid(f"{rule.cidr} is not {rule.ethertype}.")


def check_router(router: RouterSpec) -> None:
    """Raises Invalid."""
    _id(router.id)
    ends: list[RouterInterface | RouterGateway] = [*router.interfaces]
    ends += router.gateways
    for end in ends:
        _id(end.port_id)
        _mac(end.mac)
        for address in end.addresses:
            _parsed(ip_interface, address)
    for route in router.routes:
        _parsed(ip_network, route.destination)
        _addresses([route.nexthop])
    for floating in router.floating_ips:
        _addresses([floating.floating_ip, floating.fixed_ip])
        check_limits(floating.limits)
    for forwarding in router.forwardings:
        _addresses([forwarding.floating_ip, forwarding.fixed_ip])
        last = forwarding.fixed_low + forwarding.high - forwarding.low
        ports = (1, forwarding.low, forwarding.high, 65535), (1, forwarding.fixed_low, last, 65535)
        if any(list(p) != sorted(p) for p in ports):
            raise Invalid(f"Ports {forwarding.low}:{forwarding.high} can't be forwarded.")
        if protocol_number(forwarding.protocol) not in WITH_PORTS:
            raise Invalid(f"Protocol {forwarding.protocol!r} has no ports.")
    for gateway in router.gateways:
        check_limits(gateway.limits)
        _addresses(gateway.nexthops)


def refusal(spec: Checked, physical: Iterable[str] = ()) -> str:
    """Why an object cannot be realised, whatever else there is; "" if it can. `physical`: the networks of the host."""
    try:
        if isinstance(spec, NetworkSpec):
            check_network(spec)
            if spec.vlan and spec.physical not in (OUTSIDE, *physical):
                raise Invalid(
                    f"This host has no physical network {spec.physical}, which network {spec.id} "
                    "is on: name its device in network.physical_networks."
                )
        elif isinstance(spec, GroupSpec):
            check_group(spec)
        elif isinstance(spec, PortSpec):
            check_port(spec)
        else:
            check_router(spec)
    except Invalid as fault:
        return fault.message
    return ""


def unsound(desired: HostNetwork, refused: Callable[[Checked], str] = refusal) -> dict[str, str]:
    """The objects that cannot be realised as asked, with the reason; missing references included."""
    objects: list[Checked] = [*desired.networks, *desired.groups]
    objects += [*desired.ports, *desired.routers]
    errors = {spec.id: text for spec in objects if (text := refused(spec))}
    networks = {n.id: n for n in desired.networks if n.id not in errors}
    for port in desired.ports:
        if port.network_id not in networks:
            errors.setdefault(port.id, _absent(port.network_id, errors))
    for router in desired.routers:
        _check_references(errors, router, networks)
    return errors | _repeated(desired)


def flaws(desired: HostNetwork) -> dict[str, str]:
    """Ports that work, but not in all that was asked: worth a report, no reason to leave them out."""
    groups = {g.id for g in desired.groups}
    found: dict[str, str] = {}
    for port in desired.ports:
        for group in port.groups:
            if group not in groups:
                found[port.id] = f"Security group {group} is not on this host."
        try:
            for option in port.dhcp_options:
                if option.ip_version == 4:
                    extra_option(option.name, option.value)
        except Invalid as fault:
            found.setdefault(port.id, fault.message)
    return found


def _check_references(
    errors: dict[str, str], router: RouterSpec, networks: Mapping[str, NetworkSpec]
) -> None:
    for interface in router.interfaces:
        if interface.network_id not in networks:
            errors.setdefault(router.id, _absent(interface.network_id, errors))
    for gateway in router.gateways:
        network = networks.get(gateway.network_id)
        if network is None or not network.external:
            errors.setdefault(router.id, f"Network {gateway.network_id} is not external here.")


def _absent(network_id: str, errors: Mapping[str, str]) -> str:
    return errors.get(network_id) or f"Network {network_id} is not on this host."


def _repeated(desired: HostNetwork) -> dict[str, str]:
    """Two objects whose names on the machine would be one: the second of them is refused."""
    errors = {}
    seen: set[tuple[str, str]] = set()
    objects: list[tuple[str, str]] = [("network", n.id) for n in desired.networks]
    objects += [("port", p.id) for p in desired.ports]
    objects += [("port", i.port_id) for r in desired.routers for i in r.interfaces]
    objects += [("router", r.id) for r in desired.routers]
    for kind, id in objects:
        if (kind, id[:11]) in seen:
            errors[id] = f"Another {kind} on this host has an id beginning with {id[:11]}."
        seen.add((kind, id[:11]))
    return errors


def _id(text: str) -> None:
    if not _ID.match(text):
        raise Invalid(f"{text!r} is not an identifier.")


def _hostname(text: str) -> None:
    if text and not all(_LABEL.match(label) for label in text.split(".")):
        raise Invalid(f"Host name {text!r} is not a DNS name.")


def _mac(text: str) -> None:
    if not _MAC.match(text) or int(text[:2], 16) & 1:
        raise Invalid(f"{text!r} is not a unicast MAC address in lower case.")


def _addresses(texts: Iterable[str]) -> None:
    for text in texts:
        _parsed(ip_address, text)


def _parsed(parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise Invalid(f"{text!r} is not an address: {error}.") from error

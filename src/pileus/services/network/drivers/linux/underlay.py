"""The outer networks: a bridge for each external network in the underlay namespace, and for each other one that is on a
physical network, and their guard.

Where a device of the underlay leads to a network's physical network, that is a port of its bridge: as it is, or under a
VLAN tag. Where none does, the machine is the outside itself: it holds the external subnets' gateway addresses, so it can reach floating addresses
itself, and it translates what leaves for the world beyond. Guests reach the world, but nothing of
the machine (other than the TCP ports that the operator opens to them), no other host's underlay
address, and no link-local address.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_interface, ip_network

from pileus.host import nftables as nft
from pileus.host.netlink import Link, Netlink
from pileus.host.netns import sysctl
from pileus.host.ruleset import Fragment, Table
from pileus.host.vlan_programs import add_vlan, remove_vlan
from pileus.kernel.faults import Conflict, Unavailable
from pileus.services.network.drivers.linux.machine import Machine, no_ipv6
from pileus.services.network.drivers.linux.names import Names
from pileus.services.network.drivers.linux.segments import Segment


def guard(name: str, open_ports: Iterable[int]) -> Table:
    """`outer` are the external bridges, `hosts` the hosts' underlay addresses, `blocks` what is
    translated.
    """
    ports = ", ".join(nft.number(p, 65535) for p in sorted(set(open_ports)))
    opened = (f"tcp dport {{ {ports} }} accept",) if ports else ()
    return Table(
        family="inet",
        name=name,
        sets={
            "outer": "type ifname;",
            "hosts4": "type ipv4_addr;",
            "hosts6": "type ipv6_addr;",
            "blocks4": "type ipv4_addr; flags interval;",
            "doors": "type ipv4_addr;",
        },
        chains={
            "to_host": (
                "type filter hook input priority filter; policy accept;",
                "iifname != @outer accept",
                "ct state established,related accept",
                "ip daddr @doors icmp type 8 accept",
                "icmpv6 type { 133, 135, 136 } accept",
                *opened,
                "drop",
            ),
            "passing": (
                "type filter hook forward priority filter; policy accept;",
                "iifname != @outer accept",
                "ip daddr 169.254.0.0/16 drop",
                "ip daddr @hosts4 drop",
                "ip6 daddr @hosts6 drop",
            ),
            "leaving": (
                "type nat hook postrouting priority srcnat; policy accept;",
                "ip saddr @blocks4 oifname != @outer masquerade",
            ),
        },
    )


def outer_rules(bridge: str, segment: Segment) -> Fragment:
    is_ours = segment.network.external and not segment.device
    subnets = [s for s in segment.network.subnets if s.ip_version == 4 and is_ours]
    return Fragment(
        elements={
            "outer": frozenset({nft.interface(bridge)}),
            "blocks4": frozenset(nft.block(s.cidr) for s in subnets),
            "doors": frozenset(nft.block(s.gateway) for s in subnets if s.gateway),
        }
    )


def host_rules(addresses: Iterable[str]) -> Fragment:
    """The underlay addresses of all hosts."""
    blocks = [nft.block(a) for a in addresses]
    return Fragment(
        elements={
            "hosts4": frozenset(b for b in blocks if ":" not in b),
            "hosts6": frozenset(b for b in blocks if ":" in b),
        }
    )


async def want_outer(machine: Machine, segment: Segment, *, gateway_here: bool) -> None:
    """The network's outer bridge, with what leads to its physical network; or, on an external one that nothing leads to,
    with the subnets' gateway addresses if this machine is the gateway.
    """
    network, names = segment.network, machine.names
    name = names.external(network.id)
    alias = names.alias("external", network.id)
    gateway_here = gateway_here and network.external and not segment.device
    addresses = {
        f"{s.gateway}/{ip_network(s.cidr).prefixlen}" for s in network.subnets if s.gateway
    }

    def wire(link: Netlink) -> None:
        if link.link(name) is None:
            link.add_bridge(name, mtu=network.mtu, alias=alias, filtered=False)
            no_router_advertisements(name)
        link.want(name, mtu=network.mtu, alias=alias, up=network.admin_up)
        if segment.device:
            _want_wire(link, names, segment)
        if gateway_here:
            _need_room(link, name, addresses)
        link.want_addresses(name, addresses if gateway_here else set())
        if gateway_here:
            sysctl("net/ipv4/ip_forward", 1)
            if any(":" in a for a in addresses):
                sysctl("net/ipv6/conf/all/forwarding", 1)

    await machine.at_underlay(wire)


def _want_wire(link: Netlink, names: Names, segment: Segment) -> None:
    """The device that leads to the physical network, or one for the VLAN on it, in the network's bridge."""
    network, device = segment.network, segment.device
    below = link.link(device)
    if below is None:
        raise Unavailable(
            f"This host has no device {device}, which network.physical_networks names for "
            f"{network.physical}."
        )
    if below.mtu < network.mtu:
        raise Conflict(
            f"Device {device} carries {below.mtu} bytes at once, and network {network.id} needs "
            f"{network.mtu}: set the device's MTU or the network's."
        )
    end, mtu = device, below.mtu
    if network.vlan:
        end, mtu = names.wire(network.id), network.mtu
        alias = names.alias("wire", network.id, f"{network.vlan} {device} {network.qinq:d}")
        if (present := link.link(end)) and present.alias != alias:
            unwire(link, {end})
            link.delete(end)
        if link.link(end) is None:
            add_vlan(
                link, end, below=device, tag=network.vlan, mtu=network.mtu, service=network.qinq
            )
            no_ipv6(end)
        link.want(device, mtu=below.mtu)
        link.listen_to_all(device)
        link.want(end, mtu=mtu, alias=alias)
    else:
        _refuse_own(link, below)
    link.want(end, mtu=mtu, master=names.external(network.id))


def _refuse_own(link: Netlink, below: Link) -> None:
    """A bridge takes all that comes: the machine itself would hear nothing any more. Raises Conflict."""
    own = [a for i, a in link.addresses() if i == below.index and not ip_interface(a).is_link_local]
    if own:
        raise Conflict(
            f"Device {below.name} has this machine's address {own[0]}, and a flat network would "
            "take all its frames: name another in network.physical_networks, or use a VLAN."
        )


def unwire(link: Netlink, names: Iterable[str]) -> None:
    """What was set up at the devices below those of VLANs goes, before these do."""
    for name in names:
        present = link.link(name)
        parts = present.alias.split("/", 4) if present and present.kind == "ifb" else []
        if len(parts) == 5:
            tag, device, _ = parts[4].split(" ")
            remove_vlan(link, below=device, tag=int(tag))


def _need_room(link: Netlink, name: str, addresses: Iterable[str]) -> None:
    """Raises Conflict where something else has addresses of these blocks already: another cloud, perhaps."""
    names = {device.index: device.name for device in link.links().values()}
    for wanted in addresses:
        block = ip_interface(wanted).network
        for index, address in sorted(link.addresses()):
            other = names.get(index, name)
            if other != name and ip_interface(address).network.overlaps(block):
                raise Conflict(
                    f"{wanted} cannot be an external network's gateway on this machine: its device {other} has {address} "
                    f"already. Where that is left of a cloud that runs no more, `ip link delete {other}`; where of one that "
                    "does, start this one with an outer network of its own (--underlay) or make it with another range "
                    "(--set network.public_cidr=..., public_gateway, public_pool_start and public_pool_end)."
                )


def no_router_advertisements(device: str) -> None:
    """Whoever is on the external network does not configure this machine."""
    for key in ("accept_ra", "accept_dad"):
        sysctl(f"net/ipv6/conf/{device}/{key}", 0)
    sysctl(f"net/ipv4/conf/{device}/accept_redirects", 0)

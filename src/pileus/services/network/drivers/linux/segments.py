"""A network on one host: its bridge, the way to other hosts, and the taps of its guests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pileus.host.netlink import EVERY_MAC, Netlink, add_tap
from pileus.host.vlan_programs import add_vlan
from pileus.services.network.driver import NetworkSpec, PortSpec, tap_name
from pileus.services.network.drivers.linux.machine import Machine, no_ipv6
from pileus.services.network.drivers.linux.rates import want_port_rates


@dataclass(frozen=True)
class Segment:
    """What a network's devices depend on. `local` is this host's underlay address, `peers` the
    others'.
    """

    network: NetworkSpec
    zone: int
    local: str
    peers: tuple[tuple[str, str], ...]  # host, address
    has_guests: bool
    device: str = ""  # of the underlay, that leads to its physical network

    @property
    def is_outer(self) -> bool:
        """Has it a bridge in the underlay?"""
        return self.network.external or bool(self.network.physical)

    @property
    def has_uplink(self) -> bool:
        return self.is_outer and self.has_bridge

    @property
    def has_bridge(self) -> bool:
        """Routers join an external network on its bridge in the underlay: here only guests need
        one.
        """
        return self.has_guests or not self.network.external

    @property
    def is_stretched(self) -> bool:
        known = dict(self.peers)
        remote = self.network.remote_ports
        return bool(self.local and self.network.segment) and any(r.host in known for r in remote)


async def want_segment(machine: Machine, segment: Segment, *, vxlan_port: int) -> None:
    """The bridge and, where the network has ports elsewhere, its VXLAN device and entries."""
    if not segment.has_bridge:
        return
    network, names = segment.network, machine.names
    bridge, vxlan = names.bridge(network.id), names.vxlan(network.id)

    def wire(link: Netlink) -> None:
        alias = names.alias("network", network.id, segment.zone)
        if link.link(bridge) is None:
            link.add_bridge(bridge, mtu=network.mtu, alias=alias, filtered=True)
            no_ipv6(bridge)
        link.want(bridge, mtu=network.mtu, alias=alias, up=network.admin_up)

    await machine.at_home(wire)
    if segment.is_stretched:
        await _want_vxlan(machine, segment, bridge, vxlan, vxlan_port)
    if segment.has_uplink:
        await _want_uplink(machine, network, bridge)


async def _want_vxlan(
    machine: Machine, segment: Segment, bridge: str, vxlan: str, vxlan_port: int
) -> None:
    network = segment.network
    home = machine.namespaces.path(machine.home)
    addresses = dict(segment.peers)
    remote = [(r, addresses[r.host]) for r in network.remote_ports if r.host in addresses]
    entries = {(r.mac, address) for r, address in remote}
    entries |= {(EVERY_MAC, address) for _, address in remote}

    def make(link: Netlink) -> None:
        link.add_vxlan(
            vxlan,
            segment=network.segment,
            local=segment.local,
            port=vxlan_port,
            mtu=network.mtu,
            namespace=home,
        )

    def attach(link: Netlink) -> None:
        no_ipv6(vxlan)
        link.want(vxlan, mtu=network.mtu, master=bridge, alias=alias)
        link.want_destinations(vxlan, entries)

    alias = machine.names.alias("vxlan", network.id, f"{network.segment} {segment.local}")
    present = await machine.at_home(lambda link: link.link(vxlan))
    if present and present.alias not in ("", alias):
        await machine.at_home(lambda link: link.delete(vxlan))  # this host's address has changed
        present = None
    if present is None:
        await machine.at_underlay(make)
    await machine.at_home(attach)


async def _want_uplink(machine: Machine, network: NetworkSpec, bridge: str) -> None:
    """A pair from the bridge of guests and routers to the outer one."""
    names = machine.names
    up, down = names.uplink(network.id), names.downlink(network.id)
    alias = names.alias("uplink", network.id)
    underlay = machine.namespaces.path(machine.underlay)

    def attach(link: Netlink) -> None:
        want_pair(link, up, peer=down, namespace=underlay, mtu=network.mtu, alias=alias)
        no_ipv6(up)
        link.want(up, mtu=network.mtu, master=bridge, alias=alias)

    def answer(link: Netlink) -> None:
        no_ipv6(down)
        external = names.external(network.id)
        link.want(down, mtu=network.mtu, master=external, alias=alias)

    await machine.at_home(attach)
    await machine.at_underlay(answer)


def want_pair(
    link: Netlink, name: str, *, peer: str, namespace: Path, mtu: int, alias: str, mac: str = ""
) -> None:
    """A veth pair from the calling thread's namespace to another."""
    if link.link(name) is None:
        link.add_veth(name, peer=peer, namespace=namespace, mac=mac, mtu=mtu, alias=alias)


async def want_tap(
    machine: Machine, port: PortSpec, network: NetworkSpec, *, owner: int | None
) -> None:
    """The tap of a guest's port on its network's bridge, or, for one that a trunk carries, a VLAN of
    its parent's tap. Its rules must be in force already.
    """
    name = tap_name(port.id)
    mark = f"{port.vlan} {port.parent}" if port.parent else ""
    alias = machine.names.alias("port", port.id, mark)
    bridge = machine.names.bridge(network.id)

    def attach(link: Netlink) -> None:
        present = link.link(name)
        if present and present.alias not in ("", alias):
            link.delete(name)  # it was another trunk's, or none's
            present = None
        if present is None:
            if port.parent:
                add_vlan(link, name, below=tap_name(port.parent), tag=port.vlan, mtu=network.mtu)
            else:
                add_tap(name, owner=owner)
                link.changes += 1
            no_ipv6(name)
        if machine.queues and not port.parent:
            want_port_rates(link, machine.names, port)
        link.want(name, mtu=network.mtu, master=bridge, alias=alias, up=port.admin_up)

    await machine.at_home(attach)

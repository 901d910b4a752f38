"""Devices, addresses, routes and forwarding entries of one network namespace, by rtnetlink.

Blocking, and bound to the namespace of the thread that opened it: used from jobs of `host.netns`.
Each `want_` method compares with what is there and changes only what differs; `changes` counts what
was changed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

from pileus.host import netlink_wire as wire
from pileus.kernel.faults import NotFound, Unavailable

_NEW_LINK, _DELETE_LINK, _GET_LINK = 16, 17, 18
_NEW_ADDRESS, _DELETE_ADDRESS, _GET_ADDRESS = 20, 21, 22
_NEW_ROUTE, _DELETE_ROUTE, _GET_ROUTE = 24, 25, 26
_NEW_ENTRY, _DELETE_ENTRY, _GET_ENTRY = 28, 29, 30
_NEW_QDISC, _DELETE_QDISC, _NEW_CLASS, _DELETE_CLASS, _GET_CLASS = 36, 37, 40, 41, 42
_NEW_FILTER, _DELETE_FILTER, _GET_FILTER = 44, 45, 46
_TRAFFIC = struct.Struct("=BBHiIII")  # family, pads, index, handle, parent, priority and protocol
_CLASSIFYING, _AT_INGRESS, _AT_EGRESS = 0xFFFFFFF1, 0xFFFFFFF2, 0xFFFFFFF3
_ANY_PROTOCOL, _DECIDES = 3, 1
_ROOT, _RATES = 0xFFFFFFFF, 1 << 16  # the parent of a device's own queue; ours, above its classes
_RATES_SET_UP = struct.pack("=5I", 3, 10, 1, 0, 0)  # version, .., the class of packets without one
_RATE = struct.Struct("=BBHhHI")  # .., 1: Ethernet, .., bytes a second
_TICK_NS, _MOST = 64, (1 << 32) - 1
_QUEUE_S, _LEAST_QUEUE = 0.05, 1 << 17  # what waits: two packets as large as any, at least
_ASIDE, _STOLEN, _REDIRECTED = 5000, 4, 1
_EVERY_PACKET = struct.pack("=BBBx2H2h3I2i", 1, 0, 1, *(0,) * 9)
_LINK = struct.Struct("=BBHiII")  # family, pad, type, index, flags, mask of flags
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, prefix, .., table, protocol, scope, type, flags
_WAY = struct.Struct("=HBBi")  # length, flags, weight - 1, device
_MULTIPATH = 9
_ENTRY = struct.Struct("=BBHiHBB")  # family, pads, index, state, flags, type
_UP, _PROMISCUOUS = 0x1, 0x100
_GROUP, _DOOMED = 27, 0x504C4459  # a device group that nothing else would choose
_MAC, _NAME, _MTU, _MASTER, _QUEUE, _INFO, _ALIAS, _NAMESPACE = 1, 3, 4, 10, 13, 18, 20, 28
_INFO_KIND, _INFO_DATA, _BELOW, _VLAN_ID, _VLAN_PROTOCOL = 1, 2, 5, 1, 5
_BRIDGE_DELAY, _BRIDGE_SNOOPING, _BRIDGE_IPTABLES, _BRIDGE_IP6TABLES = 1, 23, 36, 37
_VXLAN_ID, _VXLAN_LOCAL, _VXLAN_LEARNING, _VXLAN_PORT, _VXLAN_LOCAL6 = 1, 4, 7, 15, 17
_MAIN_TABLE, _STATIC, _UNICAST, _ON_LINK = 254, 4, 1, 253
_PERMANENT, _SELF = 0x80, 0x02
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_ABSENT = (errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENOENT)
EVERY_MAC = "00:00:00:00:00:00"  # the entry for broadcast and unknown addresses of a VXLAN device


Hops = tuple[tuple[str, str], ...]  # a route's next hops, "" for the link itself, and their devices


@dataclass(frozen=True)
class Link:
    index: int
    name: str
    kind: str  # bridge, veth, tun, vxlan, or empty
    mac: str
    mtu: int
    master: int  # index of its bridge, or 0
    up: bool
    alias: str


class Netlink:
    def __init__(self) -> None:
        self._wire = wire.NetlinkWire(socket.NETLINK_ROUTE)
        self.changes = 0

    def close(self) -> None:
        self._wire.close()

    def links(self) -> dict[str, Link]:
        """Every device of the namespace by name."""
        found = [_read_link(m) for m in self._wire.dump(_GET_LINK, _LINK.pack(0, 0, 0, 0, 0, 0))]
        return {link.name: link for link in found}

    def link(self, name: str) -> Link | None:
        try:
            body = _LINK.pack(0, 0, 0, 0, 0, 0) + wire.text(_NAME, name)
            return _read_link(self._wire.get(_GET_LINK, body))
        except wire.Refused as refused:
            if refused.code == errno.ENODEV:
                return None
            raise Unavailable(f"Cannot read network device {name}: {refused}.") from refused

    def name(self, index: int) -> str:
        """Of a device that is there, in the calling thread's namespace; "" for none, which is 0."""
        return socket.if_indextoname(index) if index else ""

    def index(self, name: str) -> int:
        """Raises NotFound."""
        return self._existing(name).index

    def add_bridge(self, name: str, *, mtu: int, alias: str, filtered: bool) -> None:
        """A bridge without spanning tree or snooping; `filtered` passes its frames through the inet
        hooks.
        """
        data = (
            wire.u32(_BRIDGE_DELAY, 0)
            + wire.u8(_BRIDGE_SNOOPING, 0)
            + wire.u8(_BRIDGE_IPTABLES, int(filtered))
            + wire.u8(_BRIDGE_IP6TABLES, int(filtered))
        )
        self._add(name, "bridge", data, wire.u32(_MTU, mtu))
        self.want(name, mtu=mtu, alias=alias, up=False)

    def add_veth(
        self, name: str, *, peer: str, namespace: Path, mac: str, mtu: int, alias: str
    ) -> None:
        """A pair: `name` here, `peer` with address `mac` (or any) in `namespace`."""
        fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            other = _LINK.pack(0, 0, 0, 0, 0, 0) + wire.text(_NAME, peer) + wire.u32(_MTU, mtu)
            other += wire.u32(_NAMESPACE, fd)
            other += wire.attribute(_MAC, _mac_bytes(mac)) if mac else b""
            self._add(name, "veth", wire.nested(1, other), wire.u32(_MTU, mtu))
        finally:
            os.close(fd)
        self.want(name, mtu=mtu, alias=alias, up=False)

    def add_vlan(self, name: str, *, below: str, tag: int, mtu: int, protocol: bytes = b"") -> None:
        """The frames of another device that bear this VLAN tag, as a device of their own; `protocol`: another EtherType
        than 802.1Q's.
        """
        data = wire.attribute(_VLAN_ID, struct.pack("=H", tag))
        data += wire.attribute(_VLAN_PROTOCOL, protocol) if protocol else b""
        more = wire.u32(_BELOW, self.index(below)) + wire.u32(_MTU, mtu)
        self._add(name, "vlan", data, more)

    def add_plain(self, name: str, *, mtu: int) -> None:
        """A device that does nothing by itself."""
        self._add(name, "ifb", b"", wire.u32(_MTU, mtu) + wire.u32(_QUEUE, 1000))

    def add_program(self, name: str, program: int, *, incoming: bool, priority: int) -> None:
        """Has a loaded program decide on what comes in by a device, or leaves by it; its descriptor is closed. One
        that was there with this priority goes.
        """
        options = wire.u32(6, program) + wire.text(7, "vlan") + wire.u32(8, _DECIDES)
        try:
            chosen = self._chosen(name, incoming, priority)
            self._classify(name, chosen, wire.text(1, "bpf") + wire.nested(2, options))
        finally:
            os.close(program)

    def remove_program(self, name: str, *, incoming: bool, priority: int) -> None:
        """Absent is fine."""
        chosen = self._chosen(name, incoming, priority)
        self._do(f"clear {name}", _DELETE_FILTER, 0, chosen, absent_is_fine=True)

    def listen_to_all(self, name: str) -> None:
        """Has a device take in what is for other addresses than its own too."""
        self._alter(name, self.index(name), _PROMISCUOUS, _PROMISCUOUS, b"")

    def want_aside(self, name: str, aside: str, *, incoming: bool) -> None:
        """What comes in by a device, or leaves by it, goes through another first; "" is through none."""
        chosen, index = self._chosen(name, incoming, _ASIDE), self.index(aside) if aside else 0
        present = {_mirror(m) for m in self._wire.dump(_GET_FILTER, chosen)} - {None}
        if present == ({index} if aside else set()):
            return
        if not aside:
            self._do(f"clear {name}", _DELETE_FILTER, 0, chosen, absent_is_fine=True)
            return
        mirror = struct.pack("=2I4iI", 0, 0, _STOLEN, 0, 0, _REDIRECTED, index)
        action = wire.text(1, "mirred") + wire.nested(2, wire.attribute(2, mirror))
        options = wire.attribute(5, _EVERY_PACKET) + wire.nested(7, wire.nested(1, action))
        self._classify(name, chosen, wire.text(1, "u32") + wire.nested(2, options))

    def want_rates(self, name: str, wanted: Mapping[int, tuple[int, int]]) -> None:
        """What leaves by a device with priority 1:N waits its turn at the Nth rate (bytes a second, and of burst), and
        with no such priority at the first, if there is one. Changed in place.
        """
        index = self.index(name)
        present = self._rates_at(index)
        if bool(present) != bool(wanted):
            own = _TRAFFIC.pack(0, 0, 0, index, 0, _ROOT, 0)
            self._do(f"free {name}", _DELETE_QDISC, 0, own, absent_is_fine=True)
            if wanted:
                body = _TRAFFIC.pack(0, 0, 0, index, _RATES, _ROOT, 0) + wire.text(1, "htb")
                body += wire.nested(2, wire.attribute(2, _RATES_SET_UP))
                self._do(f"hold up {name}", _NEW_QDISC, wire.CREATE, body)
        for number in (present.keys() - wanted.keys()) if wanted else ():
            gone = _TRAFFIC.pack(0, 0, 0, index, _RATES + number, 0, 0)
            self._do(f"free {name}", _DELETE_CLASS, 0, gone, absent_is_fine=True)
        for number, (rate, burst) in wanted.items():
            parts = _rate(rate, burst)
            if not parts.items() <= present.get(number, {}).items():
                self._rate(name, index, number, rate, parts)

    def take_after(self, name: str, model: str) -> None:
        """What leaves by a device waits, and what comes in goes aside, as at another."""
        present = self._rates_at(self.index(model))
        self.want_rates(name, {number: _rate_of(parts) for number, parts in present.items()})
        filters = self._wire.dump(_GET_FILTER, self._chosen(model, True, _ASIDE))
        aside = next((index for m in filters if (index := _mirror(m))), 0)
        self.want_aside(name, self.name(aside), incoming=True)

    def _rates_at(self, index: int) -> dict[int, dict[int, bytes]]:
        """The parts of each rate's message by the rate's number."""
        present = {}
        for message in self._wire.dump(_GET_CLASS, _TRAFFIC.pack(0, 0, 0, index, 0, 0, 0)):
            parts = wire.attributes(message[_TRAFFIC.size :])
            if wire.string(parts.get(1)) == "htb":
                number = _TRAFFIC.unpack_from(message)[4] - _RATES
                present[number] = wire.attributes(parts[2])
        return present

    def _rate(self, name: str, index: int, number: int, rate: int, parts: dict[int, bytes]) -> None:
        flags = wire.CREATE | wire.REPLACE
        body = _TRAFFIC.pack(0, 0, 0, index, _RATES + number, _RATES, 0) + wire.text(1, "htb")
        body += wire.nested(2, *(wire.attribute(kind, part) for kind, part in parts.items()))
        self._do(f"hold up {name}", _NEW_CLASS, flags, body)
        queue = min(max(int(rate * _QUEUE_S), _LEAST_QUEUE), _MOST)
        body = _TRAFFIC.pack(0, 0, 0, index, 0, _RATES + number, 0) + wire.text(1, "bfifo")
        self._do(f"hold up {name}", _NEW_QDISC, flags, body + wire.u32(2, queue))

    def _chosen(self, name: str, incoming: bool, priority: int) -> bytes:
        """The filters of one priority at a device."""
        where = _AT_INGRESS if incoming else _AT_EGRESS
        protocol = priority << 16 | socket.htons(_ANY_PROTOCOL)
        return _TRAFFIC.pack(0, 0, 0, self.index(name), 0, where, protocol)

    def _classify(self, name: str, chosen: bytes, how: bytes) -> None:
        """By this alone at that priority."""
        index = _TRAFFIC.unpack(chosen)[3]
        place = _TRAFFIC.pack(0, 0, 0, index, _CLASSIFYING & 0xFFFF0000, _CLASSIFYING, 0)
        place += wire.text(1, "clsact")
        self._do(f"classify at {name}", _NEW_QDISC, wire.CREATE | wire.REPLACE, place)
        self._do(f"clear {name}", _DELETE_FILTER, 0, chosen, absent_is_fine=True)
        self._do(f"classify at {name}", _NEW_FILTER, wire.CREATE | wire.EXCLUSIVE, chosen + how)

    def add_vxlan(
        self, name: str, *, segment: int, local: str, port: int, mtu: int, namespace: Path
    ) -> None:
        """Made here, where its UDP socket stays, and moved to `namespace`. Learns nothing by
        itself.
        """
        address = ip_address(local)
        data = wire.u32(_VXLAN_ID, segment) + wire.u8(_VXLAN_LEARNING, 0)
        data += wire.attribute(_VXLAN_PORT, struct.pack("!H", port))
        kind = _VXLAN_LOCAL if address.version == 4 else _VXLAN_LOCAL6
        data += wire.attribute(kind, address.packed)
        self._add(name, "vxlan", data, wire.u32(_MTU, mtu))
        fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._alter(name, self.index(name), 0, 0, wire.u32(_NAMESPACE, fd))
        finally:
            os.close(fd)

    def rename(self, name: str, become: str) -> None:
        """It is down then: not every kernel renames a device that is up. Raises NotFound."""
        index = self.index(name)
        self._alter(name, index, 0, _UP, b"")
        self._alter(name, index, 0, 0, wire.text(_NAME, become))

    def want(
        self,
        name: str,
        *,
        mtu: int,
        master: str = "",
        alias: str = "",
        mac: str = "",
        up: bool = True,
    ) -> None:
        """Bring an existing device to this state. Raises NotFound."""
        link = self._existing(name)
        altered = wire.u32(_MTU, mtu) if link.mtu != mtu else b""
        if mac and link.mac != mac:
            altered += wire.attribute(_MAC, _mac_bytes(mac))
        if alias and link.alias != alias:
            altered += wire.attribute(_ALIAS, alias.encode())
        if master and link.master != (index := self.index(master)):
            altered += wire.u32(_MASTER, index)
        if altered or link.up != up:
            self._alter(name, link.index, _UP if up else 0, _UP, altered)

    def delete(self, name: str) -> None:
        """Absent is fine."""
        if link := self.link(name):
            body = _LINK.pack(0, 0, 0, link.index, 0, 0)
            self._do(f"remove device {name}", _DELETE_LINK, 0, body, absent_is_fine=True)

    def delete_all(self, names: Iterable[str]) -> None:
        """Many devices at once, by way of a device group: the kernel waits once, not for each.
        Absent is fine.
        """
        found = [link for name in names if (link := self.link(name))]
        for link in found:
            self._alter(link.name, link.index, 0, 0, wire.u32(_GROUP, _DOOMED))
        if found:
            body = _LINK.pack(0, 0, 0, 0, 0, 0) + wire.u32(_GROUP, _DOOMED)
            self._do("remove devices", _DELETE_LINK, 0, body, absent_is_fine=True)

    def addresses(self) -> set[tuple[int, str]]:
        """Every device's, by its index, as `ip/prefix`."""
        found = set()
        for message in self._wire.dump(_GET_ADDRESS, _ADDRESS.pack(0, 0, 0, 0, 0)):
            _, prefix, _, _, owner = _ADDRESS.unpack_from(message)
            parts = wire.attributes(message[_ADDRESS.size :])
            if raw := parts.get(2) or parts.get(1):
                found.add((owner, f"{ip_address(raw)}/{prefix}"))
        return found

    def want_addresses(self, name: str, wanted: set[str]) -> None:
        """Give the device exactly these `ip/prefix`; IPv6 link-local ones are left alone unless
        wanted.
        """
        index = self.index(name)
        present = {address for owner, address in self.addresses() if owner == index}
        goal = {str(ip_interface(text)) for text in wanted}
        for gone in sorted(present - goal):
            if not (ip_interface(gone).is_link_local and ":" in gone):
                self._address(_DELETE_ADDRESS, 0, index, gone)
        for new in sorted(goal - present, key=lambda a: ip_interface(a).network.prefixlen):
            self._address(_NEW_ADDRESS, wire.CREATE | wire.REPLACE, index, new)

    def want_routes(self, wanted: Mapping[str, Hops]) -> None:
        """Exactly these static routes of the main table, by destination CIDR."""
        goal = {
            d: tuple((via, self.index(device)) for via, device in hops)
            for d, hops in wanted.items()
        }
        present = self.static_routes()
        for destination in present.keys() - goal.keys():
            self._route(_DELETE_ROUTE, 0, destination, present[destination])
        for destination, hops in goal.items():
            if present.get(destination) != hops:
                self._route(_NEW_ROUTE, wire.CREATE | wire.REPLACE, destination, hops)

    def add_route(self, destination: str, via: str, device: str) -> None:
        """One static route of the main table more; `via` "" is on the link."""
        flags = wire.CREATE | wire.REPLACE
        self._route(_NEW_ROUTE, flags, destination, ((via, self.index(device)),))

    def want_destinations(self, name: str, wanted: set[tuple[str, str]]) -> None:
        """Exactly these (MAC, host address) entries of a VXLAN device; EVERY_MAC is the flood list."""
        index = self.index(name)
        present = set()
        # The kernel takes the longer header as a request for one device's entries.
        body = _LINK.pack(socket.AF_BRIDGE, 0, 0, index, 0, 0)
        for message in self._wire.dump(_GET_ENTRY, body):
            parts = wire.attributes(message[_ENTRY.size :])
            if _ENTRY.unpack_from(message)[3] == index and 1 in parts and 2 in parts:
                present.add((_mac_text(parts[2]), str(ip_address(parts[1]))))
        for mac, target in sorted(present - wanted):
            self._destination(_DELETE_ENTRY, 0, index, mac, target)
        for mac, target in sorted(wanted - present):
            self._destination(_NEW_ENTRY, wire.CREATE | wire.APPEND, index, mac, target)

    def _existing(self, name: str) -> Link:
        link = self.link(name)
        if link is None:
            raise NotFound(f"There is no network device {name}.")
        return link

    def _add(self, name: str, kind: str, data: bytes, more: bytes) -> None:
        info = wire.nested(_INFO, wire.text(_INFO_KIND, kind), wire.nested(_INFO_DATA, data))
        body = _LINK.pack(0, 0, 0, 0, 0, 0) + wire.text(_NAME, name) + more + info
        self._do(f"make {kind} {name}", _NEW_LINK, wire.CREATE | wire.EXCLUSIVE, body)

    def _alter(self, name: str, index: int, flags: int, mask: int, altered: bytes) -> None:
        body = _LINK.pack(0, 0, 0, index, flags, mask) + altered
        self._do(f"alter device {name}", _NEW_LINK, 0, body)

    def _address(self, kind: int, flags: int, index: int, text: str) -> None:
        own = ip_interface(text)
        family = socket.AF_INET if own.version == 4 else socket.AF_INET6
        prefix = own.network.prefixlen
        no_detection = 0x02 if own.version == 6 else 0  # of duplicates: it would delay the address
        body = _ADDRESS.pack(family, prefix, no_detection, 0, index)
        body += wire.attribute(2, own.ip.packed) + wire.attribute(1, own.ip.packed)
        if own.version == 4 and prefix < 31:
            body += wire.attribute(4, own.network.broadcast_address.packed)
        self._do(f"set address {text}", kind, flags, body, absent_is_fine=kind == _DELETE_ADDRESS)

    def static_routes(self) -> dict[str, tuple[tuple[str, int], ...]]:
        """Those of the main table: destination to its ways, (nexthop or "", device's index) each."""
        present: dict[str, tuple[tuple[str, int], ...]] = {}
        for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            request = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
            for message in self._wire.dump(_GET_ROUTE, request):
                _, prefix, _, _, table, protocol, *_ = _ROUTE.unpack_from(message)
                if table != _MAIN_TABLE or protocol != _STATIC:
                    continue
                parts = wire.attributes(message[_ROUTE.size :])
                target = str(ip_address(parts[1])) if 1 in parts else anywhere
                key = str(ip_network(f"{target}/{prefix}"))
                # IPv6 tells the ways of a route one by one, when they were not given together
                present[key] = (*present.get(key, ()), *_ways(parts))
        return present

    def _route(
        self, kind: int, flags: int, destination: str, hops: Sequence[tuple[str, int]]
    ) -> None:
        block = ip_network(destination)
        family = socket.AF_INET if block.version == 4 else socket.AF_INET6
        scope = 0 if hops[0][0] or block.version == 6 else _ON_LINK
        body = _ROUTE.pack(family, block.prefixlen, 0, 0, _MAIN_TABLE, _STATIC, scope, _UNICAST, 0)
        body += wire.attribute(1, block.network_address.packed)
        ways = [(index, wire.attribute(5, ip_address(v).packed) if v else b"") for v, index in hops]
        if len(ways) == 1:
            body += wire.u32(4, ways[0][0]) + ways[0][1]
        else:
            packed = [_WAY.pack(_WAY.size + len(via), 0, 0, i) + via for i, via in ways]
            body += wire.attribute(_MULTIPATH, b"".join(packed))
        absent = kind == _DELETE_ROUTE
        self._do(f"set route to {destination}", kind, flags, body, absent_is_fine=absent)

    def _destination(self, kind: int, flags: int, index: int, mac: str, target: str) -> None:
        body = _ENTRY.pack(socket.AF_BRIDGE, 0, 0, index, _PERMANENT, _SELF, 0)
        body += wire.attribute(2, _mac_bytes(mac))
        body += wire.attribute(1, ip_address(target).packed)
        absent = kind == _DELETE_ENTRY
        self._do(f"set entry {mac} {target}", kind, flags, body, absent_is_fine=absent)

    def _do(
        self, what: str, kind: int, flags: int, body: bytes, *, absent_is_fine: bool = False
    ) -> None:
        self.changes += 1
        try:
            self._wire.do(kind, flags, body)
        except wire.Refused as refused:
            if not (absent_is_fine and refused.code in _ABSENT):
                raise Unavailable(f"Cannot {what}: {refused}.") from refused


def _rate(rate: int, burst: int) -> dict[int, bytes]:
    """As the kernel tells it too. A burst is a time at the rate."""
    own = _RATE.pack(0, 1, 0, 0, 0, min(rate, _MOST))
    ticks = min(max(burst * 1_000_000_000 // (rate * _TICK_NS), 1), _MOST)
    parts = {1: own + own + struct.pack("=5I", ticks, ticks, 60_000, 0, 0)}
    large = struct.pack("=Q", rate)
    return parts | ({6: large, 7: large} if rate > _MOST else {})


def _rate_of(parts: Mapping[int, bytes]) -> tuple[int, int]:
    """What `_rate` was told."""
    rate = _RATE.unpack_from(parts[1])[5] if 6 not in parts else struct.unpack("=Q", parts[6])[0]
    (ticks,) = struct.unpack_from("=I", parts[1], 2 * _RATE.size)
    return rate, -(-ticks * rate * _TICK_NS // 1_000_000_000)


def _mirror(message: bytes) -> int | None:
    """The device that a filter sends packets to; 0: one that has gone."""
    at = message[_TRAFFIC.size :]
    for kind in (2, 7, 1, 2):  # options, actions, the first, its options
        at = wire.attributes(at).get(kind, b"")
    mirror = wire.attributes(at).get(2)
    return struct.unpack_from("=I", mirror, 24)[0] if mirror else None


def _ways(parts: Mapping[int, bytes]) -> Iterator[tuple[str, int]]:
    """The next hops of a route's attributes."""
    if _MULTIPATH not in parts:
        via = str(ip_address(parts[5])) if 5 in parts else ""
        yield via, struct.unpack("=I", parts.get(4, bytes(4)))[0]
    rest = parts.get(_MULTIPATH, b"")
    while rest:
        size, _, _, index = _WAY.unpack_from(rest)
        own = wire.attributes(rest[_WAY.size : size])
        yield str(ip_address(own[5])) if 5 in own else "", index
        rest = rest[size + 3 & ~3 :]


def add_tap(name: str, *, owner: int | None) -> None:
    """A persistent tap device, down; user id `owner` may open it. In the calling thread's
    namespace.
    """
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI)
        fcntl.ioctl(fd, _TUNSETIFF, request)
        if owner is not None:
            fcntl.ioctl(fd, _TUNSETOWNER, owner)
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    finally:
        os.close(fd)


def _read_link(message: bytes) -> Link:
    _, _, _, index, flags, _ = _LINK.unpack_from(message)
    parts = wire.attributes(message[_LINK.size :])
    info = wire.attributes(parts.get(_INFO, b""))
    return Link(
        index=index,
        name=wire.string(parts.get(_NAME)),
        kind=wire.string(info.get(_INFO_KIND)),
        mac=_mac_text(parts.get(_MAC, b"")),
        mtu=struct.unpack("=I", parts.get(_MTU, bytes(4)))[0],
        master=struct.unpack("=I", parts.get(_MASTER, bytes(4)))[0],
        up=bool(flags & _UP),
        alias=wire.string(parts.get(_ALIAS)),
    )


def _mac_bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _mac_text(raw: bytes) -> str:
    return ":".join(f"{octet:02x}" for octet in raw)

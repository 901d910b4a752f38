"""Devices, addresses, routes and forwarding entries of one network namespace, by rtnetlink.

Blocking, and bound to the namespace of the thread that opened it: used from jobs of `host.netns`. Each `want_` method
compares with what is there and says whether it had to change anything, so applying twice changes nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

from pileus.kernel.faults import NotFound, Unavailable

_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_IFF_TAP, _IFF_NO_PI, _IFF_UP = 0x0002, 0x1000, 0x1
_NUD_PERMANENT, _NTF_SELF = 0x80, 0x02
_STATIC = 4  # RTPROT_STATIC
EVERY_MAC = "00:00:00:00:00:00"  # the entry for broadcast and unknown addresses of a VXLAN device


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
        from pyroute2 import IPRoute
        from pyroute2.netlink.exceptions import NetlinkError

        self._refusal: type[Exception] = NetlinkError
        self._route: Any = IPRoute()
        self.changes = 0

    def close(self) -> None:
        self._route.close()

    def links(self) -> dict[str, Link]:
        """Every device of the namespace by name."""
        found = (_link(message) for message in self._route.get_links())
        return {link.name: link for link in found}

    def link(self, name: str) -> Link | None:
        try:
            return _link(next(iter(self._route.link("get", ifname=name))))
        except self._refusal as error:
            if int(getattr(error, "code", 0)) == errno.ENODEV:
                return None
            raise Unavailable(f"Cannot read network device {name}: {error}.") from error

    def index(self, name: str) -> int:
        """Raises NotFound."""
        link = self.link(name)
        if link is None:
            raise NotFound(f"There is no network device {name}.")
        return link.index

    def add(self, name: str, kind: str, **attributes: Any) -> None:
        """Make a device, down. `attributes` are rtnetlink's, in pyroute2's spelling."""
        self._do("link", "add", ifname=name, kind=kind, **attributes)

    def add_bridge(self, name: str, *, mtu: int, alias: str, filtered: bool) -> None:
        """A bridge without spanning tree or snooping; `filtered` passes its frames through the inet hooks."""
        filtering = {"br_nf_call_iptables": int(filtered), "br_nf_call_ip6tables": int(filtered)}
        self.add(name, "bridge", mtu=mtu, br_mcast_snooping=0, br_forward_delay=0, **filtering)
        self.change(name, ifalias=alias)

    def add_veth(
        self, name: str, *, peer: str, namespace: Path, mac: str, mtu: int, alias: str
    ) -> None:
        """A pair: `name` here, `peer` with address `mac` in `namespace`."""
        other: dict[str, Any] = {"ifname": peer, "net_ns_fd": str(namespace), "mtu": mtu}
        if mac:
            other["address"] = mac
        self.add(name, "veth", mtu=mtu, peer=other)
        self.change(name, ifalias=alias)

    def add_vxlan(
        self, name: str, *, segment: int, local: str, port: int, mtu: int, namespace: Path
    ) -> None:
        """Made here, where its UDP socket stays, and moved to `namespace`. Learns nothing by itself."""
        version = {"vxlan_local": local} if ":" not in local else {"vxlan_local6": local}
        self.add(
            name, "vxlan", vxlan_id=segment, vxlan_port=port, vxlan_learning=0, mtu=mtu, **version
        )
        fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.change(name, net_ns_fd=fd)
        finally:
            os.close(fd)

    def change(self, name: str, **attributes: Any) -> None:
        """Change attributes of a device (`state="up"`, `master=index`, `mtu`, `ifalias`, `address`...)."""
        self._do("link", "set", index=self.index(name), **attributes)

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
        """Bring an existing device to this state, changing only what differs. Raises NotFound."""
        link = self.link(name)
        if link is None:
            raise NotFound(f"There is no network device {name}.")
        index = self.index(master) if master else link.master
        goal = {
            "mtu": mtu,
            "master": index,
            "ifalias": alias or link.alias,
            "address": mac or link.mac,
        }
        now = {"mtu": link.mtu, "master": link.master, "ifalias": link.alias, "address": link.mac}
        changed: dict[str, Any] = {k: v for k, v in goal.items() if now[k] != v}
        if link.up != up:
            changed["state"] = "up" if up else "down"
        if changed:
            self._do("link", "set", index=link.index, **changed)

    def delete(self, name: str) -> None:
        """Absent is fine."""
        try:
            self._do("link", "del", index=self.index(name))
        except NotFound:
            return

    def want_addresses(self, name: str, wanted: set[str]) -> None:
        """Give the device exactly these `ip/prefix`; IPv6 link-local ones are left alone unless wanted."""
        index = self.index(name)
        present = {}
        for message in self._route.get_addr(index=index):
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            present[str(ip_interface(f"{text}/{message['prefixlen']}"))] = text
        wanted = {str(ip_interface(w)) for w in wanted}
        for gone in present.keys() - wanted:
            if not ip_address(present[gone]).is_link_local or "." in gone:
                self._address("del", index, gone)
        for new in sorted(wanted - present.keys(), key=lambda a: ip_interface(a).network.prefixlen):
            self._address("add", index, new)

    def _address(self, verb: str, index: int, text: str) -> None:
        interface = ip_interface(text)
        extra: dict[str, Any] = {"flags": 0x02} if interface.version == 6 and verb == "add" else {}
        if interface.version == 4 and interface.network.prefixlen < 31 and verb == "add":
            extra["broadcast"] = str(interface.network.broadcast_address)
        prefix = interface.network.prefixlen
        self._do("addr", verb, index=index, address=str(interface.ip), prefixlen=prefix, **extra)

    def want_routes(self, wanted: dict[str, tuple[str, str]]) -> None:
        """Exactly these static routes of the main table: destination CIDR to (nexthop or "", device)."""
        present: dict[str, tuple[str, int]] = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in self._route.get_routes(family=family, table=254, proto=_STATIC):
                target = message.get_attr("RTA_DST") or ("0.0.0.0" if family == 2 else "::")
                key = str(ip_network(f"{target}/{message['dst_len']}"))
                nexthop = message.get_attr("RTA_GATEWAY") or ""
                present[key] = (nexthop, message.get_attr("RTA_OIF") or 0)
        goal = {d: (via, self.index(device)) for d, (via, device) in wanted.items()}
        for destination in present.keys() - goal.keys():
            via, oif = present[destination]
            self._route_to("del", destination, via, oif)
        for destination, (via, oif) in goal.items():
            if present.get(destination) != (via, oif):
                self._route_to("replace", destination, via, oif)

    def _route_to(self, verb: str, destination: str, via: str, oif: int) -> None:
        attributes: dict[str, Any] = {
            "dst": destination,
            "oif": oif,
            "proto": _STATIC,
            "table": 254,
        }
        attributes["family"] = socket.AF_INET6 if ":" in destination else socket.AF_INET
        if via:
            attributes["gateway"] = via
        else:
            attributes["scope"] = 253 if attributes["family"] == socket.AF_INET else 0
        self._do("route", verb, **attributes)

    def want_destinations(self, name: str, wanted: set[tuple[str, str]]) -> None:
        """Exactly these (MAC, host address) entries of a VXLAN device; EVERY_MAC is the flood list."""
        index = self.index(name)
        present = set()
        for message in self._route.get_neighbours(family=socket.AF_BRIDGE, ifindex=index):
            target = message.get_attr("NDA_DST")
            if message["ifindex"] == index and target:
                present.add((message.get_attr("NDA_LLADDR"), target))
        for mac, target in present - wanted:
            self._destination("del", index, mac, target)
        for mac, target in sorted(wanted - present):
            self._destination("append", index, mac, target)

    def _destination(self, verb: str, index: int, mac: str, target: str) -> None:
        self._do(
            "fdb",
            verb,
            ifindex=index,
            lladdr=mac,
            dst=target,
            state=_NUD_PERMANENT,
            flags=_NTF_SELF,
        )

    def _do(self, noun: str, verb: str, **attributes: Any) -> None:
        self.changes += 1
        try:
            getattr(self._route, noun)(verb, **attributes)
        except self._refusal as error:
            code = int(getattr(error, "code", 0))
            if verb == "del" and code in (errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL):
                return
            what = attributes.get("ifname") or attributes.get("dst") or attributes.get("address")
            reason = os.strerror(code)
            raise Unavailable(f"Cannot {verb} {noun} {what or ''}: {reason}.") from error


def _link(message: Any) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        kind=(info.get_attr("IFLA_INFO_KIND") or "") if info else "",
        mac=message.get_attr("IFLA_ADDRESS") or "",
        mtu=message.get_attr("IFLA_MTU") or 0,
        master=message.get_attr("IFLA_MASTER") or 0,
        up=bool(message["flags"] & _IFF_UP),
        alias=message.get_attr("IFLA_IFALIAS") or "",
    )


def add_tap(name: str, *, owner: int | None) -> None:
    """A persistent tap device, down; user id `owner` may open it. In the calling thread's namespace."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI)
        fcntl.ioctl(fd, _TUNSETIFF, request)
        if owner is not None:
            fcntl.ioctl(fd, _TUNSETOWNER, owner)
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    finally:
        os.close(fd)

"""What a router tells its neighbours unasked: router advertisements (RFC 4861, 8106), gratuitous
ARP.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network

ROUTER_SOLICIT, ROUTER_ADVERT = 133, 134
ALL_NODES, ALL_ROUTERS = "ff02::1", "ff02::2"
_ICMP6_FILTER = 1


@dataclass(frozen=True)
class Advertisement:
    """What guests of one interface of a router are told about IPv6."""

    mac: str
    mtu: int
    prefixes: tuple[tuple[IPv6Network, bool], ...]  # with: may guests make their own addresses?
    managed: bool = False  # addresses come by DHCPv6
    other: bool = False  # other settings come by DHCPv6
    dns_servers: tuple[IPv6Address, ...] = ()
    lifetime_s: int = 1800

    def packet(self) -> bytes:
        """The ICMPv6 message; the kernel fills in its checksum."""
        flags = (0x80 if self.managed else 0) | (0x40 if self.other else 0)
        out = struct.pack("!BBHBBHII", ROUTER_ADVERT, 0, 0, 64, flags, self.lifetime_s, 0, 0)
        out += b"\x01\x01" + bytes.fromhex(self.mac.replace(":", ""))
        out += struct.pack("!BBHI", 5, 1, 0, self.mtu)
        for network, autonomous in self.prefixes:
            bits = 0x80 | (0x40 if autonomous else 0)
            out += struct.pack("!BBBBIII", 3, 4, network.prefixlen, bits, 86400, 14400, 0)
            out += network.network_address.packed
        if self.dns_servers:
            size = 1 + 2 * len(self.dns_servers)
            out += struct.pack("!BBHI", 25, size, 0, self.lifetime_s)
            out += b"".join(server.packed for server in self.dns_servers)
        return out


def solicitation_socket(device: str) -> socket.socket:
    """Receives router solicitations on `device` and sends advertisements, in the thread's
    namespace.
    """
    opened = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    for option in (socket.IPV6_MULTICAST_HOPS, socket.IPV6_UNICAST_HOPS):
        opened.setsockopt(socket.IPPROTO_IPV6, option, 255)
    index = socket.if_nametoindex(device)
    opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    group = socket.inet_pton(socket.AF_INET6, ALL_ROUTERS) + struct.pack("@I", index)
    opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
    blocked = [0xFFFFFFFF] * 8
    blocked[ROUTER_SOLICIT >> 5] &= ~(1 << (ROUTER_SOLICIT & 31))
    opened.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("@8I", *blocked))
    opened.setblocking(False)
    return opened


def announce(device: str, mac: str, addresses: list[str]) -> None:
    """Tell the segment that these IPv4 addresses are at `mac` now (they may have been elsewhere)."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
        sender.bind((device, 0))
        ours = bytes.fromhex(mac.replace(":", ""))
        for address in addresses:
            ip = IPv4Address(address).packed
            arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + ours + ip + bytes(6) + ip
            sender.send(b"\xff" * 6 + ours + b"\x08\x06" + arp)

"""Packets that rules asked to have logged (`log group N`), read from the kernel."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

from pileus.host import netlink_wire as wire

_NETFILTER = 12
_PACKET, _CONFIG = 4 << 8, (4 << 8) | 1
_COMMAND, _MODE, _TIMEOUT = 1, 2, 4  # attributes of a configuration
_BIND, _COPY_PACKET = 1, 2
_PAYLOAD, _PREFIX = 9, 10  # attributes of a packet
_HEAD = 4  # family, version, group
_LEAST, _MOST = 128, 1 << 16  # bytes copied of a packet, and read at once
_WAIT_CS = 10  # hundredths of a second that packets are gathered
_PORTS = {6: "tcp", 17: "udp", 132: "sctp"}
_NAMES = {1: "icmp", 58: "icmpv6", **_PORTS}


class LoggedPackets:
    """The packets of one group, in the namespace of the thread that makes it. Raises `wire.Refused`."""

    def __init__(self, group: int) -> None:
        netlink = wire.NetlinkWire(_NETFILTER)
        head = struct.pack("!BBH", 0, 0, group)
        mode = struct.pack("!IBx", _LEAST, _COPY_PACKET)
        wait = struct.pack("!I", _WAIT_CS)
        try:
            for kind, value in ((_COMMAND, bytes([_BIND])), (_MODE, mode), (_TIMEOUT, wait)):
                netlink.do(_CONFIG, 0, head + wire.attribute(kind, value))
        except wire.Refused:
            netlink.close()
            raise
        self.socket: socket.socket = netlink.detach()
        self.socket.setblocking(False)

    def read(self) -> Iterator[tuple[str, str]]:
        """Prefix and words of each packet that has come."""
        with contextlib.suppress(BlockingIOError, OSError):  # ENOBUFS: some were too many
            while True:
                for kind, _, body in wire.messages(self.socket.recv(_MOST)):
                    if kind == _PACKET:
                        parts = wire.attributes(body[_HEAD:])
                        yield wire.string(parts.get(_PREFIX)), described(parts.get(_PAYLOAD, b""))

    def close(self) -> None:
        self.socket.close()


def described(packet: bytes) -> str:
    """`ipv4(src=..., dst=..., proto=tcp, src_port=..., dst_port=...)`; what is cut off is left out."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        size, protocol, ends = (packet[0] & 15) * 4, packet[9], (packet[12:16], packet[16:20])
    elif version == 6 and len(packet) >= 40:
        size, protocol, ends = 40, packet[6], (packet[8:24], packet[24:40])
    else:
        return f"other({packet[:16].hex()})"
    source, target = (ip_address(end) for end in ends)
    words = [f"src={source}", f"dst={target}", f"proto={_NAMES.get(protocol, protocol)}"]
    rest = packet[size : size + 4]
    if protocol in _PORTS and len(rest) == 4:
        ports = struct.unpack("!HH", rest)
        words += [f"src_port={ports[0]}", f"dst_port={ports[1]}"]
    elif protocol in (1, 58) and len(rest) >= 2:
        words += [f"type={rest[0]}", f"code={rest[1]}"]
    return f"ipv{version}({', '.join(words)})"

"""The kernel's table of connections: forgetting those that should not go on.

Blocking, for jobs of `host.netns`: it speaks to the namespace of the calling thread.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from pileus.kernel.faults import Unavailable

_NETLINK_NETFILTER = 12
_GET, _DELETE = 0x101, 0x102
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 0x2, 0x3
_ORIGINAL, _REPLY, _ZONE = 1, 2, 18
_HEADER = struct.Struct("=IHHII")
_FOREIGN = (2, 3)  # ENOENT, ESRCH: it ended by itself meanwhile


@dataclass(frozen=True)
class Flow:
    """One tracked connection, as its first packet went and as its answers come."""

    zone: int
    protocol: int
    source: str
    target: str
    number: int  # the destination port, or the type of ICMP
    answers_from: str
    answers_to: str


def forget(unwanted: Callable[[Flow], bool]) -> int:
    """Drop the tracked connections for which `unwanted` holds; how many they were."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as wire:
        wire.bind((0, 0))
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        doomed = []
        for family in (socket.AF_INET, socket.AF_INET6):
            for attributes in _dump(wire, family):
                if unwanted(_flow(attributes)):
                    doomed.append((family, attributes))
        for family, attributes in doomed:
            _delete(wire, family, attributes)
        return len(doomed)


def _dump(wire: socket.socket, family: int) -> Iterator[dict[int, bytes]]:
    body = struct.pack("=BBH", family, 0, 0)
    wire.send(_HEADER.pack(_HEADER.size + len(body), _GET, _REQUEST | _DUMP, 1, 0) + body)
    while True:
        for kind, payload in _messages(wire.recv(1 << 18)):
            if kind == _DONE:
                return
            if kind == _ERROR:
                raise Unavailable(f"Cannot list tracked connections: {_reason(payload)}.")
            yield dict(_attributes(payload[4:]))


def _delete(wire: socket.socket, family: int, attributes: dict[int, bytes]) -> None:
    body = struct.pack("=BBH", family, 0, 0)
    for kind, nested in ((_ORIGINAL, 0x8000), (_ZONE, 0)):
        if kind in attributes:
            data = attributes[kind]
            padding = bytes(-len(data) % 4)
            body += struct.pack("=HH", 4 + len(data), kind | nested) + data + padding
    wire.send(_HEADER.pack(_HEADER.size + len(body), _DELETE, _REQUEST | _ACK, 2, 0) + body)
    for kind, payload in _messages(wire.recv(1 << 16)):
        code = -struct.unpack_from("=i", payload)[0] if kind == _ERROR else 0
        if code and code not in _FOREIGN:
            raise Unavailable(f"Cannot forget a tracked connection: {_reason(payload)}.")


def _reason(payload: bytes) -> str:
    return f"netlink error {-struct.unpack_from('=i', payload)[0]}"


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, *_ = _HEADER.unpack_from(data, at)
        yield kind, data[at + _HEADER.size : at + size]
        at += (size + 3) & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + size]
        at += (size + 3) & ~3


def _flow(attributes: dict[int, bytes]) -> Flow:
    source, target, protocol, number = _tuple(attributes.get(_ORIGINAL, b""))
    answers_from, answers_to, _, _ = _tuple(attributes.get(_REPLY, b""))
    zone = int.from_bytes(attributes.get(_ZONE, b""), "big")
    return Flow(zone, protocol, source, target, number, answers_from, answers_to)


def _tuple(data: bytes) -> tuple[str, str, int, int]:
    """CTA_TUPLE_IP (1) and CTA_TUPLE_PROTO (2): source, target, protocol, port or ICMP type."""
    parts = dict(_attributes(data))
    ends = dict(_attributes(parts.get(1, b"")))
    rest = dict(_attributes(parts.get(2, b"")))
    source, target = ends.get(1) or ends.get(3), ends.get(2) or ends.get(4)
    number = rest.get(3) or rest.get(5) or rest.get(8) or b""
    return (
        str(ip_address(source)) if source else "",
        str(ip_address(target)) if target else "",
        int.from_bytes(rest.get(1, b""), "big"),
        int.from_bytes(number, "big"),
    )

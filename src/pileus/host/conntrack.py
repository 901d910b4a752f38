"""The kernel's table of connections: forgetting those that should not go on.

Blocking, for jobs of `host.netns`: it speaks to the namespace of the calling thread.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

from pileus.host import netlink_wire as wire
from pileus.kernel.faults import Unavailable

_NETLINK_NETFILTER = 12
_GET, _DELETE = 0x101, 0x102
_ORIGINAL, _REPLY, _ZONE = 1, 2, 18
_HEAD = struct.Struct("=BBH")  # family, version, resource


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
    """Drop the tracked connections for which `unwanted` holds; how many they were. Raises
    Unavailable.
    """
    with contextlib.closing(wire.NetlinkWire(_NETLINK_NETFILTER)) as channel:
        doomed = []
        for family in (socket.AF_INET, socket.AF_INET6):
            head = _HEAD.pack(family, 0, 0)
            try:
                for message in channel.dump(_GET, head):
                    parts = wire.attributes(message[_HEAD.size :])
                    if unwanted(_flow(parts)):
                        doomed.append((head, parts))
            except wire.Refused as refused:
                raise Unavailable(f"Cannot list tracked connections: {refused}.") from refused
        for head, parts in doomed:
            _delete(channel, head, parts)
        return len(doomed)


def _delete(channel: wire.NetlinkWire, head: bytes, parts: dict[int, bytes]) -> None:
    body = head + wire.nested(_ORIGINAL, parts[_ORIGINAL])
    if _ZONE in parts:
        body += wire.attribute(_ZONE, parts[_ZONE])
    try:
        channel.do(_DELETE, 0, body)
    except wire.Refused as refused:
        if refused.code != errno.ENOENT:  # it ended by itself meanwhile
            raise Unavailable(f"Cannot forget a tracked connection: {refused}.") from refused


def _flow(parts: dict[int, bytes]) -> Flow:
    source, target, protocol, number = _tuple(parts.get(_ORIGINAL, b""))
    answers_from, answers_to, _, _ = _tuple(parts.get(_REPLY, b""))
    zone = int.from_bytes(parts.get(_ZONE, b""), "big")
    return Flow(zone, protocol, source, target, number, answers_from, answers_to)


def _tuple(data: bytes) -> tuple[str, str, int, int]:
    """CTA_TUPLE_IP (1) and CTA_TUPLE_PROTO (2): source, target, protocol, port or ICMP type."""
    parts = wire.attributes(data)
    ends = wire.attributes(parts.get(1, b""))
    rest = wire.attributes(parts.get(2, b""))
    source, target = ends.get(1) or ends.get(3), ends.get(2) or ends.get(4)
    number = rest.get(3) or rest.get(5) or rest.get(8) or b""
    return (
        str(ip_address(source)) if source else "",
        str(ip_address(target)) if target else "",
        int.from_bytes(rest.get(1, b""), "big"),
        int.from_bytes(number, "big"),
    )

"""The kernel's table of connections: forgetting those that should not go on.

Blocking, for jobs of `host.netns`: it speaks to the namespace of the calling thread.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Collection, Container
from dataclasses import dataclass
from ipaddress import ip_address

from pileus.host import netlink_wire as wire
from pileus.kernel.faults import Unavailable

_NETLINK_NETFILTER = 12
_GET, _DELETE = 0x101, 0x102
_ORIGINAL, _REPLY, _ZONE = 1, 2, 18
_HEAD = struct.Struct("=BBH")  # family, version, resource
_SIZES = {wire.attribute(1, bytes(4))[:4]: 4, wire.attribute(3, bytes(16))[:4]: 16}  # of a source


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


def forget(
    unwanted: Callable[[Flow], bool], places: Collection[tuple[int, str]] | None = None
) -> int:
    """Drop the tracked connections for which `unwanted` holds; how many they were. Raises Unavailable.

    `places`, zones and addresses in them, say whose first packet went from or to one of them: of a
    hundred thousand, each takes 40 us to read and a fortieth of that to pass over.
    """
    body = _HEAD.pack(socket.AF_UNSPEC, 0, 0)
    zones = {zone for zone, _ in places or ()}
    if len(zones) == 1:  # kernels before 6.8 give all the same
        body += wire.attribute(_ZONE, struct.pack("!H", *zones))
    wanted = None if places is None else {_packed(address) for _, address in places}
    with contextlib.closing(wire.NetlinkWire(_NETLINK_NETFILTER)) as channel:
        try:
            told = channel.dump(_GET, body)
            found = [m for m in told if wanted is None or _concerns(m, wanted)]
        except wire.Refused as refused:
            raise Unavailable(f"Cannot list tracked connections: {refused}.") from refused
        read = [(m[: _HEAD.size], wire.attributes(m[_HEAD.size :])) for m in found]
        doomed = [(head, parts) for head, parts in read if unwanted(_flow(parts))]
        for head, parts in doomed:
            _delete(channel, head, parts)
        return len(doomed)


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _concerns(message: bytes, wanted: Container[bytes]) -> bool:
    """By the addresses of the first packet, which the kernel puts first; all is read where it does not."""
    size = _SIZES.get(message[12:16])
    if size is None:
        return True
    source, target = 16, 20 + size
    return message[source : source + size] in wanted or message[target : target + size] in wanted


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

"""DHCPv4 (RFC 2131, 2132, 3442): requests read, answers written. Pure functions, no sockets."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from pileus.kernel.faults import Invalid

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
SERVER_PORT, CLIENT_PORT = 67, 68
_COOKIE = b"\x63\x82\x53\x63"
_HEADER = struct.Struct("!4B4sHH4s4s4s4s16s64s128s4s")
_NOWHERE = IPv4Address(0)
_LONGEST = 1200  # of an answer's options: it must fit one frame of the smallest usual MTU


@dataclass(frozen=True)
class Request:
    kind: int
    transaction: bytes
    mac: str
    flags: int
    client: IPv4Address  # the address it has and can be reached at, or 0.0.0.0
    wanted: IPv4Address | None
    server: IPv4Address | None


@dataclass(frozen=True)
class Lease:
    """What one guest is told."""

    address: IPv4Address
    network: IPv4Network
    server: IPv4Address
    mtu: int
    seconds: int = 86400
    gateway: IPv4Address | None = None
    dns_servers: tuple[IPv4Address, ...] = ()
    hostname: str = ""
    domain: str = ""
    routes: tuple[tuple[IPv4Network, IPv4Address], ...] = ()
    extra: tuple[tuple[int, bytes], ...] = field(default=())


def parse(packet: bytes) -> Request | None:
    """The request in a UDP payload; None for anything that is not one (relayed ones included)."""
    if len(packet) < _HEADER.size or packet[:3] != b"\x01\x01\x06":
        return None
    header = _HEADER.unpack_from(packet)
    options = _options(packet[_HEADER.size :])
    kind = options.get(53, b"")
    if header[-1] != _COOKIE or header[10] != bytes(4) or len(kind) != 1:
        return None
    mac = ":".join(f"{byte:02x}" for byte in header[11][:6])
    client = IPv4Address(header[7])
    wanted, server = _address(options.get(50)), _address(options.get(54))
    return Request(kind[0], header[4], mac, header[6], client, wanted, server)


def answer(request: Request, lease: Lease) -> bytes | None:
    """The UDP payload to send back, or None when silence is the answer."""
    if request.server not in (None, lease.server):
        return None  # it has chosen another server
    if request.kind == DISCOVER:
        return _message(request, lease, OFFER, lease.address)
    if request.kind == INFORM:
        return _message(request, lease, ACK, _NOWHERE)
    if request.kind != REQUEST:
        return None
    asked = request.wanted or request.client
    if asked not in (lease.address, _NOWHERE):
        return _write(request, NAK, _NOWHERE, [(54, lease.server.packed)])
    return _message(request, lease, ACK, lease.address)


def reachable(request: Request, reply: bytes) -> bool:
    """May the answer be sent as plain UDP to the client's own address (a renewal), or only by its
    MAC?
    """
    is_refusal = reply[_HEADER.size + 2] == NAK
    return request.client != _NOWHERE and not is_refusal


def frame(payload: bytes, *, source: IPv4Address, target: IPv4Address) -> bytes:
    """The payload in UDP in IPv4, for a client that cannot answer ARP yet."""
    size = 8 + len(payload)
    udp = struct.pack("!HHHH", SERVER_PORT, CLIENT_PORT, size, 0)
    head = struct.pack("!BBHHHBBH", 0x45, 0xC0, 20 + size, 0, 0, 64, 17, 0)
    header = head + source.packed + target.packed
    checksum = struct.pack("!H", _checksum(header))
    return header[:10] + checksum + header[12:] + udp + payload


def extra_option(name: str, value: str) -> tuple[int, bytes]:
    """An option by dnsmasq's name or by number, its value as text, in quotes or not. Raises Invalid."""
    code = int(name) if name.isascii() and name.isdigit() else _CODES.get(name.lower(), 0)
    if not 1 <= code <= 254 or code in _RESERVED:
        raise Invalid(f"DHCP option {name!r} is not one that a port may set.")
    try:
        encoded = _encoded(code, _unquoted(value))
    except (ValueError, OverflowError, struct.error) as error:
        raise Invalid(f"DHCP option {name} cannot be {value!r}: {error}.") from error
    if not 1 <= len(encoded) <= 255:
        raise Invalid(f"DHCP option {name} must hold 1 to 255 bytes, not {len(encoded)}.")
    return code, encoded


def _unquoted(value: str) -> str:
    """OVN wants text in quotes, and dnsmasq takes them off."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


def route_option(routes: tuple[tuple[IPv4Network, IPv4Address], ...]) -> bytes:
    """RFC 3442's compact destinations."""
    out = b""
    for network, nexthop in routes:
        significant = network.network_address.packed[: (network.prefixlen + 7) // 8]
        out += bytes([network.prefixlen]) + significant + nexthop.packed
    return out


_CODES = {
    "netmask": 1, "router": 3, "dns-server": 6, "log-server": 7, "lpr-server": 9, "hostname": 12,
    "boot-file-size": 13, "domain-name": 15, "swap-server": 16, "root-path": 17,
    "extension-path": 18, "default-ttl": 23, "mtu": 26, "broadcast": 28, "static-route": 33,
    "nis-domain": 40, "nis-server": 41, "ntp-server": 42, "vendor-encap": 43, "netbios-ns": 44,
    "netbios-nodetype": 46, "lease-time": 51, "t1": 58, "t2": 59, "vendor-class": 60,
    "tftp-server": 66, "server-ip-address": 150, "bootfile-name": 67, "smtp-server": 69,
    "pop3-server": 70, "domain-search": 119, "classless-static-route": 121,
    "tftp-server-address": 150,
}  # fmt: skip
_RESERVED = frozenset({50, 52, 53, 54, 55, 57, 61, 82})
_ADDRESSES = frozenset({1, 3, 6, 7, 9, 16, 28, 33, 41, 42, 44, 69, 70, 150})
_SHORTS, _LONGS, _BYTES = frozenset({13, 26}), frozenset({51, 58, 59}), frozenset({23, 46})


def _encoded(code: int, value: str) -> bytes:
    if code in _ADDRESSES:
        return b"".join(IPv4Address(part.strip()).packed for part in value.split(","))
    if code in _SHORTS:
        return struct.pack("!H", int(value))
    if code in _LONGS:
        return struct.pack("!I", int(value))
    if code in _BYTES:
        return struct.pack("!B", int(value))
    if code == 121:
        parts = [part.strip() for part in value.split(",")]
        pairs = zip(parts[::2], parts[1::2], strict=True)
        return route_option(tuple((IPv4Network(d), IPv4Address(n)) for d, n in pairs))
    return value.encode()


def _message(request: Request, lease: Lease, kind: int, yours: IPv4Address) -> bytes:
    options: dict[int, bytes] = {
        54: lease.server.packed,
        1: lease.network.netmask.packed,
        28: lease.network.broadcast_address.packed,
        26: struct.pack("!H", lease.mtu),
    }
    if request.kind != INFORM:
        options[51] = struct.pack("!I", lease.seconds)
    if lease.gateway:
        options[3] = lease.gateway.packed
    if lease.dns_servers:
        options[6] = b"".join(server.packed for server in lease.dns_servers)
    if lease.hostname:
        options[12] = lease.hostname.encode()
    if lease.domain:
        options[15] = lease.domain.encode()
    routes = lease.routes
    if routes and lease.gateway:  # a client that takes option 121 ignores option 3
        routes = (*routes, (IPv4Network("0.0.0.0/0"), lease.gateway))
    options[121] = route_option(routes)
    options.update(lease.extra)
    return _write(request, kind, yours, sorted(options.items()))


def _write(
    request: Request, kind: int, yours: IPv4Address, options: list[tuple[int, bytes]]
) -> bytes:
    mac = bytes.fromhex(request.mac.replace(":", ""))
    given = dict(options)
    next_server = given.get(150, bytes(4))[:4]
    boot_file = given.get(67, b"")[:127]
    client = request.client.packed if kind != NAK else bytes(4)
    flags = request.flags | (0x8000 if kind == NAK else 0)
    head = _HEADER.pack(
        2, 1, 6, 0, request.transaction, 0, flags, client, yours.packed, next_server, bytes(4),
        mac, b"", boot_file, _COOKIE,
    )  # fmt: skip
    body = bytes([53, 1, kind])
    for code, value in options:
        if value and len(value) <= 255 and len(body) + len(value) + 2 <= _LONGEST:
            body += bytes([code, len(value)]) + value
    return (head + body + b"\xff").ljust(300, b"\0")


def _options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data) and data[at] != 255:
        if data[at] == 0:
            at += 1
            continue
        if at + 1 >= len(data):
            break
        size = data[at + 1]
        found[data[at]] = data[at + 2 : at + 2 + size]
        at += 2 + size
    return found


def _address(data: bytes | None) -> IPv4Address | None:
    return IPv4Address(data) if data is not None and len(data) == 4 else None


def _checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF

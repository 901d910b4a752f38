"""DNS messages (RFC 1035): one question read, one answer written. Pure functions, no sockets."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

A, PTR, AAAA, ANY = 1, 12, 28, 255
NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NO_SUCH_NAME, REFUSED = 0, 1, 2, 3, 5
LONGEST = 4096
_HEADER = struct.Struct("!HHHHHH")
_QUERY, _RECURSE = 0x8000, 0x0100


@dataclass(frozen=True)
class Question:
    id: int
    name: str  # lower case, no final dot
    type: int
    recurse: bool
    raw: bytes  # the question section as sent, so that the answer echoes its letters


def parse(packet: bytes) -> Question | None:
    """The question in a query; None for an answer, for nonsense, and for more questions than one."""
    if not _HEADER.size < len(packet) <= LONGEST:
        return None
    id, flags, questions, *_ = _HEADER.unpack_from(packet)
    if flags & _QUERY or (flags >> 11) & 0xF or questions != 1:
        return None
    labels, at = [], _HEADER.size
    while at < len(packet) and packet[at]:
        size = packet[at]
        if size > 63 or at - _HEADER.size > 255:
            return None
        labels.append(packet[at + 1 : at + 1 + size])
        at += 1 + size
    if at + 5 > len(packet):
        return None
    kind, family = struct.unpack_from("!HH", packet, at + 1)
    if family != 1:
        return None
    name = b".".join(labels).decode("ascii", "replace").lower()
    return Question(id, name, kind, bool(flags & _RECURSE), packet[_HEADER.size : at + 5])


def address_answer(question: Question, addresses: list[str], ttl: int = 60) -> bytes:
    """The addresses that fit the question's type; none is an answer too (the name exists)."""
    parsed = [ip_address(text) for text in addresses]
    wanted = {A: 4, AAAA: 6}.get(question.type)
    records = [
        (A if a.version == 4 else AAAA, a.packed)
        for a in parsed
        if question.type == ANY or a.version == wanted
    ]
    return _write(question, NO_ERROR, records, ttl)


def name_answer(question: Question, name: str, ttl: int = 60) -> bytes:
    """The answer to a question for an address's name."""
    labels = [label.encode("ascii") for label in name.rstrip(".").split(".")]
    data = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    records = [(PTR, data)] if question.type in (PTR, ANY) else []
    return _write(question, NO_ERROR, records, ttl)


def failure(question: Question, code: int) -> bytes:
    return _write(question, code, [], 0)


def reverse_address(name: str) -> IPv4Address | IPv6Address | None:
    """The address that `1.0.0.10.in-addr.arpa` (or the ip6.arpa kind) asks about."""
    labels = name.split(".")
    try:
        if name.endswith(".in-addr.arpa") and len(labels) == 6:
            return IPv4Address(".".join(reversed(labels[:4])))
        if name.endswith(".ip6.arpa") and len(labels) == 34:
            return IPv6Address(bytes.fromhex("".join(reversed(labels[:32]))))
    except ValueError:
        return None
    return None


def with_id(packet: bytes, id: int) -> bytes:
    """The same message under another transaction id."""
    return struct.pack("!H", id) + packet[2:]


def answers(packet: bytes, id: int, question: Question) -> bool:
    """Is this packet an answer to what we asked under `id`?"""
    if not _HEADER.size <= len(packet) <= LONGEST:
        return False
    got, flags, *_ = _HEADER.unpack_from(packet)
    echoed = packet[_HEADER.size : _HEADER.size + len(question.raw)]
    return got == id and bool(flags & _QUERY) and echoed.lower() == question.raw.lower()


def _write(question: Question, code: int, records: list[tuple[int, bytes]], ttl: int) -> bytes:
    flags = _QUERY | 0x0400 | (_RECURSE if question.recurse else 0) | 0x0080 | code
    out = _HEADER.pack(question.id, flags, 1, len(records), 0, 0) + question.raw
    for kind, data in records:
        out += struct.pack("!HHHIH", 0xC00C, kind, 1, ttl, len(data)) + data
    return out

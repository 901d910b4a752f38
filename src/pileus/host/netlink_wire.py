"""Netlink's framing: requests, dumps and attributes, as `host.netlink` and `host.conntrack` use
them.

A library does this too (pyroute2), but it takes half a second to import and a millisecond a call,
and refuses to work in a process whose event loops are uvloop's.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
REPLACE, EXCLUSIVE, CREATE, APPEND = 0x100, 0x200, 0x400, 0x800
NESTED = 0x8000
_ERROR, _DONE = 0x2, 0x3
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_LARGEST = 1 << 18


_SAID = {
    errno.EXFULL: "its bridge is full, as one of this kernel has 1,023 ports and no more: this host takes no further "
    "port of that network, another host does"
}


class Refused(Exception):
    """The kernel answered with an error number."""

    def __init__(self, code: int) -> None:
        super().__init__(_SAID.get(code) or os.strerror(code))
        self.code = code


class NetlinkWire:
    """One socket, one request at a time; bound to the namespace of the thread that made it."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
        )
        self._socket.bind((0, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def detach(self) -> socket.socket:
        """For one who goes on by himself."""
        return self._socket

    def do(self, kind: int, flags: int, body: bytes) -> None:
        """A change, acknowledged. Raises Refused."""
        self._send(kind, flags | ACK, body)
        list(self._answers())

    def get(self, kind: int, body: bytes) -> bytes:
        """The one message that answers the request. Raises Refused."""
        self._send(kind, ACK, body)
        answer, *_ = self._answers()
        return answer

    def dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        """Every message of a listing. Raises Refused."""
        self._send(kind, DUMP, body)
        return self._answers()

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        size = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(size, kind, flags | REQUEST, self._sequence, 0) + body)

    def _answers(self) -> Iterator[bytes]:
        """Payloads up to the acknowledgement or the end of the dump."""
        while True:
            for kind, sequence, payload in messages(self._socket.recv(_LARGEST)):
                if sequence != self._sequence:
                    continue  # the rest of a dump that its reader gave up
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    if code:
                        raise Refused(code)
                    return
                yield payload


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Kind, sequence number and payload of each."""
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
        if size < _HEADER.size:
            return
        yield kind, sequence, data[at + _HEADER.size : at + size]
        at += (size + 3) & ~3


def attribute(kind: int, data: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(data)
    return _ATTRIBUTE.pack(size, kind) + data + bytes(-size % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | NESTED, b"".join(parts))


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=B", value))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = data[at + _ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3
    return found


def string(data: bytes | None) -> str:
    return data.rstrip(b"\0").decode(errors="replace") if data else ""

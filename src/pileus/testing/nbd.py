"""A guest's end of an NBD export: reads and writes over a unix socket, one at a time, blocking."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from types import TracebackType

from pileus.host.qemu import reachable

_OPTION, _REPLY = 0x49484156454F5054, 0x3E889045565A9
_GO, _ACKNOWLEDGED, _INFO, _ERROR = 7, 1, 3, 1 << 31
_REQUEST, _ANSWER = 0x25609513, 0x67446698
_READ, _WRITE, _DISCONNECT, _FLUSH = 0, 1, 2, 3
_PATIENCE_S = 20


class Refused(Exception):
    """The server does not serve what was asked for, or failed at it."""


class NbdClient:
    """A connection. A server that dies meanwhile is a ConnectionError; what it did not answer may be lost."""

    def __init__(self, path: str, name: str) -> None:
        self.size = 0
        self._plug = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._plug.settimeout(_PATIENCE_S)
        try:
            with reachable(Path(path).parent) as folder:
                self._plug.connect(f"{folder}/{Path(path).name}")
            self._shake_hands(name.encode())
        except BaseException:
            self._plug.close()
            raise

    def __enter__(self) -> NbdClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._plug:
            if error is None:
                self._plug.sendall(struct.pack(">IHHQQI", _REQUEST, 0, _DISCONNECT, 0, 0, 0))

    def read(self, offset: int, count: int) -> bytes:
        self._ask(_READ, offset, count)
        return self._exactly(count)

    def write(self, offset: int, data: bytes) -> None:
        self._ask(_WRITE, offset, len(data), data)

    def flush(self) -> None:
        self._ask(_FLUSH, 0, 0)

    def _ask(self, kind: int, offset: int, count: int, data: bytes = b"") -> None:
        self._plug.sendall(struct.pack(">IHHQQI", _REQUEST, 0, kind, 1, offset, count) + data)
        magic, error, _ = struct.unpack(">IIQ", self._exactly(16))
        if magic != _ANSWER or error:
            raise Refused(f"error {error} for request {kind} of {count} bytes at {offset}")

    def _shake_hands(self, name: bytes) -> None:
        self._exactly(18)
        wish = struct.pack(">I", len(name)) + name + b"\0\0"
        self._plug.sendall(struct.pack(">IQII", 3, _OPTION, _GO, len(wish)) + wish)
        while True:
            magic, _, kind, length = struct.unpack(">QIII", self._exactly(20))
            said = self._exactly(length)
            if magic != _REPLY or kind & _ERROR:
                raise Refused(said.decode(errors="replace") or f"reply {kind:#x}")
            if kind == _ACKNOWLEDGED:
                return
            if kind == _INFO and said[:2] == b"\0\0":
                (self.size,) = struct.unpack(">Q", said[2:10])

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self._plug.recv(count - len(data))
            if not piece:
                raise ConnectionResetError("the server hung up")
            data += piece
        return data

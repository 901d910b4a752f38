"""A way into a network namespace from outside: SOCKS 5 (RFC 1928) on a unix socket of its owner's.

Whoever may open the socket connects to addresses of that namespace, which need no route elsewhere:
floating IPs of a cloud that an ordinary user runs. Only connections, and only to addresses.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

from pileus.host.netns import Namespaces
from pileus.host.qemu import listen, reachable
from pileus.kernel.faults import NotFound, Unavailable

NAME = "connect.sock"
_PATIENCE_S = 15.0
_PIECE = 1 << 18
_CONNECT, _ADDRESS4, _NAME, _ADDRESS6 = 1, 1, 3, 4
_DONE, _UNREACHABLE, _REFUSED, _NO_COMMAND, _NO_ADDRESS = 0, 4, 5, 7, 8
_SAID = {
    _UNREACHABLE: "cannot be reached",
    _REFUSED: "refuses the connection",
    _NO_ADDRESS: "is not an address",
}


class Proxy:
    """Serves `folder`/connect.sock for `network`, a name as `Namespaces` knows it."""

    def __init__(self, folder: Path, network: str) -> None:
        self._path, self._network = folder / NAME, network
        self._namespaces = Namespaces()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, sock=listen(self._path))

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)
        self._namespaces.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                status, far = await self._opened(reader, writer)
                writer.write(struct.pack("!BBBB6x", 5, status, 0, _ADDRESS4))
                await writer.drain()
            if far is not None:
                far_reader, far_writer = await asyncio.open_connection(sock=far)
                await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        writer.close()

    async def _opened(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[int, socket.socket | None]:
        """What the other end is told, and what it asked for."""
        _, methods = await reader.readexactly(2)
        await reader.readexactly(methods)
        writer.write(b"\x05\x00")
        _, command, _, kind = await reader.readexactly(4)
        size = {_ADDRESS4: 4, _ADDRESS6: 16}.get(kind) or (await reader.readexactly(1))[0]
        said = await reader.readexactly(size)
        (port,) = struct.unpack("!H", await reader.readexactly(2))
        try:
            address = ip_address(said.decode("latin-1") if kind == _NAME else said)
        except ValueError:
            return _NO_ADDRESS, None
        if command != _CONNECT:
            return _NO_COMMAND, None
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        far = await self._namespaces.call(self._network, lambda: socket.socket(family))
        far.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(far, (str(address), port))
        except OSError as refusal:
            far.close()
            return _REFUSED if isinstance(refusal, ConnectionRefusedError) else _UNREACHABLE, None
        return _DONE, far


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
        writer.write_eof()


def connected(folder: Path, host: str, port: int) -> socket.socket:
    """A connection through the proxy of that folder. Raises NotFound or Unavailable; blocking."""
    plug = _plug(folder)
    plug.settimeout(_PATIENCE_S + 1)
    name = host.encode()[:255]
    try:
        plug.sendall(b"\x05\x01\x00" + bytes([5, _CONNECT, 0, _NAME, len(name)]) + name)
        plug.sendall(struct.pack("!H", port))
        with plug.makefile("rb", buffering=0) as answer:
            said = answer.read(2) + answer.read(10)
    except OSError as silence:
        plug.close()
        raise Unavailable(f"{host} port {port} cannot be reached: {silence}.") from silence
    status = said[3] if len(said) == 12 else _UNREACHABLE
    if status != _DONE:
        plug.close()
        raise Unavailable(f"{host} port {port} {_SAID.get(status, 'cannot be reached')}.")
    plug.settimeout(None)
    return plug


def _plug(folder: Path) -> socket.socket:
    plug = socket.socket(socket.AF_UNIX)
    try:
        with reachable(folder) as short:
            plug.connect(f"{short}/{NAME}")
    except OSError as absent:
        plug.close()
        text = f"no cloud with real guests runs on {folder} for this user ({absent.strerror})"
        raise NotFound(f"{text}; start one: pileus up --state {folder}") from absent
    return plug


def join_standard_streams(far: socket.socket) -> None:
    """What ssh's ProxyCommand does: until the far end has said all."""
    threading.Thread(target=_send, args=(far,), daemon=True).start()
    with contextlib.suppress(ConnectionError):
        while piece := far.recv(_PIECE):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()


def _send(far: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := os.read(0, _PIECE):
            far.sendall(piece)
        far.shutdown(socket.SHUT_WR)


async def forward(folder: Path, address: str, ready: Callable[[str], None]) -> None:
    """The proxy of that folder on a TCP port of this machine, until cancelled."""
    host, _, port = address.rpartition(":")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(sock=_plug(folder))
        except NotFound:
            writer.close()
            return
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        writer.close()

    _plug(folder).close()
    async with await asyncio.start_server(serve, host or "127.0.0.1", int(port)) as server:
        ready(address)
        await server.serve_forever()

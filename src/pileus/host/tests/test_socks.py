"""The way into a network, here this process's own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pileus.host import socks
from pileus.kernel.faults import NotFound, Unavailable


def echoes(far: socket.socket) -> bytes:
    """What comes back of what is sent, to its end."""
    with far:
        far.sendall(b"there and back" * 10_000)
        far.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: far.recv(1 << 16), b""))


def with_proxy(folder: Path, ask: Callable[[int], None]) -> None:
    """`ask` runs in a thread, with the port of a server that echoes."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(1 << 16):
            writer.write(piece)
        writer.close()

    async def whole() -> None:
        proxy = socks.Proxy(folder, "")
        await proxy.start()
        try:
            async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
                await asyncio.to_thread(ask, server.sockets[0].getsockname()[1])
        finally:
            await proxy.stop()

    asyncio.run(whole())


def test_bytes_go_through_the_proxy_and_back_to_their_end(tmp_path: Path) -> None:
    def ask(port: int) -> None:
        far = socks.connected(tmp_path, "127.0.0.1", port)
        assert echoes(far) == b"there and back" * 10_000

    with_proxy(tmp_path, ask)


def test_what_cannot_be_reached_is_said_to_be_so(tmp_path: Path) -> None:
    def ask(port: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            number = closed.getsockname()[1]
        with pytest.raises(Unavailable, match=f"port {number} refuses the connection"):
            socks.connected(tmp_path, "127.0.0.1", number)
        with pytest.raises(Unavailable, match="nowhere port 22 is not an address"):
            socks.connected(tmp_path, "nowhere", 22)

    with_proxy(tmp_path, ask)
    with pytest.raises(NotFound, match="pileus up --state"):
        socks.connected(tmp_path, "127.0.0.1", 22)


def test_the_proxy_is_served_on_a_port_of_the_machine_too(tmp_path: Path) -> None:
    def ask(port: int) -> None:
        address = socket.create_server(("127.0.0.1", 0))
        own = address.getsockname()[1]
        address.close()
        ready, done = threading.Event(), threading.Event()

        async def serve() -> None:
            forwarding = asyncio.create_task(
                socks.forward(tmp_path, f"127.0.0.1:{own}", lambda at: ready.set())
            )
            await asyncio.to_thread(done.wait)
            forwarding.cancel()
            await asyncio.gather(forwarding, return_exceptions=True)

        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        assert ready.wait(10)
        with socket.create_connection(("127.0.0.1", own)) as far:
            far.sendall(b"\5\1\0" + b"\5\1\0\1" + socket.inet_aton("127.0.0.1"))
            far.sendall(port.to_bytes(2, "big"))
            answer = far.recv(2, socket.MSG_WAITALL) + far.recv(10, socket.MSG_WAITALL)
            assert answer[:4] == b"\5\0\5\0"
            assert echoes(far) == b"there and back" * 10_000
        done.set()
        thread.join(10)

    with_proxy(tmp_path, ask)

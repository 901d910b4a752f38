"""The HTTP server: uvicorn on a socket of ours; `ready` is said only when it really listens."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from pileus.host.websocket import MESSAGE_LIMIT
from pileus.kernel.world import World

from .bodies import Connection


def listen_on(address: str) -> socket.socket:
    """A listening TCP socket on HOST:PORT. Raises OSError if the address is taken."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    found.bind((host.strip("[]") or "0.0.0.0", int(port)))
    found.listen(1024)
    found.setblocking(False)
    return found


class Server:
    """Serves one application until told to stop; requests in flight are finished."""

    def __init__(self, app: Any, sock: socket.socket, world: World) -> None:
        self.sock, self.world = sock, world
        config = uvicorn.Config(
            app,
            loop="none",
            http=Connection,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=True,
            proxy_headers=False,
            ws="websockets-sansio",
            ws_max_size=MESSAGE_LIMIT,
            ws_per_message_deflate=False,
            log_level="warning",  # it would log each websocket's query string, where tokens are
            timeout_keep_alive=75,
            timeout_graceful_shutdown=10,
        )
        self.uvicorn = uvicorn.Server(config)

    async def run(self, stop: asyncio.Event, ready: Callable[[], Awaitable[None]]) -> None:
        """Calls `ready` once it listens; returns after `stop` is set."""
        serving = asyncio.create_task(self.uvicorn._serve([self.sock]), name="http")
        while not self.uvicorn.started:
            if serving.done():
                await serving
                raise OSError("the HTTP server did not start")
            await asyncio.sleep(0.001)
        await ready()
        await stop.wait()
        self.uvicorn.should_exit = True
        await serving

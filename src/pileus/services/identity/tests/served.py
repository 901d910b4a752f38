"""A cloud of this process on a port of its own, for clients that want a real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pileus.node.server import Server, listen_on
from pileus.testing.cloud import Cloud


@asynccontextmanager
async def served(cloud: Cloud) -> AsyncIterator[str]:
    """The URL of its identity service. Clients that block belong into a thread."""
    sock = listen_on("127.0.0.1:0")
    stop, ready = asyncio.Event(), asyncio.Event()

    async def listening() -> None:
        ready.set()

    server = Server(cloud.control.app, sock, cloud.runtime.world)
    serving = asyncio.create_task(server.run(stop, listening))
    await ready.wait()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/identity"
    finally:
        stop.set()
        await serving

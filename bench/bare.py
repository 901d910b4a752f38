"""The machine's own yardstick: an ASGI application that does nothing, on the same HTTP server.

python -m bench.bare PORT
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop

from pileus.kernel.world import World
from pileus.node.server import Server, listen_on

HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"2")]


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"{}"})


async def ready() -> None:
    print("ready", flush=True)


if __name__ == "__main__":
    server = Server(nothing, listen_on(f"127.0.0.1:{sys.argv[1]}"), World())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.run(asyncio.Event(), ready))

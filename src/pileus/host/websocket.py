"""A guest's socket carried to control over a websocket: as bytes go from a host, the host calls."""

from __future__ import annotations

import asyncio
import socket

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from pileus.kernel.faults import Unavailable

_CHUNK = 64 * 1024
MESSAGE_LIMIT = 1 << 20  # bytes; what a screen sends is cut into chunks


async def call(url: str, tries: int) -> ClientConnection:
    """The connection to a path under the cloud's URL, http or https. Raises Unavailable.

    Several controls may stand behind that URL, and one of them waits for the call: hence the tries.
    """
    target = "ws" + url.removeprefix("http")
    reason: Exception | None = None
    for _ in range(tries):
        try:
            return await connect(target, compression=None, max_size=MESSAGE_LIMIT, proxy=None)
        except (OSError, InvalidHandshake, TimeoutError) as e:
            reason = e
    raise Unavailable("Control could not be called.", internal=repr(reason))


async def carry(connection: ClientConnection, guest: socket.socket) -> None:
    """Bytes both ways until either side ends; then both have."""
    reader, writer = await asyncio.open_connection(sock=guest)

    async def to_guest() -> None:
        async for message in connection:
            writer.write(message.encode() if isinstance(message, str) else message)
            await writer.drain()

    async def from_guest() -> None:
        while data := await reader.read(_CHUNK):
            await connection.send(data)

    ways = [asyncio.create_task(to_guest()), asyncio.create_task(from_guest())]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        ended = await asyncio.gather(*ways, return_exceptions=True)
        writer.close()
        await connection.close()
    for reason in ended:
        if isinstance(reason, Exception) and not isinstance(reason, ConnectionClosed | OSError):
            raise reason

"""A very small HTTP/1.1 server for guests, on a listening socket made elsewhere (in a namespace).

It does GET, HEAD and small POSTs, one request a connection, within fixed limits: whoever talks to
it is a stranger.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import NamedTuple

Answer = tuple[int, str, bytes]  # status, content type, body


class Request(NamedTuple):
    """What was asked. The headers' names are in small letters."""

    path: str
    headers: Mapping[str, str] = {}
    method: str = "GET"
    body: bytes = b""


Handler = Callable[[str, Request], Awaitable[Answer]]  # peer address, request
LONGEST_HEAD = 16 * 1024
LONGEST_BODY = 4 * 1024
MOST_CONNECTIONS = 64
PATIENCE_S = 10.0


class MetadataServer:
    """Serves `handler` until closed; at most MOST_CONNECTIONS at a time, the rest are closed
    unheard.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self, listening: socket.socket) -> None:
        self._server = await asyncio.start_server(
            self._connected, sock=listening, limit=LONGEST_HEAD
        )

    async def close(self) -> None:
        if self._server:
            self._server.close()
            self._server = None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= MOST_CONNECTIONS:
            writer.close()
            return
        self._open += 1
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._converse(reader, writer)
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            return  # the guest went away or dawdled: nothing is owed to it
        finally:
            self._open -= 1
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = str(writer.get_extra_info("peername")[0]).split("%")[0]
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            writer.write(_response("GET", (431, "text/plain", b"Header too large\n")))
            return await writer.drain()
        request = _parse(head)
        if request is None:
            writer.write(_response("GET", (400, "text/plain", b"Not an HTTP request\n")))
        else:
            answer = await self._answer(peer, request, reader)
            writer.write(_response(request.method, answer))
        await writer.drain()

    async def _answer(self, peer: str, request: Request, reader: asyncio.StreamReader) -> Answer:
        if request.method in ("GET", "HEAD"):
            return await self._handler(peer, request)
        if request.method != "POST":
            return 405, "text/plain", b"Only GET, HEAD and POST\n"
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            return 411, "text/plain", b"Content-Length is missing\n"
        if int(length) > LONGEST_BODY:
            return 413, "text/plain", b"Body too large\n"
        body = await reader.readexactly(int(length))
        return await self._handler(peer, request._replace(body=body))


def _parse(head: bytes) -> Request | None:
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):
        return None
    headers = {}
    for line in lines[1:]:
        key, colon, value = line.partition(":")
        if colon:
            headers[key.strip().lower()] = value.strip()
    return Request(words[1], headers, words[0])


def _response(method: str, answer: Answer) -> bytes:
    status, kind, body = answer
    phrase = HTTPStatus(status).phrase
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (b"" if method == "HEAD" else body)

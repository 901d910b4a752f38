"""Fetching from other people's servers: what comes back, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pileus.host.web import Unreachable, fetch

Scene = Callable[[str], Awaitable[None]]


def answered(content: bytes, scene: Scene, *, hang: bool = False) -> list[bytes]:
    """Runs the scene against a server that answers these bytes; what it was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = 4 if b"content-length: 4" in head.lower() else 0
        asked.append(head + await reader.readexactly(length))
        writer.write(content)
        await writer.drain()
        if hang:
            await asyncio.sleep(30)
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            await scene(f"http://127.0.0.1:{port}/where?q=1")
        finally:
            server.close()

    asyncio.run(run())
    return asked


def test_an_answer_in_pieces_is_put_together() -> None:
    async def scene(url: str) -> None:
        reply = await fetch(url, headers={"authorization": "Bearer x"})
        assert (reply.status, reply.headers["x-a"], reply.content) == (200, "b", b"hello")

    chunked = (
        b"HTTP/1.1 200 OK\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
    )
    asked = answered(chunked, scene)
    assert asked[0].startswith(b"GET /where?q=1 HTTP/1.1\r\n") and b"Bearer x" in asked[0]


def test_what_is_posted_arrives_and_a_redirect_is_not_followed() -> None:
    async def scene(url: str) -> None:
        reply = await fetch(url, data=b"a=b!")
        assert reply.status == 302 and reply.headers["location"] == "http://elsewhere/"

    moved = b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n"
    asked = answered(moved, scene)
    assert asked[0].startswith(b"POST") and asked[0].endswith(b"a=b!")


@pytest.mark.parametrize(
    "content",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"no HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000,
    ],
    ids=["broken off", "nonsense", "too long"],
)
def test_what_is_no_answer_is_said(content: bytes) -> None:
    async def scene(url: str) -> None:
        with pytest.raises(Unreachable):
            await fetch(url, limit=1000)

    answered(content, scene)


def test_a_server_that_hangs_costs_the_time_given_and_no_more() -> None:
    async def scene(url: str) -> None:
        with pytest.raises(Unreachable, match="TimeoutError"):
            await fetch(url, timeout_s=0.1)

    answered(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", scene, hang=True)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://", "gopher://x/"])
def test_only_web_addresses_are_fetched(url: str) -> None:
    with pytest.raises(Unreachable):
        asyncio.run(fetch(url))

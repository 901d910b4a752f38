"""What is fetched for a tenant, and what is refused before a packet is sent."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pileus.host import downloads
from pileus.kernel.faults import Fault, Invalid, Unavailable
from pileus.testing.web import web_server

PRIVATE = (
    "127.0.0.1",
    "localhost",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "2130706433",
    "0x7f000001",
    "0177.1",
    "127.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[fd00::1]",
    "[fe80::1]",
    "[fec0::1]",
)
UNREADABLE = (
    "",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "ftp://8.8.8.8/",
    "http:///path",
    "http://8.8.8.8:8080/",
    "https://8.8.8.8:22/",
    "http://me:secret@8.8.8.8/",
    "http://8.8.8.8/; touch /tmp/x\n",
    "http://8.8.8.8:port/",
    "http://8.8.8.8/" + "x" * 2048,
)


async def fetched(url: str, *trusted: str) -> bytes:
    async with downloads.opened(url, frozenset(trusted)) as download:
        return b"".join([chunk async for chunk in download.chunks()])


def names(monkeypatch: pytest.MonkeyPatch, *answers: str) -> None:
    """Every name has these addresses, one after the other; the last one for ever."""
    left = list(answers)

    async def answer(self: Any, host: Any, port: int, **hints: Any) -> Any:
        address = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", answer)


@pytest.mark.parametrize("host", PRIVATE)
def test_ossa_2026_004_what_is_not_on_the_internet_is_refused(host: str) -> None:
    with pytest.raises(Invalid, match="does not pass filtering"):
        asyncio.run(fetched(f"http://{host}/latest/meta-data"))


@pytest.mark.parametrize("url", UNREADABLE)
def test_ossa_2025_001_only_the_web_is_fetched_from_and_by_its_own_ports(url: str) -> None:
    with pytest.raises(Invalid, match="does not pass filtering"):
        asyncio.run(fetched(url))


def test_what_a_trusted_server_gives_arrives() -> None:
    with web_server({"/image": b"bytes" * 100_000}) as web:
        assert asyncio.run(fetched(web.url(), web.origin)) == b"bytes" * 100_000
        with pytest.raises(Invalid, match="answered 404"):
            asyncio.run(fetched(web.url("/gone"), web.origin))
        with pytest.raises(Invalid, match="does not pass filtering"):
            asyncio.run(fetched(web.url()))
        assert web.asked == ["/image", "/gone"]


def test_ossa_2026_004_each_redirect_is_looked_at_like_the_first_url() -> None:
    with web_server({"/image": b"secret"}) as inside, web_server({}) as web:
        web.pages |= {
            "/inside": inside.url(),
            "/metadata": "http://169.254.169.254/",
            "/file": "file:///etc/passwd",
            "/loop": web.url("/loop"),
            "/relative": "/image",
            "/image": b"ours",
        }
        for path in ("/inside", "/metadata", "/file"):
            with pytest.raises(Invalid, match="does not pass filtering"):
                asyncio.run(fetched(web.url(path), web.origin))
        with pytest.raises(Invalid, match="redirects"):
            asyncio.run(fetched(web.url("/loop"), web.origin))
        assert asyncio.run(fetched(web.url("/relative"), web.origin)) == b"ours"
        assert inside.asked == []


def test_ossa_2026_038_a_name_is_asked_for_once_and_its_address_is_what_is_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connected: list[str] = []

    async def connect(host: str, port: int, **more: Any) -> Any:
        connected.append(host)
        raise ConnectionRefusedError

    names(monkeypatch, "93.184.215.14", "127.0.0.1")
    monkeypatch.setattr(asyncio, "open_connection", connect)
    with pytest.raises(Unavailable):
        asyncio.run(fetched("http://rebinding.example/"))
    assert connected == ["93.184.215.14"]
    with pytest.raises(Invalid):
        asyncio.run(fetched("http://rebinding.example/"))
    assert connected == ["93.184.215.14"]


async def answering(answer: bytes, check: Callable[[str], Awaitable[object]]) -> None:
    """A server that says only this, and then hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        await check(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000 + b"\r\n",
    ],
    ids=["nothing", "half", "half of chunks", "not HTTP", "endless headers"],
)
def test_an_answer_that_breaks_off_is_no_answer(answer: bytes) -> None:
    async def check(origin: str) -> None:
        with pytest.raises(Fault) as refused:
            await fetched(origin + "/image", origin)
        assert isinstance(refused.value, Unavailable)

    asyncio.run(answering(answer, check))


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    async def check(origin: str) -> None:
        assert await fetched(origin + "/image", origin) == b"whole"

    asyncio.run(answering(b"HTTP/1.0 200 OK\r\n\r\nwhole", check))

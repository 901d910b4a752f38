"""The guests' HTTP server over a loopback socket."""

from __future__ import annotations

import asyncio
import socket

from pileus.host.metadata import (
    LONGEST_BODY,
    LONGEST_HEAD,
    MOST_CONNECTIONS,
    Answer,
    MetadataServer,
    Request,
)


async def echo(peer: str, request: Request) -> Answer:
    return (
        200,
        "text/plain",
        request.body or f"{peer} {request.path} {request.headers.get('x-thing', '')}".encode(),
    )


async def _exchange(sent: bytes, *, crowd: int = 0) -> bytes:
    listening = socket.create_server(("127.0.0.1", 0))
    server = MetadataServer(echo)
    await server.start(listening)
    port = listening.getsockname()[1]
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(crowd)]
    await asyncio.sleep(0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        return await asyncio.wait_for(reader.read(), 3)
    except ConnectionResetError:
        return b""
    finally:
        for _, other in (*held, (reader, writer)):
            other.close()
        await server.close()


def exchange(sent: bytes, *, crowd: int = 0) -> bytes:
    return asyncio.run(_exchange(sent, crowd=crowd))


def test_the_handler_sees_peer_path_and_headers() -> None:
    answer = exchange(b"GET /a%2Fb?c HTTP/1.1\r\nX-Thing: y\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert body == b"127.0.0.1 /a%2Fb?c y"


def test_head_has_the_length_and_no_body() -> None:
    answer = exchange(b"HEAD / HTTP/1.1\r\n\r\n")
    assert b"Content-Length: 12" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_a_post_hands_on_its_body_if_that_is_small() -> None:
    answer = exchange(b"POST /x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\nabc")
    assert exchange(b"POST /x HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 411 ")
    long = f"POST /x HTTP/1.1\r\nContent-Length: {LONGEST_BODY + 1}\r\n\r\n".encode()
    assert exchange(long).startswith(b"HTTP/1.1 413 ")


def test_other_methods_nonsense_and_long_heads_are_refused() -> None:
    assert exchange(b"DELETE / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 405 ")
    assert exchange(b"\x16\x03\x01 what\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    endless = b"GET / HTTP/1.1\r\nX: " + b"y" * (2 * LONGEST_HEAD)
    assert exchange(endless).startswith(b"HTTP/1.1 431 ")


def test_a_crowd_of_idle_connections_does_not_grow_without_bound() -> None:
    assert exchange(b"GET / HTTP/1.1\r\n\r\n", crowd=MOST_CONNECTIONS + 5) == b""

"""Long bodies over real sockets: what comes in past uvicorn's parser, and files that go out unread."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from pileus.kernel.resources import ZERO_COPY
from pileus.kernel.world import World
from pileus.node.server import Server, listen_on

MIB = 1 << 20
Loop = Callable[[], asyncio.AbstractEventLoop]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
LOOPS = pytest.mark.parametrize(
    "loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"]
)

FORMS = pytest.mark.parametrize("chunk", [0, 1 << 16], ids=["counted", "chunked"])


class App:
    """Answers with how many bytes it read, and the pieces; or with a file, where the path is /file."""

    def __init__(self, data: bytes = b"", stop_after: int = 1 << 40) -> None:
        self.data, self.stop_after = data, stop_after
        self.pieces: list[bytes] = []
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_broken = False
        self.came, self.go_on, self.over = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.go_on.set()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.headers = scope["headers"]
        if scope["path"] == "/file":
            await self._give(send)
        else:
            await self._take(receive, send)
        self.over.set()

    async def _take(self, receive: Any, send: Any) -> None:
        more, got = True, 0
        while more and got < self.stop_after:
            event = await receive()
            if event["type"] == "http.disconnect":
                self.is_broken = True
                return
            self.pieces.append(event["body"])
            got, more = got + len(event["body"]), event["more_body"]
            if got >= MIB:
                self.came.set()
            await self.go_on.wait()
        text = str(got).encode()
        headers = [(b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    async def _give(self, send: Any) -> None:
        headers = [(b"content-length", str(len(self.data) - 7).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        with tempfile.TemporaryFile() as file:
            file.write(self.data)
            file.flush()
            part = {"file": file, "offset": 7, "count": len(self.data) - 7}
            await send({"type": ZERO_COPY, **part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def served(app: App) -> AsyncIterator[Streams]:
    """A connection to a server of that application."""
    sock, stop, ready = listen_on("127.0.0.1:0"), asyncio.Event(), asyncio.Event()

    async def say() -> None:
        ready.set()

    running = asyncio.create_task(Server(app, sock, World()).run(stop, say))
    await ready.wait()
    reader, writer = await asyncio.open_connection(*sock.getsockname(), limit=4 * MIB)
    try:
        yield reader, writer
    finally:
        writer.close()
        stop.set()
        await running
        sock.close()


def in_loop(loop: Loop, act: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20):
            await act()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


def put(data: bytes, chunk: int = 0) -> bytes:
    """A request with that body, in chunks of that size unless it is 0."""
    if not chunk:
        return head(f"Content-Length: {len(data)}") + data
    parts = (data[at : at + chunk] for at in range(0, len(data), chunk))
    return CHUNKED + b"".join(chunked(part, b";n=v") for part in parts) + b"0\r\nX-Sum: 1\r\n\r\n"


def head(header: str) -> bytes:
    return f"PUT / HTTP/1.1\r\nHost: h\r\n{header}\r\n\r\n".encode()


def chunked(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


CHUNKED = head("Transfer-Encoding: chunked")


async def answer(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert head.startswith(b"http/1.1 200")
    return await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r")[0]))


@LOOPS
@pytest.mark.parametrize("extra", [0, 1, MIB - 1])
@pytest.mark.parametrize("chunk", [0, 1 << 14, 100_000, 4 * MIB])
def test_a_long_body_arrives_whole_and_the_requests_behind_it_too(
    loop: Loop, extra: int, chunk: int
) -> None:
    data = os.urandom(5 * MIB + extra)

    async def act() -> None:
        app, last = App(), data[: 2 * MIB]
        async with served(app) as (reader, writer):
            writer.write(put(data, chunk) + put(b"abc") + put(last, chunk) + put(b"abc", 2))
            assert [await answer(reader) for _ in range(4)] == [
                str(n).encode() for n in (len(data), 3, 2 * MIB, 3)
            ]
        assert b"".join(app.pieces) == data + b"abc" + last + b"abc"
        assert len(app.pieces) < 30  # not one for every read

    in_loop(loop, act)


@LOOPS
@FORMS
def test_a_body_that_breaks_off_is_a_broken_connection(loop: Loop, chunk: int) -> None:
    async def act() -> None:
        app = App()
        async with served(app) as (_, writer):
            writer.write(put(bytes(9 * MIB), chunk)[: 4 * MIB])
            await writer.drain()
            writer.close()
            await app.over.wait()
        assert app.is_broken

    in_loop(loop, act)


@LOOPS
@pytest.mark.parametrize(
    "wrong",
    [
        *(b"x\r\n", b"-1\r\n", b"0x1\r\n", b"\r\n", b"1 0\r\n", b"1\n", b"%x\r\n" % (1 << 64)),
        *(b"3\r\nabcd\r\n", b"3\r\nabc\n", b"3;n\n", b"0\r\nX Y: 1\r\n\r\n", b"0\r\nX\r\n\r\n"),
    ],
)
@pytest.mark.parametrize("before", [0, 3 * MIB])
def test_a_chunk_that_is_none_ends_the_connection(loop: Loop, wrong: bytes, before: int) -> None:
    """And what follows is no request, whatever another server on the way took it for."""

    async def act() -> None:
        app = App()
        async with served(app) as (reader, writer):
            good = chunked(bytes(before)) if before else b""
            writer.write(CHUNKED + good + wrong + b"0\r\n\r\n" + put(b"next"))
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 400 ")
            assert b"HTTP/1.1" not in await reader.read()
            await app.over.wait()
        assert app.is_broken
        assert b"next" not in app.pieces

    in_loop(loop, act)


@pytest.mark.parametrize(
    "header",
    [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
        "Content-Length: 3\r\nContent-Length: 5",
        "Content-Length: +3",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding : chunked",
    ],
)
def test_a_body_whose_end_can_be_told_in_two_ways_is_refused(header: str) -> None:
    async def act() -> None:
        app = App()
        async with served(app) as (reader, writer):
            writer.write(head(header) + chunked(b"abc") + b"0\r\n\r\n" + put(b"abc"))
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 400 ")
            assert b"HTTP/1.1" not in await reader.read()
        assert app.pieces == []

    in_loop(uvloop.new_event_loop, act)


@LOOPS
@pytest.mark.parametrize(
    "begun",
    [
        *(b"GET /", b"GET / HTTP/1.1\r\nX: ", CHUNKED + b"0\r\nX: ", CHUNKED + b"1;x="),
        CHUNKED + chunked(bytes(3 * MIB)) + b"0\r\nX: ",
    ],
)
def test_what_never_becomes_a_head_or_a_trailer_ends_the_connection(
    loop: Loop, begun: bytes
) -> None:
    """Before its sender is known, or is asked who he is."""

    async def act() -> None:
        async with served(App()) as (_, writer):
            writer.write(begun)
            with contextlib.suppress(ConnectionError):
                for _ in range(64):
                    writer.write(b"x" * MIB)
                    await writer.drain()
                pytest.fail("64 MiB were taken")

    in_loop(loop, act)


def test_what_stands_behind_a_chunked_body_is_no_header() -> None:
    async def act() -> None:
        app = App()
        async with served(app) as (reader, writer):
            writer.write(CHUNKED + chunked(b"abc") + b"0\r\nX-Auth-Token: t\r\n\r\n")
            assert await answer(reader) == b"3"
        assert dict(app.headers) == {b"host": b"h", b"transfer-encoding": b"chunked"}

    in_loop(uvloop.new_event_loop, act)


@LOOPS
@FORMS
def test_a_body_refused_half_way_is_dropped_and_the_connection_goes_on(
    loop: Loop, chunk: int
) -> None:
    async def act() -> None:
        app = App(stop_after=2 * MIB)
        async with served(app) as (reader, writer):
            writer.write(put(bytes(9 * MIB), chunk) + put(b"abc"))
            assert 2 * MIB <= int(await answer(reader)) < 4 * MIB
            assert await answer(reader) == b"3"

    in_loop(loop, act)


@LOOPS
@FORMS
def test_what_comes_slowly_is_not_held_back_until_a_piece_is_full(loop: Loop, chunk: int) -> None:
    data = bytes(MIB) + b"x" * 2 * MIB
    sent = put(data, chunk)
    first = sent.index(b"x" * 100)

    async def act() -> None:
        app = App()
        async with served(app) as (reader, writer):
            writer.write(sent[:first])
            await app.came.wait()
            writer.write(sent[first:])
            assert await answer(reader) == str(3 * MIB).encode()
        assert b"".join(app.pieces) == data

    in_loop(loop, act)


@LOOPS
@FORMS
def test_whoever_sends_faster_than_is_read_waits(loop: Loop, chunk: int) -> None:
    async def act() -> None:
        app = App()
        async with served(app) as (reader, writer):
            app.go_on.clear()
            writer.write(put(bytes(64 * MIB), chunk))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(writer.drain(), 1)
            assert sum(map(len, app.pieces)) <= 2 * MIB
            app.go_on.set()
            assert await answer(reader) == str(64 * MIB).encode()

    in_loop(loop, act)


@LOOPS
def test_a_part_of_a_file_is_sent_whole_and_the_connection_goes_on(loop: Loop) -> None:
    data = os.urandom(40 * MIB)

    async def act() -> None:
        async with served(App(data)) as (reader, writer):
            for _ in range(2):
                writer.write(b"GET /file HTTP/1.1\r\nHost: h\r\n\r\n")
                assert await answer(reader) == data[7:]

    in_loop(loop, act)


@LOOPS
def test_receivers_that_leave_end_the_sending_and_nothing_stays_open(loop: Loop) -> None:
    async def leave() -> int:
        app = App(bytes(64 * MIB))
        async with served(app) as (reader, writer):
            writer.write(b"GET /file HTTP/1.1\r\nHost: h\r\n\r\n")
            await reader.readexactly(MIB)
            await asyncio.sleep(0.1)  # the sender waits for room
            writer.transport.abort()
            await app.over.wait()
        return len(os.listdir("/proc/self/fd"))

    async def act() -> None:
        first = await leave()
        assert [await leave() for _ in range(3)] == [first] * 3

    in_loop(loop, act)

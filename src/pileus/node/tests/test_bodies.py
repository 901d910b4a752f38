"""Long bodies over real sockets: what comes in past uvicorn's parser, and files that go out unread."""

from __future__ import annotations

import asyncio
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


class App:
    """Answers with how many bytes it read, and the pieces; or with a file, where the path is /file."""

    def __init__(self, data: bytes = b"", stop_after: int = 1 << 40) -> None:
        self.data, self.stop_after = data, stop_after
        self.pieces: list[bytes] = []
        self.is_broken = False
        self.came, self.go_on, self.over = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.go_on.set()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
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


def put(length: int) -> bytes:
    return f"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n".encode()


async def answer(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert head.startswith(b"http/1.1 200")
    return await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r")[0]))


@LOOPS
@pytest.mark.parametrize("extra", [0, 1, MIB - 1])
def test_a_long_body_arrives_whole_and_the_requests_behind_it_too(loop: Loop, extra: int) -> None:
    data = os.urandom(5 * MIB + extra)

    async def act() -> None:
        app = App()
        async with served(app) as (reader, writer):
            writer.write(put(len(data)) + data + put(3) + b"abc" + put(2 * MIB) + data[: 2 * MIB])
            assert [await answer(reader) for _ in range(3)] == [
                str(n).encode() for n in (len(data), 3, 2 * MIB)
            ]
        assert b"".join(app.pieces) == data + b"abc" + data[: 2 * MIB]
        assert len(app.pieces) < 30  # not one for every read

    in_loop(loop, act)


@LOOPS
def test_a_body_that_breaks_off_is_a_broken_connection(loop: Loop) -> None:
    async def act() -> None:
        app = App()
        async with served(app) as (_, writer):
            writer.write(put(9 * MIB) + bytes(4 * MIB))
            await writer.drain()
            writer.close()
            await app.over.wait()
        assert app.is_broken

    in_loop(loop, act)


@LOOPS
def test_a_body_refused_half_way_is_dropped_and_the_connection_goes_on(loop: Loop) -> None:
    async def act() -> None:
        app = App(stop_after=2 * MIB)
        async with served(app) as (reader, writer):
            writer.write(put(9 * MIB) + bytes(9 * MIB) + put(3) + b"abc")
            assert 2 * MIB <= int(await answer(reader)) < 4 * MIB
            assert await answer(reader) == b"3"

    in_loop(loop, act)


@LOOPS
def test_what_comes_slowly_is_not_held_back_until_a_piece_is_full(loop: Loop) -> None:
    async def act() -> None:
        app = App()
        async with served(app) as (reader, writer):
            writer.write(put(3 * MIB) + bytes(MIB))
            await app.came.wait()
            writer.write(b"x" * 2 * MIB)
            assert await answer(reader) == str(3 * MIB).encode()
        assert b"".join(app.pieces) == bytes(MIB) + b"x" * 2 * MIB

    in_loop(loop, act)


@LOOPS
def test_whoever_sends_faster_than_is_read_waits(loop: Loop) -> None:
    async def act() -> None:
        app = App()
        async with served(app) as (reader, writer):
            app.go_on.clear()
            writer.write(put(64 * MIB) + bytes(64 * MIB))
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

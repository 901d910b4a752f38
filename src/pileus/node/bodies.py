"""Long bodies on their short way between a socket and whoever writes or reads a file.

uvicorn copies a body four times in pieces of a read, each a turn of the loop; here what remains of one comes in pieces of a
mebibyte: straight into them where its length is known, by the parser where it is chunked. A part of a file, as an answer,
goes from the kernel's cache to the socket (ASGI's extension `http.response.zerocopysend`). Everything else, and everything
under TLS, is uvicorn's own.
"""

from __future__ import annotations

import asyncio
import os
import select
from typing import IO, Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pileus.kernel.resources import ZERO_COPY

_PIECE = 1 << 20
_READ = 1 << 18  # at once of a chunked body: it stays in a processor's cache until it is parsed
_TURN = 32 << 20  # bytes that a thread sends before others have it
_HEAD = 1 << 16  # bytes that may come before they make a head, a piece of a body or an end
_PAUSE_MS = 20  # without room in the socket: then the thread is for others
_PATIENCE_S = 0.5  # a reader gets less than a piece rather than nothing for longer
_EXTENSIONS: dict[str, Any] = {ZERO_COPY: {}}


class Connection(HttpToolsProtocol):
    chunks: _Chunks | None = None  # of the request that is being parsed
    idle = 0  # bytes that have made nothing yet: the parser keeps them all

    def data_received(self, data: bytes) -> None:
        self.idle += len(data)
        super().data_received(data)
        if self.idle > _HEAD and not self.transport.is_closing():
            self.send_400_response(f"More than {_HEAD} bytes without an end of the headers.")

    def on_headers_complete(self) -> None:
        self.idle = 0
        self.scope["headers"] = self.headers.copy()  # trailers are none of them: RFC 9112, 7.1.2
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self.idle = 0
        if self.chunks is None:
            super().on_body(body)
        else:
            self.chunks.take(body)

    def on_message_complete(self) -> None:
        self.idle = 0
        if self.chunks is not None:
            self.chunks = None
            self.transport.set_protocol(self)
        super().on_message_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if self.scheme == "http":
            app = _Exchange(self, cycle, app)
        super()._start_asgi_task(cycle, app)


class _Exchange:
    """ASGI: one request and its answer, whose bodies go the short way where there is one."""

    def __init__(self, connection: Connection, cycle: Any, app: Any) -> None:
        self.connection, self.cycle, self.app = connection, cycle, app
        self.inflow: _Inflow | None = None
        self.is_begun = False

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        scope["extensions"] = _EXTENSIONS
        await self.app(scope, self.receive, self.send)

    async def receive(self) -> Any:
        if self.inflow is not None and (piece := await self.inflow.next()):
            return {"type": "http.request", "body": piece, "more_body": self.cycle.more_body}
        event = await self.cycle.receive()
        if not self.is_begun and event["type"] == "http.request" and event["more_body"]:
            self.is_begun = True
            self.inflow = self._inflow(len(event["body"]))
        return event

    def _inflow(self, seen: int) -> _Inflow | None:
        headers = dict(self.cycle.scope["headers"])
        if b"upgrade" in headers or self.connection.transport.is_closing():
            return None  # something else may follow, or nothing
        if b"transfer-encoding" in headers:
            return _Chunks(self.connection, self.cycle)
        left = int(headers.get(b"content-length", 0)) - seen
        return _Counted(self.connection, self.cycle, left) if left >= _PIECE else None

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == ZERO_COPY:
            await self._send_file(message["file"], message["offset"], message["count"])
        else:
            await self.cycle.send(message)

    async def _send_file(self, file: IO[bytes], at: int, count: int) -> None:
        cycle, transport = self.cycle, self.connection.transport
        if count > cycle.expected_content_length:
            raise RuntimeError(f"{count} bytes are more than Content-Length said.")
        cycle.expected_content_length -= count
        if not transport.is_closing():
            transport.set_write_buffer_limits(0)  # until the headers are out, writing is paused
            await cycle.flow.drain()
        if transport.is_closing():
            return
        transport.set_write_buffer_limits()
        out = os.dup(transport.get_extra_info("socket").fileno())  # ours, even if that is closed
        try:
            while count and not cycle.disconnected:
                sent = await _to_its_end(_send_some, out, file.fileno(), at, count)
                at, count = at + sent, count - sent
                if count:
                    await _writable(out)
        except (ConnectionError, TimeoutError):  # uvicorn finds out, and stops the rest
            transport.abort()
        finally:
            os.close(out)


class _Inflow(asyncio.BufferedProtocol):
    """Takes the connection's place until the body has come in; a piece waits in it, what follows in the socket."""

    piece: bytearray
    at = full = 0  # how much of the piece there is, and may be

    def __init__(self, connection: Connection, cycle: Any) -> None:
        self.connection, self.cycle = connection, cycle
        self._begin()
        connection.transport.set_protocol(self)

    def _begin(self) -> None:
        """An empty piece."""
        raise NotImplementedError

    async def next(self) -> bytearray:
        """A piece that is full, or what there is after a while; nothing if no more comes."""
        cycle = self.cycle
        while cycle.more_body and self.at < self.full and not cycle.disconnected:
            cycle.message_event.clear()
            cycle.flow.resume_reading()
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    await cycle.message_event.wait()
            except TimeoutError:
                if self.at:
                    break
        if cycle.disconnected or cycle.response_complete:
            return bytearray()
        found = self.piece
        del found[self.at :]
        self._begin()
        return found

    def _wait_if_full(self) -> None:
        if self.at >= self.full:
            self.cycle.flow.pause_reading()
            self.cycle.message_event.set()

    # What a transport calls

    def eof_received(self) -> None:
        self.connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.connection.connection_lost(exc)

    def pause_writing(self) -> None:
        self.connection.pause_writing()

    def resume_writing(self) -> None:
        self.connection.resume_writing()


class _Counted(_Inflow):
    """Whose length is known: the parser sees no more of it."""

    def __init__(self, connection: Connection, cycle: Any, left: int) -> None:
        self.left = left
        super().__init__(connection, cycle)

    def _begin(self) -> None:
        self.full, self.at = min(self.left, _PIECE), 0
        self.piece = bytearray(self.full)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self.cycle.response_complete:  # nobody asks for the rest
            self.at = 0
        return memoryview(self.piece)[self.at : self.at + self.left]

    def buffer_updated(self, nbytes: int) -> None:
        self.at += nbytes
        self.left -= nbytes
        if self.cycle.response_complete:  # whoever still sends is not idle
            self.connection._unset_keepalive_if_required()
        if not self.left:
            self._end()
        elif not self.cycle.response_complete:
            self._wait_if_full()

    def _end(self) -> None:
        connection = self.connection
        parser = connection.parser = httptools.HttpRequestParser(connection)  # the old one waits on
        parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        connection.transport.set_protocol(connection)
        connection.on_message_complete()


class _Chunks(_Inflow):
    """Whose length nobody knows: the parser says which bytes are its own, and where it ends."""

    full = _PIECE

    def __init__(self, connection: Connection, cycle: Any) -> None:
        self.read = bytearray(_READ)
        super().__init__(connection, cycle)
        connection.chunks = self

    def _begin(self) -> None:
        self.piece, self.at = bytearray(_PIECE + _READ), 0

    def take(self, body: bytes) -> None:
        if not self.cycle.response_complete:
            self.piece[self.at : self.at + len(body)] = body
            self.at += len(body)
            self._wait_if_full()

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self.read)

    def buffer_updated(self, nbytes: int) -> None:
        read: Any = memoryview(self.read)[:nbytes]
        self.connection.data_received(read)


def _send_some(out: int, file: int, at: int, count: int) -> int:
    """How many bytes went out before the socket had no room for a while. Raises ConnectionError."""
    waiting, sent = select.poll(), 0
    waiting.register(out, select.POLLOUT)
    while sent < min(count, _TURN) and waiting.poll(_PAUSE_MS):
        try:
            some = os.sendfile(out, file, at + sent, count - sent)
        except BlockingIOError:
            continue
        if not some:
            raise ConnectionError("The file has fewer bytes than were announced.")
        sent += some
    return sent


async def _to_its_end(act: Any, *given: int) -> int:
    """In a thread; descriptors are its own until it has returned, whoever cancels us."""
    turn = asyncio.ensure_future(asyncio.to_thread(act, *given))
    try:
        return int(await asyncio.shield(turn))
    finally:
        await asyncio.wait([turn])


async def _writable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    can = asyncio.Event()
    loop.add_writer(descriptor, can.set)
    try:
        await can.wait()
    finally:
        loop.remove_writer(descriptor)

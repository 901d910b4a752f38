"""A web server that gives what was put on it and takes what is sent to it."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

_FIRST, _CHUNK = 4 << 20, 1 << 20


class Shelf:
    """`takes`: a URL to send to; `sent`: how many bytes came each time, and the first of them."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes]] = []
        self._given: dict[str, tuple[bytes, str]] = {}
        self._names = count()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler)

    def offer(self, data: bytes, kind: str = "application/octet-stream") -> str:
        """A URL that gives these bytes."""
        path = f"/{next(self._names)}"
        self._given[path] = data, kind
        return f"{self._url}{path}"

    @property
    def takes(self) -> str:
        return f"{self._url}/takes"

    @property
    def _url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def _handler(self, *arguments: Any) -> _Handler:
        return _Handler(self, *arguments)

    def give(self, path: str) -> tuple[bytes, str] | None:
        return self._given.get(path)


class _Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, shelf: Shelf, *arguments: Any) -> None:
        self._shelf = shelf
        super().__init__(*arguments)

    def do_GET(self) -> None:
        given = self._shelf.give(self.path)
        data, kind = given or (b"", "text/plain")
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        self.send_response(404 if given is None else 206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {asked[1]}-{asked[2]}/{len(data)}")
            data = data[int(asked[1]) : int(asked[2]) + 1]
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_PUT(self) -> None:
        size, first = 0, b""
        for length in self._lengths():
            while length:
                data = self.rfile.read(min(length, _CHUNK))
                first += data[: _FIRST - len(first)]
                size += len(data)
                length -= len(data)
        self._shelf.sent.append((size, first))
        self.send_response(204)
        self.end_headers()

    def _lengths(self) -> Iterator[int]:
        """Of the parts that the body comes in; each must be read before the next one is asked for."""
        if "Content-Length" in self.headers:
            yield int(self.headers["Content-Length"])
            return
        while length := int(self.rfile.readline(), 16):
            yield length
            self.rfile.readline()
        self.rfile.readline()

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: the test's output is for failures."""


@contextmanager
def shelf() -> Iterator[Shelf]:
    made = Shelf()
    serving = threading.Thread(target=made._server.serve_forever, args=(0.02,), daemon=True)
    serving.start()
    try:
        yield made
    finally:
        made._server.shutdown()
        made._server.server_close()
        serving.join()

"""Somebody's web server, in a thread: for tests of what a cloud fetches from others."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Web:
    """`pages`: the path -> its bytes, or the URL that it redirects to. `asked`: the paths that somebody asked for."""

    origin: str
    pages: dict[str, bytes | str]
    asked: list[str] = field(default_factory=list)

    def url(self, path: str = "/image") -> str:
        return self.origin + path


@contextmanager
def web_server(pages: Mapping[str, bytes | str], address: str = "127.0.0.1") -> Iterator[Web]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.asked.append(self.path)
            page = web.pages.get(self.path.partition("?")[0])
            if isinstance(page, str):
                self.send_response(302)
                self.send_header("Location", page)
                page = b""
            else:
                self.send_response(200 if page is not None else 404)
            self.send_header("Content-Length", str(len(page or b"")))
            self.end_headers()
            self.wfile.write(page or b"")

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer((address, 0), Handler)
    web = Web(f"http://{address}:{server.server_port}", dict(pages))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

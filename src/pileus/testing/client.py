"""An HTTP client that calls an ASGI application in this process: no sockets, so it works in simulation too."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import msgspec

from pileus.kernel.faults import Conflict


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    def __repr__(self) -> str:
        return f"<{self.status} {self.body[:300]!r}>"


class Client:
    """`headers` go with every request."""

    def __init__(
        self, app: Any, headers: Mapping[str, str] | None = None, host: str = "cloud.test:5000"
    ) -> None:
        self.app, self.host, self.headers = app, host, dict(headers or {})
        self.project_id = self.user_id = ""

    def as_(self, token: str) -> Client:
        """The same client with another token."""
        return Client(self.app, {**self.headers, "x-auth-token": token}, self.host)

    async def get(self, url: str, **headers: str) -> Reply:
        return await self.request("GET", url, headers=headers)

    async def post(self, url: str, document: Any = None, **headers: str) -> Reply:
        return await self.request("POST", url, document, headers=headers)

    async def put(self, url: str, document: Any = None, **headers: str) -> Reply:
        return await self.request("PUT", url, document, headers=headers)

    async def patch(self, url: str, document: Any = None, **headers: str) -> Reply:
        return await self.request("PATCH", url, document, headers=headers)

    async def delete(self, url: str, **headers: str) -> Reply:
        return await self.request("DELETE", url, headers=headers)

    async def deliver(self, path: str, data: bytes) -> None:
        """Bytes to a path that takes them, as a host sends them. Raises Conflict if it does not."""
        kind = {"content-type": "application/octet-stream"}
        reply = await self.request("PUT", path, raw=data, headers=kind)
        if reply.status != 204:
            raise Conflict(f"{reply}")

    async def request(
        self,
        method: str,
        url: str,
        document: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Reply:
        """`document` is sent as JSON, `raw` as it is. Header names may be written with underscores."""
        path, _, query = url.removeprefix(f"http://{self.host}").partition("?")
        body = (
            raw
            if raw is not None
            else msgspec.json.encode(document)
            if document is not None
            else b""
        )
        sent = {"host": self.host, **self.headers}
        if raw is None and document is not None:
            sent["content-type"] = "application/json"
        if body:
            sent["content-length"] = str(len(body))
        sent |= {k.replace("_", "-").lower(): v for k, v in (headers or {}).items()}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(k.encode(), v.encode()) for k, v in sent.items()],
            "server": ("cloud.test", 5000),
            "client": ("127.0.0.1", 1),
        }
        return await _exchange(self.app, scope, _pieces(body))


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, max(1, len(body)), 1 << 16):
        yield body[at : at + (1 << 16)]


async def _exchange(app: Any, scope: dict[str, Any], pieces: AsyncIterator[bytes]) -> Reply:
    started: dict[str, Any] = {}
    parts: list[bytes] = []

    async def receive() -> dict[str, Any]:
        async for piece in pieces:
            return {"type": "http.request", "body": piece, "more_body": True}
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            started.update(message)
        else:
            parts.append(message.get("body", b""))

    await app(scope, receive, send)
    headers = {k.decode(): v.decode() for k, v in started["headers"]}
    return Reply(started["status"], headers, b"".join(parts))

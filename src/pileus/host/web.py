"""Fetching from other people's web servers: bounded in time and size, certificates checked, redirects not followed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

LIMIT = 1 << 20
TIMEOUT_S = 10.0
_CHUNK = 1 << 16


class Unreachable(Exception):
    """The server did not answer, or not as HTTP, in the time and size given."""


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]  # names in lower case
    content: bytes


async def fetch(
    url: str,
    *,
    data: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    ca_file: str = "",
    timeout_s: float = TIMEOUT_S,
    limit: int = LIMIT,
) -> Reply:
    """GET, or POST of `data`. `ca_file`: whose certificates count instead of the machine's. Raises Unreachable."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _exchange(url, data, headers or {}, ca_file, limit)
    except (OSError, ValueError, TimeoutError, h11.ProtocolError) as e:
        raise Unreachable(f"{url}: {type(e).__name__} {e}".rstrip()) from e


async def _exchange(
    url: str, data: bytes | None, headers: Mapping[str, str], ca_file: str, limit: int
) -> Reply:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("neither http nor https")
    secure = parts.scheme == "https"
    context = ssl.create_default_context(cafile=ca_file or None) if secure else None
    port = parts.port or (443 if secure else 80)
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=context)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        http = h11.Connection(h11.CLIENT)
        sent = {"host": parts.netloc.rpartition("@")[2], "connection": "close", **headers}
        if data is not None:
            sent["content-length"] = str(len(data))
        method = "GET" if data is None else "POST"
        request = h11.Request(method=method, target=path, headers=list(sent.items()))
        content = http.send(request) or b""
        content += http.send(h11.Data(data=data or b"")) or b""
        writer.write(content + (http.send(h11.EndOfMessage()) or b""))
        await writer.drain()
        return await _answer(reader, http, limit)
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader, http: h11.Connection, limit: int) -> Reply:
    status, headers, content = 0, dict[str, str](), bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(_CHUNK))
        elif isinstance(event, h11.Response):
            status = event.status_code
            headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in event.headers}
        elif isinstance(event, h11.Data):
            content += event.data
            if len(content) > limit:
                raise ValueError(f"the answer is longer than {limit} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return Reply(status, headers, bytes(content))
        elif isinstance(event, h11.ConnectionClosed):
            raise ValueError("the connection broke before the end of the answer")

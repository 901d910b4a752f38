"""Files sent from a host to control over HTTP, by a path that a ticket makes good."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from pileus.kernel.faults import Conflict, Invalid, Unavailable

_CHUNK = 1 << 20
_PATIENCE_S = 60  # without a byte


async def send(url: str, path: Path) -> None:
    """PUT a file. Raises Conflict where it is refused, with the answer; Unavailable when it broke off."""
    await asyncio.to_thread(_send_file, url, path)


async def send_bytes(url: str, data: bytes) -> None:
    await asyncio.to_thread(_put, url, iter([data]), len(data))


def _send_file(url: str, path: Path) -> None:
    with path.open("rb") as file:
        _put(url, _chunks(file), path.stat().st_size)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while data := file.read(_CHUNK):
        yield data


def _put(url: str, chunks: Iterator[bytes], size: int) -> None:
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
    with _connected(url) as (connection, path):
        connection.request("PUT", path, body=chunks, headers=headers)
        answer = connection.getresponse()
        words = answer.read(2000).decode(errors="replace")
    if answer.status >= 500:
        raise Unavailable("The image service did not take the bytes.", internal=words)
    if answer.status >= 300:
        raise Conflict(
            f"The image service refused the bytes: {answer.status} {answer.reason}.", internal=words
        )


@contextmanager
def _connected(url: str) -> Iterator[tuple[http.client.HTTPConnection, str]]:
    parts = urlsplit(url)
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    if parts.scheme not in kinds or not parts.hostname:
        raise Invalid(f"Bytes are sent over http or https, not to {parts.scheme}:.")
    connection = kinds[parts.scheme](parts.hostname, parts.port, timeout=_PATIENCE_S)
    try:
        yield connection, parts.path
    except (OSError, http.client.HTTPException) as reason:
        raise Unavailable("The bytes did not arrive.", internal=repr(reason)) from None
    finally:
        connection.close()

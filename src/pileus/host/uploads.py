"""Files sent between a host and control over HTTP, by a path that a ticket makes good.

Holes are left out where the other side knows of that: the query of a URL to send to says so, and the answer's type.
"""

from __future__ import annotations

import asyncio
import errno
import http.client
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from pileus.host import sparse
from pileus.kernel.faults import Conflict, Invalid, Unavailable

SPARSE = "sparse"  # the query
_CHUNK = 1 << 20
_PATIENCE_S = 60  # without a byte


async def send(url: str, path: Path, size: int = -1) -> int:
    """PUT a file, or its first `size` bytes; how many. Raises Conflict where it is refused, Unavailable."""
    return await asyncio.to_thread(_send_file, url, path, size)


async def send_bytes(url: str, data: bytes) -> None:
    await asyncio.to_thread(_put, url, iter([data]), len(data))


def _send_file(url: str, path: Path, size: int) -> int:
    with path.open("rb") as file:
        size, descriptor = path.stat().st_size if size < 0 else size, file.fileno()

        def read(at: int, count: int) -> bytes:
            return os.pread(descriptor, count, at)

        if urlsplit(url).query == SPARSE:
            runs = sparse.blocks(sparse.extents(descriptor, 0, size), size)
            _put(url, sparse.packed(runs, size, read))
        else:
            steps = range(0, size, _CHUNK)
            _put(url, (read(at, min(_CHUNK, size - at)) for at in steps), size)
    return size


def _put(url: str, chunks: Iterator[bytes], size: int = -1) -> None:
    """Of known size, or pieces of a sparse file."""
    headers = {"Content-Type": sparse.KIND}
    if size >= 0:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
    with _connected(url) as (connection, path):
        connection.request("PUT", path, body=chunks, headers=headers)
        answer = connection.getresponse()
        words = answer.read(2000).decode(errors="replace")
    if answer.status >= 500:
        raise Unavailable("The bytes were not taken at the moment.", internal=words)
    if answer.status >= 300:
        raise Conflict(f"The bytes were refused: {answer.status} {answer.reason}.", internal=words)


async def fetch(url: str, path: Path) -> None:
    """Fill an empty file with what the URL gives; zeros are holes. Raises Conflict for want of room, Unavailable."""
    await asyncio.to_thread(_fetch, url, path)


def _fetch(url: str, path: Path) -> None:
    with _connected(url) as (connection, where), path.open("r+b") as file:
        connection.request("GET", where, headers={"Accept": sparse.KIND})
        answer = connection.getresponse()
        if answer.status != 200:
            raise Unavailable("There are no such bytes any more.", internal=f"{answer.status}")
        cut = sparse.pieces(answer.headers["Content-Type"])
        while data := answer.read(_CHUNK):
            _write(file.fileno(), cut.feed(data))
        if answer.length:  # which `read` says nothing of
            raise http.client.IncompleteRead(b"", answer.length)
        _write(file.fileno(), cut.finish())
        os.truncate(file.fileno(), cut.size)
        os.fsync(file.fileno())


def _write(descriptor: int, pieces: Iterator[tuple[int, bytes]]) -> None:
    for at, piece in pieces:
        sparse.write(descriptor, at, piece)
        sparse.begin_writeback(descriptor, at, len(piece))


async def gathered(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """What arrives in about a mebibyte at a time: each is one turn in a thread."""
    parts: list[bytes] = []
    waiting = 0
    async for chunk in chunks:
        parts.append(chunk)
        waiting += len(chunk)
        if waiting >= _CHUNK:
            yield parts[0] if len(parts) == 1 else b"".join(parts)
            parts, waiting = [], 0
    if parts:
        yield b"".join(parts)


@contextmanager
def _connected(url: str) -> Iterator[tuple[http.client.HTTPConnection, str]]:
    parts = urlsplit(url)
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    if parts.scheme not in kinds or not parts.hostname:
        raise Invalid(f"Bytes go over http or https, not over {parts.scheme}:.")
    connection = kinds[parts.scheme](parts.hostname, parts.port, timeout=_PATIENCE_S)
    try:
        yield connection, parts.path
    except (OSError, http.client.HTTPException) as reason:
        if isinstance(reason, OSError) and reason.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Conflict("No room on this host for what is sent.") from None
        raise Unavailable("The bytes did not arrive.", internal=repr(reason)) from None
    finally:
        connection.close()

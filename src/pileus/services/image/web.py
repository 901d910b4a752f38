"""The store `web`: images whose bytes stay on other people's servers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Set
from dataclasses import dataclass
from typing import Any

from pileus.host import downloads
from pileus.host.images import inspect_bytes, needed
from pileus.kernel.faults import Invalid, Unavailable

from .record import Image


@dataclass
class WebBlob:
    """Bytes that are not those of the digest, where there is one, break off before their end."""

    url: str
    trusted: Set[str]
    size: int
    algo: str
    digest: str

    async def chunks(self, start: int, length: int) -> AsyncIterator[bytes]:
        whole = self.digest and (start, length) == (0, self.size)
        digest = hashlib.new(self.algo, usedforsecurity=False) if whole else None
        at, end = 0, start + length
        async with downloads.opened(self.url, self.trusted) as download:
            async for data in download.chunks():
                piece = data[max(0, start - at) : max(0, end - at)]
                at += len(data)
                if digest is not None:
                    await asyncio.to_thread(digest.update, piece)
                    if at >= end and digest.hexdigest() != self.digest:
                        raise Unavailable("The image's server gives other bytes than it did.")
                if piece:
                    yield piece
                if at >= end:
                    return
        raise Unavailable(f"The image's server gives {at} bytes; {end} were to come.")

    def close(self) -> None:
        """Nothing is open between two reads."""


async def measured(url: str, trusted: Set[str]) -> tuple[int, bytes]:
    """How many bytes are there, and the first of them. Raises Invalid, Unavailable."""
    async with downloads.opened(url, trusted) as download:
        if download.size < 0:
            raise Invalid(f"The server of {url} does not say how large it is.")
        head = b""
        async for data in download.chunks():
            head += data
            if len(head) >= needed(head):
                break
        return download.size, head


async def digests(url: str, trusted: Set[str], algo: str, limit: int) -> tuple[str, str]:
    """md5 and the digest by `algo` of all that is there. Raises Invalid for more than `limit`, Unavailable."""
    md5 = hashlib.md5(usedforsecurity=False)
    other = hashlib.new(algo, usedforsecurity=False)
    size = 0
    async with downloads.opened(url, trusted) as download:
        async for data in download.chunks():
            size += len(data)
            if size > limit:
                raise Invalid(f"The server of {url} gives more than {limit} bytes.")
            await asyncio.to_thread(md5.update, data)
            await asyncio.to_thread(other.update, data)
    return md5.hexdigest(), other.hexdigest()


def facts_of(image: Image, size: int, head: bytes) -> dict[str, Any]:
    """What the record says of bytes elsewhere, by the first of them."""
    facts = inspect_bytes(head, size)
    virtual = facts.virtual_size if facts.format == image.disk_format else 0
    return {
        "size": size,
        "virtual_size": virtual or None,
        "found_format": facts.format,
        "unsafe": facts.unsafe or "",
    }

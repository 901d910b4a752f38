"""Consoles in a browser: a websocket carried to the guest, whose host calls back with a ticket; and noVNC's files.

A token travels in the query string of one request and is never logged. Which pages may connect: those of this cloud,
and of the origins that the operator names.
"""

from __future__ import annotations

import asyncio
import logging
import mimetypes
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pileus.host import caches
from pileus.host.consoles_contract import CONSOLES, PAGE, SOCKET
from pileus.kernel.faults import Fault
from pileus.kernel.query import Query
from pileus.kernel.runtime import Runtime

log = logging.getLogger(__name__)
_FRONT, _HOSTS = "/console/", "/console/hosts/"
_PATIENCE_S = 15  # for a host to call
_BINARY = "binary"  # the subprotocol that viewers ask for
_ABSENT = b"""<!DOCTYPE html><html><head><title>A console</title></head><body><p>The files of noVNC are not on this
machine: <code>make setup</code> or the package <code>novnc</code> brings them. A noVNC elsewhere takes the websocket in
this page's <code>path</code>.</p></body></html>"""


@dataclass
class _Side:
    """One accepted websocket."""

    receive: Any
    send: Any
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> bytes | None:
        """The next message; None when the other side has gone."""
        event = await self.receive()
        if event["type"] != "websocket.receive":
            return None
        return event.get("bytes") or (event.get("text") or "").encode()

    async def carry_to(self, other: _Side) -> None:
        while (data := await self.read()) is not None:
            await other.send({"type": "websocket.send", "bytes": data})


class Consoles:
    """ASGI: answers what is below `/console/` and hands on the rest."""

    def __init__(self, app: Any, runtime: Runtime, origins: Sequence[str]) -> None:
        self.app, self.runtime, self.origins = app, runtime, frozenset(origins)
        places = (Path("/usr/share/novnc"), caches.novnc())
        page = PAGE.removeprefix(_FRONT)
        self.novnc = next((p for p in places if os.access(p / page, os.R_OK)), None)
        self._expected: dict[str, asyncio.Future[_Side]] = {}

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if not path.startswith(_FRONT):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._file(scope, send)
        elif (await receive())["type"] == "websocket.connect":
            side = _Side(receive, send)
            if path == SOCKET:
                await self._viewer(scope, side)
            else:
                await self._host(path.removeprefix(_HOSTS), side)

    # Viewers

    async def _viewer(self, scope: dict[str, Any], side: _Side) -> None:
        headers = {k: v.decode("latin-1") for k, v in scope["headers"]}
        try:
            guest = await self._called(headers, scope)
        except Fault as e:
            log.info("a console was refused: %s", e.internal or e.message)
            guest = None
        if guest is None:
            await side.send({"type": "websocket.close", "code": 1008})  # unaccepted: a 403
            return
        accept: dict[str, Any] = {"type": "websocket.accept"}
        if _BINARY in scope.get("subprotocols", ()):
            accept["subprotocol"] = _BINARY
        await side.send(accept)
        await _join(side, guest)

    async def _called(self, headers: dict[bytes, str], scope: dict[str, Any]) -> _Side | None:
        """The guest's side, when its host has called; None for a page of elsewhere."""
        if not _may_connect(headers, scope["scheme"], self.origins):
            return None
        contracts = self.runtime.contracts
        if not contracts.has(CONSOLES):
            return None
        token = Query(scope["query_string"].decode("latin-1")).get("token")
        ticket = f"{self.runtime.world.random.getrandbits(256):064x}"
        expected: asyncio.Future[_Side] = asyncio.get_running_loop().create_future()
        self._expected[ticket] = expected
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await contracts.get(CONSOLES).open(token, _HOSTS + ticket)
                guest: _Side = await expected
                return guest
        except TimeoutError:
            log.warning("the host of a guest did not call for its console in time")
            return None
        finally:
            del self._expected[ticket]

    async def _host(self, ticket: str, side: _Side) -> None:
        """A host calls: whoever waits for that ticket has the guest from here on."""
        expected = self._expected.get(ticket)
        if expected is None or expected.done():
            await side.send({"type": "websocket.close", "code": 1008})
            return
        await side.send({"type": "websocket.accept"})
        expected.set_result(side)
        await side.over.wait()

    # noVNC's files

    async def _file(self, scope: dict[str, Any], send: Any) -> None:
        name = scope["path"].removeprefix(_FRONT)
        body, kind = None, "text/html"
        if self.novnc is not None:
            body = await asyncio.to_thread(_content, self.novnc, name)
            kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        elif scope["path"] == PAGE:
            body = _ABSENT
        headers = [
            (b"content-type", kind.encode() if body is not None else b"text/plain"),
            (b"content-length", str(len(body or b"")).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
        ]
        status = 200 if body is not None else 404
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body or b""})


def _content(folder: Path, name: str) -> bytes | None:
    """A file below the folder; None if there is no such file there."""
    found = (folder / name).resolve()
    if not found.is_relative_to(folder.resolve()) or not found.is_file():
        return None
    return found.read_bytes()


def _may_connect(headers: dict[bytes, str], scheme: str, origins: frozenset[str]) -> bool:
    """A browser says whose page it is; who says nothing is none."""
    origin = headers.get(b"origin")
    if origin is None or origin in origins:
        return True
    forwarded = headers.get(b"x-forwarded-proto") or ("https" if scheme == "wss" else "http")
    host = headers.get(b"x-forwarded-host") or headers.get(b"host", "")
    page = urlsplit(origin)
    return (page.scheme, page.netloc) == (forwarded, host) and bool(host)


async def _join(viewer: _Side, guest: _Side) -> None:
    """Bytes both ways until either side ends; then both have."""
    ways = [
        asyncio.create_task(viewer.carry_to(guest)),
        asyncio.create_task(guest.carry_to(viewer)),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for side in (viewer, guest):
            await _end(side)


async def _end(side: _Side) -> None:
    try:
        await side.send({"type": "websocket.close", "code": 1000})
    except (RuntimeError, OSError):
        log.debug("that side of a console was closed already")
    side.over.set()

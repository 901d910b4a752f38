"""The watch stream: a project's events as server-sent events, instead of polling.

`GET /events` with a token gives what happens from now on; `Last-Event-ID` (or `?since=`) gives what has happened
since, as long as the outbox still has it. Administrators may ask for `?all_projects`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import msgspec

from .auth import Caller
from .events import Event, Position, after, newest
from .faults import Fault, Forbidden, Invalid, RateLimited
from .query import Query
from .runtime import Runtime

_MOST = 500
_BREATH_S = 15.0  # a comment, so that proxies keep the connection, and another look at the token


@dataclass
class Streams:
    """The open streams of this process; all wake at a commit."""

    runtime: Runtime
    _waiting: set[asyncio.Event] = field(default_factory=set)
    _open: int = 0

    def start(self) -> None:
        self.runtime.store.on_commit(self._wake)

    def _wake(self) -> None:
        for event in self._waiting:
            event.set()

    async def follow(self, token: str, query: Query, last_id: str) -> AsyncIterator[bytes]:
        """The stream's bytes. Raises Unauthenticated, Forbidden, Invalid, RateLimited before the first of them."""
        caller = await self.runtime.callers.of(token)
        everything = query.flag("all_projects")
        if everything and not caller.is_admin:
            raise Forbidden("Only an administrator (role admin) may watch all projects.")
        if not everything and not caller.project_id:
            raise Forbidden("This token has no project whose events could be watched.")
        if self._open >= _MOST:
            raise RateLimited(f"{_MOST} streams are open already; try again later.")
        since = last_id or query.get("since")
        position = _position(since) if since else await newest(self.runtime.store)
        return self._stream(caller, token, everything, position)

    async def _stream(
        self, caller: Caller, token: str, everything: bool, position: Position
    ) -> AsyncIterator[bytes]:
        news = asyncio.Event()
        self._waiting.add(news)
        self._open += 1
        try:
            yield b": watching\n\n"
            while True:
                news.clear()
                while events := await after(self.runtime.store, position):
                    position = events[-1].position
                    seen = [e for e in events if everything or e.project_id == caller.project_id]
                    if seen:
                        yield b"".join(_spelled(e) for e in seen)
                try:
                    async with asyncio.timeout(1.0 if self.runtime.store.shared else _BREATH_S):
                        await news.wait()
                except TimeoutError:
                    yield b":\n\n"
                try:
                    await self.runtime.callers.of(token)
                except Fault:
                    return  # revoked or expired: the client has to log in again
        finally:
            self._waiting.discard(news)
            self._open -= 1


def _position(text: str) -> Position:
    epoch, _, seq = text.partition("-")
    if not (epoch.isdecimal() and seq.isdecimal() and len(text) < 40):
        raise Invalid(f"'{text}' is not the id of an event; it looks like 0-17.")
    return int(epoch), int(seq)


def _spelled(event: Event) -> bytes:
    data = {"at": event.at, "project_id": event.project_id, "payload": event.payload}
    head = f"id: {event.epoch}-{event.seq}\nevent: {event.kind}\n"
    return head.encode() + b"data: " + msgspec.json.encode(data) + b"\n\n"

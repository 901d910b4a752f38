"""The process's own paths: `/healthcheck` for anybody, `/events` for a project, `/status` for administrators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from pileus.kernel.faults import Fault
from pileus.kernel.hosts import HOSTS, heard
from pileus.kernel.query import Query
from pileus.kernel.runtime import Runtime
from pileus.kernel.sagas import JOURNAL
from pileus.kernel.store import Page
from pileus.kernel.watch import Streams


async def report(runtime: Runtime) -> dict[str, Any]:
    """Services, hosts, what is under way, and what is wrong."""
    now = runtime.world.clock.time()
    every = await HOSTS.list(runtime.store, Page(sorts=(("id", False),), limit=10_000))
    hosts = await heard(runtime.store, every)
    sagas = await JOURNAL.list(runtime.store, Page(sorts=(("created_at", False), ("id", False))))
    wrong = [
        f"host {h.id} has not been heard of for {now - h.seen_at:.0f} s"
        for h in hosts
        if not h.is_up(now)
    ]
    wrong += [
        f"{s.saga} of {s.record_id} could not undo {s.parked}; delete it to clean up"
        for s in sagas
        if s.parked
    ]
    standing = [msgspec.to_builtins(r) for r in runtime.reconcilers.status()]
    wrong += [f"{r['name']} fails: {r['error']}" for r in standing if r.get("error")]
    return {
        "services": [
            {"type": s.type, "name": s.name, "url": runtime.public_url + s.endpoint}
            for s in runtime.services
        ],
        "hosts": [
            {"name": h.id, "up": h.is_up(now), "contracts": sorted(h.contracts)} for h in hosts
        ],
        "sagas": [
            {
                "saga": s.saga,
                "of": s.record_id,
                "step": s.step,
                "since": s.created_at,
                "undoing": s.undoing,
            }
            for s in sagas
        ],
        "reconcilers": standing,
        "wrong": wrong,
    }


class Operations:
    """ASGI: answers the process's own paths and hands on the rest."""

    def __init__(self, app: Any, runtime: Runtime) -> None:
        self.app, self.runtime, self.streams = app, runtime, Streams(runtime)
        self.streams.start()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        path = scope.get("path")
        if path == "/healthcheck":
            await _answer(send, 200, {"status": "OK"})
        elif path == "/status":
            await self._status(scope, send)
        elif path == "/events":
            await self._events(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _events(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        headers = {k: v.decode("latin-1") for k, v in scope["headers"]}
        query = Query(scope["query_string"].decode("latin-1"))
        try:
            stream = await self.streams.follow(
                headers.get(b"x-auth-token", ""), query, headers.get(b"last-event-id", "")
            )
        except Fault as e:
            await _answer(send, e.status, {"error": e.message})
            return
        kept = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": kept})
        gone = asyncio.create_task(_disconnected(receive))
        try:
            async for part in _until(gone, stream):
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()

    async def _status(self, scope: dict[str, Any], send: Any) -> None:
        token = next((v.decode("latin-1") for k, v in scope["headers"] if k == b"x-auth-token"), "")
        try:
            caller = await self.runtime.callers.of(token)
        except Fault as e:
            await _answer(send, e.status, {"error": e.message})
            return
        if not caller.is_admin:
            await _answer(send, 403, {"error": "The status is for administrators (role admin)."})
            return
        await _answer(send, 200, await report(self.runtime))


async def _disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _until(gone: asyncio.Task[None], stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The stream's parts as long as somebody is there to hear them."""
    while not gone.done():
        part = asyncio.ensure_future(anext(stream, b""))
        await asyncio.wait({part, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not part.done() or not part.result():
            part.cancel()
            return
        yield part.result()


async def _answer(send: Any, status: int, document: Any) -> None:
    body = msgspec.json.encode(document)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

"""A second service for HTTP tests, with what the toy lacks: streams, bulk bodies, crashes, no versions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from pileus.kernel import http
from pileus.kernel.faults import NEUTRON, Conflict, Stale
from pileus.kernel.policy import PolicyFile
from pileus.kernel.resources import PUBLIC, Answer, Context, Resource, Service, Stream, operation
from pileus.kernel.runtime import Runtime
from pileus.kernel.schema import Body, Bulk
from pileus.kernel.store import Record
from pileus.kernel.tests.toy import MEMBER, SERVICE, toy
from pileus.testing.client import Client, Reply

READER = {"x-auth-token": "p1:reader"}
OTHER = {"x-auth-token": "p2:member,reader"}


class CreatePart(Body):
    root, plural = "part", "parts"
    name: str


class Parts(Resource[Record]):
    """Whatever the toy does not have: no versions, streams, bulk bodies, crashes."""

    rules = {"parts": "role:reader", "parts:secret": "!"}

    @operation("GET", "/public", PUBLIC)
    async def public(self, ctx: Context) -> Any:
        return {"url": ctx.url, "base": ctx.base, "method": ctx.method}

    @operation("GET", "/parts/{name}/of/{whole}", "parts")
    async def show(self, ctx: Context, whole: str, name: str) -> Any:
        return {"name": name, "of": whole}

    @operation("POST", "/parts", "parts", status=201)
    async def create(self, ctx: Context, bodies: Bulk[CreatePart]) -> Any:
        return {"single": bodies.single, "names": [b.name for b in bodies.items]}

    @operation("PUT", "/bytes", "parts", status=201)
    async def put(self, ctx: Context, data: Stream) -> Any:
        parts = [chunk async for chunk in data.chunks]
        return {
            "size": sum(map(len, parts)),
            "length": data.length,
            "type": data.content_type,
            "token": ctx.headers.get("x-auth-token"),
        }

    @operation("GET", "/bytes", "parts")
    async def get(self, ctx: Context) -> Any:
        async def chunks() -> AsyncIterator[bytes]:
            for part in (b"ab", b"cd"):
                yield part

        return Answer(stream=chunks(), content_type="application/x-part", headers={"etag": "e"})

    @operation("GET", "/answer/{kind}", "parts")
    async def answer(self, ctx: Context, kind: str) -> Any:
        return {
            "empty": None,
            "bytes": Answer(b"raw", content_type="text/plain"),
            "status": Answer({"a": 1}, status=203),
            "none": Answer(headers={"location": "/x"}),
        }[kind]

    @operation("GET", "/crash", "parts")
    async def crash(self, ctx: Context) -> Any:
        raise RuntimeError("the password is hunter2")

    @operation("GET", "/tickets/{ticket}", PUBLIC)
    async def crash_openly(self, ctx: Context, ticket: str) -> Any:
        raise RuntimeError("nobody was asked")

    @operation("GET", "/conflict", "parts")
    async def conflict(self, ctx: Context) -> Any:
        raise Conflict("no <b>", code="Taken", headers={"x-more": "1"}, internal="inside story")

    lost: ClassVar[list[str]] = []

    @operation("POST", "/lost", "parts")
    async def lose(self, ctx: Context, body: CreatePart) -> Any:
        self.lost.append(body.name)
        if len(self.lost) < int(body.name):
            raise Stale("somebody was first")
        return {}

    @operation("PUT", "/lost", "parts")
    async def lose_bytes(self, ctx: Context, data: Stream) -> Any:
        self.lost.append("bytes")
        raise Stale("somebody was first")

    @operation("GET", "/headers", "parts")
    async def headers(self, ctx: Context) -> Any:
        return {"names": list(ctx.headers), "count": len(ctx.headers)}

    @operation("GET", "/secret", "parts:secret")
    async def secret(self, ctx: Context) -> Any:
        return {}

    @operation("POST", "/old", "parts", action="a")
    @operation("POST", "/old", "parts", action="b")
    async def either(self, ctx: Context) -> Any:
        return {"keys": sorted(ctx.document)}

    @operation("POST", "/big", "parts", max_body=300_000)
    async def big(self, ctx: Context, body: CreatePart) -> Any:
        return {"size": len(body.name)}


PARTS = Service("parts", "parts", "/parts", "/v1", "/parts/v1", NEUTRON, (Parts,),
    optional_project=True, request_id_header="x-parts-request-id", max_body=1000)  # fmt: skip


@asynccontextmanager
async def site() -> AsyncIterator[tuple[Runtime, Client]]:
    """The toy and the parts in one application."""
    async with toy() as (r, _):
        r.services = (SERVICE, PARTS)
        r.policies["parts"] = PolicyFile(r.world, PARTS.all_rules())
        yield r, Client(http.Application(r), MEMBER)


def message(reply: Reply) -> str:
    (inner,) = reply.json.values()
    return str(inner["message"])

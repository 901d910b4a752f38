"""Operations that share a method and a path, or are gone in some versions: the request's version decides."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from pileus.kernel import http
from pileus.kernel.faults import Unavailable
from pileus.kernel.policy import PolicyFile
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Record
from pileus.kernel.tests.parts import message
from pileus.kernel.tests.toy import MEMBER, SERVICE, toy
from pileus.testing.client import Client


class Polish(Body):
    root = "polish"
    times: int = 1


class Lamps(Resource[Record]):
    rules = {"lamps": "role:member"}

    @operation("GET", "/lamps", "lamps", until="1.3")
    async def old(self, ctx: Context) -> Any:
        return {"lamps": "old"}

    @operation("GET", "/lamps", "lamps", since="1.5")
    async def new(self, ctx: Context) -> Any:
        return {"lamps": "new"}

    @operation("GET", "/shades", "lamps", since="1.2", until="1.4")
    async def shades(self, ctx: Context) -> Any:
        return {}

    @operation("POST", "/lamps", "lamps")
    async def make(self, ctx: Context) -> Any:
        return {}

    @operation("POST", "/shades/make", "lamps")
    async def make_shade(self, ctx: Context) -> Any:
        return {}

    @operation("HEAD", "/bulbs", "lamps", status=299)
    async def announced(self, ctx: Context) -> Any: ...

    @operation("GET", "/bulbs", "lamps")
    async def bulbs(self, ctx: Context) -> Any:
        return {}

    @operation("POST", "/action", "lamps", action="polish")
    async def polish(self, ctx: Context, body: Polish) -> Any:
        return {"times": body.times}

    @operation("POST", "/action", "lamps", action="break", until="1.4")
    async def smash(self, ctx: Context) -> Any:
        return {"broken": True}

    @operation("GET", "/away", "lamps")
    async def away(self, ctx: Context) -> Any:
        raise Unavailable("the lamplighter is away")


@asynccontextmanager
async def lamps() -> AsyncIterator[Client]:
    service = replace(SERVICE, resources=(Lamps,))
    async with toy() as (r, _):
        r.services = (service,)
        r.policies["toy"] = PolicyFile(r.world, service.all_rules())
        yield Client(http.Application(r), MEMBER)


async def at(c: Client, version: str, url: str) -> tuple[int, Any]:
    reply = await c.get("/toy/v1" + url, openstack_api_version=f"toy {version}")
    return reply.status, reply.json


@pytest.mark.parametrize(
    ("version", "answer"),
    [("1.2", "old"), ("1.3", ""), ("1.4", ""), ("1.5", "new"), ("1.9", "new")],
)
async def test_of_two_operations_at_one_place_the_versions_own_answers(
    version: str, answer: str
) -> None:
    async with lamps() as c:
        status, body = await at(c, version, "/lamps")
        if answer:
            assert (status, body) == (200, {"lamps": answer})
        else:
            assert (status, body["itemNotFound"]["code"]) == (404, 404)


@pytest.mark.parametrize(
    ("version", "status"), [("1.1", 404), ("1.2", 200), ("1.3", 200), ("1.4", 404)]
)
async def test_an_operation_of_other_versions_is_not_there(version: str, status: int) -> None:
    async with lamps() as c:
        assert (await at(c, version, "/shades"))[0] == status


async def test_an_action_of_other_versions_is_not_there() -> None:
    async with lamps() as c:
        for version, status in (("1.3", 200), ("1.4", 400)):
            reply = await c.post(
                "/toy/v1/action", {"break": None}, openstack_api_version=f"toy {version}"
            )
            assert reply.status == status, version
        assert message(reply) == "There is no such action: break."


async def test_an_action_without_a_body_has_its_defaults() -> None:
    async with lamps() as c:
        for body, times in (
            ({"polish": None}, 1),
            ({"polish": {}}, 1),
            ({"polish": {"times": 3}}, 3),
        ):
            reply = await c.post("/toy/v1/action", body)
            assert (reply.status, reply.json) == (200, {"times": times})


async def test_head_is_there_where_get_is_and_may_have_an_answer_of_its_own() -> None:
    async with lamps() as c:
        assert (await c.request("HEAD", "/toy/v1/bulbs")).status == 299
        assert (await c.request("HEAD", "/toy/v1/away")).status == 503
        reply = await c.request("HEAD", "/toy/v1/shades/make")
        assert reply.status == 405 and reply.headers["allow"] == "OPTIONS, POST"


async def test_what_is_away_says_when_to_come_back_and_what_is_wrong_does_not() -> None:
    async with lamps() as c:
        reply = await c.get("/toy/v1/away")
        assert (reply.status, reply.headers["retry-after"]) == (503, "0")
        for url in ("/toy/v1/bulbs", "/toy/v1/nothing", "/toy/v1/shades"):
            assert "retry-after" not in (await c.get(url)).headers

"""Callers whose access rules narrow them, tokens in the header of OAuth 2.0, and cookies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from pileus.kernel import http
from pileus.kernel.access_rules import AccessRule
from pileus.kernel.auth import Caller, Callers
from pileus.kernel.resources import PUBLIC, Answer, Context, Resource, operation
from pileus.kernel.store import Record
from pileus.kernel.tests.toy import SERVICE, AnyProject, Things, toy
from pileus.testing.client import Client

RULES = (
    AccessRule(service="toy", method="GET", path="/v1/things"),
    AccessRule(service="alias", method="GET", path="/toy/v1/things/*"),
    AccessRule(service="other", method="POST", path="/v1/things"),
)


class Narrowed(AnyProject):
    """`PROJECT:ROLES` as ever; a token that ends in `!` is narrowed by the rules."""

    async def caller(self, token: str, late: bool) -> Caller:
        caller = await super().caller(token.removesuffix("!"), late)
        if token.endswith("!"):
            caller = msgspec.structs.replace(caller, access_rules=RULES)
        return caller


class Jars(Resource[Record]):
    @operation("GET", "/jar", PUBLIC)
    async def jar(self, ctx: Context) -> Any:
        return Answer({}, headers={"set-cookie": "a=1; Path=/", "x-jar": "full"})


@asynccontextmanager
async def narrowed(token: str = "p1:member,reader!", **more: Any) -> AsyncIterator[Client]:
    async with toy() as (r, _):
        r.callers = Callers(r.store, r.world, Narrowed())
        r.services = (replace(SERVICE, resources=(Things, Jars), aliases=("alias",), **more),)
        yield Client(http.Application(r), {"x-auth-token": token} if token else {})


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("GET", "/toy/v1/things", 200),
        ("GET", "/toy/v1/things/x", 404),
        ("POST", "/toy/v1/things", 401),
        ("DELETE", "/toy/v1/things/x", 401),
    ],
)
async def test_a_narrowed_caller_passes_where_a_rule_of_the_service_or_its_alias_fits(
    method: str, url: str, status: int
) -> None:
    async with narrowed() as c:
        reply = await c.request(method, url)
        assert reply.status == status
        if status == 401:
            assert "www-authenticate" in reply.headers


async def test_a_caller_without_rules_is_not_narrowed() -> None:
    async with narrowed("p1:member,reader") as c:
        assert (await c.post("/toy/v1/things", {"thing": {"name": "a"}})).status == 202


async def test_what_the_service_leaves_unruled_is_open_to_a_narrowed_caller() -> None:
    body = {"thing": {"name": "a"}}
    async with narrowed(unruled=frozenset({"POST /things"})) as c:
        assert (await c.post("/toy/v1/things", body)).status == 202
        assert (await c.delete("/toy/v1/things/x")).status == 401


@pytest.mark.parametrize(("lent", "status"), [("p9:service", 202), ("p9:member", 401)])
async def test_a_service_that_acts_for_a_narrowed_caller_is_not_narrowed(
    lent: str, status: int
) -> None:
    async with narrowed() as c:
        reply = await c.post("/toy/v1/things", {"thing": {"name": "a"}}, x_service_token=lent)
        assert reply.status == status


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Bearer p1:reader", 200),
        ("bearer  p1:reader", 200),
        ("Bearer junk", 401),
        ("Bearer", 401),
        ("Basic p1:reader", 401),
        ("p1:reader", 401),
    ],
)
async def test_a_token_may_come_as_oauth_clients_send_it(header: str, status: int) -> None:
    async with narrowed("") as c:
        assert (await c.get("/toy/v1/things", authorization=header)).status == status


async def test_the_own_header_goes_before_that_of_oauth() -> None:
    async with narrowed("junk") as c:
        assert (await c.get("/toy/v1/things", authorization="Bearer p1:reader")).status == 401


async def test_an_answer_may_set_a_cookie() -> None:
    async with narrowed("") as c:
        reply = await c.get("/toy/v1/jar")
        assert (reply.headers["set-cookie"], reply.headers["x-jar"]) == ("a=1; Path=/", "full")

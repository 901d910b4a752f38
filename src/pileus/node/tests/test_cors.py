"""Cross-origin requests: who is let in, to do what, and that nothing changes for others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from pileus.kernel.faults import Invalid
from pileus.node.cors import cross_origin
from pileus.testing.alone import in_loop

DASHBOARD = "https://dashboard.example.org"
ALLOW = "access-control-allow-origin"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"x-own", b"kept")]
    await send({"type": "http.response.start", "status": 404, "headers": headers})
    await send({"type": "http.response.body", "body": scope["method"].encode()})


async def ask(
    app: Any, method: str = "GET", **headers: str
) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers and body; `_` in a header's name stands for `-`."""
    sent = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    await app({"type": "http", "method": method, "path": "/", "headers": sent}, None, send)
    start, body = messages
    return start["status"], {k.decode(): v.decode() for k, v in start["headers"]}, body["body"]


@in_loop
async def test_nothing_changes_unless_an_origin_is_named() -> None:
    assert cross_origin(echo, []) is echo


@in_loop
async def test_a_request_of_no_page_is_answered_as_ever() -> None:
    app = cross_origin(echo, [DASHBOARD])
    assert await ask(app) == (404, {"x-own": "kept"}, b"GET")
    assert await ask(app, "OPTIONS") == (404, {"x-own": "kept"}, b"OPTIONS")


@in_loop
async def test_a_page_of_a_named_origin_may_read_answers_and_errors_too() -> None:
    status, headers, body = await ask(cross_origin(echo, [DASHBOARD]), origin=DASHBOARD)
    assert (status, body, headers["x-own"]) == (404, b"GET", "kept")
    assert headers[ALLOW] == DASHBOARD and headers["vary"] == "Origin"
    assert headers["access-control-allow-credentials"] == "true"
    shown = headers["access-control-expose-headers"].split(",")
    assert {"X-Subject-Token", "X-OpenStack-Request-ID", "OpenStack-API-Version"} <= set(shown)


@in_loop
@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", DASHBOARD + ".evil.example", DASHBOARD.replace("s:", ":"), "null"],
)
async def test_a_page_of_another_origin_is_let_read_nothing(origin: str) -> None:
    app = cross_origin(echo, [DASHBOARD])
    assert await ask(app, origin=origin) == (404, {"x-own": "kept"}, b"GET")
    asked = {"access_control_request_method": "GET"}
    assert await ask(app, "OPTIONS", origin=origin, **asked) == (200, {"content-length": "0"}, b"")


@in_loop
async def test_a_star_lets_every_origin_in_by_its_name() -> None:
    _, headers, _ = await ask(cross_origin(echo, ["*"]), origin="https://any.example")
    assert headers[ALLOW] == "https://any.example"


@in_loop
async def test_a_preflight_is_answered_here_with_what_was_asked_for() -> None:
    status, headers, body = await ask(
        cross_origin(echo, [DASHBOARD]),
        "OPTIONS",
        origin=DASHBOARD,
        access_control_request_method="PATCH",
        access_control_request_headers="X-Auth-Token, content-type",
    )
    assert (status, body) == (200, b"")
    assert headers[ALLOW] == DASHBOARD
    assert headers["access-control-allow-methods"] == "PATCH"
    assert headers["access-control-allow-headers"] == "X-Auth-Token,content-type"
    assert headers["access-control-max-age"] == "3600"


@in_loop
@pytest.mark.parametrize(
    "asked",
    [
        {"access_control_request_method": "BREW"},
        {
            "access_control_request_method": "GET",
            "access_control_request_headers": "X-Auth-Token,X-Roles",
        },
    ],
)
async def test_a_preflight_for_what_no_page_may_do_allows_nothing(asked: dict[str, str]) -> None:
    app = cross_origin(echo, [DASHBOARD])
    status, headers, _ = await ask(app, "OPTIONS", origin=DASHBOARD, **asked)
    assert status == 200 and ALLOW not in headers


@pytest.mark.parametrize("origin", ["dashboard.example.org", DASHBOARD + "/", "ftp://x", ""])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(Invalid, match="is not an origin"):
        cross_origin(echo, [origin])

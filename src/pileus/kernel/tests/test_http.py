"""HTTP on the toy service: who gets what status, in which words, and what a client can break."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest

from pileus.kernel import http
from pileus.kernel.auth import NOT_AUTHENTICATED, Callers, revise
from pileus.kernel.faults import NOVA, Unauthenticated
from pileus.kernel.tests.parts import OTHER, READER, Parts, message, site
from pileus.kernel.tests.toy import MEMBER, SERVICE, THINGS, AnyProject
from pileus.testing.client import Client, Reply

# Who is asking


async def test_without_a_token_everything_but_the_public_is_401_and_says_where_to_go() -> None:
    async with site() as (_, member):
        nobody = Client(member.app)
        for url in ("/toy/v1/things", "/toy/v1/things/x", "/parts/v1/crash"):
            reply = await nobody.get(url)
            assert reply.status == 401
            assert (
                reply.headers["www-authenticate"]
                == 'Keystone uri="http://cloud.test:5000/identity"'
            )
        assert (await nobody.get("/toy/v1/things", x_auth_token="junk")).status == 401
        assert (await nobody.get("/parts/v1/public")).status == 200
        assert (await nobody.delete("/toy/v1/things/x")).status == 401


async def test_a_rule_that_denies_is_403_and_names_itself() -> None:
    async with site() as (_, c):
        reply = await Client(c.app, READER).post("/toy/v1/things", {"thing": {"name": "a"}})
        assert reply.status == 403
        assert reply.json == {"forbidden": {"code": 403,
            "message": "Policy doesn't allow toy:create to be performed."}}  # fmt: skip
        reply = await c.get("/parts/v1/secret")
        assert reply.status == 403
        assert (
            reply.json["NeutronError"]["message"] == "(rule:parts:secret) is disallowed by policy"
        )


async def test_what_one_may_not_see_is_not_there() -> None:
    async with site() as (r, c):
        made = (await c.post("/toy/v1/things", {"thing": {"name": "a"}})).json["thing"]
        await r.sagas.settled()
        other = Client(c.app, OTHER)
        for reply in (
            await other.get(f"/toy/v1/things/{made['id']}"),
            await other.delete(f"/toy/v1/things/{made['id']}"),
        ):
            assert reply.status == 404
            assert message(reply) == f"Thing {made['id']} could not be found."
        missing = await c.get("/toy/v1/things/nothing")
        assert (missing.status, message(missing)) == (404, "Thing nothing could not be found.")
        assert (await Client(c.app, READER).delete(f"/toy/v1/things/{made['id']}")).status == 403
        assert (await other.get("/toy/v1/things")).json["things"] == []


async def test_a_service_that_hides_the_unknown_says_403_to_whom_the_rule_denies() -> None:
    async with site() as (r, _):
        r.services = (replace(SERVICE, hides_unknown=True),)
        hiding = http.Application(r)
        assert (await Client(hiding, READER).delete("/toy/v1/things/x")).status == 403
        assert (await Client(hiding, MEMBER).delete("/toy/v1/things/x")).status == 404


async def test_a_service_token_lends_its_roles() -> None:
    async with site() as (r, c):
        seen: list[Any] = []
        rules = r.rules("toy")
        allows = rules.allows
        rules.allows = lambda n, creds, t: (  # type: ignore[method-assign, assignment]
            seen.append(creds.service_roles) or allows(n, creds, t)  # type: ignore[func-returns-value]
        )
        await c.get("/toy/v1/things", x_service_token="p9:service")
        assert seen[0] == frozenset({"service"})
        assert (await c.get("/toy/v1/things", x_service_token="junk")).status == 401


# Paths and methods


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("GET", "/toy/v1/nothing", 404),
        ("GET", "/toy/v1", 404),
        ("GET", "/nobody/at/all", 404),
        ("GET", "/toy/v1/things/%2e%2e", 404),
        ("GET", "/toy/v1/things/%00", 404),
        ("GET", "/toy/v1/things/%ff", 404),
        ("DELETE", "/toy/v1/things/", 404),
        ("PUT", "/toy/v1/things", 405),
        ("PATCH", "/toy/v1/things/x", 405),
        ("OPTIONS", "/toy/v1/nothing", 404),
        ("BREW", "/toy/v1/things", 400),
    ],
)
async def test_what_is_not_routed_is_refused_in_the_services_words(
    method: str, url: str, status: int
) -> None:
    async with site() as (_, c):
        reply = await c.request(method, url)
        assert reply.status == status
        assert reply.headers["x-openstack-request-id"].startswith("req-")
        assert reply.headers["content-type"] == "application/json"
        assert [v["code"] for v in reply.json.values()] == [status]
        if status == 405:
            assert "GET" in reply.headers["allow"]


async def test_unrouted_paths_speak_the_dialect_of_their_prefix() -> None:
    async with site() as (_, c):
        reply = await c.get("/parts/v1/nothing")
        assert reply.json["NeutronError"]["type"] == "HTTPNotFound"
        assert "itemNotFound" in (await c.get("/partsandmore/v1")).json


async def test_a_slash_at_the_end_changes_nothing_and_parameters_keep_their_names() -> None:
    async with site() as (_, c):
        assert (await c.get("/toy/v1/things/")).status == 200
        reply = await c.get("/parts/v1/parts/bolt/of/engine")
        assert reply.json == {"name": "bolt", "of": "engine"}


async def test_a_strict_service_misses_an_id_behind_a_slash() -> None:
    async with site() as (r, c):
        r.services = (replace(SERVICE, strict=True),)
        strict = Client(http.Application(r), c.headers)
        assert (await strict.get("/toy/v1/things/")).status == 404
        assert (await strict.get("/toy/v1/things")).status == 200


async def test_the_projects_id_may_stand_in_the_path_where_it_is_optional() -> None:
    async with site() as (_, c):
        project = "a" * 32
        reply = await c.get(f"/parts/v1/{project}/parts/bolt/of/engine")
        assert reply.json == {"name": "bolt", "of": "engine"}
        assert (await c.get(f"/toy/v1/{project}/things")).status == 404
        assert (await c.get(f"/parts/v1/{'z' * 32}/public")).status == 404


async def test_head_is_get_without_its_body() -> None:
    async with site() as (_, c):
        got, head = await c.get("/toy/v1/things"), await c.request("HEAD", "/toy/v1/things")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(got.body))
        stream = await c.request("HEAD", "/parts/v1/bytes")
        assert (stream.status, stream.body, stream.headers["etag"]) == (200, b"", "e")
        missing = await c.request("HEAD", "/toy/v1/things/x")
        assert (missing.status, missing.body) == (404, b"")
        assert (await Client(c.app).request("HEAD", "/toy/v1/things")).status == 401


async def test_every_answer_has_a_request_id_of_its_own() -> None:
    async with site() as (_, c):
        ids = {(await c.get("/toy/v1/things")).headers["x-openstack-request-id"] for _ in "abc"}
        assert len(ids) == 3
        reply = await c.get("/parts/v1/public")
        assert (
            reply.headers["x-parts-request-id"] == reply.headers["x-openstack-request-id"] != "req-"
        )


# The URL of the cloud


@pytest.mark.parametrize(
    ("headers", "root"),
    [
        ({"host": "a.test"}, "http://a.test"),
        ({"host": "b.test:99"}, "http://b.test:99"),
        ({"host": "[::1]:5000"}, "http://[::1]:5000"),
        ({"host": "x", "x_forwarded_host": "out.test", "x_forwarded_proto": "https"}, "https://out.test"),
        ({"host": "x", "x_forwarded_proto": "javascript"}, "http://x"),
        ({"host": "evil.test/<script>"}, "http://cloud.test:5000"),
        ({"host": ""}, "http://cloud.test:5000"),
    ],
)  # fmt: skip
async def test_links_are_spelled_as_the_client_spells_the_cloud(
    headers: dict[str, str], root: str
) -> None:
    async with site() as (_, c):
        reply = await c.get("/parts/v1/public", **headers)
        assert reply.json == {
            "url": f"{root}/parts/v1/public",
            "base": f"{root}/parts/v1",
            "method": "GET",
        }


async def test_the_next_pages_link_goes_where_the_request_went_and_keeps_its_query() -> None:
    async with site() as (r, c):
        for n in range(3):
            await c.post("/toy/v1/things", {"thing": {"name": f"n{n}"}})
        await r.sagas.settled()
        reply = await c.get("/toy/v1/things?limit=2&sort_key=name&sort_dir=asc", host="a.test")
        assert [t["name"] for t in reply.json["things"]] == ["n0", "n1"]
        link = reply.json["next"]
        assert link.startswith("http://a.test/toy/v1/things?limit=2&sort_key=name&sort_dir=asc&")
        reply = await c.get(link.removeprefix("http://a.test"))
        assert [t["name"] for t in reply.json["things"]] == ["n2"] and reply.json["next"] == ""
        assert (await c.get("/toy/v1/things?marker=nobody")).status == 404


# Bodies


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"[]", b"null", b'"x"', b"{} {}", b"\xff\xfe", b'{"thing": {"name": "\xff"}}',
        b'{"thing": {"name": "a\\u0000b"}}', b'{"thing": {"name": "\\ud800"}}',
        b"[" * 100_000, b'{"thing":' * 10_000, b'{"thing": {"name": "a", "size": 1e999}}',
        b'{"thing": {"name": "a", "size": 1e30}}',
        b'{"thing": {"name": "a", "size": 1000000000000000000000000000000}}',
        b'{"thing": {"name": "a", "size": 9223372036854775808}}',
        b'{"thing": {}}', b'{"thing": []}', b'{"thing": null}', b'{"other": {"name": "a"}}',
        b'{"thing": {"name": "a"}, "other": 1}', b'{"thing": {"name": "a", "weight": 1}}',
        b'{"thing": {"name": null}}', b'{"thing": {"name": "a", "tags": [1]}}',
        b'{"thing": {"name": "a", "hue": "red"}}',
    ],
    ids=lambda b: repr(b[:50]),
)  # fmt: skip
async def test_a_body_that_cannot_be_understood_is_400(raw: bytes) -> None:
    async with site() as (r, c):
        reply = await c.request("POST", "/toy/v1/things", raw=raw)
        assert reply.status == 400, reply
        assert message(reply)
        assert await THINGS.all(r.store) == []


async def test_a_field_of_a_later_version_is_taken_there() -> None:
    async with site() as (_, c):
        body = {"thing": {"name": "a", "hue": "red"}}
        reply = await c.post("/toy/v1/things", body, openstack_api_version="toy 1.3")
        assert reply.status == 202


@pytest.mark.parametrize("length", ["known", "unknown"])
async def test_a_body_over_the_limit_is_413_whether_its_length_is_told_or_not(length: str) -> None:
    async with site() as (_, c):
        raw = b'{"part": {"name": "' + b"x" * 2000 + b'"}}'
        headers = {} if length == "known" else {"content-length": ""}
        reply = await _sent(c, "POST", "/parts/v1/parts", raw, headers)
        assert (reply.status, reply.headers["retry-after"]) == (413, "0")
        reply = await _sent(c, "POST", "/parts/v1/big", raw, headers)
        assert (reply.status, reply.json) == (200, {"size": 2000})


async def test_a_chunked_body_is_read_whole() -> None:
    async with site() as (_, c):
        raw = b'{"thing": {"name": "' + b"x" * 100_000 + b'"}}'
        reply = await _sent(c, "POST", "/toy/v1/things", raw, {"content-length": ""})
        assert reply.status == 202 and len(reply.json["thing"]["name"]) == 100_000


async def _sent(c: Client, method: str, url: str, raw: bytes, headers: dict[str, str]) -> Reply:
    """With an empty header left out, as a chunked request has no Content-Length."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["headers"] = [(k, v) for k, v in scope["headers"] if v]
        await c.app(scope, receive, send)

    return await Client(app, c.headers).request(method, url, raw=raw, headers=headers)


async def test_a_content_length_that_is_no_number_is_400() -> None:
    async with site() as (_, c):
        reply = await c.request(
            "POST", "/toy/v1/things", raw=b"{}", headers={"content-length": "ten"}
        )
        assert reply.status == 400 and "Content-Length" in message(reply)


async def test_a_connection_that_breaks_in_a_body_changes_nothing() -> None:
    async with site() as (r, c):

        async def app(scope: Any, receive: Any, send: Any) -> None:
            told = iter(
                [
                    {
                        "type": "http.request",
                        "body": b'{"thing": {"name": "a"}}',
                        "more_body": True,
                    },
                    {"type": "http.disconnect"},
                ]
            )

            async def broken() -> Any:
                return next(told)

            await c.app(scope, broken, send)

        reply = await Client(app, MEMBER).request("POST", "/toy/v1/things", raw=b"x" * 100)
        assert reply.status == 400 and "broke" in message(reply)
        assert await THINGS.all(r.store) == []


async def test_one_object_or_a_list_of_them() -> None:
    async with site() as (_, c):
        one = await c.post("/parts/v1/parts", {"part": {"name": "a"}})
        assert (one.status, one.json) == (201, {"single": True, "names": ["a"]})
        two = await c.post("/parts/v1/parts", {"parts": [{"name": "a"}, {"name": "b"}]})
        assert two.json == {"single": False, "names": ["a", "b"]}
        refused: list[Any] = [
            {"parts": []},
            {"parts": {}},
            {"parts": [1]},
            {"part": [{"name": "a"}]},
        ]
        for bad in refused:
            assert (await c.post("/parts/v1/parts", bad)).status == 400


# Actions


async def test_the_key_of_the_body_chooses_the_action() -> None:
    async with site() as (r, c):
        made = (await c.post("/toy/v1/things", {"thing": {"name": "a"}})).json["thing"]
        await r.sagas.settled()
        await r.store.sync()
        url = f"/toy/v1/things/{made['id']}/action"
        v2 = {"openstack_api_version": "toy 1.2"}
        for body, status in (
            ({"grow": {"size": 5}}, 202),
            ({"shrink": {"size": 5}}, 400),
            ({}, 400),
            ([], 400),
            (None, 400),
            ({"grow": {"size": 5}, "other": 1}, 400),
            ({"grow": {}}, 400),
            ({"grow": None}, 400),
        ):
            reply = await c.post(url, body, **v2)
            assert reply.status == status, body
            await r.sagas.settled()
            await r.store.sync()
        assert (await c.post(url, {"grow": {"size": 5}})).status == 400, "since 1.2 only"
        shown = (await c.get(f"/toy/v1/things/{made['id']}")).json["thing"]
        assert shown["size"] == 5


async def test_one_method_may_answer_several_actions() -> None:
    async with site() as (_, c):
        assert (await c.post("/parts/v1/old", {"a": None})).json == {"keys": ["a"]}
        assert (await c.post("/parts/v1/old", {"b": 1})).json == {"keys": ["b"]}
        assert (await c.post("/parts/v1/old", {"a": 1, "b": 1})).status == 400


# Answers


async def test_answers_have_the_status_headers_and_bytes_they_ask_for() -> None:
    async with site() as (_, c):
        empty = await c.get("/parts/v1/answer/empty")
        assert (empty.status, empty.body) == (204, b"") and "content-type" not in empty.headers
        raw = await c.get("/parts/v1/answer/bytes")
        assert (raw.status, raw.body) == (200, b"raw")
        assert raw.headers["content-type"] == "text/plain"
        status = await c.get("/parts/v1/answer/status")
        assert (status.status, status.json) == (203, {"a": 1})
        none = await c.get("/parts/v1/answer/none")
        assert (none.status, none.headers["location"]) == (204, "/x")


async def test_streams_go_in_and_out() -> None:
    async with site() as (_, c):
        data = b"x" * 200_000
        reply = await c.request(
            "PUT", "/parts/v1/bytes", raw=data, headers={"content-type": "application/octet-stream"}
        )
        assert (reply.status, reply.json) == (201, {"size": 200_000, "length": 200_000,
            "type": "application/octet-stream", "token": MEMBER["x-auth-token"]})  # fmt: skip
        reply = await _sent(c, "PUT", "/parts/v1/bytes", data, {"content-length": ""})
        assert reply.json["length"] == -1 and reply.json["size"] == 200_000
        out = await c.get("/parts/v1/bytes")
        assert (out.status, out.body) == (200, b"abcd")
        assert out.headers["content-type"] == "application/x-part" and out.headers["etag"] == "e"


async def test_a_body_is_not_asked_for_before_its_sender_is_known() -> None:
    async with site() as (_, c):
        asked = 0

        async def app(scope: Any, receive: Any, send: Any) -> None:
            async def counted() -> Any:
                nonlocal asked
                asked += 1
                return await receive()

            await c.app(scope, counted, send)

        waits = {"expect": "100-continue"}
        reply = await Client(app).request("PUT", "/parts/v1/bytes", raw=b"x", headers=waits)
        assert (reply.status, reply.headers["connection"], asked) == (401, "close", 0)
        known = Client(app, c.headers)
        reply = await known.request("PUT", "/parts/v1/bytes", raw=b"x", headers=waits)
        assert reply.status == 201 and asked and "connection" not in reply.headers


async def test_a_header_in_several_lines_is_one_list() -> None:
    async with site() as (_, c):

        async def app(scope: Any, receive: Any, send: Any) -> None:
            name = b"openstack-api-version"
            scope["headers"] += [(name, b"other 7.7"), (name, b"toy 1.2")]
            await c.app(scope, receive, send)

        reply = await Client(app, c.headers).get("/toy/v1/things")
        assert reply.headers["openstack-api-version"] == "toy 1.2"


async def test_a_websocket_that_nobody_declared_is_closed() -> None:
    async with site() as (_, c):
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await c.app({"type": "websocket", "path": "/toy/v1/things", "headers": []}, None, send)
        assert sent == [{"type": "websocket.close"}]


async def test_ossa_2017_001_a_crash_is_500_in_the_dialect_with_nothing_of_the_inside(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with site() as (_, c):
        with caplog.at_level(logging.ERROR):
            reply = await c.get("/parts/v1/crash")
        assert reply.status == 500 and b"hunter2" not in reply.body
        request_id = reply.headers["x-openstack-request-id"]
        assert request_id in reply.json["NeutronError"]["message"]
        assert request_id in caplog.text and "hunter2" in caplog.text
        assert MEMBER["x-auth-token"] not in caplog.text
        assert " GET /parts/v1/crash" in caplog.text
        with caplog.at_level(logging.ERROR):
            assert (await c.get("/parts/v1/tickets/hush")).status == 500
        assert "/tickets/{ticket}" in caplog.text and "hush" not in caplog.text
        assert (await c.get("/parts/v1/public")).status == 200


async def test_a_fault_tells_its_message_and_headers_and_logs_its_inside(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with site() as (_, c):
        with caplog.at_level(logging.INFO, "pileus.kernel.http"):
            reply = await c.get("/parts/v1/conflict")
        error = {"type": "Taken", "message": "no <b>", "detail": ""}
        assert (reply.status, reply.json) == (409, {"NeutronError": error})
        assert reply.headers["x-more"] == "1"
        assert "inside story" in caplog.text and b"inside" not in reply.body


# Versions


@pytest.mark.parametrize(
    ("asked", "status", "told"),
    [
        ("", 200, "toy 1.0"),
        ("toy 1.5", 200, "toy 1.5"),
        ("toy latest", 200, "toy 1.9"),
        ("other 7.7", 200, "toy 1.0"),
        ("other 7.7, toy 1.2", 200, "toy 1.2"),
        ("toy 1.10", 406, ""),
        ("toy 0.9", 406, ""),
        ("toy x", 400, ""),
        ("toy 1", 400, ""),
    ],
)
async def test_versions_are_negotiated_by_header(asked: str, status: int, told: str) -> None:
    async with site() as (_, c):
        reply = await c.get("/toy/v1/things", **({"openstack_api_version": asked} if asked else {}))
        assert reply.status == status
        if told:
            assert reply.headers["openstack-api-version"] == told
            assert reply.headers["vary"] == "OpenStack-API-Version"


async def test_operations_without_a_version_ignore_the_header() -> None:
    async with site() as (_, c):
        reply = await c.get("/parts/v1/public", openstack_api_version="parts 9.9")
        assert reply.status == 200 and "openstack-api-version" not in reply.headers


# Lost races


async def test_a_request_that_lost_a_race_looks_again() -> None:
    async with site() as (r, c):
        made = (await c.post("/toy/v1/things", {"thing": {"name": "a"}})).json["thing"]
        await r.sagas.settled()
        for _ in range(3):  # what is written but not committed yet
            async with r.store.tx(wait=False) as tx:
                thing = await THINGS.get(tx, made["id"])
                await THINGS.change(tx, thing, tags=["x"])
        reply = await c.delete(f"/toy/v1/things/{made['id']}")
        assert reply.status == 204
        await r.sagas.settled()
        await r.store.sync()
        assert await THINGS.all(r.store) == []


@pytest.mark.parametrize(("wins_at", "status", "calls"), [(8, 200, 8), (9, 409, 8)])
async def test_a_race_that_is_always_lost_is_a_conflict_in_the_end(
    wins_at: int, status: int, calls: int
) -> None:
    async with site() as (_, c):
        Parts.lost.clear()
        reply = await c.post("/parts/v1/lost", {"part": {"name": str(wins_at)}})
        assert (reply.status, len(Parts.lost)) == (status, calls)


async def test_bytes_that_went_by_cannot_be_asked_for_again() -> None:
    async with site() as (_, c):
        Parts.lost.clear()
        assert (await c.request("PUT", "/parts/v1/lost", raw=b"x")).status == 409
        assert Parts.lost == ["bytes"]


async def test_an_operation_sees_the_requests_headers() -> None:
    async with site() as (_, c):
        told = (await c.get("/parts/v1/headers", x_more="1")).json
        assert told == {"names": ["host", "x-auth-token", "x-more"], "count": 3}


async def test_of_two_deletes_at_once_one_is_told_that_the_other_is_under_way() -> None:
    async with site() as (r, c):
        made = (await c.post("/toy/v1/things", {"thing": {"name": "a"}})).json["thing"]
        await r.sagas.settled()
        url = f"/toy/v1/things/{made['id']}"
        replies = await asyncio.gather(c.delete(url), c.delete(url))
        assert sorted(x.status for x in replies) == [204, 409]


async def test_over_quota_speaks_the_dialect() -> None:
    async with site() as (_, c):
        replies = [await c.post("/toy/v1/things", {"thing": {"name": f"n{n}"}}) for n in range(11)]
        assert [x.status for x in replies] == [202] * 10 + [403]
        assert message(replies[-1]) == (
            "Quota exceeded for things: Requested 1, but already used 10 of 10 things"
        )


async def test_revoked_tokens_are_refused_at_the_next_request() -> None:
    class Source(AnyProject):
        revoked = False

        async def caller(self, token: str, late: bool) -> Any:
            if self.revoked:
                raise Unauthenticated(NOT_AUTHENTICATED)
            return await super().caller(token, late)

    async with site() as (r, c):
        source = Source()
        r.callers = Callers(r.store, r.world, source)
        assert (await c.get("/toy/v1/things")).status == 200
        source.revoked = True
        assert (await c.get("/toy/v1/things")).status == 200, "remembered"
        async with r.store.tx() as tx:
            await revise(tx, "auth")
        assert (await c.get("/toy/v1/things")).status == 401


def test_the_dialects_default_is_novas() -> None:
    assert SERVICE.dialect is NOVA

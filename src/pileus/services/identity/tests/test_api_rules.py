"""What clients rely on whatever they ask: discovery and headers, errors, bodies, lists, events, and what a first start holds.

What belongs to one noun alone stands with that noun's tests.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
import pytest

from pileus.kernel.events import after, newest
from pileus.services.identity import SERVICE
from pileus.services.identity.tests.clouds import Identity, Who, alone, alone_with
from pileus.testing.client import Reply
from pileus.testing.cloud import cloud

ROOT = "http://cloud.test:5000/identity/v3"
_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}"


# Discovery and headers


def test_the_catalog_has_every_service_where_clients_look_for_it() -> None:
    async def run() -> list[dict[str, Any]]:
        async with cloud(hosts=0) as c:
            found: list[dict[str, Any]] = (await c.admin.get("/identity/v3/auth/catalog")).json[
                "catalog"
            ]
            for entry in found:
                urls = {e["url"].replace(c.admin.project_id, "PROJECT") for e in entry["endpoints"]}
                (entry["url"],) = urls
        return found

    entries = {entry["type"]: entry for entry in asyncio.run(run())}
    assert set(entries) >= {"identity", "image", "placement", "compute", "network"}
    for kind, name, path in (
        ("identity", "keystone", "/identity"),
        ("image", "glance", "/image"),
        ("placement", "placement", "/placement"),
        ("compute", "nova", "/compute/v2.1"),
        ("network", "neutron", "/network"),
        ("block-storage", "cinder", "/volume/v3"),
        ("block-store", "cinder", "/volume/v3"),
        ("volumev3", "cinder", "/volume/v3"),
        ("object-store", "swift", "/object-store/v1/AUTH_PROJECT"),
        ("load-balancer", "octavia", "/load-balancer"),
        ("dns", "designate", "/dns"),
    ):
        if kind in entries:  # no service that is not there is in it
            assert entries[kind]["name"] == name
            assert entries[kind]["url"] == f"http://cloud.test:5000{path}"
    for entry in entries.values():
        shown = entry["endpoints"]
        assert sorted(e["interface"] for e in shown) == ["admin", "internal", "public"]
        assert {(e["region"], e["region_id"]) for e in shown} == {("RegionOne", "RegionOne")}


@alone
async def test_head_answers_as_get_does_but_without_a_body(i: Identity) -> None:
    paths = [op.path for _, op in SERVICE.operations() if op.method == "GET" and "{" not in op.path]
    assert len(paths) > 30
    for path in paths:
        get, head = [await i.admin.client.request(m, path) for m in ("GET", "HEAD")]
        if path.endswith("/auth/tokens"):
            assert (get.status, head.status) == (404, 404)  # no token is named
        assert (head.status, head.body) == (get.status, b""), path
        assert head.headers.get("content-type") == get.headers.get("content-type"), path


@alone
async def test_every_answer_varies_with_the_token_and_has_a_request_id(i: Identity) -> None:
    ids = set()
    for who, method, path, status in (
        (i.admin, "GET", "/users", 200),
        (i.anybody, "GET", "/users", 401),
        (i.admin, "GET", "/users/no", 404),
        (i.admin, "GET", "/nowhere", 404),
        (i.admin, "DELETE", "/users", 405),
        (i.admin, "HEAD", "/users", 200),
        (i.anybody, "GET", "", 200),
    ):
        reply = await _ask(who, method, path)
        assert reply.status == status, path
        assert reply.headers["vary"] == "X-Auth-Token", path
        assert reply.headers["x-openstack-request-id"].startswith("req-")
        ids.add(reply.headers["x-openstack-request-id"])
    assert len(ids) == 7


# Errors


@alone
async def test_every_refusal_is_spelled_alike_and_says_how_to_go_on(i: Identity) -> None:
    nobody = await i.who("nobody")
    long = {"user": {"name": "x" * 200_000}}
    for who, method, path, body, status, title, header in (
        (i.admin, "POST", "/users", {"user": {}}, 400, "Bad Request", ""),
        (i.anybody, "GET", "/users", None, 401, "Unauthorized", "www-authenticate"),
        (nobody, "GET", "/users", None, 403, "Forbidden", ""),
        (i.admin, "GET", "/users/no", None, 404, "Not Found", ""),
        (i.admin, "PUT", "/users", None, 405, "Method Not Allowed", "allow"),
        (i.admin, "POST", "/users", {"user": {"name": "admin"}}, 409, "Conflict", ""),
        (i.admin, "POST", "/users", long, 413, "Request Entity Too Large", "retry-after"),
    ):
        reply = await _ask(who, method, path, body)
        error = reply.json["error"]
        assert (reply.status, error["code"], error["title"]) == (status, status, title), reply
        assert error["message"] and set(error) == {"code", "message", "title"}
        if header:
            assert reply.headers[header], header
    refused = await i.anybody.get("/users")
    assert refused.headers["www-authenticate"] == 'Keystone uri="http://cloud.test:5000/identity"'
    allowed = (await _ask(i.admin, "PUT", "/users")).headers["allow"]
    assert set(allowed.split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}


@alone
async def test_a_service_finishes_what_was_begun_with_a_token_that_expired_since(
    i: Identity,
) -> None:
    project = f"projects/{await i.project('p')}"
    user = await i.who("u", "member", project)
    service, member = await i.who("s", "service", project), await i.who("m", "member", project)
    claims = await i.tokens.open(user.token)
    assert claims is not None

    async def asked(hours_ago: int, **headers: str) -> int:
        ended = i.tokens.now_us() - hours_ago * 3_600_000_000 - 1
        token = await i.tokens.issue(msgspec.structs.replace(claims, expires_us=ended))
        return (await i.anybody.get("/auth/projects", x_auth_token=token, **headers)).status

    assert await asked(1) == 401
    assert await asked(1, x_service_token=service.token) == 200
    assert await asked(49, x_service_token=service.token) == 401
    assert await asked(1, x_service_token=member.token) == 401
    assert await asked(1, x_service_token="nonsense") == 401
    assert await asked(1) == 401


# Bodies

_KEEPING: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/users", {"name": "n"}),
    ("/groups", {"name": "n"}),
    ("/projects", {"name": "n"}),
    ("/domains", {"name": "n"}),
    ("/roles", {"name": "n"}),
    ("/regions", {}),
    ("/services", {"type": "t"}),
    ("/policies", {"type": "t", "blob": "b"}),
    ("/credentials", {"type": "cert", "blob": "b"}),
    ("/OS-OAUTH1/consumers", {}),
)


@alone
async def test_keys_that_nobody_declared_are_kept_changed_and_shown(i: Identity) -> None:
    for path, fields in _KEEPING:
        given = {**fields, "user_id": i.admin.user_id} if path == "/credentials" else fields
        made = await i.admin.make(path, **given, note="a", other=[1, {"b": None}])
        root = {"/policies": "policy"}.get(path, path.rpartition("/")[2][:-1])
        url = f"{path}/{made['id']}"
        changed = (await i.admin.patch(url, {root: {"note": None, "new": 7}})).json[root]
        kept = {"note": None, "other": [1, {"b": None}], "new": 7}
        assert kept.items() <= changed.items(), path
        assert kept.items() <= (await i.admin.get(url)).json[root].items(), path


@alone
async def test_a_key_that_is_absent_changes_nothing_and_null_takes_away(i: Identity) -> None:
    project = await i.project("p")
    for path, fields, key, gone in (
        ("/users", {"name": "n", "default_project_id": project}, "default_project_id", None),
        ("/groups", {"name": "n", "description": "d"}, "description", ""),
        ("/projects", {"name": "n", "description": "d"}, "description", ""),
        ("/domains", {"name": "n", "description": "d"}, "description", ""),
        ("/roles", {"name": "n", "description": "d"}, "description", None),
        ("/regions", {"parent_region_id": "RegionOne"}, "parent_region_id", None),
    ):
        made, root = await i.admin.make(path, **fields), path[1:-1]
        url = f"{path}/{made['id']}"
        same = (await i.admin.patch(url, {root: {"note": 1}})).json[root]
        assert same[key] == made[key], path
        changed = (await i.admin.patch(url, {root: {key: None}})).json[root]
        assert changed.get(key) == gone, path
        assert (await i.admin.patch(url, {root: {}})).status == 400, path


@alone
async def test_names_have_the_length_of_their_noun_in_any_script(i: Identity) -> None:
    for path, longest in (
        ("/users", 255),
        ("/roles", 255),
        ("/groups", 64),
        ("/projects", 64),
        ("/domains", 64),
    ):
        root = path[1:-1]
        made = await i.admin.make(path, name="\U0001f344" * longest)
        assert (await i.admin.get(f"{path}/{made['id']}")).json[root]["name"] == made["name"]
        assert len(made["name"]) == longest
        for bad in ("x" * (longest + 1), "", "  ", 7, None):
            reply = await i.admin.post(path, {root: {"name": bad}})
            assert reply.status == 400, (path, bad)


@alone_with(password_expires_days=1)
async def test_times_are_spelled_as_each_noun_spells_them(i: Identity) -> None:
    project = await i.project("p")
    user = await i.user("u", password="correct-horse", default_project_id=project)
    await i.grant("member", f"projects/{project}", user)
    own, shown = (
        await i.token(user, f"projects/{project}"),
        (await i.admin.get(f"/users/{user}")).json,
    )
    assert re.fullmatch(_TIME, shown["user"]["password_expires_at"])
    token = (await own.get("/auth/tokens", x_subject_token=own.token)).json["token"]
    assert token["user"]["password_expires_at"] == shown["user"]["password_expires_at"]
    for key in ("issued_at", "expires_at"):
        assert re.fullmatch(_TIME + "Z", token[key])
    credential = {"name": "c", "expires_at": "2999-01-02T03:04:05"}
    made = await own.post(
        f"/users/{user}/application_credentials", {"application_credential": credential}
    )
    assert made.json["application_credential"]["expires_at"] == "2999-01-02T03:04:05.000000"
    trust = {
        "trustor_user_id": user,
        "trustee_user_id": i.admin.user_id,
        "impersonation": False,
        "project_id": project,
        "roles": [{"name": "member"}],
        "expires_at": "2999-01-02T03:04:05Z",
    }
    lent = await own.post("/OS-TRUST/trusts", {"trust": trust})
    assert lent.json["trust"]["expires_at"] == "2999-01-02T03:04:05.000000Z"


# Lists


@alone
async def test_lists_filter_page_and_link_alike(i: Identity) -> None:
    for path in ("/users", "/groups", "/projects", "/domains", "/roles"):
        key, before = path[1:], (await i.admin.get(path)).json[path[1:]]
        made = [await i.admin.make(path, name=name) for name in ("Xa", "xb", "xc")]
        ids = [one["id"] for one in made]
        for query, wanted in (
            ("name=XA", ids[:1]),
            ("name__icontains=X&sort_key=name&sort_dir=desc", ids[::-1]),
            (f"marker={ids[0]}", ids[1:]),
            (f"marker={ids[0]}&limit=1", ids[1:2]),
            ("nobody_knows_this=1", [one["id"] for one in before] + ids),
        ):
            reply = await i.admin.get(f"{path}?{query}")
            assert [one["id"] for one in reply.json[key]] == wanted, (path, query, reply)
            assert reply.json["links"]["self"] == f"{ROOT}{path}?{query}"
            assert reply.json["links"]["previous"] is None
        page = (await i.admin.get(f"{path}?marker={ids[0]}&limit=1")).json["links"]["next"]
        rest = (await i.admin.client.get(page)).json
        assert [one["id"] for one in rest[key]] == ids[2:]
        assert (await i.admin.get(f"{path}?marker=no")).status == 404
        for limit in ("-1", "x", "1.5"):
            assert (await i.admin.get(f"{path}?limit={limit}")).status == 400


@pytest.mark.parametrize("path", ["/users", "/projects", "/domains"])
def test_a_boolean_is_understood_in_each_of_its_spellings(path: str) -> None:
    @alone
    async def run(i: Identity) -> None:
        key = path[1:]
        off = (await i.admin.make(path, name="off", enabled=False))["id"]
        every = {one["id"] for one in (await i.admin.get(path)).json[key]}
        for text in ("true", "True", "1"):
            shown = (await i.admin.get(f"{path}?enabled={text}")).json[key]
            assert {one["id"] for one in shown} == every - {off}
        for text in ("false", "False", "0"):
            shown = (await i.admin.get(f"{path}?enabled={text}")).json[key]
            assert [one["id"] for one in shown] == [off]

    run()


# Events, and what outlives what


@alone
async def test_what_happens_to_nouns_is_told_by_upstreams_names(i: Identity) -> None:
    start = await newest(i.cloud.runtime.store)
    user = await i.user("u", password="correct-horse")
    group = (await i.admin.make("/groups", name="g"))["id"]
    await i.admin.put(f"/groups/{group}/users/{user}")
    await i.admin.delete(f"/groups/{group}/users/{user}")
    await i.admin.patch(f"/users/{user}", {"user": {"enabled": False}})
    await i.admin.delete(f"/users/{user}")
    project = await i.project("p")
    grant = f"/projects/{project}/groups/{group}/roles/{await i.role('member')}"
    await i.admin.put(grant)
    await i.admin.delete(grant)
    await i.admin.delete(f"/projects/{project}")
    told = await after(i.cloud.runtime.store, start)
    assert [(e.kind.removeprefix("identity."), e.payload.get("resource_info")) for e in told] == [
        ("user.created", user),
        ("group.created", group),
        ("group.updated", group),
        ("group.updated", group),
        ("user.updated", user),
        ("user.disabled", user),
        ("user.deleted", user),
        ("project.created", project),
        ("role_assignment.created", None),
        ("role_assignment.deleted", None),
        ("project.deleted", project),
    ]
    members = [e.payload for e in told if "actor_id" in e.payload]
    assert [(p["actor_operation"], p["actor_type"], p["actor_id"]) for p in members] == [
        ("added", "user", user),
        ("removed", "user", user),
    ]


def test_what_a_project_had_in_other_services_outlives_it() -> None:
    async def run() -> None:
        async with cloud(hosts=0) as c:
            member = await c.project("left")
            body = {"network": {"name": "left"}}
            made = (await member.post("/network/v2.0/networks", body)).json["network"]
            gone = await c.admin.delete(f"/identity/v3/projects/{member.project_id}")
            assert gone.status == 204
            left = await c.admin.get(f"/network/v2.0/networks/{made['id']}")
            assert left.json["network"]["project_id"] == member.project_id
            assert (await member.get("/network/v2.0/networks")).status == 401

    asyncio.run(run())


# A first start


@alone
async def test_a_first_start_holds_the_default_domain_the_administrator_and_four_roles_in_a_row(
    i: Identity,
) -> None:
    (domain,) = (await i.admin.get("/domains")).json["domains"]
    assert (domain["id"], domain["name"], domain["enabled"]) == ("default", "Default", True)
    (admin,) = (await i.admin.get("/users")).json["users"]
    assert (admin["name"], admin["domain_id"]) == ("admin", "default")
    projects = {p["name"]: p["id"] for p in (await i.admin.get("/projects")).json["projects"]}
    assert set(projects) == {"admin", "service"}
    rows = (await i.admin.get("/role_assignments?include_names")).json["role_assignments"]
    assert [row["role"]["name"] for row in rows] == ["admin", "admin"]
    scopes = [row["scope"] for row in rows]
    assert {"system": {"all": True}} in scopes
    assert projects["admin"] in [scope.get("project", {}).get("id") for scope in scopes]
    inferences = (await i.admin.get("/role_inferences")).json["role_inferences"]
    assert {
        (one["prior_role"]["name"], implied["name"])
        for one in inferences
        for implied in one["implies"]
    } == {("admin", "manager"), ("manager", "member"), ("member", "reader")}
    token = (await i.admin.get("/auth/tokens", x_subject_token=i.admin.token)).json["token"]
    assert {r["name"] for r in token["roles"]} == {"admin", "manager", "member", "reader"}
    assert [r["id"] for r in (await i.admin.get("/regions")).json["regions"]] == ["RegionOne"]


async def _ask(who: Who, method: str, path: str, body: Any = None) -> Reply:
    return await who.client.request(method, f"/identity/v3{path}", body)

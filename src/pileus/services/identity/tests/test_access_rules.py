"""Application credentials that may do only what their access rules say, at every service."""

from __future__ import annotations

import asyncio
from typing import Any

from pileus.services.identity.tests.clouds import Identity, Who, alone
from pileus.services.identity.tests.test_delegation import lent
from pileus.testing.client import Client
from pileus.testing.cloud import cloud


def rule(service: str, method: str, path: str) -> dict[str, str]:
    return {"service": service, "method": method, "path": path}


async def narrowed(client: Client, *rules: dict[str, str]) -> Client:
    """A client of a new application credential with those rules."""
    url = f"/identity/v3/users/{client.user_id}/application_credentials"
    body = {"application_credential": {"name": "narrow", "access_rules": list(rules)}}
    reply = await client.post(url, body)
    assert reply.status == 201, reply
    made = reply.json["application_credential"]
    part = {"id": made["id"], "secret": made["secret"]}
    identity = {"methods": ["application_credential"], "application_credential": part}
    got = await client.post("/identity/v3/auth/tokens", {"auth": {"identity": identity}})
    assert got.status == 201, got
    return client.as_(got.headers["x-subject-token"])


def test_a_request_passes_where_a_rule_lets_it_and_nowhere_else() -> None:
    async def run() -> None:
        async with cloud(hosts=0) as c:
            member = await c.project("p")
            allowed = await narrowed(
                member,
                rule("compute", "GET", "/v2.1/servers"),
                rule("compute", "GET", "/v2.1/flavors/*"),
                rule("network", "GET", "/network/v2.0/**"),
                rule("image", "POST", "/v2/images"),
            )
            flavor = (await member.get("/compute/v2.1/flavors")).json["flavors"][0]["id"]
            for path, status in (
                ("/compute/v2.1/servers", 200),
                (f"/compute/v2.1/flavors/{flavor}", 200),
                ("/compute/v2.1/flavors", 401),
                ("/compute/v2.1/servers/detail", 401),
                (f"/compute/v2.1/flavors/{flavor}/os-extra_specs", 401),
                ("/compute/v2.1/flavors/..%2Fos-keypairs", 404),
                ("/network/v2.0/networks", 200),
                ("/network/v2.0/security-groups", 200),
                ("/image/v2/images", 401),
                ("/identity/v3/auth/projects", 401),
                ("/compute/", 200),  # needs no token, so it is nobody's
            ):
                reply = await allowed.get(path)
                assert reply.status == status, (path, reply)
            made = await allowed.post("/image/v2/images", {"name": "x"})
            assert made.status == 201, made
            assert (await allowed.post("/compute/v2.1/servers", {})).status == 401

    asyncio.run(run())


@alone
async def test_a_token_with_rules_can_be_validated_by_those_who_heed_them(i: Identity) -> None:
    owner = await i.who("u", "member", f"projects/{await i.project('p')}")
    rules = [rule("compute", "GET", "/v2.1/servers")]
    made, who = await lent(i, owner, access_rules=rules)
    assert [{k: r[k] for k in rules[0]} for r in made["access_rules"]] == rules
    shown = await who.get(
        "/auth/tokens", x_subject_token=who.token, openstack_identity_access_rules="1"
    )
    inside = shown.json["token"]["application_credential"]
    assert inside["access_rules"] == made["access_rules"]
    for said in ({}, {"openstack_identity_access_rules": "0.9"}):
        reply = await i.admin.get("/auth/tokens", x_subject_token=who.token, **said)
        assert reply.status == 404, (said, reply)
    for headers in ({}, {"x_service_token": who.token}):
        assert (await who.get("/auth/projects", **headers)).status == 401
    service = await i.who("s", "service", f"projects/{await i.project('services')}")
    reply = await who.get("/auth/projects", x_service_token=service.token)
    assert reply.status == 200, "what a service does for a user on his request goes on"


@alone
async def test_rules_are_kept_once_shown_and_deleted_when_nothing_uses_them(i: Identity) -> None:
    owner = await i.who("u", "member", f"projects/{await i.project('p')}")
    one, two = rule("compute", "GET", "/v2.1/servers"), rule("image", "GET", "/v2/images")
    first, _ = await lent(i, owner, access_rules=[one, one, two])
    second, _ = await lent(i, owner, access_rules=[one, {"id": first["access_rules"][1]["id"]}])
    assert second["access_rules"] == first["access_rules"] and len(first["access_rules"]) == 2
    path = f"/users/{owner.user_id}/access_rules"
    listed = (await owner.get(path)).json["access_rules"]
    listed.sort(key=lambda found: str(found["service"]))  # made at once, they are in no order
    assert [{k: r[k] for k in one} for r in listed] == [one, two]
    assert len((await owner.get(f"{path}?service=image")).json["access_rules"]) == 1
    id = listed[0]["id"]
    assert (await owner.get(f"{path}/{id}")).json["access_rule"] == listed[0]
    assert listed[0]["links"]["self"].endswith(f"/v3/access_rules/{id}")
    assert (await owner.delete(f"{path}/{id}")).status == 403
    for made in (first, second):
        credential = f"/users/{owner.user_id}/application_credentials/{made['id']}"
        assert (await owner.delete(credential)).status == 204
    assert (await owner.delete(f"{path}/{id}")).status == 204
    assert (await owner.get(f"{path}/{id}")).status == 404


@alone
async def test_rules_are_their_users_alone(i: Identity) -> None:
    owner = await i.who("u", "member", f"projects/{await i.project('p')}")
    other = await i.who("o", "admin", f"projects/{owner.project_id}")
    made, _ = await lent(i, owner, access_rules=[rule("compute", "GET", "/v2.1/servers")])
    id = made["access_rules"][0]["id"]
    path = f"/users/{owner.user_id}/access_rules"
    for url in (path, f"{path}/{id}"):
        assert (await other.get(url)).status == 403
    assert (await other.delete(f"{path}/{id}")).status == 403
    assert (await other.get(f"/users/{other.user_id}/access_rules/{id}")).status == 404
    assert (await other.delete(f"/users/{other.user_id}/access_rules/{id}")).status == 404
    stolen = {"name": "s", "access_rules": [{"id": id}]}
    mine = f"/users/{other.user_id}/application_credentials"
    assert (await other.post(mine, {"application_credential": stolen})).status == 404


@alone
async def test_what_is_no_rule_is_refused(i: Identity) -> None:
    owner = await i.who("u", "member", f"projects/{await i.project('p')}")
    path = f"/users/{owner.user_id}/application_credentials"
    good: dict[str, Any] = rule("compute", "GET", "/v2.1/servers")
    for n, bad in enumerate(
        (
            {**good, "method": "BREW"},
            {**good, "path": "v2.1/servers"},
            {**good, "path": "/" + "x" * 225},
            {**good, "service": "s p"},
            {**good, "more": 1},
            {"service": "compute", "method": "GET"},
            "GET /v2.1/servers",
        )
    ):
        asked = {"name": f"n{n}", "access_rules": [bad]}
        reply = await owner.post(path, {"application_credential": asked})
        assert reply.status == 400, (bad, reply)
    assert (await owner.get(f"/users/{owner.user_id}/access_rules")).json["access_rules"] == []


@alone
async def test_a_token_where_oauth_clients_send_it_is_heeded(i: Identity) -> None:
    who = await i.who("u", "member", f"projects/{await i.project('p')}")
    got = await i.anybody.get("/auth/projects", authorization=f"Bearer {who.token}")
    assert [p["id"] for p in got.json["projects"]] == [who.project_id]
    for wrong in (f"Basic {who.token}", "Bearer", "Bearer x", who.token):
        assert (await i.anybody.get("/auth/projects", authorization=wrong)).status == 401


@alone
async def test_rules_go_with_their_user(i: Identity) -> None:
    owner = await i.who("u", "member", f"projects/{await i.project('p')}")
    made, _ = await lent(i, owner, access_rules=[rule("compute", "GET", "/v2.1/servers")])
    reader: Who = await i.who("r", "reader", "system")
    path = f"/users/{owner.user_id}/access_rules/{made['access_rules'][0]['id']}"
    assert (await reader.get(path)).status == 200
    assert (await i.admin.delete(f"/users/{owner.user_id}")).status == 204
    assert (await reader.get(path)).status == 404


@alone
async def test_a_credential_with_rules_makes_none_that_may_more(i: Identity) -> None:
    owner = await i.who("u", "member", f"projects/{await i.project('p')}")
    path = f"/users/{owner.user_id}/application_credentials"
    make, see = rule("identity", "POST", f"/v3{path}"), rule("compute", "GET", "/v2.1/servers")
    _, who = await lent(i, owner, unrestricted=True, access_rules=[make, see])
    more = rule("compute", "DELETE", "/v2.1/servers/*")
    for n, rules in enumerate(([], [more], [see, more])):
        asked = {"name": f"wide-{n}", "access_rules": rules}
        assert (await who.post(path, {"application_credential": asked})).status == 403, rules
    for rules in ([see], [see, make]):
        made, _ = await lent(i, who, access_rules=rules)
        assert [{k: r[k] for k in see} for r in made["access_rules"]] == rules
    kept = (await owner.get(f"/users/{owner.user_id}/access_rules")).json["access_rules"]
    assert len(kept) == 2, "what was refused left no rule behind"

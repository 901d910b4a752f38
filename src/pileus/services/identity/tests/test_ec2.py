"""EC2 credentials, and the tokens that services get for what was signed with them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any
from urllib.parse import quote

from pileus.kernel.world import stamp
from pileus.services.identity.tests.clouds import Identity, Who, alone
from pileus.services.identity.tests.test_delegation import lent, trusted
from pileus.testing.client import Reply


async def pair_of(owner: Who, project: str = "") -> dict[str, Any]:
    """A new key pair."""
    path = f"/users/{owner.user_id}/credentials/OS-EC2"
    reply = await owner.post(path, {"tenant_id": project or owner.project_id})
    assert reply.status == 201, reply
    made: dict[str, Any] = reply.json["credential"]
    return made


def signed(i: Identity, pair: dict[str, Any], age_s: float = 0) -> dict[str, Any]:
    """A request to an EC2 API signed by version 2."""
    params = {
        "Action": "DescribeInstances",
        "AWSAccessKeyId": pair["access"],
        "SignatureMethod": "HmacSHA256",
        "SignatureVersion": "2",
        "Timestamp": stamp(i.cloud.runtime.world.clock.time() - age_s)[:19] + "Z",
    }
    query = "&".join(f"{k}={quote(v, safe='-_~')}" for k, v in sorted(params.items()))
    text = f"GET\ncloud.test\n/\n{query}"
    made = hmac.new(pair["secret"].encode(), text.encode(), hashlib.sha256).digest()
    return {
        "access": pair["access"],
        "signature": base64.b64encode(made).decode(),
        "verb": "GET",
        "host": "cloud.test",
        "path": "/",
        "params": params,
    }


async def ask(who: Who, document: dict[str, Any]) -> Reply:
    return await who.post("/ec2tokens", {"credentials": document})


@alone
async def test_a_key_pair_is_made_shown_listed_and_deleted_by_its_user(i: Identity) -> None:
    owner = await i.who("u", "member", f"projects/{await i.project('p')}")
    made = await pair_of(owner)
    path = f"/users/{owner.user_id}/credentials/OS-EC2"
    assert made["tenant_id"] == owner.project_id and made["trust_id"] is None
    assert made["links"]["self"].endswith(f"/v3{path}/{made['access']}")
    assert (await owner.get(f"{path}/{made['access']}")).json["credential"] == made
    assert (await owner.get(path)).json["credentials"] == [made]
    blob = (await owner.get("/credentials?type=ec2")).json["credentials"][0]
    assert made["secret"] in blob["blob"]
    other = await i.who("o", "member", f"projects/{owner.project_id}")
    for who, user in ((other, owner.user_id), (other, other.user_id)):
        wrong = f"/users/{user}/credentials/OS-EC2/{made['access']}"
        assert (await who.get(wrong)).status == 403
        assert (await who.delete(wrong)).status == 403
    assert (await other.get(path)).status == 403
    assert (await other.post(path, {"tenant_id": owner.project_id})).status == 403
    elsewhere = f"/users/{other.user_id}/credentials/OS-EC2/{made['access']}"
    assert (await owner.get(elsewhere)).json["credential"] == made
    assert (await owner.get(elsewhere.replace(other.user_id, "nobody"))).status == 404
    assert (await owner.delete(f"{path}/{made['access']}")).status == 204
    assert (await owner.get(f"{path}/{made['access']}")).status == 404
    assert (await owner.get("/credentials?type=ec2")).json["credentials"] == []


@alone
async def test_a_key_pair_is_only_worth_something_where_its_user_has_a_role(
    i: Identity,
) -> None:
    owner = await i.who("u", "member", f"projects/{await i.project('p')}")
    path = f"/users/{owner.user_id}/credentials/OS-EC2"
    useless = await pair_of(owner, await i.project("q"))
    assert (await ask(i.admin, signed(i, useless))).status == 401
    assert (await owner.post(path, {"tenant_id": "nowhere"})).status == 404
    assert (await owner.post(path, {})).status == 404
    reader = await i.who("r", "reader", f"projects/{owner.project_id}")
    own = f"/users/{reader.user_id}/credentials/OS-EC2"
    assert (await reader.post(own, {"tenant_id": owner.project_id})).status == 403
    assert (await reader.get(own)).json["credentials"] == []


@alone
async def test_a_signature_yields_a_token_that_lists_its_users_projects(i: Identity) -> None:
    owner = await i.who("u", "member", f"projects/{await i.project('p')}")
    pair = await pair_of(owner)
    service = await i.who("s", "service", f"projects/{await i.project('services')}")
    reply = await ask(service, signed(i, pair))
    assert reply.status == 200, reply
    token = reply.json["token"]
    assert token["methods"] == ["ec2credential"] and token["user"]["id"] == owner.user_id
    assert [r["name"] for r in token["roles"]] == ["member", "reader"]
    got = Who(i.anybody.client.as_(reply.headers["x-subject-token"]), owner.user_id)
    projects = (await got.get("/auth/projects")).json["projects"]
    assert [p["id"] for p in projects] == [owner.project_id]
    for name in ("credential", "ec2Credentials"):
        assert (await service.post("/ec2tokens", {name: signed(i, pair)})).status == 200
    wrong = signed(i, {**pair, "secret": "other"})
    assert (await ask(service, wrong)).status == 401
    assert (await ask(service, signed(i, {**pair, "access": "unknown"}))).status == 404
    assert (await ask(service, {**signed(i, pair), "signature": ""})).status == 401
    assert (await ask(service, {})).status == 401
    assert (await ask(service, {"access": 7})).status == 400
    assert (await service.get("/ec2tokens")).status == 405


@alone
async def test_ossa_2020_003_a_signature_is_good_for_a_quarter_of_an_hour(i: Identity) -> None:
    owner = await i.who("u", "member", f"projects/{await i.project('p')}")
    pair = await pair_of(owner)
    ages = {0: 200, 14 * 60: 200, 16 * 60: 401, -16 * 60: 401}
    for age_s, status in ages.items():
        assert (await ask(i.admin, signed(i, pair, age_s))).status == status, age_s


@alone
async def test_ossa_2025_002_nobody_but_services_gets_a_token_for_a_signature(
    i: Identity,
) -> None:
    owner = await i.who("u", "manager", f"projects/{await i.project('p')}")
    pair = await pair_of(owner)
    for who, status in ((i.anybody, 401), (owner, 403), (i.admin, 200)):
        assert (await ask(who, signed(i, pair))).status == status
        assert (await who.post("/s3tokens", {"credentials": s3(pair)})).status == status


def s3(pair: dict[str, Any]) -> dict[str, Any]:
    text = b"GET\n\n\nTue, 27 Mar 2007 19:36:42 +0000\n/bucket/key"
    made = hmac.new(pair["secret"].encode(), text, hashlib.sha1).digest()
    return {
        "access": pair["access"],
        "token": base64.urlsafe_b64encode(text).decode(),
        "signature": base64.b64encode(made).decode(),
    }


@alone
async def test_an_s3_signature_tells_who_signed_but_gives_no_token_away(i: Identity) -> None:
    owner = await i.who("u", "member", f"projects/{await i.project('p')}")
    pair = await pair_of(owner)
    reply = await i.admin.post("/s3tokens", {"credentials": s3(pair)})
    assert reply.json["token"]["project"]["id"] == owner.project_id
    assert "x-subject-token" not in reply.headers
    wrong = {"credentials": {**s3(pair), "token": base64.b64encode(b"PUT").decode()}}
    assert (await i.admin.post("/s3tokens", wrong)).status == 401
    odd = {"credentials": {**s3(pair), "token": base64.b64encode(b"AWS4").decode()}}
    assert (await i.admin.post("/s3tokens", odd)).status == 401


@alone
async def test_a_signature_ends_with_user_project_and_role(i: Identity) -> None:
    owner = await i.who("u", "member", f"projects/{await i.project('p')}")
    pair = await pair_of(owner)
    for path, root in (
        (f"/users/{owner.user_id}", "user"),
        (f"/projects/{owner.project_id}", "project"),
    ):
        await i.admin.patch(path, {root: {"enabled": False}})
        assert (await ask(i.admin, signed(i, pair))).status == 401, path
        await i.admin.patch(path, {root: {"enabled": True}})
        assert (await ask(i.admin, signed(i, pair))).status == 200, path
    role = f"/projects/{owner.project_id}/users/{owner.user_id}/roles/{await i.role('member')}"
    await i.admin.delete(role)
    assert (await ask(i.admin, signed(i, pair))).status == 401


@alone
async def test_a_token_for_a_signature_never_becomes_more(i: Identity) -> None:
    owner = await i.who("u", "member", f"projects/{await i.project('p')}")
    reply = await ask(i.admin, signed(i, await pair_of(owner)))
    token = reply.headers["x-subject-token"]
    got = Who(i.anybody.client.as_(token), owner.user_id, owner.project_id)
    assert (await i.login(token={"id": token})).status == 403
    mine = f"/users/{owner.user_id}"
    assert (await got.post(f"{mine}/credentials/OS-EC2", {"tenant_id": "x"})).status in (403, 404)
    path = f"{mine}/credentials/OS-EC2"
    assert (await got.post(path, {"tenant_id": owner.project_id})).status == 403
    assert (await got.get(path)).status == 403
    body = {"application_credential": {"name": "a"}}
    assert (await got.post(f"{mine}/application_credentials", body)).status == 403
    assert (await got.get("/credentials")).status == 403


@alone
async def test_a_lent_token_makes_no_key_pair(i: Identity) -> None:
    owner = await i.who("u", "member", f"projects/{await i.project('p')}")
    for unrestricted in (False, True):
        _, who = await lent(i, owner, unrestricted=unrestricted)
        path = f"/users/{owner.user_id}/credentials/OS-EC2"
        assert (await who.post(path, {"tenant_id": owner.project_id})).status == 403


@alone
async def test_a_key_pair_bound_to_a_trust_or_credential_gives_no_more_than_it(
    i: Identity,
) -> None:
    trust, trustor, trustee = await trusted(i)
    fields: dict[str, Any] = {"trustor_user_id": trustor.user_id}
    fields["trustee_user_id"] = trustee.user_id
    fields |= {"project_id": trustor.project_id, "roles": [{"name": "member"}]}
    other = await trustor.make("/OS-TRUST/trusts", impersonation=False, **fields)
    made, _ = await lent(i, trustor, roles=[{"name": "reader"}])
    stranger = await i.who("x", "member", f"projects/{trustor.project_id}")
    cases: tuple[tuple[Who, dict[str, str], int, list[str]], ...] = (
        (trustor, {"app_cred_id": made["id"]}, 200, ["reader"]),
        (trustor, {"trust_id": trust["id"]}, 200, ["member", "reader"]),
        (trustee, {"trust_id": trust["id"]}, 200, ["member", "reader"]),
        (trustee, {"trust_id": other["id"]}, 200, ["member", "reader"]),
        (trustor, {"trust_id": other["id"]}, 401, []),  # it would bear the trustee's name
        (stranger, {"trust_id": trust["id"]}, 401, []),
        (stranger, {"app_cred_id": made["id"]}, 401, []),
    )
    for n, (who, bound, status, roles) in enumerate(cases):
        pair = {"access": f"key-{n}", "secret": "s3cret", **bound}
        fields = {"user_id": who.user_id, "project_id": trustor.project_id, "type": "ec2"}
        blob = json.dumps(pair)
        await i.admin.make("/credentials", blob=blob, **fields)
        reply = await ask(i.admin, signed(i, pair))
        assert reply.status == status, (bound, reply)
        if status == 200:
            assert [r["name"] for r in reply.json["token"]["roles"]] == roles


@alone
async def test_a_key_pair_without_a_secret_signs_nothing_and_is_still_listed(i: Identity) -> None:
    """A signature with an empty secret could be made by whoever knows the access key."""
    owner = await i.who("u", "member", f"projects/{await i.project('p')}")
    fields = {"user_id": owner.user_id, "project_id": owner.project_id, "type": "ec2"}
    blobs: list[dict[str, Any]] = [
        {},
        {"secret": ""},
        {"secret": 1},
        {"secret": "s", "trust_id": 2},
    ]
    for n, blob in enumerate(blobs):
        await i.admin.make(
            "/credentials", blob=json.dumps({"access": f"key-{n}", **blob}), **fields
        )
        pair = {"access": f"key-{n}", "secret": ""}
        assert (await ask(i.admin, signed(i, pair))).status == 404
        assert (await i.admin.post("/s3tokens", {"credentials": s3(pair)})).status == 404
    path = f"/users/{owner.user_id}/credentials/OS-EC2"
    shown = (await owner.get(path)).json["credentials"]
    assert [c["secret"] for c in shown] == [None, "", 1, "s"]
    for c in shown:
        assert (await owner.delete(f"{path}/{c['access']}")).status == 204


@alone
async def test_what_has_no_access_key_does_not_become_a_key_pair(i: Identity) -> None:
    user = await i.user("u")
    made = await i.admin.make("/credentials", user_id=user, type="cert", blob="pem")
    change = {"credential": {"type": "ec2"}}
    assert (await i.admin.patch(f"/credentials/{made['id']}", change)).status == 400
    for blob in ("[" * 50_000, "{}", "[]", '{"access": 1}'):
        fields = {"user_id": user, "project_id": i.admin.project_id, "type": "ec2", "blob": blob}
        assert (await i.admin.post("/credentials", {"credential": fields})).status == 400
    assert (await i.admin.get(f"/users/{user}/credentials/OS-EC2")).json["credentials"] == []

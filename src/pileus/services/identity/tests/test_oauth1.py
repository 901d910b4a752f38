"""OAuth 1.0a: consumers, what users lend to them, and signatures made by oauthlib and keystoneauth."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any
from urllib.parse import parse_qsl

import pytest
from keystoneauth1 import session
from keystoneauth1.extras.oauth1 import V3OAuth1
from oauthlib import oauth1

from pileus.services.identity.oauth1 import access_tokens
from pileus.services.identity.oauth1.access_tokens import ACCESS_TOKENS, REQUEST_TOKENS
from pileus.services.identity.oauth1.signatures import SEEN_SIGNATURES, base_string, signature
from pileus.services.identity.tests.clouds import Identity, Who, alone
from pileus.services.identity.tests.served import served
from pileus.testing.client import Reply

ROOT = "http://cloud.test:5000/identity/v3"
Secret = tuple[str, str]  # an id and what goes with it


def signed(
    consumer: Secret, path: str, token: Secret = ("", ""), verifier: str = "", **more: Any
) -> str:
    """The Authorization header that oauthlib makes for a POST."""
    client = oauth1.Client(
        consumer[0],
        client_secret=consumer[1],
        resource_owner_key=token[0] or None,
        resource_owner_secret=token[1] or None,
        verifier=verifier or None,
        **more,
    )
    _, headers, _ = client.sign(ROOT + path, http_method="POST")
    return str(headers["Authorization"])


async def consumer_of(i: Identity) -> Secret:
    made = await i.admin.make("/OS-OAUTH1/consumers", description="a program")
    return str(made["id"]), str(made["secret"])


async def sent(i: Identity, path: str, authorization: str, **headers: str) -> Reply:
    url = "/identity/v3" + path
    return await i.anybody.client.post(url, authorization=authorization, **headers)


def told(reply: Reply) -> Secret:
    assert reply.status == 201, reply
    assert reply.headers["content-type"] == "application/x-www-form-urlencoded"
    found = dict(parse_qsl(reply.body.decode()))
    assert found["oauth_expires_at"].endswith("Z")
    return found["oauth_token"], found["oauth_token_secret"]


async def asked(i: Identity, consumer: Secret, project: str) -> Secret:
    path = "/OS-OAUTH1/request_token"
    header = signed(consumer, path, callback_uri="oob")
    return told(await sent(i, path, header, requested_project_id=project))


async def authorized(who: Who, token: Secret, *roles: dict[str, str]) -> str:
    path = f"/OS-OAUTH1/authorize/{token[0]}"
    reply = await who.put(path, {"roles": list(roles)})
    assert reply.status == 200, reply
    return str(reply.json["token"]["oauth_verifier"])


async def lent(i: Identity, who: Who, *roles: str) -> tuple[Secret, Secret]:
    """A consumer, and the access token by which `who` lends it roles in his project."""
    consumer = await consumer_of(i)
    request = await asked(i, consumer, who.project_id)
    verifier = await authorized(who, request, *({"name": r} for r in roles))
    path = "/OS-OAUTH1/access_token"
    return consumer, told(await sent(i, path, signed(consumer, path, request, verifier)))


async def login(i: Identity, consumer: Secret, token: Secret, **more: Any) -> Reply:
    identity = {"methods": ["oauth1"], "oauth1": {}}
    header = more.pop("header", "") or signed(consumer, "/auth/tokens", token, **more)
    body = {"auth": {"identity": identity}}
    return await i.anybody.client.post("/identity/v3/auth/tokens", body, authorization=header)


@alone
async def test_a_consumer_shows_its_secret_once(i: Identity) -> None:
    made = await i.admin.make("/OS-OAUTH1/consumers", description="d", extra="kept")
    assert len(made["secret"]) == 32 and made["extra"] == "kept"
    one = f"/OS-OAUTH1/consumers/{made['id']}"
    shown = (await i.admin.get(one)).json["consumer"]
    assert "secret" not in shown and shown["description"] == "d" and shown["extra"] == "kept"
    assert shown["links"]["self"].endswith(one)
    changed = await i.admin.patch(one, {"consumer": {"description": "new"}})
    assert changed.json["consumer"]["description"] == "new"
    for bad in ({}, {"secret": "x"}, {"description": 5}):
        assert (await i.admin.patch(one, {"consumer": bad})).status == 400, bad
    listed = (await i.admin.get("/OS-OAUTH1/consumers")).json["consumers"]
    assert [c["id"] for c in listed] == [made["id"]] and "secret" not in listed[0]
    reader = await i.who("r", "reader", "system")
    assert (await reader.get(one)).status == 200 and (await reader.delete(one)).status == 403
    assert (await i.admin.delete(one)).status == 204
    assert (await i.admin.get(one)).status == 404


@alone
async def test_a_user_lends_a_role_and_the_consumer_logs_in_with_it(i: Identity) -> None:
    boss = await i.who("boss", "admin", f"projects/{await i.project('p')}")
    consumer, token = await lent(i, boss, "reader")
    reply = await login(i, consumer, token)
    assert reply.status == 201, reply
    shown = reply.json["token"]
    assert shown["OS-OAUTH1"] == {"access_token_id": token[0], "consumer_id": consumer[0]}
    assert shown["user"]["id"] == boss.user_id and shown["methods"] == ["oauth1"]
    assert shown["project"]["id"] == boss.project_id
    program = i.anybody.client.as_(reply.headers["x-subject-token"])
    found = (await program.get("/identity/v3/auth/projects")).json["projects"]
    assert [p["id"] for p in found] == [boss.project_id]


@alone
async def test_ossa_2020_005_an_access_token_has_the_roles_that_were_lent_and_no_others(
    i: Identity,
) -> None:
    boss = await i.who("boss", "admin", f"projects/{await i.project('p')}")
    consumer, token = await lent(i, boss, "reader")
    reply = await login(i, consumer, token)
    assert [r["name"] for r in reply.json["token"]["roles"]] == ["reader"]
    program = i.anybody.client.as_(reply.headers["x-subject-token"])
    assert (await program.get("/identity/v3/users")).status == 403


@alone
async def test_ossa_2026_037_and_cve_2026_90460_an_access_tokens_token_lends_no_further(
    i: Identity,
) -> None:
    boss = await i.who("boss", "admin", f"projects/{await i.project('p')}")
    await i.grant("admin", f"projects/{await i.project('other')}", boss.user_id)
    consumer, token = await lent(i, boss, "admin")
    got = (await login(i, consumer, token)).headers["x-subject-token"]
    program = Who(i.anybody.client.as_(got), boss.user_id, boss.project_id, "", got)
    request = await asked(i, consumer, boss.project_id)
    path = f"/OS-OAUTH1/authorize/{request[0]}"
    assert (await program.put(path, {"roles": [{"name": "admin"}]})).status == 403
    mine = f"/users/{boss.user_id}"
    trust: dict[str, Any] = {"trustor_user_id": boss.user_id, "trustee_user_id": i.admin.user_id}
    trust |= {"impersonation": True, "project_id": boss.project_id, "roles": [{"name": "admin"}]}
    secret = {"user_id": boss.user_id, "type": "totp", "blob": "b"}
    for refused in (
        program.get("/credentials"),
        program.post("/credentials", {"credential": secret}),
        program.post(f"{mine}/credentials/OS-EC2", {"tenant_id": boss.project_id}),
        program.post("/OS-TRUST/trusts", {"trust": trust}),
        program.get(f"{mine}/OS-OAUTH1/access_tokens"),
        program.delete(f"{mine}/OS-OAUTH1/access_tokens/{token[0]}"),
        program.post(f"{mine}/application_credentials", {"application_credential": {"name": "x"}}),
        i.login(token={"id": got}),
        i.login(
            token={"id": got}, scope={"project": {"name": "other", "domain": {"id": "default"}}}
        ),
    ):
        assert (await refused).status == 403


@alone
async def test_what_is_lent_can_be_seen_and_taken_back(i: Identity) -> None:
    boss = await i.who("boss", "admin", f"projects/{await i.project('p')}")
    consumer, token = await lent(i, boss, "reader", "member")
    many = f"/users/{boss.user_id}/OS-OAUTH1/access_tokens"
    shown = (await boss.get(many)).json["access_tokens"]
    assert [t["id"] for t in shown] == [token[0]] and "access_secret" not in shown[0]
    assert shown[0]["consumer_id"] == consumer[0]
    assert shown[0]["links"]["roles"].endswith(f"{many}/{token[0]}/roles")
    one = (await boss.get(f"{many}/{token[0]}")).json["access_token"]
    assert one["authorizing_user_id"] == boss.user_id and "secret" not in one
    roles = (await boss.get(f"{many}/{token[0]}/roles")).json["roles"]
    assert sorted(r["name"] for r in roles) == ["member", "reader"]
    role = f"{many}/{token[0]}/roles/{roles[0]['id']}"
    assert (await boss.get(role)).json["role"]["id"] == roles[0]["id"]
    assert (await boss.get(f"{many}/{token[0]}/roles/{await i.role('admin')}")).status == 404
    other = f"/users/{i.admin.user_id}/OS-OAUTH1/access_tokens/{token[0]}"
    for path in (other, f"{other}/roles"):
        assert (await boss.get(path)).status == 404
    assert (await boss.delete(other)).status == 404
    got = (await login(i, consumer, token)).headers["x-subject-token"]
    assert (await boss.delete(f"{many}/{token[0]}")).status == 204
    program = i.anybody.client.as_(got)
    assert (await program.get("/identity/v3/auth/projects")).status == 401
    assert (await login(i, consumer, token)).status == 401


@alone
async def test_what_was_lent_ends_with_its_consumer_its_user_and_his_role(i: Identity) -> None:
    project = await i.project("p")
    boss = await i.who("boss", "admin", f"projects/{project}")

    async def program(*roles: str) -> tuple[Secret, Secret, Any]:
        consumer, token = await lent(i, boss, *roles)
        reply = await login(i, consumer, token)
        return consumer, token, i.anybody.client.as_(reply.headers["x-subject-token"])

    consumer, token, got = await program("reader")
    assert (await i.admin.delete(f"/OS-OAUTH1/consumers/{consumer[0]}")).status == 204
    assert (await got.get("/identity/v3/auth/projects")).status == 401
    assert (await login(i, consumer, token)).status == 401
    consumer, token, got = await program("admin")
    role = f"/projects/{project}/users/{boss.user_id}/roles/{await i.role('admin')}"
    assert (await i.admin.delete(role)).status == 204
    assert (await login(i, consumer, token)).status == 401
    assert (await i.admin.put(role)).status == 204
    assert (await login(i, consumer, token)).status == 201
    assert (await i.admin.delete(f"/users/{boss.user_id}")).status == 204
    assert (await login(i, consumer, token)).status == 401
    assert await ACCESS_TOKENS.all(i.cloud.runtime.store) == []


@alone
async def test_only_roles_that_the_user_holds_there_can_be_lent(i: Identity) -> None:
    boss = await i.who("boss", "admin", f"projects/{await i.project('p')}")
    elsewhere = await i.who("else", "admin", f"projects/{await i.project('q')}")
    request = await asked(i, await consumer_of(i), boss.project_id)
    path = f"/OS-OAUTH1/authorize/{request[0]}"
    lends = {"roles": [{"name": "reader"}]}
    assert (await elsewhere.put(path, lends)).status == 401
    assert (await boss.put(path, {"roles": [{"name": "none"}]})).status == 404
    assert (await boss.put("/OS-OAUTH1/authorize/none", lends)).status == 404
    member = await i.who("m", "member", f"projects/{boss.project_id}")
    assert (await member.put(path, lends)).status == 403
    assert (await boss.put(path, lends)).status == 200
    assert (await i.admin.put(path, {"roles": []})).status == 403  # another user's by now


@alone
async def test_a_request_token_is_fetched_with_its_verifier_and_once(i: Identity) -> None:
    boss = await i.who("boss", "admin", f"projects/{await i.project('p')}")
    consumer, other = await consumer_of(i), await consumer_of(i)
    request = await asked(i, consumer, boss.project_id)
    path = "/OS-OAUTH1/access_token"

    async def fetch(who: Secret, token: Secret, verifier: str) -> int:
        return (await sent(i, path, signed(who, path, token, verifier))).status

    assert await fetch(consumer, request, "guessed8") == 401  # nobody authorized it
    verifier = await authorized(boss, request, {"name": "reader"})
    assert await fetch(consumer, request, "") == 400
    assert await fetch(consumer, request, "guessed8") == 401
    assert await fetch(other, request, verifier) == 401
    assert await fetch(consumer, (request[0], "wrong"), verifier) == 401
    assert await fetch(consumer, request, verifier) == 201
    assert await fetch(consumer, request, verifier) == 401


@alone
async def test_a_request_that_is_not_signed_by_the_consumer_is_refused(i: Identity) -> None:
    project = await i.project("p")
    consumer, path = await consumer_of(i), "/OS-OAUTH1/request_token"

    async def status(header: str, where: str = path) -> int:
        return (await sent(i, where, header, requested_project_id=project)).status

    good = signed(consumer, path)
    assert await status("") == 400
    assert await status("Bearer x") == 400
    assert await status('OAuth oauth_consumer_key="a", oauth_consumer_key="b"') == 400
    assert await status("OAuth nonsense") == 400
    assert await status(signed((consumer[0], "wrong"), path)) == 401
    assert await status(signed(("none", "x"), path)) == 401
    assert await status(signed(consumer, "/elsewhere")) == 401
    assert await status(good, path + "?more=1") == 401
    assert await status(good.replace("HMAC-SHA1", "HMAC-SHA256")) == 401
    assert await status(signed(consumer, path, signature_method=oauth1.SIGNATURE_PLAINTEXT)) == 401
    assert (await sent(i, path, good)).status == 400  # for no project
    assert (await sent(i, path, good, requested_project_id="none")).status == 404
    assert await status(signed(consumer, path)) == 201
    sha256 = signed(consumer, path, signature_method=oauth1.SIGNATURE_HMAC_SHA256)
    assert await status(sha256) == 201


@alone
async def test_a_signature_is_good_once_and_for_a_quarter_of_an_hour(i: Identity) -> None:
    boss = await i.who("boss", "admin", f"projects/{await i.project('p')}")
    consumer, token = await lent(i, boss, "reader")
    header = signed(consumer, "/auth/tokens", token)
    assert (await login(i, consumer, token, header=header)).status == 201
    assert (await login(i, consumer, token, header=header)).status == 401
    now = int(i.cloud.runtime.world.clock.time())
    for late in (-901, 902):
        assert (await login(i, consumer, token, timestamp=str(now + late))).status == 401
    assert (await login(i, consumer, token, timestamp=str(now - 600))).status == 201
    assert (await login(i, consumer, (token[0], "wrong"))).status == 401
    assert (await login(i, consumer, ("none", token[1]))).status == 401


@alone
async def test_what_is_past_is_swept_away_and_what_is_not_stays(i: Identity) -> None:
    boss = await i.who("boss", "admin", f"projects/{await i.project('p')}")
    consumer, token = await lent(i, boss, "reader")
    request = await asked(i, consumer, boss.project_id)
    store = i.cloud.runtime.store
    before = len(await SEEN_SIGNATURES.all(store))
    async with store.tx() as tx:
        for row in await REQUEST_TOKENS.all(tx):
            await REQUEST_TOKENS.change(tx, row, expires_at="2001-01-01T00:00:00.000000Z")
        lasting = (await ACCESS_TOKENS.all(tx))[0]
        await ACCESS_TOKENS.change(tx, lasting, expires_at="")
    path = f"/OS-OAUTH1/authorize/{request[0]}"
    assert (await boss.put(path, {"roles": []})).status == 401
    await access_tokens.sweep(i.cloud.runtime)
    await i.cloud.settle()
    assert await REQUEST_TOKENS.all(store) == []
    assert [t.id for t in await ACCESS_TOKENS.all(store)] == [token[0]]
    assert len(await SEEN_SIGNATURES.all(store)) == before
    assert (await login(i, consumer, token)).status == 201


@alone
async def test_keystoneauth_logs_in_with_what_a_user_lent(i: Identity) -> None:
    boss = await i.who("boss", "admin", f"projects/{await i.project('p')}")
    consumer, token = await lent(i, boss, "member")

    def log_in(url: str) -> None:
        plugin = V3OAuth1(
            url + "/v3",
            consumer_key=consumer[0],
            consumer_secret=consumer[1],
            access_key=token[0],
            access_secret=token[1],
        )
        client = session.Session(plugin)
        assert plugin.get_access(client).role_names == ["member", "reader"]
        assert client.get(f"{url}/v3/auth/projects").json()["projects"][0]["name"] == "p"

    async with served(i.cloud) as url:
        await asyncio.to_thread(log_in, url)


def test_the_example_of_the_specification_is_signed_as_it_says() -> None:
    """RFC 5849, 3.4.1.1 and OAuth Core 1.0, appendix A.5.1."""
    pairs = [
        ("b5", "=%3D"),
        ("a3", "a"),
        ("c@", ""),
        ("a2", "r b"),
        ("oauth_consumer_key", "9djdj82h48djs9d2"),
        ("oauth_token", "kkk9d7dh3k39sjv7"),
        ("oauth_signature_method", "HMAC-SHA1"),
        ("oauth_timestamp", "137131201"),
        ("oauth_nonce", "7d8f3e4a"),
        ("c2", ""),
        ("a3", "2 q"),
    ]
    assert base_string("post", "http://EXAMPLE.com:80/request", pairs) == (
        "POST&http%3A%2F%2Fexample.com%2Frequest&a2%3Dr%2520b%26a3%3D2%2520q%26a3%3Da%26b5%3D%253D"
        "%25253D%26c%2540%3D%26c2%3D%26oauth_consumer_key%3D9djdj82h48djs9d2%26oauth_nonce%3D7d8f3e"
        "4a%26oauth_signature_method%3DHMAC-SHA1%26oauth_timestamp%3D137131201%26oauth_token%3Dkkk9"
        "d7dh3k39sjv7"
    )
    photos = [
        ("file", "vacation.jpg"),
        ("size", "original"),
        ("oauth_consumer_key", "dpf43f3p2l4k3l03"),
        ("oauth_token", "nnch734d00sl2jdk"),
        ("oauth_signature_method", "HMAC-SHA1"),
        ("oauth_timestamp", "1191242096"),
        ("oauth_nonce", "kllo9940pd9333jh"),
        ("oauth_version", "1.0"),
    ]
    base = base_string("GET", "http://photos.example.net/photos", photos)
    made = signature(hashlib.sha1, base, "kd94hf93k423kf44", "pfkkdhi9sl3r4s00")
    assert made == "tR3+Ty81lMeYAr/Fid0kMTYa/WM="


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("https://A.example:443/x", "https%3A%2F%2Fa.example%2Fx"),
        ("http://a:8080/x", "http%3A%2F%2Fa%3A8080%2Fx"),
        ("http://[::1]:5000/x", "http%3A%2F%2F%5B%3A%3A1%5D%3A5000%2Fx"),
    ],
)
def test_an_address_is_signed_in_one_spelling(url: str, where: str) -> None:
    assert base_string("GET", url, []) == f"GET&{where}&"

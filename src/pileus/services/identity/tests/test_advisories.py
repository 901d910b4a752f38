"""What was once wrong with Keystone, tried here. Each test bears the id of the advisory."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import msgspec
import pytest

from pileus.kernel.runtime import Runtime
from pileus.services.identity.assignments import ASSIGNMENTS
from pileus.services.identity.bootstrap import derived_id
from pileus.services.identity.groups import GROUPS, Group
from pileus.services.identity.passwords import PASSWORDS, Passwords
from pileus.services.identity.tests.clouds import Identity, Who, alone, alone_with
from pileus.services.identity.tests.test_delegation import by_credential, by_trust, lent, trusted
from pileus.services.identity.tests.test_ec2 import ask, pair_of, signed
from pileus.services.identity.tests.test_security_compliance import later, movable
from pileus.testing.cloud import PASSWORD

V3 = "/identity/v3"


@alone
async def test_ossa_2013_003_a_junk_token_makes_no_log_of_its_own_size(i: Identity) -> None:
    written: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: written.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        for _ in range(50):
            junk = i.anybody.client.as_("A" * 8192)
            assert (await junk.get(f"{V3}/auth/projects")).status == 401
    finally:
        logging.getLogger().removeHandler(handler)
    assert sum(map(len, written)) < 50 * 200


@alone
async def test_ossa_2013_005_each_way_to_log_in_asks_whether_all_is_enabled(i: Identity) -> None:
    domain = await i.domain("d")
    project = await i.project("p", domain)
    user = await i.user("u", domain, password=PASSWORD)
    await i.grant("member", f"projects/{project}", user)
    owner = await i.token(user, f"projects/{project}")
    made, _ = await lent(i, owner)
    scope = {"project": {"id": project}}
    pair = await pair_of(owner)
    for path, root in (
        (f"/users/{user}", "user"),
        (f"/projects/{project}", "project"),
        (f"/domains/{domain}", "domain"),
    ):
        before = await i.token(user)
        await i.admin.patch(path, {root: {"enabled": False}})
        for reply in (
            await i.password(user, scope=scope),
            await by_credential(i, made),
            await ask(i.admin, signed(i, pair)),
        ):
            assert reply.status == 401, (path, reply)
        by_token = await i.login(token={"id": before.token}, scope=scope)
        assert by_token.status == (401 if root == "project" else 404), (path, by_token)
        await i.admin.patch(path, {root: {"enabled": True}})
        assert (await i.password(user, scope=scope)).status == 201
        assert (await by_credential(i, made)).status == 201


@alone
async def test_ossa_2013_009_a_revoked_token_is_refused_on_every_path(i: Identity) -> None:
    who = await i.who("u", "member", f"projects/{await i.project('p')}")
    assert (await i.admin.get("/auth/tokens", x_subject_token=who.token)).status == 200
    assert (await who.get("/auth/projects")).status == 200
    assert (await who.delete("/auth/tokens", x_subject_token=who.token)).status == 204
    assert (await i.admin.get("/auth/tokens", x_subject_token=who.token)).status == 404
    assert (await i.admin.head("/auth/tokens", x_subject_token=who.token)).status == 404
    late = await i.admin.get("/auth/tokens?allow_expired=1", x_subject_token=who.token)
    assert late.status == 404
    assert (await who.get("/auth/projects")).status == 401
    assert (await i.login(token={"id": who.token})).status == 404


@pytest.mark.sqlite
@alone
async def test_ossa_2013_010_keys_lie_in_the_stores_private_file(i: Identity) -> None:
    await i.cloud.runtime.store.sync()
    folder = i.cloud.runtime.data
    made = [p for p in folder.rglob("*") if p.is_file() and p.name != "admin-password"]
    assert {p.name.partition(".")[0] for p in made} == {"cloud"}
    assert [p.name for p in made if p.stat().st_mode & 0o077] == []


@alone
async def test_ossa_2013_017_and_025_no_byte_of_a_token_can_be_changed(i: Identity) -> None:
    who = await i.who("u", "member", f"projects/{await i.project('p')}")
    assert (await who.get("/auth/projects")).status == 200  # it is remembered now
    token = who.token
    for at in range(0, len(token) - 4, 5):
        other = token[:at] + ("B" if token[at] == "A" else "A") + token[at + 1 :]
        changed = i.anybody.client.as_(other)
        assert (await changed.get(f"{V3}/auth/projects")).status == 401, at
        assert (await i.admin.get("/auth/tokens", x_subject_token=other)).status == 404, at
    assert (await i.admin.delete("/auth/tokens", x_subject_token=token)).status == 204
    assert (await who.get("/auth/projects")).status == 401
    assert (await i.admin.get("/auth/tokens", x_subject_token=token)).status == 404


@alone
async def test_ossa_2014_007_callers_at_once_are_not_taken_for_each_other(i: Identity) -> None:
    project = await i.project("p")
    callers = [await i.who(f"u{n}", "member", f"projects/{project}") for n in range(20)]

    async def asks(who: Who) -> None:
        for _ in range(5):
            reply = await who.get("/auth/tokens", x_subject_token=who.token)
            assert reply.json["token"]["user"]["id"] == who.user_id
            mine = await who.get(f"/users/{who.user_id}")
            assert mine.json["user"]["id"] == who.user_id

    await asyncio.gather(*(asks(who) for who in callers for _ in range(2)))


@alone
async def test_ossa_2013_011_a_deleted_users_token_ends_at_once(i: Identity) -> None:
    who = await i.who("u", "member", f"projects/{await i.project('p')}")
    assert (await who.get("/auth/projects")).status == 200
    assert (await i.admin.delete(f"/users/{who.user_id}")).status == 204
    assert (await who.get("/auth/projects")).status == 401


@alone_with(movable())
async def test_ossa_2013_014_an_expired_token_is_refused_even_where_it_is_remembered(
    i: Identity,
) -> None:
    who = await i.who("u", "member", f"projects/{await i.project('p')}")
    claims = await i.tokens.open(who.token)
    assert claims is not None
    soon = msgspec.structs.replace(claims, expires_us=i.tokens.now_us() + 60_000_000)
    token = await i.tokens.issue(soon)
    client = i.anybody.client.as_(token)
    assert (await client.get(f"{V3}/auth/projects")).status == 200
    assert (await i.admin.get("/auth/tokens", x_subject_token=token)).status == 200
    later(i).ahead = 61
    assert (await client.get(f"{V3}/auth/projects")).status == 401
    assert (await i.admin.get("/auth/tokens", x_subject_token=token)).status == 404


@alone
async def test_ossa_2013_015_an_empty_password_never_fits(i: Identity) -> None:
    bare = await i.user("bare")
    kept = await i.user("kept", password=PASSWORD)
    for user in (bare, kept):
        for password in ("", None):
            part = {"user": {"id": user, "password": password}}
            assert (await i.login(password=part)).status == 401
        assert (await i.login(password={"user": {"id": user}})).status == 401


@alone
async def test_ossa_2013_028_taking_away_what_is_not_held_gives_nothing(i: Identity) -> None:
    user, store = await i.user("u"), i.cloud.runtime.store
    before = await ASSIGNMENTS.all(store)
    url = f"/projects/{i.admin.project_id}/users/{user}/roles/{await i.role('admin')}"
    assert (await i.admin.delete(url)).status == 404
    assert await ASSIGNMENTS.all(store) == before


@alone
async def test_ossa_2013_032_2026_005_2020_004_and_cve_2026_90460_a_lent_token_makes_no_credential(
    i: Identity,
) -> None:
    """Nor does it read, change or delete any."""
    trust, trustor, trustee = await trusted(i)
    reply = await by_trust(i, trust, trustee)
    _, by_cred = await lent(i, trustor)
    _, unrestricted = await lent(i, trustor, unrestricted=True)
    by_trustee = Who(i.anybody.client.as_(reply.headers["x-subject-token"]), trustor.user_id)
    key = await ask(i.admin, signed(i, await pair_of(trustor)))
    by_key = Who(i.anybody.client.as_(key.headers["x-subject-token"]), trustor.user_id)
    blob = json.dumps({"access": "a", "secret": "s"})
    body = {"user_id": trustor.user_id, "type": "ec2", "blob": blob}
    mine = await trustor.make("/credentials", project_id=trustor.project_id, **body)
    for who in (by_trustee, by_cred, unrestricted, by_key):
        for type in ("ec2", "totp"):
            fields = {**body, "type": type, "project_id": trustor.project_id}
            assert (await who.post("/credentials", {"credential": fields})).status == 403
        url = f"/credentials/{mine['id']}"
        assert (await who.get("/credentials")).status == 403
        assert (await who.get(url)).status == 403
        assert (await who.patch(url, {"credential": {"blob": blob}})).status == 403
        assert (await who.delete(url)).status == 403


@alone
async def test_ossa_2014_006_a_trusts_token_ends_with_trustee_and_trustor(i: Identity) -> None:
    trust, trustor, trustee = await trusted(i)
    for victim in (trustee, trustor):
        token = (await by_trust(i, trust, await i.token(trustee.user_id))).headers[
            "x-subject-token"
        ]
        used = i.anybody.client.as_(token)
        assert (await used.get(f"{V3}/auth/projects")).status == 200
        change = {"user": {"password": "changed-by-admin"}}
        assert (await i.admin.patch(f"/users/{victim.user_id}", change)).status == 200
        assert (await used.get(f"{V3}/auth/projects")).status == 401


@alone
async def test_ossa_2014_013_a_method_named_many_times_is_tried_once(i: Identity) -> None:
    part = {"user": {"id": i.admin.user_id, "password": PASSWORD}}
    before = i.cloud.runtime.world.clock.monotonic()
    reply = await i.login(methods=["password"] * 1000, password=part)
    assert reply.status == 201
    assert i.cloud.runtime.world.clock.monotonic() - before < 5


@alone
async def test_ossa_2014_015_a_group_with_a_users_id_gives_him_nothing(i: Identity) -> None:
    project, user = await i.project("p"), await i.user("u")
    async with i.cloud.runtime.store.tx() as tx:
        await GROUPS.insert(tx, Group(id=user, name="twin", domain_id="default"))
    url = f"/projects/{project}/groups/{user}/roles/{await i.role('admin')}"
    assert (await i.admin.put(url)).status == 204
    assert (await (await i.token(user, f"projects/{project}")).get("/auth/projects")).status == 401


@alone
async def test_ossa_2014_018_and_2026_037_a_lent_token_leads_nowhere_else(i: Identity) -> None:
    trust, trustor, trustee = await trusted(i)
    token = (await by_trust(i, trust, trustee)).headers["x-subject-token"]
    _, cred = await lent(i, trustor)
    _, free = await lent(i, trustor, unrestricted=True)
    scopes: list[dict[str, Any]] = [
        {},
        {"scope": "unscoped"},
        {"scope": {"project": {"id": trustor.project_id}}},
        {"scope": {"system": {"all": True}}},
    ]
    body: dict[str, Any] = {
        "trustor_user_id": trustor.user_id,
        "trustee_user_id": trustee.user_id,
    }
    body |= {"project_id": trustor.project_id, "impersonation": False}
    by_key = await ask(i.admin, signed(i, await pair_of(trustor)))
    for lent_token in (token, cred.token, free.token, by_key.headers["x-subject-token"]):
        for scope in scopes:
            assert (await i.login(token={"id": lent_token}, **scope)).status == 403
        who = Who(i.anybody.client.as_(lent_token), trustor.user_id)
        more = {"trust": {**body, "roles": [{"name": "member"}]}}
        assert (await who.post("/OS-TRUST/trusts", more)).status == 403
        projects = (await who.get("/auth/projects")).json["projects"]
        assert [p["id"] for p in projects] == [trustor.project_id]
    used = Who(i.anybody.client.as_(token), trustor.user_id)
    path = f"/users/{trustor.user_id}/application_credentials"
    assert (await used.post(path, {"application_credential": {"name": "x"}})).status == 403


@alone
async def test_ossa_2014_022_a_trust_is_for_its_own_project(i: Identity) -> None:
    trust, _, trustee = await trusted(i)
    scope = {"OS-TRUST:trust": {"id": trust["id"]}, "project": {"id": i.admin.project_id}}
    reply = await i.login(token={"id": trustee.token}, scope=scope)
    assert reply.status in (400, 403)


@alone
async def test_ossa_2014_026_and_2016_008_a_chain_is_revoked_whole(i: Identity) -> None:
    project = await i.project("p")
    user = await i.user("u")
    await i.grant("member", f"projects/{project}", user)
    await i.grant("member", "domains/default", user)
    first = (await i.token(user)).token
    chain = [first]
    for scope in ({"project": {"id": project}}, {"domain": {"id": "default"}}, "unscoped"):
        reply = await i.login(token={"id": chain[-1]}, scope=scope)
        chain.append(reply.headers["x-subject-token"])
    shown = [(await i.admin.get("/auth/tokens", x_subject_token=t)).json["token"] for t in chain]
    assert len({s["audit_ids"][-1] for s in shown}) == 1
    assert len({s["expires_at"] for s in shown}) == 1
    assert (await i.admin.delete("/auth/tokens", x_subject_token=chain[2])).status == 204
    for token, status in zip(chain, (200, 200, 404, 200), strict=True):
        assert (await i.admin.get("/auth/tokens", x_subject_token=token)).status == status
    assert (await i.admin.delete("/auth/tokens", x_subject_token=first)).status == 204
    for token in chain:
        assert (await i.admin.get("/auth/tokens", x_subject_token=token)).status == 404
    other = (await i.token(user)).token
    assert (await i.admin.get("/auth/tokens", x_subject_token=other)).status == 200


@alone
async def test_ossa_2014_029_a_url_asks_for_nothing_but_project_and_user(i: Identity) -> None:
    fields = {"service_id": derived_id("identity"), "interface": "public"}
    for url in ("http://x/$(admin_token)s", "http://x/%(x)s", "http://x/%(project_id)", "/etc"):
        body = {"endpoint": {**fields, "url": url}}
        assert (await i.admin.post("/endpoints", body)).status == 400, url
    good = {"endpoint": {**fields, "url": "http://x/$(tenant_id)s"}}
    assert (await i.admin.post("/endpoints", good)).status == 201


@alone
async def test_ossa_2016_005_an_altered_token_is_revoked_with_the_original(i: Identity) -> None:
    who = await i.who("u", "member", f"projects/{await i.project('p')}")
    tail = who.token[:-1] + chr(ord(who.token[-1]) ^ 1)
    variants = [who.token + "=" * n for n in range(3)]
    variants += [who.token.swapcase(), tail, who.token + "A", who.token[:-4]]
    accepted = [
        t
        for t in variants
        if (await i.anybody.client.as_(t).get(f"{V3}/auth/projects")).status == 200
    ]
    assert who.token in accepted
    assert (await who.delete("/auth/tokens", x_subject_token=who.token)).status == 204
    for token in accepted:
        assert (await i.anybody.client.as_(token).get(f"{V3}/auth/projects")).status == 401


@alone
async def test_ossa_2018_002_only_ones_own_projects_are_listed(i: Identity) -> None:
    mine, _ = await i.project("mine"), await i.project("theirs")
    who = await i.who("u", "member", f"projects/{mine}")
    listed = (await who.get("/auth/projects")).json["projects"]
    assert [p["id"] for p in listed] == [mine]


@alone
async def test_ossa_2019_006_a_users_credentials_are_shown_to_nobody_else(i: Identity) -> None:
    project = await i.project("p")
    a, b = [await i.who(n, "member", f"projects/{project}") for n in "ab"]
    made = await a.make("/credentials", user_id=a.user_id, type="cert", blob="s3cret")
    assert len((await a.get("/credentials")).json["credentials"]) == 1
    for query in ("", f"?user_id={a.user_id}", "?type=cert"):
        listed = await b.get(f"/credentials{query}")
        assert listed.json["credentials"] == [] and b"s3cret" not in listed.body
    assert (await b.get(f"/credentials/{made['id']}")).status == 403
    forged = {"credential": {"user_id": a.user_id, "type": "cert", "blob": "b"}}
    assert (await b.post("/credentials", forged)).status == 403


@alone
async def test_ossa_2020_004_a_credential_does_not_change_hands_or_project(i: Identity) -> None:
    project, other = await i.project("p"), await i.project("o")
    a, b = [await i.who(n, "member", f"projects/{project}") for n in "ab"]
    blob = json.dumps({"access": "a", "secret": "s"})
    fields = {"user_id": a.user_id, "type": "ec2", "blob": blob}
    made = await a.make("/credentials", project_id=project, **fields)
    url = f"/credentials/{made['id']}"
    for change in ({"user_id": b.user_id}, {"project_id": other}, {"project_id": "none"}):
        assert (await a.patch(url, {"credential": change})).status == 403, change
    elsewhere = {"credential": {**fields, "project_id": other}}
    assert (await a.post("/credentials", elsewhere)).status == 403


class Watched(Passwords):
    """Remembers how costly the hashes were with which passwords were compared."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.costs: list[str] = []

    def _verify(self, hashed: str, password: str) -> bool:
        self.costs.append(hashed.rsplit("$", 2)[0])
        return super()._verify(hashed, password)


@alone
async def test_ossa_2021_003_an_unknown_user_costs_and_answers_as_a_wrong_password(
    i: Identity,
) -> None:
    user, runtime = await i.user("u", password=PASSWORD), i.cloud.runtime
    watched, bodies = Watched(runtime), set()
    runtime.contracts.provide(PASSWORDS, watched)
    for who in (user, "0" * 32, "0" * 32):
        reply = await i.password(who, "wrong")
        assert reply.status == 401
        bodies.add(reply.body)
    assert len(bodies) == 1
    assert watched.costs == [watched.costs[0]] * 3 and "argon2id" in watched.costs[0]


@alone
async def test_ossa_2026_001_identity_headers_of_a_request_are_not_believed(i: Identity) -> None:
    who = await i.who("u", "member", f"projects/{await i.project('p')}")
    forged = {
        "x_user_id": i.admin.user_id,
        "x_roles": "admin",
        "x_is_admin_project": "True",
        "x_identity_status": "Confirmed",
        "x_project_id": i.admin.project_id,
    }
    assert (await who.get("/users", **forged)).status == 403
    assert (await i.anybody.get("/users", **forged)).status == 401


@alone
async def test_ossa_2026_015_a_body_does_not_say_who_the_target_is(i: Identity) -> None:
    project = await i.project("p")
    a, b = [await i.who(n, "member", f"projects/{project}") for n in "ab"]
    extra = {"user_id": b.user_id, "target": {"user_id": b.user_id}}
    for method, path, body in (
        ("PATCH", f"/users/{a.user_id}", {"user": extra, **extra}),
        ("GET", f"/users/{a.user_id}?user_id={b.user_id}", None),
        ("DELETE", f"/users/{a.user_id}?target.user.id={b.user_id}", None),
        ("GET", f"/users/{a.user_id}/application_credentials?user_id={b.user_id}", None),
        (
            "POST",
            f"/users/{a.user_id}/application_credentials",
            {"application_credential": {"name": "x"}, **extra},
        ),
    ):
        reply = await b.client.request(method, V3 + path, body)
        assert reply.status in (400, 403), (method, path, reply)
    made, _ = await lent(i, a)
    part = {"id": made["id"], "secret": made["secret"], "user": {"id": b.user_id}}
    stolen = await i.login(application_credential=part)
    assert stolen.status == 401


@alone
async def test_passwords_and_secrets_stand_in_no_log(i: Identity) -> None:
    written: list[str] = []
    handler = logging.Handler(level=0)
    handler.emit = lambda record: written.append(record.getMessage())  # type: ignore[method-assign]
    root, before = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(0)
    try:
        user = await i.user("u", password="tell-n0body")
        await i.password(user, "tell-n0body")
        await i.password(user, "tell-n0body-either")
        change = {"user": {"original_password": "tell-n0body", "password": "tell-n0body-new"}}
        await i.anybody.post(f"/users/{user}/password", change)
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    assert "tell-n0body" not in "\n".join(written)

"""Logging in, what tokens say, and when they stop being worth anything."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pileus.kernel.store import Row, Sql
from pileus.services.identity.bootstrap import admin_password, bootstrap
from pileus.services.identity.keys import TOKEN, numbered
from pileus.services.identity.revocations import revoke
from pileus.services.identity.roles import ROLES
from pileus.services.identity.rotation import rotate
from pileus.services.identity.standing import Standing
from pileus.services.identity.tests.clouds import Identity, alone
from pileus.services.identity.tokens import TOKENS_KEPT, Tokens
from pileus.testing.cloud import PASSWORD


@alone
async def test_a_password_gets_a_project_scoped_token_with_catalog_and_implied_roles(
    i: Identity,
) -> None:
    named = {"name": "ADMIN", "password": PASSWORD, "domain": {"name": "default"}}
    scope = {"project": {"name": "Admin", "domain": {"name": "Default"}}}
    reply = await i.login(password={"user": named}, scope=scope)
    token = reply.json["token"]
    assert reply.status == 201 and len(reply.headers["x-subject-token"]) < 256
    assert token["methods"] == ["password"]
    assert token["user"]["name"] == "admin" and token["user"]["domain"]["id"] == "default"
    assert token["project"]["id"] == i.admin.project_id
    assert [r["name"] for r in token["roles"]] == ["admin", "manager", "member", "reader"]
    public = next(e for e in token["catalog"][0]["endpoints"] if e["interface"] == "public")
    assert public["url"] == "http://cloud.test:5000/identity"
    assert public["region"] == public["region_id"] == "RegionOne"
    assert token["expires_at"].endswith("Z") and token["expires_at"] > token["issued_at"]


@alone
async def test_nocatalog_leaves_the_catalog_out(i: Identity) -> None:
    shown = await i.admin.get("/auth/tokens?nocatalog", x_subject_token=i.admin.token)
    assert "catalog" not in shown.json["token"] and shown.json["token"]["roles"]


@alone
async def test_every_scope_can_be_asked_for(i: Identity) -> None:
    user = await i.user("sam", password=PASSWORD)
    await i.grant("reader", "system", user)
    await i.grant("member", "domains/default", user)
    system = (await i.password(user, scope={"system": {"all": True}})).json["token"]
    assert system["system"] == {"all": True} and "project" not in system and system["catalog"]
    domain = (await i.password(user, scope={"domain": {"name": "Default"}})).json["token"]
    assert domain["domain"] == {"id": "default", "name": "Default"}
    unscoped = (await i.password(user, scope="unscoped")).json["token"]
    assert not {"catalog", "roles", "project"} & set(unscoped)


@alone
async def test_without_a_scope_the_default_project_is_used_if_it_can_be(i: Identity) -> None:
    project = await i.project("home")
    user = await i.user("una", password=PASSWORD, default_project_id=project)
    assert "project" not in (await i.password(user)).json["token"]
    await i.grant("reader", f"projects/{project}", user)
    assert (await i.password(user)).json["token"]["project"]["id"] == project
    assert "project" not in (await i.password(user, scope={"unscoped": {}})).json["token"]


@alone
async def test_whatever_is_wrong_the_answer_is_the_same_401(i: Identity) -> None:
    user = await i.user("wim", password=PASSWORD)
    off = await i.user("off", password=PASSWORD, enabled=False)
    replies = [
        await i.password(user, "wrong"),
        await i.password("0" * 32),
        await i.password(off),
        await i.password(user, scope={"project": {"id": i.admin.project_id}}),
        await i.password(user, scope={"project": {"id": "nope"}}),
        await i.password(user, scope={"system": {"all": True}}),
        await i.login(methods=["carrier_pigeon"]),
    ]
    assert {r.status for r in replies} == {401}
    assert len({r.body for r in replies}) == 1
    assert replies[0].json["error"]["title"] == "Unauthorized"
    assert (await i.login(token={"id": "gAAAAAnonsense"})).status == 404


@alone
async def test_a_malformed_request_is_a_400(i: Identity) -> None:
    bodies: list[dict[str, Any]] = [
        {},
        {"auth": {}},
        {"auth": {"identity": {"methods": []}}},
        {"auth": 1},
    ]
    for body in bodies:
        assert (await i.anybody.post("/auth/tokens", body)).status == 400, body
    two = {"project": {"id": "a"}, "domain": {"id": "b"}}
    assert (await i.password(i.admin.user_id, scope=two)).status == 400


@alone
async def test_a_rescoped_token_keeps_the_end_and_the_chain_of_the_first(i: Identity) -> None:
    first = (await i.password(i.admin.user_id, scope="unscoped")).headers["x-subject-token"]
    scope = {"project": {"id": i.admin.project_id}}
    second = await i.login(token={"id": first}, scope=scope)
    was = (await i.admin.get("/auth/tokens", x_subject_token=first)).json["token"]
    now = second.json["token"]
    assert now["expires_at"] == was["expires_at"]
    assert now["audit_ids"][1] == was["audit_ids"][0]
    assert set(now["methods"]) == {"password", "token"}


@alone
async def test_a_token_is_validated_by_get_and_head(i: Identity) -> None:
    shown = await i.admin.get("/auth/tokens", x_subject_token=i.admin.token)
    assert shown.status == 200 and shown.headers["x-subject-token"] == i.admin.token
    assert shown.json["token"]["user"]["id"] == i.admin.user_id
    head = await i.admin.head("/auth/tokens", x_subject_token=i.admin.token)
    assert (head.status, head.body) == (200, b"")
    assert (await i.admin.get("/auth/tokens", x_subject_token="nonsense")).status == 404


@alone
async def test_only_subject_service_and_administrators_may_validate(i: Identity) -> None:
    project = await i.project("p")
    member = await i.who("m", "member", f"projects/{project}")
    other = await i.who("o", "member", f"projects/{project}")
    service = await i.who("s", "service", f"projects/{project}")
    for who, status in ((member, 200), (other, 403), (service, 200), (i.admin, 200)):
        assert (await who.get("/auth/tokens", x_subject_token=member.token)).status == status
    assert (await service.head("/auth/tokens", x_subject_token=member.token)).status == 403
    assert (await other.get("/auth/tokens", x_subject_token="nonsense")).status == 404
    assert (await other.delete("/auth/tokens", x_subject_token=member.token)).status == 403


@alone
async def test_an_expired_token_is_refused_but_for_the_window_of_allow_expired(
    i: Identity,
) -> None:
    who = await i.who("e", "member", f"projects/{await i.project('p')}")
    claims = await i.tokens.open(who.token)
    assert claims is not None
    past = msgspec.structs.replace(claims, expires_us=i.tokens.now_us() - 1_000_000)
    token = await i.tokens.issue(past)
    assert (await i.anybody.client.as_(token).get("/identity/v3/auth/projects")).status == 401
    assert (await i.admin.get("/auth/tokens", x_subject_token=token)).status == 404
    window = await i.admin.get("/auth/tokens?allow_expired=1", x_subject_token=token)
    assert window.status == 200
    far = msgspec.structs.replace(claims, expires_us=i.tokens.now_us() - 49 * 3_600_000_000)
    token = await i.tokens.issue(far)
    gone = await i.admin.get("/auth/tokens?allow_expired=1", x_subject_token=token)
    assert gone.status == 404


@alone
async def test_a_role_taken_away_ends_what_the_token_can_do_at_the_next_request(
    i: Identity,
) -> None:
    project = await i.project("p")
    who = await i.who("r", "member", f"projects/{project}")
    assert (await who.get("/auth/projects")).status == 200
    url = f"/projects/{project}/users/{who.user_id}/roles/{await i.role('member')}"
    assert (await i.admin.delete(url)).status == 204
    assert (await who.get("/auth/projects")).status == 401


@alone
async def test_disabling_and_enabling_again_does_not_revive_tokens(i: Identity) -> None:
    domain = await i.domain("d")
    project = await i.project("p", domain)
    for what, key in ((f"/projects/{project}", "project"), (f"/domains/{domain}", "domain")):
        who = await i.who(f"u-{key}", "member", f"projects/{project}", domain)
        assert (await who.get("/auth/projects")).status == 200
        for enabled in (False, True):
            done = await i.admin.patch(what, {key: {"enabled": enabled}})
            assert done.status == 200
            assert (await who.get("/auth/projects")).status == 401
    who = await i.who("u", "member", f"projects/{project}", domain)
    for enabled in (False, True):
        await i.admin.patch(f"/users/{who.user_id}", {"user": {"enabled": enabled}})
        assert (await who.get("/auth/projects")).status == 401


@alone
async def test_changing_the_password_ends_the_tokens_got_before(i: Identity) -> None:
    project = await i.project("p")
    user = await i.user("c", password=PASSWORD)
    await i.grant("member", f"projects/{project}", user)
    who = await i.token(user, f"projects/{project}")
    wrong = {"user": {"original_password": "wrong", "password": "new-password"}}
    assert (await who.post(f"/users/{user}/password", wrong)).status == 401
    assert (await who.get("/auth/projects")).status == 200
    right = {"user": {"original_password": PASSWORD, "password": "new-password"}}
    assert (await i.anybody.post(f"/users/{user}/password", right)).status == 204
    assert (await who.get("/auth/projects")).status == 401
    assert (await i.password(user)).status == 401
    assert (await i.password(user, "new-password")).status == 201


@alone
async def test_leaving_a_group_ends_tokens_and_takes_its_roles(i: Identity) -> None:
    project, user = await i.project("p"), await i.user("g")
    group = (await i.admin.make("/groups", name="crew"))["id"]
    assert (await i.admin.put(f"/groups/{group}/users/{user}")).status == 204
    url = f"/projects/{project}/groups/{group}/roles/{await i.role('member')}"
    assert (await i.admin.put(url)).status == 204
    who = await i.token(user, f"projects/{project}")
    assert (await who.get("/auth/projects")).json["projects"][0]["id"] == project
    assert (await i.admin.delete(f"/groups/{group}/users/{user}")).status == 204
    assert (await who.get("/auth/projects")).status == 401
    again = await i.token(user)
    assert (await again.get("/auth/projects")).json["projects"] == []


@alone
async def test_all_tokens_of_a_user_can_be_revoked_by_himself(i: Identity) -> None:
    project = await i.project("p")
    who = await i.who("a", "member", f"projects/{project}")
    other = await i.who("b", "member", f"projects/{project}")
    assert (await other.delete(f"/users/{who.user_id}/tokens")).status == 403
    assert (await who.delete(f"/users/{who.user_id}/tokens")).status == 204
    assert (await who.get("/auth/projects")).status == 401
    assert (await other.get("/auth/projects")).status == 200


@alone
async def test_tokens_outlive_the_rotation_of_keys(i: Identity) -> None:
    for _ in range(3):
        await rotate(i.cloud.runtime)
    assert (await i.admin.get("/auth/projects")).status == 200
    keys = await numbered(i.cloud.runtime.store, TOKEN)
    assert [k.number for k in keys] == [1, 2, 3, 4]


@alone
async def test_the_first_start_is_done_once_and_its_password_is_the_owners(i: Identity) -> None:
    runtime = i.cloud.runtime
    before = await ROLES.all(runtime.store)
    await bootstrap(runtime)
    assert await ROLES.all(runtime.store) == before
    folder = runtime.data / "fresh"
    made = admin_password(folder, runtime.world)
    assert len(made) == 24 and admin_password(folder, runtime.world) == made
    assert (folder / "admin-password").stat().st_mode & 0o777 == 0o600


@alone
async def test_many_logins_at_once_all_succeed(i: Identity) -> None:
    replies = await asyncio.gather(*[i.password(i.admin.user_id) for _ in range(8)])
    assert {r.status for r in replies} == {201}
    assert len({r.headers["x-subject-token"] for r in replies}) == 8


@alone
async def test_a_user_with_two_factor_rules_needs_what_a_rule_says(i: Identity) -> None:
    options = {"multi_factor_auth_rules": [["password", "totp"]]}
    user = await i.user("mfa", password=PASSWORD, options=options)
    assert (await i.password(user)).status == 401
    off = {"user": {"options": {"multi_factor_auth_enabled": False}}}
    await i.admin.patch(f"/users/{user}", off)
    assert (await i.password(user)).status == 201


@alone
async def test_links_and_urls_follow_the_host_that_was_asked(i: Identity) -> None:
    elsewhere = await i.admin.get("/auth/catalog", host="other.test:81")
    urls = [e["url"] for s in elsewhere.json["catalog"] for e in s["endpoints"]]
    assert urls and all(u.startswith("http://other.test:81/") for u in urls)
    shown = await i.admin.get("/endpoints", host="other.test:81")
    assert shown.json["endpoints"][0]["url"] == "http://other.test:81/identity"


class Revoking(Tokens):
    """As soon as a token of `victim` was found good, his tokens are revoked, and somebody else's is looked at."""

    victim = ""
    other = ""

    async def subject(self, token: str, window_s: int = 0) -> Standing:
        found = await super().subject(token, window_s)
        if found.user.id == self.victim:
            async with self.runtime.store.tx() as tx:
                await revoke(tx, "user", self.victim)
            await self.shown(self.other, "", True)
        return found


async def revoking(i: Identity) -> tuple[Revoking, str]:
    """Tokens that are kept so, and one of the victim."""
    who = await i.who("victim", "member", f"projects/{await i.project('p')}")
    tokens = Revoking(i.cloud.runtime)
    tokens.victim, tokens.other = who.user_id, i.admin.token
    i.cloud.runtime.contracts.provide(TOKENS_KEPT, tokens)
    return tokens, who.token


@alone
async def test_what_is_revoked_while_another_token_is_made_of_it_ends_that_one_too(
    i: Identity,
) -> None:
    _, token = await revoking(i)
    reply = await i.login(token={"id": token})
    assert reply.status == 401 and "x-subject-token" not in reply.headers


@alone
async def test_what_is_revoked_while_it_is_looked_at_is_not_remembered_as_good(
    i: Identity,
) -> None:
    tokens, token = await revoking(i)
    assert (await i.admin.get("/auth/tokens", x_subject_token=token)).status == 200
    tokens.victim = ""
    assert (await i.admin.get("/auth/tokens", x_subject_token=token)).status == 404


@alone
async def test_tokens_of_one_user_and_scope_are_looked_up_once(i: Identity) -> None:
    """But each is asked for itself whether it was revoked, and what it says of itself is its own."""
    where = f"projects/{await i.project('p')}"
    who = await i.who("somebody", "member", where)
    same = [await i.token(who.user_id, where) for _ in range(2)]
    store, asked = i.cloud.runtime.store, []
    rows = store.rows

    async def counted(sql: Sql, values: Mapping[str, Any]) -> Sequence[Row]:
        if "FROM revisions" not in sql.text:  # which only SQLite remembers
            asked.append(values.get("id", ""))
        return await rows(sql, values)

    first = (await i.admin.get("/auth/tokens", x_subject_token=who.token)).json["token"]
    store.rows = counted  # type: ignore[method-assign]
    answers = [await i.admin.get("/auth/tokens", x_subject_token=s.token) for s in same]
    del store.rows
    shown = [answer.json["token"] for answer in answers]
    audits = [t["audit_ids"][0] for t in shown]
    assert asked == [f"{kind}:{audit}" for audit in audits for kind in ("audit", "chain")]
    assert len({*audits, first["audit_ids"][0]}) == 3
    for own in ("audit_ids", "issued_at", "expires_at"):
        first.pop(own)
        assert all(t.pop(own) for t in shown)
    assert shown == [first, first]


@alone
async def test_a_token_alike_to_one_seen_is_worth_no_more_than_its_user_is_now(i: Identity) -> None:
    """What was looked up for the first is not what the second is judged by once it changed."""
    where = f"projects/{await i.project('p')}"
    who = await i.who("somebody", "member", where)
    later = [await i.token(who.user_id, where) for _ in range(2)]
    assert (await i.admin.get("/auth/tokens", x_subject_token=who.token)).status == 200
    await i.grant("reader", where, who.user_id)
    role = await i.role("member")
    await i.admin.delete(f"/{where}/users/{who.user_id}/roles/{role}")
    shown = await i.admin.get("/auth/tokens", x_subject_token=later[0].token)
    assert [r["name"] for r in shown.json["token"]["roles"]] == ["reader"]
    await i.admin.patch(f"/users/{who.user_id}", {"user": {"enabled": False}})
    assert (await i.admin.get("/auth/tokens", x_subject_token=later[1].token)).status == 404


@alone
async def test_the_catalog_is_rendered_once_with_everybodys_own_ids(i: Identity) -> None:
    service = (await i.admin.make("/services", type="object-store"))["id"]
    url = "http://swift.test/AUTH_%(project_id)s?for=$(user_id)s"
    await i.admin.make("/endpoints", service_id=service, interface="public", url=url)
    for name in ("a", "b"):
        who = await i.who(name, "member", f"projects/{await i.project(name)}")
        own = f"http://swift.test/AUTH_{who.project_id}?for={who.user_id}"
        catalogs = [(await who.get("/auth/catalog")).json["catalog"]]
        shown = await i.admin.get("/auth/tokens", x_subject_token=who.token)
        catalogs.append(shown.json["token"]["catalog"])
        for catalog in catalogs:
            (found,) = (s for s in catalog if s["id"] == service)
            assert [e["url"] for e in found["endpoints"]] == [own]
    system = await i.who("c", "reader", "system")
    shown = await i.admin.get("/auth/tokens", x_subject_token=system.token)
    (found,) = (s for s in shown.json["token"]["catalog"] if s["id"] == service)
    assert found["endpoints"] == []

"""Identity providers, protocols, mappings and service providers, and what users they make here."""

from __future__ import annotations

from typing import Any

import pytest

from pileus.kernel.faults import Conflict, Forbidden, NotFound, Unauthenticated
from pileus.services.identity.authentication import AUTHENTICATION, Issued
from pileus.services.identity.federation.admission import admit
from pileus.services.identity.federation.federated_users import end_memberships
from pileus.services.identity.groups import GROUPS, MEMBERSHIPS, Group
from pileus.services.identity.settings import Settings
from pileus.services.identity.tests.clouds import Identity, Who, alone
from pileus.services.identity.users import USERS
from pileus.testing.client import Reply

FEDERATION = "/OS-FEDERATION"
IDP = f"{FEDERATION}/identity_providers/acme"
PLAIN = [{"local": [{"user": {"name": "{0}"}}], "remote": [{"type": "name"}]}]


async def provider(i: Identity, rules: Any = PLAIN, version: str = "1.0", **fields: Any) -> str:
    """A provider `acme` with a protocol `openid`; its domain."""
    mapping = {"rules": rules, "schema_version": version}
    made = await i.admin.put(f"{FEDERATION}/mappings/m", {"mapping": mapping})
    assert made.status == 201, made
    asked = {"identity_provider": {"enabled": True, **fields}}
    made = await i.admin.put(IDP, asked)
    assert made.status == 201, made
    protocol = {"protocol": {"mapping_id": "m"}}
    assert (await i.admin.put(f"{IDP}/protocols/openid", protocol)).status == 201
    return str(made.json["identity_provider"]["domain_id"])


async def login(i: Identity, scope: Any = "unscoped", **claims: Any) -> tuple[Who, Any]:
    """Who has logged in by these claims of `acme`, and his token as its holder sees it."""
    given = {k: v if isinstance(v, list) else [v] for k, v in claims.items()}
    runtime = i.cloud.runtime
    proof = await admit(runtime, "acme", "openid", given)
    found = await runtime.contracts.get(AUTHENTICATION).issue(proof, scope)
    assert isinstance(found, Issued)
    who = Who(i.anybody.client.as_(found.token), proof.user.id, "", "", found.token)
    shown = await who.get("/auth/tokens", x_subject_token=found.token)
    assert shown.status == 200, shown
    return who, shown.json["token"]


async def at(i: Identity, who: Who, project: str) -> Reply:
    return await i.login(token={"id": who.token}, scope={"project": {"id": project}})


@alone
async def test_a_provider_is_made_with_a_domain_of_its_own_and_changed(i: Identity) -> None:
    body = {"identity_provider": {"description": "d", "remote_ids": ["b", "a"]}}
    made = await i.admin.put(IDP, body)
    shown = made.json["identity_provider"]
    assert made.status == 201 and shown["enabled"] is False and shown["remote_ids"] == ["a", "b"]
    assert shown["links"]["protocols"] == shown["links"]["self"] + "/protocols"
    assert shown["links"]["self"].endswith("/v3/OS-FEDERATION/identity_providers/acme")
    domain = (await i.admin.get(f"/domains/{shown['domain_id']}")).json["domain"]
    assert domain["name"] == shown["domain_id"] and "acme" in domain["description"]
    assert (await i.admin.put(IDP, body)).status == 409
    changed = await i.admin.patch(IDP, {"identity_provider": {"enabled": True}})
    assert changed.json["identity_provider"]["enabled"] is True
    bad: dict[str, Any]
    for bad in ({}, {"domain_id": "default"}, {"name": "x"}, {"remote_ids": ["a", "a"]}):
        assert (await i.admin.patch(IDP, {"identity_provider": bad})).status == 400, bad
    many = f"{FEDERATION}/identity_providers"
    for query, ids in (("", ["acme"]), ("?enabled=false", []), ("?id=acme", ["acme"])):
        found = (await i.admin.get(many + query)).json["identity_providers"]
        assert [p["id"] for p in found] == ids, query
    assert (await i.admin.delete(IDP)).status == 204
    assert (await i.admin.get(IDP)).status == 404
    assert (await i.admin.get(f"/domains/{domain['id']}")).status == 200


@alone
async def test_one_remote_id_belongs_to_one_provider(i: Identity) -> None:
    body = {"identity_provider": {"remote_ids": ["https://issuer"]}}
    assert (await i.admin.put(IDP, body)).status == 201
    other = f"{FEDERATION}/identity_providers/other"
    refused = await i.admin.put(other, body)
    assert refused.status == 409 and "Duplicate remote ID" in refused.json["error"]["message"]
    assert (await i.admin.put(other, {"identity_provider": {}})).status == 201
    assert (await i.admin.patch(other, body)).status == 409
    assert (await i.admin.patch(IDP, body)).status == 200
    nowhere = {"identity_provider": {"domain_id": "none"}}
    assert (await i.admin.put(f"{FEDERATION}/identity_providers/x", nowhere)).status == 404
    long = f"{FEDERATION}/identity_providers/{'x' * 65}"
    assert (await i.admin.put(long, {"identity_provider": {}})).status == 400


@alone
async def test_protocols_belong_to_a_provider_and_name_a_mapping(i: Identity) -> None:
    await provider(i)
    one = f"{IDP}/protocols/openid"
    shown = (await i.admin.get(one)).json["protocol"]
    assert shown["mapping_id"] == "m" and shown["links"]["identity_provider"].endswith("/acme")
    listed = (await i.admin.get(f"{IDP}/protocols")).json["protocols"]
    assert [(p["id"], p["idp_id"]) for p in listed] == [("openid", "acme")]
    again = {"protocol": {"mapping_id": "m", "remote_id_attribute": "HTTP_OIDC_ISS"}}
    assert (await i.admin.put(one, again)).status == 409
    changed = (await i.admin.patch(one, again)).json["protocol"]
    assert changed["remote_id_attribute"] == "HTTP_OIDC_ISS"
    bad = {"protocol": {"mapping_id": "none"}}
    assert (await i.admin.patch(one, bad)).status == 400
    assert (await i.admin.put(f"{IDP}/protocols/other", bad)).status == 400
    nobody = f"{FEDERATION}/identity_providers/none/protocols/openid"
    assert (await i.admin.put(nobody, {"protocol": {"mapping_id": "m"}})).status == 404
    assert (await i.admin.get(nobody)).status == 404
    assert (await i.admin.delete(one)).status == 204
    assert (await i.admin.delete(one)).status == 404


@alone
async def test_mappings_keep_their_rules_as_they_were_sent(i: Identity) -> None:
    one = f"{FEDERATION}/mappings/m"
    made = await i.admin.put(one, {"mapping": {"rules": PLAIN}})
    shown = made.json["mapping"]
    assert made.status == 201 and shown["rules"] == PLAIN and shown["schema_version"] == "1.0"
    assert (await i.admin.put(one, {"mapping": {"rules": PLAIN}})).status == 409
    other = [{**PLAIN[0], "remote": [{"type": "other"}]}]
    changed = await i.admin.patch(one, {"mapping": {"rules": other, "schema_version": "2.0"}})
    assert changed.json["mapping"]["rules"] == other
    bad: dict[str, Any]
    for bad in (
        {},
        {"rules": []},
        {"rules": [{"local": []}]},
        {"rules": PLAIN, "schema_version": "9"},
    ):
        assert (await i.admin.put(f"{FEDERATION}/mappings/bad", {"mapping": bad})).status == 400
    assert len((await i.admin.get(f"{FEDERATION}/mappings")).json["mappings"]) == 1
    assert (await i.admin.delete(one)).status == 204
    assert (await i.admin.get(one)).status == 404


@alone
async def test_enabled_service_providers_stand_in_every_token(i: Identity) -> None:
    one = f"{FEDERATION}/service_providers/cloud-b"
    urls = {"auth_url": "https://b/auth", "sp_url": "https://b/sp"}
    made = await i.admin.put(one, {"service_provider": urls})
    shown = made.json["service_provider"]
    assert made.status == 201 and shown["enabled"] is False
    assert shown["relay_state_prefix"] == "ss:mem:" and shown["description"] is None
    own = {"x_subject_token": i.admin.token}
    assert "service_providers" not in (await i.admin.get("/auth/tokens", **own)).json["token"]
    await i.admin.patch(one, {"service_provider": {"enabled": True}})
    token = (await i.admin.get("/auth/tokens", **own)).json["token"]
    assert token["service_providers"] == [{"id": "cloud-b", **urls}]
    assert (await i.admin.put(one, {"service_provider": urls})).status == 409
    for bad in ({}, {"auth_url": "no"}, {"sp_url": None}, {"unknown": 1}):
        assert (await i.admin.patch(one, {"service_provider": bad})).status == 400, bad
    many = f"{FEDERATION}/service_providers"
    assert len((await i.admin.get(many + "?enabled=true")).json["service_providers"]) == 1
    assert (await i.admin.delete(one)).status == 204
    assert "service_providers" not in (await i.admin.get("/auth/tokens", **own)).json["token"]


@alone
async def test_who_a_provider_vouches_for_becomes_a_user_of_its_domain(i: Identity) -> None:
    domain = await provider(i)
    who, token = await login(i, name="bob")
    user = token["user"]
    assert user["name"] == "bob" and user["domain"]["id"] == domain and len(user["id"]) == 64
    assert user["OS-FEDERATION"]["identity_provider"] == {"id": "acme"}
    assert user["OS-FEDERATION"]["protocol"] == {"id": "openid"}
    assert "password_expires_at" not in user and token["methods"] == ["openid"]
    again, _ = await login(i, name="bob")
    assert again.user_id == who.user_id
    other, _ = await login(i, name="ann")
    assert other.user_id != who.user_id
    assert (await i.admin.get(f"/users/{who.user_id}")).json["user"]["name"] == "bob"
    assert (await i.login(password={"user": {"id": who.user_id, "password": ""}})).status == 401


@alone
async def test_a_users_name_and_mail_are_what_the_provider_says_today(i: Identity) -> None:
    local = [{"user": {"id": "{0}", "name": "{1}", "email": "{2}"}}]
    remote = [{"type": "sub"}, {"type": "name"}, {"type": "email"}]
    await provider(i, [{"local": local, "remote": remote}])
    who, _ = await login(i, sub="1", name="Bob", email="b@x")
    twin, _ = await login(i, sub="2", name="Bob", email="c@x")
    assert twin.user_id != who.user_id
    again, token = await login(i, sub="1", name="Robert", email="r@x")
    assert again.user_id == who.user_id and token["user"]["name"] == "Robert"
    shown = (await i.admin.get(f"/users/{who.user_id}")).json["user"]
    assert (shown["name"], shown["email"]) == ("Robert", "r@x")


@alone
async def test_groups_of_the_mapping_give_roles_for_as_long_as_the_token(i: Identity) -> None:
    group = await i.admin.make("/groups", name="Devs", domain_id="default")
    local = [{"user": {"name": "{0}"}}, {"groups": "{1}", "domain": {"id": "default"}}]
    remote = [{"type": "name"}, {"type": "groups"}]
    await provider(i, [{"local": local, "remote": remote}])
    project = await i.project("p")
    role = f"/projects/{project}/groups/{group['id']}/roles/{await i.role('member')}"
    assert (await i.admin.put(role)).status == 204
    who, token = await login(i, name="bob", groups=["devs", "unknown"])
    assert token["user"]["OS-FEDERATION"]["groups"] == [{"id": group["id"]}]
    for path in ("/auth/projects", "/OS-FEDERATION/projects"):
        found = (await who.get(path)).json["projects"]
        assert [p["id"] for p in found] == [project], path
    scoped = await at(i, who, project)
    assert [r["name"] for r in scoped.json["token"]["roles"]] == ["member", "reader"]
    assert scoped.json["token"]["user"]["OS-FEDERATION"]["groups"] == [{"id": group["id"]}]
    assert scoped.json["token"]["expires_at"] == token["expires_at"]
    left, _ = await login(i, name="bob", groups=["unknown"])
    assert (await at(i, left, project)).status == 401
    assert (await left.get("/auth/projects")).json["projects"] == []
    assert (await i.admin.delete(f"/groups/{group['id']}")).status == 204
    assert (await at(i, who, project)).status == 401


@alone
async def test_ossa_2026_015_a_federated_token_ends_when_it_would_however_often_it_is_rescoped(
    i: Identity,
) -> None:
    projects = [{"name": name, "roles": [{"name": "reader"}]} for name in ("one", "two")]
    local = [{"user": {"name": "{0}"}, "projects": projects}]
    await provider(i, [{"local": local, "remote": [{"type": "name"}]}])
    who, token = await login(i, name="bob")
    places = [p["id"] for p in (await who.get("/auth/projects")).json["projects"]]
    held = who.token
    for method in ("token", "mapped", "openid", "token"):
        for place in places:
            reply = await i.login(**{method: {"id": held}}, scope={"project": {"id": place}})
            assert reply.status == 201, reply
            assert reply.json["token"]["expires_at"] == token["expires_at"]
            assert reply.json["token"]["audit_ids"][-1] == token["audit_ids"][-1]
            held = reply.headers["x-subject-token"]
    assert (await who.delete("/auth/tokens", x_subject_token=who.token)).status == 204
    assert (await i.login(token={"id": held})).status in (401, 404)


@alone
async def test_groups_stay_for_as_long_as_the_provider_is_allowed_to_give_them(
    i: Identity,
) -> None:
    group = await i.admin.make("/groups", name="Devs", domain_id="default")
    local = [{"user": {"name": "{0}"}}, {"group_ids": "{1}"}]
    remote = [{"type": "name"}, {"type": "groups"}]
    await provider(i, [{"local": local, "remote": remote}], authorization_ttl=60)
    project = await i.project("p")
    role = f"/projects/{project}/groups/{group['id']}/roles/{await i.role('member')}"
    assert (await i.admin.put(role)).status == 204
    who, _ = await login(i, name="bob", groups=[group["id"]])
    groups = (await i.admin.get(f"/users/{who.user_id}/groups")).json["groups"]
    assert [g["id"] for g in groups] == [group["id"]]
    assert groups[0]["membership_expires_at"] > i.cloud.runtime.world.clock.now()
    scoped = (await at(i, who, project)).headers["x-subject-token"]
    holder = Who(i.anybody.client.as_(scoped), who.user_id, project, "", scoped)
    path = f"/users/{who.user_id}/application_credentials"
    made = await holder.make(path, name="ci")
    part = {"id": made["id"], "secret": made["secret"]}
    assert (await i.login(application_credential=part)).status == 201
    other = await i.admin.make("/groups", name="Others", domain_id="default")
    await login(i, name="bob", groups=[other["id"]])
    assert (await holder.get("/auth/projects")).status == 401
    assert (await i.login(application_credential=part)).status == 401
    groups = (await i.admin.get(f"/users/{who.user_id}/groups")).json["groups"]
    assert [g["id"] for g in groups] == [other["id"]]


@alone
async def test_a_provider_that_does_not_renew_a_membership_in_time_ends_it(i: Identity) -> None:
    group = await i.admin.make("/groups", name="Devs", domain_id="default")
    local = [{"user": {"name": "{0}"}}, {"group_ids": "{1}"}]
    remote = [{"type": "name"}, {"type": "groups"}]
    await provider(i, [{"local": local, "remote": remote}], authorization_ttl=60)
    project = await i.project("p")
    role = f"/projects/{project}/groups/{group['id']}/roles/{await i.role('member')}"
    assert (await i.admin.put(role)).status == 204
    who, _ = await login(i, name="bob", groups=[group["id"]])
    await i.admin.put(f"/groups/{group['id']}/users/{await i.user('local')}")
    lasting = await i.token(who.user_id, f"projects/{project}")
    assert (await lasting.get("/auth/projects")).status == 200
    store = i.cloud.runtime.store
    await end_memberships(i.cloud.runtime)
    assert len(await MEMBERSHIPS.all(store, group_id=group["id"])) == 2
    async with store.tx() as tx:
        mine = await MEMBERSHIPS.all(tx, user_id=who.user_id)
        await MEMBERSHIPS.change(tx, mine[0], until="2001-01-01T00:00:00.000000Z")
    await end_memberships(i.cloud.runtime)
    assert (await lasting.get("/auth/projects")).status == 401
    assert len(await MEMBERSHIPS.all(store, group_id=group["id"])) == 1


@alone
async def test_ossa_2017_004_a_federated_user_has_the_roles_of_his_mapping_and_no_others(
    i: Identity,
) -> None:
    await i.who("boss", "admin", f"projects/{await i.project('p')}")
    projects = [{"name": "Shared", "roles": [{"name": "reader"}]}]
    local = [{"user": {"name": "{0}"}, "projects": projects}]
    domain = await provider(i, [{"local": local, "remote": [{"type": "name"}]}])
    who, _ = await login(i, name="bob")
    found = (await who.get("/auth/projects")).json["projects"]
    assert [(p["name"], p["domain_id"]) for p in found] == [("Shared", domain)]
    shared = found[0]["id"]
    boss = await i.who("chief", "admin", f"projects/{shared}")
    scoped = await at(i, who, shared)
    assert [r["name"] for r in scoped.json["token"]["roles"]] == ["reader"]
    assert (await boss.get("/auth/projects")).status == 200


@alone
async def test_ossa_2018_002_a_federated_user_sees_no_projects_but_his_own(i: Identity) -> None:
    await i.project("not his")
    await provider(i)
    who, _ = await login(i, name="bob")
    for path in ("/auth/projects", "/OS-FEDERATION/projects"):
        assert (await who.get(path)).json["projects"] == []
    for path in ("/auth/domains", "/OS-FEDERATION/domains"):
        assert (await who.get(path)).json["domains"] == []
    assert (await who.get("/projects")).status == 403


@alone
async def test_the_third_version_takes_away_what_the_provider_no_longer_gives(
    i: Identity,
) -> None:
    def rules(*names: str) -> Any:
        projects = [{"name": name, "roles": [{"name": "member"}]} for name in names]
        local = [{"user": {"name": "{0}"}, "projects": projects}]
        return [{"local": local, "remote": [{"type": "name"}]}]

    async def names(version: str, *wanted: str) -> list[str]:
        mapping = {"rules": rules(*wanted), "schema_version": version}
        changed = await i.admin.patch(f"{FEDERATION}/mappings/m", {"mapping": mapping})
        assert changed.status == 200, changed
        who, _ = await login(i, name="bob")
        return sorted(p["name"] for p in (await who.get("/auth/projects")).json["projects"])

    await provider(i, rules("one"))
    assert await names("2.0", "one", "two") == ["one", "two"]
    assert await names("2.0", "one") == ["one", "two"]
    assert await names("3.0", "one") == ["one"]


@alone
async def test_a_mapping_to_a_local_user_gives_his_own_token(i: Identity) -> None:
    project = await i.project("p")
    local = await i.who("Local", "member", f"projects/{project}")
    name = {"name": "{0}", "type": "local", "domain": {"name": "Default"}}
    await provider(i, [{"local": [{"user": name}], "remote": [{"type": "name"}]}])
    _, token = await login(i, name="local")
    assert token["user"]["id"] == local.user_id and "OS-FEDERATION" not in token["user"]
    await i.admin.patch(f"/users/{local.user_id}", {"user": {"enabled": False}})
    with pytest.raises(Unauthenticated):
        await login(i, name="local")
    with pytest.raises(Unauthenticated):
        await login(i, name="nobody of that name")


@alone
async def test_a_provider_that_is_gone_or_disabled_takes_its_tokens_along(i: Identity) -> None:
    await provider(i)
    who, _ = await login(i, name="bob")
    assert (await who.get("/auth/projects")).status == 200
    await i.admin.patch(IDP, {"identity_provider": {"enabled": False}})
    assert (await who.get("/auth/projects")).status == 401
    with pytest.raises(Forbidden):
        await login(i, name="bob")
    await i.admin.patch(IDP, {"identity_provider": {"enabled": True}})
    assert (await who.get("/auth/projects")).status == 200
    assert (await i.admin.delete(IDP)).status == 204
    assert (await who.get("/auth/projects")).status == 401
    assert (await i.admin.get(f"/users/{who.user_id}")).status == 404
    with pytest.raises(NotFound):
        await login(i, name="bob")


@alone
async def test_two_providers_of_one_domain_never_make_the_same_user(i: Identity) -> None:
    domain = await i.domain("shared")
    await provider(i, domain_id=domain)
    await login(i, name="bob")
    other = f"{FEDERATION}/identity_providers/other"
    body = {"identity_provider": {"enabled": True, "domain_id": domain}}
    assert (await i.admin.put(other, body)).status == 201
    await i.admin.put(f"{other}/protocols/openid", {"protocol": {"mapping_id": "m"}})
    with pytest.raises(Conflict):
        await admit(i.cloud.runtime, "other", "openid", {"name": ["bob"]})
    await i.admin.patch(f"/domains/{domain}", {"domain": {"enabled": False}})
    assert (await i.admin.delete(f"/domains/{domain}")).status == 204
    assert (await i.admin.get(IDP)).status == 404 and (await i.admin.get(other)).status == 404


@alone
async def test_an_administrator_says_by_which_provider_a_user_may_come(i: Identity) -> None:
    await provider(i)
    protocols = [{"protocol_id": "openid", "unique_id": "bob"}]
    federated = [{"idp_id": "acme", "protocols": protocols}]
    made = await i.admin.make("/users", name="Robert", domain_id="default", federated=federated)
    assert made["federated"] == federated
    who, token = await login(i, name="bob")
    assert who.user_id == made["id"] and token["user"]["name"] == "Robert"
    assert token["user"]["domain"]["id"] == "default"
    shown = (await i.admin.get(f"/users/{made['id']}")).json["user"]
    assert shown["federated"] == federated and shown["name"] == "Robert"
    for query, ids in (
        ("idp_id=acme", [made["id"]]),
        ("idp_id=acme&protocol_id=openid&unique_id=bob", [made["id"]]),
        ("unique_id=ann", []),
        ("idp_id=other&unique_id=bob", []),
    ):
        found = (await i.admin.get(f"/users?{query}")).json["users"]
        assert [u["id"] for u in found] == ids, query
    one = f"/users/{made['id']}"
    twice = {"user": {"name": "x", "domain_id": "default", "federated": federated}}
    assert (await i.admin.post("/users", twice)).status == 409
    for bad in (
        [{"idp_id": "none", "protocols": protocols}],
        [{"idp_id": "acme", "protocols": [{"protocol_id": "none", "unique_id": "x"}]}],
        [{"idp_id": "acme", "protocols": []}],
        [{"idp_id": "acme"}],
    ):
        assert (await i.admin.patch(one, {"user": {"federated": bad}})).status == 400, bad
    other = [{"idp_id": "acme", "protocols": [{"protocol_id": "openid", "unique_id": "rob"}]}]
    changed = await i.admin.patch(one, {"user": {"federated": other}})
    assert changed.json["user"]["federated"] == other
    assert (await login(i, name="rob"))[0].user_id == made["id"]
    assert (await login(i, name="bob"))[0].user_id != made["id"]
    assert (await i.admin.delete(f"{IDP}/protocols/openid")).status == 204
    assert "federated" not in (await i.admin.get(one)).json["user"]
    assert (await i.admin.get("/users?idp_id=acme")).json["users"] == []


@alone
async def test_who_manages_a_domain_draws_no_other_domains_users_into_it(i: Identity) -> None:
    theirs = await provider(i)
    mine = await i.domain("mine")
    manager = await i.who("m", "manager", f"domains/{mine}", mine)
    protocols = [{"protocol_id": "openid", "unique_id": "bob"}]
    user = {"name": "trap", "domain_id": mine}
    federated = [{"idp_id": "acme", "protocols": protocols}]
    refused = await manager.post("/users", {"user": {**user, "federated": federated}})
    assert refused.status == 403
    assert (await manager.post("/users", {"user": user})).status == 201
    local = await i.who("l", "manager", f"domains/{theirs}", theirs)
    own = {"name": "bob", "domain_id": theirs, "federated": federated}
    assert (await local.post("/users", {"user": own})).status == 201


@alone
async def test_an_account_that_its_provider_brings_daily_is_in_use_and_one_long_idle_is_closed(
    i: Identity,
) -> None:
    await provider(i)
    runtime = i.cloud.runtime
    runtime.settings["identity"] = Settings(disable_user_account_days_inactive=30)
    who, _ = await login(i, name="bob")
    user = await USERS.get(runtime.store, who.user_id)
    assert user.active_on == runtime.world.clock.now()[:10]
    async with runtime.store.tx() as tx:
        await USERS.change(tx, user, active_on="2001-01-01")
    with pytest.raises(Unauthenticated):
        await login(i, name="bob")
    assert (await USERS.get(runtime.store, who.user_id)).active_on == "2001-01-01"


@alone
async def test_a_token_has_room_for_many_groups_and_says_when_there_are_too_many(
    i: Identity,
) -> None:
    local = [{"user": {"name": "{0}"}}, {"groups": "{1}", "domain": {"id": "default"}}]
    await provider(i, [{"local": local, "remote": [{"type": "name"}, {"type": "groups"}]}])
    names = [f"group-{n}" for n in range(129)]
    async with i.cloud.runtime.store.tx() as tx:
        for name in names:
            id = i.cloud.runtime.world.new_hex()
            await GROUPS.insert(tx, Group(id=id, name=name, domain_id="default"))
    who, token = await login(i, name="bob", groups=names[:128])
    assert len(token["user"]["OS-FEDERATION"]["groups"]) == 128 and len(who.token) < 4096
    assert (await who.get("/auth/projects")).status == 200
    with pytest.raises(Unauthenticated):
        await login(i, name="bob", groups=names)


@alone
async def test_the_claim_in_which_a_provider_says_who_it_is_must_be_one_of_its_names(
    i: Identity,
) -> None:
    await provider(i, remote_ids=["tenant-1"])
    body = {"protocol": {"mapping_id": "m", "remote_id_attribute": "OIDC-tenant"}}
    assert (await i.admin.patch(f"{IDP}/protocols/openid", body)).status == 200
    for claims in ({"name": "bob"}, {"name": "bob", "OIDC-tenant": "tenant-2"}):
        with pytest.raises(Unauthenticated):
            await login(i, **claims)
    who, _ = await login(i, **{"name": "bob", "OIDC-tenant": "tenant-1"})
    assert (await who.get("/auth/projects")).status == 200


@alone
async def test_a_mapping_that_asks_for_what_is_not_there_lets_nobody_in(i: Identity) -> None:
    def rules(**local: Any) -> Any:
        return [{"local": [{"user": {"name": "{0}"}, **local}], "remote": [{"type": "name"}]}]

    await provider(i)
    for bad in (
        rules(group={"id": "none"}),
        rules(projects=[{"name": "p", "roles": [{"name": "none"}]}]),
        [
            {
                "local": [{"user": {"name": "{0}", "domain": {"id": "x"}}}],
                "remote": [{"type": "name"}],
            }
        ],
        [{"local": [{"group_ids": "x"}], "remote": [{"type": "name"}]}],
    ):
        await i.admin.patch(f"{FEDERATION}/mappings/m", {"mapping": {"rules": bad}})
        with pytest.raises(Unauthenticated):
            await login(i, name="bob")
    assert (await i.admin.get("/projects?name=p")).json["projects"] == []
    await i.admin.patch(f"{FEDERATION}/mappings/m", {"mapping": {"rules": PLAIN}})
    with pytest.raises(Unauthenticated):
        await login(i, name="x" * 256)
    await i.admin.delete(f"{FEDERATION}/mappings/m")
    with pytest.raises(Unauthenticated):
        await login(i, name="bob")


@alone
async def test_a_protocol_that_is_gone_takes_the_tokens_got_by_it_along(i: Identity) -> None:
    await provider(i)
    who, _ = await login(i, name="bob")
    body = {"protocol": {"mapping_id": "m"}}
    assert (await i.admin.put(f"{IDP}/protocols/mapped", body)).status == 201
    ways = [{"protocol_id": id, "unique_id": "bob"} for id in ("openid", "mapped")]
    change = {"user": {"federated": [{"idp_id": "acme", "protocols": ways}]}}
    assert (await i.admin.patch(f"/users/{who.user_id}", change)).status == 200
    assert (await who.get("/auth/projects")).status == 200
    assert (await i.admin.delete(f"{IDP}/protocols/openid")).status == 204
    assert (await who.get("/auth/projects")).status == 401
    assert (await i.admin.get(f"/users/{who.user_id}")).status == 200, "he can come by the other"

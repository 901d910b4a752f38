"""Users and groups."""

from __future__ import annotations

from pileus.services.identity.tests.clouds import Identity, alone
from pileus.testing.cloud import PASSWORD


@alone
async def test_a_user_is_shown_without_his_password_and_with_what_nobody_declared(
    i: Identity,
) -> None:
    made = await i.admin.make(
        "/users", name=" eve ", password=PASSWORD, email="e@x", description="d"
    )
    assert made == {
        "id": made["id"],
        "name": "eve",
        "domain_id": "default",
        "enabled": True,
        "email": "e@x",
        "description": "d",
        "options": {},
        "password_expires_at": None,
        "links": {"self": f"http://cloud.test:5000/identity/v3/users/{made['id']}"},
    }
    assert (await i.admin.get(f"/users/{made['id']}")).json["user"] == made
    renamed = await i.admin.patch(f"/users/{made['id']}", {"user": {"name": "Eva", "email": None}})
    assert renamed.json["user"]["name"] == "Eva" and renamed.json["user"]["email"] is None


@alone
async def test_names_compare_without_case_within_a_domain(i: Identity) -> None:
    domain = await i.domain("d")
    await i.user("Ann")
    await i.user("ann", domain)
    twice = await i.admin.post("/users", {"user": {"name": "ANN"}})
    assert twice.status == 409
    assert "Duplicate entry found with name ANN at domain ID default." in twice.body.decode()
    found = (await i.admin.get("/users?name=aNN&domain_id=default")).json["users"]
    assert [u["name"] for u in found] == ["Ann"]
    assert (await i.admin.get("/users?enabled=false")).json["users"] == []


@alone
async def test_bodies_of_users_are_checked(i: Identity) -> None:
    for body, status in (
        ({"name": "x" * 256}, 400),
        ({"name": "x", "password": ""}, 400),
        ({"name": "x", "enabled": 7}, 400),
        ({"name": "x", "options": {"colour": 1}}, 400),
        ({"name": "x", "options": {"lock_password": "yes"}}, 400),
        ({"name": "x", "options": {"multi_factor_auth_rules": [["password", "password"]]}}, 400),
        ({"name": "x", "options": {"multi_factor_auth_rules": [["totp"], ["totp"]]}}, 400),
        ({"name": "x", "default_project_id": "default"}, 400),
        ({"name": "x", "domain_id": "nope"}, 404),
        ({"name": "x" * 255, "options": {"lock_password": True}}, 201),
    ):
        assert (await i.admin.post("/users", {"user": body})).status == status, body
    user = await i.user("u")
    for change in (
        {"domain_id": await i.domain("d")},
        {"id": "other"},
        {"default_project_id": "default"},
    ):
        assert (await i.admin.patch(f"/users/{user}", {"user": change})).status == 400


@alone
async def test_a_locked_password_is_the_administrators_to_change(i: Identity) -> None:
    user = await i.user("l", password=PASSWORD, options={"lock_password": True})
    change = {"user": {"original_password": PASSWORD, "password": "another-one"}}
    assert (await i.anybody.post(f"/users/{user}/password", change)).status == 400
    forced = await i.admin.patch(f"/users/{user}", {"user": {"password": "another-one"}})
    assert forced.status == 200
    assert (await i.password(user, "another-one")).status == 201


@alone
async def test_a_groups_members_come_and_go(i: Identity) -> None:
    domain = await i.domain("d")
    group = (await i.admin.make("/groups", name="g", domain_id=domain, project_id="x"))["id"]
    made = [await i.admin.make("/users", name=f"u{n}", email="e@x") for n in range(3)]
    for user in made:
        url = f"/groups/{group}/users/{user['id']}"
        assert (await i.admin.head(url)).status == 404
        assert (await i.admin.put(url)).status == 204
        assert (await i.admin.put(url)).status == 204
        assert (await i.admin.head(url)).status == 204
    listed = (await i.admin.get(f"/groups/{group}/users")).json["users"]
    assert sorted(listed, key=lambda u: u["name"]) == made
    mine = (await i.admin.get(f"/users/{made[0]['id']}/groups")).json["groups"]
    assert [g["id"] for g in mine] == [group] and mine[0]["project_id"] == "x"
    assert (await i.admin.delete(f"/users/{made[0]['id']}")).status == 204
    for user in made[1:]:
        assert (await i.admin.delete(f"/groups/{group}/users/{user['id']}")).status == 204
        assert (await i.admin.delete(f"/groups/{group}/users/{user['id']}")).status == 404
    assert (await i.admin.get(f"/groups/{group}/users")).json["users"] == []
    assert (await i.admin.put(f"/groups/{group}/users/nope")).status == 404


@alone
async def test_a_groups_name_is_its_domains(i: Identity) -> None:
    domain = await i.domain("d")
    made = await i.admin.make("/groups", name="Crew")
    assert made["description"] == "" and made["domain_id"] == "default"
    assert (await i.admin.post("/groups", {"group": {"name": "CREW"}})).status == 409
    await i.admin.make("/groups", name="crew", domain_id=domain)
    url = f"/groups/{made['id']}"
    changed = await i.admin.patch(url, {"group": {"description": "d"}})
    assert changed.json["group"]["description"] == "d"
    assert (await i.admin.delete(url)).status == 204
    assert (await i.admin.get(url)).status == 404


@alone
async def test_the_projects_of_a_user_count_groups_and_inheritance(i: Identity) -> None:
    domain = await i.domain("d")
    direct, grouped, below = [await i.project(n, domain) for n in ("a", "b", "c")]
    user = await i.user("u")
    group = (await i.admin.make("/groups", name="g"))["id"]
    await i.admin.put(f"/groups/{group}/users/{user}")
    role = await i.role("reader")
    await i.grant("reader", f"projects/{direct}", user)
    await i.admin.put(f"/projects/{grouped}/groups/{group}/roles/{role}")
    listed = (await i.admin.get(f"/users/{user}/projects")).json["projects"]
    assert {p["id"] for p in listed} == {direct, grouped}
    who = await i.token(user, f"projects/{direct}")
    inherit = f"/OS-INHERIT/domains/{domain}/users/{user}/roles/{role}/inherited_to_projects"
    assert (await i.admin.put(inherit)).status == 204
    listed = (await who.get(f"/users/{user}/projects")).json["projects"]
    assert {p["id"] for p in listed} == {direct, grouped, below}
    assert (await i.token(user, f"projects/{below}")).project_id == below
    assert (await (await i.token(user, f"projects/{below}")).get("/auth/projects")).status == 200
    assert (await (await i.token(user, f"domains/{domain}")).get("/auth/domains")).status == 401


@alone
async def test_where_a_user_can_go(i: Identity) -> None:
    project = await i.project("p")
    who = await i.who("u", "member", f"projects/{project}")
    await i.grant("reader", "domains/default", who.user_id)
    who = await i.token(who.user_id)
    assert [p["id"] for p in (await who.get("/auth/projects")).json["projects"]] == [project]
    assert [d["id"] for d in (await who.get("/auth/domains")).json["domains"]] == ["default"]
    assert (await who.get("/auth/system")).json["system"] == []
    assert (await i.admin.get("/auth/system")).json["system"] == [{"all": True}]
    assert (await who.get("/auth/catalog")).status == 403
    await i.admin.patch(f"/projects/{project}", {"project": {"enabled": False}})
    who = await i.token(who.user_id)
    assert (await who.get("/auth/projects")).json["projects"] == []

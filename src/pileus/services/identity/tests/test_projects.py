"""Domains and projects: the tree, tags, and what goes when they go."""

from __future__ import annotations

from typing import Any

from pileus.services.identity.assignments import ASSIGNMENTS
from pileus.services.identity.tests.clouds import Identity, alone


@alone
async def test_a_project_is_shown_with_every_key_and_what_nobody_declared(i: Identity) -> None:
    made = await i.admin.make("/projects", name=" web ", description="d", colour="red")
    assert made["name"] == "web" and made["colour"] == "red"
    assert made["domain_id"] == made["parent_id"] == "default"
    assert (made["enabled"], made["is_domain"], made["tags"], made["options"]) == (
        True,
        False,
        [],
        {},
    )
    assert made["links"]["self"].endswith(f"/identity/v3/projects/{made['id']}")
    assert (await i.admin.get(f"/projects/{made['id']}")).json["project"] == made
    again = await i.admin.post("/projects", {"project": {"name": "WEB"}})
    assert again.status == 409 and "two projects" in again.json["error"]["message"]


@alone
async def test_names_have_limits_and_bodies_are_checked(i: Identity) -> None:
    for body in (
        {"name": "x" * 65},
        {"name": ""},
        {"name": "  "},
        {"name": "a", "tags": ["a,b"]},
        {"name": "a", "tags": ["a"] * 2},
        {"name": "a", "tags": [str(n) for n in range(81)]},
        {"name": "a", "domain_id": "nope"},
        {"name": "a", "parent_id": "nope"},
        {"name": "a", "enabled": "perhaps"},
        {},
    ):
        assert (await i.admin.post("/projects", {"project": body})).status == 400, body
    assert (await i.admin.post("/projects", {"project": {"name": "é" * 64}})).status == 201


@alone
async def test_projects_stand_below_projects_to_a_depth(i: Identity) -> None:
    at, ids = "", []
    for n in range(5):
        fields = {"parent_id": at} if at else {}
        at = (await i.admin.make("/projects", name=f"p{n}", **fields))["id"]
        ids.append(at)
    deeper = await i.admin.post("/projects", {"project": {"name": "p6", "parent_id": at}})
    assert deeper.status == 403
    shown = (await i.admin.get(f"/projects/{ids[2]}?parents_as_ids&subtree_as_ids")).json
    assert shown["project"]["parents"] == {ids[1]: {ids[0]: {"default": None}}}
    assert shown["project"]["subtree"] == {ids[3]: {ids[4]: None}}
    both = await i.admin.get(f"/projects/{ids[2]}?parents_as_ids&parents_as_list")
    assert both.status == 400
    below = (await i.admin.get(f"/projects?parent_id={ids[0]}")).json["projects"]
    assert [p["id"] for p in below] == [ids[1]]


@alone
async def test_a_branch_is_disabled_from_the_leaf_and_deleted_from_the_leaf(i: Identity) -> None:
    top = await i.project("top")
    leaf = (await i.admin.make("/projects", name="leaf", parent_id=top))["id"]
    off = {"project": {"enabled": False}}
    assert (await i.admin.patch(f"/projects/{top}", off)).status == 403
    assert (await i.admin.patch(f"/projects/{leaf}", off)).status == 200
    assert (await i.admin.patch(f"/projects/{top}", off)).status == 200
    on = {"project": {"enabled": True}}
    assert (await i.admin.patch(f"/projects/{leaf}", on)).status == 403
    assert (await i.admin.delete(f"/projects/{top}")).status == 403
    assert (await i.admin.delete(f"/projects/{leaf}")).status == 204
    assert (await i.admin.delete(f"/projects/{top}")).status == 204
    assert (await i.admin.delete(f"/projects/{top}")).status == 404


@alone
async def test_what_may_not_change_does_not(i: Identity) -> None:
    project, other = await i.project("a"), await i.project("b")
    for change, status in (
        ({"parent_id": other}, 403),
        ({"domain_id": other}, 400),
        ({"is_domain": True}, 400),
        ({"id": other}, 400),
        ({"name": "B"}, 409),
        ({"domain_id": "default", "description": None, "name": "c"}, 200),
    ):
        reply = await i.admin.patch(f"/projects/{project}", {"project": change})
        assert reply.status == status, change
    assert (await i.admin.get(f"/projects/{project}")).json["project"]["description"] == ""


@alone
async def test_tags_one_by_one_and_together_and_as_filters(i: Identity) -> None:
    a, b = await i.project("a"), await i.project("b")
    put = await i.admin.put(f"/projects/{a}/tags", {"tags": ["red", "big"]})
    assert put.json["tags"] == ["red", "big"]
    assert (await i.admin.put(f"/projects/{b}/tags/red")).status == 201
    assert (await i.admin.get(f"/projects/{b}/tags/red")).status == 204
    assert (await i.admin.head(f"/projects/{b}/tags/blue")).status == 404

    async def ids(query: str) -> set[str]:
        listed = (await i.admin.get(f"/projects?{query}")).json["projects"]
        return {p["id"] for p in listed} & {a, b}

    assert await ids("tags=red,big") == {a}
    assert await ids("tags-any=red,big") == {a, b}
    assert await ids("not-tags=red,big") == {b}
    assert await ids("not-tags-any=big") == {b}
    assert (await i.admin.delete(f"/projects/{b}/tags/red")).status == 204
    assert (await i.admin.delete(f"/projects/{b}/tags/red")).status == 404
    assert (await i.admin.delete(f"/projects/{a}/tags")).status == 204
    assert (await i.admin.get(f"/projects/{a}/tags")).json["tags"] == []


@alone
async def test_an_immutable_project_changes_only_when_it_no_longer_is(i: Identity) -> None:
    made = await i.admin.make("/projects", name="a", options={"immutable": True})
    url = f"/projects/{made['id']}"
    assert (await i.admin.patch(url, {"project": {"name": "b"}})).status == 403
    assert (await i.admin.delete(url)).status == 403
    changes: list[dict[str, Any]] = [{"options": {"immutable": True}}, {"options": {}}]
    for more in (*changes, {"name": "b"}):
        body = {"project": {"options": {"immutable": False}, **more}}
        assert (await i.admin.patch(url, body)).status == 403, more
    assert (await i.admin.put(url + "/tags", {"tags": ["a"]})).status == 403
    assert (await i.admin.put(url + "/tags/a")).status == 403
    for options in ({"odd": True}, {"immutable": "yes"}, {"immutable": 1}):
        reply = await i.admin.post("/projects", {"project": {"name": "c", "options": options}})
        assert reply.status == 400, options
    off = await i.admin.patch(url, {"project": {"options": {"immutable": None}}})
    assert off.json["project"]["options"] == {}
    assert (await i.admin.delete(url)).status == 204


@alone
async def test_a_domain_is_disabled_before_it_is_deleted_with_all_in_it(i: Identity) -> None:
    domain = await i.domain("acme")
    project, user = await i.project("p", domain), await i.user("u", domain)
    group = (await i.admin.make("/groups", name="g", domain_id=domain))["id"]
    role = (await i.admin.make("/roles", name="r", domain_id=domain))["id"]
    await i.grant("member", f"projects/{project}", user)
    await i.grant("member", f"domains/{domain}", user)
    assert (await i.admin.delete(f"/domains/{domain}")).status == 403
    off = await i.admin.patch(f"/domains/{domain}", {"domain": {"enabled": False}})
    assert off.json["domain"]["enabled"] is False
    assert (await i.admin.delete(f"/domains/{domain}")).status == 204
    for url in (
        f"/domains/{domain}",
        f"/projects/{project}",
        f"/users/{user}",
        f"/groups/{group}",
        f"/roles/{role}",
    ):
        assert (await i.admin.get(url)).status == 404, url
    left = await ASSIGNMENTS.all(i.cloud.runtime.store)
    assert {a.actor for a in left} == {f"user:{i.admin.user_id}"}


@alone
async def test_a_domain_is_a_project_that_acts_as_one(i: Identity) -> None:
    domain = await i.domain("acme")
    shown = (await i.admin.get(f"/projects/{domain}")).json["project"]
    assert (shown["is_domain"], shown["domain_id"], shown["parent_id"]) == (True, None, None)
    listed = (await i.admin.get("/projects?is_domain=true")).json["projects"]
    assert {p["id"] for p in listed} == {"default", domain}
    assert (await i.admin.get(f"/domains/{i.admin.project_id}")).status == 404
    named = (await i.admin.get("/domains?name=ACME")).json["domains"]
    assert [d["id"] for d in named] == [domain]
    twice = await i.admin.post("/domains", {"domain": {"name": "Acme"}})
    assert twice.status == 409


@alone
async def test_deleting_a_project_takes_its_assignments_and_the_users_default(
    i: Identity,
) -> None:
    project = await i.project("p")
    user = await i.user("u", default_project_id=project)
    await i.grant("member", f"projects/{project}", user)
    assert (await i.admin.delete(f"/projects/{project}")).status == 204
    found = await i.admin.get(f"/role_assignments?user.id={user}")
    assert found.json["role_assignments"] == []
    shown = (await i.admin.get(f"/users/{user}")).json["user"]
    assert "default_project_id" not in shown


@alone
async def test_lists_page_by_limit_and_marker(i: Identity) -> None:
    for n in range(5):
        await i.project(f"p{n}")
    page = (await i.admin.get("/projects?limit=3&name__startswith=P")).json
    assert page["truncated"] is True and len(page["projects"]) == 3
    more = (await i.admin.client.get(page["links"]["next"])).json
    assert [p["name"] for p in more["projects"]] == ["p3", "p4"]
    assert more["links"]["next"] is None
    for query, names in (
        ("name__contains=3", ["p3"]),
        ("name__icontains=P3", ["p3"]),
        ("name__endswith=4", ["p4"]),
        ("name=P1", ["p1"]),
        ("name__contains=.", []),
    ):
        listed = (await i.admin.get(f"/projects?{query}")).json["projects"]
        assert [p["name"] for p in listed] == names, query


@alone
async def test_a_domain_that_holds_an_immutable_project_stays(i: Identity) -> None:
    domain = await i.domain("acme")
    fields = {"name": "kept", "domain_id": domain, "options": {"immutable": True}}
    kept = (await i.admin.make("/projects", **fields))["id"]
    other = await i.project("other", domain)
    await i.admin.patch(f"/domains/{domain}", {"domain": {"enabled": False}})
    assert (await i.admin.delete(f"/domains/{domain}")).status == 403
    assert (await i.admin.get(f"/projects/{other}")).status == 200
    await i.admin.patch(f"/projects/{kept}", {"project": {"options": {"immutable": False}}})
    assert (await i.admin.delete(f"/domains/{domain}")).status == 204


@alone
async def test_nothing_is_made_below_what_is_disabled(i: Identity) -> None:
    top = await i.project("top")
    await i.admin.patch(f"/projects/{top}", {"project": {"enabled": False}})
    below = {"project": {"name": "below", "parent_id": top}}
    assert (await i.admin.post("/projects", below)).status == 400


@alone
async def test_an_id_that_a_client_names_for_a_domain_is_plain(i: Identity) -> None:
    for id in ("a/*", "a:b", "", "x" * 65, "a b"):
        body = {"domain": {"name": "d", "explicit_domain_id": id}}
        assert (await i.admin.post("/domains", body)).status == 400, id
    made = await i.admin.make("/domains", name="d", explicit_domain_id="my-domain-1")
    assert made["id"] == "my-domain-1"

"""Roles, what they imply, and who holds them where."""

from __future__ import annotations

import time
from itertools import pairwise

from pileus.kernel import auth
from pileus.services.identity.assignments import ASSIGNMENTS, assignment, held_on
from pileus.services.identity.tests.clouds import Identity, alone
from pileus.services.identity.tree import PROJECTS


@alone
async def test_a_role_is_made_changed_listed_and_deleted(i: Identity) -> None:
    made = await i.admin.make("/roles", name="auditor", description="d")
    assert made["domain_id"] is None and made["options"] == {}
    url = f"/roles/{made['id']}"
    assert (await i.admin.patch(url, {"role": {"name": "Checker"}})).json["role"][
        "name"
    ] == "Checker"
    assert (await i.admin.post("/roles", {"role": {"name": "checker"}})).status == 409
    names = [r["name"] for r in (await i.admin.get("/roles")).json["roles"]]
    assert sorted(names) == ["Checker", "admin", "manager", "member", "reader", "service"]
    assert (await i.admin.delete(url)).status == 204
    assert (await i.admin.get(url)).status == 404


@alone
async def test_a_grant_is_put_checked_listed_and_taken_back_everywhere(i: Identity) -> None:
    project, user = await i.project("p"), await i.user("u")
    group = (await i.admin.make("/groups", name="g"))["id"]
    role = await i.role("member")
    for where in (f"/projects/{project}", "/domains/default", "/system"):
        for who in (f"users/{user}", f"groups/{group}"):
            for before, after in (("", ""), ("/OS-INHERIT", "/inherited_to_projects")):
                if before and where == "/system":
                    continue
                listing = f"{before}{where}/{who}/roles{after}"
                url = f"{before}{where}/{who}/roles/{role}{after}"
                assert (await i.admin.head(url)).status == 404, url
                assert (await i.admin.put(url)).status == 204, url
                assert (await i.admin.put(url)).status == 204, url
                assert (await i.admin.head(url)).status == 204, url
                assert (await i.admin.get(url)).status == 204, url
                listed = (await i.admin.get(listing)).json["roles"]
                assert [r["id"] for r in listed] == [role], listing
                assert (await i.admin.delete(url)).status == 204, url
                assert (await i.admin.delete(url)).status == 404, url
    assert (await i.admin.put(f"/projects/{project}/users/nope/roles/{role}")).status == 404
    assert (await i.admin.put(f"/projects/nope/users/{user}/roles/{role}")).status == 404
    assert (await i.admin.put(f"/projects/{project}/users/{user}/roles/nope")).status == 404
    assert (await i.admin.put(f"/domains/{project}/users/{user}/roles/{role}")).status == 404


@alone
async def test_a_role_implies_others_by_any_number_of_steps_and_never_itself(i: Identity) -> None:
    a, b, c = [(await i.admin.make("/roles", name=n))["id"] for n in "abc"]
    for prior, implied in pairwise((a, b, c)):
        reply = await i.admin.put(f"/roles/{prior}/implies/{implied}")
        assert reply.status == 201
        assert reply.json["role_inference"]["implies"]["id"] == implied
    assert (await i.admin.put(f"/roles/{c}/implies/{a}")).status == 403
    assert (await i.admin.put(f"/roles/{a}/implies/{await i.role('admin')}")).status == 403
    assert (await i.admin.head(f"/roles/{a}/implies/{b}")).status == 204
    assert (await i.admin.get(f"/roles/{a}/implies/{c}")).status == 404
    implied = (await i.admin.get(f"/roles/{a}/implies")).json["role_inference"]
    assert [r["id"] for r in implied["implies"]] == [b]
    project = await i.project("p")
    who = await i.who("u", "a", f"projects/{project}")
    shown = (await who.get("/auth/tokens", x_subject_token=who.token)).json["token"]
    assert [r["name"] for r in shown["roles"]] == ["a", "b", "c"]
    assert (await i.admin.delete(f"/roles/{b}/implies/{c}")).status == 204
    assert (await i.admin.delete(f"/roles/{b}/implies/{c}")).status == 404
    shown = (await who.get("/auth/tokens", x_subject_token=who.token)).json["token"]
    assert [r["name"] for r in shown["roles"]] == ["a", "b"]
    rules = (await i.admin.get("/role_inferences")).json["role_inferences"]
    assert {r["prior_role"]["name"] for r in rules} == {"a", "admin", "manager", "member"}
    assert (await i.admin.delete(f"/roles/{a}")).status == 204
    assert (await who.get("/auth/projects")).status == 401


@alone
async def test_a_domains_role_stands_for_those_it_implies_and_only_there(i: Identity) -> None:
    domain = await i.domain("d")
    role = (await i.admin.make("/roles", name="crew", domain_id=domain))["id"]
    await i.admin.put(f"/roles/{role}/implies/{await i.role('member')}")
    user, here, elsewhere = await i.user("u"), await i.project("p", domain), await i.project("p")
    assert (await i.admin.put(f"/projects/{elsewhere}/users/{user}/roles/{role}")).status == 403
    assert (await i.admin.put(f"/projects/{here}/users/{user}/roles/{role}")).status == 204
    who = await i.token(user, f"projects/{here}")
    shown = (await who.get("/auth/tokens", x_subject_token=who.token)).json["token"]
    assert [r["name"] for r in shown["roles"]] == ["member", "reader"]
    listed = (await i.admin.get(f"/roles?domain_id={domain}")).json["roles"]
    assert [r["id"] for r in listed] == [role]


@alone
async def test_assignments_are_listed_by_every_filter(i: Identity) -> None:
    project, user = await i.project("p"), await i.user("u")
    group = (await i.admin.make("/groups", name="g"))["id"]
    await i.admin.put(f"/groups/{group}/users/{user}")
    member, reader = await i.role("member"), await i.role("reader")
    await i.grant("member", f"projects/{project}", user)
    await i.admin.put(f"/domains/default/groups/{group}/roles/{reader}")
    await i.grant("reader", "system", user)

    async def found(query: str) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = (await i.admin.get(f"/role_assignments?{query}")).json[
            "role_assignments"
        ]
        return rows

    mine = await found(f"user.id={user}")
    assert [r["scope"] for r in mine] == [{"project": {"id": project}}, {"system": {"all": True}}]
    assert await found(f"group.id={group}&role.id={reader}") != []
    assert await found(f"scope.project.id={project}&role.id={member}") == mine[:1]
    assert len(await found("scope.domain.id=default")) == 1
    assert len(await found("scope.system=all")) == 2
    named = (await found(f"scope.project.id={project}&include_names"))[0]
    assert named["user"] == {
        "id": user,
        "name": "u",
        "domain": {"id": "default", "name": "Default"},
    }
    assert named["role"] == {"id": member, "name": "member"}
    for query in (
        f"user.id={user}&group.id={group}",
        f"scope.project.id={project}&scope.system=all",
        f"effective&group.id={group}",
        "include_subtree",
    ):
        assert (await i.admin.get(f"/role_assignments?{query}")).status == 400, query


@alone
async def test_effective_assignments_are_what_everybody_can_do_in_the_end(i: Identity) -> None:
    domain = await i.domain("d")
    project, user = await i.project("p", domain), await i.user("u")
    group = (await i.admin.make("/groups", name="g"))["id"]
    await i.admin.put(f"/groups/{group}/users/{user}")
    member = await i.role("member")
    await i.admin.put(
        f"/OS-INHERIT/domains/{domain}/groups/{group}/roles/{member}/inherited_to_projects"
    )
    url = f"/role_assignments?effective&user.id={user}&scope.project.id={project}&include_names"
    rows = (await i.admin.get(url)).json["role_assignments"]
    assert [r["role"]["name"] for r in rows] == ["member", "reader"]
    assert all(r["user"]["id"] == user and r["scope"]["project"]["id"] == project for r in rows)
    assert rows[0]["scope"]["OS-INHERIT:inherited_to"] == "projects"
    assert f"/OS-INHERIT/domains/{domain}/groups/{group}" in rows[0]["links"]["assignment"]
    assert f"/groups/{group}/users/{user}" in rows[0]["links"]["membership"]
    reader = await i.role("reader")
    assert rows[1]["links"]["prior_role"].endswith(f"/prior_role/{reader}/implies/{member}")
    only = (await i.admin.get(f"{url}&role.id={reader}")).json["role_assignments"]
    assert [r["role"]["id"] for r in only] == [reader]
    tree = f"/role_assignments?include_subtree&scope.project.id={project}"
    assert (await i.admin.get(tree)).status == 200


@alone
async def test_what_a_user_holds_is_found_among_many_assignments_at_once(i: Identity) -> None:
    store, project = i.cloud.runtime.store, await i.project("p")
    role, user = await i.role("member"), await i.user("u")
    place = await PROJECTS.get(store, project)

    async def cost() -> float:
        before = time.process_time()
        for _ in range(100):
            await held_on(store, user, place)
        return time.process_time() - before

    async with store.tx() as tx:
        await ASSIGNMENTS.insert(tx, assignment(f"user:{user}", f"project:{project}", role))
        await auth.revise(tx, "auth")
    among_few = await cost()
    async with store.tx() as tx:
        for n in range(5_000):
            row = assignment(f"user:{n}", f"project:{n % 50}", role)
            await ASSIGNMENTS.insert(tx, row)
        await auth.revise(tx, "auth")
    assert await held_on(store, user, place) == {role}
    assert await cost() < max(0.1, 2 * among_few)  # 1 ms each: an index, not a scan


@alone
async def test_a_domains_role_is_not_for_projects_of_others_nor_for_the_system(
    i: Identity,
) -> None:
    own, other = await i.domain("own"), await i.domain("other")
    role = (await i.admin.make("/roles", name="r", domain_id=own))["id"]
    user = await i.user("u")
    project = await i.project("p", other)
    for where, status in (
        (f"projects/{project}", 403),
        (f"projects/{await i.project('p', own)}", 204),
        (f"domains/{other}", 204),  # as upstream
        ("system", 400),
    ):
        reply = await i.admin.put(f"/{where}/users/{user}/roles/{role}")
        assert reply.status == status, where


@alone
async def test_a_switch_of_a_list_is_on_unless_it_is_zero(i: Identity) -> None:
    group = (await i.admin.make("/groups", name="crew"))["id"]
    await i.admin.put(f"/groups/{group}/users/{i.admin.user_id}")
    project = await i.project("p")
    await i.admin.put(f"/projects/{project}/groups/{group}/roles/{await i.role('reader')}")
    base = f"/role_assignments?scope.project.id={project}"
    for switch, actor in (("", "group"), ("&effective=0", "group"), ("&effective", "user")):
        found = (await i.admin.get(base + switch)).json["role_assignments"]
        assert [actor in a for a in found] == [True], switch
    for switch in ("&effective=false", "&effective=1", "&effective="):
        found = (await i.admin.get(base + switch)).json["role_assignments"]
        assert "user" in found[0], switch
    missing = "/role_assignments?scope.project.id=no"
    assert (await i.admin.get(missing)).json["role_assignments"] == []
    assert (await i.admin.get(missing + "&effective")).status == 404


@alone
async def test_a_role_implied_twice_is_shown_once_for_each_that_implies_it(i: Identity) -> None:
    a, b, c, d = [(await i.admin.make("/roles", name=n))["id"] for n in "abcd"]
    for prior, implied in ((a, b), (a, c), (b, d), (c, d)):
        await i.admin.put(f"/roles/{prior}/implies/{implied}")
    user, project = await i.user("u"), await i.project("p")
    for role in (a, b):
        await i.admin.put(f"/projects/{project}/users/{user}/roles/{role}")
    found = (await i.admin.get(f"/role_assignments?effective&user.id={user}")).json
    ids = [r["role"]["id"] for r in found["role_assignments"]]
    assert sorted(ids, key=[a, b, c, d].index) == [a, b, b, c, d, d]
    who = await i.token(user, f"projects/{project}")
    token = (await who.get("/auth/tokens", x_subject_token=who.token)).json["token"]
    assert [r["name"] for r in token["roles"]] == ["a", "b", "c", "d"]

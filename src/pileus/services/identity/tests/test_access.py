"""Who may do what: every persona against operations in his own domain and in another, as upstream's policies say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pileus.services.identity import SERVICE
from pileus.services.identity.tests.clouds import Identity, Who, alone
from pileus.testing.client import Reply
from pileus.testing.personas import PERSONAS, Persona, policies, upstream

Ids = Mapping[str, str]


async def there(i: Identity, home: str) -> dict[str, str]:
    """A domain with a project, a user, a group and the personas' role in it."""
    domain = await i.domain(f"domain-{home}")
    project = await i.project(f"project-{home}", domain)
    user = await i.user(f"owner-{home}", domain)
    group = await i.admin.make("/groups", name=f"group-{home}", domain_id=domain)
    credential = await i.admin.make("/credentials", user_id=user, type="cert", blob="b")
    return {
        "domain": domain,
        "project": project,
        "user": user,
        "group": group["id"],
        "credential": credential["id"],
        "member": await i.role("member"),
        "admin": await i.role("admin"),
    }


async def people(i: Identity, own: Ids, other: Ids) -> dict[str, tuple[Who, Persona]]:
    """A caller for each persona, and what the persona's credentials really are here."""
    found = {}
    for name, persona in PERSONAS.items():
        home = other if name == "foreign_member" else own
        role = name.rpartition("_")[2]
        where = ""
        if persona.system_scope:
            where = "system"
        elif persona.domain_id:
            where = f"domains/{home['domain']}"
        elif persona.project_id:
            where = f"projects/{home['project']}"
        who = await i.who(name, role, where, home["domain"])
        real = replace(
            persona,
            user_id=who.user_id,
            user_domain_id=home["domain"],
            project_id=who.project_id or None,
            project_domain_id=home["domain"] if who.project_id else None,
            domain_id=who.domain_id or None,
        )
        found[name] = (who, real)
    return found


def user(t: Ids) -> dict[str, Any]:
    return {"target.user.id": t["user"], "target.user.domain_id": t["domain"], "user_id": t["user"]}


def project(t: Ids) -> dict[str, Any]:
    return {"target.project.id": t["project"], "target.project.domain_id": t["domain"]}


def group(t: Ids) -> dict[str, Any]:
    return {"target.group.domain_id": t["domain"]}


def role(name: str) -> dict[str, Any]:
    return {"target.role.name": name, "target.role.domain_id": None}


def cases(t: Ids) -> list[tuple[str, str, str, Any, dict[str, Any]]]:
    """(rule, method, path, body, target); none of them changes anything that another depends on."""
    grant = f"/projects/{t['project']}/users/{t['user']}/roles"
    place = {**user(t), **project(t)}
    taken = {"domain_id": t["domain"]}
    found: list[tuple[str, str, str, Any, dict[str, Any]]] = [
        ("get_domain", "GET", f"/domains/{t['domain']}", None, {"target.domain.id": t["domain"]}),
        ("update_domain", "PATCH", f"/domains/{t['domain']}", {"domain": {}}, {}),
        ("create_domain", "POST", "/domains", {"domain": {"name": "domain-own"}}, {}),
        ("get_project", "GET", f"/projects/{t['project']}", None, project(t)),
        ("update_project", "PATCH", f"/projects/{t['project']}", {"project": {}}, project(t)),
        (
            "create_project",
            "POST",
            "/projects",
            {"project": {"name": "", **taken}},
            {"target.project.domain_id": t["domain"]},
        ),
        ("list_project_tags", "GET", f"/projects/{t['project']}/tags", None, project(t)),
        ("create_project_tag", "PUT", f"/projects/{t['project']}/tags/x", None, project(t)),
        ("get_user", "GET", f"/users/{t['user']}", None, user(t)),
        ("update_user", "PATCH", f"/users/{t['user']}", {"user": {}}, user(t)),
        ("list_user_projects", "GET", f"/users/{t['user']}/projects", None, user(t)),
        ("list_groups_for_user", "GET", f"/users/{t['user']}/groups", None, user(t)),
        (
            "list_application_credentials",
            "GET",
            f"/users/{t['user']}/application_credentials",
            None,
            user(t),
        ),
        ("get_group", "GET", f"/groups/{t['group']}", None, group(t)),
        ("update_group", "PATCH", f"/groups/{t['group']}", {"group": {}}, group(t)),
        ("list_users_in_group", "GET", f"/groups/{t['group']}/users", None, group(t)),
        (
            "add_user_to_group",
            "PUT",
            f"/groups/{t['group']}/users/{t['user']}",
            None,
            {**group(t), **user(t)},
        ),
        (
            "check_user_in_group",
            "HEAD",
            f"/groups/{t['group']}/users/{t['user']}",
            None,
            {**group(t), **user(t)},
        ),
        ("list_grants", "GET", grant, None, place),
        ("create_grant", "PUT", f"{grant}/{t['member']}", None, {**place, **role("member")}),
        ("check_grant", "HEAD", f"{grant}/{t['member']}", None, {**place, **role("member")}),
        ("create_grant", "PUT", f"{grant}/{t['admin']}", None, {**place, **role("admin")}),
        (
            "get_credential",
            "GET",
            f"/credentials/{t['credential']}",
            None,
            {"target.credential.user_id": t["user"]},
        ),
    ]
    found += _global(t)
    return [(f"identity:{one[0]}", *one[1:]) for one in found]


def _global(t: Ids) -> list[tuple[str, str, str, Any, dict[str, Any]]]:
    system = f"/system/users/{t['user']}/roles"
    return [
        ("get_role", "GET", f"/roles/{t['member']}", None, role("member")),
        ("get_role", "GET", f"/roles/{t['admin']}", None, role("admin")),
        ("list_roles", "GET", "/roles", None, {}),
        ("create_role", "POST", "/roles", {"role": {"name": "admin"}}, {}),
        ("list_role_inference_rules", "GET", "/role_inferences", None, {}),
        ("create_implied_role", "PUT", f"/roles/{t['admin']}/implies/{t['member']}", None, {}),
        ("list_system_grants_for_user", "GET", system, None, {}),
        ("check_system_grant_for_user", "HEAD", f"{system}/{t['member']}", None, {}),
        ("create_system_grant_for_user", "PUT", f"{system}/{t['member']}", None, {}),
        ("list_regions", "GET", "/regions", None, {}),
        ("create_region", "POST", "/regions", {"region": {"id": "RegionOne"}}, {}),
        ("list_services", "GET", "/services", None, {}),
        ("create_service", "POST", "/services", {"service": {"type": ""}}, {}),
        ("list_endpoints", "GET", "/endpoints", None, {}),
        ("list_policies", "GET", "/policies", None, {}),
        ("list_trusts", "GET", "/OS-TRUST/trusts", None, {}),
    ]


async def ask(who: Who, method: str, path: str, body: Any) -> Reply:
    return await who.client.request(method, f"/identity/v3{path}", body)


@alone
async def test_every_persona_may_what_upstream_lets_it_and_nothing_else(i: Identity) -> None:
    own, other = await there(i, "own"), await there(i, "other")
    rules, wrong = upstream("identity"), []
    everybody = await people(i, own, other)
    for home in (own, other):
        for rule, method, path, body, target in cases(home):
            if body and "name" in next(iter(body.values()), {}) and rule.endswith("create_project"):
                body = {"project": {**body["project"], "name": "project-own"}}
            for name, (who, persona) in everybody.items():
                expected = rules.check(rule)(persona, target)
                reply = await ask(who, method, path, body)
                if (reply.status != 403) != expected or reply.status in (401, 500):
                    wrong.append((name, rule, path, expected, reply.status))
    assert wrong == []


@alone
async def test_lists_show_a_domains_caller_his_domain_only(i: Identity) -> None:
    own, other = await there(i, "own"), await there(i, "other")
    everybody = await people(i, own, other)
    for path, key in (("/users", "users"), ("/projects", "projects"), ("/groups", "groups")):
        for name in ("domain_reader", "domain_manager"):
            who, _ = everybody[name]
            rows = (await who.get(path)).json[key]
            assert rows and {r["domain_id"] for r in rows} == {own["domain"]}
            elsewhere = await who.get(f"{path}?domain_id={other['domain']}")
            assert {r["domain_id"] for r in elsewhere.json[key]} <= {own["domain"]}
        for name in ("project_member", "project_reader", "foreign_member", "nobody", "service"):
            assert (await everybody[name][0].get(path)).status == 403, (name, path)
        assert len((await everybody["system_reader"][0].get(path)).json[key]) >= 2
    reader, _ = everybody["domain_reader"]
    listed = (await reader.get("/domains")).json["domains"]
    assert [d["id"] for d in listed] == [own["domain"]]
    rows = (await reader.get("/role_assignments")).json["role_assignments"]
    assert rows and {
        r["scope"].get("domain", r["scope"].get("project", {})).get("id") for r in rows
    } == {own["domain"], own["project"]}


@alone
async def test_an_id_that_is_not_there_is_forbidden_to_whom_it_would_be(i: Identity) -> None:
    own = await there(i, "own")
    member = await i.who("m", "member", f"projects/{own['project']}", own["domain"])
    for path in ("/users/no", "/projects/no", "/domains/no", "/groups/no"):
        assert (await member.get(path)).status == 403, path
        assert (await i.admin.get(path)).status == 404, path
    for path in ("/domains/no", "/groups/no", "/roles/no", "/limits/no"):  # as upstream tells
        assert (await member.delete(path)).status == 404, path
    assert (await member.get("/OS-TRUST/trusts/no")).status == 404
    assert (await i.anybody.get("/users/no")).status == 401


def test_rules_and_scopes_are_upstreams_to_the_letter() -> None:
    table, scopes = policies("identity"), SERVICE.all_scopes()
    for name, check in SERVICE.all_rules().items():
        if name == "identity:authenticated":
            continue
        assert check.split() == table[name].check_str.split(), name
        if name in scopes:
            assert frozenset(scopes[name]) == table[name].scope_types, name

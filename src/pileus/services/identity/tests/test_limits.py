"""Registered limits and limits: what there is, who sees it, and what the enforcement model refuses."""

from __future__ import annotations

from typing import Any

from pileus.services.identity.settings import Settings
from pileus.services.identity.tests.clouds import Identity, Who, alone


async def _service(i: Identity) -> str:
    return str((await i.admin.make("/services", name="sun", type="light"))["id"])


async def _registered(i: Identity, service: str, amount: int = 10, **more: Any) -> dict[str, Any]:
    asked = {"service_id": service, "resource_name": "rays", "default_limit": amount, **more}
    reply = await i.admin.post("/registered_limits", {"registered_limits": [asked]})
    assert reply.status == 201 and list(reply.json) == ["registered_limits"], reply
    found: dict[str, Any] = reply.json["registered_limits"][0]
    return found


def _limit(service: str, amount: int, **where: str) -> dict[str, Any]:
    asked = {"service_id": service, "resource_name": "rays", "resource_limit": amount, **where}
    return {"limits": [asked]}


async def _ids(who: Who, query: str = "") -> list[str]:
    return [one["id"] for one in (await who.get("/limits" + query)).json["limits"]]


@alone
async def test_a_registered_limit_is_shown_found_and_changed(i: Identity) -> None:
    service = await _service(i)
    made = await _registered(i, service, description="d")
    assert made["region_id"] is None and made["default_limit"] == 10
    url = f"/registered_limits/{made['id']}"
    assert made["links"]["self"].endswith("/v3" + url)
    assert (await i.admin.get(url)).json == {"registered_limit": made}
    for query, there in (("resource_name=rays", 1), ("resource_name=no", 0), ("region_id=no", 0)):
        found = (await i.admin.get(f"/registered_limits?{query}")).json["registered_limits"]
        assert len(found) == there, query
    reply = await i.admin.patch(url, {"registered_limit": {"default_limit": -1}})
    assert reply.json["registered_limit"] == {**made, "default_limit": -1}
    assert (await i.admin.delete(url)).status == 204
    assert (await i.admin.get(url)).status == 404


@alone
async def test_what_a_registered_limit_cannot_be_is_refused(i: Identity) -> None:
    service = await _service(i)
    await _registered(i, service)
    good = {"service_id": service, "resource_name": "other", "default_limit": 1}
    for status, bad in (
        (409, {"resource_name": "rays"}),
        (400, {"service_id": "no"}),
        (400, {"region_id": "no"}),
        (400, {"default_limit": -2}),
        (400, {"default_limit": 1 << 31}),
        (400, {"default_limit": "1"}),
        (400, {"resource_name": ""}),
        (400, {"project_id": "x"}),
    ):
        body = {"registered_limits": [good, {**good, **bad}]}
        assert (await i.admin.post("/registered_limits", body)).status == status, bad
    assert (await i.admin.post("/registered_limits", {"registered_limits": []})).status == 400
    found = (await i.admin.get("/registered_limits")).json["registered_limits"]
    assert [r["resource_name"] for r in found] == ["rays"]  # all or nothing


@alone
async def test_a_limit_needs_a_registered_one_which_then_stands(i: Identity) -> None:
    service, project = await _service(i), await i.project("p")
    refused = await i.admin.post("/limits", _limit(service, 5, project_id=project))
    assert refused.status == 403 and b"no corresponding registered limit" in refused.body
    registered = await _registered(i, service)
    made = (await i.admin.post("/limits", _limit(service, 5, project_id=project))).json["limits"]
    assert made[0]["resource_limit"] == 5 and made[0]["domain_id"] is None
    assert (await i.admin.get(f"/limits/{made[0]['id']}")).json["limit"] == made[0]
    twice = await i.admin.post("/limits", _limit(service, 6, project_id=project))
    assert twice.status == 409
    url = f"/registered_limits/{registered['id']}"
    assert (await i.admin.delete(url)).status == 403
    change = {"registered_limit": {"default_limit": 1}}
    assert (await i.admin.patch(url, change)).status == 403
    zero = await i.admin.patch(f"/limits/{made[0]['id']}", {"limit": {"resource_limit": 0}})
    assert zero.json["limit"]["resource_limit"] == 0
    assert (await i.admin.delete(f"/projects/{project}")).status == 204
    assert await _ids(i.admin) == []
    assert (await i.admin.delete(url)).status == 204
    assert (await i.admin.delete(f"/services/{service}")).status == 204


@alone
async def test_a_limit_is_of_a_project_or_of_a_domain(i: Identity) -> None:
    service, project, domain = await _service(i), await i.project("p"), await i.domain("d")
    await _registered(i, service)
    made = await i.admin.post("/limits", _limit(service, 5, project_id=domain))
    assert made.json["limits"][0]["domain_id"] == domain  # a domain is a project that acts as one
    for where in (
        {},
        {"project_id": project, "domain_id": domain},
        {"project_id": "no"},
        {"domain_id": "no"},
        {"domain_id": project},
    ):
        reply = await i.admin.post("/limits", _limit(service, 5, **where))
        assert reply.status == 400, where


@alone
async def test_everybody_lists_the_limits_of_his_own(i: Identity) -> None:
    service, domain = await _service(i), await i.domain("d")
    await _registered(i, service)
    own, foreign = await i.project("own", domain), await i.project("foreign")
    ids = {}
    for where in ({"project_id": own}, {"project_id": foreign}, {"domain_id": domain}):
        reply = await i.admin.post("/limits", _limit(service, 5, **where))
        ids[next(iter(where.values()))] = reply.json["limits"][0]["id"]
    member = await i.who("m", "member", f"projects/{own}", domain)
    keeper = await i.who("k", "reader", f"domains/{domain}", domain)
    system = await i.who("s", "reader", "system")
    assert await _ids(member) == [ids[own]]
    assert await _ids(member, f"?project_id={foreign}") == []
    assert sorted(await _ids(keeper)) == sorted([ids[own], ids[domain]])
    assert sorted(await _ids(system)) == sorted(ids.values())
    assert await _ids(i.admin, f"?domain_id={domain}") == [ids[domain]]
    for who, seen in ((member, {own}), (keeper, {own, domain}), (system, set(ids))):
        for place, id in ids.items():
            reply = await who.get(f"/limits/{id}")
            assert reply.status == (200 if place in seen else 403), (who, place)
        assert (await who.delete(f"/limits/{ids[own]}")).status == 403
    assert (await member.get("/limits/nothing")).status == 403
    assert (await i.admin.get("/limits/nothing")).status == 404


@alone
async def test_parents_come_with_their_limits_if_asked(i: Identity) -> None:
    service, above = await _service(i), await i.project("above")
    await _registered(i, service)
    await i.admin.post("/limits", _limit(service, 5, project_id=above))
    below = await i.admin.make("/projects", name="below", domain_id="default", parent_id=above)
    await i.grant("reader", f"projects/{above}", i.admin.user_id)
    shown = await i.admin.get(f"/projects/{below['id']}?parents_as_list&include_limits")
    parents = shown.json["project"]["parents"]
    assert [p["project"]["limits"][0]["resource_limit"] for p in parents] == [5]


@alone
async def test_the_flat_model_asks_nothing_of_the_tree(i: Identity) -> None:
    model = (await i.admin.get("/limits/model")).json["model"]
    assert model["name"] == "flat" and "hierarchy" in model["description"]
    service, project = await _service(i), await i.project("p")
    await _registered(i, service, 1)
    made = await i.admin.post("/limits", _limit(service, 1000, project_id=project))
    assert made.status == 201


@alone
async def test_strict_two_level_keeps_projects_within_their_domain(i: Identity) -> None:
    i.cloud.runtime.settings["identity"] = Settings(enforcement_model="strict_two_level")
    assert (await i.admin.get("/limits/model")).json["model"]["name"] == "strict_two_level"
    service, domain = await _service(i), await i.domain("d")
    project, other = await i.project("p", domain), await i.project("q", domain)
    await _registered(i, service, 10)

    async def limit(amount: int, **where: str) -> int:
        return (await i.admin.post("/limits", _limit(service, amount, **where))).status

    assert await limit(11, project_id=project) == 403  # of the registered limit
    assert await limit(10, project_id=project) == 201
    assert await limit(9, domain_id=domain) == 403  # a project has more already
    both = _limit(service, 20, domain_id=domain)["limits"]
    both += _limit(service, 21, project_id=other)["limits"]
    assert (await i.admin.post("/limits", {"limits": both})).status == 403
    both[1]["resource_limit"] = 20
    made = await i.admin.post("/limits", {"limits": both})
    assert made.status == 201
    top, below = (f"/limits/{one['id']}" for one in made.json["limits"])
    assert (await i.admin.patch(top, {"limit": {"resource_limit": 19}})).status == 403
    assert (await i.admin.patch(below, {"limit": {"resource_limit": -1}})).status == 403
    assert (await i.admin.patch(top, {"limit": {"resource_limit": -1}})).status == 200
    assert (await i.admin.patch(below, {"limit": {"resource_limit": -1}})).status == 200


@alone
async def test_strict_two_level_keeps_the_tree_low(i: Identity) -> None:
    i.cloud.runtime.settings["identity"] = Settings(enforcement_model="strict_two_level")
    at, made = "default", 0
    for n in range(4):
        reply = await i.admin.post(
            "/projects", {"project": {"name": f"p{n}", "domain_id": "default", "parent_id": at}}
        )
        if reply.status != 201:
            assert reply.status == 403 and b"Max hierarchy depth" in reply.body
            break
        at, made = reply.json["project"]["id"], made + 1
    assert made == 2


@alone
async def test_a_registered_limit_outlives_what_it_is_for(i: Identity) -> None:
    service = (await i.admin.make("/services", type="kept", name="kept"))["id"]
    asked = {"service_id": service, "resource_name": "things", "default_limit": 3}
    reply = await i.admin.post("/registered_limits", {"registered_limits": [asked]})
    made = reply.json["registered_limits"][0]
    assert (await i.admin.delete(f"/services/{service}")).status == 204
    path = f"/registered_limits/{made['id']}"
    assert (await i.admin.get(path)).json["registered_limit"]["service_id"] == service
    assert (await i.admin.delete(path)).status == 204

"""OS-EP-FILTER and OS-ENDPOINT-POLICY, read back in catalogs and by the other side of each association."""

from __future__ import annotations

from typing import Any

from pileus.services.identity.tests.clouds import Identity, Who, alone

EP = "/OS-EP-FILTER"


async def _endpoint(i: Identity, name: str, interface: str = "public", **more: str) -> str:
    service = (
        more.pop("service_id", "") or (await i.admin.make("/services", name=name, type=name))["id"]
    )
    fields = {"service_id": service, "interface": interface, "url": f"http://{name}/{interface}"}
    return str((await i.admin.make("/endpoints", **fields, **more))["id"])


async def _group(i: Identity, **filters: str) -> str:
    body = {"endpoint_group": {"name": "g", "filters": filters}}
    reply = await i.admin.post(f"{EP}/endpoint_groups", body)
    assert reply.status == 201, reply
    return str(reply.json["endpoint_group"]["id"])


async def _urls(who: Who) -> set[str]:
    catalog = (await who.get("/auth/catalog")).json["catalog"]
    return {e["url"] for s in catalog for e in s["endpoints"]}


@alone
async def test_a_project_sees_the_endpoints_associated_with_it_and_others_see_all(
    i: Identity,
) -> None:
    sun, moon = await _endpoint(i, "sun"), await _endpoint(i, "moon")
    project = await i.project("p")
    member = await i.who("m", "member", f"projects/{project}")
    every = await _urls(member)
    assert {"http://sun/public", "http://moon/public"} < every
    url = f"{EP}/projects/{project}/endpoints/{sun}"
    assert (await i.admin.get(url)).status == 404
    assert (await i.admin.put(url)).status == 204
    assert (await i.admin.put(url)).status == 409
    assert (await i.admin.head(url)).status == 204
    assert await _urls(member) == {"http://sun/public"}
    catalog = (await i.admin.get("/auth/tokens", x_subject_token=member.token)).json["token"]
    assert [s["type"] for s in catalog["catalog"]] == ["sun"]
    assert await _urls(i.admin) == every
    listed = (await i.admin.get(f"{EP}/projects/{project}/endpoints")).json["endpoints"]
    assert [e["id"] for e in listed] == [sun]
    there = (await i.admin.get(f"{EP}/endpoints/{sun}/projects")).json["projects"]
    assert [p["id"] for p in there] == [project]
    assert (await i.admin.get(f"{EP}/endpoints/{moon}/projects")).json["projects"] == []
    assert (await i.admin.delete(url)).status == 204
    assert (await i.admin.delete(url)).status == 404
    assert await _urls(member) == every


@alone
async def test_a_group_is_the_endpoints_that_have_what_it_asks_for(i: Identity) -> None:
    public = await _endpoint(i, "sun", region="East")
    service = (await i.admin.get(f"/endpoints/{public}")).json["endpoint"]["service_id"]
    admin = await _endpoint(i, "sun", "admin", service_id=service, region="East")
    await _endpoint(i, "sun", "internal", service_id=service)
    group = await _group(i, service_id=service, region_id="East")
    found = (await i.admin.get(f"{EP}/endpoint_groups/{group}/endpoints")).json["endpoints"]
    assert {e["id"] for e in found} == {public, admin}
    project = await i.project("p")
    member = await i.who("m", "member", f"projects/{project}")
    url = f"{EP}/endpoint_groups/{group}/projects/{project}"
    assert (await i.admin.get(url)).status == 404
    assert (await i.admin.put(url)).status == 204
    assert (await i.admin.put(url)).status == 409
    pair = (await i.admin.get(url)).json["project_endpoint_group"]
    assert (pair["endpoint_group_id"], pair["project_id"]) == (group, project)
    assert await _urls(member) == {"http://sun/public", "http://sun/admin"}
    change = {"endpoint_group": {"filters": {"interface": "admin", "service_id": service}}}
    assert (await i.admin.patch(f"{EP}/endpoint_groups/{group}", change)).status == 200
    assert await _urls(member) == {"http://sun/admin"}
    await i.admin.patch(f"/endpoints/{admin}", {"endpoint": {"enabled": False}})
    assert await _urls(member) == set()  # what is associated is disabled; nothing else shows
    there = (await i.admin.get(f"{EP}/endpoint_groups/{group}/projects")).json["projects"]
    assert [p["id"] for p in there] == [project]
    mine = (await i.admin.get(f"{EP}/projects/{project}/endpoint_groups")).json
    assert [g["id"] for g in mine["endpoint_groups"]] == [group]
    assert (await i.admin.delete(url)).status == 204
    assert (await i.admin.delete(url)).status == 404
    assert len(await _urls(member)) > 1


@alone
async def test_associations_go_with_what_they_are_of(i: Identity) -> None:
    sun, project, other = await _endpoint(i, "sun"), await i.project("p"), await i.project("q")
    group = await _group(i, interface="public")
    for one in (project, other):
        await i.admin.put(f"{EP}/projects/{one}/endpoints/{sun}")
        await i.admin.put(f"{EP}/endpoint_groups/{group}/projects/{one}")
    await i.admin.delete(f"/projects/{project}")
    for url in (f"{EP}/endpoints/{sun}/projects", f"{EP}/endpoint_groups/{group}/projects"):
        assert [p["id"] for p in (await i.admin.get(url)).json["projects"]] == [other]
    assert (await i.admin.delete(f"{EP}/endpoint_groups/{group}")).status == 204
    found = (await i.admin.get(f"{EP}/projects/{other}/endpoint_groups")).json
    assert found["endpoint_groups"] == []
    service = (await i.admin.get(f"/endpoints/{sun}")).json["endpoint"]["service_id"]
    await i.admin.delete(f"/services/{service}")
    found = (await i.admin.get(f"{EP}/projects/{other}/endpoints")).json
    assert found["endpoints"] == []
    assert (await i.admin.get(f"{EP}/projects/{other}/endpoints/{sun}")).status == 404


@alone
async def test_a_group_asks_for_what_endpoints_have(i: Identity) -> None:
    for filters in ({}, {"url": "x"}, {"interface": "odd"}, {"service_id": 1}, {"enabled": True}):
        body = {"endpoint_group": {"name": "g", "filters": filters}}
        assert (await i.admin.post(f"{EP}/endpoint_groups", body)).status == 400, filters
    group = await _group(i, interface="public")
    shown = (await i.admin.get(f"{EP}/endpoint_groups/{group}")).json["endpoint_group"]
    assert shown["description"] is None and shown["filters"] == {"interface": "public"}
    assert shown["links"]["self"].endswith(f"/v3{EP}/endpoint_groups/{group}")
    found = (await i.admin.get(f"{EP}/endpoint_groups?name=G")).json["endpoint_groups"]
    assert [g["id"] for g in found] == [group]
    assert (await i.admin.get(f"{EP}/endpoint_groups?name=x")).json["endpoint_groups"] == []
    assert (await i.admin.get(f"{EP}/endpoint_groups/no")).status == 404
    change: dict[str, Any] = {"endpoint_group": {"filters": {}}}
    changed = await i.admin.patch(f"{EP}/endpoint_groups/{group}", change)
    assert changed.json["endpoint_group"]["filters"] == {}, "as the standard client's test has it"


@alone
async def test_the_nearest_policy_is_an_endpoints(i: Identity) -> None:
    await i.admin.put("/regions/World", {"region": {}})
    await i.admin.put("/regions/East", {"region": {"parent_region_id": "World"}})
    east = await _endpoint(i, "sun", region_id="East")
    service = (await i.admin.get(f"/endpoints/{east}")).json["endpoint"]["service_id"]
    west = await _endpoint(i, "sun", service_id=service)
    ids = [(await i.admin.make("/policies", blob=str(n), type="t"))["id"] for n in range(3)]

    async def of(endpoint: str) -> str:
        reply = await i.admin.get(f"/endpoints/{endpoint}/OS-ENDPOINT-POLICY/policy")
        return str(reply.json["policy"]["id"]) if reply.status == 200 else str(reply.status)

    tails = (f"services/{service}", f"services/{service}/regions/World", f"endpoints/{east}")
    expected = ((ids[0], ids[0], {east, west}), (ids[1], ids[0], {east}), (ids[2], ids[0], {east}))
    assert (await of(east), await of(west)) == ("404", "404")
    for policy, tail, (of_east, of_west, endpoints) in zip(ids, tails, expected, strict=True):
        url = f"/policies/{policy}/OS-ENDPOINT-POLICY/{tail}"
        assert (await i.admin.get(url)).status == 404
        assert (await i.admin.put(url)).status == 204
        assert (await i.admin.head(url)).status == 204
        assert (await of(east), await of(west)) == (of_east, of_west), tail
        found = (await i.admin.get(f"/policies/{policy}/OS-ENDPOINT-POLICY/endpoints")).json
        assert {e["id"] for e in found["endpoints"]} == endpoints
    await i.admin.put(f"/policies/{ids[1]}/OS-ENDPOINT-POLICY/endpoints/{east}")
    assert await of(east) == ids[1]  # one thing has one policy
    assert (await i.admin.get(f"/policies/{ids[2]}/OS-ENDPOINT-POLICY/{tails[2]}")).status == 404
    assert (await i.admin.delete(f"/policies/{ids[1]}")).status == 204
    assert await of(east) == ids[0]
    url = f"/policies/{ids[0]}/OS-ENDPOINT-POLICY/{tails[0]}"
    assert (await i.admin.delete(url)).status == 204
    assert await of(east) == "404"


@alone
async def test_what_is_not_there_has_no_policy(i: Identity) -> None:
    policy = (await i.admin.make("/policies", blob="b", type="t"))["id"]
    sun = await _endpoint(i, "sun")
    service = (await i.admin.get(f"/endpoints/{sun}")).json["endpoint"]["service_id"]
    for tail in ("endpoints/no", "services/no", f"services/{service}/regions/no"):
        for method in ("GET", "PUT", "DELETE"):
            url = f"/identity/v3/policies/{policy}/OS-ENDPOINT-POLICY/{tail}"
            assert (await i.admin.client.request(method, url)).status == 404, (method, tail)
    assert (await i.admin.put(f"/policies/no/OS-ENDPOINT-POLICY/endpoints/{sun}")).status == 404

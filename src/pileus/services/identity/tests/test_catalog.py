"""Version documents, regions, services, endpoints, and policies."""

from __future__ import annotations

from pileus.services.identity.bootstrap import derived_id, publish
from pileus.services.identity.tests.clouds import Identity, alone


@alone
async def test_version_documents_need_no_token(i: Identity) -> None:
    for url in ("/identity", "/identity/"):
        reply = await i.anybody.client.get(url)
        assert reply.status == 300
        v3 = reply.json["versions"]["values"][0]
    assert v3["id"] == "v3.14" and v3["status"] == "stable"
    assert v3["links"] == [{"rel": "self", "href": "http://cloud.test:5000/identity/v3/"}]
    reply = await i.anybody.client.get("/identity/v3")
    assert (reply.status, reply.json["version"]) == (200, v3)
    assert {
        "base": "application/json",
        "type": "application/vnd.openstack.identity-v3+json",
    } in v3["media-types"]


@alone
async def test_json_home_names_every_path(i: Identity) -> None:
    reply = await i.anybody.client.get("/identity/v3", accept="application/json-home")
    assert reply.headers["content-type"] == "application/json-home"
    rel = "https://docs.openstack.org/api/openstack-identity/3/rel/"
    found = reply.json["resources"]
    assert found[f"{rel}auth_tokens"]["href"] == "/auth/tokens"
    assert found[f"{rel}user"]["href-template"] == "/users/{user_id}"
    plain = await i.anybody.client.get("/identity/v3", accept="application/json")
    assert "version" in plain.json


@alone
async def test_regions_are_made_with_an_id_of_ones_own_or_given(i: Identity) -> None:
    made = await i.admin.make("/regions", description="d")
    assert len(made["id"]) == 32 and made["parent_region_id"] is None
    put = await i.admin.put("/regions/North-1", {"region": {"parent_region_id": made["id"]}})
    assert put.status == 201 and put.json["region"]["id"] == "North-1"
    assert (await i.admin.put("/regions/North-1", {"region": {}})).status == 409
    assert (await i.admin.post("/regions", {"region": {"parent_region_id": "no"}})).status == 404
    loop = {"region": {"parent_region_id": "North-1"}}
    assert (await i.admin.patch(f"/regions/{made['id']}", loop)).status == 400
    below = (await i.admin.get(f"/regions?parent_region_id={made['id']}")).json["regions"]
    assert [r["id"] for r in below] == ["North-1"]
    assert (await i.admin.delete(f"/regions/{made['id']}")).status == 204
    assert (await i.admin.get("/regions/North-1")).status == 404


@alone
async def test_an_endpoint_makes_its_region_by_the_old_key_only(i: Identity) -> None:
    service = (await i.admin.make("/services", name="n", type="t", description="d"))["id"]
    fields = {"service_id": service, "interface": "public", "url": "https://a.b"}
    made = await i.admin.make("/endpoints", **fields, region="East")
    assert made["region"] == made["region_id"] == "East" and made["enabled"] is True
    assert (await i.admin.get("/regions/East")).status == 200
    url = f"/endpoints/{made['id']}"
    moved = await i.admin.patch(url, {"endpoint": {"region": "West", "enabled": False}})
    assert moved.json["endpoint"]["region_id"] == "West"
    assert (await i.admin.delete("/regions/West")).status == 403
    for bad in (
        {"region_id": "Nowhere"},
        {"service_id": "no"},
        {"interface": "odd"},
        {"enabled": "True"},
    ):
        reply = await i.admin.post("/endpoints", {"endpoint": {**fields, **bad}})
        assert reply.status == 400, bad
    assert (await i.admin.delete(url)).status == 204
    assert (await i.admin.delete("/regions/West")).status == 204
    assert (await i.admin.delete(f"/services/{service}")).status == 204
    assert (await i.admin.get(f"/services/{service}")).status == 404


@alone
async def test_the_catalog_has_what_is_enabled_with_the_callers_ids_filled_in(
    i: Identity,
) -> None:
    service = (await i.admin.make("/services", name="swift", type="object-store"))["id"]
    fields = {"service_id": service, "interface": "public"}
    await i.admin.make("/endpoints", **fields, url="http://s/AUTH_$(project_id)s/%(user_id)s")
    hidden = await i.admin.make("/endpoints", **fields, url="http://s/off", enabled=False)

    async def urls() -> list[str]:
        catalog = (await i.admin.get("/auth/catalog")).json["catalog"]
        return [e["url"] for s in catalog if s["type"] == "object-store" for e in s["endpoints"]]

    assert await urls() == [f"http://s/AUTH_{i.admin.project_id}/{i.admin.user_id}"]
    await i.admin.patch(f"/endpoints/{hidden['id']}", {"endpoint": {"enabled": True}})
    shown = (await i.admin.get("/auth/tokens", x_subject_token=i.admin.token)).body
    assert b"http://s/off" in shown
    await i.admin.patch(f"/services/{service}", {"service": {"enabled": False}})
    assert await urls() == []


@alone
async def test_the_clouds_own_rows_keep_their_ids_and_go_with_their_service(i: Identity) -> None:
    services = (await i.admin.get("/services")).json["services"]
    assert [s["id"] for s in services] == [derived_id("identity")]
    runtime = i.cloud.runtime
    before = (await i.admin.get("/endpoints")).json["endpoints"]
    async with runtime.store.tx() as tx:
        await publish(tx, runtime)
    assert (await i.admin.get("/endpoints")).json["endpoints"] == before
    kept, runtime.services = runtime.services, ()
    async with runtime.store.tx() as tx:
        await publish(tx, runtime)
    runtime.services = kept
    assert (await i.admin.get("/endpoints")).json["endpoints"] == []


@alone
async def test_a_policy_is_kept_as_it_was_given(i: Identity) -> None:
    made = await i.admin.make("/policies", blob='{"a": []}', type="application/json", note="n")
    url = f"/policies/{made['id']}"
    changed = (await i.admin.patch(url, {"policy": {"type": "text"}})).json["policy"]
    assert changed == {**made, "type": "text"} and changed["note"] == "n"
    assert (await i.admin.get(url)).json["policy"] == changed
    assert (await i.admin.delete(url)).status == 204
    assert (await i.admin.get(url)).status == 404

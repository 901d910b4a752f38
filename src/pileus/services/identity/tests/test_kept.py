"""Nouns that are only kept: made, listed, shown, changed and deleted alike."""

from __future__ import annotations

from typing import Any

from pileus.services.identity.tests.clouds import Identity, alone

_RULES = [{"local": [{"user": {"name": "{0}"}}], "remote": [{"type": "name"}]}]
_PUBLIC, _ADMIN = {"interface": "public"}, {"interface": "admin"}
_HOME = {"auth_url": "http://a", "sp_url": "http://b"}
# collection, the id that the client chooses (by PUT) or "", what makes one, what changes it
_KEPT: tuple[tuple[str, str, dict[str, Any], dict[str, Any]], ...] = (
    ("/regions", "", {"description": "d"}, {"description": "e"}),
    ("/regions", "north", {"description": "d"}, {"description": "e"}),
    ("/services", "", {"type": "t", "name": "n"}, {"name": "m"}),
    ("/policies", "", {"blob": "{}", "type": "t"}, {"blob": "{1}"}),
    ("/domains", "", {"name": "d", "tags": ["a"]}, {"name": "e", "tags": []}),
    ("/projects", "", {"name": "p"}, {"description": "e"}),
    ("/roles", "", {"name": "r"}, {"description": "e"}),
    ("/OS-EP-FILTER/endpoint_groups", "", {"name": "g", "filters": _PUBLIC}, {"filters": _ADMIN}),
    ("/OS-OAUTH1/consumers", "", {"description": "d"}, {"description": "e"}),
    ("/OS-FEDERATION/mappings", "m", {"rules": _RULES}, {"rules": _RULES * 2}),
    ("/OS-FEDERATION/service_providers", "s", _HOME, {"enabled": True}),
    ("/OS-FEDERATION/identity_providers", "i", {"remote_ids": ["x"]}, {"remote_ids": []}),
)


@alone
async def test_what_is_kept_is_made_listed_shown_changed_and_deleted(i: Identity) -> None:
    for collection, id, made, change in _KEPT:
        plural = collection.rpartition("/")[2]
        root = {"policies": "policy"}.get(plural, plural[:-1])
        if id:
            reply = await i.admin.put(f"{collection}/{id}", {root: made})
        else:
            reply = await i.admin.post(collection, {root: made})
        assert reply.status == 201, reply
        known = reply.json[root]
        assert made.items() <= known.items()
        one = f"{collection}/{known['id']}"
        assert known["links"]["self"].endswith(one)
        listed = (await i.admin.get(collection)).json[plural]
        assert known["id"] in [row["id"] for row in listed]
        assert made.items() <= (await i.admin.get(one)).json[root].items()
        changed = (await i.admin.patch(one, {root: change})).json[root]
        assert {**made, **change}.items() <= changed.items()
        assert (await i.admin.patch(one, {root: {}})).status == 400, one
        if plural == "domains":
            await i.admin.patch(one, {root: {"enabled": False}})
        assert (await i.admin.delete(one)).status == 204, one
        assert (await i.admin.get(one)).status == 404
        assert (await i.admin.delete(one)).status == 404


@alone
async def test_an_id_that_a_client_chooses_is_one_and_fits(i: Identity) -> None:
    region = {"region": {"id": "south"}}
    assert (await i.admin.put("/regions/north", region)).status == 400
    assert (await i.admin.put("/regions/south", region)).status == 201
    assert (await i.admin.put("/regions/south", region)).status == 409
    assert (await i.admin.post("/regions", region)).status == 409
    for longest, path, body in (
        (255, "/regions", {"region": {}}),
        (64, "/OS-FEDERATION/service_providers", {"service_provider": _HOME}),
    ):
        assert (await i.admin.put(f"{path}/{'x' * longest}", body)).status == 201
        assert (await i.admin.put(f"{path}/{'x' * (longest + 1)}", body)).status == 400


@alone
async def test_a_region_goes_with_all_below_it_or_not_at_all(i: Identity) -> None:
    service = (await i.admin.make("/services", type="t"))["id"]
    for id, above in (("top", None), ("left", "top"), ("right", "top"), ("low", "right")):
        await i.admin.make("/regions", id=id, parent_region_id=above)
    endpoint = await i.admin.make(
        "/endpoints", service_id=service, interface="public", url="http://a", region_id="low"
    )
    assert (await i.admin.delete("/regions/top")).status == 403
    for id in ("top", "left", "right", "low"):
        assert (await i.admin.get(f"/regions/{id}")).status == 200
    await i.admin.delete(f"/endpoints/{endpoint['id']}")
    assert (await i.admin.delete("/regions/top")).status == 204
    for id in ("top", "left", "right", "low"):
        assert (await i.admin.get(f"/regions/{id}")).status == 404


@alone
async def test_a_domain_takes_immutable_roles_along_but_no_immutable_project(i: Identity) -> None:
    domain, kept = await i.domain("d"), {"immutable": True}
    role = (await i.admin.make("/roles", name="r", domain_id=domain, options=kept))["id"]
    project = (await i.admin.make("/projects", name="p", domain_id=domain, options=kept))["id"]
    assert (await i.admin.delete(f"/roles/{role}")).status == 403
    await i.admin.patch(f"/domains/{domain}", {"domain": {"enabled": False}})
    assert (await i.admin.delete(f"/domains/{domain}")).status == 403
    assert (await i.admin.get(f"/roles/{role}")).status == 200
    mutable = {"project": {"options": {"immutable": False}}}
    assert (await i.admin.patch(f"/projects/{project}", mutable)).status == 200
    assert (await i.admin.delete(f"/domains/{domain}")).status == 204
    for gone in (f"/roles/{role}", f"/projects/{project}", f"/domains/{domain}"):
        assert (await i.admin.get(gone)).status == 404

"""Metadata definitions: namespaces, what they hold, who sees them."""

from __future__ import annotations

from typing import Any

import pytest

from pileus.services.image import SERVICE
from pileus.testing.alone import alone, in_loop
from pileus.testing.client import Client

V2 = "/image/v2"
URL = f"{V2}/metadefs/namespaces"
SPEED = {"title": "Speed", "type": "integer", "minimum": 1, "default": 3}


async def made(admin: Client, name: str = "Disks", **more: Any) -> dict[str, Any]:
    reply = await admin.post(URL, {"namespace": name, **more})
    assert reply.status == 201, reply
    found: dict[str, Any] = reply.json
    return found


@in_loop
async def test_a_namespace_is_made_with_all_it_holds_shown_changed_and_deleted() -> None:
    async with alone(SERVICE) as cloud:
        admin = cloud.user("p", "admin")
        shown = await made(
            admin,
            display_name="Of disks",
            visibility="public",
            objects=[{"name": "fast", "required": ["speed"], "properties": {"speed": SPEED}}],
            properties={"speed": SPEED},
            tags=[{"name": "quick"}],
            resource_type_associations=[{"name": "OS::Glance::Image", "prefix": "hw_"}],
        )
        assert shown["self"] == "/v2/metadefs/namespaces/Disks"
        assert (shown["owner"], shown["protected"]) == ("p", False)
        assert shown["properties"] == {"speed": SPEED}
        assert shown["tags"] == [{"name": "quick"}]
        assert shown == (await admin.get(f"{URL}/Disks")).json
        there = (await admin.get(f"{URL}/Disks?resource_type=OS::Glance::Image")).json
        assert list(there["properties"]) == ["hw_speed"]
        assert there["objects"][0]["required"] == ["hw_speed"]
        changed = await admin.put(f"{URL}/Disks", {"namespace": "Plates", "description": "Round"})
        assert (changed.status, changed.json["visibility"]) == (200, "private")
        assert "display_name" not in changed.json
        assert (await admin.get(f"{URL}/Disks")).status == 404
        assert (await admin.get(f"{URL}/Plates")).json["tags"] == [{"name": "quick"}]
        assert (await admin.delete(f"{URL}/Plates")).status == 204
        assert (await admin.get(f"{URL}/Plates")).status == 404


@in_loop
async def test_a_namespace_is_seen_by_its_project_or_by_all_and_changed_by_admins() -> None:
    async with alone(SERVICE) as cloud:
        admin, other = cloud.user("p", "admin"), cloud.user("q")
        await made(admin, "Secret")
        await made(admin, "Open", visibility="public")
        await made(admin, "Theirs", owner="q")
        seen = [n["namespace"] for n in (await other.get(URL)).json["namespaces"]]
        assert sorted(seen) == ["Open", "Theirs"]
        assert (await other.get(f"{URL}/Secret")).status == 404
        assert (await other.get(f"{URL}/Secret/objects")).status == 404
        assert (await other.get(f"{URL}/Theirs/tags")).status == 200
        assert (await other.post(URL, {"namespace": "Mine"})).status == 403
        for path in ("Open", "Open/objects", "Open/tags", "Open/properties"):
            assert (await other.delete(f"{URL}/{path}")).status == 403


@in_loop
async def test_lists_are_filtered_and_go_by_pages() -> None:
    async with alone(SERVICE) as cloud:
        admin = cloud.user("p", "admin")
        for n in range(3):
            kinds = [{"name": f"OS::{n}"}]
            await made(admin, f"n{n}", visibility="public", resource_type_associations=kinds)
        await made(admin, "hidden")
        shown = (await admin.get(f"{URL}?visibility=public&sort_dir=asc&limit=2")).json
        assert [n["namespace"] for n in shown["namespaces"]] == ["n0", "n1"]
        following = (await admin.get("/image" + shown["next"])).json
        assert [n["namespace"] for n in following["namespaces"]] == ["n2"]
        some = (await admin.get(f"{URL}?resource_types=OS::1,OS::2")).json["namespaces"]
        assert {n["namespace"] for n in some} == {"n1", "n2"}
        kinds = (await admin.get(f"{V2}/metadefs/resource_types")).json["resource_types"]
        assert [k["name"] for k in kinds][-3:] == ["OS::0", "OS::1", "OS::2"]
        assert "OS::Glance::Image" in [k["name"] for k in kinds]
        for wrong in ("visibility=x", "sort_dir=up", "limit=x"):
            assert (await admin.get(f"{URL}?{wrong}")).status == 400


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"namespace": ""}, 400),
        ({"namespace": "n" * 81}, 400),
        ({"namespace": "n", "visibility": "shared"}, 400),
        ({"namespace": "n", "colour": "red"}, 400),
        ({"namespace": "n", "self": "/here"}, 403),
        ({"namespace": "n", "properties": {"p": {"type": "integer"}}}, 400),
        ({"namespace": "n", "properties": {"p": {"type": "colour", "title": "P"}}}, 400),
        ({"namespace": "n", "objects": [{"name": "o", "properties": {"p": {"x": 1}}}]}, 400),
        ({"namespace": "taken"}, 409),
    ],
)
@in_loop
async def test_what_is_no_namespace_is_refused(body: dict[str, Any], status: int) -> None:
    async with alone(SERVICE) as cloud:
        admin = cloud.user("p", "admin")
        await made(admin, "taken")
        assert (await admin.post(URL, body)).status == status


@in_loop
async def test_a_protected_namespace_stays() -> None:
    async with alone(SERVICE) as cloud:
        admin = cloud.user("p", "admin")
        await made(admin, protected=True)
        refused = await admin.delete(f"{URL}/Disks")
        assert refused.status == 403 and b"protected" in refused.body
        await admin.put(f"{URL}/Disks", {"namespace": "Disks"})
        assert (await admin.delete(f"{URL}/Disks")).status == 204


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("objects", {"name": "one", "properties": {"speed": SPEED}}),
        ("properties", {"name": "one", **SPEED}),
    ],
)
@in_loop
async def test_what_a_namespace_holds_is_made_renamed_and_deleted(
    kind: str, body: dict[str, Any]
) -> None:
    async with alone(SERVICE) as cloud:
        admin = cloud.user("p", "admin")
        await made(admin)
        url = f"{URL}/Disks/{kind}"
        assert (await admin.post(url, body)).status == 201
        assert (await admin.post(url, body)).status == 409
        assert (await admin.get(f"{url}/one")).json["name"] == "one"
        renamed = await admin.put(f"{url}/one", {**body, "name": "two"})
        assert (renamed.status, renamed.json["name"]) == (200, "two")
        assert (await admin.get(f"{url}/one")).status == 404
        assert (await admin.put(f"{url}/one", body)).status == 404
        assert (await admin.post(url, body)).status == 201
        assert (await admin.put(f"{url}/one", {**body, "name": "two"})).status == 409
        held = (await admin.get(url)).json[kind]
        assert {o["name"] for o in (held.values() if isinstance(held, dict) else held)} == {
            "one",
            "two",
        }
        assert (await admin.delete(f"{url}/two")).status == 204
        assert (await admin.delete(f"{url}/two")).status == 404
        assert (await admin.delete(url)).status == 204
        assert not (await admin.get(url)).json[kind]
        assert (await admin.post(url, {"name": "three", "type": "colour"})).status == 400


@in_loop
async def test_tags_are_replaced_or_added_to() -> None:
    async with alone(SERVICE) as cloud:
        admin = cloud.user("p", "admin")
        await made(admin)
        url = f"{URL}/Disks/tags"
        one_and_two = {"tags": [{"name": "one"}, {"name": "two"}]}
        assert (await admin.post(url, one_and_two)).json == one_and_two
        assert (await admin.post(url, {"tags": [{"name": "three"}]})).status == 201
        appended = {"x_openstack_append": "true"}
        assert (await admin.post(url, one_and_two, **appended)).status == 201
        assert (await admin.post(url, one_and_two, **appended)).status == 409
        assert (await admin.post(url, {"tags": [{"name": "x"}, {"name": "x"}]})).status == 409
        names = [t["name"] for t in (await admin.get(f"{url}?sort_dir=asc")).json["tags"]]
        assert names == ["three", "one", "two"]
        some = (await admin.get(f"{url}?sort_dir=asc&marker=three&limit=1")).json["tags"]
        assert some == [{"name": "one"}]
        assert (await admin.post(f"{url}/four")).status == 201
        assert (await admin.post(f"{url}/{'x' * 81}")).status == 400
        assert (await admin.put(f"{url}/four", {"name": "five"})).json["name"] == "five"
        assert (await admin.get(f"{url}/five")).json["name"] == "five"
        assert (await admin.delete(f"{url}/five")).status == 204
        assert (await admin.delete(url)).status == 204
        assert (await admin.get(url)).json == {"tags": []}


@in_loop
async def test_a_property_is_found_by_the_name_it_has_in_a_resource_type() -> None:
    async with alone(SERVICE) as cloud:
        admin = cloud.user("p", "admin")
        await made(admin, properties={"speed": SPEED})
        types = f"{URL}/Disks/resource_types"
        assert (await admin.post(types, {"name": "OS::Image", "prefix": "hw_"})).status == 201
        assert (await admin.post(types, {"name": "OS::Image"})).status == 409
        url = f"{URL}/Disks/properties"
        there = await admin.get(f"{url}/hw_speed?resource_type=OS::Image")
        assert (there.json["name"], there.json["title"]) == ("hw_speed", "Speed")
        assert (await admin.get(f"{url}/speed?resource_type=OS::Image")).status == 404
        assert (await admin.get(f"{url}/speed?resource_type=OS::Other")).status == 404
        held = (await admin.get(types)).json["resource_type_associations"]
        assert [(a["name"], a["prefix"]) for a in held] == [("OS::Image", "hw_")]
        assert (await admin.delete(f"{types}/OS::Image")).status == 204
        assert (await admin.delete(f"{types}/OS::Image")).status == 404


@pytest.mark.parametrize(
    "noun",
    ["namespace", "namespaces", "object", "objects", "property", "properties", "tag", "tags",
     "resource_type", "resource_types"],
)  # fmt: skip
@in_loop
async def test_the_schema_of_each_noun_is_told(noun: str) -> None:
    async with alone(SERVICE) as cloud:
        schema = (await cloud.user("p").get(f"{V2}/schemas/metadefs/{noun}")).json
        assert schema["name"].startswith(noun.removesuffix("s")) and schema["properties"]
        assert (await cloud.user("p").get(f"{V2}/schemas/metadefs/nothing")).status == 404

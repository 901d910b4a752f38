"""Images as records: what may be set, who sees them, how they are listed and changed."""

from __future__ import annotations

import asyncio
from typing import Any

from pileus.services.image import SERVICE
from pileus.services.image.record import IMAGES
from pileus.services.image.tests.given import (
    URL,
    V20,
    V21,
    made,
    names,
    patched,
    shown,
    uploaded,
)
from pileus.testing.alone import alone, in_loop

ID = "7f5c8b1e-0000-4000-8000-00000000000a"


@in_loop
async def test_versions_need_no_token_and_the_root_is_a_choice() -> None:
    async with alone(SERVICE) as cloud:
        for path, status in (("/image", 300), ("/image/", 300), ("/image/versions", 200)):
            reply = await cloud.client.get(path)
            assert reply.status == status
            first = reply.json["versions"][0]
            assert (first["id"], first["status"]) == ("v2.18", "CURRENT")
            assert first["links"] == [{"rel": "self", "href": "http://cloud.test:5000/image/v2/"}]
        assert (await cloud.client.get(URL)).status == 401


@in_loop
async def test_a_new_image_is_queued_and_shows_every_attribute() -> None:
    async with alone(SERVICE) as cloud:
        reply = await cloud.user("p").post(URL, {"name": "one", "hw_disk_bus": "virtio"})
        image = reply.json
        assert reply.headers["location"].endswith(f"/v2/images/{image['id']}")
        times = image.pop("created_at"), image.pop("updated_at")
        assert times[0] == times[1] and len(times[0]) == len("2026-11-26T12:00:00Z")
        assert image == {
            "id": image["id"],
            "name": "one",
            "hw_disk_bus": "virtio",
            "disk_format": None,
            "container_format": None,
            "visibility": "shared",
            "size": None,
            "virtual_size": None,
            "status": "queued",
            "checksum": None,
            "protected": False,
            "min_ram": 0,
            "min_disk": 0,
            "owner": "p",
            "os_hidden": False,
            "os_hash_algo": None,
            "os_hash_value": None,
            "tags": [],
            "self": f"/v2/images/{image['id']}",
            "file": f"/v2/images/{image['id']}/file",
            "schema": "/v2/schemas/image",
        }


@in_loop
async def test_an_id_may_be_given_once_and_never_comes_back() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        assert (await made(client, id=ID))["id"] == ID
        assert (await client.post(URL, {"id": ID})).status == 409
        assert (await client.delete(f"{URL}/{ID}")).status == 204
        assert (await client.post(URL, {"id": ID})).status == 409
        assert (await client.post(URL, {"id": "seven"})).status == 400


@in_loop
async def test_attributes_of_the_wrong_kind_are_refused() -> None:
    wrong: list[dict[str, Any]] = [
        {"name": 7},
        {"name": "x" * 256},
        {"disk_format": "floppy"},
        {"container_format": "box"},
        {"visibility": "secret"},
        {"visibility": None},
        {"protected": "true"},
        {"os_hidden": 1},
        {"min_ram": "7"},
        {"min_disk": -1},
        {"min_ram": True},
        {"min_disk": 1 << 31},
        {"tags": "red"},
        {"tags": [7]},
        {"tags": ["x" * 256]},
        {"property": 7},
        {"property": None},
        {"property": {"a": "b"}},
        {"x" * 256: "long"},
    ]
    async with alone(SERVICE) as cloud:
        for body in wrong:
            assert (await cloud.user("p").post(URL, body)).status == 400, body
        for malformed in (b"[]", b"7", b"{", b'{"a": "\\u0000"}'):
            headers = {"content-type": "application/json"}
            reply = await cloud.user("p").request("POST", URL, raw=malformed, headers=headers)
            assert reply.status == 400, malformed
        assert await names(cloud.user("p")) == set()


@in_loop
async def test_names_may_be_null_long_and_of_any_script() -> None:
    async with alone(SERVICE) as cloud:
        for name in (None, "", "x" * 255, "雲 😀"):
            assert (await made(cloud.user("p"), name=name))["name"] == name


@in_loop
async def test_there_is_a_limit_to_properties_and_tags() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        many = {f"p{n}": "v" for n in range(129)}
        assert (await client.post(URL, many)).status == 413
        assert (await client.post(URL, {"tags": list(many)})).status == 413
        image = await made(client, tags=[f"t{n}" for n in range(128)])
        assert (await client.put(f"{URL}/{image['id']}/tags/more")).status == 413
        assert (await client.put(f"{URL}/{image['id']}/tags/t1")).status == 204


@in_loop
async def test_only_an_administrator_creates_for_others_and_publicly() -> None:
    async with alone(SERVICE) as cloud:
        member, admin = cloud.user("p"), cloud.user("a", "admin")
        assert (await member.post(URL, {"owner": "q"})).status == 403
        assert (await member.post(URL, {"visibility": "public"})).status == 403
        assert (await cloud.user("p", "reader").post(URL, {})).status == 403
        assert (await made(admin, owner="q", visibility="public"))["owner"] == "q"
        assert (await made(member, visibility="community"))["visibility"] == "community"


@in_loop
async def test_who_finds_and_who_sees_an_image_by_its_visibility() -> None:
    async with alone(SERVICE) as cloud:
        owner, other, admin = cloud.user("p"), cloud.user("q"), cloud.user("a", "admin")
        ids = {}
        for visibility in ("private", "shared", "community", "public"):
            image = await made(admin, name=visibility, visibility=visibility, owner="p")
            ids[visibility] = image["id"]
        every = set(ids)
        assert await names(owner) == every
        assert await names(other) == {"public"}
        assert await names(admin) == every - {"community"}
        assert await names(admin, "visibility=all") == every
        assert await names(other, "visibility=community") == {"community"}
        assert await names(other, "visibility=all") == {"public", "community"}
        assert await names(other, "visibility=private") == set()
        for visibility, id in ids.items():
            status = 200 if visibility in ("public", "community") else 404
            assert (await other.get(f"{URL}/{id}")).status == status
            refused = 403 if status == 200 else 404
            assert (await other.delete(f"{URL}/{id}")).status == refused
            assert (await patched(other, id, {"op": "add", "path": "/a", "value": "b"})).status == (
                refused
            )


@in_loop
async def test_lists_are_filtered_by_attributes_properties_and_tags() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        await uploaded(client, b"x" * 10, name="small", tags=["red"], arch="x86")
        await uploaded(client, b"x" * 99, name="large", tags=["red", "blue"], min_ram=64)
        await made(client, name="a,b", disk_format="qcow2", protected=True)
        await made(client, name="hidden", os_hidden=True)
        expected = {
            "name=small": {"small"},
            "name=in:small,large": {"small", "large"},
            'name=in:"a,b",small': {"a,b", "small"},
            "status=active": {"small", "large"},
            "status=in:queued,saving": {"a,b"},
            "disk_format=qcow2": {"a,b"},
            "disk_format=in:qcow2,vdi": {"a,b"},
            "size_min=11": {"large"},
            "size_max=11": {"small"},
            "size_min=5&size_max=50": {"small"},
            "size_min=100&size_max=500": set(),
            "tag=red": {"small", "large"},
            "tag=red&tag=blue": {"large"},
            "arch=x86": {"small"},
            "arch=arm": set(),
            "min_ram=64": {"large"},
            "protected=true": {"a,b"},
            "os_hidden=true": {"hidden"},
            "owner=p": {"small", "large", "a,b"},
            "owner=q": set(),
            "created_at=gt:2020-01-01T00:00:00Z": {"small", "large", "a,b"},
            "created_at=lt:2020-01-01T00:00:00Z": set(),
        }
        for query, found in expected.items():
            assert await names(client, query) == found, query


@in_loop
async def test_a_time_filter_counts_whole_seconds() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        at = (await made(client))["created_at"]
        expected = {"eq:": 1, "": 1, "gte:": 1, "lte:": 1, "gt:": 0, "lt:": 0}
        for op, found in expected.items():
            assert len(await names(client, f"created_at={op}{at}")) == found, op


@in_loop
async def test_lists_refuse_what_can_not_be_asked() -> None:
    async with alone(SERVICE) as cloud:
        for query in (
            "visibility=secret",
            "member_status=maybe",
            "os_hidden=maybe",
            "protected=1",
            "size_min=big",
            "created_at=yesterday",
            "name=like:x",
            'name=in:"x',
            "sort_key=colour",
            "sort=name:up",
            "sort=name&sort_key=name",
            "limit=-1",
            "limit=x",
            "marker=" + ID,
            "changes-since=2020-01-01T00:00:00Z",
        ):
            assert (await cloud.user("p").get(f"{URL}?{query}")).status == 400, query


@in_loop
async def test_lists_are_sorted_and_paged_by_their_own_links() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        for n in (3, 1, 2, 5, 4):
            await made(client, name=f"i{n}")
        url, found = "/v2/images?sort=name:asc&limit=2", []
        while url:
            page = (await client.get("/image" + url)).json
            assert page["first"] == "/v2/images?sort=name%3Aasc&limit=2"
            assert page["schema"] == "/v2/schemas/images"
            found.append([i["name"] for i in page["images"]])
            url = page.get("next", "")
        assert found == [["i1", "i2"], ["i3", "i4"], ["i5"]]
        newest = (await client.get(URL)).json["images"]
        assert [i["name"] for i in newest] == ["i4", "i5", "i2", "i1", "i3"]
        assert (await client.get(URL + "?limit=0")).json["images"] == []


@in_loop
async def test_a_list_without_limit_is_a_page_of_25() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        await asyncio.gather(*(made(client) for _ in range(27)))
        page = (await client.get(URL)).json
        assert len(page["images"]) == 25
        assert len((await client.get("/image" + page["next"])).json["images"]) == 2


@in_loop
async def test_a_foreign_image_is_no_marker() -> None:
    async with alone(SERVICE) as cloud:
        foreign = await made(cloud.user("q"), visibility="private")
        reply = await cloud.user("p").get(f"{URL}?marker={foreign['id']}")
        assert reply.status == 400


@in_loop
async def test_patch_adds_replaces_and_removes() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await made(client, os_distro="x", **{"a/b~c": "1"}))["id"]
        reply = await patched(
            client,
            id,
            {"op": "replace", "path": "/name", "value": "two"},
            {"op": "add", "path": "/colour", "value": "red"},
            {"op": "replace", "path": "/a~1b~0c", "value": "2"},
            {"op": "remove", "path": "/os_distro"},
            {"op": "replace", "path": "/tags", "value": ["b", "a", "b"]},
            {"op": "replace", "path": "/min_ram", "value": 64},
        )
        assert reply.status == 200, reply
        image = await shown(client, id)
        assert (image["name"], image["colour"], image["a/b~c"]) == ("two", "red", "2")
        assert (image["tags"], image["min_ram"]) == (["a", "b"], 64)
        assert "os_distro" not in image


@in_loop
async def test_patch_of_the_older_kind_names_the_verb_by_its_key() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await made(client, old="1"))["id"]
        reply = await patched(client, id, {"replace": "/name", "value": "two"}, kind=V20)
        assert reply.json["name"] == "two"
        adding = {"add": "/old", "value": "2"}
        assert (await patched(client, id, adding, kind=V20)).status == 409
        adding = {"op": "add", "path": "/old", "value": "2"}
        assert (await patched(client, id, adding, kind=V21)).json["old"] == "2"
        assert (await patched(client, id, {"replace": "/x", "add": "/y"}, kind=V20)).status == 400


@in_loop
async def test_patch_says_which_media_types_it_takes() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await made(client))["id"]
        reply = await patched(client, id, kind="application/json")
        assert reply.status == 415
        assert reply.headers["accept-patch"] == f"{V20}, {V21}"


@in_loop
async def test_a_patch_that_can_not_be_changes_nothing() -> None:
    name = {"op": "replace", "path": "/name", "value": "two"}
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        before = await made(client)
        for status, change in (
            (400, {"op": "move", "path": "/name"}),
            (400, {"path": "/name", "value": "x"}),
            (400, {"op": "replace", "value": "x"}),
            (400, {"op": "replace", "path": "/name"}),
            (400, {"op": "replace", "path": "name", "value": "x"}),
            (400, {"op": "replace", "path": "/", "value": "x"}),
            (400, {"op": "replace", "path": "/a//b", "value": "x"}),
            (400, {"op": "replace", "path": "/a/", "value": "x"}),
            (400, {"op": "replace", "path": "/a~2", "value": "x"}),
            (400, {"op": "replace", "path": "/name/0", "value": "x"}),
            (400, {"op": "add", "path": "/tags/-", "value": "x"}),
            (400, {"op": "replace", "path": "/name", "value": 7}),
            (400, {"op": "add", "path": "/size_of_it", "value": 7}),
            (400, {"op": "replace", "path": "/visibility", "value": "secret"}),
            (400, "text"),
            (403, {"op": "replace", "path": "/visibility", "value": "public"}),
            (403, {"op": "replace", "path": "/owner", "value": "q"}),
            (403, {"op": "remove", "path": "/name"}),
            (409, {"op": "replace", "path": "/none", "value": "x"}),
            (409, {"op": "remove", "path": "/none"}),
        ):
            reply = await patched(client, before["id"], name, change)
            assert reply.status == status, (change, reply)
        assert await shown(client, before["id"]) == before


@in_loop
async def test_the_formats_of_an_image_with_bytes_stay() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await uploaded(client))["id"]
        change = {"op": "replace", "path": "/disk_format", "value": "qcow2"}
        assert (await patched(client, id, change)).status == 403
        same = {"op": "replace", "path": "/disk_format", "value": "raw"}
        assert (await patched(client, id, same)).status == 200


@in_loop
async def test_many_patches_at_once_all_count() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await made(client))["id"]
        replies = await asyncio.gather(
            *(patched(client, id, {"op": "add", "path": f"/p{n}", "value": "v"}) for n in range(30))
        )
        assert {r.status for r in replies} == {200}
        image = await shown(client, id)
        assert all(image[f"p{n}"] == "v" for n in range(30))


@in_loop
async def test_a_protected_image_can_not_be_deleted() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await uploaded(client, protected=True))["id"]
        assert (await client.delete(f"{URL}/{id}")).status == 403
        await patched(client, id, {"op": "replace", "path": "/protected", "value": False})
        assert (await client.delete(f"{URL}/{id}")).status == 204
        assert (await client.delete(f"{URL}/{id}")).status == 404
        assert (await client.get(f"{URL}/{id}")).status == 404
        assert await names(client) == set()


@in_loop
async def test_tags_come_and_go_one_by_one() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await made(client))["id"]
        for tag in ("red", "blue", "red"):
            assert (await client.put(f"{URL}/{id}/tags/{tag}")).status == 204
        assert (await shown(client, id))["tags"] == ["blue", "red"]
        assert (await client.delete(f"{URL}/{id}/tags/red")).status == 204
        assert (await client.delete(f"{URL}/{id}/tags/red")).status == 404
        assert (await client.put(f"{URL}/{id}/tags/{'x' * 256}")).status == 400
        assert (await cloud.user("p", "reader").put(f"{URL}/{id}/tags/red")).status == 403
        assert (await cloud.user("q").put(f"{URL}/{id}/tags/red")).status == 404


@in_loop
async def test_schemas_and_offers_are_what_clients_read() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p", "reader")
        schema = (await client.get("/image/v2/schemas/image")).json
        assert schema["properties"]["container_format"]["enum"][:2] == [None, "ami"]
        assert schema["properties"]["disk_format"]["enum"][0] is None
        assert schema["additionalProperties"] == {"type": "string"}
        for name in ("images", "member", "members", "task", "tasks"):
            assert (await client.get(f"/image/v2/schemas/{name}")).json["name"] == name
        methods = (await client.get("/image/v2/info/import")).json["import-methods"]
        assert methods["value"][:2] == ["glance-direct", "web-download"]
        stores = (await client.get("/image/v2/info/stores")).json["stores"]
        assert [(s["id"], s.get("read-only")) for s in stores] == [("local", None), ("web", "true")]


@in_loop
async def test_usage_counts_images_and_their_mebibytes() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        await uploaded(client, b"x" * (3 << 19))
        gone = await uploaded(client)
        await client.delete(f"{URL}/{gone['id']}")
        usage = (await client.get("/image/v2/info/usage")).json["usage"]
        used = {name: one["usage"] for name, one in usage.items()}
        assert used == {
            "image_size_total": 2,
            "image_count_total": 1,
            "image_stage_total": 0,
            "image_count_uploading": 0,
        }


@in_loop
async def test_what_is_remembered_of_an_image_is_never_shown_for_another_state_of_it() -> None:
    """Nor for another image that comes under the same id when the first is forgotten."""
    async with alone(SERVICE) as cloud:
        client, store = cloud.user("p"), cloud.runtime.store

        async def told() -> str:
            one = await shown(client, ID)
            (listed,) = (await client.get(f"{URL}?id=in:{ID}")).json["images"]
            assert listed == one
            return str(one["name"])

        for life in ("first", "second"):
            await made(client, id=ID, name=life)
            assert await told() == life == await told()
            for name in ("changed", "again"):
                change = {"op": "replace", "path": "/name", "value": f"{name} {life}"}
                await patched(client, ID, change)
                assert await told() == f"{name} {life}"
            assert (await client.delete(f"{URL}/{ID}")).status == 204
            async with store.tx() as tx:
                assert await IMAGES.sweep(tx, "9") == 1

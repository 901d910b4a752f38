"""Images by Nova's old names: what clients of before 2.36 list, describe and delete."""

from __future__ import annotations

from typing import Any

from pileus.services.compute.tests.scene import Scene, Stage, make_image

IMAGES = "/compute/v2.1/images"


async def own(s: Scene, **more: Any) -> str:
    return await make_image(s.member, visibility="private", **more)


async def names(s: Scene, query: str) -> list[str]:
    reply = await s.get(f"/images{query}")
    assert reply.status == 200, reply
    return [image["name"] for image in reply.json["images"]]


def test_an_image_is_shown_in_novas_words(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await own(s, name="mine", min_disk=1, min_ram=64, kernel="6.1")
        shown = (await s.get(f"/images/{id}")).json["image"]
        wanted = {
            "id": id,
            "name": "mine",
            "minDisk": 1,
            "minRam": 64,
            "status": "ACTIVE",
            "progress": 100,
            "metadata": {"kernel": "6.1"},
            "OS-EXT-IMG-SIZE:size": 1024,
        }
        assert wanted.items() <= shown.items() and "server" not in shown
        assert [link["rel"] for link in shown["links"]] == ["self", "bookmark", "alternate"]
        assert shown["links"][0]["href"].endswith(f"{IMAGES}/{id}")
        assert shown in (await s.get("/images/detail?name=mine")).json["images"]
        (brief,) = (await s.get("/images?name=mine")).json["images"]
        assert set(brief) == {"id", "name", "links"}
        assert (await s.get(f"/images/{id}", "2.35")).status == 200
        for path in ("/images", "/images/detail", f"/images/{id}"):
            assert (await s.get(path, "2.36")).status == 404, path

    stage.play(story)


def test_a_list_is_filtered_by_server_type_status_time_and_property(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        server = await s.boot()
        await s.act(server, {"createImage": {"name": "snap", "metadata": {"why": "test"}}})
        await own(s, name="mine")
        waits = {"name": "waits", "disk_format": "raw", "container_format": "bare"}
        assert (await s.member.post("/image/v2/images", waits)).status == 201
        assert await names(s, f"?server={server}") == ["snap"]
        assert await names(s, f"?server=http://cloud/servers/{server}&type=snapshot") == ["snap"]
        assert await names(s, "?property-why=test") == ["snap"]
        assert await names(s, "?status=SAVING") == ["waits"]
        assert {"snap", "mine"} <= set(await names(s, "?status=ACTIVE"))
        (snap,) = (await s.get("/images/detail?name=snap")).json["images"]
        assert snap["server"]["id"] == server
        assert {"snap", "mine", "waits"} <= set(await names(s, f"?changes-since={snap['created']}"))
        assert await names(s, "?changes-since=2099-01-01T00:00:00Z") == []
        for wrong in ("changes-since=x", "minDisk=x", "marker=x", "limit=-1"):
            assert (await s.get(f"/images?{wrong}")).status == 400, wrong

    stage.play(story)


def test_a_list_goes_on_where_the_page_before_ended(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        for n in range(3):
            await own(s, name=f"mine{n}", kind="paged")
        first = (await s.get("/images?property-kind=paged&limit=2")).json
        assert [i["name"] for i in first["images"]] == ["mine2", "mine1"]
        (link,) = first["images_links"]
        rest = (await s.get("/images?" + link["href"].partition("?")[2])).json
        assert [i["name"] for i in rest["images"]] == ["mine0"] and "images_links" not in rest

    stage.play(story)


def test_metadata_is_read_and_changed_piece_by_piece_and_whole(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await own(s, a="1")
        url = f"{IMAGES}/{id}/metadata"
        put = await s.member.put(f"{url}/b", {"meta": {"b": "2"}})
        assert (put.status, put.json) == (200, {"meta": {"b": "2"}})
        added = await s.member.post(url, {"metadata": {"a": "3", "c": "4"}})
        assert added.json == {"metadata": {"a": "3", "b": "2", "c": "4"}}
        assert (await s.member.get(f"{url}/a")).json == {"meta": {"a": "3"}}
        assert (await s.member.delete(f"{url}/a")).status == 204
        for reply in (await s.member.get(f"{url}/a"), await s.member.delete(f"{url}/a")):
            assert reply.status == 404
        replaced = await s.member.put(url, {"metadata": {"d": "5"}})
        assert replaced.json == (await s.member.get(url)).json == {"metadata": {"d": "5"}}
        image = (await s.member.get(f"/image/v2/images/{id}")).json
        assert image["d"] == "5" and "b" not in image
        assert (await s.member.put(f"{url}/x", {"meta": {"y": "1"}})).status == 400
        many = {"metadata": {f"k{n}": "v" for n in range(129)}}
        assert (await s.member.post(url, many)).status == 403
        assert (await s.get(f"/images/{id}/metadata", "2.38")).status == 200
        assert (await s.get(f"/images/{id}/metadata", "2.39")).status == 404

    stage.play(story)


def test_others_images_are_neither_seen_nor_touched_and_public_ones_only_seen(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id, other = await own(s), await s.other()
        url = f"{IMAGES}/{id}"
        for reply in (
            await other.get(url),
            await other.delete(url),
            await other.get(f"{url}/metadata"),
            await other.put(f"{url}/metadata", {"metadata": {}}),
        ):
            assert (reply.status, reply.json["itemNotFound"]["message"]) == (
                404,
                "Image not found.",
            )
        listed = (await other.get(IMAGES)).json["images"]
        assert id not in {i["id"] for i in listed} and s.image in {i["id"] for i in listed}
        public = f"{IMAGES}/{s.image}"
        assert (await other.get(public)).status == 200
        assert (await other.delete(public)).status == 403
        assert (await other.post(f"{public}/metadata", {"metadata": {"a": "b"}})).status == 403
        assert (await s.member.delete(url)).status == 204
        assert (await s.member.get(url)).status == 404
        assert (await s.member.get(f"/image/v2/images/{id}")).status == 404

    stage.play(story)

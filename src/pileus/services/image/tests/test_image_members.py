"""Sharing an image with projects, who decide themselves whether they take it."""

from __future__ import annotations

from pileus.services.image import SERVICE
from pileus.services.image.tests.given import URL, made, names, patched, uploaded
from pileus.testing.alone import alone, in_loop


@in_loop
async def test_a_shared_image_is_seen_at_once_and_listed_once_accepted() -> None:
    async with alone(SERVICE) as cloud:
        owner, member, third = cloud.user("p"), cloud.user("q"), cloud.user("r")
        id = (await uploaded(owner))["id"]
        added = await owner.post(f"{URL}/{id}/members", {"member": "q"})
        assert added.status == 200
        assert (added.json["member_id"], added.json["status"]) == ("q", "pending")
        assert added.json["schema"] == "/v2/schemas/member"
        assert (await member.get(f"{URL}/{id}")).status == 200
        assert (await member.get(f"{URL}/{id}/file")).status == 200
        assert await names(member) == set()
        assert await names(member, "member_status=pending") == {"one"}
        assert await names(member, "member_status=all") == {"one"}
        taken = await member.put(f"{URL}/{id}/members/q", {"status": "accepted"})
        assert taken.json["status"] == "accepted"
        assert await names(member) == await names(member, "visibility=shared") == {"one"}
        assert (await third.get(f"{URL}/{id}")).status == 404
        assert (await member.put(f"{URL}/{id}/members/q", {"status": "rejected"})).status == 200
        assert await names(member) == set()
        assert (await member.get(f"{URL}/{id}")).status == 200
        assert (await owner.delete(f"{URL}/{id}/members/q")).status == 204
        assert (await member.get(f"{URL}/{id}")).status == 404


@in_loop
async def test_only_the_owner_adds_and_removes_and_only_the_member_accepts() -> None:
    async with alone(SERVICE) as cloud:
        owner, one, two = cloud.user("p"), cloud.user("q"), cloud.user("r")
        id = (await made(owner))["id"]
        members = f"{URL}/{id}/members"
        for project in ("q", "r"):
            await owner.post(members, {"member": project})
        assert (await one.post(members, {"member": "s"})).status == 403
        assert (await one.delete(members + "/q")).status == 403
        assert (await owner.put(members + "/q", {"status": "accepted"})).status == 403
        assert (await two.put(members + "/q", {"status": "accepted"})).status == 404
        assert (await two.get(members + "/q")).status == 404
        assert [m["member_id"] for m in (await two.get(members)).json["members"]] == ["r"]
        assert len((await owner.get(members)).json["members"]) == 2
        assert (await cloud.user("s").get(members)).status == 404


@in_loop
async def test_members_that_can_not_be_are_refused() -> None:
    async with alone(SERVICE) as cloud:
        owner = cloud.user("p")
        id = (await made(owner))["id"]
        members = f"{URL}/{id}/members"
        for wrong in ({}, {"member": ""}, {"member": 7}, {"member": "x" * 256}):
            assert (await owner.post(members, wrong)).status == 400, wrong
        assert (await owner.post(members, {"member": "q"})).status == 200
        assert (await owner.post(members, {"member": "q"})).status == 409
        bad = await cloud.user("q").put(members + "/q", {"status": "maybe"})
        assert bad.status == 400
        assert (await owner.delete(members + "/none")).status == 404
        for n in range(127):
            await owner.post(members, {"member": f"m{n}"})
        assert (await owner.post(members, {"member": "one-too-many"})).status == 413


@in_loop
async def test_only_shared_images_have_members() -> None:
    async with alone(SERVICE) as cloud:
        owner = cloud.user("p")
        id = (await made(owner, visibility="private"))["id"]
        members = f"{URL}/{id}/members"
        assert (await owner.post(members, {"member": "q"})).status == 403
        assert (await owner.get(members)).status == 403
        assert (await owner.get(members + "/q")).status == 404


@in_loop
async def test_an_image_made_private_is_hidden_from_its_members() -> None:
    async with alone(SERVICE) as cloud:
        owner, member = cloud.user("p"), cloud.user("q")
        id = (await made(owner))["id"]
        await owner.post(f"{URL}/{id}/members", {"member": "q"})
        await member.put(f"{URL}/{id}/members/q", {"status": "accepted"})
        await patched(owner, id, {"op": "replace", "path": "/visibility", "value": "private"})
        assert (await member.get(f"{URL}/{id}")).status == 404
        assert await names(member) == set()

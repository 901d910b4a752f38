"""Images made of servers: what is in them, whose they are, and what is left when it goes wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from pileus.kernel.auth import Caller
from pileus.kernel.faults import Conflict
from pileus.services.compute.server import SERVERS as SERVERS_TABLE
from pileus.services.compute.server import Snapshot
from pileus.services.compute.servers.images import CREATE_IMAGE
from pileus.services.compute.tests.scene import SERVERS, Scene, Stage

IMAGES = "/image/v2/images"


async def snapshot(s: Scene, id: str, action: Any, version: str = "2.87") -> Any:
    reply = await s.member.post(
        f"{SERVERS}/{id}/action", action, openstack_api_version=f"compute {version}"
    )
    await s.cloud.settle()
    return reply


async def images(s: Scene) -> list[Any]:
    """The project's own, the oldest first."""
    found = await s.member.get(f"{IMAGES}?visibility=private&sort=created_at:asc")
    return list(found.json["images"])


def test_a_snapshot_holds_the_disk_and_says_where_it_is_from(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        made = await snapshot(
            s, id, {"createImage": {"name": "snap", "metadata": {"reason": "upgrade"}}}
        )
        assert made.status == 202
        image = (await s.member.get(f"{IMAGES}/{made.json['image_id']}")).json
        assert (image["status"], image["name"], image["visibility"]) == (
            "active",
            "snap",
            "private",
        )
        wanted = {
            "instance_uuid": id,
            "image_type": "snapshot",
            "base_image_ref": s.image,
            "user_id": s.member.user_id,
            "owner_id": s.member.project_id,
            "reason": "upgrade",
        }
        assert wanted.items() <= image.items()
        data = await s.member.get(f"{IMAGES}/{image['id']}/file")
        assert data.body.startswith(f"disk of {id} after 1 boots".encode())
        assert (await s.server(id))["OS-EXT-STS:task_state"] is None
        assert (await s.server(await s.boot(imageRef=image["id"])))["status"] == "ACTIVE"

    stage.play(story)


def test_the_answer_names_the_image_in_a_header_before_2_45(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        old = await snapshot(s, id, {"createImage": {"name": "old"}}, "2.44")
        (image,) = await images(s)
        assert (old.status, old.body) == (202, b"")
        assert old.headers["location"].endswith(f"/images/{image['id']}")
        backup = {"name": "b", "backup_type": "daily", "rotation": "0"}
        none = await snapshot(s, id, {"createBackup": backup}, "2.44")
        assert none.status == 202 and "location" not in none.headers
        assert len(await images(s)) == 1, "with a rotation of 0 no backup stays"

    stage.play(story)


def test_backups_rotate_by_type_and_protected_ones_stay(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        patch = {"content-type": "application/openstack-images-v2.1-json-patch"}
        for n in range(4):
            for kind in ("daily", "weekly"):
                backup = {"name": f"{kind}{n}", "backup_type": kind, "rotation": 2}
                assert (await snapshot(s, id, {"createBackup": backup})).status == 202
            if n == 0:
                (first, _) = await images(s)
                change = [{"op": "replace", "path": "/protected", "value": True}]
                path = f"{IMAGES}/{first['id']}"
                assert (await s.member.request("PATCH", path, change, headers=patch)).status == 200
        left = [image["name"] for image in await images(s)]
        assert left == ["daily0", "daily2", "weekly2", "daily3", "weekly3"]

    stage.play(story)


@pytest.mark.parametrize(("verb", "trouble"), [("take", "snapshot"), ("send", "send_snapshot")])
def test_a_snapshot_that_fails_leaves_no_image_and_a_server_as_before(
    stage: Stage, verb: str, trouble: str
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        for driver in s.drivers():
            driver.trouble.failures[trouble] = [Conflict("No room on the host.")]
        assert (await snapshot(s, id, {"createImage": {"name": "snap"}})).status == 202
        for driver in s.drivers():
            driver.trouble.failures.clear()
        assert await images(s) == []
        assert (await s.server(id))["status"] == "ACTIVE"
        actions = (await s.get(f"/servers/{id}/os-instance-actions")).json["instanceActions"]
        assert (actions[0]["action"], actions[0]["message"]) == ("createImage", "Error")

    stage.play(story)


def test_a_server_deleted_while_it_is_copied_takes_the_image_with_it(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        for driver in s.drivers():
            driver.trouble.latency_s = 0.2
        asked = await s.member.post(f"{SERVERS}/{id}/action", {"createImage": {"name": "snap"}})
        assert asked.status == 202
        await asyncio.sleep(0.05)
        shown = await s.server(id)
        assert shown["OS-EXT-STS:task_state"].startswith("image_")
        assert (await s.member.delete(f"{SERVERS}/{id}")).status == 204
        await s.cloud.settle()
        for driver in s.drivers():
            driver.trouble.latency_s = 0.0
        assert (await s.get(f"/servers/{id}")).status == 404
        assert await images(s) == [] and id not in await s.guests()

    stage.play(story)


def test_a_second_snapshot_at_once_conflicts_and_leaves_no_image(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        action = {"createImage": {"name": "snap"}}
        replies = await asyncio.gather(
            *(s.member.post(f"{SERVERS}/{id}/action", action) for _ in range(3))
        )
        await s.cloud.settle()
        assert sorted(r.status for r in replies) == [202, 409, 409]
        assert len(await images(s)) == 1

    stage.play(story)


def test_a_locked_server_may_be_copied_and_one_in_error_may_not(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        await s.act(id, {"lock": None})
        assert (await snapshot(s, id, {"createImage": {"name": "snap"}})).status == 202
        await s.act(id, {"os-resetState": {"state": "error"}}, s.admin)
        refused = await snapshot(s, id, {"createImage": {"name": "snap"}})
        message = refused.json["conflictingRequest"]["message"]
        assert message.startswith(f"Cannot 'createImage' instance {id} while it is in vm_state e")

    stage.play(story)


def test_an_administrators_snapshot_is_shared_with_the_servers_project(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        made = await s.admin.post(
            f"{SERVERS}/{id}/action",
            {"createImage": {"name": "theirs"}},
            openstack_api_version="compute 2.45",
        )
        await s.cloud.settle()
        image = (await s.member.get(f"{IMAGES}/{made.json['image_id']}")).json
        assert (image["owner"], image["visibility"]) == (s.admin.project_id, "shared")
        assert image["instance_owner"] == s.member.project_id

    stage.play(story)


def test_an_image_is_not_given_what_images_say_of_themselves(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        for name in ("status", "os_glance_import_task"):
            action = {"createImage": {"name": "snap", "metadata": {name: "active"}}}
            assert (await snapshot(s, id, action)).status == 403
        assert await images(s) == []
        assert (await s.server(id))["OS-EXT-STS:task_state"] is None

    stage.play(story)


def test_a_control_that_dies_before_the_image_is_there_leaves_a_saga_that_makes_it(
    stage: Stage,
) -> None:
    async def story(s: Scene) -> None:
        runtime = s.cloud.runtime
        wanted = Snapshot(image_id=runtime.world.new_id(), name="snap")
        server = await SERVERS_TABLE.get(runtime.store, await s.boot())
        becoming = msgspec.structs.replace(server, snapshot=wanted)
        caller = Caller(
            user_id=s.member.user_id, project_id=s.member.project_id, roles=frozenset({"member"})
        )
        async with runtime.store.tx() as tx:
            await runtime.sagas.begin(tx, CREATE_IMAGE, server, becoming=becoming, caller=caller)
        await runtime.sagas.adopt(frozenset())
        await s.cloud.settle()
        (image,) = await images(s)
        assert (image["id"], image["status"]) == (wanted.image_id, "active")

    stage.play(story)


def test_a_rotation_that_is_no_number_is_refused(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        for rotation in (-1, "x"):
            backup = {"name": "b", "backup_type": "daily", "rotation": rotation}
            assert (await snapshot(s, id, {"createBackup": backup})).status == 400
        assert await images(s) == []

    stage.play(story)

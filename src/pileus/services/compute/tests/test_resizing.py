"""Servers that change their flavor: the guest, its room, its quota, and the way back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pileus.kernel.faults import Conflict
from pileus.services.compute import migrations
from pileus.services.compute.driver import SHUTDOWN
from pileus.services.compute.server import SERVERS
from pileus.services.compute.tests.scene import Scene, Stage, make_image
from pileus.services.placement.contract import PLACEMENT

SMALL, LARGE = "42", "84"  # 128 and 192 MiB
RESIZE = {"resize": {"flavorRef": LARGE}}


async def guest(s: Scene, id: str) -> Any:
    (found,) = [g for d in s.drivers() for g in await d.guests() if g.id == id]
    return found


async def memory_held(s: Scene, id: str) -> int:
    (held,) = (await s.held(id)).values()
    return int(held["resources"]["MEMORY_MB"])


async def migration(s: Scene, id: str) -> Any:
    path = f"/os-migrations?instance_uuid={id}"
    (found,) = (await s.get(path, "2.59", s.admin)).json["migrations"]
    return found


@pytest.mark.parametrize("is_off", [False, True])
def test_a_resized_server_is_confirmed_and_keeps_its_new_size_only(
    stage: Stage, is_off: bool
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        if is_off:
            await s.act(id, "os-stop")
        before = "SHUTOFF" if is_off else "ACTIVE"
        assert (await s.act(id, RESIZE)).status == 202
        shown = await s.server(id)
        assert (shown["status"], shown["flavor"]["id"]) == ("VERIFY_RESIZE", LARGE)
        noted = await migration(s, id)
        assert (noted["status"], noted["migration_type"]) == ("finished", "resize")
        assert (await guest(s, id)).ram_mib == await memory_held(s, id) == 192
        assert await memory_held(s, noted["uuid"]) == 128, "the old room is the migration's"
        assert (await s.used())["RAM"] == 192
        for refused in (RESIZE, "os-start", "pause", {"rebuild": {"imageRef": s.image}}):
            assert (await s.act(id, refused)).status == 409
        assert (await s.act(id, "confirmResize")).status == 204
        assert (await s.server(id))["status"] == before
        assert (await migration(s, id))["status"] == "confirmed"
        assert await memory_held(s, id) == 192 and not await s.held(noted["uuid"])
        assert (await s.act(id, "confirmResize")).status == 409

    stage.play(story)


@pytest.mark.parametrize("is_off", [False, True])
def test_a_reverted_server_is_what_it_was(stage: Stage, is_off: bool) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        if is_off:
            await s.act(id, "os-stop")
        await s.act(id, RESIZE)
        aside = (await migration(s, id))["uuid"]
        assert (await s.act(id, "revertResize")).status == 202
        shown = await s.server(id)
        assert (shown["status"], shown["flavor"]["id"]) == (
            "SHUTOFF" if is_off else "ACTIVE",
            SMALL,
        )
        assert (await migration(s, id))["status"] == "reverted"
        assert (await guest(s, id)).ram_mib == await memory_held(s, id) == 128
        assert not await s.held(aside)
        assert (await s.used())["RAM"] == 128

    stage.play(story)


def test_a_resize_that_fails_leaves_the_server_as_it_was(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        for driver in s.drivers():
            driver.trouble.failures["resize"] = [Conflict("The disk cannot grow.")]
        await s.act(id, RESIZE)
        for driver in s.drivers():
            driver.trouble.failures.clear()
        shown = await s.server(id)
        assert (shown["status"], shown["flavor"]["id"]) == ("ACTIVE", SMALL)
        noted = await migration(s, id)
        assert noted["status"] == "error" and not await s.held(noted["uuid"])
        assert await memory_held(s, id) == 128 and (await s.used())["RAM"] == 128
        assert (await s.act(id, RESIZE)).status == 202

    stage.play(story)


def test_a_flavor_that_the_host_has_no_room_for_is_not_given(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        big = {"name": f"vast-{s.member.project_id}", "ram": 256, "vcpus": 1, "disk": 5000}
        made = await s.admin.post("/compute/v2.1/flavors", {"flavor": big})
        id = await s.boot()
        await s.act(id, {"resize": {"flavorRef": made.json["flavor"]["id"]}})
        shown = await s.server(id)
        assert (shown["status"], shown["flavor"]["id"]) == ("ACTIVE", SMALL)
        assert await memory_held(s, id) == 128

    stage.play(story)


def test_what_cannot_be_resized_to_is_refused_before_anything(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        same = await s.act(id, {"resize": {"flavorRef": SMALL}})
        assert (same.status, same.json["badRequest"]["message"]) == (
            400,
            "When resizing, instances must change flavor!",
        )
        assert (await s.act(id, {"resize": {"flavorRef": "nowhere"}})).status == 400
        quota = {"quota_set": {"ram": 150}}
        path = f"/compute/v2.1/os-quota-sets/{s.member.project_id}"
        assert (await s.admin.put(path, quota)).status == 200
        assert (await s.act(id, RESIZE)).status == 403
        assert (await s.server(id))["status"] == "ACTIVE"
        assert (await s.get(f"/os-migrations?instance_uuid={id}", "2.59", s.admin)).json == {
            "migrations": []
        }

    stage.play(story)


def test_a_server_deleted_while_it_waits_for_its_confirmation_leaves_nothing(
    stage: Stage,
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        await s.act(id, RESIZE)
        aside = (await migration(s, id))["uuid"]
        await s.delete(id)
        assert not await s.held(id) and not await s.held(aside)
        assert id not in await s.guests() and (await s.used())["RAM"] == 0

    stage.play(story)


def test_migrations_are_seen_by_managers_of_the_project_and_by_administrators(
    stage: Stage,
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        await s.act(id, RESIZE)
        assert (await s.get("/os-migrations")).status == 403
        old = (await s.get("/os-migrations", "2.1", s.admin)).json["migrations"]
        (mine,) = [m for m in old if m["instance_uuid"] == id]
        assert "uuid" not in mine and mine["old_instance_type_id"] == 42
        new = await migration(s, id)
        assert mine["id"] == new["id"] and new["source_compute"] == new["dest_compute"]
        page = await s.get("/os-migrations?limit=1", "2.59", s.admin)
        assert [m["uuid"] for m in page.json["migrations"]] == [new["uuid"]]
        assert page.json["migrations_links"][0]["rel"] == "next"
        assert (await s.get(f"/servers/{id}/migrations", "2.23", s.admin)).json == {
            "migrations": []
        }
        assert (await s.get(f"/servers/{id}/migrations/1", "2.23", s.admin)).status == 404

    stage.play(story)


@pytest.mark.parametrize(
    ("verb", "other", "trouble", "ends"),
    [
        ("confirmResize", "revertResize", "confirm_resize", LARGE),
        ("revertResize", "confirmResize", "revert_resize", SMALL),
    ],
)
def test_what_ends_a_resize_may_fail_and_be_done_again_but_not_be_turned_round(
    stage: Stage, verb: str, other: str, trouble: str, ends: str
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        await s.act(id, RESIZE)
        for driver in s.drivers():
            driver.trouble.failures[trouble] = [Conflict("The disk is on fire.")]
        assert (await s.act(id, verb)).status in (202, 204)
        for driver in s.drivers():
            driver.trouble.failures.clear()
        assert (await s.server(id))["status"] == "VERIFY_RESIZE"
        refused = await s.act(id, other)
        message = refused.json["conflictingRequest"]["message"]
        assert (
            refused.status == 409 and f"'{other}'" in message and f"'{verb}' has begun" in message
        )
        assert (await s.act(id, verb)).status in (202, 204)
        shown = await s.server(id)
        assert (shown["status"], shown["flavor"]["id"]) == ("ACTIVE", ends)
        assert await memory_held(s, id) == (192 if ends == LARGE else 128)
        assert not await s.held((await migration(s, id))["uuid"])

    stage.play(story)


def test_a_server_whose_image_is_gone_is_resized_all_the_same(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        image = await make_image(s.admin)
        id = await s.boot(imageRef=image)
        assert (await s.admin.delete(f"/image/v2/images/{image}")).status == 204
        await s.act(id, RESIZE)
        assert (await s.server(id))["status"] == "VERIFY_RESIZE"
        await s.act(id, "revertResize")
        assert (await s.server(id))["status"] == "ACTIVE"

    stage.play(story)


def test_a_resized_guest_that_goes_off_is_off_when_it_is_confirmed(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        await s.act(id, RESIZE)
        for driver in s.drivers():
            if id in {g.id for g in await driver.guests()}:
                driver.happen(id, SHUTDOWN)
        for _ in range(100):
            if (await s.server(id))["OS-EXT-STS:power_state"] == SHUTDOWN:
                break
            await asyncio.sleep(0.02)
        assert (await s.server(id))["status"] == "VERIFY_RESIZE"
        await s.act(id, "confirmResize")
        assert (await s.server(id))["status"] == "SHUTOFF"

    stage.play(story)


def test_a_resize_that_waits_is_not_forgotten_when_the_state_is_reset(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        await s.act(id, RESIZE)
        aside = (await migration(s, id))["uuid"]
        assert (await s.act(id, {"os-resetState": {"state": "error"}}, s.admin)).status == 202
        for action in ({"reboot": {"type": "HARD"}}, {"rebuild": {"imageRef": s.image}}, "os-stop"):
            refused = await s.act(id, action)
            assert refused.status == 409, action
            assert "its resize waits" in refused.json["conflictingRequest"]["message"]
        assert (await s.act(id, {"os-resetState": {"state": "active"}}, s.admin)).status == 202
        assert (await s.server(id))["status"] == "VERIFY_RESIZE"
        assert (await s.act(id, "revertResize")).status == 202
        assert (await s.server(id))["status"] == "ACTIVE" and not await s.held(aside)

    stage.play(story)


def test_what_a_broken_clean_up_left_aside_goes_with_the_server(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        aside = s.cloud.runtime.world.new_id()
        await s.cloud.runtime.contracts.get(PLACEMENT).set_aside(id, aside)
        async with s.cloud.runtime.store.tx() as tx:
            await migrations.begun(tx, aside, await SERVERS.get(tx, id), LARGE, "u")
        assert await s.held(aside)
        await s.delete(id)
        assert not await s.held(aside)

    stage.play(story)


def test_a_server_is_not_resized_to_a_flavor_that_is_too_small_for_its_image(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        flavors = {}
        for name, ram, disk in (("narrow", 64, 4), ("flat", 512, 2), ("fit", 512, 3)):
            flavor = {"name": f"{name} for an image", "ram": ram, "vcpus": 1, "disk": disk}
            made = await s.admin.post("/compute/v2.1/flavors", {"flavor": flavor})
            flavors[name] = made.json["flavor"]["id"]
        image = await make_image(s.admin, min_ram=128, min_disk=3)
        id = await s.boot(imageRef=image, flavorRef=flavors["fit"])
        for name, said in (("narrow", "memory is too small"), ("flat", "disk is smaller")):
            refused = await s.act(id, {"resize": {"flavorRef": flavors[name]}})
            assert refused.status == 400, refused
            assert said in refused.json["badRequest"]["message"]

    stage.play(story)

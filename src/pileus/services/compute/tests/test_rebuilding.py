"""Servers made anew and servers rescued: what stays, what changes, and what is refused."""

from __future__ import annotations

import asyncio
from typing import Any

from pileus.kernel.faults import Invalid
from pileus.services.compute.driver import RUNNING, SHUTDOWN
from pileus.services.compute.tests.scene import SERVERS, Scene, Stage, make_image


async def rebuild(s: Scene, id: str, version: str = "2.1", **more: Any) -> Any:
    body = {"rebuild": {"imageRef": s.image} | more}
    reply = await s.member.post(
        f"{SERVERS}/{id}/action", body, openstack_api_version=f"compute {version}"
    )
    return reply


async def console(s: Scene, id: str) -> str:
    return str((await s.act(id, {"os-getConsoleOutput": {}})).json["output"])


def test_a_rebuild_keeps_identity_and_ports_and_changes_what_was_asked(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot(metadata={"old": "1"})
        ports, held = await s.ports(id), await s.held(id)
        other = await make_image(s.admin, b"y" * 2048)
        reply = await rebuild(
            s, id, imageRef=other, name="renamed", metadata={"new": "2"}, adminPass="secret"
        )
        assert reply.status == 202
        shown = reply.json["server"]
        assert (shown["status"], shown["adminPass"]) == ("REBUILD", "secret")
        assert shown["image"]["id"] == other and "key_name" not in shown
        assert reply.headers["location"] == shown["links"][0]["href"]
        await s.cloud.settle()
        now = await s.server(id)
        assert (now["status"], now["name"], now["metadata"]) == ("ACTIVE", "renamed", {"new": "2"})
        assert now["image"]["id"] == other
        assert [p["id"] for p in await s.ports(id)] == [p["id"] for p in ports]
        assert await s.held(id) == held
        assert "renamed is up" in await console(s, id)

    stage.play(story)


def test_a_server_that_was_off_is_off_after_a_rebuild_and_one_in_error_runs(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        await s.act(id, "os-stop")
        assert (await rebuild(s, id)).status == 202
        await s.cloud.settle()
        shown = await s.server(id)
        assert (shown["status"], shown["OS-EXT-STS:power_state"]) == ("SHUTOFF", SHUTDOWN)
        await s.act(id, {"os-resetState": {"state": "error"}}, s.admin)
        assert (await rebuild(s, id)).status == 202
        await s.cloud.settle()
        shown = await s.server(id)
        assert (shown["status"], shown["OS-EXT-STS:power_state"]) == ("ACTIVE", RUNNING)

    stage.play(story)


def test_a_rebuild_that_fails_is_an_error_with_a_fault_from_which_another_heals(
    stage: Stage,
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        for driver in s.drivers():
            driver.trouble.failures["rebuild"] = [Invalid("The image is upside down.")]
        await rebuild(s, id)
        await s.cloud.settle()
        for driver in s.drivers():
            driver.trouble.failures.clear()
        shown = await s.server(id)
        assert (shown["status"], shown["fault"]["message"]) == (
            "ERROR",
            "The image is upside down.",
        )
        await rebuild(s, id)
        await s.cloud.settle()
        assert (await s.server(id))["status"] == "ACTIVE"

    stage.play(story)


def test_what_a_rebuild_may_change_comes_with_microversions(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot(user_data="aGVsbG8=")
        assert (await rebuild(s, id, "2.53", key_name=None)).status == 400
        assert (await rebuild(s, id, "2.56", user_data="eA==")).status == 400
        assert (await rebuild(s, id, "2.57", personality=[])).status == 400
        assert (await rebuild(s, id, "2.54", key_name="nobody's")).status == 400
        kept = await rebuild(s, id, "2.57")
        assert kept.json["server"]["user_data"] == "aGVsbG8="
        await s.cloud.settle()
        reset = await rebuild(s, id, "2.90", user_data=None, hostname="anew", description="x")
        shown = reset.json["server"]
        assert "OS-EXT-SRV-ATTR:user_data" not in shown
        assert (shown["user_data"], shown["key_name"], shown["description"]) == (None, None, "x")
        await s.cloud.settle()
        assert (await s.server(id, "2.90"))["OS-EXT-SRV-ATTR:hostname"] == "anew"

    stage.play(story)


def test_an_image_that_is_not_there_or_does_not_fit_is_refused_before_anything(
    stage: Stage,
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        gone = await rebuild(s, id, imageRef="11111111-2222-4333-8444-555555555555")
        assert (gone.status, gone.json["badRequest"]["message"]) == (
            400,
            "Cannot find image for rebuild",
        )
        large = await make_image(s.admin, min_disk=100)
        assert (await rebuild(s, id, imageRef=large)).status == 400
        assert (await s.server(id))["status"] == "ACTIVE"
        await s.act(id, "pause")
        refused = await rebuild(s, id)
        message = refused.json["conflictingRequest"]["message"]
        assert message.startswith(f"Cannot 'rebuild' instance {id} while it is in vm_state paused")

    stage.play(story)


def test_a_rescued_server_runs_from_another_image_until_it_is_unrescued(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        tools = await make_image(s.admin, b"z" * 2048)
        reply = await s.act(id, {"rescue": {"rescue_image_ref": tools, "adminPass": "secret"}})
        assert (reply.status, reply.json) == (200, {"adminPass": "secret"})
        shown = await s.server(id)
        assert (shown["status"], shown["OS-EXT-STS:vm_state"]) == ("RESCUE", "rescued")
        assert shown["image"]["id"] == s.image
        assert f"rescued by image {tools}" in await console(s, id)
        for action in ({"reboot": {"type": "HARD"}}, {"rebuild": {"imageRef": s.image}}, "pause"):
            assert (await s.act(id, action)).status == 409
        assert (await s.act(id, "unrescue")).status == 202
        assert (await s.server(id))["status"] == "ACTIVE"
        assert "rescued by" not in await console(s, id)
        assert (await s.act(id, "unrescue")).status == 409

    stage.play(story)


def test_a_rescue_that_fails_gives_the_guest_its_own_disk_back(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        for driver in s.drivers():
            driver.trouble.failures["rescue"] = [Invalid("The image is upside down.")]
        reply = await s.act(id, {"rescue": {}})
        for driver in s.drivers():
            driver.trouble.failures.clear()
        assert reply.status == 200 and len(reply.json["adminPass"]) == 12
        assert (await s.server(id))["status"] == "ACTIVE"
        assert "rescued by" not in await console(s, id)
        actions = (await s.get(f"/servers/{id}/os-instance-actions")).json["instanceActions"]
        assert (actions[0]["action"], actions[0]["message"]) == ("rescue", "Error")

    stage.play(story)


async def switch(s: Scene, id: str, state: int) -> None:
    """The guest's power changes by itself, and control has heard of it."""
    for driver in s.drivers():
        if id in {g.id for g in await driver.guests()}:
            driver.happen(id, state)
    for _ in range(100):
        if (await s.server(id))["OS-EXT-STS:power_state"] == state:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(await s.server(id))


def test_a_rescued_guest_that_goes_off_is_still_unrescued(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        await s.act(id, {"rescue": {}})
        await switch(s, id, SHUTDOWN)
        assert (await s.server(id))["status"] == "RESCUE"
        assert (await s.act(id, "unrescue")).status == 202
        assert (await s.server(id))["status"] == "ACTIVE"
        assert "rescued by" not in await console(s, id)

    stage.play(story)


def test_a_rescued_server_whose_state_was_reset_has_its_own_disk_after_a_hard_reboot(
    stage: Stage,
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        await s.act(id, {"rescue": {}})
        await s.act(id, {"os-resetState": {"state": "active"}}, s.admin)
        assert (await s.act(id, {"reboot": {"type": "HARD"}})).status == 202
        assert "rescued by" not in await console(s, id)

    stage.play(story)


def test_a_server_in_error_that_ran_runs_on_when_its_rescue_fails(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        await s.act(id, {"os-resetState": {"state": "error"}}, s.admin)
        for driver in s.drivers():
            driver.trouble.failures["rescue"] = [Invalid("The image is upside down.")]
        await s.act(id, {"rescue": {}})
        for driver in s.drivers():
            driver.trouble.failures.clear()
        assert (await s.server(id))["status"] == "ERROR"
        (power,) = [g.power_state for d in s.drivers() for g in await d.guests() if g.id == id]
        assert power == RUNNING

    stage.play(story)

"""Servers put away and brought back, on their host or another; and servers deleted and restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from pileus.kernel.faults import Conflict
from pileus.services.compute.driver import RUNNING, SHUTDOWN, SUSPENDED
from pileus.services.compute.servers.due import end_what_is_due
from pileus.services.compute.settings import settings_of
from pileus.services.compute.tests.scene import SERVERS, Scene, Stage
from pileus.services.compute.tests.test_volumes import attach, attached, detach, volume
from pileus.services.image.contract import IMAGES

SHELVED = "SHELVED_OFFLOADED"


@contextmanager
def settings(s: Scene, **changes: int) -> Iterator[None]:
    runtime = s.cloud.runtime
    before = settings_of(runtime)
    runtime.settings["compute"] = msgspec.structs.replace(before, **changes)
    try:
        yield
    finally:
        runtime.settings["compute"] = before


async def images(s: Scene) -> list[Any]:
    return list((await s.member.get("/image/v2/images?visibility=private")).json["images"])


async def unshelve(s: Scene, id: str, version: str, what: Any, admin: bool = False) -> Any:
    client = s.admin if admin else s.member
    reply = await client.post(
        f"{SERVERS}/{id}/action", {"unshelve": what}, openstack_api_version=f"compute {version}"
    )
    await s.cloud.settle()
    return reply


@pytest.mark.parametrize("before", [[], ["os-stop"], ["pause"], ["suspend"]])
def test_a_shelved_server_leaves_its_host_and_keeps_its_disk_and_its_ports(
    stage: Stage, before: list[str]
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        ports = {p["id"]: p["fixed_ips"] for p in await s.ports(id)}
        for action in before:
            await s.act(id, action)
        assert (await s.act(id, "shelve")).status == 202
        shown = await s.server(id, client=s.admin)
        assert (shown["status"], shown["OS-EXT-SRV-ATTR:host"]) == (SHELVED, None)
        assert shown["OS-EXT-STS:power_state"] == SHUTDOWN and shown["hostId"] == ""
        assert id not in await s.guests() and await s.held(id) == {}
        (image,) = await images(s)
        assert (image["name"], image["status"]) == ("web-shelved", "active")
        assert (image["image_type"], image["base_image_ref"]) == ("snapshot", s.image)
        assert {p["id"]: p["fixed_ips"] for p in await s.ports(id)} == ports
        bound = (await s.admin.get(f"/network/v2.0/ports?device_id={id}")).json["ports"]
        assert {p["binding:host_id"] for p in bound} == {""}
        assert (await s.used())["Instances"] == 1, "it counts as long as it is there"

        assert (await s.act(id, "unshelve")).status == 202
        shown = await s.server(id, client=s.admin)
        assert (shown["status"], shown["OS-EXT-STS:power_state"]) == ("ACTIVE", RUNNING)
        assert shown["image"]["id"] == s.image, "it was made of this one in the first place"
        assert id in await s.guests() and list(await s.held(id)) and await images(s) == []
        again = await s.ports(id)
        assert {p["id"]: p["fixed_ips"] for p in again} == ports
        assert {p["status"] for p in again} == {"ACTIVE"}
        events = await s.get(f"/servers/{id}/os-instance-actions", "2.60")
        assert {"shelve", "unshelve"} <= {a["action"] for a in events.json["instanceActions"]}

    stage.play(story)


def test_a_shelved_server_stays_on_its_host_as_long_as_is_set(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        with settings(s, shelved_offload_s=3600):
            id = await s.boot()
            await s.act(id, "shelve")
            assert (await s.server(id))["status"] == "SHELVED"
            assert id in await s.guests() and await s.held(id)
            await s.act(id, "unshelve")
            assert (await s.server(id))["status"] == "ACTIVE" and await images(s) == []
            await s.act(id, "shelve")
            await end_what_is_due(s.cloud.runtime, "")
            assert (await s.server(id))["status"] == "SHELVED", "its time is not over"
            assert (await s.act(id, "shelveOffload")).status == 403
            assert (await s.act(id, "shelveOffload", s.admin)).status == 202
            assert (await s.server(id))["status"] == SHELVED
            assert id not in await s.guests() and await s.held(id) == {}
        with settings(s, shelved_offload_s=-1):
            other = await s.boot()
            await s.act(other, "shelve")
        with settings(s, shelved_offload_s=1):
            await s.cloud.runtime.world.clock.sleep(1.1)
            await end_what_is_due(s.cloud.runtime, "")
            await s.cloud.settle()
            assert (await s.server(other))["status"] == SHELVED

    stage.play(story)


def test_a_suspended_server_that_is_shelved_where_it_is_keeps_its_memory(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        with settings(s, shelved_offload_s=3600):
            id, disk, other = await s.boot(), await volume(s), await volume(s)
            await attached(s, id, disk)
            await s.act(id, "suspend")
            await s.act(id, "shelve")
            server = await s.server(id)
            assert (server["status"], server["OS-EXT-STS:power_state"]) == ("SHELVED", SUSPENDED)
            held = {g.id: g.power_state for d in s.drivers() for g in await d.guests()}
            assert held[id] == SUSPENDED
            for reply in (await attach(s, id, other), await detach(s, id, disk)):
                assert reply.status == 409 and "must be unshelved first" in str(reply), reply
            await s.act(id, "unshelve")
            server = await s.server(id)
            assert (server["status"], server["OS-EXT-STS:power_state"]) == ("ACTIVE", RUNNING)
            await s.act(id, "suspend")
            await s.act(id, "shelve")
            await s.act(id, "shelveOffload", s.admin)
            server = await s.server(id)
            assert (server["status"], server["OS-EXT-STS:power_state"]) == (SHELVED, SHUTDOWN)

    stage.play(story)


def test_a_server_is_unshelved_in_the_zone_and_on_the_host_that_are_asked_for(
    stage: Stage,
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        assert (await unshelve(s, id, "2.91", {"host": "nowhere"}, True)).status == 409
        await s.act(id, "shelve")
        hosts = sorted(s.agents())
        for version, what, status in (
            ("2.77", {}, 400),
            ("2.77", {"availability_zone": None}, 400),
            ("2.77", {"availability_zone": "nowhere"}, 400),
            ("2.90", {"host": hosts[0]}, 400),
            ("2.91", {"host": "nowhere"}, 400),
            ("2.91", {"availability_zone": "nova", "what": 1}, 400),
        ):
            reply = await unshelve(s, id, version, what, admin=True)
            assert reply.status == status, (version, what, reply)
        assert (await unshelve(s, id, "2.91", {"host": hosts[0]})).status == 403
        for host in hosts[:2]:
            there = {"host": host, "availability_zone": "nova"}
            assert (await unshelve(s, id, "2.91", there, admin=True)).status == 202
            shown = await s.server(id, "2.96", s.admin)
            assert (shown["status"], shown["OS-EXT-SRV-ATTR:host"]) == ("ACTIVE", host)
            assert shown["pinned_availability_zone"] == "nova"
            await s.act(id, "shelve")
        assert (await unshelve(s, id, "2.91", {"availability_zone": None})).status == 202
        assert (await s.server(id, "2.96"))["pinned_availability_zone"] is None

    stage.play(story)


def test_a_server_that_cannot_be_unshelved_is_shelved_still(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        await s.act(id, "shelve")

        async def broken(spec: Any) -> Any:
            raise Conflict("There is no room.")

        with monkeypatch.context() as patched:
            for driver in s.drivers():
                patched.setattr(driver, "spawn", broken)
            assert (await s.act(id, "unshelve")).status == 202
        shown = await s.server(id, client=s.admin)
        assert (shown["status"], shown["OS-EXT-SRV-ATTR:host"]) == (SHELVED, None)
        assert await s.held(id) == {} and len(await images(s)) == 1
        assert (await s.act(id, "unshelve")).status == 202
        assert (await s.server(id))["status"] == "ACTIVE"

    stage.play(story)


def test_a_server_whose_disk_cannot_be_kept_is_not_shelved(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()

        async def full(guest_id: str, name: str) -> str:
            raise Conflict("There is no room.")

        with monkeypatch.context() as patched:
            for driver in s.drivers():
                patched.setattr(driver, "snapshot", full)
            await s.act(id, "shelve")
        shown = await s.server(id)
        assert (shown["status"], shown["OS-EXT-STS:power_state"]) == ("ACTIVE", RUNNING)
        assert await images(s) == [] and id in await s.guests()

    stage.play(story)


def test_the_image_of_a_shelved_server_goes_with_it(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        await s.act(id, "shelve")
        for refused in ("shelve", "os-start", "pause", "lock"):
            status = (await s.act(id, refused)).status
            assert status == (202 if refused == "lock" else 409)
        assert (await s.act(id, "unshelve")).status == 409, "it is locked"
        await s.act(id, "unlock")
        await s.delete(id)
        assert await images(s) == [] and await s.ports(id) == []

    stage.play(story)


def test_a_server_whose_image_was_deleted_says_why_it_does_not_come_back(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        await s.act(id, "shelve")
        (image,) = await images(s)
        await s.cloud.runtime.contracts.get(IMAGES).discard(image["id"])
        await s.act(id, "unshelve")
        assert (await s.server(id))["status"] == SHELVED
        path = f"/servers/{id}/os-instance-actions"
        (newest, *_) = (await s.get(path, "2.84", s.admin)).json["instanceActions"]
        shown = await s.get(f"{path}/{newest['request_id']}", "2.84", s.admin)
        assert image["id"] in shown.json["instanceAction"]["events"][0]["details"]

    stage.play(story)


# Deleted for a while


def test_a_deleted_server_is_off_and_hidden_until_it_is_restored(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        with settings(s, reclaim_s=3600):
            id = await s.boot()
            assert (await s.delete(id)).status == 204
            shown = await s.server(id)
            assert (shown["status"], shown["OS-EXT-STS:power_state"]) == ("SOFT_DELETED", SHUTDOWN)
            assert (await s.get("/servers")).json["servers"] == []
            found = await s.get("/servers?status=soft_deleted")
            assert [x["id"] for x in found.json["servers"]] == [id]
            assert (await s.used())["Instances"] == (await s.used())["RAM"] == 0
            assert (await s.act(id, "os-start")).status == 409
            assert (await s.delete(id)).status == 204
            assert (await s.act(id, "restore")).status == 202
            assert (await s.server(id))["status"] == "ACTIVE"
            assert (await s.used())["Instances"] == 1
            assert (await s.act(id, "restore")).status == 409
            await s.delete(id)
            assert (await s.act(id, "forceDelete")).status == 202
            assert (await s.get(f"/servers/{id}")).status == 404 and id not in await s.guests()

    stage.play(story)


def test_a_deleted_server_that_nobody_restores_goes(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        with settings(s, reclaim_s=1):
            id = await s.boot()
            await s.delete(id)
            await end_what_is_due(s.cloud.runtime, "")
            assert (await s.server(id))["status"] == "SOFT_DELETED"
            await s.cloud.runtime.world.clock.sleep(1.1)
            await end_what_is_due(s.cloud.runtime, "")
            await s.cloud.settle()
            assert (await s.get(f"/servers/{id}")).status == 404

    stage.play(story)


def test_a_server_is_not_restored_over_quota(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        project = (await s.server(await s.boot(name="a")))["tenant_id"]
        with settings(s, reclaim_s=3600):
            id = await s.boot(name="b")
            await s.delete(id)
        quota = {"quota_set": {"instances": 1}}
        await s.admin.put(f"/compute/v2.1/os-quota-sets/{project}", quota)
        assert (await s.act(id, "restore")).status == 403
        assert (await s.server(id))["status"] == "SOFT_DELETED"

    stage.play(story)

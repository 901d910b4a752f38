"""Volumes go wherever their server goes; whichever way that ends, one host is served them, by one attachment."""

from __future__ import annotations

from typing import Any

import pytest

from pileus.services.compute.servers.evacuation import EVACUATE
from pileus.services.compute.servers.live_migration import LIVE_MIGRATE
from pileus.services.compute.servers.moving import MIGRATE
from pileus.services.compute.tests.scene import Scene, Stage
from pileus.services.compute.tests.test_volumes import (
    LIVE,
    VOLUMES,
    attached,
    detach,
    exports,
    listed,
    lost,
    migrated,
    plugged,
    status,
    volume,
)
from pileus.testing.generated.sagas import FAILS, TWICE, Sabotage, sabotaged


async def served_to(s: Scene, id: str, *disks: str) -> None:
    """One guest of the server has the volumes, one attachment each; whom else they were served to is out."""
    host = (await s.server(id, client=s.admin))["OS-EXT-SRV-ATTR:host"]
    assert (await plugged(s, id))[host] == disks
    known = await s.member.get("/volume/v3/attachments/detail", openstack_api_version="volume 3.71")
    rows = {a["volume_id"]: a for a in known.json["attachments"] if a["instance"] == id}
    ours = {d["volumeId"]: d["attachment_id"] for d in await listed(s, id)}
    assert ours == {disk: rows[disk]["id"] for disk in disks} and len(rows) == len(disks)
    for disk in disks:
        assert await status(s, disk) == "in-use" and await exports(s, disk) == 1


def test_a_server_takes_its_volumes_to_another_host_and_back(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id, disk, late = await s.boot(), await volume(s), await volume(s)
        await attached(s, id, disk)
        (before,) = await plugged(s, id)
        await migrated(s, id, "migrate")
        assert (await s.server(id))["status"] == "VERIFY_RESIZE"
        await served_to(s, id, disk)
        await attached(s, id, late)
        assert (await detach(s, id, disk)).status == 202
        await migrated(s, id, "revertResize")
        assert list(await plugged(s, id)) == [before]
        await served_to(s, id, late)
        await migrated(s, id, "migrate", "confirmResize")
        await served_to(s, id, late)
        assert list(await plugged(s, id)) != [before]

    stage.play(story)


def test_a_running_server_takes_its_volumes_along_by_attachments_of_its_new_host(
    stage: Stage,
) -> None:
    async def story(s: Scene) -> None:
        id, disk = await s.boot(), await volume(s)
        await attached(s, id, disk)
        (old,), (before,) = await plugged(s, id), await listed(s, id)
        await migrated(s, id, LIVE)
        assert old not in await plugged(s, id)
        await served_to(s, id, disk)
        (after,) = await listed(s, id)
        assert after["attachment_id"] != before["attachment_id"]
        assert after["bdm_uuid"] == before["bdm_uuid"]

    stage.play(story)


@pytest.mark.parametrize("at", range(len(LIVE_MIGRATE.steps)))
@pytest.mark.parametrize("after", [False, True])
def test_a_live_migration_that_fails_leaves_one_attachment(
    stage: Stage, at: int, after: bool
) -> None:
    async def story(s: Scene) -> None:
        id, disk = await s.boot(), await volume(s)
        await attached(s, id, disk)
        with sabotaged(Sabotage(LIVE_MIGRATE, FAILS, at=at, after=after)):
            await migrated(s, id, LIVE)
        assert (await s.server(id))["status"] == "ACTIVE"
        await served_to(s, id, disk)

    stage.play(story)


@pytest.mark.parametrize("at", range(1, len(MIGRATE.steps)))
def test_a_migration_that_fails_leaves_the_volumes_where_they_were(stage: Stage, at: int) -> None:
    async def story(s: Scene) -> None:
        id, disk = await s.boot(), await volume(s)
        await attached(s, id, disk)
        with sabotaged(Sabotage(MIGRATE, FAILS, at=at, after=True)):
            await migrated(s, id, "migrate")
        assert (await s.server(id))["status"] == "ACTIVE"
        await served_to(s, id, disk)

    stage.play(story)


def test_a_resized_server_keeps_its_volumes_and_so_does_one_that_is_started_again(
    stage: Stage,
) -> None:
    async def story(s: Scene) -> None:
        id, disk = await s.boot(), await volume(s)
        await attached(s, id, disk)
        await migrated(s, id, {"resize": {"flavorRef": "84"}}, "revertResize", client=s.member)
        await served_to(s, id, disk)
        await migrated(s, id, {"resize": {"flavorRef": "84"}}, "confirmResize", client=s.member)
        await served_to(s, id, disk)
        again: tuple[Any, ...] = (
            "os-stop",
            "os-start",
            {"reboot": {"type": "HARD"}},
            {"rescue": {}},
            "unrescue",
        )
        await migrated(s, id, *again, client=s.member)
        await served_to(s, id, disk)

    stage.play(story)


@pytest.mark.parametrize("fails", [False, True])
def test_an_evacuated_server_has_its_volumes_and_its_lost_host_is_out(
    stage: Stage, fails: bool
) -> None:
    async def story(s: Scene) -> None:
        id, disk = await s.boot(), await volume(s)
        await attached(s, id, disk)
        (host,) = await plugged(s, id)
        await lost(s, host, down=True)
        try:
            body = {"evacuate": {"onSharedStorage": "False"}}
            with sabotaged(Sabotage(EVACUATE, FAILS if fails else TWICE, at=2, after=True)):
                await migrated(s, id, body)
        finally:
            await lost(s, host, down=False)
        assert (host in await plugged(s, id)) == fails
        await served_to(s, id, disk)

    stage.play(story)


def test_a_server_on_a_volume_is_shelved_without_an_image_and_made_of_it_again(
    stage: Stage,
) -> None:
    async def story(s: Scene) -> None:
        root = {"boot_index": 0, "uuid": s.image, "source_type": "image", "volume_size": 1}
        root |= {"destination_type": "volume", "delete_on_termination": True}
        id = await s.boot("2.60", imageRef="", block_device_mapping_v2=[root])
        (one,) = await listed(s, id)
        disk = one["volumeId"]
        await migrated(s, id, "migrate", "confirmResize", LIVE)
        await served_to(s, id, disk)
        await migrated(s, id, "shelve", client=s.member)
        assert (await s.server(id))["status"] == "SHELVED_OFFLOADED"
        assert await status(s, disk) == "reserved" and await exports(s, disk) == 0
        kept = await s.member.get("/image/v2/images?visibility=private")
        assert kept.json["images"] == []
        await migrated(s, id, "unshelve", client=s.member)
        assert (await s.server(id))["status"] == "ACTIVE"
        await served_to(s, id, disk)
        refused = await detach(s, id, disk)
        assert refused.status == 400 and "Cannot detach a root device volume" in str(refused)
        await s.delete(id)
        assert (await s.member.get(f"{VOLUMES}/{disk}")).status == 404

    stage.play(story)

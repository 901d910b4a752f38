"""Two who want the same volume or the same last gigabyte, and hosts that are not there."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pileus.kernel.faults import Unavailable
from pileus.services.block_storage.attaching import status_of
from pileus.services.block_storage.attachment import Attachment
from pileus.services.block_storage.driver import Export
from pileus.services.block_storage.drivers.fake import FakeVolumeDriver
from pileus.services.block_storage.volume import VOLUMES
from pileus.testing.client import Client, Reply
from pileus.testing.cloud import Cloud, cloud
from pileus.testing.generated.sagas import another_control

from .conftest import Stage
from .given import AT, BASE, act, made, shown, snapshot
from .test_volumes import at_host


async def attach(cloud: Cloud, member: Client, id: str) -> Reply:
    """To the host that it lies on."""
    host = (await VOLUMES.get(cloud.runtime.store, id)).host
    body = {"volume_uuid": id, "connector": {"host": host}}
    return await member.post(f"{BASE}/attachments", {"attachment": body}, **AT)


async def detach(member: Client, attached: Reply) -> Reply:
    return await member.delete(f"{BASE}/attachments/{attached.json['attachment']['id']}", **AT)


def test_of_two_who_attach_a_volume_at_once_one_has_it(stage: Stage) -> None:
    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        id = await made(cloud, member)
        both = await asyncio.gather(*(attach(cloud, member, id) for _ in range(4)))
        assert Counter(reply.status for reply in both) == {200: 1, 400: 3}
        assert len(await at_host(cloud, id)) == 1
        (winner,) = (reply for reply in both if reply.status == 200)
        assert (await detach(member, winner)).status == 200
        assert await at_host(cloud, id) == []
        assert (await shown(member, id))["status"] == "available"

    stage.run(play())


def test_a_volume_that_is_let_go_while_it_is_busy_is_available_afterwards(stage: Stage) -> None:
    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        id = await made(cloud, member)
        attached = await attach(cloud, member, id)
        body = {"attachment_id": attached.json["attachment"]["id"]}
        complete = f"{BASE}/attachments/{body['attachment_id']}/action"
        assert (await member.post(complete, {"os-complete": None}, **AT)).status == 204
        assert (await act(member, id, "os-extend", {"new_size": 2})).status == 202
        assert (await detach(member, attached)).status == 200
        await cloud.settle()
        seen = await shown(member, id)
        assert (seen["status"], seen["size"], seen["attachments"]) == ("available", 2, [])
        assert await at_host(cloud, id) == []

    stage.run(play())


def test_a_forced_detach_mends_an_error_that_was_set_by_hand_and_no_other(stage: Stage) -> None:
    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        id = await made(cloud, member)
        for status in ("available", "error"):
            if status == "available":
                given = {"instance_uuid": cloud.runtime.world.new_id(), "mountpoint": "/dev/vdc"}
                assert (await act(member, id, "os-attach", given)).status == 202
            assert (
                await act(cloud.admin, id, "os-reset_status", {"status": "error"})
            ).status == 202
            assert (await act(cloud.admin, id, "os-force_detach", {})).status == 202
            seen = await shown(member, id)
            assert (seen["status"], seen["attachments"]) == (status, [])

    stage.run(play())


def test_an_attachment_whose_host_did_not_answer_leaves_nothing_when_it_is_deleted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = FakeVolumeDriver.export

    async def silent(driver: FakeVolumeDriver, *asked: Any) -> Export:
        await export(driver, *asked)
        raise Unavailable("no answer")

    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        id = await made(cloud, member)
        monkeypatch.setattr(FakeVolumeDriver, "export", silent)
        assert (await attach(cloud, member, id)).status == 503
        assert len(await at_host(cloud, id)) == 1
        listed = await member.get(f"{BASE}/attachments?volume_id={id}", **AT)
        (one,) = listed.json["attachments"]
        assert (await member.delete(f"{BASE}/attachments/{one['id']}", **AT)).status == 200
        assert await at_host(cloud, id) == []
        assert (await member.delete(f"{BASE}/volumes/{id}")).status == 202
        await cloud.settle()
        assert (await member.get(f"{BASE}/volumes/{id}")).status == 404

    stage.run(play())


def test_a_volume_with_snapshots_goes_only_with_them(stage: Stage) -> None:
    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        id = await made(cloud, member)
        taken = await snapshot(cloud, member, id)
        url = f"{BASE}/volumes/{id}"
        assert (await member.delete(url)).status == 400
        both = await asyncio.gather(*(member.delete(f"{url}?cascade=true") for _ in range(2)))
        assert 202 in {reply.status for reply in both} <= {202, 400}
        await cloud.settle()
        assert (await member.get(url)).status == 404
        assert (await member.get(f"{BASE}/snapshots/{taken}")).status == 404

    stage.run(play())


@pytest.mark.parametrize("how", ["request", "saga"])
def test_what_was_detached_while_it_was_served_by_a_control_that_died_is_taken_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    export, served = FakeVolumeDriver.export, asyncio.Event()

    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        id, other, older = [await made(cloud, member) for _ in range(3)]
        kept = (await attach(cloud, member, other)).json["attachment"]["id"]
        given = {"connector": {"host": "fake-1"}}
        assert (await act(member, older, "os-initialize_connection", given)).status == 200
        attached = await attach(cloud, member, id)
        url = f"{BASE}/attachments/{attached.json['attachment']['id']}"
        assert (await member.post(f"{url}/action", {"os-complete": None}, **AT)).status == 204

        async def late(driver: FakeVolumeDriver, *asked: Any) -> Export:
            assert (await detach(member, attached)).status == 200
            await export(driver, *asked)
            served.set()
            await asyncio.Event().wait()
            raise AssertionError("control is dead by then")

        monkeypatch.setattr(FakeVolumeDriver, "export", late)
        if how == "saga":
            assert (await act(member, id, "os-extend", {"new_size": 2})).status == 202
            await served.wait()
            monkeypatch.undo()
            await another_control(cloud.runtime)
        else:
            body = {"attachment": {"connector": {"host": "fake-2"}}}
            request = asyncio.create_task(member.put(url, body, **AT))
            await served.wait()
            monkeypatch.undo()
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
        await cloud.settle()
        assert len(await at_host(cloud, id)) == 1
        cloud.runtime.reconcilers.hint("block_storage.exports")
        await cloud.runtime.reconcilers.settled()
        assert await at_host(cloud, id) == []
        assert (await at_host(cloud, other), await at_host(cloud, older)) == ([kept], [older])
        assert (await member.delete(f"{BASE}/volumes/{id}")).status == 202
        await cloud.settle()
        assert (await member.get(f"{BASE}/volumes/{id}")).status == 404

    stage.run(play())


async def limited(cloud: Cloud, member: Client, **limits: int) -> None:
    body = {"quota_set": limits}
    reply = await cloud.admin.put(f"{BASE}/os-quota-sets/{member.project_id}", body)
    assert reply.status == 200, reply


async def all_at_once(member: Client, noun: str, body: Any) -> Counter[int]:
    asked = (member.post(f"{BASE}/{noun}", body, **AT) for _ in range(6))
    return Counter(reply.status for reply in await asyncio.gather(*asked))


@pytest.mark.parametrize("what", ["volumes", "gigabytes"])
@pytest.mark.parametrize("by_type", [False, True], ids=["project", "type"])
def test_six_volumes_at_once_are_as_many_as_the_quota_has_room_for(
    stage: Stage, what: str, by_type: bool
) -> None:
    async def play() -> None:
        member, cloud, kind = await stage.member(), stage.cloud, f"{what}-{by_type}"
        await cloud.admin.post(f"{BASE}/types", {"volume_type": {"name": kind}})
        name = f"{what}_{kind}" if by_type else what
        await limited(cloud, member, **{name: 4})
        body = {"volume": {"size": 2 if what == "gigabytes" else 1, "volume_type": kind}}
        fits = 2 if what == "gigabytes" else 4
        assert await all_at_once(member, "volumes", body) == {202: fits, 413: 6 - fits}
        await cloud.settle()
        assert (await member.post(f"{BASE}/volumes", body, **AT)).status == 413
        other = {"volume": {"size": 1}}
        assert (await member.post(f"{BASE}/volumes", other, **AT)).status == (202, 413)[not by_type]
        await cloud.settle()

    stage.run(play())


@pytest.mark.parametrize("name", ["snapshots_kept", "gigabytes_kept", "snapshots"])
def test_six_snapshots_at_once_are_as_many_as_the_quota_has_room_for(
    stage: Stage, name: str
) -> None:
    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        await cloud.admin.post(f"{BASE}/types", {"volume_type": {"name": "kept"}})
        id = await made(cloud, member, volume_type="kept")
        await limited(cloud, member, **{name: 2 + name.startswith("gigabytes")})
        body = {"snapshot": {"volume_id": id}}
        assert await all_at_once(member, "snapshots", body) == {202: 2, 413: 4}
        await cloud.settle()
        url = f"{BASE}/os-quota-sets/{member.project_id}?usage=true"
        assert (await member.delete(f"{BASE}/volumes/{id}?cascade=true")).status == 202
        await cloud.settle()
        used = (await cloud.admin.get(url)).json["quota_set"]
        assert used[name]["in_use"] == 0
        assert used["gigabytes"]["in_use"] == used["snapshots"]["in_use"] == 0

    stage.run(play())


def test_cve_2026_93856_messages_are_for_the_project_that_they_are_about(stage: Stage) -> None:
    async def play() -> None:
        member, other, cloud = await stage.member(), await stage.member(), stage.cloud
        specs = {"volume_backend_name": "elsewhere"}
        body = {"volume_type": {"name": "elsewhere", "extra_specs": specs}}
        assert (await cloud.admin.post(f"{BASE}/types", body)).status == 200
        id = await made(cloud, member, volume_type="elsewhere")
        listed = await member.get(f"{BASE}/messages?resource_uuid={id}", **AT)
        (message,) = listed.json["messages"]
        for path in ("/messages", f"/messages?resource_uuid={id}", "/messages?all_tenants=1"):
            assert (await other.get(BASE + path, **AT)).json["messages"] == []
        url = f"{BASE}/messages/{message['id']}"
        assert (await other.get(url, **AT)).status == 404
        assert (await other.delete(url, **AT)).status == 404
        assert (await member.get(url, **AT)).status == 200

    stage.run(play())


def test_a_volume_that_no_host_is_there_for_says_so() -> None:
    async def play() -> None:
        async with cloud(hosts=0) as c:
            id = await made(c, c.admin)
            assert (await shown(c.admin, id))["status"] == "error"
            found = await c.admin.get(f"{BASE}/messages?resource_uuid={id}", **AT)
            assert len(found.json["messages"]) == 1
            assert (await c.admin.delete(f"{BASE}/volumes/{id}")).status == 202
            await c.settle()
            assert (await c.admin.get(f"{BASE}/volumes/{id}")).status == 404

    asyncio.run(play())


def test_a_volume_whose_host_is_away_when_the_cloud_starts_is_served_when_it_is_back(
    tmp_path: Path,
) -> None:
    async def play() -> None:
        async with cloud(data=tmp_path) as c:
            id = await made(c, c.admin)
        async with cloud(data=tmp_path, hosts=0) as c:
            assert (await shown(c.admin, id))["status"] == "available"
            assert (await attach(c, c.admin, id)).status == 503
        async with cloud(data=tmp_path) as c:
            listed = await c.admin.get(f"{BASE}/attachments?volume_id={id}", **AT)
            (one,) = listed.json["attachments"]
            connector = {"host": (await VOLUMES.get(c.runtime.store, id)).host}
            url, body = f"{BASE}/attachments/{one['id']}", {"attachment": {"connector": connector}}
            assert (await c.admin.put(url, body, **AT)).status == 200
            assert await at_host(c, id) == [one["id"]]
            assert (await c.admin.delete(url, **AT)).status == 200
            assert (await shown(c.admin, id))["status"] == "available"

    asyncio.run(play())


def test_a_volume_is_detaching_as_long_as_one_of_its_servers_lets_go_of_it() -> None:
    def status(*of: str) -> str:
        return status_of([Attachment(id=s, volume_id="v", project_id="p", status=s) for s in of])

    assert status("attached", "detaching") == status("detaching") == "detaching"
    assert (status("attached", "reserved"), status("reserved"), status()) == (
        "in-use",
        "reserved",
        "available",
    )

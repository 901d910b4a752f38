"""Volumes: made of what is asked, where there is room, for whom they are."""

from __future__ import annotations

from pileus.kernel.faults import Conflict
from pileus.kernel.sagas import Run, Step
from pileus.services.block_storage.agent_contract import VOLUME_HOST
from pileus.services.block_storage.contract import VOLUMES, NewVolume
from pileus.services.block_storage.volume import VOLUMES as RECORDS
from pileus.services.block_storage.volume import Volume, backend_of
from pileus.services.block_storage.volumes.moving import MIGRATE
from pileus.testing.cloud import Cloud

from .conftest import Stage
from .given import AT, BASE, act, made, shown, snapshot


async def at_host(cloud: Cloud, id: str) -> list[str]:
    """The snapshots and exports of the volume as its host knows it; fails where the host has none."""
    record = await RECORDS.get(cloud.runtime.store, id)
    host = cloud.runtime.agents.proxy(VOLUME_HOST, record.host)
    found = {v.id: v for v in await host.volumes()}
    here = found[backend_of(record)]
    return [*here.snapshots, *here.exports]


def test_a_volume_is_at_its_host_when_it_is_available_and_gone_when_it_is_deleted(
    stage: Stage,
) -> None:
    async def play() -> None:
        member = await stage.member()
        id = await made(stage.cloud, member, name="v", metadata={"a": "b"})
        assert (await shown(member, id))["status"] == "available"
        assert await at_host(stage.cloud, id) == []
        assert (await member.delete(f"{BASE}/volumes/{id}")).status == 202
        await stage.cloud.settle()
        assert (await member.get(f"{BASE}/volumes/{id}")).status == 404

    stage.run(play())


def test_a_volume_that_nothing_fits_is_in_error_and_a_message_names_each_pool(
    stage: Stage,
) -> None:
    async def play() -> None:
        member = await stage.member()
        specs = {"volume_backend_name": "nowhere"}
        body = {"volume_type": {"name": "unfit", "extra_specs": specs}}
        assert (await stage.cloud.admin.post(f"{BASE}/types", body)).status == 200
        id = await made(stage.cloud, member, volume_type="unfit")
        assert (await shown(member, id))["status"] == "error"
        told = (await member.get(f"{BASE}/messages?resource_uuid={id}", **AT)).json["messages"]
        assert [m["event_id"] for m in told] == ["VOLUME_VOLUME_001_003"]
        used = await member.get(f"{BASE}/volumes/{id}", **AT)
        assert used.json["volume"]["size"] == 1

    stage.run(play())


def test_an_extended_volume_is_as_large_as_asked_and_charged_for(stage: Stage) -> None:
    async def play() -> None:
        member = await stage.member()
        id = await made(stage.cloud, member)
        assert (await act(member, id, "os-extend", {"new_size": 1})).status == 400
        assert (await act(member, id, "os-extend", {"new_size": 3})).status == 202
        await stage.cloud.settle()
        assert (await shown(member, id))["size"] == 3
        refused = await act(member, id, "os-extend", {"new_size": 2000})
        assert refused.status == 413 and "gigabytes" in refused.json["overLimit"]["message"]

    stage.run(play())


def test_a_copy_of_a_snapshot_lies_where_its_volume_lies_and_may_not_be_smaller(
    stage: Stage,
) -> None:
    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        id = await made(cloud, member, size=2)
        taken = await snapshot(cloud, member, id)
        assert await at_host(cloud, id) == [taken]
        copy = await made(cloud, member, size=3, snapshot_id=taken)
        store = cloud.runtime.store
        assert (await RECORDS.get(store, copy)).host == (await RECORDS.get(store, id)).host
        small = {"volume": {"size": 1, "snapshot_id": taken}}
        assert (await member.post(f"{BASE}/volumes", small)).status == 400
        assert (await member.delete(f"{BASE}/volumes/{id}")).status == 400
        assert (await member.delete(f"{BASE}/volumes/{id}?cascade=true")).status == 202
        await cloud.settle()
        assert (await member.get(f"{BASE}/snapshots/{taken}")).status == 404

    stage.run(play())


def test_a_volume_of_another_project_is_as_if_it_were_not_there(stage: Stage) -> None:
    async def play() -> None:
        owner, stranger = await stage.member(), await stage.member()
        id = await made(stage.cloud, owner)
        assert (await stranger.get(f"{BASE}/volumes/{id}")).status == 404
        assert (await act(stranger, id, "os-reserve")).status == 404
        body = {"snapshot": {"volume_id": id}}
        assert (await stranger.post(f"{BASE}/snapshots", body)).status == 404
        copy = {"volume": {"size": 1, "source_volid": id}}
        assert (await stranger.post(f"{BASE}/volumes", copy)).status == 404

    stage.run(play())


def test_an_attachment_serves_the_volume_and_its_status_follows(stage: Stage) -> None:
    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        id, server = await made(cloud, member), "11111111-1111-4111-8111-111111111111"
        body = {"attachment": {"volume_uuid": id, "instance_uuid": server}}
        one = (await member.post(f"{BASE}/attachments", body, **AT)).json["attachment"]
        assert (await shown(member, id))["status"] == "reserved"
        again = await member.post(f"{BASE}/attachments", {"attachment": {"volume_uuid": id}}, **AT)
        assert again.status == 400
        url, connector = f"{BASE}/attachments/{one['id']}", {"host": "somewhere"}
        put = await member.put(url, {"attachment": {"connector": connector}}, **AT)
        assert put.json["attachment"]["connection_info"]["driver_volume_type"] == "nbd"
        assert await at_host(cloud, id) == [one["id"]]
        assert (await member.post(f"{url}/action", {"os-complete": None}, **AT)).status == 204
        seen = await shown(member, id)
        assert (seen["status"], seen["attachments"][0]["server_id"]) == ("in-use", server)
        assert (await member.delete(url, **AT)).status == 200
        assert (await shown(member, id))["status"] == "available"
        assert await at_host(cloud, id) == []

    stage.run(play())


def test_who_names_an_initiator_and_does_not_say_nbd_gets_a_target_of_iscsi(stage: Stage) -> None:
    initiator = {"host": "bare", "initiator": "iqn.1993-08.org.debian:01:bare"}

    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        id = await made(cloud, member)
        body = {"attachment": {"volume_uuid": id, "mode": "ro", "connector": initiator}}
        one = (await member.post(f"{BASE}/attachments", body, **AT)).json["attachment"]
        info, url = one["connection_info"], f"{BASE}/attachments/{one['id']}"
        assert info.pop("auth_password")
        assert info == {
            "driver_volume_type": "iscsi",
            "target_discovered": False,
            "target_portal": "192.0.2.1:10820",
            "target_iqn": f"iqn.2010-10.org.openstack:attachment-{one['id']}",
            "target_lun": 1,
            "auth_method": "CHAP",
            "auth_username": one["id"],
            "volume_id": id,
            "attachment_id": one["id"],
            "access_mode": "ro",
            "encrypted": False,
            "qos_specs": None,
            "discard": True,
        }
        body = {"attachment": {"connector": {**initiator, "nbd": True}}}
        put = (await member.put(url, body, **AT)).json["attachment"]
        assert put["connection_info"]["driver_volume_type"] == "nbd"
        await member.delete(url, **AT)
        older = await act(cloud.admin, id, "os-initialize_connection", {"connector": initiator})
        data = older.json["connection_info"]
        assert (data["driver_volume_type"], data["data"]["auth_method"]) == ("iscsi", "CHAP")

    stage.run(play())


def test_ossa_2023_003_what_compute_attached_its_owner_may_not_detach_here(stage: Stage) -> None:
    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        id, volumes = await made(cloud, member), cloud.runtime.contracts.get(VOLUMES)
        token = member.headers["x-auth-token"]
        caller = await cloud.runtime.callers.of(token)
        await volumes.reserve(caller, id, "one", "server", "rw")
        await volumes.reserve(caller, id, "one", "server", "rw")
        assert (await volumes.connect("one", "fake-1")).size == 1 << 30
        await volumes.complete("one", "/dev/vdb")
        assert (await member.delete(f"{BASE}/attachments/one", **AT)).status == 409
        assert (await act(member, id, "os-detach", {})).status == 409
        assert [a.device for a in await volumes.attachments("server")] == ["/dev/vdb"]
        await volumes.detach("one")
        await volumes.detach("one")
        assert (await volumes.volume(caller, id)).status == "available"

    stage.run(play())


def test_compute_makes_a_volume_under_an_id_of_its_own_once(stage: Stage) -> None:
    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        volumes, id = cloud.runtime.contracts.get(VOLUMES), cloud.runtime.world.new_id()
        caller = await cloud.runtime.callers.of(member.headers["x-auth-token"])
        for _ in range(2):
            await volumes.create(caller, NewVolume(id=id, size=2))
        await cloud.settle()
        assert await volumes.state(id) == ("available", "")
        taken = cloud.runtime.world.new_id()
        for _ in range(2):
            await volumes.take_snapshot(caller, id, taken, "snap")
        assert await at_host(cloud, id) == [taken]
        assert (await member.delete(f"{BASE}/snapshots/{taken}")).status == 202
        await cloud.settle()
        await volumes.remove(id)
        await cloud.settle()
        assert await volumes.state(id) == ("", "")

    stage.run(play())


def test_a_volume_moves_to_another_host_with_its_bytes(stage: Stage) -> None:
    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        id = await made(cloud, member)
        before = (await RECORDS.get(cloud.runtime.store, id)).host
        moved = await act(cloud.admin, id, "os-migrate_volume", {"host": None})
        assert moved.status == 202, moved
        await cloud.settle()
        assert (await RECORDS.get(cloud.runtime.store, id)).host != before
        assert await at_host(cloud, id) == []
        left = await cloud.runtime.agents.proxy(VOLUME_HOST, before).volumes()
        assert id not in {v.id for v in left}

    stage.run(play())


def test_a_volume_that_could_not_be_cleared_from_where_it_came_is_where_it_went(
    stage: Stage,
) -> None:
    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        id, honest = await made(cloud, member), MIGRATE.steps

        async def leave(run: Run[Volume]) -> None:
            raise Conflict("not today")

        MIGRATE.steps = (*honest[:3], Step(leave))
        try:
            before = (await RECORDS.get(cloud.runtime.store, id)).host
            await act(cloud.admin, id, "os-migrate_volume", {"host": None})
            await cloud.settle()
        finally:
            MIGRATE.steps = honest
        record = await RECORDS.get(cloud.runtime.store, id)
        assert record.host != before and record.status == "available"
        assert await at_host(cloud, id) == []

    stage.run(play())

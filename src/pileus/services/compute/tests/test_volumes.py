"""Volumes that a server gets and loses while it lives; what its host and block storage have says whether it is true."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from pileus.services.block_storage.agent import VolumeAgent
from pileus.services.compute.driver import GuestSpec
from pileus.services.compute.servers.volume_sagas import ATTACH, DETACH, SWAP
from pileus.services.compute.tests.scene import SERVERS, Scene, Stage
from pileus.services.network.contract import GUEST_METADATA
from pileus.testing.client import Reply
from pileus.testing.generated.sagas import FAILS, Sabotage, sabotaged

VOLUMES = "/volume/v3/volumes"
NEWEST = "2.90"


async def volume(s: Scene, size: int = 1, **more: Any) -> str:
    """The id of a volume that may be attached."""
    made = await s.member.post(VOLUMES, {"volume": {"size": size, **more}})
    assert made.status == 202, made
    await s.cloud.settle()
    return str(made.json["volume"]["id"])


async def attach(
    s: Scene, server: str, volume_id: str, version: str = NEWEST, **more: Any
) -> Reply:
    body = {"volumeAttachment": {"volumeId": volume_id, **more}}
    url = f"{SERVERS}/{server}/os-volume_attachments"
    return await s.member.post(url, body, openstack_api_version=f"compute {version}")


async def attached(s: Scene, server: str, volume_id: str, **more: Any) -> None:
    reply = await attach(s, server, volume_id, **more)
    assert reply.status == 200, reply
    await s.cloud.settle()


async def detach(s: Scene, server: str, volume_id: str, version: str = NEWEST) -> Reply:
    url = f"{SERVERS}/{server}/os-volume_attachments/{volume_id}"
    reply = await s.member.delete(url, openstack_api_version=f"compute {version}")
    await s.cloud.settle()
    return reply


async def listed(s: Scene, server: str, version: str = NEWEST, query: str = "") -> Any:
    reply = await s.get(f"/servers/{server}/os-volume_attachments{query}", version)
    assert reply.status == 200, reply
    return reply.json["volumeAttachments"]


async def plugged(s: Scene, server: str) -> dict[str, tuple[str, ...]]:
    """What guests of that name have, by host."""
    found = {}
    for name, agent in s.agents().items():
        for guest in await agent.driver.guests():
            if guest.id == server:
                found[name] = guest.volumes
    return found


async def status(s: Scene, volume_id: str) -> str:
    shown = (await s.member.get(f"{VOLUMES}/{volume_id}")).json["volume"]
    return str(shown["status"])


async def exports(s: Scene, volume_id: str) -> int:
    """To how many attachments any host serves the volume."""
    assert s.cloud.hosts is not None
    found = 0
    for _, agent in s.cloud.hosts._agents:
        if isinstance(agent, VolumeAgent):
            found += sum(len(v.exports) for v in await agent.volumes() if v.id == volume_id)
    return found


async def actions(s: Scene, server: str) -> list[tuple[str, str, str]]:
    """(action, message, result of its event), the newest first."""
    found, url = [], f"/servers/{server}/os-instance-actions"
    for row in (await s.get(url, NEWEST)).json["instanceActions"]:
        shown = await s.get(f"{url}/{row['request_id']}", NEWEST, s.admin)
        one = shown.json["instanceAction"]
        event = one["events"][0] if one["events"] else {"event": "", "result": ""}
        found.append((row["action"], event["event"], event["result"]))
    return found


async def extend(s: Scene, volume_id: str, size: int) -> None:
    """And its guest has been told."""
    url, body = f"{VOLUMES}/{volume_id}/action", {"os-extend": {"new_size": size}}
    reply = await s.member.post(url, body, openstack_api_version="volume 3.42")
    assert reply.status == 202, reply
    await s.cloud.settle()


async def told_sizes(s: Scene, server: str) -> set[int]:
    """The sizes in GiB of the guest's volumes, once they are not what they were at first."""
    for _ in range(100):
        guests = [g for d in s.drivers() for g in d._guests.values() if g.spec.id == server]
        sizes = {v.size >> 30 for guest in guests for v in guest.spec.volumes}
        if sizes != {1}:
            break
        await asyncio.sleep(0.02)
    await s.cloud.settle()
    return sizes


async def migrated(s: Scene, id: str, *verbs: Any, client: Any = None) -> None:
    for verb in verbs:
        reply = await s.act(id, verb, client or s.admin)
        assert reply.status < 300, reply


LIVE = {"os-migrateLive": {"host": None, "block_migration": False, "disk_over_commit": False}}


async def lost(s: Scene, host: str, *, down: bool) -> None:
    url = "/compute/v2.1/os-services/force-down"
    body = {"host": host, "binary": "nova-compute", "forced_down": down}
    reply = await s.admin.put(url, body, openstack_api_version="compute 2.11")
    assert reply.status == 200, reply


async def nothing_left(s: Scene, server: str, volume_id: str) -> None:
    assert await status(s, volume_id) == "available"
    assert await exports(s, volume_id) == 0
    assert await listed(s, server) == []
    assert all(volume_id not in some for some in (await plugged(s, server)).values())
    known = await s.member.get("/volume/v3/attachments", openstack_api_version="volume 3.71")
    assert [a for a in known.json["attachments"] if a["volume_id"] == volume_id] == []


def test_a_volume_is_attached_shown_at_every_version_and_detached(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id, disk = await s.boot(), await volume(s)
        reply = await attach(s, id, disk, tag="data", delete_on_termination=True)
        assert reply.status == 200, reply
        made = {"id": disk, "volumeId": disk, "serverId": id, "device": "/dev/vdb", "tag": "data"}
        assert reply.json == {"volumeAttachment": {**made, "delete_on_termination": True}}
        await s.cloud.settle()
        assert list((await plugged(s, id)).values()) == [(disk,)]
        assert await status(s, disk) == "in-use" and await exports(s, disk) == 1

        (port,) = await s.ports(id)
        metadata = s.cloud.runtime.contracts.get(GUEST_METADATA)
        told = await metadata.answer(port["id"], "GET", "/openstack/latest/meta_data.json")
        (device,) = msgspec.json.decode(told.body)["devices"]
        assert (device["serial"], device["path"], device["tags"]) == (disk, "/dev/vdb", ["data"])

        (one,) = await listed(s, id)
        assert one.pop("attachment_id") and one.pop("bdm_uuid") and "id" not in one
        assert one == {k: v for k, v in made.items() if k != "id"} | {"delete_on_termination": True}
        (one,) = await listed(s, id, "2.79")
        assert one == made | {"delete_on_termination": True}
        assert await listed(s, id, "2.70") == [made]
        bare = {k: v for k, v in made.items() if k != "tag"}
        assert await listed(s, id, "2.1") == [bare]
        shown = await s.get(f"/servers/{id}/os-volume_attachments/{disk}", "2.1")
        assert shown.json == {"volumeAttachment": bare}

        assert (await detach(s, id, disk)).status == 202
        await nothing_left(s, id, disk)
        assert (await detach(s, id, disk)).status == 404
        assert [a[:2] for a in await actions(s, id)][:2] == [
            ("detach_volume", "compute_detach_volume"),
            ("attach_volume", "compute_attach_volume"),
        ]
        assert (await attach(s, id, disk, "2.1")).json["volumeAttachment"] == bare

    stage.play(story)


def test_an_attachment_is_listed_at_once_and_its_volume_is_detaching_until_it_is_gone(
    stage: Stage,
) -> None:
    async def story(s: Scene) -> None:
        id, disk = await s.boot(), await volume(s)
        try:
            for driver in s.drivers():
                driver.trouble.latency_s = 0.2
            assert (await attach(s, id, disk)).status == 200
            assert [one["volumeId"] for one in await listed(s, id)] == [disk]
            shown = await s.server(id, "2.3")
            assert shown["os-extended-volumes:volumes_attached"][0]["id"] == disk
            assert await status(s, disk) in ("reserved", "attaching")
            await s.cloud.settle()
            assert await status(s, disk) == "in-use"
            url = f"{SERVERS}/{id}/os-volume_attachments/{disk}"
            assert (await s.member.delete(url)).status == 202
            shown = (await s.member.get(f"{VOLUMES}/{disk}")).json["volume"]
            assert (shown["status"], len(shown["attachments"])) == ("detaching", 1)
            assert [one["volumeId"] for one in await listed(s, id)] == [disk]
        finally:
            for driver in s.drivers():
                driver.trouble.latency_s = 0
        await s.cloud.settle()
        await nothing_left(s, id, disk)

    stage.play(story)


def test_an_attachment_since_2_101_is_answered_without_a_body(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        reply = await attach(s, await s.boot(), await volume(s), "2.101")
        assert (reply.status, reply.body) == (202, b"")

    stage.play(story)


def test_many_volumes_attached_and_detached_at_once_wait_for_each_other(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id, disks = await s.boot(), [await volume(s) for _ in range(10)]
        replies = await asyncio.gather(*(attach(s, id, disk) for disk in disks))
        assert [r.status for r in replies] == [200] * len(disks)
        names = {r.json["volumeAttachment"]["device"] for r in replies}
        assert len(names) == len(disks)
        await s.cloud.settle()
        assert {d["volumeId"] for d in await listed(s, id)} == set(disks)
        (guest,) = (await plugged(s, id)).values()
        assert set(guest) == set(disks)
        assert len(await listed(s, id, query="?limit=5&offset=8")) == 2
        gone = await asyncio.gather(*(detach(s, id, disk) for disk in disks))
        assert [r.status for r in gone] == [202] * len(disks)
        for disk in disks:
            await nothing_left(s, id, disk)

    stage.play(story)


def test_what_is_done_right_after_an_attach_waits_for_it(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id, disk = await s.boot(), await volume(s)
        assert (await attach(s, id, disk)).status == 200
        assert (await s.act(id, "os-stop")).status == 202
        assert (await s.server(id))["status"] == "SHUTOFF" and await status(s, disk) == "in-use"
        more = await volume(s)
        assert (await attach(s, id, more)).status == 200
        assert (await s.delete(id)).status == 204

    stage.play(story)


def test_what_cannot_be_attached_says_why(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id, other, disk = await s.boot(), await s.boot(), await volume(s)
        nowhere = "11111111-2222-4333-8444-555555555555"

        def says(reply: Reply, code: int, text: str) -> None:
            assert reply.status == code and text in str(reply), reply

        says(await attach(s, id, nowhere), 404, f"Volume {nowhere} could not be found.")
        says(await attach(s, id, "x"), 400, "is not a")
        says(await attach(s, id, disk, device="vdb"), 400, "does not match")
        says(await attach(s, id, disk, "2.48", tag="x"), 400, "tag")
        says(await attach(s, id, disk, device="/dev/vda"), 409, "(/dev/vda) is in use")
        await attached(s, id, disk, device="/dev/vdx")
        says(await attach(s, other, disk), 400, f"is already attached to instances: {id}")
        says(
            await detach(s, other, disk), 404, f"Instance {other} is not attached to volume {disk}"
        )
        await s.act(other, "suspend")
        says(await attach(s, other, await volume(s)), 409, "vm_state suspended")
        await s.member.post(f"{SERVERS}/{id}/action", {"lock": None})
        says(await detach(s, id, disk), 409, "is locked")
        theirs = await s.other()
        url = f"{SERVERS}/{id}/os-volume_attachments"
        assert (await theirs.get(url)).status == 404
        strange = (await theirs.post(VOLUMES, {"volume": {"size": 1}})).json["volume"]["id"]
        await s.cloud.settle()
        says(await attach(s, await s.boot(), strange), 404, f"Volume {strange} could not be found.")

    stage.play(story)


def test_no_server_has_more_than_26_disks(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id, spare = await s.boot(), await volume(s)
        many = [await volume(s) for _ in range(9)]
        for disk in many:
            await attached(s, id, disk)
        from pileus.services.compute.server import SERVERS as RECORDS

        async with s.cloud.runtime.store.tx() as tx:  # as if it had them all
            server = await RECORDS.get(tx, id)
            await RECORDS.change(tx, server, volumes=[*server.volumes * 2, *server.volumes[:7]])
        reply = await attach(s, id, spare)
        assert reply.status == 403 and "number of disk devices (26)" in str(reply), reply
        async with s.cloud.runtime.store.tx() as tx:
            await RECORDS.change(tx, await RECORDS.get(tx, id), volumes=server.volumes)

    stage.play(story)


def test_an_attachments_end_can_be_changed_and_nothing_else(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id, disk, other = await s.boot(), await volume(s), await volume(s)
        await attached(s, id, disk)
        url = f"{SERVERS}/{id}/os-volume_attachments/{disk}"

        async def put(version: str = "2.85", client: Any = None, **asked: Any) -> Reply:
            body = {"volumeAttachment": {"volumeId": disk, **asked}}
            return await (client or s.member).put(
                url, body, openstack_api_version=f"compute {version}"
            )

        assert (await put(id=disk, serverId=id, device="/dev/vdb", tag=None)).status == 202
        assert (await put(tag="x")).status == 400
        assert (await put(device="/dev/vdz")).status == 400
        assert (await put(serverId=other)).status == 400
        changed = await put(delete_on_termination=True)
        assert changed.status == 202 and (await listed(s, id))[0]["delete_on_termination"]
        assert (await put("2.84")).status == 403
        assert (await put(volumeId=other)).status == 403
        for version in ("2.84", "2.85"):
            swapped = await put(version, s.admin, volumeId=other)
            assert swapped.status == 409 and "is not migrating" in str(swapped), swapped

    stage.play(story)


async def _moves(s: Scene, volume_id: str) -> None:
    """Block storage says that it moves the volume."""
    said = {"os-reset_status": {"migration_status": "migrating"}}
    assert (await s.admin.post(f"{VOLUMES}/{volume_id}/action", said)).status == 202


async def _swap(s: Scene, server: str, old: str, new: str) -> Reply:
    url = f"{SERVERS}/{server}/os-volume_attachments/{old}"
    reply = await s.admin.put(url, {"volumeAttachment": {"volumeId": new}})
    await s.cloud.settle()
    return reply


def test_a_volume_that_block_storage_moves_is_swapped_for_another(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id, old, new = await s.boot(), await volume(s), await volume(s, 2)
        await attached(s, id, old, tag="data", delete_on_termination=True)
        (before,) = await listed(s, id)
        await _moves(s, old)
        reply = await _swap(s, id, old, new)
        assert reply.status == 202, reply
        (after,) = await listed(s, id)
        assert after["volumeId"] == new
        same = ("device", "tag", "delete_on_termination", "serverId")
        assert {k: after[k] for k in same} == {k: before[k] for k in same}
        assert list((await plugged(s, id)).values()) == [(new,)]
        assert [await status(s, v) for v in (old, new)] == ["available", "in-use"]
        assert [await exports(s, v) for v in (old, new)] == [0, 1]
        assert (await actions(s, id))[0] == ("swap_volume", "compute_swap_volume", "Success")
        await attached(s, id, old)  # whose name the other has
        (guest,) = await specs(s, id)
        assert {v.volume_id: v.device for v in guest.volumes} == {new: old, old: new}
        assert (await detach(s, id, new)).status == 202
        await s.act(id, {"reboot": {"type": "HARD"}})
        assert list((await plugged(s, id)).values()) == [(old,)]

    stage.play(story)


def test_what_cannot_be_swapped_says_why_and_stays(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id, other, old = await s.boot(), await s.boot(), await volume(s, 2)
        small, used, nowhere = await volume(s), await volume(s, 2), f"{s.network[:-4]}ffff"
        await attached(s, id, old)
        await attached(s, other, used)
        await _moves(s, old)
        for new, server, code, text in (
            (nowhere, id, 400, "could not be found"),
            (used, id, 400, "must be detached"),
            (small, id, 400, "same size or larger"),
            (used, other, 400, "attached to a different instance"),
        ):
            reply = await _swap(s, server, old, new)
            assert reply.status == code and text in str(reply), reply
        await s.act(id, "os-stop")
        assert (await _swap(s, id, old, await volume(s, 2))).status == 409
        assert await status(s, old) == "in-use" and [
            v["volumeId"] for v in await listed(s, id)
        ] == [old]

    stage.play(story)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", ["promise", "swap"])
def test_a_swap_that_fails_leaves_the_volume_and_the_other_to_others(
    stage: Stage, step: str, after: bool
) -> None:
    async def story(s: Scene) -> None:
        id, old, new = await s.boot(), await volume(s), await volume(s)
        await attached(s, id, old)
        await _moves(s, old)
        at = [one.name for one in SWAP.steps].index(step)
        with sabotaged(Sabotage(SWAP, FAILS, at=at, after=after)):
            assert (await _swap(s, id, old, new)).status == 202
        assert [v["volumeId"] for v in await listed(s, id)] == [old]
        assert list((await plugged(s, id)).values()) == [(old,)]
        assert [await status(s, v) for v in (old, new)] == ["in-use", "available"]
        assert [await exports(s, v) for v in (old, new)] == [1, 0]
        assert (await actions(s, id))[0] == ("swap_volume", "compute_swap_volume", "Error")

    stage.play(story)


def test_a_shelved_server_gets_and_loses_volumes_without_a_host(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id, kept, late = await s.boot(), await volume(s), await volume(s)
        await attached(s, id, kept)
        assert (await s.act(id, "shelve")).status == 202
        assert (await s.server(id))["status"] == "SHELVED_OFFLOADED"
        assert await status(s, kept) == "reserved" and await exports(s, kept) == 0
        assert (await attach(s, id, late, "2.19")).status == 409
        assert (await attach(s, id, late, tag="x")).status == 400
        await attached(s, id, late)
        assert await status(s, late) == "in-use" and await exports(s, late) == 0
        assert (await detach(s, id, late)).status == 202 and await status(s, late) == "available"
        await attached(s, id, late)
        await s.act(id, "unshelve")
        assert (await s.server(id))["status"] == "ACTIVE"
        assert list((await plugged(s, id)).values()) == [(kept, late)]
        assert [await status(s, v) for v in (kept, late)] == ["in-use", "in-use"]

    stage.play(story)


def test_a_suspended_guest_goes_on_with_what_its_volume_has_grown_to(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id, disk = await s.boot(), await volume(s)
        await attached(s, id, disk)
        await s.act(id, "suspend")
        await extend(s, disk, 2)
        assert await told_sizes(s, id) == {2}
        await s.act(id, "resume")
        assert (await s.server(id))["status"] == "ACTIVE"

    stage.play(story)


@pytest.mark.parametrize("step", ["make_sure", "plug"])
def test_an_attach_that_fails_leaves_no_attachment(stage: Stage, step: str) -> None:
    async def story(s: Scene) -> None:
        id, disk = await s.boot(), await volume(s)
        at = [one.name for one in ATTACH.steps].index(step)
        with sabotaged(Sabotage(ATTACH, FAILS, at=at)):
            await attach(s, id, disk)
            await s.cloud.settle()
        await nothing_left(s, id, disk)
        assert (await actions(s, id))[0] == ("attach_volume", "compute_attach_volume", "Error")
        await attached(s, id, disk)

    stage.play(story)


def test_a_guest_that_does_not_let_go_keeps_its_volume(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id, disk = await s.boot(), await volume(s)
        await attached(s, id, disk)
        with sabotaged(Sabotage(DETACH, FAILS, at=0, after=True)):
            assert (await detach(s, id, disk)).status == 202
        assert await status(s, disk) == "in-use"
        assert list((await plugged(s, id)).values()) == [(disk,)]
        assert (await actions(s, id))[0] == ("detach_volume", "compute_detach_volume", "Error")
        assert (await detach(s, id, disk)).status == 202
        await nothing_left(s, id, disk)

    stage.play(story)


def test_a_volume_that_grows_is_larger_for_its_guest_and_its_action_says_so(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id, disk = await s.boot(), await volume(s)
        await attached(s, id, disk)
        await extend(s, disk, 3)
        assert await told_sizes(s, id) == {3}
        assert (await actions(s, id))[0] == ("extend_volume", "compute_extend_volume", "Success")
        assert await status(s, disk) == "in-use"

    stage.play(story)


def test_a_volume_that_moves_is_another_for_its_guest_and_its_action_says_so(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id, disk = await s.boot(), await volume(s)
        await attached(s, id, disk)
        url = f"{VOLUMES}/{disk}/action"
        assert (await s.admin.post(url, {"os-migrate_volume": {"host": None}})).status == 202
        for _ in range(100):  # the guest is told after the volume's own saga
            if (await actions(s, id))[0][0] == "swap_volume":
                break
            await asyncio.sleep(0.02)
        await s.cloud.settle()
        assert (await actions(s, id))[0] == ("swap_volume", "compute_swap_volume", "Success")
        assert await status(s, disk) == "in-use"
        assert list((await plugged(s, id)).values()) == [(disk,)]

    stage.play(story)


def test_ossa_2023_003_a_volume_of_a_server_is_detached_with_compute_only(stage: Stage) -> None:
    """`os-detach` and friends would leave the guest with what is another's by then."""

    async def story(s: Scene) -> None:
        id, disk = await s.boot(), await volume(s)
        await attached(s, id, disk)
        for verb, client in (("os-detach", s.member), ("os-force_detach", s.admin)):
            reply = await client.post(f"{VOLUMES}/{disk}/action", {verb: {}})
            assert reply.status == 409, (verb, reply)
        ended: Any = {"os-terminate_connection": {"connector": {}}}
        await s.member.post(f"{VOLUMES}/{disk}/action", ended)
        assert (await s.member.delete(f"{VOLUMES}/{disk}")).status == 400
        assert await status(s, disk) == "in-use" and await exports(s, disk) == 1

    stage.play(story)


async def specs(s: Scene, server: str) -> list[GuestSpec]:
    """What hosts were told of the server's guest."""
    return [g.spec for d in s.drivers() for g in d._guests.values() if g.spec.id == server]


def test_ossa_2018_001_an_encrypted_volume_is_never_plugged_without_its_key(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        kind = await s.admin.post(
            "/volume/v3/types", {"volume_type": {"name": f"luks-{s.network}"}}
        )
        type_id = kind.json["volume_type"]["id"]
        luks = {"provider": "luks", "cipher": "aes-xts-plain64", "key_size": 256}
        body = {"encryption": {**luks, "control_location": "front-end"}}
        made = await s.admin.post(f"/volume/v3/types/{type_id}/encryption", body)
        assert made.status == 200, made
        id, disk = await s.boot(), await volume(s, volume_type=type_id)
        for _ in range(2):
            await attached(s, id, disk)
            (guest,) = await specs(s, id)
            assert [bool(v.passphrase) for v in guest.volumes] == [True]
            await s.act(id, {"reboot": {"type": "HARD"}})
            (guest,) = await specs(s, id)
            assert [bool(v.passphrase) for v in guest.volumes] == [True]
            assert (await detach(s, id, disk)).status == 202

    stage.play(story)


def test_ossa_2020_006_a_guest_that_came_from_another_host_has_its_own_volumes_there(
    stage: Stage,
) -> None:
    async def story(s: Scene) -> None:
        id, disk = await s.boot(), await volume(s)
        await attached(s, id, disk)
        await migrated(s, id, LIVE, {"reboot": {"type": "SOFT"}}, {"reboot": {"type": "HARD"}})
        (guest,), (one,) = await specs(s, id), await listed(s, id)
        assert [v.volume_id for v in guest.volumes] == [disk]
        host = (await s.server(id, client=s.admin))["OS-EXT-SRV-ATTR:host"]
        (served,) = guest.volumes
        assert served.user in ("", one["attachment_id"]), "by the key of no other host"
        assert list(await plugged(s, id)) == [host]

    stage.play(story)


def test_ossa_2016_002_the_key_of_a_volume_is_in_no_log_and_in_no_fault(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(s: Scene) -> None:
        id, disks = await s.boot(), [await volume(s) for _ in range(4)]  # some on another host
        for disk in disks:
            with sabotaged(Sabotage(ATTACH, FAILS, at=1, after=True)):
                await attach(s, id, disk)
                await s.cloud.settle()
        for row in (await s.get(f"/servers/{id}/os-instance-actions", NEWEST)).json[
            "instanceActions"
        ]:
            url = f"/servers/{id}/os-instance-actions/{row['request_id']}"
            assert "key of" not in str(await s.get(url, NEWEST, s.admin))

    caplog.set_level("DEBUG")
    stage.play(story)
    assert "attach_volume" in caplog.text and "key of" not in caplog.text


def test_a_host_that_is_down_detaches_nothing(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id, disk = await s.boot(), await volume(s)
        await attached(s, id, disk)
        (host,) = await plugged(s, id)
        await lost(s, host, down=True)
        try:
            reply = await detach(s, id, disk)
            assert reply.status == 409 and "does not answer" in str(reply), reply
        finally:
            await lost(s, host, down=False)
        assert await status(s, disk) == "in-use"

    stage.play(story)

"""Servers that start from volumes, and that are made with some."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pileus.services.compute.block_device import BlockDevice, free_name
from pileus.services.compute.server import SERVERS as TABLE
from pileus.services.compute.tests.scene import SERVERS, Scene, Stage, make_image

VOLUMES = "/volume/v3/volumes"


async def _volume(s: Scene, **more: Any) -> str:
    made = await s.member.post(VOLUMES, {"volume": {"size": 1} | more})
    assert made.status == 202, made
    await s.cloud.settle()
    return str(made.json["volume"]["id"])


async def _shown(s: Scene, id: str) -> Any:
    """The volume, or its status where there is none."""
    reply = await s.member.get(f"{VOLUMES}/{id}")
    return reply.json["volume"] if reply.status == 200 else reply.status


async def _volumes(s: Scene) -> dict[str, Any]:
    found = (await s.member.get(f"{VOLUMES}/detail")).json["volumes"]
    return {volume["id"]: volume for volume in found}


async def _snapshot(s: Scene, volume_id: str) -> str:
    body = {"snapshot": {"volume_id": volume_id, "force": True}}
    made = await s.member.post("/volume/v3/snapshots", body)
    assert made.status == 202, made
    await s.cloud.settle()
    return str(made.json["snapshot"]["id"])


def disk(source: str = "volume", uuid: str = "", boot: int | str | None = 0, **more: Any) -> Any:
    found = {"source_type": source, "destination_type": "volume", "boot_index": boot}
    return found | ({"uuid": uuid} if uuid else {}) | more


def test_a_server_starts_from_a_volume_that_is_there_and_leaves_it(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        volume = await _volume(s, imageRef=s.image)
        id = await s.boot(imageRef="", block_device_mapping_v2=[disk(uuid=volume)])
        shown = await s.server(id, "2.3", s.admin)
        assert "fault" not in shown, shown["fault"]
        assert (shown["status"], shown["image"]) == ("ACTIVE", "")
        assert shown["os-extended-volumes:volumes_attached"] == [
            {"id": volume, "delete_on_termination": False}
        ]
        assert shown["OS-EXT-SRV-ATTR:root_device_name"] == "/dev/vda"
        listed = (await s.get("/servers/detail")).json["servers"]
        assert listed[0]["os-extended-volumes:volumes_attached"] == [{"id": volume}]
        (attached,) = (await _shown(s, volume))["attachments"]
        assert (attached["server_id"], attached["device"]) == (id, "/dev/vda")
        assert (await _shown(s, volume))["status"] == "in-use"
        (guest,) = [g for d in s.drivers() for g in await d.guests() if g.id == id]
        assert guest.volumes == (volume,)
        held = [a["resources"] for a in (await s.held(id)).values()]
        assert "DISK_GB" not in held[0], "a root disk in a volume is no host's"
        await s.delete(id)
        assert (await _shown(s, volume))["status"] == "available"

    stage.play(story)


@pytest.mark.parametrize("stays", [True, False])
def test_volumes_are_made_of_an_image_a_snapshot_and_nothing(stage: Stage, stays: bool) -> None:
    async def story(s: Scene) -> None:
        of = await _volume(s, imageRef=s.image)
        snapshot = await _snapshot(s, of)
        gone: dict[str, Any] = {"delete_on_termination": not stays}
        disks = [
            disk("image", s.image, volume_size=2, **gone),
            disk("snapshot", snapshot, boot=-1, **gone),
            disk("blank", boot=None, volume_size=3, **gone),
        ]
        id = await s.boot(imageRef="", block_device_mapping_v2=disks)
        assert (await s.server(id))["status"] == "ACTIVE"
        found = await _volumes(s)
        del found[of]
        assert sorted(v["size"] for v in found.values()) == [1, 2, 3]
        assert {v["status"] for v in found.values()} == {"in-use"}
        devices = {v["size"]: v["attachments"][0]["device"] for v in found.values()}
        assert devices == {2: "/dev/vda", 1: "/dev/vdb", 3: "/dev/vdc"}
        names = {v["size"]: v["name"] for v in found.values()}
        assert names == {1: "", 2: "", 3: f"{id}-blank-vol"}
        await s.delete(id)
        left = {v["status"] for v in (await _volumes(s)).values()}
        assert len(await _volumes(s)) == (4 if stays else 1)
        assert left == {"available"}

    stage.play(story)


def test_a_local_server_has_volumes_besides(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        volume = await _volume(s)
        own = disk("image", s.image, destination_type="local")
        disks = [own, disk(uuid=volume, boot=None, device_name="vdf", tag="data")]
        id = await s.boot("2.42", block_device_mapping_v2=disks, networks="none")
        shown = await s.server(id, "2.3")
        assert shown["image"]["id"] == s.image
        assert [v["id"] for v in shown["os-extended-volumes:volumes_attached"]] == [volume]
        record = await TABLE.get(s.cloud.runtime.store, id)
        assert [(d.device_name, d.tag) for d in record.volumes] == [("/dev/vdf", "data")]
        assert not record.is_on_volume
        await s.delete(id)

    stage.play(story)


def test_the_old_form_names_its_root(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        volume = await _volume(s, imageRef=s.image)
        old = {"volume_id": volume, "device_name": "vda", "delete_on_termination": "1"}
        id = await s.boot(imageRef="", block_device_mapping=[old])
        assert (await s.server(id))["image"] == ""
        await s.delete(id)
        assert await _shown(s, volume) == 404
        data = await _volume(s)
        beside = {"volume_id": data, "device_name": "/dev/vdb"}
        id = await s.boot(block_device_mapping=[beside])
        assert (await s.server(id))["image"]["id"] == s.image
        assert (await _shown(s, data))["status"] == "in-use"
        await s.delete(id)

    stage.play(story)


_IMAGE = {"source_type": "image", "destination_type": "volume", "boot_index": 0}
_BLANK = {"source_type": "blank", "destination_type": "volume"}
_SAYS = "Block Device Mapping is Invalid: "


@pytest.mark.parametrize(
    ("disks", "words"),
    [
        ([_BLANK | {"uuid": "VOLUME"}], _SAYS + "Invalid device UUID."),
        ([disk()], _SAYS + "Missing device UUID."),
        ([{"boot_index": 0, "uuid": "VOLUME"}], _SAYS + "Some required fields are missing"),
        ([disk("tape", "VOLUME")], "is not one of"),
        ([disk("image", "IMAGE", destination_type="local")], "Mapping image to local is not"),
        ([disk(uuid="VOLUME", boot=1)], _SAYS + "Boot sequence for the instance"),
        ([disk(uuid="VOLUME"), disk(uuid="OTHER")], _SAYS + "Boot sequence for the instance"),
        ([disk(uuid="VOLUME", boot=None)], _SAYS + "Boot sequence for the instance"),
        ([disk(uuid="VOLUME"), disk(uuid="VOLUME", boot=1)], "is asked for 2 times"),
        ([disk(uuid="DATA")], "Block Device DATA is not bootable."),
        ([disk(uuid="NONE")], _SAYS + "failed to get volume NONE."),
        ([disk(uuid="VOLUME"), disk(uuid="NONE", boot=1)], "Volume NONE could not be found."),
        ([disk("snapshot", "NONE")], _SAYS + "failed to get snapshot NONE."),
        ([disk("image", "NONE", volume_size=1)], _SAYS + "failed to get image NONE."),
        ([disk("image", "IMAGE")], "Images with destination_type 'volume' need to have a non-"),
        ([disk(uuid="VOLUME"), _BLANK], "Blank volumes (source: 'blank', dest: 'volume') need"),
        ([disk("image", "IMAGE", volume_size=0)], "field/attribute volume_size"),
        ([disk("image", "IMAGE", boot="x", volume_size=1)], "field/attribute boot_index"),
        ([disk(uuid="VOLUME", device_name="a b")], _SAYS + "Device name"),
        ([disk(uuid="VOLUME", disk_bus="warp")], "The provided disk bus warp is not valid."),
        ([disk(uuid="VOLUME", volume_type="x")], "Specifying volume type to existing volume"),
        ([disk("image", "IMAGE", volume_size=1, volume_type="x")], "Volume type x could not be"),
        ([disk(uuid="VOLUME", destination_type="local")], "Mapping volume to local is not"),
        (
            [disk(uuid="VOLUME"), disk("blank", boot=-1, destination_type="local", volume_size=1)],
            "Ephemeral disks requested are larger than the instance type allows.",
        ),
        (
            [
                disk(uuid="VOLUME"),
                disk(
                    "blank",
                    boot=-1,
                    destination_type="local",
                    guest_format="swap",
                    volume_size=9,
                ),
            ],
            "Swap drive requested is larger than instance type allows.",
        ),
    ],
)
def test_what_cannot_be_mapped_is_said(stage: Stage, disks: list[Any], words: str) -> None:
    async def story(s: Scene) -> None:
        known = {
            "VOLUME": await _volume(s, imageRef=s.image),
            "OTHER": await _volume(s, imageRef=s.image),
            "DATA": await _volume(s),
            "IMAGE": s.image,
            "NONE": "00000000-0000-4000-8000-000000000000",
        }
        said = [{k: known.get(v, v) if k == "uuid" else v for k, v in d.items()} for d in disks]
        reply = await s.create("2.67", imageRef="", networks="none", block_device_mapping_v2=said)
        expected = words
        for name, id in known.items():
            expected = expected.replace(name, id)
        assert reply.status == 400 and expected in reply.json["badRequest"]["message"], reply

    stage.play(story)


def test_a_volume_serves_one_server_and_no_several(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        volume = await _volume(s, imageRef=s.image)
        mine: dict[str, Any] = {"imageRef": "", "block_device_mapping_v2": [disk(uuid=volume)]}
        reply = await s.create(**mine, max_count=2)
        assert reply.status == 400 and "to multiple instances" in str(reply.json)
        reply = await s.create(**mine, block_device_mapping=[{"volume_id": volume}])
        assert reply.status == 400 and "different block_device_mapping syntaxes" in str(reply.json)
        reply = await s.create(imageRef="")
        assert reply.status == 400 and "Missing imageRef attribute" in str(reply.json)
        await s.boot(**mine)
        reply = await s.create(**mine)
        assert reply.status == 400
        assert "status must be available" in reply.json["badRequest"]["message"]

    stage.play(story)


def test_over_quota_of_volumes_is_said_before_anything_is_made(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        disks = [disk("image", s.image, volume_size=600)]
        reply = await s.create(imageRef="", block_device_mapping_v2=disks, max_count=2, min_count=2)
        assert reply.status == 403 and "gigabytes" in reply.json["forbidden"]["message"]
        assert await s.used() == {"Instances": 0, "Cores": 0, "RAM": 0}
        assert await _volumes(s) == {}

    stage.play(story)


def test_a_flavor_without_a_disk_needs_a_volume(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        flavor = {"name": "diskless", "ram": 64, "vcpus": 1, "disk": 0, "id": "diskless"}
        await s.admin.post("/compute/v2.1/flavors", {"flavor": flavor})
        assert (await s.create(flavorRef="diskless")).status == 403
        disks = [disk("image", s.image, volume_size=1, delete_on_termination=True)]
        id = await s.boot(flavorRef="diskless", imageRef="", block_device_mapping_v2=disks)
        assert (await s.server(id))["status"] == "ACTIVE"
        await s.delete(id)
        await s.admin.delete("/compute/v2.1/flavors/diskless")

    stage.play(story)


def test_a_smaller_ephemeral_disk_and_swap_than_the_flavor_has_can_be_asked_for(
    stage: Stage,
) -> None:
    async def story(s: Scene) -> None:
        flavor = {"name": "roomy", "ram": 64, "vcpus": 1, "disk": 1, "id": "roomy", "swap": 8}
        flavor["OS-FLV-EXT-DATA:ephemeral"] = 4
        await s.admin.post("/compute/v2.1/flavors", {"flavor": flavor})
        local: dict[str, Any] = {"destination_type": "local", "boot": -1}
        disks = [
            disk("image", s.image, destination_type="local"),
            disk("blank", **local, volume_size=2),
            disk("blank", **local, guest_format="swap", volume_size=3),
        ]
        id = await s.boot(flavorRef="roomy", block_device_mapping_v2=disks)
        record = await TABLE.get(s.cloud.runtime.store, id)
        assert (record.ephemeral_gib, record.swap_mib) == (2, 3)
        await s.delete(id)
        disks[2:] = [disk("blank", **local, volume_size=2)]
        reply = await s.create(flavorRef="roomy", block_device_mapping_v2=disks)
        assert reply.status == 400 and "ask for one of 4 GiB" in str(reply.json)

    stage.play(story)


def test_an_image_of_containers_has_no_volumes(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        image = await make_image(s.admin, container_format="docker")
        disks = [disk("image", image, volume_size=1)]
        reply = await s.create(imageRef="", block_device_mapping_v2=disks)
        assert reply.status == 400 and "containers, which have no volumes" in str(reply.json)

    stage.play(story)


def test_what_a_volume_cannot_be_made_of_is_the_servers_fault(stage: Stage) -> None:
    """And nothing is left of it: neither a volume nor room."""

    async def story(s: Scene) -> None:
        image = await make_image(s.admin, content=b"QFI\xfb" + b"\0" * 508, disk_format="qcow2")
        disks = [disk("image", image, volume_size=1, delete_on_termination=True)]
        reply = await s.create(imageRef="", block_device_mapping_v2=disks)
        if reply.status == 202:
            await s.cloud.settle()
            shown = await s.server(reply.json["server"]["id"])
            assert shown["status"] == "ERROR"
            assert "did not finish being created" in shown["fault"]["message"]
            assert shown["os-extended-volumes:volumes_attached"] == []
        else:
            assert reply.status == 400, reply
        assert await _volumes(s) == {}

    stage.play(story)


def test_a_server_that_found_no_host_leaves_volumes_as_they_were(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        volume = await _volume(s, imageRef=s.image)
        huge = {"name": "huge", "ram": 999_999, "vcpus": 1, "disk": 0, "id": "huge"}
        await s.admin.post("/compute/v2.1/flavors", {"flavor": huge})
        quota = {"quota_set": {"ram": -1}}
        await s.admin.put(f"/compute/v2.1/os-quota-sets/{s.member.project_id}", quota)
        disks = [disk(uuid=volume), disk("blank", boot=1, volume_size=1)]
        id = await s.boot(flavorRef="huge", imageRef="", block_device_mapping_v2=disks)
        assert (await s.server(id))["status"] == "ERROR"
        assert (await _shown(s, volume))["status"] == "available"
        assert list(await _volumes(s)) == [volume]
        assert (await s.delete(id)).status == 204
        await s.admin.delete("/compute/v2.1/flavors/huge")

    stage.play(story)


def test_a_server_whose_volume_is_gone_can_be_deleted(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        volume = await _volume(s, imageRef=s.image)
        going = disk(uuid=volume, delete_on_termination=True)
        id = await s.boot(imageRef="", block_device_mapping_v2=[going])
        for action in ("os-force_detach", "os-force_delete"):
            await s.admin.post(f"{VOLUMES}/{volume}/action", {action: {}})
        await s.cloud.settle()
        assert (await s.delete(id)).status == 204
        assert (await s.get(f"/servers/{id}")).status == 404

    stage.play(story)


def test_a_volume_with_a_snapshot_outlives_its_server(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        volume = await _volume(s, imageRef=s.image)
        going = disk(uuid=volume, delete_on_termination=True)
        id = await s.boot(imageRef="", block_device_mapping_v2=[going])
        await _snapshot(s, volume)
        await s.delete(id)
        assert (await s.get(f"/servers/{id}")).status == 404
        assert (await _shown(s, volume))["status"] == "available"

    stage.play(story)


def test_ossa_2013_001_nobody_boots_from_anothers_volume(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        volume = await _volume(s, imageRef=s.image)
        snapshot = await _snapshot(s, volume)
        thief = await s.other()
        network = [{"uuid": s.network}]
        for form, mapping in (
            ("block_device_mapping_v2", disk(uuid=volume)),
            ("block_device_mapping_v2", disk("snapshot", snapshot)),
            ("block_device_mapping", {"volume_id": volume, "device_name": "vda"}),
        ):
            more: dict[str, Any] = {form: [mapping], "imageRef": "", "networks": network}
            reply = await s.create(client=thief, **more)
            assert reply.status == 400 and "failed to get" in str(reply.json), reply
        shown = await _shown(s, volume)
        assert (shown["status"], shown["attachments"]) == ("available", [])
        assert (await thief.get(SERVERS)).json["servers"] == []

    stage.play(story)


def test_an_image_of_its_volumes_makes_another_server(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        root = await _volume(s, imageRef=s.image)
        disks = [disk(uuid=root), disk("blank", boot=None, volume_size=2)]
        id = await s.boot(imageRef="", block_device_mapping_v2=disks)
        reply = await s.act(id, {"createImage": {"name": "both", "metadata": {"a": "b"}}})
        assert reply.status == 202, reply
        image_id = reply.headers["location"].rsplit("/", 1)[-1]
        image = (await s.member.get(f"/image/v2/images/{image_id}")).json
        assert (image["status"], image["size"], image["min_disk"]) == ("active", 0, 0)
        assert (image["root_device_name"], image["bdm_v2"], image["a"]) == ("/dev/vda", "True", "b")
        snapshots = (await s.member.get("/volume/v3/snapshots")).json["snapshots"]
        assert {(v["size"], v["status"]) for v in snapshots} == {(1, "available"), (2, "available")}
        assert {v["name"] for v in snapshots} == {"snapshot for both"}
        copy = await s.boot(imageRef=image_id)
        shown = await s.server(copy, "2.3")
        assert (shown["status"], shown["image"]["id"]) == ("ACTIVE", image_id)
        assert len(shown["os-extended-volumes:volumes_attached"]) == 2
        assert (await s.member.delete(f"/image/v2/images/{image_id}")).status == 204
        assert len((await s.member.get("/volume/v3/snapshots")).json["snapshots"]) == 2
        backup = {"name": "b", "backup_type": "daily", "rotation": 1}
        reply = await s.act(id, {"createBackup": backup})
        assert reply.status == 400
        assert "Backup is not supported for volume-backed" in str(reply.json)

    stage.play(story)


def test_a_root_volume_is_kept_or_made_anew_by_a_rebuild(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        other = await make_image(s.admin, content=b"other")
        volume = await _volume(s, imageRef=s.image)
        id = await s.boot(imageRef="", block_device_mapping_v2=[disk(uuid=volume)])

        async def rebuild(image: str, version: str) -> Any:
            url, body = f"{SERVERS}/{id}/action", {"rebuild": {"imageRef": image}}
            reply = await s.member.post(url, body, openstack_api_version=f"compute {version}")
            await s.cloud.settle()
            return reply

        reply = await rebuild(other, "2.92")
        assert reply.status == 400
        assert "different image for a volume-backed server" in str(reply.json)
        assert (await rebuild(s.image, "2.92")).status == 202
        shown = await _shown(s, volume)
        assert shown["volume_image_metadata"]["image_id"] == s.image
        assert (await rebuild(other, "2.93")).status == 202
        server = await s.server(id)
        assert (server["status"], server["image"]) == ("ACTIVE", "")
        shown = await _shown(s, volume)
        assert shown["volume_image_metadata"]["image_id"] == other
        assert shown["status"] == "in-use"

    stage.play(story)


def test_a_root_volume_is_mended_from_a_disk_that_is_made_for_that(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        volume = await _volume(s, imageRef=s.image)
        id = await s.boot(imageRef="", block_device_mapping_v2=[disk(uuid=volume)])
        mends = await make_image(s.admin, hw_rescue_bus="virtio", hw_rescue_device="disk")

        async def rescue(version: str, **more: str) -> Any:
            url, version = f"{SERVERS}/{id}/action", f"compute {version}"
            reply = await s.member.post(url, {"rescue": more}, openstack_api_version=version)
            await s.cloud.settle()
            return reply

        for version, more in (("2.86", {"rescue_image_ref": mends}), ("2.87", {})):
            reply = await rescue(version, **more)
            assert reply.status == 400, reply
            assert "Cannot rescue a volume-backed instance" in str(reply.json)
        assert (await rescue("2.87", rescue_image_ref=mends)).status == 200
        assert (await s.server(id))["status"] == "RESCUE"
        assert (await s.act(id, "unrescue")).status == 202
        assert (await s.server(id))["status"] == "ACTIVE"

    stage.play(story)


def test_device_names_are_taken_once_and_end() -> None:
    taken: set[str] = set()
    for _ in range(26):
        taken.add(free_name(taken))
    assert "/dev/vdz" in taken and free_name(taken) == "/dev/vdaa"
    assert BlockDevice(volume_id="a", attachment_id="b", boot_index=0).is_root


def test_of_two_servers_that_want_one_volume_the_later_is_refused_at_once(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        volume, used = await _volume(s, imageRef=s.image), await s.used()
        wants: dict[str, Any] = {"imageRef": "", "block_device_mapping_v2": [disk(uuid=volume)]}
        replies = await asyncio.gather(*(s.create(**wants) for _ in range(3)))
        assert sorted(r.status for r in replies) == [202, 400, 400], replies
        (made,) = [r.json["server"]["id"] for r in replies if r.status == 202]
        await s.cloud.settle()
        assert (await s.server(made))["status"] == "ACTIVE"
        listed = (await s.get("/servers")).json["servers"]
        assert [one["id"] for one in listed] == [made]
        assert await s.used() == {"Instances": 1, "Cores": used["Cores"] + 1, "RAM": 128}
        assert [a["server_id"] for a in (await _shown(s, volume))["attachments"]] == [made]

    stage.play(story)

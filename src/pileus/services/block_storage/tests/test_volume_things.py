"""What stands around volumes: backups, transfers, groups, types, quotas, hosts and who may be told of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pileus.kernel.faults import NoCapacity, Unavailable
from pileus.services.block_storage.scheduling import Pool, Wanted, choose, why_not
from pileus.services.block_storage.tickets import READ, WRITE, path_of
from pileus.services.block_storage.volume import VOLUMES as RECORDS
from pileus.services.identity.contract import SECRETS
from pileus.services.image import tickets as of_images
from pileus.testing.client import Client, Reply

from .conftest import Stage
from .given import AT, BASE, act, made, shown, snapshot


async def asked(client: Client, method: str, path: str, body: Any = None) -> Reply:
    return await client.request(method, BASE + path, body, headers=AT)


def test_a_backup_outlives_its_volume_and_its_file_goes_with_it(stage: Stage) -> None:
    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        id = await made(cloud, member)
        body: Any = {"backup": {"volume_id": id}}
        backup = (await asked(member, "POST", "/backups", body)).json["backup"]["id"]
        await cloud.settle()
        found = (await asked(member, "GET", f"/backups/{backup}")).json["backup"]
        assert (found["status"], found["size"]) == ("available", 1)
        file = path_of(cloud.runtime, backup)
        assert file.exists()
        assert (await member.delete(f"{BASE}/volumes/{id}")).status == 202
        await cloud.settle()
        again = await asked(member, "POST", f"/backups/{backup}/restore", {"restore": {}})
        await cloud.settle()
        assert (await shown(member, again.json["restore"]["volume_id"]))["status"] == "available"
        body = {"backup": {"volume_id": again.json["restore"]["volume_id"], "incremental": True}}
        assert (await asked(member, "POST", "/backups", body)).status == 400
        assert (await asked(member, "DELETE", f"/backups/{backup}")).status == 202
        await cloud.settle()
        assert not file.exists()

    stage.run(play())


def test_a_ticket_that_was_tampered_with_or_is_for_something_else_is_not_there(
    stage: Stage,
) -> None:
    async def play() -> None:
        issue, client = stage.cloud.runtime.contracts.get(SECRETS).ticket, stage.cloud.client
        forged = ["x.99999999999.forged", "..%2Fadmin-password.99999999999.x"]
        late = [await issue(right, "x", -1) for right in (READ, WRITE)]
        other = [await issue(right, "x", 600) for right in (of_images.READ, of_images.WRITE)]
        for ticket in (*forged, *late, *other):
            url = f"/volume/tickets/{ticket}"
            assert (await client.get(url)).status == 404
            assert (await client.request("PUT", url, raw=b"x")).status == 404
        reads, writes = [await issue(right, "x", 600) for right in (READ, WRITE)]
        assert (await client.get(f"/volume/tickets/{writes}")).status == 404
        assert (await client.request("PUT", f"/volume/tickets/{reads}", raw=b"x")).status == 404

    stage.run(play())


def test_a_transfer_moves_the_volume_its_snapshots_and_their_quota_to_whom_has_the_key(
    stage: Stage,
) -> None:
    async def play() -> None:
        giver, taker, cloud = await stage.member(), await stage.member(), stage.cloud
        id = await made(cloud, giver, size=2)
        taken = await snapshot(cloud, giver, id)
        body = {"transfer": {"volume_id": id}}
        transfer = (await asked(giver, "POST", "/volume-transfers", body)).json["transfer"]
        assert (await shown(giver, id))["status"] == "awaiting-transfer"
        url = f"/volume-transfers/{transfer['id']}"
        assert (await asked(taker, "GET", url)).status == 404
        wrong = {"accept": {"auth_key": "guess"}}
        assert (await asked(taker, "POST", url + "/accept", wrong)).status == 400
        right = {"accept": {"auth_key": transfer["auth_key"]}}
        assert (await asked(taker, "POST", url + "/accept", right)).status == 202
        assert (await shown(taker, id))["status"] == "available"
        assert (await asked(taker, "GET", f"/snapshots/{taken}")).status == 200
        assert (await giver.get(f"{BASE}/volumes/{id}")).status == 404
        for who, used in ((giver, 0), (taker, 4)):
            limits = (await asked(who, "GET", "/limits")).json["limits"]["absolute"]
            assert limits["totalGigabytesUsed"] == used

    stage.run(play())


def test_a_group_is_copied_with_what_is_in_it_and_deleted_with_it_only_when_asked(
    stage: Stage,
) -> None:
    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        body: Any = {"group_type": {"name": "together"}}
        kind = (await asked(cloud.admin, "POST", "/group_types", body)).json["group_type"]["id"]
        types = (await asked(member, "GET", "/types")).json["volume_types"]
        default = next(t["id"] for t in types if t["name"] == "__DEFAULT__")
        body = {"group": {"group_type": kind, "volume_types": [default], "name": "g"}}
        group = (await asked(member, "POST", "/groups", body)).json["group"]["id"]
        id = await made(cloud, member, volume_type=default, group_id=group)
        assert (await member.delete(f"{BASE}/volumes/{id}")).status == 400
        body = {"group_snapshot": {"group_id": group}}
        kept = (await asked(member, "POST", "/group_snapshots", body)).json["group_snapshot"]["id"]
        await cloud.settle()
        body = {"create-from-src": {"group_snapshot_id": kept}}
        copy = (await asked(member, "POST", "/groups/action", body)).json["group"]["id"]
        await cloud.settle()
        found = await asked(member, "GET", f"/groups/{copy}?list_volume=true")
        (inside,) = found.json["group"]["volumes"]
        assert (await shown(member, inside))["status"] == "available"
        refused = await asked(member, "POST", f"/groups/{copy}/action", {"delete": {}})
        assert refused.status == 400
        body = {"delete": {"delete-volumes": True}}
        assert (await asked(member, "POST", f"/groups/{copy}/action", body)).status == 202
        await cloud.settle()
        assert (await member.get(f"{BASE}/volumes/{inside}")).status == 404

    stage.run(play())


def test_quotas_by_project_and_by_type_refuse_one_too_many(stage: Stage) -> None:
    async def play() -> None:
        member, admin = await stage.member(), stage.cloud.admin
        body: Any = {"volume_type": {"name": "scarce"}}
        assert (await asked(admin, "POST", "/types", body)).status == 200
        body = {"quota_set": {"volumes": 2, "volumes_scarce": 1}}
        url = f"/os-quota-sets/{member.project_id}"
        assert (await asked(admin, "PUT", url, body)).json["quota_set"]["volumes_scarce"] == 1
        await made(stage.cloud, member, volume_type="scarce")
        body = {"volume": {"size": 1, "volume_type": "scarce"}}
        assert (await asked(member, "POST", "/volumes", body)).status == 413
        await made(stage.cloud, member)
        body = {"volume": {"size": 1}}
        assert (await asked(member, "POST", "/volumes", body)).status == 413
        usage = (await asked(member, "GET", url + "?usage=true")).json["quota_set"]
        assert usage["volumes"]["in_use"] == 2 and usage["volumes_scarce"]["in_use"] == 1

    stage.run(play())


def test_what_a_type_asks_is_for_administrators_but_for_what_everybody_may_know(
    stage: Stage,
) -> None:
    async def play() -> None:
        member, admin = await stage.member(), stage.cloud.admin
        specs = {"multiattach": "<is> True", "volume_backend_name": "fake-1"}
        body = {"volume_type": {"name": "shared", "extra_specs": specs}}
        kind = (await asked(admin, "POST", "/types", body)).json["volume_type"]["id"]
        seen = (await asked(member, "GET", f"/types/{kind}")).json["volume_type"]
        assert seen["extra_specs"] == {"multiattach": "<is> True"}
        id = await made(stage.cloud, member, volume_type=kind)
        assert (await shown(member, id))["multiattach"] is True
        assert (await RECORDS.get(stage.cloud.runtime.store, id)).host == "fake-1"

    stage.run(play())


def test_a_disabled_host_gets_no_volumes(stage: Stage) -> None:
    async def play() -> None:
        member, admin = await stage.member(), stage.cloud.admin
        body = {"host": "fake-2@fake", "binary": "cinder-volume"}
        assert (await asked(admin, "PUT", "/os-services/disable", body)).status == 200
        hosts = set()
        for _ in range(3):
            id = await made(stage.cloud, member)
            hosts.add((await RECORDS.get(stage.cloud.runtime.store, id)).host)
        assert hosts == {"fake-1"}
        assert (await asked(admin, "PUT", "/os-services/enable", body)).status == 200

    stage.run(play())


def test_an_unmanaged_volume_stays_at_its_host_and_comes_back_under_another_id(
    stage: Stage,
) -> None:
    async def play() -> None:
        member, admin = await stage.member(), stage.cloud.admin
        id = await made(stage.cloud, member, size=3)
        place = (await shown(admin, id))["os-vol-host-attr:host"]
        assert (await act(admin, id, "os-unmanage", {})).status == 202
        assert (await member.get(f"{BASE}/volumes/{id}")).status == 404
        body = {"volume": {"host": place, "ref": {"source-name": id}}}
        again = (await asked(admin, "POST", "/manageable_volumes", body)).json["volume"]["id"]
        await stage.cloud.settle()
        seen = await shown(admin, again)
        assert (seen["status"], seen["size"]) == ("available", 3)

    stage.run(play())


def test_an_uploaded_volume_is_an_image_of_its_owner(stage: Stage) -> None:
    async def play() -> None:
        member = await stage.member()
        id = await made(stage.cloud, member)
        body = {"image_name": "of-a-volume", "disk_format": "raw"}
        reply = await act(member, id, "os-volume_upload_image", body)
        image = reply.json["os-volume_upload_image"]["image_id"]
        await stage.cloud.settle()
        found = (await member.get(f"/image/v2/images/{image}")).json
        assert (found["status"], found["name"]) == ("active", "of-a-volume")
        assert (await shown(member, id))["status"] == "available"

    stage.run(play())


def test_a_pool_is_passed_over_for_what_it_lacks() -> None:
    pool = Pool("h", "p", 10, 10, 195, "nbd", "nova")
    for specs, words in (
        ({"volume_backend_name": "h"}, ""),
        ({"volume_backend_name": "x"}, "volume_backend_name is h, not x"),
        ({"multiattach": "<is> True"}, ""),
        ({"replication_enabled": "<is> True"}, "replication_enabled is False"),
        ({"storage_protocol": "<or> ceph <or> nbd"}, ""),
        ({"tier": "gold"}, "no capability tier"),
        ({"other:scope": "ignored"}, ""),
    ):
        assert (
            words in why_not(pool, Wanted(1, specs))
            if words
            else not why_not(pool, Wanted(1, specs))
        ), specs
    assert "room for 5 GiB" in why_not(pool, Wanted(6, {}))
    for is_starting, size, kind in (
        (True, 1, Unavailable),
        (True, 6, NoCapacity),
        (False, 1, NoCapacity),
    ):
        with pytest.raises(kind, match="h@p#p: down"):
            choose([replace(pool, why_not="down", is_starting=is_starting)], Wanted(size, {}))

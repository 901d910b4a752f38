"""Images' bytes: in, out, and nothing left where it did not end well."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import resource
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pileus.kernel import quota
from pileus.kernel.auth import Caller
from pileus.kernel.faults import NotFound
from pileus.kernel.runtime import Runtime
from pileus.services.identity.contract import IDENTITY, ProjectInfo
from pileus.services.image import SERVICE, standing
from pileus.services.image.contract import IMAGES, NewImage
from pileus.services.image.record import IMAGES as RECORDS
from pileus.services.image.settings import ImageSettings
from pileus.services.image.tests.given import (
    OCTETS,
    URL,
    files,
    keeping,
    made,
    movable,
    patched,
    pieces,
    put,
    qcow2,
    random_bytes,
    shown,
    streamed,
    uploaded,
)
from pileus.testing.alone import alone, in_loop

MEMBER = Caller(user_id="u", project_id="p", roles=frozenset(("member", "reader")))

MIB = 1 << 20


@in_loop
async def test_bytes_come_in_without_a_length_and_go_out_as_they_were() -> None:
    data = random_bytes(3 * MIB + 7)
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await made(client))["id"]
        assert (await client.get(f"{URL}/{id}/file")).status == 204
        parts = pieces(*(data[n : n + 65_536] for n in range(0, len(data), 65_536)))
        assert (await streamed(client, f"{URL}/{id}/file", parts)).status == 204
        image = await shown(client, id)
        assert (image["status"], image["size"]) == ("active", len(data))
        assert image["checksum"] == hashlib.md5(data).hexdigest()
        assert image["os_hash_algo"] == "sha512"
        assert image["os_hash_value"] == hashlib.sha512(data).hexdigest()
        reply = await client.get(f"{URL}/{id}/file")
        assert (reply.status, reply.body == data) == (200, True)
        assert reply.headers["content-type"] == "application/octet-stream"
        assert reply.headers["content-md5"] == image["checksum"]
        assert reply.headers["content-length"] == str(len(data))
        assert files(cloud.runtime) == {id}


@in_loop
async def test_an_image_may_be_empty() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        image = await uploaded(client, b"")
        assert (image["size"], image["status"]) == (0, "active")
        reply = await client.get(f"{URL}/{image['id']}/file")
        assert (reply.status, reply.body) == (200, b"")


@in_loop
async def test_ranges_are_cut_out() -> None:
    data = random_bytes(1000)
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        url = f"{URL}/{(await uploaded(client, data))['id']}/file"
        for asked, start, end in (
            ("bytes=0-0", 0, 1),
            ("bytes=10-19", 10, 20),
            ("bytes=990-", 990, 1000),
            ("bytes=-5", 995, 1000),
            ("bytes=5-5000", 5, 1000),
        ):
            reply = await client.get(url, range=asked)
            assert (reply.status, reply.body) == (206, data[start:end]), asked
            assert reply.headers["content-range"] == f"bytes {start}-{end - 1}/1000"
            assert reply.headers["content-length"] == str(end - start)
        old = await client.get(url, content_range="bytes 3-5/1000")
        assert (old.status, old.body) == (206, data[3:6])
        for wrong in ("bytes=1000-", "bytes=9-5", "bytes=x-y", "lines=1-2", "bytes=-"):
            assert (await client.get(url, range=wrong)).status == 416, wrong


@in_loop
async def test_head_of_a_file_has_its_length_and_no_body() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        image = await uploaded(client, b"12345")
        reply = await client.request("HEAD", f"{URL}/{image['id']}/file")
        assert (reply.status, reply.body) == (200, b"")
        assert reply.headers["content-length"] == "5"


@in_loop
async def test_an_upload_is_refused_before_its_bytes_are_read() -> None:
    async def first_chunk_only() -> AsyncIterator[bytes]:
        yield b"x"
        raise AssertionError("the body was read on")

    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await made(client))["id"]
        active = (await uploaded(client))["id"]
        formless = (await client.post(URL, {})).json["id"]
        public = (await made(cloud.user("a", "admin"), visibility="public"))["id"]
        for status, target, headers in (
            (415, id, {"content-type": "application/json"}),
            (415, id, {}),
            (409, active, OCTETS),
            (400, formless, OCTETS),
            (403, public, OCTETS),
            (404, "none", OCTETS),
            (400, id, {**OCTETS, "x-image-meta-store": "tape"}),
        ):
            url = f"{URL}/{target}/file"
            reply = await streamed(client, url, first_chunk_only(), headers=headers)
            assert reply.status == status, (target, reply)
        assert (await shown(client, id))["status"] == "queued"


@in_loop
async def test_a_broken_connection_leaves_the_image_as_it_was() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        before = await made(client)
        url = f"{URL}/{before['id']}/file"
        reply = await streamed(client, url, pieces(random_bytes(MIB), b"more"), broken=True)
        assert reply.status == 400
        after = await shown(client, before["id"])
        assert {**after, "updated_at": ""} == {**before, "updated_at": ""}
        assert files(cloud.runtime) == set()
        assert (await put(client, before["id"], b"bytes")).status == 204


@in_loop
async def test_a_cancelled_upload_leaves_the_image_as_it_was() -> None:
    started, forever = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield random_bytes(MIB)
        started.set()
        await forever.wait()
        yield b""

    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await made(client))["id"]
        task = asyncio.create_task(streamed(client, f"{URL}/{id}/file", slow()))
        await started.wait()
        assert (await shown(client, id))["status"] == "saving"
        assert (await put(client, id, b"second")).status == 409
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (await shown(client, id))["status"] == "queued"
        assert files(cloud.runtime) == set()


@in_loop
async def test_a_large_upload_does_not_hold_up_other_requests() -> None:
    """No turn of the loop is longer than what a chunk's hash would cost if it were not in a thread."""
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await made(client))["id"]
        chunk = random_bytes(8 * MIB)
        upload = asyncio.create_task(
            streamed(client, f"{URL}/{id}/file", pieces(chunk, chunk, chunk, chunk))
        )
        answered = 0
        while not upload.done():
            assert (await client.get(f"{URL}/{id}")).status == 200
            answered += 1
            await asyncio.sleep(0)
        assert (await upload).status == 204
        assert answered > 20


@in_loop
async def test_an_upload_past_the_limit_is_cut() -> None:
    async with alone(SERVICE, settings=ImageSettings(size_limit=MIB)) as cloud:
        client = cloud.user("p")
        id = (await made(client))["id"]
        assert (await put(client, id, random_bytes(MIB + 1))).status == 413
        assert (await shown(client, id))["status"] == "queued"
        assert files(cloud.runtime) == set()
        assert (await put(client, id, random_bytes(MIB))).status == 204


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """What a full disk does to whoever writes on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@in_loop
async def test_a_full_disk_refuses_the_upload_and_keeps_nothing() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await made(client))["id"]
        with no_file_larger_than(8 * MIB):
            reply = await put(client, id, random_bytes(9 * MIB))
        assert (reply.status, b"full" in reply.body) == (413, True)
        assert (await shown(client, id))["status"] == "queued"
        assert files(cloud.runtime) == set()


@in_loop
async def test_a_store_that_can_not_be_written_answers_503() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await made(client))["id"]
        (cloud.runtime.data / "images" / "incoming").rmdir()
        reply = await put(client, id, b"bytes")
        assert reply.status == 503
        assert str(cloud.runtime.data).encode() not in reply.body
        assert (await shown(client, id))["status"] == "queued"


@in_loop
async def test_a_quota_of_bytes_refuses_the_image_that_passes_it() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        async with cloud.runtime.store.tx() as tx:
            await quota.set_limits(tx, "image", "p", {"image_size_total": 2})
        first = await uploaded(client, random_bytes(MIB))
        id = (await made(client))["id"]
        assert (await put(client, id, random_bytes(MIB + 1))).status == 413
        assert (await shown(client, id))["status"] == "queued"
        assert files(cloud.runtime) == {first["id"]}
        assert (await put(client, id, random_bytes(MIB))).status == 204


@in_loop
async def test_what_the_bytes_are_is_found_out() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        image = await uploaded(client, qcow2(5 << 30), disk_format="qcow2")
        assert image["virtual_size"] == 5 << 30
        belied = await uploaded(client, qcow2(), disk_format="vmdk")
        assert belied["virtual_size"] is None
        caller = cloud.tokens.known["member-of-p"]
        images = cloud.runtime.contracts.get(IMAGES)
        assert (await images.image(caller, belied["id"])).found_format == "qcow2"
        backed = await uploaded(client, qcow2(backing=b"/etc/passwd"), disk_format="qcow2")
        assert (await images.image(caller, backed["id"])).unsafe == "it has a backing file"
        assert (await images.image(caller, image["id"])).unsafe == ""


@in_loop
async def test_bytes_must_match_their_format_where_that_is_set() -> None:
    async with alone(SERVICE, settings=ImageSettings(require_image_format_match=True)) as cloud:
        client = cloud.user("p")
        id = (await made(client, disk_format="qcow2"))["id"]
        assert (await put(client, id, random_bytes(4096))).status == 415
        assert (await put(client, id, qcow2(backing=b"/etc/passwd"))).status == 415
        assert (await shown(client, id))["status"] == "queued"
        assert files(cloud.runtime) == set()
        assert (await put(client, id, qcow2())).status == 204


@in_loop
async def test_a_deactivated_image_gives_its_bytes_to_administrators_only() -> None:
    async with alone(SERVICE) as cloud:
        client, admin = cloud.user("p"), cloud.user("a", "admin")
        id = (await uploaded(client))["id"]
        for _ in range(2):
            assert (await client.post(f"{URL}/{id}/actions/deactivate")).status == 204
        assert (await shown(client, id))["status"] == "deactivated"
        assert (await client.get(f"{URL}/{id}/file")).status == 403
        assert (await admin.get(f"{URL}/{id}/file")).status == 200
        assert (await client.post(f"{URL}/{id}/actions/reactivate")).status == 204
        assert (await client.get(f"{URL}/{id}/file")).status == 200
        queued = (await made(client))["id"]
        assert (await client.post(f"{URL}/{queued}/actions/deactivate")).status == 403


@in_loop
async def test_a_reader_sees_an_image_but_not_its_bytes() -> None:
    async with alone(SERVICE) as cloud:
        id = (await uploaded(cloud.user("p")))["id"]
        reader = cloud.user("p", "reader")
        assert (await shown(reader, id))["status"] == "active"
        assert (await reader.get(f"{URL}/{id}/file")).status == 403


@in_loop
async def test_a_reader_of_a_deleted_image_gets_all_of_it() -> None:
    data = random_bytes(4 * MIB)
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await uploaded(client, data))["id"]
        blob = await keeping(cloud).store.open(id)
        chunks = aiter(blob.chunks(0, len(data)))
        first = await anext(chunks)
        assert (await client.delete(f"{URL}/{id}")).status == 204
        assert first + b"".join([c async for c in chunks]) == data
        assert files(cloud.runtime) == set()


@in_loop
async def test_staged_bytes_become_the_images_by_an_import() -> None:
    data = random_bytes(5000)
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await made(client))["id"]
        direct = {"method": {"name": "glance-direct"}}
        assert (await client.post(f"{URL}/{id}/import", direct)).status == 409
        assert (await put(client, id, data, "stage")).status == 204
        staged = await shown(client, id)
        assert (staged["status"], staged["size"], staged["checksum"]) == ("uploading", 5000, None)
        assert (await client.get(f"{URL}/{id}/file")).status == 204
        assert (await put(client, id, data, "stage")).status == 409
        wrong: Any
        for wrong in ({"method": {"name": "by-mail"}}, {}, {"method": {}}):
            assert (await client.post(f"{URL}/{id}/import", wrong)).status == 400
        assert (await cloud.user("q").post(f"{URL}/{id}/import", direct)).status == 404
        imported = await client.post(f"{URL}/{id}/import", direct)
        assert imported.status == 202
        await cloud.runtime.sagas.settled()
        (task,) = (await client.get(f"{URL}/{id}/tasks")).json["tasks"]
        assert (task["status"], task["type"]) == ("success", "api_image_import")
        assert task["request_id"] == imported.headers["x-openstack-request-id"]
        assert task["input"]["import_req"] == direct
        active = await shown(client, id)
        assert active["status"] == "active"
        assert active["os_hash_value"] == hashlib.sha512(data).hexdigest()
        assert (await client.get(f"{URL}/{id}/file")).body == data
        assert (await client.post(f"{URL}/{id}/import", direct)).status == 409
        assert files(cloud.runtime) == {id}


@in_loop
async def test_an_import_needs_the_formats() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await client.post(URL, {})).json["id"]
        await put(client, id, b"bytes", "stage")
        direct = {"method": {"name": "glance-direct"}}
        assert (await client.post(f"{URL}/{id}/import", direct)).status == 409
        assert (await client.delete(f"{URL}/{id}")).status == 204
        assert files(cloud.runtime) == set()


@in_loop
async def test_a_ticket_gives_the_bytes_without_a_token_for_ten_minutes() -> None:
    world, clock = movable()
    data = random_bytes(1000)
    async with alone(SERVICE, world=world) as cloud:
        await cloud.keys()
        images = cloud.runtime.contracts.get(IMAGES)
        id = (await uploaded(cloud.user("p"), data))["id"]
        ticket = await images.ticket(id)
        assert (await cloud.client.get(ticket)).body == data
        assert (await cloud.client.get(ticket, range="bytes=5-9")).body == data[5:10]
        for wrong in (ticket[:-2], f"{ticket}A", "/image/tickets/x", "/image/tickets/x.1.%C3%A9"):
            assert (await cloud.client.get(wrong)).status == 404, wrong
        clock.ahead = 590
        assert (await cloud.client.get(ticket)).status == 200
        clock.ahead = 610
        assert (await cloud.client.get(ticket)).status == 404
        with pytest.raises(NotFound):
            await images.ticket((await made(cloud.user("p")))["id"])


@in_loop
async def test_a_ticket_takes_the_bytes_of_a_reserved_image_once_and_is_not_one_to_read() -> None:
    world, clock = movable()
    async with alone(SERVICE, world=world) as cloud:
        await cloud.keys()
        images = cloud.runtime.contracts.get(IMAGES)
        member = cloud.user("p")
        ids = [cloud.runtime.world.new_id() for _ in range(2)]
        for id in ids:
            await images.reserve(MEMBER, NewImage(id=id, name="snap"))
        ticket, other = [await images.awaits(id, "raw") for id in ids]
        client = cloud.client
        assert (await client.get(ticket)).status == 404
        read = await images.ticket((await uploaded(member))["id"])
        for wrong in (read, f"{ticket}%2F..%2F{ids[1]}"):
            reply = await client.request("PUT", wrong, raw=b"x", headers=OCTETS)
            assert reply.status == 404, wrong
        for data in (b"first", b"second"):
            assert (await client.request("PUT", ticket, raw=data, headers=OCTETS)).status < 300
        assert (await member.get(f"{URL}/{ids[0]}/file")).body == b"first"
        assert await images.awaits(ids[0], "raw") == ""
        clock.ahead = 610
        assert (await client.request("PUT", other, raw=b"x", headers=OCTETS)).status == 404
        assert (await shown(member, ids[1]))["status"] == "queued"


@pytest.mark.sqlite
@in_loop
async def test_a_second_upload_by_ticket_is_asked_to_come_again_while_the_first_goes_on() -> None:
    async with alone(SERVICE) as cloud:
        await cloud.keys()
        images, member = cloud.runtime.contracts.get(IMAGES), cloud.user("p")
        id = cloud.runtime.world.new_id()
        await images.reserve(MEMBER, NewImage(id=id, name="snap"))
        ticket = await images.awaits(id, "raw")
        async with cloud.runtime.store.tx() as tx:
            image = await RECORDS.get(tx, id)
            gone = {"uploader": "a control that died", "uploading_at": tx.now}
            await RECORDS.change(tx, image, status="saving", **gone)
        put = await cloud.client.request("PUT", ticket, raw=b"x", headers=OCTETS)
        assert put.status == 503
        ticket = await images.awaits(id, "raw")
        put = await cloud.client.request("PUT", ticket, raw=b"x", headers=OCTETS)
        assert put.status < 300 and (await shown(member, id))["status"] == "active"


@in_loop
async def test_tickets_hold_across_controls_of_one_cloud(tmp_path: Path) -> None:
    async with alone(SERVICE, data=tmp_path) as cloud:
        await cloud.keys()
        id = (await uploaded(cloud.user("p")))["id"]
        ticket = await cloud.runtime.contracts.get(IMAGES).ticket(id)
    async with alone(SERVICE, data=tmp_path) as cloud:
        await cloud.keys()
        assert (await cloud.client.get(ticket)).body == b"bytes"


@pytest.mark.sqlite
@in_loop
async def test_a_key_that_an_earlier_version_left_in_clear_makes_no_ticket(tmp_path: Path) -> None:
    """A cloud that began with it goes on with those of now."""
    key, until = random_bytes(32), int(time.time()) + 600
    async with alone(SERVICE, data=tmp_path) as cloud:
        await cloud.keys()
        id = (await uploaded(cloud.user("p")))["id"]
    with closing(sqlite3.connect(tmp_path / "cloud.sqlite")) as rows, rows:
        columns = "id, created_at, updated_at, deleted_at, generation BIGINT, document"
        rows.execute(f"CREATE TABLE image_secrets ({columns}, PRIMARY KEY (id))")
        kept = {"id": "tickets", "created_at": "", "generation": 1, "key": key.hex()}
        row = ["tickets", "", "", "", 1, json.dumps(kept)]
        rows.execute("INSERT INTO image_secrets VALUES (?, ?, ?, ?, ?, ?)", row)
    signed = hmac.digest(key, f"{id}.{until}".encode(), "sha256")
    word = base64.urlsafe_b64encode(signed).decode().rstrip("=")
    async with alone(SERVICE, data=tmp_path) as cloud:
        await cloud.keys()
        assert (await cloud.client.get(f"/image/tickets/{id}.{until}.{word}")).status == 404
        ticket = await cloud.runtime.contracts.get(IMAGES).ticket(id)
        assert (await cloud.client.get(ticket)).body == b"bytes"


@in_loop
async def test_the_contract_shows_an_image_to_who_may_see_it() -> None:
    async with alone(SERVICE) as cloud:
        id = (await uploaded(cloud.user("p"), min_disk=3, os_distro="x"))["id"]
        cloud.user("q")
        images = cloud.runtime.contracts.get(IMAGES)
        info = await images.image(cloud.tokens.known["member-of-p"], id)
        assert (info.size, info.min_disk, info.properties) == (5, 3, {"os_distro": "x"})
        with pytest.raises(NotFound):
            await images.image(cloud.tokens.known["member-of-q"], id)


@pytest.mark.sqlite
@in_loop
async def test_an_upload_whose_control_died_is_ended_by_the_sweep(tmp_path: Path) -> None:
    async with alone(SERVICE, data=tmp_path) as cloud:
        client = cloud.user("p")
        id, staged = (await made(client))["id"], (await made(client))["id"]
        await keeping(cloud)._begin(id, "saving")
        await put(client, staged, b"bytes", "stage")
        half = tmp_path / "images" / "incoming" / f"{id}.{cloud.runtime.sagas.me}.rest"
        half.write_bytes(b"half")
    async with alone(SERVICE, data=tmp_path) as cloud:
        client = cloud.user("p")
        assert (await shown(client, id))["status"] == "saving"
        await standing.sweep(cloud.runtime, "")
        assert (await shown(client, id))["status"] == "queued" and not half.exists()
        assert (await shown(client, staged))["status"] == "uploading"
        usage = (await client.get("/image/v2/info/usage")).json["usage"]
        assert usage["image_count_uploading"]["usage"] == 1  # the staged one


@in_loop
async def test_an_import_that_an_older_cloud_left_half_way_can_be_asked_for_again() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await made(client))["id"]
        await put(client, id, b"bytes", "stage")
        async with cloud.runtime.store.tx() as tx:
            await RECORDS.change(tx, await RECORDS.get(tx, id), status="importing")
        await standing.sweep(cloud.runtime, "")
        assert (await shown(client, id))["status"] == "queued"
        assert files(cloud.runtime) == set()


@pytest.mark.sqlite
@in_loop
async def test_the_sweep_drops_bytes_of_no_image_or_of_the_dead_and_nothing_else() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        kept_id = (await uploaded(client))["id"]
        folder = cloud.runtime.data / "images"
        coming = f"incoming/{kept_id}.{cloud.runtime.sagas.me}.half"
        for name in ("orphan", "orphan.staged", f"incoming/{kept_id}.dead.half", coming):
            (folder / name).write_bytes(b"x")
        await standing.sweep(cloud.runtime, "")
        assert files(cloud.runtime) == {kept_id, coming}


class AdminProject:
    async def project(self, project_id: str) -> ProjectInfo | None:
        return None

    async def region(self) -> str:
        return "RegionOne"

    async def limits(self, service_type: str) -> dict[str, dict[str, int]]:
        return {}

    async def admin_project(self) -> ProjectInfo:
        return ProjectInfo(id="admin-project", name="admin", domain_id="default")


async def _first(runtime: Runtime) -> None:
    await standing.register_first_image(runtime, "")


@in_loop
async def test_the_first_image_is_registered_once_its_file_is_there() -> None:
    async with alone(SERVICE) as cloud:
        cloud.runtime.contracts.provide(IDENTITY, AdminProject())
        client, admin = cloud.user("p"), cloud.user("a", "admin")
        await _first(cloud.runtime)
        assert (await client.get(URL)).json["images"] == []
        (cloud.runtime.data / "test-image.qcow2").write_bytes(qcow2(1 << 30))
        for _ in range(2):
            await _first(cloud.runtime)
        (image,) = (await client.get(URL)).json["images"]
        assert (image["name"], image["status"]) == ("pileus-test", "active")
        assert (image["owner"], image["visibility"]) == ("admin-project", "public")
        assert (image["disk_format"], image["virtual_size"]) == ("qcow2", 1 << 30)
        assert (await client.get(f"{URL}/{image['id']}/file")).body == qcow2(1 << 30)
        assert (await admin.delete(f"{URL}/{image['id']}")).status == 204
        await _first(cloud.runtime)
        assert (await client.get(URL)).json["images"] == []


@in_loop
async def test_the_first_image_survives_a_start_that_died_half_way() -> None:
    async with alone(SERVICE) as cloud:
        cloud.runtime.contracts.provide(IDENTITY, AdminProject())
        (cloud.runtime.data / "test-image.qcow2").write_bytes(qcow2())
        await standing._registered(cloud.runtime, standing.FIRST[0])
        await _first(cloud.runtime)
        (image,) = (await cloud.user("p").get(URL)).json["images"]
        assert image["status"] == "active"


@in_loop
async def test_a_patch_during_an_upload_is_kept() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await made(client))["id"]

        async def while_renamed() -> AsyncIterator[bytes]:
            yield b"first"
            change = {"op": "replace", "path": "/name", "value": "two"}
            assert (await patched(client, id, change)).status == 200
            yield b"second"

        assert (await streamed(client, f"{URL}/{id}/file", while_renamed())).status == 204
        image = await shown(client, id)
        assert (image["name"], image["status"], image["size"]) == ("two", "active", 11)

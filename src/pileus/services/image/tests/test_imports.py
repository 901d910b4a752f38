"""Imports: from the web, from another image, into several stores; and their tasks."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from pileus.kernel import quota
from pileus.kernel.events import Event
from pileus.kernel.faults import Forbidden
from pileus.services.identity.contract import IDENTITY, ProjectInfo
from pileus.services.image import SERVICE, limits
from pileus.services.image.settings import ImageSettings
from pileus.services.image.tests.given import (
    OCTETS,
    URL,
    files,
    imported,
    keeping,
    last_task,
    made,
    movable,
    patched,
    put,
    qcow2,
    random_bytes,
    settled,
    shown,
    uploaded,
)
from pileus.testing.alone import Alone, alone, in_loop
from pileus.testing.client import Client
from pileus.testing.cloud import Cloud, cloud
from pileus.testing.web import Web, web_server

TASKS = "/image/v2/tasks"
TWO = ImageSettings(stores="local,spare")


class Here:
    async def region(self) -> str:
        return "RegionOne"

    async def project(self, project_id: str) -> ProjectInfo | None:
        return None

    async def limits(self, service_type: str) -> dict[str, dict[str, int]]:
        return {}

    async def admin_project(self) -> ProjectInfo:
        raise AssertionError("nobody asks")


def trusting(web: Web, **more: Any) -> ImageSettings:
    return ImageSettings(trusted_origins=web.origin, **more)


def spare_files(cloud: Alone) -> set[str]:
    folder = cloud.runtime.data / "image-stores" / "spare"
    return {p.name for p in folder.rglob("*") if p.is_file()}


def from_web(url: str) -> dict[str, str]:
    return {"name": "web-download", "uri": url}


@in_loop
async def test_a_web_download_becomes_the_images_bytes() -> None:
    data = random_bytes(3_000_000)
    with web_server({"/image": data}) as web:
        async with alone(SERVICE, settings=trusting(web)) as cloud:
            client = cloud.user("p")
            id = (await made(client))["id"]
            assert (await imported(client, id, from_web(web.url()))).status == 202
            task = await last_task(cloud, client, id)
            assert (task["status"], task["result"]) == ("success", {"image_id": id})
            image = await shown(client, id)
            assert (image["status"], image["stores"]) == ("active", "local")
            assert image["os_hash_value"] == hashlib.sha512(data).hexdigest()
            assert image["os_glance_importing_to_stores"] == image["os_glance_failed_import"] == ""
            assert (await client.get(f"{URL}/{id}/file")).body == data
            assert files(cloud.runtime) == {id}


@in_loop
async def test_a_web_download_that_fails_leaves_the_image_as_it_was() -> None:
    unsafe = qcow2(backing=b"/etc/passwd")
    with web_server({"/image": unsafe, "/big": bytes(2_000_000)}) as web:
        async with alone(SERVICE, settings=trusting(web, size_limit=1_000_000)) as cloud:
            client = cloud.user("p")
            before = await made(client, disk_format="qcow2", hw_cpu_cores="1")
            id = before["id"]
            for path, why in (
                ("/image", "backing file"),
                ("/big", "too large"),
                ("/gone", "answered 404"),
            ):
                assert (await imported(client, id, from_web(web.url(path)))).status == 202
                task = await last_task(cloud, client, id)
                assert task["status"] == "failure" and why in task["message"]
                after = await shown(client, id)
                assert after["os_glance_failed_import"] == "local"
                assert {k: v for k, v in after.items() if k in before} | {
                    "updated_at": before["updated_at"]
                } == before
                assert files(cloud.runtime) == set()
            used = await quota.usage(cloud.runtime.store, "image", "p")
            assert {name: n for name, n in used.items() if n} == {"image_count_total": 1}


@in_loop
async def test_an_import_says_at_once_what_it_can_not_take() -> None:
    async with alone(SERVICE, settings=TWO) as cloud:
        client = cloud.user("p")
        id = (await made(client))["id"]
        download = from_web("https://93.184.215.14/")
        for method, more, status in (
            (from_web("http://169.254.169.254/latest"), {}, 400),
            (from_web("file:///etc/passwd"), {}, 400),
            ({"name": "web-download"}, {}, 400),
            (download, {"stores": ["nowhere"]}, 409),
            (download, {"stores": ["web"]}, 409),
            (download, {"stores": ["spare"], "all_stores": True}, 400),
            (download, {"all_stores": "yes"}, 400),
            ("copy-image", {"all_stores": True}, 409),
            ({"name": "glance-download", "glance_region": "RegionOne"}, {}, 400),
            ({"name": "glance-download", "glance_region": "r", "glance_image_id": "foo"}, {}, 400),
        ):
            reply = await imported(client, id, method, **more)
            assert reply.status == status, (method, more, reply)
        assert (await shown(client, id))["status"] == "queued"
        await put(client, id, b"bytes", "stage")
        assert (await imported(client, id, download)).status == 409


@in_loop
async def test_a_method_that_is_not_offered_is_unknown() -> None:
    async with alone(SERVICE, settings=ImageSettings(import_methods="glance-direct")) as cloud:
        client = cloud.user("p")
        image = await client.post(URL, {"disk_format": "raw", "container_format": "bare"})
        assert image.headers["openstack-image-import-methods"] == "glance-direct"
        reply = await imported(client, image.json["id"], from_web("https://93.184.215.14/"))
        assert reply.status == 400


@in_loop
async def test_staged_bytes_go_to_every_store_that_is_asked_for() -> None:
    async with alone(SERVICE, settings=TWO) as cloud:
        client = cloud.user("p")
        for more, stores, ours, theirs in (
            ({}, "local", True, False),
            ({"all_stores": True}, "local,spare", True, True),
            ({"stores": ["spare"]}, "spare", False, True),
        ):
            id = (await made(client))["id"]
            await put(client, id, b"bytes", "stage")
            assert (await imported(client, id, "glance-direct", **more)).status == 202
            assert (await last_task(cloud, client, id))["status"] == "success"
            assert (await shown(client, id))["stores"] == stores
            assert (files(cloud.runtime), spare_files(cloud)) == (
                {id} if ours else set(),
                {id} if theirs else set(),
            )
            assert (await client.get(f"{URL}/{id}/file")).body == b"bytes"
            assert (await client.delete(f"{URL}/{id}")).status == 204
            assert files(cloud.runtime) == spare_files(cloud) == set()


@in_loop
async def test_an_upload_goes_to_the_store_that_its_header_names() -> None:
    async with alone(SERVICE, settings=TWO) as cloud:
        client = cloud.user("p")
        id = (await made(client))["id"]
        for store, status in (("nowhere", 400), ("web", 400), ("spare", 204)):
            headers = {**OCTETS, "x-image-meta-store": store}
            reply = await client.request("PUT", f"{URL}/{id}/file", raw=b"bytes", headers=headers)
            assert reply.status == status
        assert (await shown(client, id))["stores"] == "spare"
        assert files(cloud.runtime) == set()
        assert (await client.get(f"{URL}/{id}/file")).body == b"bytes"


@in_loop
async def test_a_store_that_fails_fails_the_import_unless_the_others_will_do() -> None:
    async with alone(SERVICE, settings=TWO) as cloud:
        client = cloud.user("p")
        folder = cloud.runtime.data / "image-stores" / "spare"
        (folder / "incoming").rmdir()
        for lenient, status, failed in (
            (False, "queued", "local,spare"),
            (True, "active", "spare"),
        ):
            id = (await made(client))["id"]
            await put(client, id, b"bytes", "stage")
            more = {"all_stores": True, "all_stores_must_succeed": not lenient}
            await imported(client, id, "glance-direct", **more)
            await last_task(cloud, client, id)
            image = await shown(client, id)
            assert (image["status"], image["os_glance_failed_import"]) == (status, failed)
            assert files(cloud.runtime) == ({id} if lenient else set())


@in_loop
async def test_an_administrator_copies_an_image_to_more_stores_and_takes_it_out_again() -> None:
    async with alone(SERVICE, settings=TWO) as cloud:
        client, admin = cloud.user("p"), cloud.user("a", "admin")
        id = (await uploaded(client))["id"]
        assert (await imported(client, id, "copy-image", all_stores=True)).status == 403
        assert (await imported(admin, id, "copy-image", stores=["local"])).status == 400
        used = await quota.usage(cloud.runtime.store, "image", "p")
        assert used["image_size_total"] == 1
        for _ in range(2):  # the second finds nothing left to do
            assert (await imported(admin, id, "copy-image", all_stores=True)).status == 202
            assert (await last_task(cloud, client, id))["status"] == "success"
            image = await shown(client, id)
            assert (image["stores"], image["os_glance_importing_to_stores"]) == ("local,spare", "")
            assert spare_files(cloud) == {id}
        used = await quota.usage(cloud.runtime.store, "image", "p")
        assert used["image_size_total"] == 2, "each copy counts"
        stores = "/image/v2/stores"
        assert (await client.delete(f"{stores}/local/{id}")).status == 403
        assert (await admin.delete(f"{stores}/nowhere/{id}")).status == 409
        assert (await admin.delete(f"{stores}/web/{id}")).status == 404
        assert (await admin.delete(f"{stores}/local/{id}")).status == 204
        assert (await shown(client, id))["stores"] == "spare"
        assert files(cloud.runtime) == set()
        assert (await client.get(f"{URL}/{id}/file")).body == b"bytes"
        assert (await admin.delete(f"{stores}/spare/{id}")).status == 403
        assert (await client.get(f"{URL}/{id}/file")).body == b"bytes"


@in_loop
async def test_ossa_2024_004_a_copy_of_bytes_that_were_changed_is_refused() -> None:
    async with alone(SERVICE, settings=TWO) as cloud:
        client, admin = cloud.user("p"), cloud.user("a", "admin")
        id = (await uploaded(client))["id"]
        (cloud.runtime.data / "images" / id).write_bytes(b"other")
        await imported(admin, id, "copy-image", all_stores=True)
        assert (await last_task(cloud, client, id))["status"] == "failure"
        assert (await shown(client, id))["stores"] == "local"
        assert spare_files(cloud) == set()


@in_loop
async def test_an_image_of_the_cloud_itself_is_downloaded_with_what_describes_it() -> None:
    async with alone(SERVICE) as cloud:
        cloud.runtime.contracts.provide(IDENTITY, Here())
        client, stranger = cloud.user("p"), cloud.user("q")
        kept: dict[str, Any] = {"hw_cpu_cores": "5", "os_distro": "rhel", "trait:X": "required"}
        source = await uploaded(client, speed="88mph", **kept)
        id = (await made(client, disk_format="iso", os_distro="windows"))["id"]

        def ask(**more: str) -> dict[str, str]:
            asked = {"name": "glance-download", "glance_image_id": source["id"]}
            return {**asked, "glance_region": "RegionOne", **more}

        for who, bad in (
            (client, {"glance_region": "not a region"}),
            (client, {"glance_service_interface": "not an interface"}),
            (client, {"glance_image_id": "36d4b546-64a2-4bb9-bdd0-ba676aa48f2c"}),
        ):
            assert (await imported(who, id, ask(**bad))).status == 202
            assert (await last_task(cloud, client, id))["status"] == "failure"
            assert (await shown(client, id))["os_distro"] == "windows"
        theirs = (await made(stranger))["id"]
        await imported(stranger, theirs, ask())
        assert (await last_task(cloud, stranger, theirs))["status"] == "failure"
        await imported(client, id, ask())
        assert (await last_task(cloud, client, id))["status"] == "success"
        image = await shown(client, id)
        assert {k: image[k] for k in kept} == kept and "speed" not in image
        assert image["disk_format"] == "raw"
        assert (await client.get(f"{URL}/{id}/file")).body == b"bytes"


@in_loop
async def test_an_image_can_be_deleted_whatever_a_task_is_doing_to_it() -> None:
    with web_server({"/image": b"bytes"}) as web:
        async with alone(SERVICE, settings=trusting(web)) as cloud:
            client = cloud.user("p")
            id = (await made(client))["id"]
            await imported(client, id, from_web(web.url()))
            assert (await client.delete(f"{URL}/{id}")).status == 204
            await settled(cloud)
            assert files(cloud.runtime) == set()
            used = await quota.usage(cloud.runtime.store, "image", "p")
            assert set(used.values()) == {0}


@in_loop
async def test_a_second_task_waits_for_the_end_of_the_first() -> None:
    with web_server({"/image": b"bytes"}) as web:
        async with alone(SERVICE, settings=trusting(web)) as cloud:
            client = cloud.user("p")
            id = (await made(client))["id"]
            first = await imported(client, id, from_web(web.url()))
            second = await imported(client, id, from_web(web.url()))
            assert (first.status, second.status) == (202, 409)
            assert (await put(client, id, b"bytes")).status == 409
            await settled(cloud)


@in_loop
async def test_a_task_of_its_own_makes_an_image_of_what_lies_on_the_web() -> None:
    with web_server({"/image": b"bytes"}) as web:
        async with alone(SERVICE, settings=trusting(web)) as cloud:
            admin = cloud.user("a", "admin")
            properties = {"name": "made", "disk_format": "raw", "container_format": "bare"}
            asked = {"import_from": web.url(), "import_from_format": "raw"}
            body = {"type": "import", "input": {**asked, "image_properties": properties}}
            assert (await cloud.user("p").post(TASKS, body)).status == 403
            reply = await admin.post(TASKS, body)
            assert (reply.status, reply.headers["location"]) == (201, reply.json["self"])
            assert reply.json["status"] == "processing"
            await settled(cloud)
            url = f"{TASKS}/{reply.json['id']}"
            done = (await admin.get(url)).json
            assert (done["status"], done["input"]) == ("success", body["input"])
            image = await shown(admin, done["result"]["image_id"])
            assert (image["name"], image["status"]) == ("made", "active")
            assert (await admin.delete(url)).status == 405


@in_loop
async def test_tasks_are_listed_page_by_page_and_only_good_ones_are_taken() -> None:
    with web_server({"/image": b"bytes"}) as web:
        async with alone(SERVICE, settings=trusting(web)) as cloud:
            admin = cloud.user("a", "admin")
            ids = []
            for _ in range(3):
                id = (await made(admin))["id"]
                await imported(admin, id, from_web(web.url()))
                ids.append((await last_task(cloud, admin, id))["id"])
            page = (await admin.get(f"{TASKS}?limit=2&sort_dir=asc")).json
            assert [t["id"] for t in page["tasks"]] == ids[:2]
            assert "input" not in page["tasks"][0]
            rest = (await admin.get(f"/image{page['next']}")).json["tasks"]
            assert [t["id"] for t in rest] == ids[2:]
            assert (await admin.get(f"{TASKS}?status=failure")).json["tasks"] == []
            assert (await admin.get(f"{TASKS}?marker={'0' * 8}")).status == 400
            for bad in (
                {},
                {"type": "export", "input": {}},
                {"type": "import", "input": {}},
                {
                    "type": "import",
                    "input": {"import_from": "file:///etc/passwd", "image_properties": {}},
                },
            ):
                assert (await admin.post(TASKS, bad)).status == 400, bad


@pytest.mark.parametrize("seconds,left", [(3600, 1), (49 * 3600, 0)])
@in_loop
async def test_a_task_that_ended_is_forgotten_after_two_days(seconds: float, left: int) -> None:
    world, clock = movable()
    with web_server({"/image": b"bytes"}) as web:
        async with alone(SERVICE, settings=trusting(web), world=world) as cloud:
            client = cloud.user("p")
            id = (await made(client))["id"]
            await imported(client, id, from_web(web.url()))
            await settled(cloud)
            clock.ahead += seconds
            await keeping(cloud).sweep()
            tasks = (await client.get(f"{URL}/{id}/tasks")).json["tasks"]
            assert len(tasks) == left


PROTECTIONS = """
[^x_billing_]
create = admin
read = admin, auditor
update = admin
delete = !
[.*]
create = @
read = @
update = @
delete = @
"""


async def _billed(client: Client, id: str, op: str, value: str = "2") -> int:
    change = {"op": op, "path": "/x_billing_code", "value": value}
    return (await patched(client, id, change)).status


@in_loop
async def test_protected_properties_are_for_those_whom_the_operator_names(tmp_path: Path) -> None:
    path = tmp_path / "protections.conf"
    path.write_text(PROTECTIONS)
    async with alone(SERVICE, settings=ImageSettings(property_protections=str(path))) as cloud:
        client, admin = cloud.user("p"), cloud.user("p", "admin")
        assert (await client.post(URL, {"x_billing_code": "1"})).status == 403
        id = (await made(client, free="1"))["id"]
        assert await _billed(client, id, "add") == 403
        assert await _billed(admin, id, "add") == 200
        for _ in range(2):
            assert "x_billing_code" not in await shown(client, id)
            assert (await shown(admin, id))["x_billing_code"] == "2"
            for who, there in ((client, False), (admin, True)):
                (listed,) = (await who.get(f"{URL}?id=in:{id}")).json["images"]
                assert ("x_billing_code" in listed) is there
        assert await _billed(client, id, "replace", "3") == 403
        assert await _billed(admin, id, "replace", "3") == 200
        assert await _billed(admin, id, "remove") == 403
        change = {"op": "replace", "path": "/free", "value": "2"}
        assert (await patched(client, id, change)).json["free"] == "2"
        with pytest.raises(Forbidden, match="x_billing_code"):  # nor by way of compute
            await keeping(cloud).describe(cloud.tokens.known["member-of-p"], id, {"free": "3"})


@in_loop
async def test_protections_that_can_not_be_read_let_nobody_do_anything(tmp_path: Path) -> None:
    path = tmp_path / "protections.conf"
    path.write_text("[(unclosed]\ncreate = @\n")
    async with alone(SERVICE, settings=ImageSettings(property_protections=str(path))) as cloud:
        reply = await cloud.user("p").post(URL, {"name": "one"})
        assert reply.status == 400 and b"can't be read" in reply.body


async def limited(c: Cloud, service: str, project: str, name: str, default: int, own: int) -> None:
    """A registered limit, and one of a project; image hears of them."""
    registered = {"service_id": service, "resource_name": name, "default_limit": default}
    body = {"registered_limits": [registered]}
    reply = await c.admin.post("/identity/v3/registered_limits", body)
    assert reply.status == 201, reply
    one = {"service_id": service, "resource_name": name, "project_id": project}
    reply = await c.admin.post("/identity/v3/limits", {"limits": [{**one, "resource_limit": own}]})
    assert reply.status == 201, reply


@in_loop
async def test_unified_limits_are_the_quotas_of_images() -> None:
    async with cloud(hosts=0) as c:
        client, other = await c.project("limited"), await c.project("everybody")
        services = (await c.admin.get("/identity/v3/services?type=image")).json["services"]
        for name, default, own in (
            ("image_count_total", 1, 3),
            ("image_size_total", 0, 2),
            ("image_stage_total", 0, 1),
            ("image_count_uploading", 0, 1),
        ):
            await limited(c, services[0]["id"], client.project_id, name, default, own)

        async def usage(who: Client, name: str) -> tuple[int, int]:
            one = (await who.get("/image/v2/info/usage")).json["usage"][name]
            return one["usage"], one["limit"]

        async def hears(name: str, limit: int) -> None:
            for _ in range(400):
                if (await usage(client, name))[1] == limit:
                    return
                await asyncio.sleep(0.05)
            raise AssertionError(f"{name} is not {limit}")

        await hears("image_count_uploading", 1)
        assert await usage(other, "image_count_total") == (0, 1)
        await made(other)
        assert (await other.post(URL, {"name": "two"})).status == 413
        big, second, third = [(await made(client))["id"] for _ in range(3)]
        assert (await client.post(URL, {"name": "four"})).status == 413
        assert (await put(client, big, bytes(2 << 20), "stage")).status == 413
        assert (await put(client, big, bytes(3 << 20))).status == 413
        assert (await shown(client, big))["status"] == "queued"
        assert (await put(client, big, bytes(2 << 20))).status == 204
        assert (await put(client, second, b"bytes")).status == 413
        assert (await put(client, second, b"bytes", "stage")).status == 204
        assert (await put(client, third, b"bytes", "stage")).status == 413
        assert await usage(client, "image_size_total") == (2, 2)
        assert await usage(client, "image_stage_total") == (1, 1)
        found = (await c.admin.get("/identity/v3/limits")).json["limits"]
        for one in found:
            await c.admin.delete(f"/identity/v3/limits/{one['id']}")
        await hears("image_count_total", 1)


class OneLimit(Here):
    async def limits(self, service_type: str) -> dict[str, dict[str, int]]:
        return {"": {"image_count_total": 1, "image_size_total": 2}, "p": {"image_count_total": 3}}


@in_loop
async def test_controls_that_hear_of_a_limit_at_once_all_follow() -> None:
    async with alone(SERVICE) as cloud:
        store = cloud.runtime.store
        cloud.runtime.contracts.provide(IDENTITY, OneLimit())
        heard = Event(1, 0, "", "identity.limit.create", "", {})
        for _ in range(3):
            await asyncio.gather(*(limits.follow(cloud.runtime, heard) for _ in range(4)))
        await store.sync()
        assert await quota.limits(store, "image", "p") == {"image_count_total": 3}

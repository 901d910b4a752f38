"""Published advisories on Glance, each as a check that it does not hold here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from pileus.kernel import quota
from pileus.services.image import SERVICE
from pileus.services.image.contract import IMAGES
from pileus.services.image.settings import ImageSettings
from pileus.services.image.tests.given import (
    OCTETS,
    URL,
    files,
    imported,
    last_task,
    made,
    movable,
    patched,
    pieces,
    put,
    qcow2,
    random_bytes,
    settled,
    shown,
    streamed,
    uploaded,
    vmdk_of_host_file,
)
from pileus.testing.alone import alone, in_loop
from pileus.testing.web import web_server

MIB = 1 << 20
SCHEMES = (
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "filesystem:///etc/passwd",
    "swift+config://x",
    "cinder://x",
    "rbd://x",
    "http://169.254.169.254/",
    "data:,x",
    "gopher://x",
    "; touch /tmp/x\n",
    "",
)


@in_loop
async def test_ossa_2013_002_a_failing_store_tells_no_secrets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await uploaded(client))["id"]
        (cloud.runtime.data / "images" / id).unlink()
        with caplog.at_level(logging.DEBUG):
            reply = await client.get(f"{URL}/{id}/file")
        assert reply.status == 503
        folder = str(cloud.runtime.data)
        assert folder not in reply.body.decode() and folder not in caplog.text


@in_loop
async def test_ossa_2013_007_no_answer_shows_where_the_bytes_are() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await uploaded(client))["id"]
        for _ in range(2):  # whether cached or not
            for url in (f"{URL}/{id}", f"{URL}/{id}/file", URL):
                reply = await client.get(url)
                text = str(dict(reply.headers)) + reply.body.decode()
                assert str(cloud.runtime.data) not in text
                assert "direct_url" not in text and "locations" not in text


@in_loop
async def test_ossa_2013_027_a_download_asks_policy_every_time() -> None:
    async with alone(SERVICE) as cloud:
        admin, reader = cloud.user("p", "admin"), cloud.user("p", "reader")
        id = (await uploaded(admin))["id"]
        assert (await admin.get(f"{URL}/{id}/file")).status == 200
        assert (await reader.get(f"{URL}/{id}/file")).status == 403


@in_loop
async def test_ossa_2014_004_a_store_that_refuses_bytes_leaves_nothing_of_itself_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        image = await made(client)
        folder = cloud.runtime.data / "images"
        for path in (folder / "incoming", folder):
            path.rmdir()
        folder.write_bytes(b"")  # a file where the store should be
        with caplog.at_level(logging.DEBUG):
            replies = [await put(client, image["id"], b"bytes", to) for to in ("file", "stage")]
        assert [reply.status for reply in replies] == [503, 503]
        told = caplog.text + "".join(str(reply.headers) + reply.body.decode() for reply in replies)
        assert str(cloud.runtime.data) not in told
        assert (await shown(client, image["id"]))["status"] == "queued"


@in_loop
async def test_ossa_2014_028_the_size_limit_holds_for_bytes_without_a_length() -> None:
    async with alone(SERVICE, settings=ImageSettings(size_limit=MIB)) as cloud:
        client = cloud.user("p")
        for to in ("file", "stage"):
            id = (await made(client))["id"]
            reply = await streamed(
                client, f"{URL}/{id}/{to}", pieces(random_bytes(MIB), b"one more")
            )
            assert reply.status == 413
            assert (await shown(client, id))["status"] == "queued"
            assert files(cloud.runtime) == set()


@in_loop
@pytest.mark.parametrize("uri", SCHEMES)
@pytest.mark.parametrize("shows", [False, True])
async def test_ossa_2014_012_2014_041_and_2015_002_a_location_is_on_the_internet_or_refused(
    uri: str, shows: bool
) -> None:
    async with alone(SERVICE, settings=ImageSettings(show_multiple_locations=shows)) as cloud:
        client = cloud.user("p")
        id = (await made(client))["id"]
        location = {"url": uri, "metadata": {}}
        for change in (
            {"op": "add", "path": "/locations/-", "value": location},
            {"op": "add", "path": "/locations/0", "value": location},
            {"op": "replace", "path": "/locations", "value": [location]},
            {"op": "add", "path": "/location", "value": uri},
        ):
            refused = 400 if shows and change["path"] != "/location" else 403
            assert (await patched(client, id, change)).status == refused
        assert (await client.post(URL, {"locations": [location]})).status == 403
        assert (await client.post(f"{URL}/{id}/locations", {"url": uri})).status == 400
        assert (await shown(client, id))["status"] == "queued"


@in_loop
async def test_ossa_2015_003_a_delete_cuts_the_upload_and_its_bytes_go() -> None:
    world, clock = movable()
    sent = 0
    async with alone(SERVICE, world=world) as cloud:
        client = cloud.user("p")
        id = (await made(client))["id"]

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            while sent < 1000:
                yield random_bytes(65_536)
                sent += 1
                if sent == 3:
                    assert (await client.delete(f"{URL}/{id}")).status == 204
                    clock.ahead += 2  # the next look whether the image is there is due

        reply = await streamed(client, f"{URL}/{id}/file", endless())
        assert reply.status == 410
        assert sent < 10
        assert files(cloud.runtime) == set()
        used = await quota.usage(cloud.runtime.store, "image", "p")
        assert set(used.values()) == {0}


@in_loop
async def test_ossa_2015_004_and_013_a_delete_at_any_stage_of_an_import_leaves_nothing() -> None:
    direct = {"method": {"name": "glance-direct"}}
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        staged, done = (await made(client))["id"], (await made(client))["id"]
        await put(client, staged, b"bytes", "stage")
        await put(client, done, b"bytes", "stage")
        await client.post(f"{URL}/{done}/import", direct)
        await settled(cloud)
        for id in (staged, done):
            assert (await client.delete(f"{URL}/{id}")).status == 204
        both = (await made(client))["id"]
        await put(client, both, b"bytes", "stage")
        await asyncio.gather(
            client.post(f"{URL}/{both}/import", direct), client.delete(f"{URL}/{both}")
        )
        await settled(cloud)
        assert files(cloud.runtime) == set()


@in_loop
@pytest.mark.parametrize(
    "data,disk_format",
    [
        (qcow2(backing=b"/etc/passwd"), "qcow2"),
        (qcow2(data_file=True), "qcow2"),
        (vmdk_of_host_file(), "vmdk"),
        (qcow2().ljust(32_769, b"\0")[:32_769] + b"CD001" + bytes(100_000), "qcow2"),
    ],
    ids=["backing file", "data file", "host extent", "two formats"],
)
async def test_ossa_2015_014_2023_002_and_2024_001_an_unsafe_image_is_not_imported(
    data: bytes, disk_format: str
) -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await made(client, disk_format=disk_format))["id"]
        await put(client, id, data, "stage")
        reply = await client.post(f"{URL}/{id}/import", {"method": {"name": "glance-direct"}})
        assert reply.status == 400, reply
        assert (await shown(client, id))["status"] == "queued"
        assert files(cloud.runtime) == set()
        await put(client, id, data)  # who uploads it all the same gives his consumers a warning
        info = await cloud.runtime.contracts.get(IMAGES).image(
            cloud.tokens.known["member-of-p"], id
        )
        assert info.unsafe


@in_loop
@pytest.mark.parametrize(
    "name", ["status", "checksum", "size", "os_hash_value", "id", "created_at"]
)
async def test_ossa_2015_019_what_the_cloud_says_of_an_image_can_not_be_set(name: str) -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        before = await uploaded(client)
        for op in ("add", "replace", "remove"):
            change = {"op": op, "path": "/" + name, "value": "queued"}
            assert (await patched(client, before["id"], change)).status == 403
        if name != "id":
            assert (await client.post(URL, {name: "active"})).status == 403
        headers = {f"x-image-meta-{name}": "queued", **OCTETS}
        url = f"{URL}/{before['id']}/file"
        assert (await client.request("PUT", url, raw=b"other", headers=headers)).status == 409
        assert await shown(client, before["id"]) == before
        assert (await client.get(url)).body == b"bytes"


@in_loop
async def test_ossa_2015_020_a_token_that_ends_during_an_upload_leaves_nothing() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await made(client))["id"]

        async def while_revoked() -> AsyncIterator[bytes]:
            yield random_bytes(MIB)
            cloud.tokens.known.clear()
            yield b"rest"

        reply = await streamed(client, f"{URL}/{id}/file", while_revoked(), broken=True)
        assert reply.status == 400
        assert files(cloud.runtime) == set()
        assert (await shown(cloud.user("p"), id))["status"] == "queued"


@in_loop
async def test_ossa_2016_006_an_active_image_never_waits_for_bytes_again() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await uploaded(client))["id"]
        for path, status in (("/locations/0", 403), ("/locations", 400)):
            assert (await patched(client, id, {"op": "remove", "path": path})).status == status
        assert (await put(client, id, b"other")).status == 409
        assert (await put(client, id, b"other", "stage")).status == 409
        assert (await shown(client, id))["status"] == "active"
        assert (await client.get(f"{URL}/{id}/file")).body == b"bytes"


@in_loop
async def test_ossa_2026_004_and_038_nothing_private_is_fetched_for_anybody() -> None:
    async with alone(SERVICE) as cloud:
        client = cloud.user("p")
        id = (await made(client))["id"]
        images = {"disk_format": "raw", "container_format": "bare"}
        admin = cloud.user("a", "admin")
        for host in ("169.254.169.254", "2130706433", "0x7f000001", "0177.1", "[::ffff:127.0.0.1]"):
            body = {"method": {"name": "web-download", "uri": f"http://{host}/"}}
            assert (await client.post(f"{URL}/{id}/import", body)).status == 400
            location = {"url": f"http://{host}/"}
            assert (await client.post(f"{URL}/{id}/locations", location)).status == 400
            asked = {"import_from": f"http://{host}/", "image_properties": images}
            task = {"type": "import", "input": asked}
            assert (await admin.post("/image/v2/tasks", task)).status == 400
        assert (await shown(client, id))["status"] == "queued"


@in_loop
async def test_ossa_2026_004_a_redirect_to_what_is_private_ends_an_import() -> None:
    with web_server({"/secret": b"secret"}) as inside:
        pages = {"/image": inside.url("/secret"), "/metadata": "http://169.254.169.254/"}
        with web_server(pages) as web:
            settings = ImageSettings(trusted_origins=web.origin)
            async with alone(SERVICE, settings=settings) as cloud:
                client = cloud.user("p")
                for path in pages:
                    id = (await made(client))["id"]
                    await imported(client, id, {"name": "web-download", "uri": web.url(path)})
                    task = await last_task(cloud, client, id)
                    assert "does not pass filtering" in task["message"]
                    assert (await shown(client, id))["status"] == "queued"
            assert inside.asked == []


@in_loop
async def test_ossa_2026_013_an_answer_without_end_stops_at_the_size_limit() -> None:
    with web_server({"/image": bytes(3 * MIB)}) as web:
        settings = ImageSettings(trusted_origins=web.origin, size_limit=MIB)
        async with alone(SERVICE, settings=settings) as cloud:
            client = cloud.user("p")
            id = (await made(client))["id"]
            await imported(client, id, {"name": "web-download", "uri": web.url()})
            assert (await last_task(cloud, client, id))["status"] == "failure"
            assert (await client.post(f"{URL}/{id}/locations", {"url": web.url()})).status == 202
            assert (await last_task(cloud, client, id))["status"] == "failure"
            assert files(cloud.runtime) == set()

"""Locations: bytes that stay on other people's servers, and what may be said of them."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from pileus.kernel.faults import Unavailable
from pileus.services.image import SERVICE
from pileus.services.image.contract import IMAGES
from pileus.services.image.settings import ImageSettings
from pileus.services.image.tests.given import (
    URL,
    V20,
    files,
    last_task,
    made,
    patched,
    put,
    qcow2,
    shown,
    uploaded,
)
from pileus.testing.alone import alone, in_loop
from pileus.testing.client import Client, Reply
from pileus.testing.web import Web, web_server

DATA = b"an image, somewhere else " * 40_000
SHA256 = hashlib.sha256(DATA).hexdigest()


def settings(web: Web, *, shows: bool = True) -> ImageSettings:
    return ImageSettings(trusted_origins=web.origin, show_multiple_locations=shows)


async def located(client: Client, id: str, url: str, **more: Any) -> Reply:
    return await client.post(f"{URL}/{id}/locations", {"url": url, **more})


def digest(value: str = SHA256, algo: str = "sha256") -> dict[str, str]:
    return {"os_hash_algo": algo, "os_hash_value": value}


def added(url: str, **more: Any) -> dict[str, Any]:
    return {"op": "add", "path": "/locations/-", "value": {"url": url, "metadata": {}, **more}}


@in_loop
async def test_an_image_whose_bytes_stay_elsewhere_is_hashed_and_downloaded_from_there() -> None:
    with web_server({"/image": DATA}) as web:
        async with alone(SERVICE, settings=settings(web)) as cloud:
            client, service = cloud.user("p"), cloud.user("s", "admin")
            id = (await made(client))["id"]
            assert (await located(client, id, web.url())).status == 202
            task = await last_task(cloud, client, id)
            assert (task["type"], task["status"]) == ("location_import", "success")
            image = await shown(client, id)
            assert (image["status"], image["stores"], image["size"]) == ("active", "web", len(DATA))
            assert image["os_hash_value"] == hashlib.sha512(DATA).hexdigest()
            assert image["checksum"] == hashlib.md5(DATA).hexdigest()
            assert (await client.get(f"{URL}/{id}/file")).body == DATA
            part = await client.get(f"{URL}/{id}/file", range="bytes=30-49")
            assert (part.status, part.body) == (206, DATA[30:50])
            assert files(cloud.runtime) == set()
            locations = await service.get(f"{URL}/{id}/locations")
            assert locations.json == [{"url": web.url(), "metadata": {"store": "web"}}]
            assert (await client.get(f"{URL}/{id}/locations")).status == 403
            assert (await located(client, id, web.url("/other"))).status == 409
            await cloud.keys()
            ticket = await cloud.runtime.contracts.get(IMAGES).ticket(id)
            assert (await cloud.client.get(ticket)).body == DATA


@in_loop
async def test_a_digest_that_is_told_is_held_against_the_bytes() -> None:
    with web_server({"/image": DATA}) as web:
        async with alone(SERVICE, settings=settings(web)) as cloud:
            client = cloud.user("p")
            id = (await made(client))["id"]
            for bad in (
                {"os_hash_value": SHA256},
                digest(algo="sha123"),
                digest(algo="sha512"),
                digest("zz"),
                digest() | {"more": 1},
            ):
                reply = await located(client, id, web.url(), validation_data=bad)
                assert reply.status == 400, bad
            wrong = digest("ab" * 32)
            assert (await located(client, id, web.url(), validation_data=wrong)).status == 202
            task = await last_task(cloud, client, id)
            assert task["status"] == "failure" and SHA256 in task["message"]
            image = await shown(client, id)
            assert (image["status"], image["checksum"], image["os_hash_algo"]) == (
                "queued",
                None,
                None,
            )
            assert image["stores"] == "web", "as upstream leaves it"
            assert (await client.get(f"{URL}/{id}/file")).status == 204
            right = await located(client, id, web.url(), validation_data=digest())
            assert right.status == 202
            assert (await last_task(cloud, client, id))["status"] == "success"
            image = await shown(client, id)
            assert (image["os_hash_algo"], image["os_hash_value"]) == ("sha256", SHA256)
            info = await cloud.runtime.contracts.get(IMAGES).image(
                cloud.tokens.known["member-of-p"], id
            )
            assert info.sha512 == "", "what is no sha512 is not held against one"


@in_loop
async def test_ossa_2024_004_bytes_that_were_changed_elsewhere_break_off() -> None:
    with web_server({"/image": DATA}) as web:
        async with alone(SERVICE, settings=settings(web)) as cloud:
            client = cloud.user("p")
            id = (await made(client))["id"]
            await located(client, id, web.url())
            await last_task(cloud, client, id)
            web.pages["/image"] = b"another image of that size".ljust(len(DATA), b"!")
            with pytest.raises(Unavailable, match="other bytes"):  # the connection is cut
                await client.get(f"{URL}/{id}/file")
            web.pages["/image"] = DATA[:100]
            with pytest.raises(Unavailable, match="gives 100 bytes"):
                await client.get(f"{URL}/{id}/file")


@in_loop
async def test_bytes_elsewhere_that_nobody_may_open_are_known_to_be_so() -> None:
    with web_server({"/image": qcow2(backing=b"/etc/passwd")}) as web:
        async with alone(SERVICE, settings=settings(web)) as cloud:
            client = cloud.user("p")
            for add in ("located", "patched"):
                id = (await made(client, disk_format="qcow2"))["id"]
                if add == "located":
                    await located(client, id, web.url())
                    await last_task(cloud, client, id)
                else:
                    assert (await patched(client, id, added(web.url()))).status == 200
                info = await cloud.runtime.contracts.get(IMAGES).image(
                    cloud.tokens.known["member-of-p"], id
                )
                assert "backing file" in info.unsafe


@in_loop
async def test_patch_sets_locations_where_they_are_shown() -> None:
    with web_server({"/image": DATA, "/new": DATA}) as web:
        async with alone(SERVICE, settings=settings(web)) as cloud:
            client, admin = cloud.user("p"), cloud.user("p", "admin")
            image = await made(client)
            assert image["locations"] == []
            id = image["id"]
            first = {"url": web.url(), "metadata": {"foo": "bar"}}
            change = {"add": "/locations/-", "value": first}
            assert (await patched(client, id, change, kind=V20)).status == 200
            image = await shown(client, id)
            assert (image["status"], image["size"]) == ("active", len(DATA))
            assert image["os_hash_algo"] is image["os_hash_value"] is image["checksum"] is None
            assert image["locations"] == [
                {"url": web.url(), "metadata": {"foo": "bar", "store": "web"}}
            ]
            assert (await patched(client, id, added(web.url()))).status == 400
            assert (await patched(client, id, added(web.url("/new")))).status == 200
            both = (await shown(client, id))["locations"]
            assert [one["url"] for one in both] == [web.url(), web.url("/new")]
            both[0]["metadata"]["date"] = "2015-10-15"
            change = {"op": "replace", "path": "/locations", "value": both}
            assert (await patched(client, id, change)).json["locations"] == both
            for value in (both[:1], [both[0], {"url": web.url("/image?3"), "metadata": {}}]):
                change = {"op": "replace", "path": "/locations", "value": value}
                assert (await patched(client, id, change)).status == 400
            remove = {"op": "remove", "path": "/locations/0"}
            assert (await patched(client, id, remove)).status == 403
            assert (await patched(admin, id, {**remove, "path": "/locations/7"})).status == 400
            assert (await patched(admin, id, remove)).json["locations"] == both[1:]
            assert (await patched(admin, id, remove)).status == 403
            assert (await shown(cloud.user("p", "reader"), id))["locations"] == both[1:]


@in_loop
async def test_an_uploaded_image_has_one_location_that_tells_no_path() -> None:
    with web_server({"/image": b"bytes"}) as web:
        async with alone(SERVICE, settings=settings(web)) as cloud:
            client, admin = cloud.user("p"), cloud.user("p", "admin")
            image = await uploaded(client)
            url = f"store://local/{image['id']}"
            assert image["locations"] == [{"url": url, "metadata": {"store": "local"}}]
            assert (await patched(client, image["id"], added(web.url()))).status == 200
            remove = {"op": "remove", "path": "/locations/0"}
            assert (await patched(admin, image["id"], remove)).status == 403
            assert (await admin.delete(f"/image/v2/stores/local/{image['id']}")).status == 204
            assert (await client.get(f"{URL}/{image['id']}/file")).body == b"bytes"


@in_loop
async def test_what_is_said_of_a_location_may_not_differ_from_what_is_known() -> None:
    with web_server({"/image": DATA, "/new": DATA}) as web:
        async with alone(SERVICE, settings=settings(web)) as cloud:
            client = cloud.user("p")
            id = (await made(client))["id"]
            said = {"checksum": "1" * 32, **digest("deadbeef" * 16, "sha512")}
            for bad in (
                digest("deadbeef" * 8),
                digest("deadbeef", "sha512"),
                {**said, "checksum": "1"},
            ):
                reply = await patched(client, id, added(web.url(), validation_data=bad))
                assert reply.status == 409, bad
            reply = await patched(client, id, added(web.url(), validation_data=said))
            assert reply.status == 200
            for name, value in (("checksum", "2" * 32), ("os_hash_value", "beefdead" * 16)):
                other = added(web.url("/new"), validation_data={**said, name: value})
                assert (await patched(client, id, other)).status == 409
            assert (await patched(client, id, added(web.url("/new"), validation_data=said))).status
            image = await shown(client, id)
            assert len(image["locations"]) == 2
            assert (image["checksum"], image["os_hash_value"]) == ("1" * 32, "deadbeef" * 16)
            assert "validation_data" not in image["locations"][0]


@in_loop
async def test_locations_have_a_number_and_a_form() -> None:
    pages = {f"/{n}": DATA for n in range(11)}
    with web_server(pages) as web:
        async with alone(SERVICE, settings=settings(web)) as cloud:
            client = cloud.user("p")
            id = (await made(client))["id"]
            bare = (await client.post(URL, {"name": "without formats"})).json["id"]
            assert (await patched(client, bare, added(web.url("/0")))).status == 400
            assert (await located(client, bare, web.url("/0"))).status == 400
            value: Any
            for value in ("x", [], {"url": web.url("/0")}, {"metadata": {}}, None):
                change = {"op": "add", "path": "/locations/-", "value": value}
                assert (await patched(client, id, change)).status == 400, value
            changes = [added(web.url(path)) for path in pages]
            assert (await patched(client, id, *changes)).status == 413
            assert (await patched(client, id, *changes[:10])).status == 200
            change = {**changes[10], "path": "/locations/x"}
            assert (await patched(client, id, change)).status == 400
            assert (await patched(client, id, {"op": "add", "path": "/locations"})).status == 400


@in_loop
async def test_locations_are_not_set_while_bytes_come_in() -> None:
    with web_server({"/image": DATA}) as web:
        async with alone(SERVICE, settings=settings(web)) as cloud:
            client = cloud.user("p")
            id = (await made(client))["id"]
            await put(client, id, b"bytes", "stage")
            assert (await patched(client, id, added(web.url()))).status == 409
            assert (await located(client, id, web.url())).status == 409


@pytest.mark.parametrize("op", ["add", "replace", "remove"])
@in_loop
async def test_locations_that_are_not_shown_are_not_set_either(op: str) -> None:
    with web_server({"/image": DATA}) as web:
        async with alone(SERVICE, settings=settings(web, shows=False)) as cloud:
            client, admin = cloud.user("p"), cloud.user("p", "admin")
            image = await uploaded(client)
            assert "locations" not in image
            value = [{"url": web.url(), "metadata": {}}]
            path = "/locations" if op == "replace" else "/locations/0"
            change = {"op": op, "path": path, "value": value if op == "replace" else value[0]}
            for who in (client, admin):
                reply = await patched(who, image["id"], change)
                assert (reply.status, b"invisible" in reply.body) == (403, True)
            assert web.asked == []

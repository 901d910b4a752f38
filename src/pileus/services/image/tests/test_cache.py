"""The cache of images, for administrators."""

from __future__ import annotations

import pytest

from pileus.kernel.faults import Unavailable
from pileus.services.image import SERVICE, cache
from pileus.services.image.settings import ImageSettings
from pileus.services.image.tests.given import URL, keeping, made, uploaded
from pileus.testing.alone import Alone, alone, in_loop
from pileus.testing.client import Client

CACHE = "/image/v2/cache"


async def filled(cloud: Alone, admin: Client, *ids: str) -> None:
    for id in ids:
        assert (await admin.put(f"{CACHE}/{id}", None)).status == 202
    await cache.fill(cloud.runtime, "")


async def cached(admin: Client) -> set[str]:
    return {one["image_id"] for one in (await admin.get(CACHE)).json["cached_images"]}


@in_loop
async def test_a_cached_image_is_read_out_of_the_cache_and_counted() -> None:
    async with alone(SERVICE) as cloud:
        client, admin = cloud.user("p"), cloud.user("a", "admin")
        id = (await uploaded(client))["id"]
        assert (await admin.put(f"{CACHE}/{id}", None)).status == 202
        assert (await admin.get(CACHE)).json == {"cached_images": [], "queued_images": [id]}
        assert (await admin.get(f"{CACHE}/nodes/{id}")).json == []
        await cache.fill(cloud.runtime, "")
        assert (await admin.get(f"{CACHE}/nodes/{id}")).json == ["http://cloud.test:5000/image"]
        (cloud.runtime.data / "images" / id).unlink()
        assert (await client.get(f"{URL}/{id}/file")).body == b"bytes"
        assert (await cloud.user("q").get(f"{URL}/{id}/file")).status == 404
        assert (await cloud.user("p", "reader").get(f"{URL}/{id}/file")).status == 403
        (one,) = (await admin.get(CACHE)).json["cached_images"]
        assert (one["image_id"], one["hits"], one["size"]) == (id, 1, 5)
        assert one["last_accessed"] >= one["last_modified"] > 0
        assert (await admin.delete(f"{CACHE}/{id}")).status == 204
        assert (await admin.get(CACHE)).json == {"cached_images": [], "queued_images": []}
        assert (await client.get(f"{URL}/{id}/file")).status == 503


@in_loop
async def test_only_administrators_cache_and_only_active_images() -> None:
    async with alone(SERVICE) as cloud:
        client, admin = cloud.user("p"), cloud.user("a", "admin")
        id, queued = (await uploaded(client))["id"], (await made(client))["id"]
        for method, path in (
            ("GET", ""),
            ("DELETE", ""),
            ("PUT", f"/{id}"),
            ("DELETE", f"/{id}"),
            ("POST", "/clean"),
            ("POST", "/prune"),
            ("GET", f"/nodes/{id}"),
        ):
            assert (await client.request(method, CACHE + path)).status == 403, path
        assert (await admin.put(f"{CACHE}/{queued}", None)).status == 400
        assert (await admin.put(f"{CACHE}/nowhere", None)).status == 404


@in_loop
async def test_the_cache_and_its_queue_are_cleared_apart_or_together() -> None:
    async with alone(SERVICE) as cloud:
        client, admin = cloud.user("p"), cloud.user("a", "admin")
        ids = [(await uploaded(client))["id"] for _ in range(2)]
        header = "x_image_cache_clear_target"
        await filled(cloud, admin, ids[0])
        await admin.put(f"{CACHE}/{ids[1]}", None)
        assert (await admin.delete(CACHE, **{header: "all"})).status == 400
        assert (await admin.delete(CACHE, **{header: "queue"})).status == 204
        left = (await admin.get(CACHE)).json
        assert ([c["image_id"] for c in left["cached_images"]], left["queued_images"]) == (
            [ids[0]],
            [],
        )
        assert (await admin.delete(CACHE, **{header: "cache"})).status == 204
        assert await cached(admin) == set()
        assert await keeping(cloud).cache.keys(-60) == []


@in_loop
async def test_an_image_that_goes_leaves_the_cache() -> None:
    async with alone(SERVICE) as cloud:
        client, admin = cloud.user("p"), cloud.user("a", "admin")
        gone, off, stays = [(await uploaded(client))["id"] for _ in range(3)]
        await filled(cloud, admin, gone, off, stays)
        await client.delete(f"{URL}/{gone}")
        assert sorted(await keeping(cloud).cache.keys(-60)) == sorted([off, stays])
        await client.post(f"{URL}/{off}/actions/deactivate")
        assert (await admin.post(f"{CACHE}/clean")).status == 200
        assert await cached(admin) == {stays}


@pytest.mark.parametrize("limit,left", [(10, 2), (9, 1), (0, 0)])
@in_loop
async def test_pruning_drops_first_what_nobody_asked_for(limit: int, left: int) -> None:
    async with alone(SERVICE, settings=ImageSettings(cache_limit=limit)) as cloud:
        client, admin = cloud.user("p"), cloud.user("a", "admin")
        ids = [(await uploaded(client))["id"] for _ in range(2)]
        await filled(cloud, admin, *ids)
        for id in ids:
            await client.get(f"{URL}/{id}/file")
        await cloud.runtime.store.sync()
        pruned = (await admin.post(f"{CACHE}/prune")).json
        assert pruned == {"total_files_pruned": 2 - left, "total_bytes_pruned": 5 * (2 - left)}
        assert await cached(admin) == set(ids[2 - left :])


@in_loop
async def test_an_image_that_can_not_be_read_holds_up_no_other() -> None:
    async with alone(SERVICE) as cloud:
        client, admin = cloud.user("p"), cloud.user("a", "admin")
        ids = sorted([(await uploaded(client))["id"] for _ in range(2)])
        (cloud.runtime.data / "images" / ids[0]).unlink()
        with pytest.raises(Unavailable):
            await filled(cloud, admin, *ids)
        assert await cached(admin) == {ids[1]}
        assert (await admin.get(CACHE)).json["queued_images"] == [ids[0]]

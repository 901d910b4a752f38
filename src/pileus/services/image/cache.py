"""The cache: images that administrators want at hand, though their bytes lie far away. Image API v2, "Cache manage".

Whoever downloads one is asked by policy each time, cached or not.
"""

from __future__ import annotations

from typing import Any

from pileus.kernel.faults import Fault, Invalid
from pileus.kernel.resources import Context, operation
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Page, Record, Table

from .images.operations import ImageResource
from .keeping import kept
from .record import ACTIVE, IMAGES, Image
from .stores import Blob

FILL = "image.cache"  # the reconciler's name
_ADMIN = "rule:context_is_admin"
_ALL = 10_000


class CachedImage(Record, kw_only=True, frozen=True):
    """Its id is the image's. Queued until it `is_cached`. Times in seconds since 1970."""

    is_cached: bool = False
    size: int = 0
    hits: int = 0
    last_accessed: float = 0.0
    last_modified: float = 0.0


CACHED = Table("image_cached", CachedImage)


class ImageCache(ImageResource):
    rules = {
        "cache_image": _ADMIN,
        "cache_list": _ADMIN,
        "cache_delete": _ADMIN,
        "cache_clean": _ADMIN,
        "cache_prune": _ADMIN,
        "list_cached_nodes": _ADMIN,
    }

    @operation("GET", "/cache", "cache_list")
    async def index(self, ctx: Context) -> Any:
        rows = await _rows(ctx.runtime)
        return {
            "cached_images": [_view(row) for row in rows if row.is_cached],
            "queued_images": [row.id for row in rows if not row.is_cached],
        }

    @operation("PUT", "/cache/{image_id}", "cache_image", status=202)
    async def queue(self, ctx: Context, image: Image) -> None:
        if image.status != ACTIVE:
            raise Invalid("Only images with status active can be targeted for queueing")
        async with ctx.runtime.store.tx() as tx:
            if await CACHED.find(tx, image.id) is None:
                await CACHED.insert(tx, CachedImage(id=image.id))
        ctx.runtime.reconcilers.hint(FILL)

    @operation("DELETE", "/cache", "cache_delete")
    async def clear(self, ctx: Context) -> None:
        target = ctx.headers.get("x-image-cache-clear-target", "").lower()
        if target not in ("", "cache", "queue"):
            raise Invalid(
                "If provided 'x-image-cache-clear-target' must be 'cache', 'queue' or empty string."
            )
        for row in await _rows(ctx.runtime):
            if target in ("", "cache" if row.is_cached else "queue"):
                await drop(ctx.runtime, row)

    @operation("DELETE", "/cache/{image_id}", "cache_delete")
    async def delete(self, ctx: Context, image: Image) -> None:
        row = await CACHED.find(ctx.runtime.store, image.id)
        if row is not None:
            await drop(ctx.runtime, row)

    @operation("POST", "/cache/clean", "cache_clean", status=200)
    async def clean(self, ctx: Context) -> None:
        """Drops what belongs to no image that may be downloaded."""
        for row in await _rows(ctx.runtime):
            image = await IMAGES.find(ctx.runtime.store, row.id)
            if image is None or image.status != ACTIVE:
                await drop(ctx.runtime, row)

    @operation("POST", "/cache/prune", "cache_prune", status=200)
    async def prune(self, ctx: Context) -> Any:
        """Drops those that nobody asked for the longest, until the rest is within the limit."""
        rows = [row for row in await _rows(ctx.runtime) if row.is_cached]
        over = sum(row.size for row in rows) - kept(ctx.runtime).settings.cache_limit
        files = size = 0
        for row in sorted(rows, key=lambda r: r.last_accessed or r.last_modified):
            if over <= size:
                break
            await drop(ctx.runtime, row)
            files, size = files + 1, size + row.size
        return {"total_files_pruned": files, "total_bytes_pruned": size}

    @operation("GET", "/cache/nodes/{image_id}", "list_cached_nodes")
    async def nodes(self, ctx: Context, image: Image) -> Any:
        """All controls share one cache, at one address."""
        row = await CACHED.find(ctx.runtime.store, image.id)
        return [ctx.root + ctx.service.prefix] if row and row.is_cached else []


async def _rows(runtime: Runtime) -> list[CachedImage]:
    await runtime.store.visible()
    return await CACHED.list(runtime.store, Page({}, (("id", False),), limit=_ALL))


def _view(row: CachedImage) -> dict[str, Any]:
    return {
        "image_id": row.id,
        "hits": row.hits,
        "last_accessed": row.last_accessed,
        "last_modified": row.last_modified,
        "size": row.size,
    }


async def drop(runtime: Runtime, row: CachedImage) -> None:
    async with runtime.store.tx() as tx:
        if (found := await CACHED.find(tx, row.id)) is not None:
            await CACHED.delete(tx, found)
    await kept(runtime).cache.delete(row.id)


async def opened(runtime: Runtime, image: Image) -> Blob:
    """The bytes, out of the cache if they are there. Raises Unavailable."""
    keeping = kept(runtime)
    try:
        blob = await keeping.cache.open(image.id)
    except FileNotFoundError:
        return await keeping.open(image)
    async with runtime.store.tx(wait=False) as tx:
        if (row := await CACHED.find(tx, image.id)) is not None:
            now = runtime.world.clock.time()
            await CACHED.change(tx, row, hits=row.hits + 1, last_accessed=now)
    return blob


async def fill(runtime: Runtime, key: str) -> None:
    """Every queued image is in the cache; one that is gone is not queued any more.

    One that can't be read holds up no other, and is tried again. Raises Unavailable, TooLarge then.
    """
    failed: Fault | None = None
    for row in await _rows(runtime):
        image = await IMAGES.find(runtime.store, row.id)
        if image is None:
            await drop(runtime, row)
        elif not row.is_cached:
            try:
                await _fetch(runtime, row, image)
            except Fault as e:
                failed = e
    if failed is not None:
        raise failed


async def _fetch(runtime: Runtime, row: CachedImage, image: Image) -> None:
    keeping = kept(runtime)
    await keeping.copy(image, keeping.cache)
    async with runtime.store.tx() as tx:
        found = await CACHED.find(tx, row.id)
        if found is not None:
            now = runtime.world.clock.time()
            size = image.size or 0
            await CACHED.change(tx, found, is_cached=True, size=size, last_modified=now)
    if found is None:  # somebody changed his mind meanwhile
        await keeping.cache.delete(image.id)

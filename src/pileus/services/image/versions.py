"""The version documents of image: choices at the root, the same as a list at `/versions`."""

from __future__ import annotations

from typing import Any

from pileus.kernel.resources import PUBLIC, Context, Resource, operation

from .record import IMAGES, Image

_MINORS = range(18, -1, -1)


class Versions(Resource[Image]):
    table = IMAGES
    api = ""

    @operation("GET", "", PUBLIC, status=300)
    async def choices(self, ctx: Context) -> Any:
        return _versions(ctx)

    @operation("GET", "/versions", PUBLIC)
    async def index(self, ctx: Context) -> Any:
        return _versions(ctx)


def _versions(ctx: Context) -> Any:
    links = [{"rel": "self", "href": ctx.root + ctx.service.prefix + "/v2/"}]
    found = [
        {"id": f"v2.{m}", "status": "CURRENT" if m == _MINORS[0] else "SUPPORTED", "links": links}
        for m in _MINORS
    ]
    return {"versions": found}

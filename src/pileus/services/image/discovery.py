"""What this cloud's image service offers: import methods, stores, usage. Image API v2, "Discovery"."""

from __future__ import annotations

from typing import Any

from pileus.kernel import quota
from pileus.kernel.resources import Context, Resource, operation

from .keeping import METHODS
from .record import IMAGES, STORE, Image

DISCOVER = "image:discover"


class Discovery(Resource[Image]):
    table = IMAGES
    rules = {DISCOVER: ""}  # whoever has a token; upstream asks no policy here

    @operation("GET", "/info/import", DISCOVER)
    async def methods(self, ctx: Context) -> Any:
        described = {
            "description": "Import methods available.",
            "type": "array",
            "value": METHODS,
        }
        return {"import-methods": described}

    @operation("GET", "/info/stores", DISCOVER)
    async def stores(self, ctx: Context) -> Any:
        store = {"id": STORE, "description": "Files of the control", "default": "true"}
        return {"stores": [store]}

    @operation("GET", "/info/usage", DISCOVER)
    async def usage(self, ctx: Context) -> Any:
        store, project = ctx.runtime.store, ctx.caller.project_id
        used = await quota.usage(store, "image", project)
        shown = {}
        for q in IMAGES.quotas:
            limit = await quota.limit_of(store, "image", q.name, project, q.default)
            shown[q.name] = {"usage": used.get(q.name, 0), "limit": limit}
        return {"usage": shown}

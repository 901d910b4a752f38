"""What this cloud's image service offers: import methods, stores, usage. Image API v2, "Discovery"."""

from __future__ import annotations

from typing import Any

from pileus.kernel import quota
from pileus.kernel.resources import Context, Resource, operation

from .keeping import kept
from .record import IMAGES, WEB, Image
from .settings import words

DISCOVER = "image:discover"


class Discovery(Resource[Image]):
    table = IMAGES
    rules = {
        DISCOVER: "",  # whoever has a token; upstream asks no policy here
        "stores_info_detail": "role:service or role:admin",
    }

    @operation("GET", "/info/import", DISCOVER)
    async def methods(self, ctx: Context) -> Any:
        described = {
            "description": "Import methods available.",
            "type": "array",
            "value": words(kept(ctx.runtime).settings.import_methods),
        }
        return {"import-methods": described}

    @operation("GET", "/info/stores", DISCOVER)
    async def stores(self, ctx: Context) -> Any:
        return {"stores": _stores(ctx)}

    @operation("GET", "/info/stores/detail", "stores_info_detail")
    async def stores_detail(self, ctx: Context) -> Any:
        shown = [
            {
                **store,
                "type": "http" if store["id"] == WEB else "file",
                "weight": 0,
                "properties": {},
            }
            for store in _stores(ctx)
        ]
        return {"stores": shown}

    @operation("GET", "/info/usage", DISCOVER)
    async def usage(self, ctx: Context) -> Any:
        store, project = ctx.runtime.store, ctx.caller.project_id
        used = await quota.usage(store, "image", project)
        shown = {}
        for q in IMAGES.quotas:
            limit = await quota.limit_of(store, "image", q.name, project, q.default)
            shown[q.name] = {"usage": used.get(q.name, 0), "limit": limit}
        return {"usage": shown}


def _stores(ctx: Context) -> list[dict[str, Any]]:
    keeping = kept(ctx.runtime)
    found: list[dict[str, Any]] = [
        {"id": name, "description": "Files of the control"} for name in keeping.stores
    ]
    found[0]["default"] = "true"
    return [*found, {"id": WEB, "description": "Other people's servers", "read-only": "true"}]

"""Version documents and the list of core resources."""

from __future__ import annotations

from typing import Any

from pileus.kernel.resources import PUBLIC, Context, Resource, operation

_CORE = ("subnet", "network", "port")


class Versions(Resource[Any]):
    api = ""

    @operation("GET", "", PUBLIC)
    async def index(self, ctx: Context) -> Any:
        href = f"{ctx.root}{ctx.service.prefix}/v2.0/"
        version = {"id": "v2.0", "status": "CURRENT", "links": [{"rel": "self", "href": href}]}
        return {"versions": [version]}


class CoreResources(Resource[Any]):
    @operation("GET", "", PUBLIC)
    async def index(self, ctx: Context) -> Any:
        return {
            "resources": [
                {
                    "name": name,
                    "collection": f"{name}s",
                    "links": [{"rel": "self", "href": f"{ctx.base}/{name}s"}],
                }
                for name in _CORE
            ]
        }

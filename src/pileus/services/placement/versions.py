"""The version document of placement."""

from __future__ import annotations

from typing import Any

from pileus.kernel.resources import PUBLIC, Context, Resource, operation

from .answers import answer
from .providers import PROVIDERS, ResourceProvider

LOWEST, HIGHEST = "1.0", "1.39"


class Versions(Resource[ResourceProvider]):
    table = PROVIDERS
    api = ""

    @operation("GET", "", PUBLIC)
    async def index(self, ctx: Context) -> Any:
        version = {
            "id": f"v{LOWEST}",
            "max_version": HIGHEST,
            "min_version": LOWEST,
            "status": "CURRENT",
            "links": [{"rel": "self", "href": ""}],
        }
        return answer(ctx, {"versions": [version]})

"""The version documents, for which no token is needed."""

from __future__ import annotations

from typing import Any

from pileus.kernel.resources import PUBLIC, Answer, Context, Resource, operation
from pileus.kernel.versions import Microversions

LOW, HIGH = "3.0", "3.71"
VERSIONS = Microversions(("volume",), LOW, HIGH)
_MEDIA = "application/vnd.openstack.volume+json;version=3"


def _document(ctx: Context) -> dict[str, Any]:
    guide = {"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/"}
    return {
        "id": "v3.0",
        "status": "CURRENT",
        "version": HIGH,
        "min_version": LOW,
        "updated": "2023-08-31T00:00:00Z",
        "links": [guide, {"rel": "self", "href": f"{ctx.root}{ctx.service.prefix}/v3/"}],
        "media-types": [{"base": "application/json", "type": _MEDIA}],
    }


class Versions(Resource[Any]):
    api = ""

    @operation("GET", "", PUBLIC, status=300)
    async def choices(self, ctx: Context) -> dict[str, Any]:
        return {"versions": [_document(ctx)]}

    @operation("GET", "/v3", PUBLIC)
    async def current(self, ctx: Context) -> Answer:
        return Answer({"versions": [_document(ctx)]})

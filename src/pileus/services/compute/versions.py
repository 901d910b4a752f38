"""The version documents, for which no token is needed, and the versions that views change at."""

from __future__ import annotations

from typing import Any

from pileus.kernel.resources import PUBLIC, Context, Resource, operation
from pileus.kernel.schema import boundaries
from pileus.kernel.versions import Microversions
from pileus.services.compute.flavors import FLAVORS
from pileus.services.compute.servers.views import ServerView

LOW, HIGH = "2.1", "2.104"
_MEDIA = "application/vnd.openstack.compute+json;version="
# Where a server's view changes in what a field holds, not in which fields there are.
_INSIDE = ((2, 3), (2, 47), (2, 69), (2, 98))

VERSIONS = Microversions(
    ("compute",),
    LOW,
    HIGH,
    legacy="X-OpenStack-Nova-API-Version",
    boundaries=sorted({*boundaries(ServerView), *_INSIDE}),
)


def _document(root: str, name: str) -> dict[str, Any]:
    old = name == "v2"
    return {
        "id": "v2.0" if old else "v2.1",
        "status": "SUPPORTED" if old else "CURRENT",
        "version": "" if old else HIGH,
        "min_version": "" if old else LOW,
        "updated": "2011-01-21T11:33:21Z" if old else "2013-07-23T11:33:21Z",
        "links": [{"rel": "self", "href": f"{root}/compute/{name}/"}],
    }


def _detailed(root: str, name: str) -> dict[str, Any]:
    found = _document(root, name)
    manual = {"rel": "describedby", "type": "text/html", "href": "http://docs.openstack.org/"}
    media = {"base": "application/json", "type": _MEDIA + ("2" if name == "v2" else "2.1")}
    return found | {"links": [*found["links"], manual], "media-types": [media]}


class ComputeVersions(Resource[Any]):
    table = FLAVORS  # it names no record
    api = ""

    @operation("GET", "", PUBLIC)
    async def index(self, ctx: Context) -> dict[str, Any]:
        return {"versions": [_document(ctx.root, name) for name in ("v2", "v2.1")]}

    @operation("GET", "/v2.1", PUBLIC)
    async def current(self, ctx: Context) -> dict[str, Any]:
        return {"version": _detailed(ctx.root, "v2.1")}

    @operation("GET", "/v2", PUBLIC)
    async def old(self, ctx: Context) -> dict[str, Any]:
        return {"version": _detailed(ctx.root, "v2")}

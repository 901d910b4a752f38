"""Version documents, in JSON and as JSON Home: https://docs.openstack.org/api-ref/identity/v3/#api-versions"""

from __future__ import annotations

from typing import Any

import msgspec

from pileus.kernel.resources import PUBLIC, Answer, Context, operation
from pileus.kernel.store import Record

from .json_home import home
from .wire import Noun

_HOME = "application/json-home"


class Discovery(Noun[Record]):
    api = ""

    @operation("GET", "", PUBLIC)
    async def versions(self, ctx: Context) -> Answer:
        if _prefers_home(ctx):
            return _home(ctx, "/v3")
        document = {"versions": {"values": [_v3(ctx)]}}
        return Answer(document, status=300, headers={"location": _href(ctx)})

    @operation("GET", "/v3", PUBLIC)
    async def version(self, ctx: Context) -> Answer:
        return _home(ctx, "") if _prefers_home(ctx) else Answer({"version": _v3(ctx)})


def _href(ctx: Context) -> str:
    return f"{ctx.base}/"


def _v3(ctx: Context) -> dict[str, Any]:
    return {
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": _href(ctx)}],
        "media-types": [
            {"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}
        ],
    }


def _prefers_home(ctx: Context) -> bool:
    """Whether the Accept header names JSON Home, and JSON itself not before it."""
    accept = ctx.headers.get("accept", "")
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    for kind in kinds:
        if kind in ("application/json", "*/*", "application/*"):
            return False
        if kind == _HOME:
            return True
    return False


def _home(ctx: Context, under: str) -> Answer:
    root = ctx.service.prefix + ctx.service.api
    paths = (op.path.removeprefix(root) for r, op in ctx.service.operations() if r.api is None)
    return Answer(msgspec.json.encode(home(paths, under)), content_type=_HOME)

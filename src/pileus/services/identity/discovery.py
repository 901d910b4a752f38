"""Version documents, in JSON and as JSON Home: https://docs.openstack.org/api-ref/identity/v3/#api-versions"""

from __future__ import annotations

from typing import Any

import msgspec

from pileus.kernel.resources import PUBLIC, Answer, Context, operation
from pileus.kernel.store import Record

from .wire import Noun

_HOME = "application/json-home"
_REL = "https://docs.openstack.org/api/openstack-identity/3"


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
    """Every path of this service as JSON Home (draft-nottingham-json-home) names it."""
    found: dict[str, Any] = {}
    for resource, op in ctx.service.operations():
        if resource.api is not None:
            continue
        path = op.path.removeprefix(ctx.service.prefix + ctx.service.api)
        key = "href-template" if "{" in path else "href"
        entry: dict[str, Any] = {key: under + path}
        if key == "href-template":
            names = [p[1:-1] for p in path.split("/") if p.startswith("{")]
            entry["href-vars"] = {n: f"{_REL}/param/{n}" for n in names}
        found.setdefault(f"{_REL}/rel/{_relation(path)}", entry)
    return Answer(msgspec.json.encode({"resources": found}), content_type=_HOME)


def _relation(path: str) -> str:
    """`/projects/{project_id}/users/{user_id}/roles` -> `project_user_roles`."""
    parts = [p for p in path.split("/") if p]
    words = []
    for n, part in enumerate(parts):
        if part.startswith("{"):
            continue
        single = n + 1 < len(parts) and parts[n + 1].startswith("{")
        words.append(part.removesuffix("s") if single else part)
    return "_".join(words)

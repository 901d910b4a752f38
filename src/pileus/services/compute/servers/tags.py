"""Tags of a server, since 2.26. https://docs.openstack.org/api-ref/compute/#server-tags-servers-tags"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pileus.kernel.faults import Conflict, Invalid, NotFound
from pileus.kernel.resources import Answer, Context, operation
from pileus.kernel.schema import Body
from pileus.services.compute import checks
from pileus.services.compute.server import SERVERS, Server
from pileus.services.compute.servers import states
from pileus.services.compute.servers.operations import MEMBER, READER, OfServer

_RULE = "os_compute_api:os-server-tags:"
_ALL = "/servers/{server_id}/tags"
_ONE = _ALL + "/{tag}"
_CHANGEABLE = frozenset((states.ACTIVE, states.PAUSED, states.STOPPED))


class TagsBody(Body):
    tags: list[str]


class ServerTags(OfServer):
    rules: ClassVar[Mapping[str, str]] = {
        _RULE + "index": READER,
        _RULE + "show": READER,
        _RULE + "update": MEMBER,
        _RULE + "update_all": MEMBER,
        _RULE + "delete": MEMBER,
        _RULE + "delete_all": MEMBER,
    }

    @operation("GET", _ALL, _RULE + "index", since="2.26")
    async def index(self, ctx: Context, server: Server) -> dict[str, Any]:
        return {"tags": server.tags}

    @operation("GET", _ONE, _RULE + "show", since="2.26", status=204)
    async def show(self, ctx: Context, server: Server, tag: str) -> None:
        _must_have(server, tag)

    @operation("PUT", _ONE, _RULE + "update", since="2.26")
    async def update(self, ctx: Context, server: Server, tag: str) -> Answer:
        _changeable(server, "update tag")
        checks.tag_of(tag)
        if tag in server.tags:
            return Answer(status=204)
        if len(server.tags) >= checks.TAG_LIMIT:
            raise Invalid(f"The number of tags exceeded the per-server limit {checks.TAG_LIMIT}")
        await _set(ctx, server, [*server.tags, tag])
        return Answer(
            status=201, headers={"location": f"{ctx.base}/servers/{server.id}/tags/{tag}"}
        )

    @operation("PUT", _ALL, _RULE + "update_all", since="2.26")
    async def update_all(self, ctx: Context, server: Server, body: TagsBody) -> dict[str, Any]:
        _changeable(server, "update tags")
        tags = checks.tags(body.tags)
        await _set(ctx, server, tags)
        return {"tags": tags}

    @operation("DELETE", _ONE, _RULE + "delete", since="2.26", status=204)
    async def delete(self, ctx: Context, server: Server, tag: str) -> None:
        _changeable(server, "delete tag")
        _must_have(server, tag)
        await _set(ctx, server, [t for t in server.tags if t != tag])

    @operation("DELETE", _ALL, _RULE + "delete_all", since="2.26", status=204)
    async def delete_all(self, ctx: Context, server: Server) -> None:
        _changeable(server, "delete tags")
        await _set(ctx, server, [])


def _changeable(server: Server, verb: str) -> None:
    if server.vm_state not in _CHANGEABLE:
        raise Conflict(
            f"Cannot '{verb}' instance {server.id} while it is in vm_state {server.vm_state}"
        )


def _must_have(server: Server, tag: str) -> None:
    if tag not in server.tags:
        raise NotFound(f"Server {server.id} has no tag '{tag}'")


async def _set(ctx: Context, server: Server, tags: list[str]) -> None:
    async with ctx.runtime.store.tx() as tx:
        await SERVERS.change(tx, server, tags=tags)

"""Metadata of a server. https://docs.openstack.org/api-ref/compute/#server-metadata-servers-metadata"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pileus.kernel.events import emit
from pileus.kernel.faults import Conflict, Forbidden, Invalid, NotFound
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import Body
from pileus.services.compute import checks
from pileus.services.compute.server import SERVERS, Server
from pileus.services.compute.servers import states
from pileus.services.compute.servers.operations import MEMBER, READER, OfServer, unlocked

_RULE = "os_compute_api:server-metadata:"
_ALL = "/servers/{server_id}/metadata"
_ONE = _ALL + "/{key}"
_CHANGEABLE = frozenset((states.ACTIVE, states.PAUSED, states.STOPPED))


class MetadataBody(Body):
    metadata: dict[str, str]


class MetaBody(Body):
    meta: dict[str, str]


class ServerMetadata(OfServer):
    rules: ClassVar[Mapping[str, str]] = {
        _RULE + "index": READER,
        _RULE + "show": READER,
        _RULE + "create": MEMBER,
        _RULE + "update_all": MEMBER,
        _RULE + "update": MEMBER,
        _RULE + "delete": MEMBER,
    }

    @operation("GET", _ALL, _RULE + "index")
    async def index(self, ctx: Context, server: Server) -> dict[str, Any]:
        return {"metadata": server.metadata}

    @operation("POST", _ALL, _RULE + "create", status=200)
    async def create(self, ctx: Context, server: Server, body: MetadataBody) -> dict[str, Any]:
        return {"metadata": await _change(ctx, server, server.metadata | body.metadata)}

    @operation("PUT", _ALL, _RULE + "update_all")
    async def update_all(self, ctx: Context, server: Server, body: MetadataBody) -> dict[str, Any]:
        return {"metadata": await _change(ctx, server, body.metadata)}

    @operation("GET", _ONE, _RULE + "show")
    async def show(self, ctx: Context, server: Server, key: str) -> dict[str, Any]:
        return {"meta": {key: _value(server, key)}}

    @operation("PUT", _ONE, _RULE + "update")
    async def update(
        self, ctx: Context, server: Server, key: str, body: MetaBody
    ) -> dict[str, Any]:
        if list(body.meta) != [key]:
            raise Invalid("Request body and URI mismatch")
        await _change(ctx, server, server.metadata | body.meta)
        return {"meta": body.meta}

    @operation("DELETE", _ONE, _RULE + "delete", status=204)
    async def delete(self, ctx: Context, server: Server, key: str) -> None:
        _value(server, key)
        await _change(ctx, server, {k: v for k, v in server.metadata.items() if k != key})


def _value(server: Server, key: str) -> str:
    if key not in server.metadata:
        raise NotFound("Metadata item was not found")
    return server.metadata[key]


async def _change(ctx: Context, server: Server, metadata: dict[str, str]) -> dict[str, str]:
    unlocked(ctx, server)
    if server.vm_state not in _CHANGEABLE:
        raise Conflict(
            f"Cannot 'update metadata' instance {server.id} while it is in vm_state "
            f"{server.vm_state}"
        )
    if len(metadata) > checks.METADATA_LIMIT:
        raise Forbidden(f"Maximum number of metadata items exceeds {checks.METADATA_LIMIT}")
    checks.metadata(metadata)
    async with ctx.runtime.store.tx() as tx:
        await SERVERS.change(tx, server, metadata=metadata)
        await emit(tx, "compute.instance.update", server.project_id, id=server.id)
    return metadata

"""The password that a guest leaves for its owner, encrypted with the key pair.

https://docs.openstack.org/api-ref/compute/#servers-password-servers-os-server-password
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pileus.kernel.resources import Context, operation
from pileus.services.compute.server import SERVERS, Server
from pileus.services.compute.servers.operations import MEMBER, READER, OfServer

_RULE = "os_compute_api:os-server-password:"
_PATH = "/servers/{server_id}/os-server-password"


class ServerPassword(OfServer):
    rules: ClassVar[Mapping[str, str]] = {_RULE + "show": READER, _RULE + "clear": MEMBER}

    @operation("GET", _PATH, _RULE + "show")
    async def show(self, ctx: Context, server: Server) -> dict[str, str]:
        return {"password": server.password}

    @operation("DELETE", _PATH, _RULE + "clear", status=204)
    async def clear(self, ctx: Context, server: Server) -> None:
        async with ctx.runtime.store.tx() as tx:
            await SERVERS.change(tx, server, password="")

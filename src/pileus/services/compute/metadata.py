"""The metadata service: what a guest is told when it asks 169.254.169.254, by the port that it asked through."""

from __future__ import annotations

from pileus.kernel.runtime import Runtime
from pileus.services.compute.guest_files import (
    EC2_VERSIONS,
    OPENSTACK_VERSIONS,
    Tree,
    ec2_tree,
    openstack_tree,
)
from pileus.services.compute.server import SERVERS, Server
from pileus.services.network.contract import NETWORK, MetadataReply


def _reply(
    body: bytes, status: int = 200, kind: str = "text/plain; charset=UTF-8"
) -> MetadataReply:
    return MetadataReply(status=status, content_type=kind, body=body)


_LONGEST_PASSWORD = 4 * 255  # what Nova keeps
_NOT_FOUND = _reply(b"404 Not Found", 404)


class Metadata:
    """Keeps GUEST_METADATA. Who asks is known by his port alone; no header of his is believed."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    async def answer(
        self, port_id: str, method: str, path: str, body: bytes = b""
    ) -> MetadataReply:
        server = await self._server(port_id)
        if server is None:
            return _NOT_FOUND
        parts = [p for p in path.partition("?")[0].split("/") if p]
        if method == "POST" and parts[:1] == ["openstack"] and parts[2:] == ["password"]:
            return await self._keep_password(server, body)
        if method not in ("GET", "HEAD"):
            return _reply(b"405 Method Not Allowed", 405)
        found = _walk(_root(server), parts)
        if found is None:
            return _NOT_FOUND
        if isinstance(found, bytes):
            return _reply(found, kind=_kind(parts[-1]))
        return _reply(_listing(found, parts))

    async def _keep_password(self, server: Server, body: bytes) -> MetadataReply:
        """A guest leaves its password once, encrypted with its owner's key."""
        if len(body) > _LONGEST_PASSWORD:
            return _reply(b"Request is too large.", 400)
        async with self.runtime.store.tx() as tx:
            fresh = await SERVERS.get(tx, server.id)
            if fresh.password:
                return _reply(b"409 Conflict", 409)
            await SERVERS.change(tx, fresh, password=body.decode("latin-1"))
        return _reply(b"")

    async def _server(self, port_id: str) -> Server | None:
        id = await self.runtime.contracts.get(NETWORK).guest_of(port_id)
        return await SERVERS.find(self.runtime.store, id) if id else None


def _root(server: Server) -> Tree:
    ec2 = ec2_tree(server)
    found: Tree = dict.fromkeys(EC2_VERSIONS, ec2)
    openstack = openstack_tree(server)
    found["openstack"] = dict.fromkeys(OPENSTACK_VERSIONS, openstack)
    return found


def _walk(tree: Tree, parts: list[str]) -> Tree | bytes | None:
    at: object = tree
    for part in parts:
        if not isinstance(at, dict) or part not in at:
            return None
        at = at[part]
    if isinstance(at, str):
        return at.encode()
    return at if isinstance(at, dict | bytes) else None


def _listing(tree: Tree, parts: list[str]) -> bytes:
    """Names, a slash behind those that have others below them, as EC2 lists them."""
    names = []
    for name, below in tree.items():
        if parts[-1:] == ["public-keys"] and isinstance(below, dict):
            names.append(f"{name}=my-public-key")
        elif isinstance(below, dict) and len(parts) > 0 and parts[0] != "openstack":
            names.append(f"{name}/")
        else:
            names.append(name)
    return "\n".join(names).encode()


def _kind(name: str) -> str:
    return "application/json" if name.endswith(".json") else "text/plain; charset=UTF-8"

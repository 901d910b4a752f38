"""Where a server is on the network: its addresses and security groups; and keeping the copy fresh."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from msgspec.structs import replace

from pileus.kernel.events import Event
from pileus.kernel.faults import NotFound, Stale
from pileus.kernel.resources import Context, operation
from pileus.kernel.runtime import Runtime
from pileus.services.compute.security_groups import group_view
from pileus.services.compute.server import SERVERS, Server
from pileus.services.compute.servers import states, views
from pileus.services.compute.servers.interfaces import now
from pileus.services.compute.servers.operations import READER, OfServer
from pileus.services.network.contract import NETWORK, NicInfo

_IPS = "os_compute_api:ips:"
_GROUPS = "os_compute_api:os-security-groups:list"


class ServerAddresses(OfServer):
    rules: ClassVar[Mapping[str, str]] = {
        _IPS + "index": READER,
        _IPS + "show": READER,
        _GROUPS: READER,
    }

    @operation("GET", "/servers/{server_id}/ips", _IPS + "index")
    async def index(self, ctx: Context, server: Server) -> dict[str, Any]:
        return {"addresses": views.addresses(server, extended=False)}

    @operation("GET", "/servers/{server_id}/ips/{network_label}", _IPS + "show")
    async def show(self, ctx: Context, server: Server, network_label: str) -> dict[str, Any]:
        found = views.addresses(server, extended=False)
        if network_label not in found:
            raise NotFound("Instance is not a member of specified network")
        return {network_label: found[network_label]}

    @operation("GET", "/servers/{server_id}/os-security-groups", _GROUPS)
    async def groups(self, ctx: Context, server: Server) -> dict[str, Any]:
        named = {g for nic in await now(ctx, server) for g in nic.security_groups}
        known = await ctx.peer(NETWORK).security_groups(ctx.caller)
        found = [group_view(g, known) for g in known if g.name in named]
        return {"security_groups": sorted(found, key=lambda g: g["name"])}


# The copy in the record


async def refresh(runtime: Runtime, event: Event) -> None:
    """A port, a floating IP or a network changed: the servers that have it show it."""
    payload = event.payload
    if event.kind.startswith("network."):
        await _refresh_all(runtime, str(payload.get("id", "")))
        return
    network = runtime.contracts.get(NETWORK)
    guests = {str(payload.get(k) or "") for k in ("device_id", "old_device_id")}
    for key in ("port_id", "old_port_id") + (("id",) if event.kind.startswith("port.") else ()):
        if port_id := str(payload.get(key) or ""):
            guests.add(await network.guest_of(port_id))
    await look_again(runtime, sorted(guests - {""}))


async def _refresh_all(runtime: Runtime, network_id: str) -> None:
    """Only a network's name is shown, and it changes rarely: all servers are looked at."""
    holders = [
        s.id
        for s in await SERVERS.all(runtime.store)
        if any(n.network_id == network_id for n in s.nics)
    ]
    await look_again(runtime, holders)


async def look_again(runtime: Runtime, server_ids: list[str], *, wait: bool = False) -> None:
    """Each server's interfaces are shown as network has them now; `wait`: to whoever reads next, too."""
    for id in server_ids:
        while not await _is_shown(runtime, id, wait):
            await runtime.store.sync()  # or the next look may not see yet who was first


async def _is_shown(runtime: Runtime, id: str, wait: bool) -> bool:
    """False where the server changed since it was looked at: then what network said is old, too."""
    server = await SERVERS.find(runtime.store, id)
    if server is None or server.task_state == states.DELETING:
        return True
    if server.vm_state == states.BUILDING and not wait:  # its saga says in the end
        return True
    nics = (await runtime.contracts.get(NETWORK).nics([id])).get(id, [])
    if not _alike(server.nics, nics):
        try:
            async with runtime.store.tx(wait=wait) as tx:
                await SERVERS.change(tx, server, nics=nics, updated_at=server.updated_at)
        except Stale:
            return False
    return True


def _alike(old: list[NicInfo], new: list[NicInfo]) -> bool:
    """Whether a server would look the same; a port's status is asked for when it is shown."""
    return [replace(n, status="") for n in old] == [replace(n, status="") for n in new]

"""A server's interfaces: ports that it has, gets while it lives, and loses.

https://docs.openstack.org/api-ref/compute/#port-interfaces-servers-os-interface
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Fault, Invalid, NotFound
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import Body, since
from pileus.services.compute import instance_actions
from pileus.services.compute.server import SERVERS, Server
from pileus.services.compute.servers import states
from pileus.services.compute.servers.interface_sagas import ATTACH, DETACH
from pileus.services.compute.servers.operations import MEMBER, READER, OfServer, begin, unlocked
from pileus.services.network.contract import NETWORK, NicInfo, NicRequest

_RULE = "os_compute_api:os-attach-interfaces:"
_ALL, _ONE = "/servers/{server_id}/os-interface", "/servers/{server_id}/os-interface/{port_id}"
_DETACH_S = 20  # how long a delete waits, so that whoever comes next finds the server idle


class AskedAddress(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    ip_address: str


class CreateInterface(Body):
    root: ClassVar[str] = "interfaceAttachment"
    net_id: str | UnsetType = UNSET
    port_id: str | UnsetType = UNSET
    fixed_ips: list[AskedAddress] | UnsetType = UNSET
    tag: Annotated[str | UnsetType, since("2.49")] = UNSET


class ServerInterfaces(OfServer):
    rules: ClassVar[Mapping[str, str]] = {
        _RULE + "list": READER,
        _RULE + "show": READER,
        _RULE + "create": MEMBER,
        _RULE + "delete": MEMBER,
    }
    sagas = (ATTACH, DETACH)

    @operation("GET", _ALL, _RULE + "list")
    async def index(self, ctx: Context, server: Server) -> dict[str, Any]:
        nics = await now(ctx, server)
        return {"interfaceAttachments": [_view(ctx, server, n) for n in nics]}

    @operation("GET", _ONE, _RULE + "show")
    async def show(self, ctx: Context, server: Server, port_id: str) -> dict[str, Any]:
        nic = await _nic(ctx, server, port_id)
        return {"interfaceAttachment": _view(ctx, server, nic)}

    @operation("POST", _ALL, _RULE + "create")
    async def create(self, ctx: Context, server: Server, body: CreateInterface) -> dict[str, Any]:
        """Answers when the guest has it."""
        unlocked(ctx, server)
        states.LIFECYCLE.check(ATTACH.verb, server)
        asked = await _resolved(ctx, body)
        before = {nic.port_id for nic in await now(ctx, server)}
        networks = [*server.networks, asked]
        entry_id = await begin(ctx, ATTACH, server, ATTACH.verb, networks=networks)
        await ctx.runtime.sagas.over(entry_id)
        server = await SERVERS.get(ctx.runtime.store, server.id)
        for nic in await now(ctx, server):
            if nic.port_id not in before:
                return {"interfaceAttachment": _view(ctx, server, nic)}
        action = await instance_actions.ACTIONS.find(ctx.runtime.store, entry_id)
        for event in action.events if action else ():
            if event.code == Invalid.status:  # the caller's to mend
                raise Invalid(event.details)
        raise Fault(f"Failed to attach network adapter device to {server.id}")

    @operation("DELETE", _ONE, _RULE + "delete", status=202)
    async def delete(self, ctx: Context, server: Server, port_id: str) -> None:
        unlocked(ctx, server)
        states.LIFECYCLE.check(DETACH.verb, server)
        await _nic(ctx, server, port_id)
        kept = [nic for nic in server.nics if nic.port_id != port_id]
        entry_id = await begin(ctx, DETACH, server, DETACH.verb, nics=kept)
        try:
            async with asyncio.timeout(_DETACH_S):
                await ctx.runtime.sagas.over(entry_id)
        except TimeoutError:
            return  # 202: it goes on


async def _resolved(ctx: Context, body: CreateInterface) -> NicRequest:
    """What is asked for, seen to exist and to be the caller's. Raises Invalid, NotFound, Conflict, OverQuota."""
    network_id = body.net_id if body.net_id is not UNSET else ""
    port_id = body.port_id if body.port_id is not UNSET else ""
    if network_id and port_id:
        raise Invalid("Must not input both network_id and port_id")
    address = _address(body)
    if address and not network_id:
        raise Invalid("Must input network_id when request IP address")
    tag = body.tag if body.tag is not UNSET else ""
    network = ctx.peer(NETWORK)
    if not network_id and not port_id:
        found = await network.resolve(ctx.caller, None, [])
        if not found:
            raise Invalid("The project has no network to attach the server to.")
        return msgspec.structs.replace(found[0], tag=tag)
    asked = NicRequest(network_id=network_id, port_id=port_id, fixed_ip=address, tag=tag)
    return (await network.resolve(ctx.caller, [asked], []))[0]


def _address(body: CreateInterface) -> str:
    if body.fixed_ips is UNSET:
        return ""
    if len(body.fixed_ips) != 1:
        raise Invalid(
            f"Invalid input for field/attribute fixed_ips. It must hold 1 address, not {len(body.fixed_ips)}."
        )
    text = body.fixed_ips[0].ip_address
    try:
        return str(ip_address(text))
    except ValueError:
        raise Invalid(
            f"Invalid input for field/attribute ip_address. Value: {text}. It is not an IP address."
        ) from None


async def now(ctx: Context, server: Server) -> list[NicInfo]:
    """As network has them at this moment."""
    return (await ctx.peer(NETWORK).nics([server.id])).get(server.id, [])


async def _nic(ctx: Context, server: Server, port_id: str) -> NicInfo:
    for nic in await now(ctx, server):
        if nic.port_id == port_id:
            return nic
    raise NotFound(f"Instance {server.id} does not have a port with id {port_id}")


def _view(ctx: Context, server: Server, nic: NicInfo) -> dict[str, Any]:
    found: dict[str, Any] = {
        "net_id": nic.network_id,
        "port_id": nic.port_id,
        "mac_addr": nic.mac,
        "port_state": nic.status,
        "fixed_ips": [
            {"subnet_id": ip.subnet_id, "ip_address": ip.ip_address} for ip in nic.fixed_ips
        ],
    }
    if ctx.version >= (2, 70):
        asked = (r.tag for r in server.networks if r.port_id == nic.port_id)
        found["tag"] = next(asked, "") or None
    return found

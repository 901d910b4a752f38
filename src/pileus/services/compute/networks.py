"""Networks and floating IPs under Nova's old names: network keeps them; gone from 2.36 and 2.44 on.

https://docs.openstack.org/api-ref/compute/#networks-os-networks-deprecated
https://docs.openstack.org/api-ref/compute/#floating-ips-os-floating-ips-deprecated
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pileus.kernel.faults import Conflict, Forbidden, Invalid, NotFound, OverQuota
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import Body
from pileus.services.compute import checks
from pileus.services.compute.asked import ask
from pileus.services.compute.flavors import FLAVORS
from pileus.services.compute.security_groups import END
from pileus.services.compute.server import Server
from pileus.services.compute.servers.addresses import look_again
from pileus.services.compute.servers.interfaces import now
from pileus.services.compute.servers.operations import MEMBER, PATH, READER, OfServer, unlocked

_NETWORKS, _TENANTS = "os_compute_api:os-networks:", "os_compute_api:os-tenant-networks:"
_POOLS, _FLOATING = "os_compute_api:os-floating-ip-pools", "os_compute_api:os-floating-ips:"
_FIXED = "os_compute_api:os-multinic:"
_SERVICE = "network"
_ACTIONS_END = "2.44"
_FIELDS = [
    "cidr",
    "netmask",
    "gateway",
    "broadcast",
    "dns1",
    "dns2",
    "cidr_v6",
    "gateway_v6",
    "netmask_v6",
]
_ADMIN_FIELDS = [
    "created_at",
    "updated_at",
    "deleted_at",
    "deleted",
    "injected",
    "bridge",
    "vlan",
    "vpn_public_address",
    "vpn_public_port",
    "vpn_private_address",
    "dhcp_start",
    "project_id",
    "host",
    "bridge_interface",
    "multi_host",
    "priority",
    "rxtx_base",
    "mtu",
    "dhcp_server",
    "enable_dhcp",
    "share_address",
]


class AllocateFloatingIp(Body):
    pool: str | None = None


class AddFloatingIp(Body):
    root: ClassVar[str] = "addFloatingIp"
    address: str
    fixed_address: str = ""


class RemoveFloatingIp(Body):
    root: ClassVar[str] = "removeFloatingIp"
    address: str


class AddFixedIp(Body):
    root: ClassVar[str] = "addFixedIp"
    networkId: str | int


class RemoveFixedIp(Body):
    root: ClassVar[str] = "removeFixedIp"
    address: str


async def _network(ctx: Context, id: str) -> dict[str, Any]:
    if not checks.is_uuid(id):
        raise NotFound("Network not found")
    try:
        answer = await ask(ctx, _SERVICE, "GET", f"/networks/{id}")
    except NotFound:
        raise NotFound("Network not found") from None
    return dict(answer["network"])


async def _networks(ctx: Context, which: str = "") -> list[dict[str, Any]]:
    answer = await ask(ctx, _SERVICE, "GET", "/networks" + which)
    return list(answer["networks"])


def _as_network(ctx: Context, network: dict[str, Any]) -> dict[str, Any]:
    """All that is left of thirty fields are two."""
    fields = _FIELDS + (_ADMIN_FIELDS if ctx.caller.is_admin else [])
    return {"id": network["id"], "label": network["name"], **dict.fromkeys(fields)}


def _as_tenants(network: dict[str, Any]) -> dict[str, Any]:
    return {"id": network["id"], "cidr": "None", "label": network["name"]}


class Networks(Resource[Any]):
    table = FLAVORS  # it names no record of ours
    rules: ClassVar[Mapping[str, str]] = {
        _NETWORKS + "list": READER,
        _NETWORKS + "show": READER,
        _TENANTS + "list": READER,
        _TENANTS + "show": READER,
    }

    @operation("GET", "/os-networks", _NETWORKS + "list", until=END)
    async def index(self, ctx: Context) -> dict[str, Any]:
        return {"networks": [_as_network(ctx, n) for n in await _networks(ctx)]}

    @operation("GET", "/os-networks/{network_id}", _NETWORKS + "show", until=END)
    async def show(self, ctx: Context, network_id: str) -> dict[str, Any]:
        return {"network": _as_network(ctx, await _network(ctx, network_id))}

    @operation("GET", "/os-tenant-networks", _TENANTS + "list", until=END)
    async def tenants(self, ctx: Context) -> dict[str, Any]:
        return {"networks": [_as_tenants(n) for n in await _networks(ctx)]}

    @operation("GET", "/os-tenant-networks/{network_id}", _TENANTS + "show", until=END)
    async def tenant(self, ctx: Context, network_id: str) -> dict[str, Any]:
        return {"network": _as_tenants(await _network(ctx, network_id))}


# Floating IPs


async def _pools(ctx: Context) -> dict[str, str]:
    """The names of the networks that give them, by id."""
    return {n["id"]: n["name"] for n in await _networks(ctx, "?router:external=True")}


def _view(floating: dict[str, Any], pools: dict[str, str]) -> dict[str, Any]:
    network = floating["floating_network_id"]
    port = floating["port_details"]
    return {
        "id": floating["id"],
        "ip": floating["floating_ip_address"],
        "fixed_ip": floating["fixed_ip_address"],
        "instance_id": port["device_id"] if port else None,
        "pool": pools.get(network) or network,
    }


async def _floating(ctx: Context, id: str) -> dict[str, Any]:
    if not checks.is_uuid(id):
        raise Invalid(f"Invalid ID received {id}.")
    try:
        answer = await ask(ctx, _SERVICE, "GET", f"/floatingips/{id}")
    except NotFound:
        raise NotFound(f"Floating IP not found for ID {id}") from None
    return dict(answer["floatingip"])


class FloatingIps(Resource[Any]):
    table = FLAVORS  # it names no record of ours
    rules: ClassVar[Mapping[str, str]] = {
        _POOLS: "@",
        _FLOATING + "list": READER,
        _FLOATING + "show": READER,
        _FLOATING + "create": MEMBER,
        _FLOATING + "delete": MEMBER,
    }

    @operation("GET", "/os-floating-ip-pools", _POOLS, until=END)
    async def pools(self, ctx: Context) -> dict[str, Any]:
        found = await _pools(ctx)
        return {"floating_ip_pools": [{"name": name or id} for id, name in found.items()]}

    @operation("GET", "/os-floating-ips", _FLOATING + "list", until=END)
    async def index(self, ctx: Context) -> dict[str, Any]:
        own = f"/floatingips?project_id={ctx.caller.project_id}"
        answer = await ask(ctx, _SERVICE, "GET", own)
        pools = await _pools(ctx)
        return {"floating_ips": [_view(f, pools) for f in answer["floatingips"]]}

    @operation("GET", "/os-floating-ips/{floating_ip_id}", _FLOATING + "show", until=END)
    async def show(self, ctx: Context, floating_ip_id: str) -> dict[str, Any]:
        return {"floating_ip": _view(await _floating(ctx, floating_ip_id), await _pools(ctx))}

    @operation("POST", "/os-floating-ips", _FLOATING + "create", status=200, until=END)
    async def create(self, ctx: Context, body: AllocateFloatingIp) -> dict[str, Any]:
        """From the pool of that name or id, or any if none is given."""
        pools = await _pools(ctx)
        chosen = next((id for id, name in pools.items() if body.pool in (None, id, name)), "")
        if not chosen:
            raise NotFound("Floating IP pool not found.")
        asked = {"floatingip": {"floating_network_id": chosen}}
        try:
            answer = await ask(ctx, _SERVICE, "POST", "/floatingips", asked)
        except OverQuota:
            raise Forbidden(f"IP allocation over quota in pool {pools[chosen]}.") from None
        except Invalid as e:
            if e.code != "ExternalIpAddressExhausted":
                raise
            raise NotFound(f"No more floating IPs in pool {pools[chosen]}.") from None
        return {"floating_ip": _view(answer["floatingip"], pools)}

    @operation(
        "DELETE", "/os-floating-ips/{floating_ip_id}", _FLOATING + "delete", status=202, until=END
    )
    async def delete(self, ctx: Context, floating_ip_id: str) -> None:
        found = await _floating(ctx, floating_ip_id)
        await ask(ctx, _SERVICE, "DELETE", f"/floatingips/{found['id']}")


class ServerAddressActions(OfServer):
    """What `os-interface` and network do since 2.44."""

    rules: ClassVar[Mapping[str, str]] = {
        _FIXED + "add": MEMBER,
        _FIXED + "remove": MEMBER,
        _FLOATING + "add": MEMBER,
        _FLOATING + "remove": MEMBER,
    }

    @operation("POST", PATH, _FIXED + "add", action="addFixedIp", status=202, until=_ACTIONS_END)
    async def add_fixed(self, ctx: Context, server: Server, body: AddFixedIp) -> None:
        """One more address of its port on that network."""
        nics = await now(ctx, server)
        nic = next((n for n in nics if n.network_id == str(body.networkId)), None)
        if nic is None or not nic.fixed_ips:
            raise Invalid(f"Network {body.networkId} could not be found for instance {server.id}.")
        fixed = [{"subnet_id": ip.subnet_id, "ip_address": ip.ip_address} for ip in nic.fixed_ips]
        one_more = {"subnet_id": nic.fixed_ips[0].subnet_id}
        await self._set(ctx, server, nic.port_id, [*fixed, one_more])

    @operation(
        "POST", PATH, _FIXED + "remove", action="removeFixedIp", status=202, until=_ACTIONS_END
    )
    async def remove_fixed(self, ctx: Context, server: Server, body: RemoveFixedIp) -> None:
        for nic in await now(ctx, server):
            kept = [ip for ip in nic.fixed_ips if ip.ip_address != body.address]
            if len(kept) < len(nic.fixed_ips):
                fixed = [{"subnet_id": ip.subnet_id, "ip_address": ip.ip_address} for ip in kept]
                await self._set(ctx, server, nic.port_id, fixed)
                return
        raise Invalid(
            f"Fixed IP not found for instance {server.id}: it does not have {body.address}."
        )

    async def _set(
        self, ctx: Context, server: Server, port_id: str, fixed_ips: list[dict[str, str]]
    ) -> None:
        unlocked(ctx, server)
        body = {"port": {"fixed_ips": fixed_ips}}
        await ask(ctx, _SERVICE, "PUT", f"/ports/{port_id}", body)
        await look_again(ctx.runtime, [server.id], wait=True)

    @operation(
        "POST", PATH, _FLOATING + "add", action="addFloatingIp", status=202, until=_ACTIONS_END
    )
    async def add(self, ctx: Context, server: Server, body: AddFloatingIp) -> None:
        """It goes to the first IPv4 address, unless one is named; from whoever had it."""
        found = await self._by_address(ctx, body.address)
        fixed = [(n.port_id, ip) for n in await now(ctx, server) for ip in n.fixed_ips]
        wanted = [(port, ip.ip_address) for port, ip in fixed if ip.version == 4]
        if not wanted:
            raise Invalid(f"Instance {server.id} has no fixed IPv4 address for a floating IP.")
        if body.fixed_address:
            wanted = [(port, ip) for port, ip in wanted if ip == body.fixed_address]
        if not wanted:
            raise Invalid("Specified fixed address not assigned to instance")
        port, ip = wanted[0]
        try:
            await self._change(ctx, server, found, {"port_id": port, "fixed_ip_address": ip})
        except Conflict as e:
            raise Invalid(e.message) from None
        except NotFound as e:
            raise Invalid(
                f"Unable to associate floating IP {body.address} to fixed IP {ip} for instance "
                f"{server.id}. Error: {e.message}"
            ) from None

    @operation(
        "POST",
        PATH,
        _FLOATING + "remove",
        action="removeFloatingIp",
        status=202,
        until=_ACTIONS_END,
    )
    async def remove(self, ctx: Context, server: Server, body: RemoveFloatingIp) -> None:
        found = await self._by_address(ctx, body.address)
        if found["port_id"] not in {n.port_id for n in await now(ctx, server)}:
            raise Conflict(
                f"Floating IP {body.address} is not associated with instance {server.id}."
            )
        await self._change(ctx, server, found, {"port_id": None})

    async def _by_address(self, ctx: Context, address: str) -> dict[str, Any]:
        checks.address(address or "none", 6 if ":" in address else 4, "address")
        url = f"/floatingips?floating_ip_address={address}"
        answer = await ask(ctx, _SERVICE, "GET", url)
        if not answer["floatingips"]:
            raise NotFound("floating IP not found")
        return dict(answer["floatingips"][0])

    async def _change(
        self, ctx: Context, server: Server, found: dict[str, Any], to: dict[str, Any]
    ) -> None:
        url = f"/floatingips/{found['id']}"
        await ask(ctx, _SERVICE, "PUT", url, {"floatingip": to})
        await look_again(ctx.runtime, [server.id], wait=True)

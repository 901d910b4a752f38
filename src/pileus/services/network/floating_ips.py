"""Floating IPs (API reference: floatingips)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Page, Tx
from pileus.kernel.world import World

from .addressing import address
from .attributes import Attributes, domain_name
from .floating_ip import FLOATING_IPS, FloatingIp, pair_taken, release, tell_floating
from .network import NETWORKS, Network
from .networks import Networks
from .port import FLOATING_IP, PORTS, ROUTER_INTERFACE, Port
from .port_forwarding import PORT_FORWARDINGS, forwarding_in_brief, forwards_from
from .ports.bodies import FixedRequest
from .ports.lifecycle import add_port, remove_port
from .ports.operations import Ports
from .qos.users import hold_policies, network_policies, usable_policy
from .refusals import missing
from .resource import (
    OWNER,
    READER,
    NetworkResource,
    hold,
    listing,
    owner_of,
    projected,
    sees_all,
    standard,
)
from .router import ROUTERS, Router
from .routers.operations import Routers
from .subnet import SUBNETS
from .wiring import wake

_FIXED = frozenset(
    [
        "id",
        "status",
        "created_at",
        "updated_at",
        "revision_number",
        "tags",
        "port_details",
        "qos_network_policy_id",
        "port_forwardings",
    ]
)


class CreateFloatingIp(Attributes):
    root: ClassVar[str] = "floatingip"
    plural: ClassVar[str] = "floatingips"
    fixed = _FIXED
    defaults = {"floating_ip_address": None}

    floating_network_id: str
    port_id: str | None = None
    fixed_ip_address: str | None = None
    floating_ip_address: str | None = None
    subnet_id: str | None = None
    description: str = ""
    dns_name: str = ""
    dns_domain: str = ""
    qos_policy_id: str | None = None
    router_id: str | None = None
    project_id: str | UnsetType = UNSET


class UpdateFloatingIp(Attributes):
    root: ClassVar[str] = "floatingip"
    creates = False
    fixed = _FIXED | frozenset(
        [
            "floating_network_id",
            "floating_ip_address",
            "subnet_id",
            "dns_name",
            "dns_domain",
            "project_id",
            "tenant_id",
        ]
    )

    port_id: str | UnsetType | None = UNSET
    fixed_ip_address: str | UnsetType | None = UNSET
    description: str | UnsetType = UNSET
    qos_policy_id: str | UnsetType | None = UNSET
    router_id: str | UnsetType | None = UNSET


class FloatingIps(NetworkResource[FloatingIp], path="/floatingips"):
    table = FLOATING_IPS
    noun = "floatingip"
    plural = "floatingips"
    id_param = "floatingip_id"
    see = "get_floatingip"
    rules = {
        "create_floatingip": OWNER,
        "create_floatingip:floating_ip_address": "(rule:admin_only) or "
        "(role:manager and project_id:%(project_id)s)",
        "get_floatingip": READER,
        "get_floatingip:tags": READER,
        "update_floatingip": OWNER,
        "update_floatingip:tags": OWNER,
        "delete_floatingip": OWNER,
        "delete_floatingip:tags": OWNER,
    }
    listing = listing(
        (
            "floating_network_id",
            "floating_ip_address",
            "port_id",
            "fixed_ip_address",
            "router_id",
            "status",
        )
    )

    async def rendered(self, ctx: Context, found: Sequence[FloatingIp]) -> list[dict[str, Any]]:
        """Views with something of their ports, fetched together."""
        ids = sorted({f.port_id for f in found} - {""})
        page = Page({"id": ids}, (("id", False),), limit=1 << 30)
        ports = {p.id: p for p in await PORTS.list(ctx.runtime.store, page)} if ids else {}
        forwardings = await PORT_FORWARDINGS.all(
            ctx.runtime.store, floatingip_id=[f.id for f in found]
        )
        under = await network_policies(ctx.runtime.store, {f.floating_network_id for f in found})
        views = []
        for f in found:
            view = _view(f, ports.get(f.port_id), under)
            mine = [forwarding_in_brief(p) for p in forwardings if p.floatingip_id == f.id]
            views.append(projected(ctx, view | {"port_forwardings": mine}))
        return views

    @operation("POST", "/floatingips", "create_floatingip", status=201)
    async def create(self, ctx: Context, body: CreateFloatingIp) -> Any:
        owner = owner_of(ctx, body.project_id)
        ctx.require("create_floatingip", {"project_id": owner})
        raw = ctx.document["floatingip"]
        self.guard(ctx, "create", raw, {"project_id": owner}, CreateFloatingIp)
        network = await Networks().visible(ctx, body.floating_network_id)
        if not network.is_outer:
            raise _bad(f"Network {network.id} is not a valid external network")
        if body.fixed_ip_address and not body.port_id:
            raise _bad("fixed_ip_address cannot be specified without a port_id")
        world = ctx.runtime.world
        fip = FloatingIp(
            id=world.new_id(),
            project_id=owner,
            description=body.description,
            floating_network_id=network.id,
            floating_ip_address="",
            holder_id=world.new_id(),
            dns_name=domain_name(body.dns_name, "dns_name"),
            dns_domain=domain_name(body.dns_domain, "dns_domain"),
        )
        fip = replace(fip, qos_policy_id=await usable_policy(ctx, body.qos_policy_id))
        port = await self._port(ctx, fip, body.port_id)
        if body.router_id:
            await Routers().visible(ctx, body.router_id)
        async with ctx.runtime.store.tx() as tx:
            await hold(tx, "networks", network.id, *([port.network_id] if port else []))
            await hold_policies(tx, fip.qos_policy_id)
            fip = await _holding(tx, world, fip, network, body)
            if port is not None:
                fip = await _with_port(
                    tx, fip, port.id, body.fixed_ip_address or "", body.router_id
                )
            fip = await FLOATING_IPS.insert(tx, fip)
            await tell_floating(tx, "create", fip)
        await self._wake(ctx, fip.router_id)
        return await self.one(ctx, fip)

    async def _port(self, ctx: Context, fip: FloatingIp, id: str | None) -> Port | None:
        """The port named, if the caller may give it an address. Raises NotFound, Invalid."""
        if not id:
            return None
        port = await Ports().visible(ctx, id)
        if port.project_id != fip.project_id and not sees_all(ctx):
            raise _bad(
                f"Port {id} is associated with a different tenant than Floating IP {fip.id} "
                "and therefore cannot be bound"
            )
        return port

    @operation("PUT", "/floatingips/{floatingip_id}", "update_floatingip")
    async def update(self, ctx: Context, fip: FloatingIp, body: UpdateFloatingIp) -> Any:
        self.match(ctx, fip)
        moves = any(v is not UNSET for v in (body.port_id, body.fixed_ip_address, body.router_id))
        wanted = fip.port_id if body.port_id is UNSET else body.port_id or ""
        fixed = body.fixed_ip_address if isinstance(body.fixed_ip_address, str) else ""
        if fixed and not wanted:
            raise _bad("fixed_ip_address cannot be specified without a port_id")
        port = await self._port(ctx, fip, wanted) if moves else None
        if body.router_id:
            await Routers().visible(ctx, body.router_id)
        plain = {n: v for n, v in body.given().items() if n in ("description", "qos_policy_id")}
        if "qos_policy_id" in plain:
            plain["qos_policy_id"] = await usable_policy(ctx, plain["qos_policy_id"])
        async with ctx.runtime.store.tx() as tx:
            before = await FLOATING_IPS.get(tx, fip.id)
            await hold(
                tx, "networks", fip.floating_network_id, *([port.network_id] if port else [])
            )
            await hold_policies(tx, plain.get("qos_policy_id", ""))
            fip = before
            if plain:
                fip = await FLOATING_IPS.change(tx, fip, **plain)
            if moves and fip.port_id and fip.port_id != wanted:
                fip = await release(tx, fip)
            if port is not None:
                new = await _with_port(tx, fip, port.id, fixed, body.router_id)
                changes = {n: getattr(new, n) for n in ("port_id", "fixed_ip_address", "router_id")}
                fip = await FLOATING_IPS.revise(tx, fip, status="DOWN", **changes)
                await tell_floating(tx, "update", fip)
            elif not moves:
                fip = await FLOATING_IPS.revise(tx, fip)
        await self._wake(ctx, before.router_id, fip.router_id)
        return await self.one(ctx, fip)

    @operation("DELETE", "/floatingips/{floatingip_id}", "delete_floatingip")
    async def delete(self, ctx: Context, fip: FloatingIp) -> None:
        self.match(ctx, fip)
        async with ctx.runtime.store.tx() as tx:
            await hold(tx, "networks", fip.floating_network_id)
            fip = await FLOATING_IPS.get(tx, fip.id)
            if await forwards_from(tx, fip.id):
                raise _forwards(fip.id)
            await FLOATING_IPS.delete(tx, fip)
            holder = await PORTS.find(tx, fip.holder_id)
            if holder is not None:
                await remove_port(tx, holder)
            await tell_floating(tx, "delete", fip)
        await self._wake(ctx, fip.router_id)

    async def _wake(self, ctx: Context, *router_ids: str) -> None:
        store = ctx.runtime.store
        routers = [await ROUTERS.find(store, id) for id in set(router_ids) - {""}]
        await wake(ctx.runtime, {r.host for r in routers if r is not None})


def _forwards(id: str) -> Conflict:
    return Conflict(
        f"Floating IP {id} in use by Port Forwarding resources.", code="FipInUseByPortForwarding"
    )


def _bad(message: str) -> Invalid:
    return Invalid(f"Bad floatingip request: {message}.", code="BadRequest")


def _view(f: FloatingIp, port: Port | None, under: Mapping[str, str]) -> dict[str, Any]:
    view = standard(f) | {
        "floating_network_id": f.floating_network_id,
        "floating_ip_address": f.floating_ip_address,
        "port_id": f.port_id or None,
        "fixed_ip_address": f.fixed_ip_address or None,
        "router_id": f.router_id or None,
        "status": f.status,
        "dns_name": f.dns_name,
        "dns_domain": f.dns_domain,
        "qos_policy_id": f.qos_policy_id or None,
        "qos_network_policy_id": under.get(f.floating_network_id),
        "port_details": _details(port) if port is not None else None,
    }
    del view["name"]  # floating IPs have none
    return view


def _details(port: Port) -> Mapping[str, Any]:
    return {
        "name": port.name,
        "network_id": port.network_id,
        "mac_address": port.mac_address,
        "admin_state_up": port.admin_state_up,
        "status": port.status,
        "device_id": port.device_id,
        "device_owner": port.device_owner,
    }


async def _holding(
    tx: Tx, world: World, fip: FloatingIp, network: Network, body: CreateFloatingIp
) -> FloatingIp:
    """Takes an address on the outer network, by a port of the cloud's own. Raises Invalid, Conflict."""
    network = await NETWORKS.get(tx, network.id)
    holder = Port(
        id=fip.holder_id,
        project_id="",
        network_id=network.id,
        mac_address="",
        device_id=fip.id,
        device_owner=FLOATING_IP,
        port_security_enabled=False,
        status="N/A",
    )
    outer = await SUBNETS.all(tx, network_id=network.id, ip_version=4)
    wanted = [s.id for s in outer if not body.subnet_id or s.id == body.subnet_id]
    if body.floating_ip_address:
        tries = [FixedRequest(ip_address=body.floating_ip_address, subnet_id=body.subnet_id)]
    else:
        tries = [FixedRequest(subnet_id=id) for id in wanted]
    for request in tries:
        try:
            port = await add_port(tx, world, network, holder, [request], wear_default=False)
        except Conflict as fault:
            if fault.code != "IpAddressGenerationFailure":
                raise
            continue
        taken = port.fixed_ips[0].ip_address
        return replace(fip, floating_ip_address=taken)
    raise Invalid(
        f"Unable to find any IP address on external network {network.id}.",
        code="ExternalIpAddressExhausted",
    )


async def _with_port(
    tx: Tx, fip: FloatingIp, port_id: str, fixed: str, router_id: str | UnsetType | None
) -> FloatingIp:
    """The floating IP standing for the port, at the router that is named: one further off may lead there, too.

    Raises Invalid, NotFound, Conflict.
    """
    port = await PORTS.get(tx, port_id)
    if await forwards_from(tx, fip.id):
        raise _forwards(fip.id)
    ip, subnet_id = _inner(port, fixed)
    for forwarding in await PORT_FORWARDINGS.all(tx, internal_port_id=port.id):
        if forwarding.internal_ip_address == ip:
            raise Invalid(
                f"Cannot associate floating IP to port {port.id} because it already has a Port "
                "Forwarding binding.",
                code="PortHasPortForwarding",
            )
    if router_id:
        router = await ROUTERS.get(tx, router_id)
        if fip.floating_network_id not in (g.network_id for g in router.gateways):
            outer = fip.floating_network_id
            raise Conflict(f"Router {router_id} has no external gateway on network {outer}")
    else:
        router = await router_between(tx, fip, port, subnet_id)
    new = replace(fip, port_id=port.id, fixed_ip_address=ip, router_id=router.id)
    for other in await FLOATING_IPS.all(tx, port_id=port.id, fixed_ip_address=ip):
        if other.id != fip.id and other.floating_network_id == fip.floating_network_id:
            raise Conflict(pair_taken(new), code="FloatingIPPortAlreadyAssociated")
    return new


def _inner(port: Port, fixed: str) -> tuple[str, str]:
    """The address of the port that is meant, and its subnet."""
    if fixed:
        ip = str(address(fixed, "fixed_ip_address"))
        for f in port.fixed_ips:
            if f.ip_address == ip:
                return ip, f.subnet_id
        raise _bad(f"Port {port.id} does not have fixed ip {ip}")
    own = [f for f in port.fixed_ips if ":" not in f.ip_address]
    if not own:
        raise _bad(f"Cannot add floating IP to port {port.id} that has no fixed IPv4 addresses")
    if len(own) > 1:
        raise _bad(
            f"Port {port.id} has multiple fixed IPv4 addresses.  Must provide a specific IPv4 "
            "address when assigning a floating IP"
        )
    return own[0].ip_address, own[0].subnet_id


async def router_between(tx: Tx, fip: FloatingIp, port: Port, subnet_id: str) -> Router:
    """The router that joins the port's subnet and the outer network. Raises NotFound."""
    for leg in await PORTS.all(tx, network_id=port.network_id, device_owner=ROUTER_INTERFACE):
        if not any(f.subnet_id == subnet_id for f in leg.fixed_ips):
            continue
        router = await ROUTERS.find(tx, leg.device_id)
        outer = [g.network_id for g in router.gateways] if router is not None else []
        if router is not None and fip.floating_network_id in outer:
            return router
    raise missing(
        "ExternalGatewayForFloatingIPNotFound",
        f"External network {fip.floating_network_id} is not reachable from subnet {subnet_id}.  "
        f"Therefore, cannot associate Port {port.id} with a Floating IP.",
    )

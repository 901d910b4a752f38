"""Routers (API reference: routers)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from pileus.kernel.events import emit
from pileus.kernel.faults import Forbidden
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import Bulk
from pileus.kernel.store import Tx

from ..flavors import FLAVORS
from ..networks import Networks
from ..port import ROUTER_INTERFACE, Port, port_target
from ..ports.operations import Ports
from ..qos.users import hold_policies, usable_policy
from ..refusals import router_in_use
from ..resource import (
    ADMIN,
    OWNER,
    READER,
    NetworkResource,
    hold,
    listing,
    owner_of,
    sees_all,
    standard,
)
from ..router import ROUTERS, Router
from ..subnets.operations import Subnets
from ..wiring import wake, wake_networks
from .bodies import (
    CreateRouter,
    ExternalGateways,
    ExtraRoutes,
    GatewayRequest,
    InterfaceRequest,
    UpdateRouter,
    asked_gateway,
    bad_router,
    checked_routes,
)
from .gateway import (
    Goal,
    drop_gateway,
    first_gateway,
    gateway_view,
    gateways_like,
    gateways_view,
    gateways_with,
    gateways_without,
    set_gateways,
)
from .interfaces import add_by_port, add_by_subnet, interface_view, refuse_unconnected, remove
from .placement import candidates_with, choose_host, legs

_GATEWAY, _GATEWAYS = "external_gateway_info", "external_gateways"


def _gateway_rules(start: str) -> dict[str, str]:
    return {
        start: OWNER,
        f"{start}:network_id": OWNER,
        f"{start}:enable_snat": ADMIN,
        f"{start}:external_fixed_ips": ADMIN,
    }


class Routers(NetworkResource[Router], path="/routers"):
    table = ROUTERS
    noun = "router"
    plural = "routers"
    id_param = "router_id"
    see = "get_router"
    hidden = ("ha",)
    rules = {
        "create_router": OWNER,
        "create_router:ha": ADMIN,
        "create_router:enable_default_route_bfd": ADMIN,
        "create_router:enable_default_route_ecmp": ADMIN,
        **_gateway_rules(f"create_router:{_GATEWAY}"),
        "get_router": READER,
        "get_router:ha": ADMIN,
        "get_router:tags": READER,
        "update_router": OWNER,
        "update_router:ha": ADMIN,
        "update_router:enable_default_route_bfd": ADMIN,
        "update_router:enable_default_route_ecmp": ADMIN,
        "add_extraroutes": OWNER,
        "remove_extraroutes": OWNER,
        **_gateway_rules(f"update_router:{_GATEWAY}"),
        "add_external_gateways": OWNER,
        **_gateway_rules(f"add_external_gateways:{_GATEWAYS}"),
        "update_external_gateways": OWNER,
        **_gateway_rules(f"update_external_gateways:{_GATEWAYS}"),
        "remove_external_gateways": OWNER,
        f"remove_external_gateways:{_GATEWAYS}": OWNER,
        "update_router:tags": OWNER,
        "delete_router": OWNER,
        "delete_router:tags": OWNER,
        "add_router_interface": OWNER,
        "remove_router_interface": OWNER,
    }
    listing = listing(
        ("status", "flavor_id"),
        admin_state_up=Filter(kind=bool),
        enable_snat=Filter(kind=bool),
    )

    def view(self, ctx: Context, record: Router) -> dict[str, Any]:
        r = record
        return standard(r) | {
            "admin_state_up": r.admin_state_up,
            "status": "ACTIVE",
            "external_gateway_info": gateway_view(r.gateway, r.qos_policy_id),
            _GATEWAYS: gateways_view(r),
            "enable_default_route_bfd": r.enable_default_route_bfd,
            "enable_default_route_ecmp": r.enable_default_route_ecmp,
            "routes": r.routes,
            "enable_snat": r.enable_snat,
            "ha": r.ha,
            "flavor_id": r.flavor_id or None,
            "availability_zone_hints": r.availability_zone_hints,
            "availability_zones": ["nova"] if r.host else [],
        }

    @operation("POST", "/routers", "create_router", status=201)
    async def create(self, ctx: Context, body: Bulk[CreateRouter]) -> Any:
        wanted = []
        for item, raw in zip(body.items, body.raw, strict=True):
            owner = owner_of(ctx, item.project_id)
            ctx.require("create_router", {"project_id": owner})
            self.guard(ctx, "create", raw, {"project_id": owner}, CreateRouter)
            asked = asked_gateway(item.external_gateway_info)
            if asked is not None:
                await Networks().visible(ctx, asked.network_id or "")
            router = replace(_router(ctx, owner, item), **await _policy(ctx, asked))
            if router.flavor_id:
                await FLAVORS.get(ctx.runtime.store, router.flavor_id)
            wanted.append((router, asked))
        world, made = ctx.runtime.world, []
        async with ctx.runtime.store.tx() as tx:
            await hold(tx, "networks", *(a.network_id or "" for _, a in wanted if a))
            await hold_policies(tx, *(r.qos_policy_id for r, _ in wanted))
            for router, asked in wanted:
                now = world.clock.time()
                host = await choose_host(tx, now)
                candidates = await candidates_with(tx, now, host) if router.ha else {}
                router = replace(router, host=host, candidates=candidates)
                router = await ROUTERS.insert(tx, router)
                if asked is not None:
                    gateways = await set_gateways(tx, world, router, [(None, asked)])
                    router = await ROUTERS.change(tx, router, **gateways)
                await emit(tx, "router.create.end", router.project_id, id=router.id)
                made.append(router)
        await wake(ctx.runtime, {r.host for r in made})
        return await self.made(ctx, made, body.single)

    @operation("PUT", "/routers/{router_id}", "update_router")
    async def update(self, ctx: Context, router: Router, body: UpdateRouter) -> Any:
        self.match(ctx, router)
        raw = ctx.document["router"]
        self.guard(ctx, "update", raw, self.target(ctx, router), UpdateRouter)
        changes = body.given()
        for name in ("enable_default_route_ecmp", "enable_default_route_bfd"):
            if changes.get(name, False) is None:
                del changes[name]  # as it is
        given = changes.pop(_GATEWAY, UNSET)
        asked = asked_gateway(given)
        if asked is not None:
            await Networks().visible(ctx, asked.network_id or "")
        changes |= await _policy(ctx, asked) if asked or given is UNSET else {"qos_policy_id": ""}
        if "routes" in changes:
            changes["routes"] = checked_routes(changes["routes"] or [])
        async with ctx.runtime.store.tx() as tx:
            await self._hold(tx, router, asked.network_id if asked else None)
            await hold_policies(tx, changes.get("qos_policy_id", ""))
            router = await ROUTERS.get(tx, router.id)
            if given is not UNSET:
                goals = first_gateway(router, asked)
                changes |= await set_gateways(tx, ctx.runtime.world, router, goals)
            await refuse_unconnected(tx, router, changes.get("routes", ()))
            if changes.get("ha", router.ha) != router.ha:
                now = ctx.runtime.world.clock.time()
                some = await candidates_with(tx, now, router.host) if changes["ha"] else {}
                changes["candidates"] = some
            router = await ROUTERS.revise(tx, router, **changes)
            await emit(tx, "router.update.end", router.project_id, id=router.id)
        await wake(ctx.runtime, {router.host})
        return await self.one(ctx, router)

    async def _hold(self, tx: Tx, router: Router, *network_ids: str | None) -> None:
        """The networks that the change concerns, and then the router."""
        outer = [g.network_id for g in router.gateways]
        await hold(tx, "networks", *(n for n in (*outer, *network_ids) if n))
        await hold(tx, "routers", router.id)

    @operation("DELETE", "/routers/{router_id}", "delete_router")
    async def delete(self, ctx: Context, router: Router) -> None:
        self.match(ctx, router)
        async with ctx.runtime.store.tx() as tx:
            await self._hold(tx, router)
            router = await ROUTERS.get(tx, router.id)
            await drop_router(tx, router)
        await wake(ctx.runtime, {router.host})

    @operation("PUT", "/routers/{router_id}/add_extraroutes", "add_extraroutes")
    async def add_routes(self, ctx: Context, router: Router, body: ExtraRoutes) -> Any:
        return await self._reroute(ctx, router, body, added=True)

    @operation("PUT", "/routers/{router_id}/remove_extraroutes", "remove_extraroutes")
    async def remove_routes(self, ctx: Context, router: Router, body: ExtraRoutes) -> Any:
        return await self._reroute(ctx, router, body, added=False)

    async def _reroute(self, ctx: Context, router: Router, body: ExtraRoutes, added: bool) -> Any:
        """Routes that are there already are not added twice, nor missing ones missed."""
        given = checked_routes(body.routes)
        async with ctx.runtime.store.tx() as tx:
            await self._hold(tx, router)
            router = await ROUTERS.get(tx, router.id)
            left = [r for r in router.routes if r not in given]
            routes = checked_routes([*left, *given]) if added else left
            if added:
                await refuse_unconnected(tx, router, given)
            if routes != router.routes:
                router = await ROUTERS.revise(tx, router, routes=routes)
        await wake(ctx.runtime, {router.host})
        return await self.one(ctx, router)

    @operation("PUT", "/routers/{router_id}/add_external_gateways", "add_external_gateways")
    async def add_gateways(self, ctx: Context, router: Router, body: ExternalGateways) -> Any:
        return await self._regate(ctx, router, body, "add", gateways_with)

    @operation("PUT", "/routers/{router_id}/update_external_gateways", "update_external_gateways")
    async def update_gateways(self, ctx: Context, router: Router, body: ExternalGateways) -> Any:
        return await self._regate(ctx, router, body, "update", gateways_like)

    @operation("PUT", "/routers/{router_id}/remove_external_gateways", "remove_external_gateways")
    async def remove_gateways(self, ctx: Context, router: Router, body: ExternalGateways) -> Any:
        return await self._regate(ctx, router, body, "remove", gateways_without)

    async def _regate(
        self,
        ctx: Context,
        router: Router,
        body: ExternalGateways,
        verb: str,
        goals: Callable[[Router, Sequence[GatewayRequest]], list[Goal]],
    ) -> Any:
        asked, target = body.external_gateways, self.target(ctx, router)
        self.guard(ctx, f"{verb}_{_GATEWAYS}", ctx.document["router"], target, ExternalGateways)
        for request in asked:
            if not request.network_id:
                raise bad_router("Each of external_gateways must name its network_id")
            await Networks().visible(ctx, request.network_id)
        async with ctx.runtime.store.tx() as tx:
            await self._hold(tx, router, *(a.network_id for a in asked))
            router = await ROUTERS.get(tx, router.id)
            changes = await set_gateways(tx, ctx.runtime.world, router, goals(router, asked))
            router = await ROUTERS.revise(tx, router, **changes)
            await emit(tx, "router.update.end", router.project_id, id=router.id)
        await wake(ctx.runtime, {router.host})
        return await self.one(ctx, router)

    @operation("PUT", "/routers/{router_id}/add_router_interface", "add_router_interface")
    async def add_interface(self, ctx: Context, router: Router, body: InterfaceRequest) -> Any:
        if body.subnet_id and body.port_id:
            raise bad_router("Cannot specify both subnet-id and port-id")
        if not body.subnet_id and not body.port_id:
            raise bad_router("Either subnet_id or port_id must be specified")
        world = ctx.runtime.world
        if body.subnet_id:
            subnet = await Subnets().visible(ctx, body.subnet_id)
            if subnet.external and not _owns(ctx, subnet.network_project_id):
                raise Forbidden(
                    f"Subnet {subnet.id} is of an external network; set it as the router's gateway."
                )
            async with ctx.runtime.store.tx() as tx:
                await self._hold(tx, router, subnet.network_id)
                router = await ROUTERS.get(tx, router.id)
                port = await add_by_subnet(tx, world, router, subnet)
                await self._added(tx, router, port)
        else:
            port = await Ports().visible(ctx, body.port_id or "")
            ctx.require("update_port", port_target(port))
            async with ctx.runtime.store.tx() as tx:
                await self._hold(tx, router, port.network_id)
                router = await ROUTERS.get(tx, router.id)
                port = await add_by_port(tx, router, port.id)
                await self._added(tx, router, port)
        await wake(ctx.runtime, {router.host})
        await wake_networks(ctx.runtime, port.network_id)
        return interface_view(router, port)

    async def _added(self, tx: Tx, router: Router, port: Port) -> None:
        await ROUTERS.revise(tx, router)
        await emit(tx, "router.interface.create", router.project_id, id=router.id, port_id=port.id)

    @operation("PUT", "/routers/{router_id}/remove_router_interface", "remove_router_interface")
    async def remove_interface(self, ctx: Context, router: Router, body: InterfaceRequest) -> Any:
        if not body.subnet_id and not body.port_id:
            raise bad_router("Either subnet_id or port_id must be specified")
        networks = {p.network_id for p in await legs(ctx.runtime.store, router.id)}
        async with ctx.runtime.store.tx() as tx:
            await self._hold(tx, router, *networks)
            router = await ROUTERS.get(tx, router.id)
            port = await remove(tx, router, body.subnet_id or "", body.port_id or "")
            await ROUTERS.revise(tx, router)
            await emit(
                tx, "router.interface.delete", router.project_id, id=router.id, port_id=port.id
            )
        await wake(ctx.runtime, {router.host})
        await wake_networks(ctx.runtime, port.network_id)
        return interface_view(router, port)


async def drop_router(tx: Tx, router: Router) -> None:
    """The networks and the router are held. Raises Conflict while it has interfaces or is needed."""
    if any(p.device_owner == ROUTER_INTERFACE for p in await legs(tx, router.id)):
        raise router_in_use(router.id)
    for gateway in router.gateways:
        await drop_gateway(tx, router, gateway)
    await ROUTERS.delete(tx, router)
    await emit(tx, "router.delete.end", router.project_id, id=router.id)


async def _policy(ctx: Context, asked: GatewayRequest | None) -> dict[str, str]:
    """The gateway's QoS policy, if it is named."""
    if asked is None or asked.qos_policy_id is UNSET:
        return {}
    return {"qos_policy_id": await usable_policy(ctx, asked.qos_policy_id)}


def _owns(ctx: Context, project_id: str) -> bool:
    return sees_all(ctx) or project_id == ctx.caller.project_id


def _router(ctx: Context, owner: str, body: CreateRouter) -> Router:
    return Router(
        id=ctx.runtime.world.new_id(),
        project_id=owner,
        name=body.name,
        description=body.description,
        admin_state_up=body.admin_state_up,
        availability_zone_hints=body.availability_zone_hints,
        ha=body.ha is True,
        flavor_id=body.flavor_id or "",
        enable_default_route_ecmp=body.enable_default_route_ecmp is True,
        enable_default_route_bfd=body.enable_default_route_bfd is True,
    )

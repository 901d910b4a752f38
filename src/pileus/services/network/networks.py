"""Networks: isolated layer 2 segments, or external ones (API reference: networks)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from msgspec import UNSET, Struct, UnsetType, field
from msgspec.structs import replace

from pileus.kernel.events import emit
from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context, operation
from pileus.kernel.runtime import Runtime
from pileus.kernel.schema import Bulk
from pileus.kernel.store import Page, Tx

from .attributes import Attributes, network_domain
from .floating_ip import FLOATING_IPS, tell_floating
from .network import (
    NETWORKS,
    Network,
    add_network,
    at_places,
    network_target,
    refuse_second_default,
)
from .port import PORTS
from .pvlan import follow_network, private
from .qos.users import hold_policies, policy_of_project, usable_policy
from .rbac_policy import drop_policies, follow_flags
from .refusals import bad_input, network_in_use
from .resource import (
    ADMIN,
    OWNER,
    READER,
    NetworkResource,
    hold,
    listing,
    owner_of,
    project_of,
    sees_all,
    standard,
)
from .segment import FLAT, SEGMENTS, VLAN, VXLAN, Place, checked_place, refuse_taken
from .settings import NetworkSettings, settings_of
from .subnet import SUBNETS, give_back, release_subnet
from .wiring import wake_networks

_IPV6_MTU = 1280
_NOWHERE = dict.fromkeys(
    ("provider:network_type", "provider:physical_network", "provider:segmentation_id")
)
_FIXED = frozenset(
    [
        "id",
        "status",
        "subnets",
        "created_at",
        "updated_at",
        "revision_number",
        "tags",
        "availability_zones",
        "ipv4_address_scope",
        "ipv6_address_scope",
        "l2_adjacency",
    ]
)


class ProviderSegment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of several segments that a body asks for."""

    network_type: str = field(name="provider:network_type")
    physical_network: str | None = field(name="provider:physical_network", default=None)
    segmentation_id: int | None = field(name="provider:segmentation_id", default=None)


class CreateNetwork(Attributes):
    root: ClassVar[str] = "network"
    plural: ClassVar[str] = "networks"
    fixed = _FIXED
    defaults = {
        "shared": False,
        "router:external": False,
        "is_default": False,
        "provider:network_type": None,
        "provider:physical_network": None,
        "provider:segmentation_id": None,
    }

    name: str = ""
    description: str = ""
    project_id: str | UnsetType = UNSET
    admin_state_up: bool = True
    shared: bool = False
    external: bool = field(name="router:external", default=False)
    is_default: bool = False
    mtu: int = 0
    port_security_enabled: bool = True
    pvlan: bool = False
    dns_domain: str = ""
    network_type: str | None = field(name="provider:network_type", default=None)
    physical_network: str | None = field(name="provider:physical_network", default=None)
    segmentation_id: int | None = field(name="provider:segmentation_id", default=None)
    segments: list[ProviderSegment] | None = None
    vlan_transparent: bool | None = None
    qinq: bool | None = None
    qos_policy_id: str | None = None
    availability_zone_hints: list[str] = []
    ha: bool = False  # for routers that speak VRRP: none here needs a network of its own


class UpdateNetwork(Attributes):
    root: ClassVar[str] = "network"
    creates = False
    fixed = _FIXED | {
        "project_id",
        "tenant_id",
        "availability_zone_hints",
        "segments",
        "vlan_transparent",
        "qinq",
        "ha",
    }

    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    admin_state_up: bool | UnsetType = UNSET
    shared: bool | UnsetType = UNSET
    external: bool | UnsetType = field(name="router:external", default=UNSET)
    is_default: bool | UnsetType = UNSET
    mtu: int | UnsetType = UNSET
    port_security_enabled: bool | UnsetType = UNSET
    pvlan: bool | UnsetType = UNSET
    dns_domain: str | UnsetType = UNSET
    network_type: str | UnsetType = field(name="provider:network_type", default=UNSET)
    physical_network: str | UnsetType = field(name="provider:physical_network", default=UNSET)
    segmentation_id: int | UnsetType = field(name="provider:segmentation_id", default=UNSET)
    qos_policy_id: str | UnsetType | None = UNSET


class Networks(NetworkResource[Network], path="/networks"):
    table = NETWORKS
    noun = "network"
    plural = "networks"
    id_param = "network_id"
    see = "get_network"
    share_type = "network"
    hidden = (
        "provider:network_type",
        "provider:physical_network",
        "provider:segmentation_id",
        "pvlan",
        "segments",
    )
    rules = {
        "create_network": OWNER,
        "create_network:shared": ADMIN,
        "create_network:router:external": ADMIN,
        "create_network:is_default": ADMIN,
        "create_network:port_security_enabled": OWNER,
        "create_network:pvlan": OWNER,
        "create_network:segments": ADMIN,
        "create_network:provider:network_type": ADMIN,
        "create_network:provider:physical_network": ADMIN,
        "create_network:provider:segmentation_id": ADMIN,
        "get_network": "(rule:admin_only) or (role:reader and project_id:%(project_id)s) or "
        "rule:service_api or rule:shared or rule:external or rule:context_is_advsvc",
        "get_network:segments": ADMIN,
        "get_network:provider:network_type": ADMIN,
        "get_network:provider:physical_network": ADMIN,
        "get_network:provider:segmentation_id": ADMIN,
        "get_network:pvlan": READER,
        "get_network:tags": "(rule:admin_only) or (role:reader and project_id:%(project_id)s) or "
        "rule:shared or rule:external or rule:context_is_advsvc",
        "update_network": OWNER,
        "update_network:shared": ADMIN,
        "update_network:provider:network_type": ADMIN,
        "update_network:provider:physical_network": ADMIN,
        "update_network:provider:segmentation_id": ADMIN,
        "update_network:router:external": ADMIN,
        "update_network:is_default": ADMIN,
        "update_network:port_security_enabled": OWNER,
        "update_network:pvlan": OWNER,
        "update_network:tags": OWNER,
        "delete_network": OWNER,
        "delete_network:tags": OWNER,
    }
    listing = listing(
        ("status", "qos_policy_id"),
        shared=Filter(kind=bool),
        admin_state_up=Filter(kind=bool),
        is_default=Filter(kind=bool),
        mtu=Filter(kind=int),
        port_security_enabled=Filter(kind=bool),
        pvlan=Filter(kind=bool),
        vlan_transparent=Filter(kind=bool),
        qinq=Filter(kind=bool),
        **{
            "router:external": Filter("external", kind=bool),
            "provider:network_type": Filter("network_type"),
            "provider:physical_network": Filter("physical_network"),
            "provider:segmentation_id": Filter("segmentation_id", kind=int),
        },
    )

    def target(self, ctx: Context, record: Network) -> Mapping[str, object]:
        return network_target(record, ctx.caller.project_id)

    def scopes_of(self, ctx: Context) -> tuple[Mapping[str, Any], ...]:
        if sees_all(ctx) or ctx.allows("service_api") or ctx.allows("context_is_advsvc"):
            return ()
        return (*super().scopes_of(ctx), *external_scopes(ctx))

    def view(self, ctx: Context, record: Network) -> dict[str, Any]:
        n, asker = record, ctx.caller.project_id
        return standard(n) | {
            "admin_state_up": n.admin_state_up,
            "status": "ACTIVE",
            "subnets": n.subnets,
            "shared": n.is_shared_to(asker),
            "router:external": n.is_outer,
            "is_default": n.is_default,
            "mtu": n.mtu,
            "port_security_enabled": n.port_security_enabled,
            "pvlan": n.pvlan,
            "dns_domain": n.dns_domain,
            "availability_zone_hints": n.availability_zone_hints,
            "availability_zones": ["nova"],
            "ipv4_address_scope": n.ipv4_address_scope or None,
            "ipv6_address_scope": n.ipv6_address_scope or None,
            "qos_policy_id": n.qos_policy_id or None,
            "vlan_transparent": n.vlan_transparent,
            "qinq": n.qinq,
            "l2_adjacency": not n.routed,
            **_provider(n),
        }

    @operation("POST", "/networks", "create_network", status=201)
    async def create(self, ctx: Context, body: Bulk[CreateNetwork]) -> Any:
        wanted = []
        for item, raw in zip(body.items, body.raw, strict=True):
            owner = owner_of(ctx, item.project_id)
            target = {"project_id": owner, "shared": item.shared}
            ctx.require("create_network", target)
            self.guard(ctx, "create", raw, target, CreateNetwork)
            policy = await usable_policy(ctx, item.qos_policy_id, reserves=True)
            policy = policy or await policy_of_project(ctx.runtime.store, owner)
            network = private(_network(ctx.runtime, item, owner))
            wanted.append(replace(network, qos_policy_id=policy))
        async with ctx.runtime.store.tx() as tx:
            await hold_policies(tx, *(n.qos_policy_id for n in wanted))
            ranges, world = settings_of(ctx.runtime).vlans, ctx.runtime.world
            made = [await add_network(tx, world, n, ranges) for n in wanted]
        return await self.made(ctx, made, body.single)

    @operation("PUT", "/networks/{network_id}", "update_network")
    async def update(self, ctx: Context, network: Network, body: UpdateNetwork) -> Any:
        self.match(ctx, network)
        raw = ctx.document["network"]
        self.guard(ctx, "update", raw, self.target(ctx, network), UpdateNetwork)
        changes = body.given()
        chosen = settings_of(ctx.runtime)
        place = _moved(network, changes, chosen)
        network_domain(changes.get("dns_domain", ""))
        if "mtu" in changes:
            changes["mtu"] = _mtu(chosen, changes["mtu"], network.places)
        if "qos_policy_id" in changes:
            policy = await usable_policy(ctx, changes["qos_policy_id"], reserves=True)
            changes["qos_policy_id"] = policy
        async with ctx.runtime.store.tx() as tx:
            await hold(tx, "networks", network.id)
            network = await NETWORKS.get(tx, network.id)
            await hold_policies(tx, changes.get("qos_policy_id", ""))
            await _visibility(tx, network, changes)
            if place is not None:
                await hold(tx, "segments", place.network_type)
                await refuse_taken(tx, place)
                for segment in await SEGMENTS.all(tx, place=network.places[0].key):
                    await SEGMENTS.revise(tx, segment, segmentation_id=place.segmentation_id)
                changes |= at_places([place, *network.more_segments])
            if "mtu" in changes:
                versions = [s.ip_version for s in await SUBNETS.all(tx, network_id=network.id)]
                refuse_small_mtu(network.id, changes["mtu"], versions)
            wanted = private(replace(network, **changes))
            if wanted.pvlan != network.pvlan:
                await follow_network(tx, wanted)
            await refuse_second_default(tx, wanted)
            await follow_flags(tx, ctx.runtime.world, "network", network, wanted)
            network = await NETWORKS.revise(tx, network, **changes)
            await emit(tx, "network.update.end", network.project_id, id=network.id)
        await wake_networks(ctx.runtime, network.id)
        return await self.one(ctx, network)

    @operation("DELETE", "/networks/{network_id}", "delete_network")
    async def delete(self, ctx: Context, network: Network) -> None:
        self.match(ctx, network)
        async with ctx.runtime.store.tx() as tx:
            await hold(tx, "networks", network.id)
            await drop_network(tx, network.id)


async def drop_network(tx: Tx, id: str) -> None:
    """With its subnets. The network is held. Raises NotFound, Conflict while it has ports."""
    network = await NETWORKS.get(tx, id)
    await drop_unused(tx, id)
    if await PORTS.one(tx, network_id=id) is not None:
        raise network_in_use(id)
    for subnet in await SUBNETS.all(tx, network_id=id):
        await release_subnet(tx, subnet)
    for segment in await SEGMENTS.all(tx, network_id=id):
        await SEGMENTS.delete(tx, segment)
    await drop_policies(tx, id)
    await NETWORKS.delete(tx, network)
    await emit(tx, "network.delete.end", network.project_id, id=id)


def external_scopes(ctx: Context) -> tuple[Mapping[str, Any], ...]:
    """The rows that anybody, or the caller by a policy, may use as the outside."""
    return {"external": 1}, {"external_to": [project_of(ctx.caller)]}


def refuse_small_mtu(network_id: str, mtu: int, versions: Sequence[int]) -> None:
    """IPv6 has no packets below 1280. Raises Conflict."""
    if 6 in versions and mtu < _IPV6_MTU:
        raise Conflict(
            f"MTU of {network_id} is not valid, subnet requires a minimum of {_IPV6_MTU} bytes.",
            code="NetworkMTUSubnetConflict",
        )


def _mtu(chosen: NetworkSettings, value: int, places: Sequence[Place]) -> int:
    """Raises Invalid. 0 means what the network's segments can carry."""
    tunnels = any(p.network_type == VXLAN for p in places)
    most = chosen.tenant_mtu if tunnels else chosen.underlay_mtu
    if value == 0:
        return most
    if not 68 <= value <= 65535:
        raise Invalid(f"Invalid input for mtu. Reason: '{value}' must be 0 or from 68 to 65535.")
    if value > most:
        raise bad_input(f"Requested MTU is too big, maximum is {most}")
    return value


def _network(runtime: Runtime, body: CreateNetwork, owner: str) -> Network:
    """The record that a body asks for. Raises Invalid."""
    chosen = settings_of(runtime)
    places = _places(body, chosen)
    refuse_untagged(bool(body.vlan_transparent), bool(body.qinq), places)
    return Network(
        id=runtime.world.new_id(),
        project_id=owner,
        name=body.name,
        description=body.description,
        admin_state_up=body.admin_state_up,
        shared=body.shared,
        external=body.external,
        is_default=body.is_default,
        mtu=_mtu(chosen, body.mtu, places),
        port_security_enabled=body.port_security_enabled,
        pvlan=body.pvlan,
        dns_domain=network_domain(body.dns_domain),
        vlan_transparent=bool(body.vlan_transparent),
        qinq=bool(body.qinq),
        availability_zone_hints=body.availability_zone_hints,
        **at_places(places),
    )


def _places(body: CreateNetwork, chosen: NetworkSettings) -> list[Place]:
    """Where the segments are to be. Raises Invalid."""
    one = (body.network_type, body.physical_network, body.segmentation_id)
    if not body.segments:
        kind, physical, number = one
        return [checked_place(kind or VXLAN, physical or "", number, chosen.vlans)]
    if any(part is not None for part in one):
        raise Invalid(
            "Segments and provider values cannot both be set.",
            code="SegmentsSetInConjunctionWithProviders",
        )
    places = [
        checked_place(
            s.network_type, s.physical_network or "", s.segmentation_id or None, chosen.vlans
        )
        for s in body.segments
    ]
    whole = [p for p in places if p.segmentation_id or p.network_type == FLAT]
    if len(set(whole)) != len(whole):
        raise Invalid("Duplicate segment entry in request.", code="SegmentsContainDuplicateEntry")
    return places


def refuse_untagged(transparent: bool, qinq: bool, places: Sequence[Place]) -> None:
    """Raises Invalid where guests' own VLAN tags would not pass."""
    kinds = {p.network_type for p in places}
    if transparent and qinq:
        raise Invalid(
            "Bad network request: Attributes 'vlan_transparent' and 'qinq' can not be set to True "
            "for the same network.",
            code="BadRequest",
        )
    if transparent and FLAT in kinds:
        raise Invalid(
            "Backend does not support VLAN Transparency of flat networks: their tags are the "
            "physical network's own.",
            code="VlanTransparencyDriverError",
        )
    if qinq and kinds != {VLAN}:
        raise Invalid(
            "Backend does not support VLAN QinQ but for networks of type vlan.",
            code="VlanQinqDriverError",
        )


def _moved(network: Network, changes: dict[str, Any], chosen: NetworkSettings) -> Place | None:
    """Another VLAN of its physical network; else a segment is where its ports are, and stays. Raises Invalid."""
    names = ("network_type", "physical_network", "segmentation_id")
    given = {n: changes.pop(n) for n in names if n in changes}
    moved = {n: v for n, v in given.items() if v != getattr(network, n)}
    if not moved:
        return None
    if network.more_segments:
        raise bad_input(
            "Provider network attributes can be updated only in provider networks with a single "
            "segment."
        )
    if set(moved) != {"segmentation_id"} or network.network_type != VLAN:
        raise bad_input(
            "Plugin does not support updating provider attributes, but for the segmentation_id of "
            "VLAN networks"
        )
    return checked_place(VLAN, network.physical_network, moved["segmentation_id"], chosen.vlans)


def _provider(network: Network) -> dict[str, Any]:
    """Where it is: told of one segment by itself, and of several in a list."""
    shown = [
        {
            "provider:network_type": p.network_type,
            "provider:physical_network": p.physical_network or None,
            "provider:segmentation_id": p.segmentation_id or None,
        }
        for p in network.places
    ]
    return {"segments": shown} if len(shown) > 1 else (shown or [_NOWHERE])[0]


async def _visibility(tx: Tx, network: Network, changes: dict[str, Any]) -> None:
    """What others may use must stay theirs to use; and subnets follow their network. Raises Conflict."""
    if changes.get("shared") is False and network.shared:
        ports = await PORTS.list(tx, Page({"network_id": network.id}, limit=100_000))
        known = {"", network.project_id, *network.shared_with}
        if any(p.project_id not in known for p in ports):
            raise Conflict(
                f"Unable to reconfigure sharing settings for network {network.id}. "
                "Multiple projects are using it.",
                code="InvalidSharedSetting",
            )
    if changes.get("external") is False and network.external:
        for owner in ("network:router_gateway", "network:floatingip"):
            if await PORTS.one(tx, network_id=network.id, device_owner=owner) is not None:
                raise Conflict(
                    f"External network {network.id} cannot be updated to be made non-external, "
                    "since it has existing gateway ports",
                    code="ExternalNetworkInUse",
                )
    moved = {n: changes[n] for n in ("shared", "external") if n in changes}
    if moved:
        for subnet in await SUBNETS.all(tx, network_id=network.id):
            await SUBNETS.change(tx, subnet, **moved)


async def drop_unused(tx: Tx, network_id: str) -> None:
    """Floating IPs that stand for nobody go with their outer network."""
    for fip in await FLOATING_IPS.all(tx, floating_network_id=network_id, port_id=""):
        await FLOATING_IPS.delete(tx, fip)
        holder = await PORTS.find(tx, fip.holder_id)
        if holder is not None:
            for fixed in holder.fixed_ips:
                await give_back(tx, network_id, fixed.ip_address)
            await PORTS.delete(tx, holder)
        await tell_floating(tx, "delete", fip)

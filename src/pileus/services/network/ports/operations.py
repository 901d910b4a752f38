"""Ports (API reference: ports)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.query import Filter, Query
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import Bulk
from pileus.kernel.store import Match, Page, Tx

from ..attributes import Attributes, domain_name, text, zone_of
from ..contract import Reservation
from ..network import NETWORKS, Network
from ..networks import Networks
from ..port import DOWN, PORTS, SERVICE_OWNERS, Port, binding_of, ip_allocation, port_target
from ..pvlan import cleared, taking_part
from ..qos.users import hold_policies, network_policies, usable_policy
from ..refusals import service_port_in_use
from ..reservations import reservations_of
from ..resource import NetworkResource, hold, listing, owner_of, project_of, sees_all, standard
from ..router import ROUTERS
from ..security_group import GROUPS
from ..security_groups.operations import SecurityGroups
from ..settings import settings_of
from ..subnet import ALLOCATIONS
from ..tags import checked_tags
from ..trunk import TRUNKS, carry, trunk_details, trunk_over
from ..wiring import wake_for_ports, wake_networks
from .bodies import (
    CreatePort,
    FixedRequest,
    UpdatePort,
    address_pairs,
    dhcp_options,
    dns_label,
    mac_address,
    named,
    secured,
    vnic_type,
)
from .cards import card_mac, offloading, worn_mac
from .lifecycle import add_port, addressed_at, free_mac, readdress, remove_port, tell
from .rules import PORT_RULES

_SUBSTRING = "ip_address_substr="


class Ports(NetworkResource[Port], path="/ports"):
    table = PORTS
    noun = "port"
    plural = "ports"
    id_param = "port_id"
    see = "get_port"
    hidden = (
        "binding:vif_type",
        "binding:vif_details",
        "binding:host_id",
        "binding:profile",
        "pvlan_type",
        "pvlan_community",
        "trusted",
    )
    rules = PORT_RULES
    listing = listing(
        (
            "network_id",
            "mac_address",
            "status",
            "device_id",
            "device_owner",
            "dns_name",
            "qos_policy_id",
            "ip_allocation",
            "pvlan_type",
            "pvlan_community",
        ),
        admin_state_up=Filter(kind=bool),
        port_security_enabled=Filter(kind=bool),
        fixed_ips=Filter(op="any"),
        security_groups=Filter(op="any"),
        **{"binding:host_id": Filter("host"), "binding:vnic_type": Filter("vnic_type")},
    )

    def best_target(self, ctx: Context) -> Mapping[str, object]:
        return {
            **ctx.own,
            "network:project_id": ctx.caller.project_id,
            "shared": True,
            "device_owner": "",
        }

    def target(self, ctx: Context, record: Port) -> Mapping[str, object]:
        return port_target(record)

    def scopes_of(self, ctx: Context) -> tuple[Mapping[str, Any], ...]:
        if sees_all(ctx) or ctx.allows("service_api"):
            return ()
        mine = project_of(ctx.caller)
        return ({"project_id": mine}, {"network_project_id": mine})

    def view(self, ctx: Context, record: Port) -> dict[str, Any]:
        p = record
        return standard(p) | {
            "network_id": p.network_id,
            "mac_address": p.mac_address,
            "admin_state_up": p.admin_state_up,
            "status": p.status,
            "device_id": p.device_id,
            "device_owner": p.device_owner,
            "fixed_ips": p.fixed_ips,
            "ip_allocation": ip_allocation(p),
            "security_groups": p.security_groups,
            "port_security_enabled": p.port_security_enabled,
            "allowed_address_pairs": p.allowed_address_pairs,
            "extra_dhcp_opts": p.extra_dhcp_opts,
            "qos_policy_id": p.qos_policy_id or None,
            "pvlan_type": p.pvlan_type or None,
            "pvlan_community": p.pvlan_community or None,
            "numa_affinity_policy": p.numa_affinity_policy or None,
            "device_profile": p.device_profile or None,
            "hardware_offload_type": p.hardware_offload_type or None,
            "trusted": p.trusted,
            "propagate_uplink_status": p.propagate_uplink_status,
            "dns_name": p.dns_name,
            "dns_domain": p.dns_domain,
            "dns_assignment": _dns_assignment(p, settings_of(ctx.runtime).dns_domain),
            "binding:host_id": p.host,
            **{f"binding:{name}": value for name, value in binding_of(p).items()},
        }

    async def listed(self, ctx: Context, **fixed: Any) -> dict[str, Any]:
        """`fixed_ips=ip_address_substr=TEXT` finds parts of addresses."""
        wanted = [v.partition("=")[2] for v in ctx.query.all("fixed_ips") if _SUBSTRING in v]
        if wanted:
            parts = "|".join(map(re.escape, wanted))
            page = Page({"ip": Match("regex", parts)}, (("id", False),), limit=1 << 30)
            found = await ALLOCATIONS.page(ctx.runtime.store, page, select=("port_id",))
            fixed["id"] = sorted({row[0] for row in found})
        return await super().listed(ctx, **fixed)

    def page(self, ctx: Context, **fixed: Any) -> Page:
        whole, ctx.query = ctx.query, Query("")  # links to other pages keep the parts
        ctx.query.pairs = [(k, v) for k, v in whole.pairs if _SUBSTRING not in v]
        try:
            return super().page(ctx, **fixed)
        finally:
            ctx.query = whole

    async def tails(self, ctx: Context, records: Sequence[Port]) -> Sequence[bytes]:
        """What their networks put them under, and what their trunks carry."""
        store = ctx.runtime.store
        under = await network_policies(store, {p.network_id for p in records})
        sees = ctx.allows("get_port:resource_request", self.best_target(ctx))
        reserved = await reservations_of(store, records, under) if sees else {}
        trunks = await trunk_details(store, [p.id for p in records])

        def tail(network_id: str, id: str = "") -> bytes:
            more: dict[str, Any] = {"qos_network_policy_id": under.get(network_id)}
            if sees:
                more["resource_request"] = _resource_request(reserved.get(id, ()))
            if id in trunks:
                more["trunk_details"] = trunks[id]
            return b"," + msgspec.json.encode(more)[1:]

        usual = {id: tail(id) for id in {p.network_id for p in records}}
        own = reserved.keys() | trunks.keys()
        return [tail(p.network_id, p.id) if p.id in own else usual[p.network_id] for p in records]

    @operation("POST", "/ports", "create_port", status=201)
    async def create(self, ctx: Context, body: Bulk[CreatePort]) -> Any:
        wanted = [
            await self._wanted(ctx, item, raw)
            for item, raw in zip(body.items, body.raw, strict=True)
        ]
        made = []
        async with ctx.runtime.store.tx() as tx:
            await hold(tx, "networks", *(i.network_id for i in body.items))
            await hold(tx, "security_groups", *(g for p in wanted for g in p.security_groups))
            await hold_policies(tx, *(p.qos_policy_id for p in wanted))
            for item, port in zip(body.items, wanted, strict=True):
                network = await NETWORKS.get(tx, item.network_id)
                await _groups_stay(tx, port.security_groups)
                made.append(
                    await add_port(
                        tx, ctx.runtime.world, network, port, _requests(item.fixed_ips),
                        wear_default=_wears_default(item, port),
                    )
                )  # fmt: skip
        await wake_for_ports(ctx.runtime, *made)
        return await self.made(ctx, made, body.single)

    async def _wanted(self, ctx: Context, body: CreatePort, raw: dict[str, Any]) -> Port:
        """The record that a body asks for, but for its addresses. Raises Forbidden, Invalid, NotFound, Conflict."""
        owner = owner_of(ctx, body.project_id)
        network = await Networks().visible(ctx, body.network_id)
        target = _create_target(network, owner, body.device_owner or "", ctx.caller.project_id)
        ctx.require("create_port", target)
        self.guard(ctx, "create", raw, target, CreatePort)
        groups = await self._groups(ctx, body.security_groups)
        port = _port(ctx.runtime.world.new_id(), owner, network, body, groups)
        policy = await usable_policy(ctx, body.qos_policy_id, reserves=True)
        zone = zone_of(port.dns_domain or network.dns_domain, ctx.caller)
        mac = card_mac(port) or port.mac_address
        port = replace(port, qos_policy_id=policy, dns_zone=zone, mac_address=mac)
        await _own_device(ctx, port)
        return port

    async def _groups(self, ctx: Context, given: Any) -> list[str]:
        """Ids of groups that the caller may see. Raises NotFound."""
        ids = list(given) if given not in (UNSET, None) else []
        if twice := sorted({i for i in ids if ids.count(i) > 1}):
            raise Invalid(
                "Invalid input for security_groups. Reason: Duplicate items in the list: "
                f"'{', '.join(twice)[:80]}'."
            )
        groups = [await SecurityGroups().visible(ctx, id) for id in ids]
        if len({g.stateful for g in groups}) > 1:
            raise Conflict(
                "Error Cannot apply both stateful and stateless security groups on the same port "
                "while attempting the operation.",
                code="SecurityGroupConflict",
            )
        return ids

    @operation("PUT", "/ports/{port_id}", "update_port")
    async def update(self, ctx: Context, port: Port, body: UpdatePort) -> Any:  # type: ignore[valid-type]
        self.match(ctx, port)
        given = cast(Attributes, body).given()
        network = await NETWORKS.get(ctx.runtime.store, port.network_id)
        target = {**port_target(port), "shared": network.is_shared_to(ctx.caller.project_id)}
        if (owner := given.get("device_owner")) is not None:
            target["device_owner"] = owner
        self.guard(ctx, "update", ctx.document["port"], target, UpdatePort)
        changes = _changes(port, given)
        if "qos_policy_id" in changes:
            policy = await usable_policy(ctx, changes["qos_policy_id"], reserves=True)
            changes["qos_policy_id"] = policy
        if not changes.keys().isdisjoint(("dns_name", "dns_domain")):
            domain = changes.get("dns_domain", port.dns_domain) or network.dns_domain
            changes["dns_zone"] = zone_of(domain, ctx.caller)
        if "security_groups" in changes:
            changes["security_groups"] = await self._groups(ctx, changes["security_groups"])
        await _own_device(ctx, replace(port, **_device(changes)))
        fixed = changes.pop("fixed_ips", UNSET)
        async with ctx.runtime.store.tx() as tx:
            await hold(tx, "networks", port.network_id)
            await hold(tx, "security_groups", *changes.get("security_groups", ()))
            await hold_policies(tx, changes.get("qos_policy_id", ""))
            new = await PORTS.get(tx, port.id)
            await _reserved_stays(tx, new, changes)
            await _groups_stay(tx, changes.get("security_groups", ()))
            if changes.get("mac_address", "") is None:
                changes["mac_address"] = await free_mac(tx, ctx.runtime.world, port.network_id)
            host = changes.get("host", new.host)
            if fixed is not UNSET:
                moved = replace(new, host=host)
                changes["fixed_ips"] = await readdress(tx, ctx.runtime.world, moved, fixed)
            else:
                changes |= await addressed_at(tx, ctx.runtime.world, new, host)
            part = taking_part(await NETWORKS.get(tx, port.network_id), replace(new, **changes))
            changes["pvlan_type"] = part.pvlan_type
            changes |= await worn_mac(tx, ctx.runtime.world, new, changes)
            new = await PORTS.revise(tx, new, **changes)
            await carry(tx, new)
            await tell(tx, "update", new)
        await wake_for_ports(ctx.runtime, port, new)
        if fixed is not UNSET:
            await wake_networks(ctx.runtime, port.network_id)
        return await self.one(ctx, new)

    @operation("DELETE", "/ports/{port_id}", "delete_port")
    async def delete(self, ctx: Context, port: Port) -> None:
        self.match(ctx, port)
        if port.device_owner in SERVICE_OWNERS and await _in_service(ctx, port):
            raise service_port_in_use(port.id, port.device_owner)
        async with ctx.runtime.store.tx() as tx:
            await hold(tx, "networks", port.network_id)
            await _out_of_trunks(tx, port.id)
            floated = await remove_port(tx, await PORTS.get(tx, port.id))
        await wake_for_ports(ctx.runtime, port)
        if floated:
            await wake_networks(ctx.runtime, port.network_id)


def _create_target(
    network: Network, owner: str, device_owner: str, project_id: str
) -> dict[str, object]:
    return {
        "project_id": owner,
        "device_owner": device_owner,
        "network:project_id": network.project_id,
        "shared": network.is_shared_to(project_id),
    }


async def _out_of_trunks(tx: Tx, port_id: str) -> None:
    """Raises Conflict for a port that a trunk is made of."""
    kinds = {"PortInUseAsTrunkParent": "a parent port", "PortInUseAsSubPort": "a subport"}
    found = (await TRUNKS.one(tx, port_id=port_id), await trunk_over(tx, port_id))
    for (code, what), trunk in zip(kinds.items(), found, strict=True):
        if trunk is not None:
            raise Conflict(f"Port {port_id} is currently {what} for trunk {trunk.id}.", code=code)


async def _in_service(ctx: Context, port: Port) -> bool:
    """Is what it says it serves still there?"""
    if port.project_id == "":
        return True
    return await ROUTERS.find(ctx.runtime.store, port.device_id) is not None


async def _own_device(ctx: Context, port: Port) -> None:
    """A port may not make itself an interface of somebody else's router. Raises Conflict."""
    if port.device_owner not in SERVICE_OWNERS or sees_all(ctx) or not port.device_id:
        return
    router = await ROUTERS.find(ctx.runtime.store, port.device_id)
    if router is not None and router.project_id != ctx.caller.project_id:
        raise Conflict(
            f"The following device_id {port.device_id} is not owned by your project or matches "
            "another project's router.",
            code="DeviceIDNotOwnedByTenant",
        )


async def _groups_stay(tx: Tx, ids: Sequence[str]) -> None:
    """Raises NotFound for a group that was deleted meanwhile."""
    for id in ids:
        await GROUPS.get(tx, id)


async def _reserved_stays(tx: Tx, port: Port, changes: Mapping[str, Any]) -> None:
    """What placement holds for a guest's port was claimed by its policy. Raises Conflict."""
    if not port.guest or changes.get("qos_policy_id", port.qos_policy_id) == port.qos_policy_id:
        return
    under = await network_policies(tx, [port.network_id])
    new = replace(port, qos_policy_id=changes["qos_policy_id"])
    before, after = [await reservations_of(tx, [p], under) for p in (port, new)]
    if before != after:
        raise Conflict(
            f"Port {port.id} is in use by server {port.guest}, and its QoS policy reserves another "
            "minimum than the new one: detach the port first.",
            code="PortInUse",
        )


def _resource_request(reserved: Sequence[Reservation]) -> dict[str, Any] | None:
    if not reserved:
        return None
    return {"request_groups": reserved, "same_subtree": [r.id for r in reserved]}


def _requests(given: Any) -> list[FixedRequest] | None:
    return None if given is UNSET or given is None else cast(list[FixedRequest], given)


def _wears_default(body: CreatePort, port: Port) -> bool:
    return (
        (body.security_groups is UNSET or body.security_groups is None)
        and port.port_security_enabled
        and not port.device_owner.startswith("network:")
    )


def _port(id: str, owner: str, network: Network, body: CreatePort, groups: list[str]) -> Port:
    """Raises Invalid, Conflict."""
    device_id, device_owner = body.device_id or "", body.device_owner or ""
    named(body.name, body.description, device_id, device_owner)
    security = (
        network.port_security_enabled
        if body.port_security_enabled is UNSET
        else body.port_security_enabled
    )
    mac = mac_address(body.mac_address) if body.mac_address else ""
    offload = "" if body.hardware_offload_type is UNSET else body.hardware_offload_type
    pairs = address_pairs(body.allowed_address_pairs or [], mac)
    secured(bool(security), groups, pairs)
    return Port(
        id=id,
        project_id=owner,
        name=body.name,
        description=body.description,
        network_id=network.id,
        mac_address=mac,
        admin_state_up=body.admin_state_up,
        device_id=device_id,
        device_owner=device_owner,
        bare=body.fixed_ips == [],
        security_groups=groups,
        port_security_enabled=bool(security),
        allowed_address_pairs=pairs,
        extra_dhcp_opts=dhcp_options(body.extra_dhcp_opts or []),
        host=body.host or "",
        profile=offloading(body.profile or {}, offload),
        vnic_type=vnic_type(body.vnic_type),
        tags=checked_tags(body.tags),
        dns_name=dns_label(body.dns_name),
        dns_domain=domain_name(body.dns_domain, "dns_domain"),
        pvlan_type=body.pvlan_type or "",
        pvlan_community=body.pvlan_community or "",
        numa_affinity_policy=body.numa_affinity_policy or "",
        device_profile=text(body.device_profile or "", "device_profile"),
        hardware_offload_type=offload,
        trusted=None if body.trusted is UNSET else body.trusted,
        propagate_uplink_status=body.propagate_uplink_status,
    )


def _changes(port: Port, changes: dict[str, Any]) -> dict[str, Any]:
    """The changes of an update, checked. Raises Invalid, Conflict."""
    for name, empty in _EMPTY.items():
        if name in changes and changes[name] is None:
            changes[name] = empty
    for name, check in _CHECKS.items():
        if name in changes:
            changes[name] = check(changes[name])
    texts = (changes.get(n, "") for n in ("name", "description", "device_id", "device_owner"))
    named(*texts)
    if "extra_dhcp_opts" in changes:
        changes["extra_dhcp_opts"] = dhcp_options(changes["extra_dhcp_opts"], port.extra_dhcp_opts)
    mac = changes.get("mac_address", port.mac_address) or ""
    if mac != port.mac_address and port.host:
        raise _bound(port, mac)
    if "numa_affinity_policy" in changes and port.host:
        raise Conflict(
            f"Unable to complete operation on port {port.id}, port is already bound to host "
            f"{port.host}, numa_affinity_policy value given {changes['numa_affinity_policy'] or None}.",
            code="PortBoundNUMAAffinityPolicy",
        )
    if "allowed_address_pairs" in changes:
        changes["allowed_address_pairs"] = address_pairs(changes["allowed_address_pairs"], mac)
    if changes.get("host", port.host) != port.host:
        changes["status"] = DOWN
    _still_secured(port, changes)
    return cleared(changes)


_EMPTY: dict[str, Any] = {
    "device_id": "",
    "device_owner": "",
    "host": "",
    "fixed_ips": [],
    "security_groups": [],
    "allowed_address_pairs": [],
    "extra_dhcp_opts": [],
    "profile": {},
    "pvlan_type": "",
    "pvlan_community": "",
    "numa_affinity_policy": "",
}
_CHECKS: dict[str, Callable[[Any], Any]] = {
    "mac_address": lambda value: mac_address(value) if value is not None else None,
    "vnic_type": vnic_type,
    "dns_name": dns_label,
    "dns_domain": lambda value: domain_name(value, "dns_domain"),
}


def _bound(port: Port, mac: str) -> Conflict:
    return Conflict(
        f"Unable to complete operation on port {port.id}, port is already bound, port type: "
        f"bridge, old_mac {port.mac_address}, new_mac {mac}.",
        code="PortBound",
    )


def _still_secured(port: Port, changes: Mapping[str, Any]) -> None:
    if changes.get("port_security_enabled", port.port_security_enabled):
        return
    groups = changes.get("security_groups", port.security_groups)
    if groups and "security_groups" not in changes:
        raise Conflict(
            "Port has security group associated. Cannot disable port security or IP address "
            "until security group is removed.",
            code="PortSecurityPortHasSecurityGroup",
        )
    secured(False, groups, changes.get("allowed_address_pairs", port.allowed_address_pairs))


def _dns_assignment(port: Port, domain: str) -> list[dict[str, str]]:
    found = []
    for fixed in port.fixed_ips:
        name = port.dns_name or hostname_of(fixed.ip_address)
        below = port.dns_zone if port.dns_name and port.dns_zone else domain
        full = name if name.endswith(".") else f"{name}.{below}"
        found.append({"ip_address": fixed.ip_address, "hostname": name.split(".")[0], "fqdn": full})
    return found


def hostname_of(ip: str) -> str:
    """The name of a port that has none."""
    return "host-" + ip.replace(".", "-").replace(":", "-")


def _device(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {n: changes[n] for n in ("device_id", "device_owner") if n in changes}

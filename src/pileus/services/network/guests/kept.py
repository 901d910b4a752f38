"""The contract with compute: ports for guests, wired on the guests' hosts, and gone with them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from pileus.kernel.auth import Caller
from pileus.kernel.faults import Invalid, NotFound, Unavailable
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Page, Reader, Tx

from .. import security_group as groups_record
from ..addressing import address
from ..attributes import zone_of
from ..auto_topology import auto_topology
from ..contract import (
    Dress,
    FixedIp,
    GuestRef,
    Needs,
    NicInfo,
    NicRequest,
    SecurityGroup,
    SecurityGroupRule,
)
from ..default_statefulness import stateful_by_default
from ..driver import COMPUTE_OWNER
from ..floating_ip import FLOATING_IPS
from ..network import NETWORKS
from ..port import DOWN, PORTS, Port
from ..ports.bodies import FixedRequest
from ..ports.cards import refuse_card
from ..ports.lifecycle import add_port, addressed_at, remove_port, tell
from ..ports.reach import refuse_unreached
from ..resource import hold
from ..security_group import GROUPS, RULES, default_group, group_target, rules_of
from ..security_groups.operations import drop_group, new_group, refuse_rename
from ..security_groups.rules import CreateRule, add_rule, checked, drop_rule
from ..settings import settings_of
from ..trunk import TRUNKS, carry, trunk_over
from ..wiring import NETWORK_HOST, wake, wake_for_ports, wake_group
from .dressing import dress_of
from .needs import needs_of
from .wishes import Acting, group_ids, settled

_NOT_IN_NAMES = re.compile(r"[^a-z0-9-]+")


class KeptNetwork:
    """Network's side of `contract.Network`."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    async def resolve(
        self, caller: Caller, requests: list[NicRequest] | None, groups: list[str]
    ) -> list[NicRequest]:
        await group_ids(self.runtime.store, caller.project_id, groups)
        return await settled(Acting(self.runtime, caller), requests)

    async def auto_network(self, caller: Caller) -> str:
        return (await auto_topology(self.runtime, caller.project_id)).network_id

    async def attach(
        self, caller: Caller, guest: GuestRef, requests: list[NicRequest], groups: list[str]
    ) -> list[NicInfo]:
        store = self.runtime.store
        asked = [r.port_id for r in requests if r.port_id]
        given = [p for id in asked if (p := await PORTS.find(store, id)) is not None]
        known = await PORTS.all(store, guest=guest.id)
        networks = {r.network_id for r in requests if r.network_id}
        networks |= {p.network_id for p in (*given, *known)}
        changed = []
        async with store.tx(wait=False) as tx:  # a saga waits before it acts on it
            await hold(tx, "networks", *networks)
            left = sorted(await PORTS.all(tx, guest=guest.id), key=lambda p: p.order)
            worn = await group_ids(tx, guest.project_id, groups) if requests else []
            await hold(tx, "security_groups", *worn)
            for order, request in enumerate(requests):
                port = _match(left, request)
                if port is not None:
                    left.remove(port)
                    changed.append(await self._bind(tx, port, guest, order, request))
                elif request.port_id:
                    free = await self._free_port(tx, request.port_id, guest.id)
                    changed.append(await self._bind(tx, free, guest, order, request))
                else:
                    made = await self._make(tx, caller, guest, request, order, worn, groups)
                    changed.append(made)
            nics = await _nics(tx, [guest.id])
        await self._tell_others(changed, guest.host)
        before = {p.host for p in (*given, *known)} | {p.next_host for p in known}
        await wake(self.runtime, before - {guest.host})
        return nics.get(guest.id, [])

    async def _tell_others(self, ports: Sequence[Port], host: str) -> None:
        """The guest's own host fetches by itself when the ports are plugged."""
        elsewhere = [msgspec.structs.replace(p, host=p.host or host) for p in ports]
        await wake_for_ports(self.runtime, *elsewhere)

    async def _free_port(self, tx: Tx, id: str, guest_id: str) -> Port:
        port = await PORTS.get(tx, id)
        if port.guest:
            raise Invalid(f"Port {id} is still in use.")
        refuse_card(port, guest_id)
        return port

    async def _bind(
        self, tx: Tx, port: Port, guest: GuestRef, order: int, request: NicRequest
    ) -> Port:
        """The port is the guest's, on its host."""
        changes: dict[str, Any] = {
            "guest": guest.id,
            "device_id": guest.id,
            "device_owner": COMPUTE_OWNER + guest.zone,
            "host": guest.host,
            "next_host": guest.also,
            "order": order,
            "nic_tag": request.tag or port.nic_tag,
            "dns_name": port.dns_name or hostname(guest.name),
        }
        if all(getattr(port, name) == value for name, value in changes.items()):
            return port
        if port.host != guest.host:
            changes["status"] = DOWN
            changes |= await addressed_at(tx, self.runtime.world, port, guest.host)
        port = await PORTS.revise(tx, port, **changes)
        await carry(tx, port)
        await tell(tx, "update", port)
        return port

    async def _make(
        self,
        tx: Tx,
        caller: Caller,
        guest: GuestRef,
        request: NicRequest,
        order: int,
        worn: Sequence[str],
        asked: Sequence[str],
    ) -> Port:
        network = await NETWORKS.get(tx, request.network_id)
        world = self.runtime.world
        groups = list(worn)
        wears_default = network.port_security_enabled and not asked
        if network.port_security_enabled and len(groups) < len(set(asked)):
            groups.append((await default_group(tx, world, guest.project_id)).id)
        port = Port(
            id=world.new_id(),
            project_id=guest.project_id,
            network_id=network.id,
            mac_address="",
            security_groups=list(dict.fromkeys(groups)) if network.port_security_enabled else [],
            port_security_enabled=network.port_security_enabled,
            device_id=guest.id,
            device_owner=COMPUTE_OWNER + guest.zone,
            guest=guest.id,
            host=guest.host,
            made=True,
            order=order,
            nic_tag=request.tag,
            dns_name=hostname(guest.name),
            dns_zone=zone_of(network.dns_domain, caller),
        )
        fixed = [FixedRequest(ip_address=request.fixed_ip)] if request.fixed_ip else None
        return await add_port(tx, world, network, port, fixed, wear_default=wears_default)

    async def expect(self, guest_id: str, host: str) -> None:
        async with self.runtime.store.tx(wait=False) as tx:
            ports = await PORTS.all(tx, guest=guest_id)
            for port in ports:
                if port.next_host != host:
                    await refuse_unreached(tx, port, host)
                    await PORTS.change(tx, port, next_host=host, next_profile={})
        await wake(self.runtime, {p.next_host for p in ports} - {host})

    async def plug(self, guest_id: str, host: str) -> None:
        await self.runtime.store.visible()
        ports = await PORTS.all(self.runtime.store, guest=guest_id)
        wanted = [p.id for p in ports if p.admin_state_up and host in (p.host, p.next_host)]
        if not wanted:
            return
        agent = self.runtime.agents.proxy(NETWORK_HOST, host)
        patience = settings_of(self.runtime).plug_timeout_s
        try:
            async with asyncio.timeout(patience):
                observed = await agent.sync(wanted)
        except TimeoutError:
            raise Unavailable(
                f"Host {host} did not wire the ports of {guest_id} in {patience:.0f} s."
            ) from None
        for id in wanted:
            if not observed.ports.get(id):
                reason = observed.errors.get(id, "its host does not have it")
                raise Unavailable(f"Port {id} could not be wired on {host}: {reason}")

    async def detach(self, guest_id: str, port_id: str = "") -> None:
        store = self.runtime.store
        await store.visible()  # what was just attached must be found
        which = {"guest": guest_id, "id": port_id} if port_id else {"guest": guest_id}
        networks = {p.network_id for p in await PORTS.all(store, **which)}
        if not networks:
            return
        async with store.tx(wait=False) as tx:
            await hold(tx, "networks", *networks)
            ports = await PORTS.all(tx, **which)
            for port in ports:
                if port.made and await TRUNKS.one(tx, port_id=port.id) is None:
                    await remove_port(tx, port)
                    continue
                freed = await PORTS.revise(
                    tx, port, guest="", device_id="", device_owner="", host="", next_host="", dns_name="",
                    status=DOWN, nic_tag="", order=0,
                )  # fmt: skip
                await carry(tx, freed)
                await tell(tx, "update", freed)
        await wake_for_ports(self.runtime, *ports)

    async def unbind(self, guest_id: str) -> None:
        store = self.runtime.store
        async with store.tx(wait=False) as tx:
            ports = [p for p in await PORTS.all(tx, guest=guest_id) if p.host]
            for port in ports:
                await tell(tx, "update", await PORTS.revise(tx, port, host="", status=DOWN))
        await wake_for_ports(self.runtime, *ports)

    async def nics(self, guest_ids: list[str]) -> dict[str, list[NicInfo]]:
        return await _nics(self.runtime.store, guest_ids)

    async def needs(self, requests: list[NicRequest]) -> Needs:
        return await needs_of(self.runtime.store, requests)

    async def dress(self, guest_id: str) -> dict[str, Dress]:
        await self.runtime.store.sync()  # what was just attached must be found
        return await dress_of(self.runtime.store, guest_id)

    async def guest_of(self, port_id: str) -> str:
        store = self.runtime.store
        trunk = await trunk_over(store, port_id)
        port = await PORTS.find(store, trunk.port_id if trunk is not None else port_id)
        return port.guest if port is not None else ""

    # Security groups, as compute's own API shows them

    async def security_groups(
        self, caller: Caller, *, everybodys: bool = False
    ) -> list[SecurityGroup]:
        store, project = self.runtime.store, caller.project_id
        if await GROUPS.one(store, project_id=project, is_default=1) is None:
            async with store.tx() as tx:
                await default_group(tx, self.runtime.world, project)
        groups = await GROUPS.all(store, **({} if everybodys else {"project_id": project}))
        rules = await rules_of(store, groups)
        return [_group(g, rules[g.id]) for g in groups]

    async def create_security_group(
        self, caller: Caller, name: str, description: str
    ) -> SecurityGroup:
        acting = Acting(self.runtime, caller)
        acting.require("create_security_group", {"project_id": caller.project_id})
        world = self.runtime.world
        stateful = await stateful_by_default(self.runtime.store, caller.project_id)
        group = new_group(world, name, description, caller.project_id, stateful)
        async with self.runtime.store.tx() as tx:
            await default_group(tx, world, caller.project_id)
            group = await groups_record.add_group(tx, world, group)
        return _group(group, (await rules_of(self.runtime.store, [group]))[group.id])

    async def update_security_group(
        self, caller: Caller, id: str, name: str, description: str
    ) -> SecurityGroup:
        group = await self._own_group(caller, id, "update_security_group")
        if name != group.name:
            refuse_rename(group, name)
        async with self.runtime.store.tx() as tx:
            group = await GROUPS.revise(tx, group, name=name, description=description)
        return _group(group, (await rules_of(self.runtime.store, [group]))[group.id])

    async def delete_security_group(self, caller: Caller, id: str) -> None:
        group = await self._own_group(caller, id, "delete_security_group")
        if group.is_default and not caller.is_admin:
            raise Invalid("Insufficient rights for removing default security group.")
        async with self.runtime.store.tx() as tx:
            await drop_group(tx, group)

    async def create_security_group_rule(
        self, caller: Caller, group_id: str, rule: SecurityGroupRule
    ) -> SecurityGroupRule:
        group = await self._own_group(caller, group_id, "create_security_group_rule")
        if rule.remote_group_id:
            await self._own_group(caller, rule.remote_group_id, "get_security_group")
        body = CreateRule(
            security_group_id=group.id,
            direction=rule.direction,
            ethertype=rule.ethertype,
            protocol=rule.protocol or None,
            port_range_min=rule.port_min,
            port_range_max=rule.port_max,
            remote_ip_prefix=rule.remote_ip_prefix or None,
            remote_group_id=rule.remote_group_id or None,
        )
        made = checked(body, group, self.runtime.world.new_id())
        async with self.runtime.store.tx() as tx:
            made = await add_rule(tx, made)
        wake_group(self.runtime, group.id)
        return _rule(made)

    async def delete_security_group_rule(self, caller: Caller, id: str) -> None:
        rule = await RULES.get(self.runtime.store, id)
        target = {"project_id": rule.project_id, "security_group:project_id": rule.project_id}
        acting = Acting(self.runtime, caller)
        if not acting.allows("get_security_group_rule", target):
            raise RULES.missing(id)
        acting.require("delete_security_group_rule", target)
        async with self.runtime.store.tx() as tx:
            await drop_rule(tx, await RULES.get(tx, id))
        wake_group(self.runtime, rule.security_group_id)

    async def set_guest_group(
        self, caller: Caller, guest_id: str, group: str, present: bool
    ) -> None:
        store = self.runtime.store
        ids = await group_ids(store, caller.project_id, [group])
        changed, worn = [], False
        async with store.tx() as tx:
            id = ids[0] if ids else ""
            if not id and present:
                id = (await default_group(tx, self.runtime.world, caller.project_id)).id
            await hold(tx, "security_groups", id)
            for port in await PORTS.all(tx, guest=guest_id):
                if (id in port.security_groups) == present or not port.port_security_enabled:
                    worn = worn or id in port.security_groups
                    continue
                kept = [g for g in port.security_groups if g != id]
                groups = [*kept, id] if present else kept
                new = await PORTS.revise(tx, port, security_groups=groups)
                await tell(tx, "update", new)
                changed += [port, new]
        if not changed and not (present and worn):
            raise NotFound(
                f"Security group {group} is not associated with the instance {guest_id}.",
                code="SecurityGroupNotFound",
            )
        await wake_for_ports(self.runtime, *changed)

    async def _own_group(self, caller: Caller, id: str, rule: str) -> groups_record.SecurityGroup:
        """The group, if the caller may see it and do that. Raises NotFound, Forbidden."""
        group = await GROUPS.get(self.runtime.store, id)
        acting = Acting(self.runtime, caller)
        if not acting.allows("get_security_group", group_target(group)):
            raise GROUPS.missing(id)
        acting.require(rule, group_target(group))
        return group


async def _by_id(store: Any, table: Any, ids: set[str]) -> dict[str, Any]:
    if not ids:
        return {}
    page = Page({"id": sorted(ids)}, (("id", False),), limit=1 << 30)
    return {r.id: r for r in await table.list(store, page)}


def _match(ports: Sequence[Port], request: NicRequest) -> Port | None:
    """The port that an earlier try of the same request made or bound."""
    for port in ports:
        if request.port_id:
            if port.id == request.port_id:
                return port
        elif port.made and port.network_id == request.network_id:
            ips = {f.ip_address for f in port.fixed_ips}
            if not request.fixed_ip or str(address(request.fixed_ip)) in ips:
                return port
    return None


def hostname(name: str) -> str:
    """A guest's name as a DNS label; "" if nothing of it is left."""
    return _NOT_IN_NAMES.sub("-", name.lower())[:63].strip("-")


async def _nics(db: Reader, guest_ids: list[str]) -> dict[str, list[NicInfo]]:
    sorts = (("created_at", False), ("id", False))
    page = Page({"guest": guest_ids}, sorts, limit=1 << 30)
    ports = await PORTS.list(db, page) if guest_ids else []
    if not ports:
        return {}
    networks = await _by_id(db, NETWORKS, {p.network_id for p in ports})
    groups = await _by_id(db, GROUPS, {g for p in ports for g in p.security_groups})
    floating: dict[str, dict[str, str]] = {}
    filters = Page({"port_id": [p.id for p in ports]}, sorts, limit=1 << 30)
    for fip in await FLOATING_IPS.list(db, filters):
        floating.setdefault(fip.port_id, {})[fip.fixed_ip_address] = fip.floating_ip_address
    found: dict[str, list[NicInfo]] = {}
    for port in sorted(ports, key=lambda p: p.order):
        network = networks[port.network_id]
        nic = NicInfo(
            port_id=port.id,
            network_id=port.network_id,
            network_name=network.name,
            mac=port.mac_address,
            mtu=network.mtu,
            fixed_ips=[_fixed(f.subnet_id, f.ip_address) for f in port.fixed_ips],
            floating_ips=floating.get(port.id, {}),
            security_groups=[groups[g].name for g in port.security_groups if g in groups],
            made=port.made,
            status=port.status,
            trusted=bool(port.trusted),
        )
        found.setdefault(port.guest, []).append(nic)
    return found


def _fixed(subnet_id: str, ip: str) -> FixedIp:
    return FixedIp(subnet_id=subnet_id, ip_address=ip, version=6 if ":" in ip else 4)


def _rule(r: groups_record.SecurityGroupRule) -> SecurityGroupRule:
    return SecurityGroupRule(
        id=r.id,
        direction=r.direction,
        ethertype=r.ethertype,
        protocol=r.protocol,
        port_min=r.port_range_min,
        port_max=r.port_range_max,
        remote_ip_prefix=r.remote_ip_prefix,
        remote_group_id=r.remote_group_id,
    )


def _group(
    group: groups_record.SecurityGroup, rules: Sequence[groups_record.SecurityGroupRule]
) -> SecurityGroup:
    return SecurityGroup(
        id=group.id,
        name=group.name,
        description=group.description,
        project_id=group.project_id,
        rules=[_rule(r) for r in rules],
    )

"""Security groups by Nova's old names: network keeps them; gone from 2.36 on.

https://docs.openstack.org/api-ref/compute/#security-groups-os-security-groups-deprecated
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Conflict, Forbidden, Invalid, NotFound, OverQuota
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import Body
from pileus.services.compute import checks
from pileus.services.compute.checks import Name, Text
from pileus.services.compute.flavors import FLAVORS
from pileus.services.network.contract import NETWORK, SecurityGroup, SecurityGroupRule

_RULE = "os_compute_api:os-security-groups:"
_READER, _MEMBER = "rule:project_reader_or_admin", "rule:project_member_or_admin"
_PORTS = range(1, 65_536)
END = "2.36"


class CreateGroup(Body):
    root: ClassVar[str] = "security_group"
    name: Name
    description: Text


class CreateRule(Body):
    root: ClassVar[str] = "security_group_rule"
    parent_group_id: str
    ip_protocol: str | None = None
    from_port: int | str | None = None
    to_port: int | str | None = None
    cidr: str | None = None
    group_id: str | UnsetType | None = UNSET


def rule_view(
    rule: SecurityGroupRule, group_id: str, known: Sequence[SecurityGroup]
) -> dict[str, Any] | None:
    """None for what Nova never showed: egress, and rules of groups that are gone."""
    if rule.direction != "ingress":
        return None
    low, high = rule.port_min, rule.port_max
    protocol = rule.protocol or None
    if protocol is not None and low is None:
        low = high = -1  # all of that protocol
    found: dict[str, Any] = {
        "id": rule.id,
        "parent_group_id": group_id,
        "ip_protocol": protocol,
        "from_port": low,
        "to_port": high if high is not None else low,
        "group": {},
        "ip_range": {},
    }
    if rule.remote_group_id:
        source = next((g for g in known if g.id == rule.remote_group_id), None)
        if source is None:
            return None
        found["group"] = {"name": source.name, "tenant_id": source.project_id}
    else:
        anywhere = "::/0" if rule.ethertype == "IPv6" else "0.0.0.0/0"
        found["ip_range"] = {"cidr": rule.remote_ip_prefix or anywhere}
    return found


def group_view(group: SecurityGroup, known: Sequence[SecurityGroup]) -> dict[str, Any]:
    """With the rules that let packets in."""
    rules = (rule_view(r, group.id, known) for r in group.rules)
    return {
        "id": group.id,
        "name": group.name,
        "description": group.description,
        "tenant_id": group.project_id,
        "rules": [r for r in rules if r is not None],
    }


class SecurityGroups(Resource[Any]):
    table = FLAVORS  # it names no record of ours
    rules: ClassVar[Mapping[str, str]] = {
        _RULE + "get": _READER,
        _RULE + "show": _READER,
        _RULE + "create": _MEMBER,
        _RULE + "update": _MEMBER,
        _RULE + "delete": _MEMBER,
        _RULE + "rule:create": _MEMBER,
        _RULE + "rule:delete": _MEMBER,
    }

    @operation("GET", "/os-security-groups", _RULE + "get", until=END)
    async def index(self, ctx: Context) -> dict[str, Any]:
        everybodys = ctx.query.flag("all_tenants") and ctx.caller.is_admin
        known = await ctx.peer(NETWORK).security_groups(ctx.caller, everybodys=everybodys)
        found = sorted(
            (group_view(g, known) for g in known), key=lambda g: (g["tenant_id"], g["name"])
        )
        return {"security_groups": found}

    @operation("GET", "/os-security-groups/{group_id}", _RULE + "show", until=END)
    async def show(self, ctx: Context, group_id: str) -> dict[str, Any]:
        known = await ctx.peer(NETWORK).security_groups(ctx.caller)
        return {"security_group": group_view(_find(known, group_id), known)}

    @operation("POST", "/os-security-groups", _RULE + "create", status=200, until=END)
    async def create(self, ctx: Context, body: CreateGroup) -> dict[str, Any]:
        network = ctx.peer(NETWORK)
        try:
            made = await network.create_security_group(ctx.caller, body.name, body.description)
        except OverQuota:
            raise _too_many() from None
        return {"security_group": group_view(made, [made])}

    @operation("PUT", "/os-security-groups/{group_id}", _RULE + "update", until=END)
    async def update(self, ctx: Context, group_id: str, body: CreateGroup) -> dict[str, Any]:
        network = ctx.peer(NETWORK)
        changed = await network.update_security_group(
            ctx.caller, group_id, body.name, body.description
        )
        return {"security_group": group_view(changed, [changed])}

    @operation("DELETE", "/os-security-groups/{group_id}", _RULE + "delete", status=202, until=END)
    async def delete(self, ctx: Context, group_id: str) -> None:
        try:
            await ctx.peer(NETWORK).delete_security_group(ctx.caller, group_id)
        except Conflict as e:  # Nova knows no 409 here
            raise Invalid(e.message) from None

    @operation("POST", "/os-security-group-rules", _RULE + "rule:create", status=200, until=END)
    async def create_rule(self, ctx: Context, body: CreateRule) -> dict[str, Any]:
        if not checks.is_uuid(body.parent_group_id):
            raise Invalid(f"Security group id {body.parent_group_id} is not a UUID.")
        network = ctx.peer(NETWORK)
        known = await network.security_groups(ctx.caller)
        parent = _find(known, body.parent_group_id)
        asked = _rule(body)
        if asked.remote_group_id:
            _find(known, asked.remote_group_id)
        try:
            made = await network.create_security_group_rule(ctx.caller, parent.id, asked)
        except OverQuota:
            raise _too_many() from None
        except Conflict as e:  # Nova knows no 409 here
            raise Invalid(e.message) from None
        return {"security_group_rule": rule_view(made, parent.id, known)}

    @operation(
        "DELETE", "/os-security-group-rules/{rule_id}", _RULE + "rule:delete", status=202, until=END
    )
    async def delete_rule(self, ctx: Context, rule_id: str) -> None:
        await ctx.peer(NETWORK).delete_security_group_rule(ctx.caller, rule_id)


def _too_many() -> Forbidden:
    return Forbidden("Maximum number of security groups or rules exceeded")


def _find(known: Sequence[SecurityGroup], id: str) -> SecurityGroup:
    for group in known:
        if group.id == id:
            return group
    raise NotFound(f"Security group {id} not found.")


def _rule(body: CreateRule) -> SecurityGroupRule:
    """An ingress rule as network knows it. Raises Invalid."""
    group = body.group_id if body.group_id is not UNSET and body.group_id else ""
    protocol = (body.ip_protocol or "").lower()
    low, high = _port(body.from_port, "from_port"), _port(body.to_port, "to_port")
    if not group and not (protocol and low is not None and high is not None):
        raise Invalid("Not enough parameters to build a valid rule.")
    if protocol and protocol not in ("tcp", "udp", "icmp"):
        raise Invalid(f"Invalid IP protocol {protocol}; it must be tcp, udp or icmp.")
    if protocol in ("tcp", "udp") and not _in_order(low, high):
        raise Invalid(f"Invalid port range {low}:{high}. Valid TCP/UDP ports are 1 to 65535")
    prefix = "" if group else (body.cidr or "0.0.0.0/0")
    try:
        version = ipaddress.ip_network(prefix, strict=False).version if prefix else 4
    except ValueError:
        raise Invalid(f"Invalid cidr {prefix}.") from None
    everything = protocol == "icmp" and low == -1
    return SecurityGroupRule(
        id="",
        direction="ingress",
        ethertype=f"IPv{version}",
        protocol=protocol,
        port_min=None if everything or not protocol else low,
        port_max=None if everything or not protocol or high == -1 else high,
        remote_ip_prefix=prefix,
        remote_group_id=group,
    )


def _in_order(low: int | None, high: int | None) -> bool:
    return low is not None and high is not None and low in _PORTS and high in _PORTS and low <= high


def _port(value: int | str | None, name: str) -> int | None:
    if value in (None, ""):
        return None
    try:
        number = int(value)
    except ValueError:
        number = 1 << 20
    if not -1 <= number <= 65_535:
        raise Invalid(f"Invalid {name} {value}; it must be a number from -1 to 65535.")
    return number

"""Security group rules: their grammar (as upstream's) and operations (API reference: security-group-rules)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from pileus.kernel.events import emit
from pileus.kernel.faults import Invalid
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import Bulk
from pileus.kernel.store import Tx

from ..address_groups import ADDRESS_GROUPS, AddressGroups
from ..addressing import block
from ..attributes import Attributes
from ..checks import PROTOCOLS, WITH_PORTS
from ..refusals import bad_input
from ..resource import NetworkResource, hold, listing, owner_of, project_of, sees_all
from ..security_group import GROUPS, RULES, SecurityGroup, SecurityGroupRule, rule_view
from ..wiring import wake_group
from .operations import SecurityGroups

_ANY = (None, "", "any", "0", 0)
_ONLY_IPV6 = frozenset({41, 43, 44, 58, 59, 60})
_LEGACY_ICMPV6 = frozenset({"icmp", "1", "icmpv6"})
_DOWNWARDS = "(rule:admin_only) or (role:reader and rule:sg_owner)"
_WRITES = "(rule:admin_only) or (role:member and rule:sg_owner)"


class CreateRule(Attributes):
    root: ClassVar[str] = "security_group_rule"
    plural: ClassVar[str] = "security_group_rules"
    fixed = frozenset(["id", "created_at", "updated_at", "revision_number", "normalized_cidr"])

    security_group_id: str
    direction: str
    ethertype: str = "IPv4"
    protocol: str | int | None = None
    port_range_min: int | str | None = None
    port_range_max: int | str | None = None
    remote_ip_prefix: str | None = None
    remote_group_id: str | None = None
    remote_address_group_id: str | None = None
    description: str = ""
    project_id: str | UnsetType = UNSET


class SecurityGroupRules(NetworkResource[SecurityGroupRule], path="/security-group-rules"):
    table = RULES
    noun = "security_group_rule"
    plural = "security_group_rules"
    id_param = "rule_id"
    see = "get_security_group_rule"
    rules = {
        "create_security_group_rule": _WRITES,
        "get_security_group_rule": _DOWNWARDS,
        "delete_security_group_rule": _WRITES,
    }
    listing = listing(
        (
            "security_group_id",
            "direction",
            "ethertype",
            "protocol",
            "remote_ip_prefix",
            "remote_group_id",
            "remote_address_group_id",
            "normalized_cidr",
        ),
        False,
        belongs_to_default_sg=Filter("of_default", kind=bool),
        port_range_min=Filter(kind=int),
        port_range_max=Filter(kind=int),
    )

    def best_target(self, ctx: Context) -> Mapping[str, object]:
        return {**ctx.own, "security_group:project_id": ctx.caller.project_id}

    def target(self, ctx: Context, record: SecurityGroupRule) -> Mapping[str, object]:
        owner = record.project_id
        return {"project_id": owner, "security_group:project_id": owner}

    def view(self, ctx: Context, record: SecurityGroupRule) -> dict[str, Any]:
        return rule_view(record)

    @operation("POST", "/security-group-rules", "create_security_group_rule", status=201)
    async def create(self, ctx: Context, body: Bulk[CreateRule]) -> Any:
        if len({i.security_group_id for i in body.items}) > 1:
            raise bad_input("Only allowed to update rules for one security profile at a time")
        wanted = []
        for item in body.items:
            owner_of(ctx, item.project_id)
            group = await SecurityGroups().visible(ctx, item.security_group_id)
            ctx.require(
                "create_security_group_rule",
                {"project_id": group.project_id, "security_group:project_id": group.project_id},
            )
            if item.remote_group_id:
                await SecurityGroups().visible(ctx, item.remote_group_id)
            if item.remote_address_group_id:
                await AddressGroups().visible(ctx, item.remote_address_group_id)
            wanted.append(checked(item, group, ctx.runtime.world.new_id()))
        async with ctx.runtime.store.tx() as tx:
            made = [await add_rule(tx, rule) for rule in wanted]
        wake_group(ctx.runtime, wanted[0].security_group_id)
        return await self.made(ctx, made, body.single)

    @operation("DELETE", "/security-group-rules/{rule_id}", "delete_security_group_rule")
    async def delete(self, ctx: Context, rule: SecurityGroupRule) -> None:
        self.match(ctx, rule)
        async with ctx.runtime.store.tx() as tx:
            await drop_rule(tx, await RULES.get(tx, rule.id))
        wake_group(ctx.runtime, rule.security_group_id)

    def scopes_of(self, ctx: Context) -> tuple[Mapping[str, Any], ...]:
        return () if sees_all(ctx) else ({"project_id": project_of(ctx.caller)},)


async def add_rule(tx: Tx, rule: SecurityGroupRule) -> SecurityGroupRule:
    """Writes the rule and revises its group. Raises Conflict for a twin, OverQuota, NotFound."""
    group = await GROUPS.get(tx, rule.security_group_id)
    if rule.remote_address_group_id:
        await hold(tx, "address_groups", rule.remote_address_group_id)
        await ADDRESS_GROUPS.get(tx, rule.remote_address_group_id)
    made = await RULES.insert(tx, rule)
    await GROUPS.revise(tx, group)
    await emit(tx, "security_group_rule.create.end", rule.project_id, id=rule.id, security_group_id=group.id)  # fmt: skip
    return made


async def drop_rule(tx: Tx, rule: SecurityGroupRule) -> None:
    await RULES.delete(tx, rule)
    group = await GROUPS.find(tx, rule.security_group_id)
    if group is not None:
        await GROUPS.revise(tx, group)
    await emit(tx, "security_group_rule.delete.end", rule.project_id, id=rule.id, security_group_id=rule.security_group_id)  # fmt: skip


def checked(body: CreateRule, group: SecurityGroup, id: str) -> SecurityGroupRule:
    """The rule that a body asks for: nothing that a host could not apply. Raises Invalid."""
    if body.direction not in ("ingress", "egress"):
        raise Invalid(
            f"Invalid input for direction. Reason: '{body.direction}' is not in ['ingress', 'egress']."
        )
    ethertype = _ethertype(body.ethertype)
    protocol = _protocol(body.protocol, ethertype)
    low, high = _port(body.port_range_min), _port(body.port_range_max)
    low, high = _range(protocol, low, high)
    remotes = (body.remote_ip_prefix, body.remote_group_id, body.remote_address_group_id)
    if sum(map(bool, remotes)) > 1:
        raise bad_input(
            "Only one of remote_ip_prefix or remote_group_id or remote_address_group_id may be provided."
        )
    return SecurityGroupRule(
        id=id,
        project_id=group.project_id,
        security_group_id=group.id,
        direction=body.direction,
        ethertype=ethertype,
        protocol=protocol,
        port_range_min=low,
        port_range_max=high,
        remote_ip_prefix=_prefix(body.remote_ip_prefix or "", ethertype),
        remote_group_id=body.remote_group_id or "",
        remote_address_group_id=body.remote_address_group_id or "",
        description=body.description,
        of_default=group.is_default,
    )


def _ethertype(value: str) -> str:
    for known in ("IPv4", "IPv6"):
        if value.lower() == known.lower():
            return known
    raise Invalid(
        f"Security group rule for ethertype '{value[:20]}' not supported. "
        "Allowed values are ['IPv4', 'IPv6'].",
        code="SecurityGroupRuleInvalidEtherType",
    )


def _protocol(value: str | int | None, ethertype: str) -> str:
    if value in _ANY:
        return ""
    name = str(value).lower()
    number = (
        int(name) if name.isascii() and name.isdigit() and len(name) < 4 else PROTOCOLS.get(name)
    )
    if number is None or number > 255:
        raise Invalid(
            f"Security group rule protocol {str(value)[:40]} not supported. Only protocol values "
            f"{sorted(PROTOCOLS)} and integer representations [0 to 255] are supported.",
            code="SecurityGroupRuleInvalidProtocol",
        )
    if ethertype == "IPv6" and name in _LEGACY_ICMPV6:
        return "ipv6-icmp"
    if ethertype == "IPv4" and number in _ONLY_IPV6:
        raise Invalid(
            f"Invalid ethertype {ethertype} for protocol {name}.",
            code="SecurityGroupEthertypeConflictWithProtocol",
        )
    return name


def _port(value: int | str | None) -> int | None:
    if value is None:
        return None
    digits = str(value)
    if not digits.isascii() or not digits.isdigit() or int(digits[:9]) > 65535:
        raise Invalid(f"Invalid value for port {digits[:20]}", code="SecurityGroupInvalidPortValue")
    return int(digits)


def _range(protocol: str, low: int | None, high: int | None) -> tuple[int | None, int | None]:
    """A port range, or ICMP's type and code, if the protocol has such."""
    if low is None and high is None:
        return None, None
    if not protocol:
        raise Invalid(
            "Must also specify protocol if port range is given.",
            code="SecurityGroupProtocolRequiredWithPorts",
        )
    number = int(protocol) if protocol.isdigit() else PROTOCOLS[protocol]
    if number in WITH_PORTS:
        return _ports(low, high)
    if number not in (1, 58):
        raise Invalid(
            f"Ports cannot be specified for protocol {protocol}. "
            "Ports are only supported for TCP, UDP, DCCP, SCTP, UDPLITE.",
            code="SecurityGroupInvalidProtocolForPort",
        )
    for attribute, kind, value in (
        ("port_range_min", "type", low),
        ("port_range_max", "code", high),
    ):
        if value is not None and value > 255:
            raise Invalid(
                f"Invalid value for ICMP {kind} ({attribute}) {value}. It must be 0 to 255.",
                code="SecurityGroupInvalidIcmpValue",
            )
    if low is None:
        raise Invalid(
            f"ICMP code (port-range-max) {high} is provided but ICMP type (port-range-min) is missing.",
            code="SecurityGroupMissingIcmpType",
        )
    return low, high


def _ports(low: int | None, high: int | None) -> tuple[int | None, int | None]:
    if low == 0 or high == 0:
        raise Invalid("Invalid value for port 0", code="SecurityGroupInvalidPortValue")
    if low is None or high is None or low > high:
        raise Invalid(
            "For TCP/UDP protocols, port_range_min must be <= port_range_max",
            code="SecurityGroupInvalidPortRange",
        )
    return (None, None) if (low, high) == (1, 65535) else (low, high)


def _prefix(value: str, ethertype: str) -> str:
    if not value:
        return ""
    try:
        found = block(value)
    except Invalid:
        raise Invalid(
            f"Invalid CIDR {value[:64]} given as IP prefix.", code="InvalidCIDR"
        ) from None
    if f"IPv{found.version}" != ethertype:
        raise Invalid(
            f"Conflicting value ethertype {ethertype} for CIDR {value}",
            code="SecurityGroupRuleParameterConflict",
        )
    return value if "/" in value else f"{value}/{found.prefixlen}"

"""The rules that every new security group begins with (API reference: default-security-group-rules)."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from pileus.kernel.faults import Conflict
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context
from pileus.kernel.store import Tx

from .attributes import Attributes
from .plain import Plain
from .resource import ADMIN, kept_by, listing
from .security_group import DEFAULT_RULES, DefaultRule, SecurityGroup, twin
from .security_groups.rules import CreateRule, checked


class CreateDefaultRule(Attributes):
    root: ClassVar[str] = "default_security_group_rule"
    plural: ClassVar[str] = "default_security_group_rules"
    fixed = frozenset({"id"})

    direction: str
    ethertype: str = "IPv4"
    protocol: str | int | None = None
    port_range_min: int | str | None = None
    port_range_max: int | str | None = None
    remote_ip_prefix: str | None = None
    remote_group_id: str | None = None
    remote_address_group_id: str | None = None
    description: str = ""
    used_in_default_sg: bool = False
    used_in_non_default_sg: bool = True
    project_id: str | UnsetType = UNSET


class DefaultRules(
    Plain[DefaultRule], path="/default-security-group-rules", create=CreateDefaultRule
):
    table = DEFAULT_RULES
    noun = "default_security_group_rule"
    plural = "default_security_group_rules"
    id_param = "default_rule_id"
    see = "get_default_security_group_rule"
    rules = kept_by(ADMIN, noun, readers="role:reader", updated=False)
    listing = listing(
        ("direction", "ethertype", "protocol", "remote_group_id"),
        False,
        used_in_default_sg=Filter(kind=bool),
        used_in_non_default_sg=Filter(kind=bool),
    )

    def scopes_of(self, ctx: Context) -> tuple[dict[str, Any], ...]:
        return ()

    def view(self, ctx: Context, record: DefaultRule) -> dict[str, Any]:
        r = record
        return {
            "id": r.id,
            "direction": r.direction,
            "ethertype": r.ethertype,
            "protocol": r.protocol or None,
            "port_range_min": r.port_range_min,
            "port_range_max": r.port_range_max,
            "remote_ip_prefix": r.remote_ip_prefix or None,
            "remote_group_id": r.remote_group_id or None,
            "remote_address_group_id": r.remote_address_group_id or None,
            "used_in_default_sg": r.used_in_default_sg,
            "used_in_non_default_sg": r.used_in_non_default_sg,
            "description": r.description,
        }

    async def checked(
        self, ctx: Context, given: dict[str, Any], old: DefaultRule | None
    ) -> dict[str, Any]:
        named = ("used_in_default_sg", "used_in_non_default_sg")
        uses = {n: given[n] for n in named}
        asked = {n: v for n, v in given.items() if n not in named}
        body = CreateRule(security_group_id="", **asked)
        rule = checked(body, SecurityGroup(id="", project_id=""), "")
        kept = {f: getattr(rule, f) for f in DefaultRule.__struct_fields__ if hasattr(rule, f)}
        for name in ("id", "project_id", "created_at", "updated_at", "deleted_at", "generation"):
            kept.pop(name)
        return {**kept, **uses}

    async def enter(self, tx: Tx, new: DefaultRule, old: DefaultRule | None) -> DefaultRule:
        await tx.lock("network.default_rules")
        for other in await DEFAULT_RULES.all(tx, twin=twin(new)):
            both = [(new.used_in_default_sg, other.used_in_default_sg)]
            both.append((new.used_in_non_default_sg, other.used_in_non_default_sg))
            if any(a and b for a, b in both):
                raise Conflict(
                    f"Default Security group rule already exists. Rule id is {other.id}.",
                    code="DefaultSecurityGroupRuleExists",
                )
        return replace(new, project_id="")

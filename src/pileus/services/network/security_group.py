"""What security groups and their rules are, and the group that every project has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pileus.kernel.events import emit
from pileus.kernel.quota import Quota
from pileus.kernel.store import Column, Page, Reader, Tx, Unique
from pileus.kernel.world import World

from .addressing import block
from .default_statefulness import stateful_by_default
from .resource import COLUMNS, SHARED_WITH, TAGS, Noun, Nouns, Shared, hold, moment, standard

DEFAULT = "default"


class SecurityGroup(Shared, kw_only=True, frozen=True):
    is_default: bool = False
    stateful: bool = True


class SecurityGroupRule(Noun, kw_only=True, frozen=True):
    """`protocol` "" means any; for ICMP the port range is type and code. `remote_ip_prefix` is as it was given."""

    security_group_id: str
    direction: str
    ethertype: str = "IPv4"
    protocol: str = ""
    port_range_min: int | None = None
    port_range_max: int | None = None
    remote_ip_prefix: str = ""
    remote_group_id: str = ""
    remote_address_group_id: str = ""
    of_default: bool = False


PARENT = "PARENT"  # in a default rule: the very group that is made


class DefaultRule(Noun, kw_only=True, frozen=True):
    """A rule that new groups begin with: projects' default groups, the others, or both."""

    direction: str
    ethertype: str = "IPv4"
    protocol: str = ""
    port_range_min: int | None = None
    port_range_max: int | None = None
    remote_ip_prefix: str = ""
    remote_group_id: str = ""
    remote_address_group_id: str = ""
    used_in_default_sg: bool = False
    used_in_non_default_sg: bool = True


def twin(r: Any) -> str:
    """What makes two rules of a group the same."""
    parts = (r.direction, r.ethertype, r.protocol, r.port_range_min, r.port_range_max)
    return repr((*parts, r.remote_ip_prefix, r.remote_group_id, r.remote_address_group_id))


GROUPS = Nouns[SecurityGroup](
    "network_security_groups",
    SecurityGroup,
    columns=(
        *COLUMNS,
        "is_default",
        "shared",
        "stateful",
        Column("single", lambda g: DEFAULT if g.is_default else g.id),
    ),
    unique=(
        Unique(
            ("project_id", "single"),
            lambda g: "Default security group already exists.",
            "SecurityGroupDefaultAlreadyExists",
        ),
    ),
    many=(TAGS, SHARED_WITH),
    quotas=(Quota("network", "security_group", default=10),),
    indexes=(("project_id", "created_at", "id"),),
    noun="Security group",
).worded("SecurityGroupNotFound", "Security group {id} does not exist")


def normalized(prefix: str) -> str:
    """A CIDR without host bits, or ""."""
    return str(block(prefix)) if prefix else ""


RULES = Nouns[SecurityGroupRule](
    "network_security_group_rules",
    SecurityGroupRule,
    columns=(
        *COLUMNS,
        "security_group_id",
        "direction",
        "ethertype",
        "protocol",
        "remote_ip_prefix",
        "remote_group_id",
        "remote_address_group_id",
        "of_default",
        Column("normalized_cidr", lambda r: normalized(r.remote_ip_prefix)),
        Column(
            "port_range_min", lambda r: -1 if r.port_range_min is None else r.port_range_min, int
        ),
        Column(
            "port_range_max", lambda r: -1 if r.port_range_max is None else r.port_range_max, int
        ),
        Column("twin", twin),
    ),
    unique=(
        Unique(
            ("security_group_id", "twin"),
            lambda r: "Security group rule already exists.",
            "SecurityGroupRuleExists",
        ),
    ),
    quotas=(Quota("network", "security_group_rule", default=100),),
    indexes=(
        ("security_group_id",),
        ("remote_group_id",),
        ("remote_address_group_id",),
        ("project_id", "created_at", "id"),
    ),
    noun="Security group rule",
).worded("SecurityGroupRuleNotFound", "Security group rule {id} does not exist")


DEFAULT_RULES = Nouns[DefaultRule](
    "network_default_rules",
    DefaultRule,
    columns=(
        *COLUMNS,
        "direction",
        "ethertype",
        "protocol",
        "remote_group_id",
        "used_in_default_sg",
        "used_in_non_default_sg",
        Column("twin", twin),
    ),
    noun="Default security group rule",
).worded("DefaultSecurityGroupRuleNotFound", "Default Security Group rule {id} does not exist")


async def seed_default_rules(tx: Tx, world: World) -> None:
    """Upstream's, for a cloud that has none: everything may leave, and default groups' members may come in."""
    for direction in ("egress", "ingress"):
        for ethertype in ("IPv4", "IPv6"):
            rule = DefaultRule(
                id=world.new_id(),
                project_id="",
                direction=direction,
                ethertype=ethertype,
                remote_group_id=PARENT if direction == "ingress" else "",
                used_in_default_sg=True,
                used_in_non_default_sg=direction == "egress",
                description=f"Legacy default SG rule for {direction} traffic",
            )
            await DEFAULT_RULES.insert(tx, rule)


def group_target(group: SecurityGroup) -> dict[str, object]:
    return {"project_id": group.project_id, "security_group:project_id": group.project_id}


async def add_group(tx: Tx, world: World, group: SecurityGroup) -> SecurityGroup:
    """Writes the group with the rules that groups begin with."""
    group = await GROUPS.insert(tx, group)
    use = "used_in_default_sg" if group.is_default else "used_in_non_default_sg"
    for rule in await DEFAULT_RULES.all(tx, **{use: 1}):
        await RULES.insert(tx, _rule(world, group, rule))
    await emit(tx, "security_group.create.end", group.project_id, id=group.id)
    return group


def _rule(world: World, group: SecurityGroup, rule: DefaultRule) -> SecurityGroupRule:
    return SecurityGroupRule(
        id=world.new_id(),
        project_id=group.project_id,
        security_group_id=group.id,
        direction=rule.direction,
        ethertype=rule.ethertype,
        protocol=rule.protocol,
        port_range_min=rule.port_range_min,
        port_range_max=rule.port_range_max,
        remote_ip_prefix=rule.remote_ip_prefix,
        remote_group_id=group.id if rule.remote_group_id == PARENT else rule.remote_group_id,
        remote_address_group_id=rule.remote_address_group_id,
        of_default=group.is_default,
    )


async def default_group(tx: Tx, world: World, project_id: str) -> SecurityGroup:
    """The project's default group, made if it has none yet."""
    await hold(tx, "default_group", project_id)
    found = await GROUPS.one(tx, project_id=project_id, is_default=1)
    if found is not None:
        return found
    group = SecurityGroup(
        id=world.new_id(),
        project_id=project_id,
        name=DEFAULT,
        description="Default security group",
        is_default=True,
        stateful=await stateful_by_default(tx, project_id),
    )
    return await add_group(tx, world, group)


async def rules_of(
    db: Reader, groups: Sequence[SecurityGroup]
) -> dict[str, list[SecurityGroupRule]]:
    """The rules of each group, oldest first."""
    found: dict[str, list[SecurityGroupRule]] = {g.id: [] for g in groups}
    if found:
        filters: dict[str, Any] = {"security_group_id": list(found)}
        page = Page(filters, (("created_at", False), ("id", False)), limit=1 << 30)
        for rule in await RULES.list(db, page):
            found[rule.security_group_id].append(rule)
    return found


def rule_view(rule: SecurityGroupRule) -> dict[str, Any]:
    r = rule
    return {
        "id": r.id,
        "project_id": r.project_id,
        "tenant_id": r.project_id,
        "security_group_id": r.security_group_id,
        "direction": r.direction,
        "ethertype": r.ethertype,
        "protocol": r.protocol or None,
        "port_range_min": r.port_range_min,
        "port_range_max": r.port_range_max,
        "remote_ip_prefix": r.remote_ip_prefix or None,
        "remote_group_id": r.remote_group_id or None,
        "remote_address_group_id": r.remote_address_group_id or None,
        "normalized_cidr": normalized(r.remote_ip_prefix) or None,
        "belongs_to_default_sg": r.of_default,
        "description": r.description,
        "revision_number": r.revision_number,
        "created_at": moment(r.created_at),
        "updated_at": moment(r.updated_at or r.created_at),
    }


def group_view(
    group: SecurityGroup, rules: list[SecurityGroupRule], project_id: str
) -> dict[str, Any]:
    return standard(group) | {
        "stateful": group.stateful,
        "shared": group.is_shared_to(project_id),
        "security_group_rules": [rule_view(r) for r in rules],
    }

"""RBAC policies (API reference: rbac-policies)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Conflict
from pileus.kernel.query import Filter, Listing
from pileus.kernel.resources import Context
from pileus.kernel.store import Table, Tx

from .address_groups import AddressGroups
from .address_scopes import ADDRESS_SCOPES, AddressScopes
from .attributes import Attributes, changes_of
from .floating_ip import FLOATING_IPS
from .network import NETWORKS
from .networks import Networks
from .plain import Plain
from .port import PORTS
from .qos.policies import Policies
from .rbac_policy import EVERYBODY, EXTERNAL, RBAC_POLICIES, SHARED, RbacPolicy, shown_to
from .refusals import bad_input
from .resource import OWNER, NetworkResource, hold, kept_by, sees_all
from .router import ROUTERS
from .security_group import RULES
from .security_groups.operations import SecurityGroups
from .subnet import SUBNETS
from .subnetpool import SUBNETPOOLS, SubnetPool
from .subnetpools import SubnetPools

Uses = tuple[
    tuple[Table[Any], str], ...
]  # tables whose rows need the object, and the column that names it


@dataclass(frozen=True)
class Kind:
    """An object that can be shown to others: its noun, and who needs it by which action."""

    resource: type[NetworkResource[Any]]
    uses: Mapping[str, Uses]


KINDS = {
    "network": Kind(
        Networks,
        {
            SHARED: ((PORTS, "network_id"), (SUBNETS, "network_id")),
            EXTERNAL: (
                (ROUTERS, "gateway_network_id"),
                (ROUTERS, "more_gateway_networks"),
                (FLOATING_IPS, "floating_network_id"),
            ),
        },
    ),
    "qos_policy": Kind(Policies, {SHARED: ((NETWORKS, "qos_policy_id"), (PORTS, "qos_policy_id"))}),
    "security_group": Kind(SecurityGroups, {SHARED: ((PORTS, "security_groups"),)}),
    "address_scope": Kind(AddressScopes, {SHARED: ((SUBNETPOOLS, "address_scope_id"),)}),
    "address_group": Kind(AddressGroups, {SHARED: ((RULES, "remote_address_group_id"),)}),
    "subnetpool": Kind(SubnetPools, {SHARED: ((SUBNETS, "subnetpool_id"),)}),
}
_FIXED = frozenset({"id"})
_NOT_ALL = (
    "rule:admin_only or (not field:rbac_policy:target_tenant=* and "
    "not field:rbac_policy:target_project=*)"
)


class CreateRbacPolicy(Attributes):
    root: ClassVar[str] = "rbac_policy"
    plural: ClassVar[str] = "rbac_policies"
    fixed = _FIXED

    object_type: str
    object_id: str
    action: str
    target_tenant: str | UnsetType = UNSET
    target_project: str | UnsetType = UNSET
    project_id: str | UnsetType = UNSET


class RbacPolicies(
    Plain[RbacPolicy],
    path="/rbac-policies",
    create=CreateRbacPolicy,
    update=changes_of(CreateRbacPolicy, "object_type", "object_id", "action"),
):
    table = RBAC_POLICIES
    noun = "rbac_policy"
    plural = "rbac_policies"
    id_param = "rbac_policy_id"
    see = "get_rbac_policy"
    rules = kept_by(OWNER, "rbac_policy") | {
        f"{verb}_rbac_policy:{name}": rule
        for verb in ("create", "update")
        for name, rule in (
            ("target_tenant", _NOT_ALL),
            ("target_project", "rule:admin_only or not field:rbac_policy:target_project=*"),
        )
    }
    listing = Listing(
        {n: Filter() for n in ("id", "object_type", "object_id", "action", "target_project", "project_id")}
        | {"target_tenant": Filter("target_project"), "tenant_id": Filter("project_id")},
        {n: n for n in ("id", "object_type", "object_id", "action", "target_project")},
        (("created_at", False), ("id", False)),
        default_limit=100_000,
        max_limit=100_000,
    )  # fmt: skip

    def view(self, ctx: Context, record: RbacPolicy) -> dict[str, Any]:
        found = {n: getattr(record, n) for n in ("id", "object_type", "object_id", "action")}
        owner, target = record.project_id, record.target_project
        return found | {
            "target_tenant": target,
            "project_id": owner,
            "tenant_id": owner,
        }

    def wish(self, owner: str, body: Any) -> Mapping[str, object]:
        target = _target(body.given())
        return {"project_id": owner, "target_tenant": target, "target_project": target}

    async def checked(
        self, ctx: Context, given: dict[str, Any], old: RbacPolicy | None
    ) -> dict[str, Any]:
        found = {n: v for n, v in given.items() if n not in ("target_tenant", "target_project")}
        target = _target(given)
        if old is not None and target == EVERYBODY:
            ctx.require("update_rbac_policy:target_project", {"target_project": target})
        if target is not None:
            found["target_project"] = _project(target)
        object_type = old.object_type if old is not None else found["object_type"].strip().lower()
        if object_type not in KINDS:
            raise bad_input(f"'{object_type[:40]}' is not a valid RBAC object type")
        kind = KINDS[object_type]
        action = old.action if old is not None else found["action"]
        if action not in kind.uses:
            raise bad_input(f"'{action[:40]}' is not in {sorted(kind.uses)}", "RbacPolicyInitError")
        id = old.object_id if old is not None else found["object_id"]
        thing = await kind.resource().visible(ctx, id)
        if thing.project_id != ctx.caller.project_id and not sees_all(ctx):
            raise bad_input("Only admins can manipulate policies on objects they do not own")
        if action == EXTERNAL and not sees_all(
            ctx
        ):  # hosts join such a network to their own outside
            raise bad_input("Only admins can make networks external")
        if target is not None and isinstance(thing, SubnetPool) and thing.address_scope_id:
            await _sees_scope(ctx, thing.address_scope_id, target)
        return found if old is not None else {**found, "object_type": object_type}

    async def enter(self, tx: Tx, new: RbacPolicy, old: RbacPolicy | None) -> RbacPolicy:
        if old is not None and old.target_project != new.target_project:
            if new.target_project != EVERYBODY:
                await _unneeded(tx, old)
            await _reflect(tx, old, False)
        await _reflect(tx, new, True)
        return new

    async def leave(self, tx: Tx, record: RbacPolicy) -> None:
        await _unneeded(tx, record)
        await _reflect(tx, record, False)


async def _sees_scope(ctx: Context, scope_id: str, target: str) -> None:
    """A pool is shown only to whom its address scope is shown. Raises Invalid."""
    scope = await ADDRESS_SCOPES.get(ctx.runtime.store, scope_id)
    if target != scope.project_id and not scope.is_shared_to(target):
        raise bad_input(f"Address scope {scope_id} is not shared with project {target}")


def _target(given: Mapping[str, Any]) -> str | None:
    for name in ("target_project", "target_tenant"):
        if isinstance(given.get(name), str):
            return str(given[name])
    return None


def _project(target: str) -> str:
    digits = target.replace("-", "")
    if target != EVERYBODY and not (len(digits) == 32 and digits.isalnum()):
        raise bad_input(f"'{target[:64]}' is not a valid target project ID; expected a UUID or '*'")
    return target


async def _reflect(tx: Tx, policy: RbacPolicy, present: bool) -> None:
    """Writes into the object's record whom it is shown to; subnets follow their network."""
    kind = KINDS[policy.object_type].resource
    await hold(tx, kind.plural, policy.object_id)
    record = await kind.table.get(tx, policy.object_id)
    changes = shown_to(record, policy, present)
    await kind.table.change(tx, record, **changes)
    if policy.object_type == "network":
        for subnet in await SUBNETS.all(tx, network_id=policy.object_id):
            await SUBNETS.change(tx, subnet, **changes)


async def _unneeded(tx: Tx, policy: RbacPolicy) -> None:
    """Raises Conflict if a project that the policy lets in needs the object and no other policy lets it in."""
    kind = KINDS[policy.object_type]
    record = await kind.resource.table.get(tx, policy.object_id)
    if policy.action == EXTERNAL and policy.target_project == EVERYBODY and record.is_default:
        raise _needed(policy, "it is the default external network")
    others = await RBAC_POLICIES.all(tx, object_id=policy.object_id, action=policy.action)
    admitted = {p.target_project for p in others if p.id != policy.id}
    if EVERYBODY in admitted:
        return
    for table, column in kind.uses[policy.action]:
        wanted = [policy.object_id] if column in table.many else policy.object_id
        for user in await table.all(tx, **{column: wanted}):
            project = user.project_id
            let_in = policy.target_project in (EVERYBODY, project)
            if let_in and project not in {"", record.project_id, *admitted}:
                raise _needed(policy, f"project_id={project}")


def _needed(policy: RbacPolicy, why: str) -> Conflict:
    return Conflict(
        f"RBAC policy on object {policy.object_id} cannot be removed because other objects depend "
        f"on it.\nDetails: {why}",
        code="RbacPolicyInUse",
    )

"""The rules of QoS policies, and the types of them (API reference: qos)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from msgspec.structs import replace

from pileus.kernel.faults import Conflict, Invalid, NotFound
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.versions import NO_VERSION, Version

from ..attributes import Attributes
from ..floating_ip import FLOATING_IPS
from ..qos_policy import MOST, PARAMETERS, QOS_POLICIES, Parameter, QosPolicy, Rule, reserving
from ..reservations import refuse_bound
from ..resource import declare, hold, projected, sifted
from ..router import ROUTERS
from .policies import rule_view, wake_users
from .users import not_supported

_GET = "(rule:admin_only) or (role:reader and rule:ext_parent_owner)"
_AS_BELOW = ("minimum_packet_rate",)  # whose rules by id upstream writes as references
_SET = "(rule:admin_only) or (role:manager and rule:ext_parent_owner)"


class _Values(Attributes):
    """The values of a rule, as far as they were given, checked by what its type takes."""

    parameters: ClassVar[Mapping[str, Parameter]] = {}
    values: dict[str, int | str]

    @classmethod
    def take(cls, document: Any, at: Version = NO_VERSION) -> Self:
        if not isinstance(document, dict):
            raise Invalid(f"Invalid input for {cls.root}. Reason: it must be an object.")
        given = {n: v for n, v in document.items() if n not in ("tenant_id", "project_id")}
        if unknown := sorted(given.keys() - cls.parameters.keys()):
            raise Invalid(f"Unrecognized attribute(s) '{', '.join(unknown)}'")
        return cls(values={n: cls.parameters[n].checked(n, v) for n, v in given.items()})

    def complete(self) -> dict[str, int | str]:
        """Raises Invalid if one is missing."""
        found = dict(self.values)
        for name, parameter in self.parameters.items():
            if name not in found and parameter.usual is None:
                raise Invalid(f"Failed to parse request. Required attribute '{name}' not specified")
            if parameter.usual is not None:
                found.setdefault(name, parameter.usual)
        return found


def _rules(kind: str, *, by_id: bool = False) -> type[Resource[Any]]:
    """The operations on one type of rules: below a policy, or by the rule's id alone."""
    noun, owner = f"{kind}_rule", "alias" if by_id else "policy"
    key = f"alias_{noun}" if by_id else noun
    path = (
        f"/qos/alias-{noun}s".replace("_", "-") if by_id else f"/qos/policies/{{policy_id}}/{noun}s"
    )

    class Rules(_Found if by_id else _Below):  # type: ignore[misc]
        rule_type = kind
        rules = {
            f"{verb}_{owner}_{noun}": f"rule:{verb}_policy_{noun}"
            if by_id and kind in _AS_BELOW
            else may
            for verb, may in (("get", _GET), ("update", _SET), ("delete", _SET))
        }

    async def show(self: Any, ctx: Context, policy: QosPolicy, rule_id: str) -> Any:
        return {key: projected(ctx, rule_view(_rule(policy, kind, rule_id)))}

    async def update(self: Any, ctx: Context, policy: QosPolicy, rule_id: str, body: Any) -> Any:
        return {key: await _changed(ctx, policy, kind, rule_id, body)}

    async def delete(self: Any, ctx: Context, policy: QosPolicy, rule_id: str) -> None:
        await _write(ctx, policy.id, _rule(policy, kind, rule_id).id, None)

    one = path + "/{rule_id}"
    declare(Rules, "GET", one, f"get_{owner}_{noun}", show)
    declare(Rules, "PUT", one, f"update_{owner}_{noun}", update, body=_values(kind, key))
    declare(Rules, "DELETE", one, f"delete_{owner}_{noun}", delete)
    if not by_id:
        _declare_several(Rules, kind, path)
    Rules.__name__ = f"{_title(kind)}{'Aliases' if by_id else 'Rules'}"
    return Rules


def _declare_several(rules: type[Resource[Any]], kind: str, path: str) -> None:
    noun = f"{kind}_rule"

    async def index(self: Any, ctx: Context, policy: QosPolicy) -> Any:
        found = [rule_view(r) for r in policy.rules if r.type == kind]
        return {f"{noun}s": sifted(ctx, found, "id", *PARAMETERS[kind])}

    async def create(self: Any, ctx: Context, policy_id: str, body: Any) -> Any:
        policy = await QOS_POLICIES.get(ctx.runtime.store, policy_id)
        # as upstream: whoever may add none is told so, even of a policy that he may not see
        ctx.require(f"create_policy_{noun}", self.target(ctx, policy))
        rule = Rule(id=ctx.runtime.world.new_id(), type=kind, values=body.complete())
        await _write(ctx, policy.id, rule.id, rule)
        return {noun: rule_view(rule)}

    rules.rules = {**rules.rules, f"create_policy_{noun}": _SET}
    declare(rules, "GET", path, f"get_policy_{noun}", index)
    declare(rules, "POST", path, f"create_policy_{noun}", create, 201, body=_values(kind, noun))


class _Below(Resource[QosPolicy]):
    """Rules of the policy that the path names."""

    table = QOS_POLICIES
    id_param = "policy_id"
    see = "get_policy"
    rule_type: ClassVar[str]

    def scope_target(self, ctx: Context, params: Mapping[str, str]) -> Mapping[str, object]:
        return {**ctx.own, "ext_parent:project_id": ctx.caller.project_id}

    def target(self, ctx: Context, record: QosPolicy) -> Mapping[str, object]:
        owner, shared = record.project_id, record.is_shared_to(ctx.caller.project_id)
        return {"project_id": owner, "ext_parent:project_id": owner, "shared": shared}


class _Found(_Below):
    """Rules by their own ids."""

    id_param = "rule_id"

    async def load(self, ctx: Context, id: str) -> QosPolicy:
        policy = await QOS_POLICIES.one(ctx.runtime.store, rules=[id])
        if policy is None or all(r.id != id or r.type != self.rule_type for r in policy.rules):
            raise _unknown(id, None)
        return policy


def _values(kind: str, named: str) -> type[_Values]:
    """The body of a rule of that type."""

    class Values(_Values):
        root: ClassVar[str] = named
        parameters = PARAMETERS[kind]

    return Values


def _title(kind: str) -> str:
    return "".join(word.title() for word in kind.split("_"))


def _unknown(rule_id: str, policy_id: str | None) -> NotFound:
    return NotFound(
        f"QoS rule {rule_id} for policy {policy_id} could not be found.", code="QosRuleNotFound"
    )


def _rule(policy: QosPolicy, kind: str, rule_id: str) -> Rule:
    for rule in policy.rules:
        if rule.id == rule_id and rule.type == kind:
            return rule
    raise _unknown(rule_id, policy.id)


async def _changed(
    ctx: Context, policy: QosPolicy, kind: str, rule_id: str, body: _Values
) -> dict[str, Any]:
    old = _rule(policy, kind, rule_id)
    new = replace(old, values=old.values | body.values)
    await _write(ctx, policy.id, rule_id, new)
    return rule_view(new)


async def _write(ctx: Context, policy_id: str, rule_id: str, rule: Rule | None) -> None:
    """The policy with this rule, or without it. Raises Conflict."""
    async with ctx.runtime.store.tx() as tx:
        await hold(tx, "qos_policies", policy_id)
        policy = await QOS_POLICIES.get(tx, policy_id)
        others = [r for r in policy.rules if r.id != rule_id]
        if rule is not None:
            _fits(policy, others, rule)
            if kind := reserving([rule]):
                for fip in await FLOATING_IPS.all(tx, qos_policy_id=policy_id):
                    raise not_supported(kind, f"floating IP {fip.id}")
                for router in await ROUTERS.all(tx, qos_policy_id=policy_id):
                    raise not_supported(kind, f"router {router.id}")
        rules = others if rule is None else [*others, rule]
        if reserving(r for r in (*policy.rules, *rules) if r.id == rule_id):
            await refuse_bound(tx, policy_id)
        await QOS_POLICIES.revise(tx, policy, rules=rules)
    await wake_users(ctx, policy_id)


def _fits(policy: QosPolicy, others: list[Rule], new: Rule) -> None:
    """One rule of a type and direction; no minimum above the maximum. Raises Conflict."""
    for rule in others:
        if not rule.is_beside(new):
            raise Conflict(
                f"Rule {new.type} conflicts with rule {rule.id} which already exists in QoS "
                f"Policy {policy.id}.",
                code="QoSRulesConflict",
            )
    limits = {r.type: r for r in others if r.kind[1] == new.kind[1]}
    for least, most in (
        (new, limits.get("bandwidth_limit")),
        (limits.get("minimum_bandwidth"), new),
    ):
        if least is None or most is None or least.type == most.type:
            continue
        low, high = least.values.get("min_kbps"), most.values.get("max_kbps")
        if isinstance(low, int) and isinstance(high, int) and low > high:
            old = most if least is new else least
            raise Conflict(
                f"Unable to add the rule with value {low if least is new else high} to the policy "
                f"{policy.id} as the existing rule of type {old.type} has value "
                f"{high if least is new else low}.",
                code="QoSRuleParameterConflict",
            )


class RuleTypes(Resource[Any]):
    rules = {"get_rule_type": "role:reader"}

    @operation("GET", "/qos/rule-types", "get_rule_type")
    async def index(self, ctx: Context) -> Any:
        return {"rule_types": [{"type": t} for t in PARAMETERS]}

    @operation("GET", "/qos/rule-types/{rule_type}", "get_rule_type")
    async def show(self, ctx: Context, rule_type: str) -> Any:
        if rule_type not in PARAMETERS:
            raise NotFound(f"Rule type {rule_type} could not be found.", code="QosRuleTypeNotFound")
        ctx.require("get_rule_type")
        taken = [_described(n, p) for n, p in PARAMETERS[rule_type].items()]
        drivers = [{"name": "pileus", "supported_parameters": taken}]
        return {"rule_type": {"type": rule_type, "drivers": drivers}}


def _described(name: str, parameter: Parameter) -> dict[str, Any]:
    values: Any = list(parameter.choices) or {"start": 0, "end": MOST}
    kind = "choices" if parameter.choices else "range"
    return {"parameter_name": name, "parameter_type": kind, "parameter_values": values}


_ALIASED = tuple(kind for kind in PARAMETERS if kind != "packet_rate_limit")  # as upstream
QOS_RESOURCES: tuple[type[Resource[Any]], ...] = (
    RuleTypes,
    *map(_rules, PARAMETERS),
    *(_rules(kind, by_id=True) for kind in _ALIASED),
)

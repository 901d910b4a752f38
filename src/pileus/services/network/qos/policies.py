"""QoS policies (API reference: qos)."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Conflict
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context
from pileus.kernel.store import Tx

from ..attributes import Attributes, changes_of
from ..floating_ip import FLOATING_IPS
from ..network import NETWORKS
from ..plain import Plain
from ..port import PORTS
from ..qos_policy import QOS_POLICIES, QosPolicy, Rule
from ..resource import READER, hold, kept_by, listing, standard
from ..router import ROUTERS
from ..wiring import hosts_of_networks, wake

WRITER = "(rule:admin_only) or (role:manager and project_id:%(project_id)s)"
_SEEN = f"{READER} or rule:shared_qos_policy"
_FIXED = frozenset({"id", "rules", "created_at", "updated_at", "revision_number", "tags"})
USERS = (("network", NETWORKS), ("port", PORTS), ("floatingip", FLOATING_IPS), ("router", ROUTERS))


class CreatePolicy(Attributes):
    root: ClassVar[str] = "policy"
    plural: ClassVar[str] = "policies"
    fixed = _FIXED

    name: str = ""
    description: str = ""
    shared: bool = False
    is_default: bool = False
    project_id: str | UnsetType = UNSET


class Policies(
    Plain[QosPolicy], path="/qos/policies", create=CreatePolicy, update=changes_of(CreatePolicy)
):
    table = QOS_POLICIES
    noun = "policy"
    plural = "policies"
    id_param = "policy_id"
    see = "get_policy"
    share_type = "qos_policy"
    rules = kept_by(WRITER, "policy", readers=_SEEN, tagged=True)
    listing = listing(shared=Filter(kind=bool), is_default=Filter(kind=bool))

    def view(self, ctx: Context, record: QosPolicy) -> dict[str, Any]:
        return standard(record) | {
            "shared": record.is_shared_to(ctx.caller.project_id),
            "is_default": record.is_default,
            "rules": [rule_view(r) | {"type": r.type, "qos_policy_id": record.id}
                      for r in record.rules],
        }  # fmt: skip

    async def leave(self, tx: Tx, record: QosPolicy) -> None:
        await hold(tx, "qos_policies", record.id)
        for name, table in USERS:
            user = await table.one(tx, qos_policy_id=record.id)
            if user is not None:
                raise Conflict(
                    f"QoS Policy {record.id} is used by {name} {user.id}.", code="QosPolicyInUse"
                )


def rule_view(rule: Rule) -> dict[str, Any]:
    return {"id": rule.id, **rule.values}


async def wake_users(ctx: Context, policy_id: str) -> None:
    """The hosts that apply the policy somewhere."""
    store = ctx.runtime.store
    hosts = {p.host for p in await PORTS.all(store, qos_policy_id=policy_id)}
    networks = [n.id for n in await NETWORKS.all(store, qos_policy_id=policy_id)]
    hosts |= await hosts_of_networks(store, networks)
    routers = await ROUTERS.all(store, qos_policy_id=policy_id)
    floating = await FLOATING_IPS.all(store, qos_policy_id=policy_id)
    routers += await ROUTERS.all(store, id=[f.router_id for f in floating]) if floating else []
    await wake(ctx.runtime, hosts | {r.host for r in routers})

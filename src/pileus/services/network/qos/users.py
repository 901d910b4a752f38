"""Who is under a QoS policy: checks and look-ups for ports, networks, routers and floating IPs."""

from __future__ import annotations

from collections.abc import Iterable

from pileus.kernel.faults import Conflict
from pileus.kernel.resources import Context
from pileus.kernel.store import Page, Reader, Tx

from ..network import NETWORKS
from ..qos_policy import QOS_POLICIES, reserving
from ..resource import hold


async def usable_policy(ctx: Context, id: str | None, *, reserves: bool = False) -> str:
    """The id of a policy that the caller may use; "" for none. `reserves`: for guests, as nothing is kept for others.

    Raises NotFound, Conflict.
    """
    if not id:
        return ""
    policy = await QOS_POLICIES.get(ctx.runtime.store, id)
    shared = policy.is_shared_to(ctx.caller.project_id)
    if not ctx.allows("get_policy", {"project_id": policy.project_id, "shared": shared}):
        raise QOS_POLICIES.missing(id)
    if not reserves and (kind := reserving(policy.rules)):
        raise not_supported(kind, f"floating IPs and gateways: use another policy than {id}")
    return id


def not_supported(kind: str, user: str) -> Conflict:
    return Conflict(f"Rule {kind} is not supported by {user}", code="QosRuleNotSupported")


async def hold_policies(tx: Tx, *ids: str) -> None:
    """They stay until the transaction ends. Raises NotFound for one that went meanwhile."""
    wanted = sorted(set(ids) - {""})
    await hold(tx, "qos_policies", *wanted)
    for id in wanted:
        await QOS_POLICIES.get(tx, id)


async def policy_of_project(db: Reader, project_id: str) -> str:
    """The policy of networks that name none."""
    found = await QOS_POLICIES.one(db, project_id=project_id, is_default=1)
    return found.id if found is not None else ""


async def network_policies(db: Reader, network_ids: Iterable[str]) -> dict[str, str]:
    """The policies of these networks, of those that have one."""
    wanted = sorted(set(network_ids))
    if not wanted:
        return {}
    page = Page({"id": wanted}, (("id", False),), limit=len(wanted))
    rows = await NETWORKS.page(db, page, select=("id", "qos_policy_id"))
    return {row[0]: row[1] for row in rows if row[1]}

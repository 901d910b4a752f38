"""What an RBAC policy is: it shows an object to another project, or to all ("*")."""

from __future__ import annotations

from typing import Any

import msgspec

from pileus.kernel.quota import Quota
from pileus.kernel.store import Tx, Unique
from pileus.kernel.world import World

from .resource import Noun, Nouns

SHARED, EXTERNAL = "access_as_shared", "access_as_external"
EVERYBODY = "*"
FLAGS = {SHARED: ("shared", "shared_with"), EXTERNAL: ("external", "external_to")}


class RbacPolicy(Noun, kw_only=True, frozen=True):
    object_type: str
    object_id: str
    action: str
    target_project: str


RBAC_POLICIES = Nouns(
    "network_rbac_policies",
    RbacPolicy,
    columns=("project_id", "object_type", "object_id", "action", "target_project"),
    unique=(
        Unique(
            ("object_id", "action", "target_project"),
            lambda p: "An RBAC policy already exists with those values.",
            "DuplicateRbacPolicy",
        ),
    ),
    quotas=(
        Quota("network", "rbac_policy", default=10, of=lambda p: p.target_project != EVERYBODY),
    ),
    indexes=(("object_id",), ("project_id", "created_at", "id")),
    noun="RBAC policy",
).worded("RbacPolicyNotFound", "RBAC policy of type None with ID {id} not found")


def shown_to(record: Any, policy: RbacPolicy, present: bool) -> dict[str, Any]:
    """The changes of the object's record, which keeps whom it is shown to, so that lists need not ask here."""
    flag, names = FLAGS[policy.action]
    if policy.target_project == EVERYBODY:
        return {flag: present}
    left = [p for p in getattr(record, names) if p != policy.target_project]
    return {names: [*left, policy.target_project] if present else left}


async def follow_flags(
    tx: Tx, world: World, object_type: str, old: Any, new: msgspec.Struct
) -> None:
    """Showing an object to everybody by its own attribute is a policy too. Called before the object changes."""
    for action, (flag, _) in FLAGS.items():
        now, before = getattr(new, flag, False), getattr(old, flag, False)
        if now == before:
            continue
        object_id = str(getattr(new, "id", ""))
        key: dict[str, Any] = {
            "object_id": object_id,
            "action": action,
            "target_project": EVERYBODY,
        }
        found = await RBAC_POLICIES.one(tx, **key)
        if now and found is None:
            owner = str(getattr(new, "project_id", ""))
            made = RbacPolicy(id=world.new_id(), project_id=owner, object_type=object_type, **key)
            await RBAC_POLICIES.insert(tx, made)
        elif not now and found is not None:
            await RBAC_POLICIES.delete(tx, found)


async def drop_policies(tx: Tx, object_id: str) -> None:
    """They go with their object."""
    for policy in await RBAC_POLICIES.all(tx, object_id=object_id):
        await RBAC_POLICIES.delete(tx, policy)

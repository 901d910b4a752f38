"""Security groups: named sets of rules that ports wear (API reference: security-groups)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from pileus.kernel.events import emit
from pileus.kernel.faults import Conflict
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import Bulk
from pileus.kernel.store import Tx
from pileus.kernel.world import World
from pileus.services.identity.contract import IDENTITY

from ..attributes import Attributes
from ..default_statefulness import stateful_by_default
from ..packet_log import drop_logs
from ..port import PORTS
from ..rbac_policy import drop_policies
from ..resource import (
    OWNER,
    READER,
    NetworkResource,
    hold,
    listing,
    owner_of,
    projected,
    sees_all,
)
from ..security_group import (
    DEFAULT,
    GROUPS,
    RULES,
    SecurityGroup,
    add_group,
    default_group,
    group_target,
    group_view,
    rules_of,
)

_FIXED = frozenset(
    ["id", "security_group_rules", "created_at", "updated_at", "revision_number", "tags", "shared"]
)


class CreateSecurityGroup(Attributes):
    root: ClassVar[str] = "security_group"
    plural: ClassVar[str] = "security_groups"
    fixed = _FIXED

    name: str = ""
    description: str = ""
    stateful: bool | UnsetType = UNSET
    project_id: str | UnsetType = UNSET


class UpdateSecurityGroup(Attributes):
    root: ClassVar[str] = "security_group"
    creates = False
    fixed = _FIXED | {"project_id", "tenant_id"}

    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    stateful: bool | UnsetType = UNSET


class SecurityGroups(NetworkResource[SecurityGroup], path="/security-groups"):
    table = GROUPS
    noun = "security_group"
    plural = "security_groups"
    id_param = "security_group_id"
    see = "get_security_group"
    share_type = "security_group"
    rules = {
        "create_default_security_group": "(rule:admin_only) or (rule:service_api) or "
        "role:reader and project_id:%(project_id)s",
        "create_security_group": OWNER,
        "get_security_group": f"{READER} or rule:shared_security_group",
        "get_security_group:tags": f"{READER} or rule:shared_security_group",
        "update_security_group": OWNER,
        "update_security_group:tags": OWNER,
        "delete_security_group": OWNER,
        "delete_security_group:tags": OWNER,
    }
    listing = listing(
        stateful=Filter(kind=bool), shared=Filter(kind=bool), is_default=Filter(kind=bool)
    )

    def target(self, ctx: Context, record: SecurityGroup) -> Mapping[str, object]:
        return {**super().target(ctx, record), **group_target(record)}

    async def rendered(self, ctx: Context, groups: Sequence[SecurityGroup]) -> list[dict[str, Any]]:
        rules = await rules_of(ctx.runtime.store, groups)
        mine = ctx.caller.project_id
        return [projected(ctx, group_view(g, rules[g.id], mine)) for g in groups]

    async def listed(self, ctx: Context, **fixed: Any) -> dict[str, Any]:
        await self.want_default(ctx)
        return await super().listed(ctx, **fixed)

    @operation("POST", "/security-groups", "create_security_group", status=201)
    async def create(self, ctx: Context, body: Bulk[CreateSecurityGroup]) -> Any:
        wanted = []
        for item in body.items:
            owner = owner_of(ctx, item.project_id)
            ctx.require("create_security_group", {"project_id": owner})
            stateful = (
                await stateful_by_default(ctx.runtime.store, owner)
                if item.stateful is UNSET
                else item.stateful
            )
            wanted.append(
                new_group(ctx.runtime.world, item.name, item.description, owner, stateful)
            )
        async with ctx.runtime.store.tx() as tx:
            made = []
            for group in wanted:
                await default_group(tx, ctx.runtime.world, group.project_id)
                made.append(await add_group(tx, ctx.runtime.world, group))
        return await self.made(ctx, made, body.single)

    async def want_default(self, ctx: Context) -> None:
        """A project has a default group from the first look on, its own or an administrator's who names it."""
        project, store = ctx.caller.project_id, ctx.runtime.store
        named = [*ctx.query.all("project_id"), *ctx.query.all("tenant_id")]
        if named and sees_all(ctx):
            known = await ctx.peer(IDENTITY).project(named[0])
            project = known.id if known is not None else ""
        elif not ctx.allows("create_default_security_group"):
            return
        if project and await GROUPS.one(store, project_id=project, is_default=1) is None:
            async with store.tx() as tx:
                await default_group(tx, ctx.runtime.world, project)

    @operation("PUT", "/security-groups/{security_group_id}", "update_security_group")
    async def update(self, ctx: Context, group: SecurityGroup, body: UpdateSecurityGroup) -> Any:
        self.match(ctx, group)
        changes = body.given()
        if "name" in changes:
            refuse_rename(group, changes["name"])
        if changes.get("stateful", group.stateful) != group.stateful:
            await _unused(ctx, group)
        async with ctx.runtime.store.tx() as tx:
            group = await GROUPS.revise(tx, group, **changes)
            await emit(tx, "security_group.update.end", group.project_id, id=group.id)
        return await self.one(ctx, group)

    @operation("DELETE", "/security-groups/{security_group_id}", "delete_security_group")
    async def delete(self, ctx: Context, group: SecurityGroup) -> None:
        self.match(ctx, group)
        if group.is_default and not ctx.caller.is_admin:
            raise Conflict(
                "Insufficient rights for removing default security group.",
                code="SecurityGroupCannotRemoveDefault",
            )
        async with ctx.runtime.store.tx() as tx:
            await drop_group(tx, group)


def new_group(
    world: World, name: str, description: str, owner: str, stateful: bool
) -> SecurityGroup:
    """Raises Conflict for the name that only the default group bears, Invalid."""
    if name.lower() == DEFAULT:
        raise Conflict(
            "Default security group already exists.", code="SecurityGroupDefaultAlreadyExists"
        )
    return SecurityGroup(
        id=world.new_id(),
        project_id=owner,
        name=name,
        description=description,
        stateful=stateful,
    )


def refuse_rename(group: SecurityGroup, name: str) -> None:
    """Raises Conflict, Invalid."""
    if group.is_default:
        raise Conflict(
            "Updating default security group not allowed.", code="SecurityGroupCannotUpdateDefault"
        )
    if name.lower() == DEFAULT:
        raise Conflict(
            "Default security group already exists.", code="SecurityGroupDefaultAlreadyExists"
        )


async def _unused(ctx: Context, group: SecurityGroup) -> None:
    if await PORTS.one(ctx.runtime.store, security_groups=[group.id]) is not None:
        raise _in_use(group.id)


def _in_use(id: str) -> Conflict:
    return Conflict(f"Security Group {id} in use.", code="SecurityGroupInUse")


async def drop_group(tx: Tx, group: SecurityGroup) -> None:
    """Deletes the group, its rules, and the rules of others that name it. Raises Conflict if a port wears it."""
    await hold(tx, "security_groups", group.id)
    group = await GROUPS.get(tx, group.id)
    if await PORTS.one(tx, security_groups=[group.id]) is not None:
        raise _in_use(group.id)
    gone = {r.id: r for r in await RULES.all(tx, security_group_id=group.id)}
    gone |= {r.id: r for r in await RULES.all(tx, remote_group_id=group.id)}
    for rule in gone.values():
        await RULES.delete(tx, rule)
    await drop_policies(tx, group.id)
    await drop_logs(tx, resource_id=group.id)
    await GROUPS.delete(tx, group)
    await emit(tx, "security_group.delete.end", group.project_id, id=group.id)

"""Server groups: servers that shall be together, or apart.

https://docs.openstack.org/api-ref/compute/#server-groups-os-server-groups

A group knows where each of its members is, and is written when one finds its place: so two that are placed at once
cannot both take what only one may have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Invalid, OverQuota
from pileus.kernel.query import Listing
from pileus.kernel.quota import Quota, limit_of
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import Body, since, until
from pileus.kernel.store import Page, Reader, Record, Table, Tx
from pileus.services.compute import checks
from pileus.services.compute.checks import Name
from pileus.services.compute.server import SERVERS

_RULE = "os_compute_api:os-server-groups:"
_PATH = "/os-server-groups"
_HARD = ("affinity", "anti-affinity")
_SOFT = ("soft-affinity", "soft-anti-affinity")
MEMBERS = 10  # of one group, unless the quota says otherwise


class ServerGroup(Record, kw_only=True, frozen=True):
    """`members` maps a server to its host, "" while it has none."""

    project_id: str
    user_id: str
    name: str
    policy: str
    rules: dict[str, int] = {}
    members: dict[str, str] = {}


GROUPS = Table(
    "compute_server_groups",
    ServerGroup,
    columns=("project_id", "user_id", "name", "policy"),
    indexes=(("project_id", "created_at", "id"),),
    quotas=(Quota("compute", "server_groups", default=10),),
    noun="Server group",
)


class CreateGroup(Body):
    root: ClassVar[str] = "server_group"
    name: Name
    policies: Annotated[list[str] | UnsetType, until("2.64")] = UNSET
    policy: Annotated[str | UnsetType, since("2.64")] = UNSET
    rules: Annotated[dict[str, int | str] | UnsetType, since("2.64")] = UNSET


# Members


async def join(tx: Tx, project_id: str, group_id: str, server_ids: list[str]) -> None:
    """Servers that are about to be made become members. Raises Invalid, OverQuota."""
    group = await GROUPS.find(tx, group_id)
    if group is None or group.project_id != project_id:
        raise missing(group_id)
    limit = await limit_of(tx, "compute", "server_group_members", project_id, MEMBERS)
    if 0 <= limit < len(group.members) + len(server_ids):
        raise OverQuota("server_group_members", len(server_ids), len(group.members), limit)
    members = {**group.members, **dict.fromkeys(server_ids, "")}
    await GROUPS.change(tx, group, members=members)


def missing(group_id: str) -> Invalid:
    return Invalid(f"Server group {group_id} could not be found.")


async def leave(tx: Tx, group_id: str, server_id: str) -> None:
    """The server is gone."""
    group = await GROUPS.find(tx, group_id) if group_id else None
    if group is not None and server_id in group.members:
        members = {id: host for id, host in group.members.items() if id != server_id}
        await GROUPS.change(tx, group, members=members)


async def sit(tx: Tx, group_id: str, server_id: str, host: str) -> bool:
    """The server takes its place, "" gives it up; False where the policy does not let it, any more."""
    group = await GROUPS.find(tx, group_id)
    if group is None or server_id not in group.members:
        return True
    if host and why_not(group, server_id, host):
        return False
    await GROUPS.change(tx, group, members={**group.members, server_id: host})
    return True


async def group_of(db: Reader, group_id: str) -> ServerGroup | None:
    return await GROUPS.find(db, group_id) if group_id else None


def seats_of(group: ServerGroup, server_id: str) -> Counter[str]:
    """How many members each host has, the server itself left out."""
    return Counter(h for id, h in group.members.items() if h and id != server_id)


def why_not(group: ServerGroup, server_id: str, host: str) -> str:
    """Why the policy keeps the server from that host, "" if it does not."""
    seats = seats_of(group, server_id)
    if group.policy == "affinity" and seats and host not in seats:
        return f"group {group.id} is elsewhere (on {' and '.join(sorted(seats))})"
    most = group.rules.get("max_server_per_host", 1)
    if group.policy == "anti-affinity" and seats[host] >= most:
        return (
            f"it has all of group {group.id}, which allows {most} on a host ({seats[host]} there)"
        )
    return ""


# The resource


def _view(ctx: Context, g: ServerGroup) -> dict[str, Any]:
    found: dict[str, Any] = {"id": g.id, "name": g.name, "members": list(g.members)}
    if ctx.version >= (2, 64):
        found |= {"policy": g.policy, "rules": g.rules}
    else:
        found |= {"policies": [g.policy], "metadata": {}}
    if ctx.version >= (2, 13):
        found |= {"project_id": g.project_id, "user_id": g.user_id}
    return found


class ServerGroups(Resource[ServerGroup]):
    table = GROUPS
    id_param = "group_id"
    see = _RULE + "show"
    rules: ClassVar[Mapping[str, str]] = {
        _RULE + "create": "rule:project_member_or_admin",
        _RULE + "delete": "rule:project_member_or_admin",
        _RULE + "index": "rule:project_reader_or_admin",
        _RULE + "index:all_projects": "rule:context_is_admin",
        _RULE + "show": "rule:project_reader_or_admin",
    }
    listing = Listing()

    @operation("GET", _PATH, _RULE + "index")
    async def index(self, ctx: Context) -> dict[str, Any]:
        checks.known_only(ctx, ("all_projects", "limit", "offset"))
        everybody = ctx.query.has("all_projects") and ctx.allows(_RULE + "index:all_projects")
        filters = {} if everybody else {"project_id": ctx.caller.project_id}
        page = Page(filters, (("created_at", False), ("id", False)), limit=10_000)
        found = await GROUPS.list(ctx.runtime.store, page)
        first = _number(ctx, "offset", 0)
        found = found[first : first + min(1000, _number(ctx, "limit", 1000) or 1000)]
        return {"server_groups": [_view(ctx, g) for g in found]}

    @operation("POST", _PATH, _RULE + "create", status=200)
    async def create(self, ctx: Context, body: CreateGroup) -> dict[str, Any]:
        policy, rules = _asked(ctx, body)
        group = ServerGroup(
            id=ctx.runtime.world.new_id(),
            project_id=ctx.caller.project_id,
            user_id=ctx.caller.user_id,
            name=checks.name(body.name),
            policy=policy,
            rules=rules,
        )
        async with ctx.runtime.store.tx() as tx:
            group = await GROUPS.insert(tx, group)
        return {"server_group": _view(ctx, group)}

    @operation("GET", _PATH + "/{group_id}", _RULE + "show")
    async def show(self, ctx: Context, group: ServerGroup) -> dict[str, Any]:
        return {"server_group": _view(ctx, group)}

    @operation("DELETE", _PATH + "/{group_id}", _RULE + "delete", status=204)
    async def delete(self, ctx: Context, group: ServerGroup) -> None:
        """Its members go on where they are."""
        async with ctx.runtime.store.tx() as tx:
            group = await GROUPS.get(tx, group.id)
            for id in group.members:
                if (server := await SERVERS.find(tx, id)) is not None:
                    await SERVERS.change(tx, server, group="")
            await GROUPS.delete(tx, group)


def _number(ctx: Context, key: str, default: int) -> int:
    text = ctx.query.get(key) if ctx.query.has(key) else str(default)
    if not text.isdecimal():
        raise checks.wrong(key, text, f"{text!r} is not a number of 0 or more")
    return int(text)


def _asked(ctx: Context, body: CreateGroup) -> tuple[str, dict[str, int]]:
    """The policy and its rules. Raises Invalid."""
    known = [*_HARD, *_SOFT] if ctx.version >= (2, 15) else [*_HARD]
    if ctx.version >= (2, 64):
        if body.policy is UNSET:
            raise checks.wrong("server_group", {}, "'policy' is a required property")
        policy, field = body.policy, "policy"
    else:
        given = [] if body.policies is UNSET else body.policies
        if len(given) != 1:
            raise checks.wrong("policies", given, "It must hold exactly one policy")
        policy, field = given[0], "policies"
    if policy not in known:
        raise checks.wrong(field, policy, f"{policy!r} is not one of {known}")
    rules = {} if body.rules is UNSET else {k: _rule(k, v) for k, v in body.rules.items()}
    if rules and policy != "anti-affinity":
        raise Invalid("Only anti-affinity policy supports rules.")
    return policy, rules


def _rule(name: str, value: int | str) -> int:
    if name != "max_server_per_host":
        raise Invalid(f"Additional properties are not allowed ('{name}' was unexpected)")
    try:
        return msgspec.convert(int(value), type=checks.Positive)
    except ValueError:
        raise checks.wrong(name, value, f"{value!r} is not a number of 1 or more") from None

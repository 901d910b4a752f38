"""Quota sets and limits: what a project may use, and what it does.

https://docs.openstack.org/api-ref/compute/#quota-sets-os-quota-sets
https://docs.openstack.org/api-ref/compute/#limits-limits
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Invalid
from pileus.kernel.quota import DEFAULTS, clear_limits, limits, set_limits, usage
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Record
from pileus.kernel.versions import Version
from pileus.services.compute import checks
from pileus.services.compute.checks import METADATA_LIMIT, Flag
from pileus.services.compute.keypairs import DEFAULT_LIMIT
from pileus.services.compute.server import SERVERS
from pileus.services.identity.contract import IDENTITY

_SETS = "os_compute_api:os-quota-sets:"
_LIMITS = "os_compute_api:limits"
_PATH = "/os-quota-sets/{project_id}"
_MOST = 0x7FFFFFFF

# In the order in which Nova shows them. Those without usage are checked where they are used, or belong to network now.
BUILT_IN = {
    "instances": 10,
    "cores": 20,
    "ram": 51_200,
    "fixed_ips": -1,
    "floating_ips": -1,
    "metadata_items": METADATA_LIMIT,
    "injected_files": 5,
    "injected_file_content_bytes": 10_240,
    "injected_file_path_bytes": 255,
    "security_groups": -1,
    "security_group_rules": -1,
    "key_pairs": DEFAULT_LIMIT,
    "server_groups": 10,
    "server_group_members": 10,
}
_GONE_2_36 = frozenset(("fixed_ips", "floating_ips", "security_group_rules", "security_groups"))
_GONE_2_57 = _GONE_2_36 | {
    "injected_files",
    "injected_file_content_bytes",
    "injected_file_path_bytes",
}
Number = int | str | None | UnsetType


class QuotaNumbers(Body):
    """The limits that a body may name."""

    instances: Number = UNSET
    cores: Number = UNSET
    ram: Number = UNSET
    fixed_ips: Number = UNSET
    floating_ips: Number = UNSET
    metadata_items: Number = UNSET
    injected_files: Number = UNSET
    injected_file_content_bytes: Number = UNSET
    injected_file_path_bytes: Number = UNSET
    security_groups: Number = UNSET
    security_group_rules: Number = UNSET
    key_pairs: Number = UNSET
    server_groups: Number = UNSET
    server_group_members: Number = UNSET


class QuotaBody(QuotaNumbers):
    root: ClassVar[str] = "quota_set"
    force: Flag = False


def shown(ctx: Context, networks_until: Version = (2, 36)) -> list[str]:
    """The resources that exist at the request's version; those of networks until another."""
    gone: frozenset[str] = frozenset()
    if ctx.version >= networks_until:
        gone = _GONE_2_57 if ctx.version >= (2, 57) else _GONE_2_36
    return [name for name in BUILT_IN if name not in gone]


async def _in_force(ctx: Context, project_id: str) -> dict[str, int]:
    store = ctx.runtime.store
    defaults = await limits(store, "compute", DEFAULTS)
    own = await limits(store, "compute", project_id) if project_id != DEFAULTS else {}
    return {**BUILT_IN, **defaults, **own}


async def _used(ctx: Context, project_id: str) -> dict[str, int]:
    used = await usage(ctx.runtime.store, "compute", project_id)
    return {name: used.get(name, 0) for name in BUILT_IN}


async def _known(ctx: Context, project_id: str) -> None:
    """Raises Invalid for a project that isn't there."""
    if project_id == ctx.caller.project_id:
        return
    if await ctx.peer(IDENTITY).project(project_id) is None:
        raise Invalid(f"Project ID {project_id} is not a valid project.")


class QuotaSets(Resource[Record]):
    table = SERVERS  # it names no record
    rules: ClassVar[Mapping[str, str]] = {
        _SETS + "show": "rule:project_reader_or_admin",
        _SETS + "detail": "rule:project_reader_or_admin",
        _SETS + "defaults": "@",
        _SETS + "update": "rule:context_is_admin",
        _SETS + "delete": "rule:context_is_admin",
    }

    def scope_target(self, ctx: Context, params: Mapping[str, str]) -> Mapping[str, object]:
        """The project in the path is whose quota is asked about."""
        return {**ctx.own, "project_id": params["project_id"]}

    @operation("GET", _PATH, _SETS + "show")
    async def show(self, ctx: Context, project_id: str) -> dict[str, Any]:
        checks.known_only(ctx, ("user_id",))
        await _known(ctx, project_id)
        found = await _in_force(ctx, project_id)
        return {"quota_set": {"id": project_id} | {n: found[n] for n in shown(ctx)}}

    @operation("GET", _PATH + "/detail", _SETS + "detail")
    async def detail(self, ctx: Context, project_id: str) -> dict[str, Any]:
        checks.known_only(ctx, ("user_id",))
        await _known(ctx, project_id)
        limit, used = await _in_force(ctx, project_id), await _used(ctx, project_id)
        rows = {n: {"in_use": used[n], "limit": limit[n], "reserved": 0} for n in shown(ctx)}
        return {"quota_set": {"id": project_id} | rows}

    @operation("GET", _PATH + "/defaults", _SETS + "defaults")
    async def defaults(self, ctx: Context, project_id: str) -> dict[str, Any]:
        await _known(ctx, project_id)
        found = await _in_force(ctx, DEFAULTS)
        return {"quota_set": {"id": project_id} | {n: found[n] for n in shown(ctx)}}

    @operation("PUT", _PATH, _SETS + "update")
    async def update(self, ctx: Context, project_id: str, body: QuotaBody) -> dict[str, Any]:
        await _known(ctx, project_id)
        force = checks.flag(body.force, "force")
        used = await _used(ctx, project_id)
        numbers = asked(body, shown(ctx))
        for name, value in numbers.items():
            if not force and 0 <= value < used[name]:
                raise Invalid(
                    f"Quota limit {value} for {name} must be greater than or equal to already "
                    f"used and reserved {used[name]}."
                )
        async with ctx.runtime.store.tx() as tx:
            await set_limits(tx, "compute", project_id, numbers)
        found = await _in_force(ctx, project_id)
        return {"quota_set": {n: found[n] for n in shown(ctx)}}

    @operation("DELETE", _PATH, _SETS + "delete", status=202)
    async def delete(self, ctx: Context, project_id: str) -> None:
        async with ctx.runtime.store.tx() as tx:
            await clear_limits(tx, "compute", project_id)


def asked(body: QuotaNumbers, names: list[str]) -> dict[str, int]:
    """The numbers sent. Raises Invalid."""
    found = {}
    for name, value in body.given().items():
        if name == "force" or value in (None, ""):
            continue
        if name not in names:
            raise Invalid(f"Additional properties are not allowed ('{name}' was unexpected)")
        try:
            number = int(value)
        except ValueError:
            number = -2
        if not -1 <= number <= _MOST:
            raise checks.wrong(name, value, f"It must be a number from -1 to {_MOST}")
        found[name] = number
    return found


_ABSOLUTE = {
    "maxServerMeta": "metadata_items",
    "maxImageMeta": "metadata_items",
    "maxPersonality": "injected_files",
    "maxPersonalitySize": "injected_file_content_bytes",
    "maxTotalInstances": "instances",
    "maxTotalCores": "cores",
    "maxTotalRAMSize": "ram",
    "maxTotalKeypairs": "key_pairs",
    "maxTotalFloatingIps": "floating_ips",
    "maxSecurityGroups": "security_groups",
    "maxSecurityGroupRules": "security_group_rules",
    "maxServerGroups": "server_groups",
    "maxServerGroupMembers": "server_group_members",
}
_USED = {
    "totalRAMUsed": "ram",
    "totalCoresUsed": "cores",
    "totalInstancesUsed": "instances",
    "totalFloatingIpsUsed": "floating_ips",
    "totalSecurityGroupsUsed": "security_groups",
    "totalServerGroupsUsed": "server_groups",
}


class Limits(Resource[Record]):
    table = SERVERS  # it names no record
    rules: ClassVar[Mapping[str, str]] = {
        _LIMITS: "@",
        _LIMITS + ":other_project": "rule:context_is_admin",
    }

    @operation("GET", "/limits", _LIMITS)
    async def index(self, ctx: Context) -> dict[str, Any]:
        checks.known_only(ctx, ("tenant_id", "reserved"))
        project_id = ctx.caller.project_id
        if ctx.query.has("tenant_id"):
            project_id = ctx.query.get("tenant_id")
            ctx.require(_LIMITS + ":other_project")
        limit, used = await _in_force(ctx, project_id), await _used(ctx, project_id)
        names = shown(ctx)
        found = {
            name: limit[of]
            for name, of in _ABSOLUTE.items()
            if of in names and not (name == "maxImageMeta" and ctx.version >= (2, 39))
        }
        found |= {name: used[of] for name, of in _USED.items() if of in names}
        return {"limits": {"rate": [], "absolute": found}}

"""Lists of servers: filters as Nova has them, for members and for administrators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pileus.kernel.faults import Forbidden, Invalid
from pileus.kernel.query import TAG_FILTERS, Filter, Listing, Query, boolean, extended
from pileus.kernel.resources import Context
from pileus.kernel.store import Match, Page
from pileus.services.compute import checks
from pileus.services.compute.servers import states
from pileus.services.compute.settings import settings_of

ALL_FILTERS = "os_compute_api:servers:allow_all_filters"

# What anybody may filter by; the column is named where it differs.
_EVERYBODY = {
    "reservation_id": Filter(op="regex"),
    "name": Filter(op="regex"),
    "image": Filter("image_id"),
    "flavor": Filter("flavor_id"),
}
_SINCE_2_83 = {
    "availability_zone": Filter("zone", op="regex"),
    "key_name": Filter(op="regex"),
    "launched_at": Filter(op="regex"),
    "terminated_at": Filter(op="regex"),
    "power_state": Filter(kind=int),
    "task_state": Filter(),
    "vm_state": Filter(),
    "user_id": Filter(),
}
_ADMINISTRATORS = {
    **_SINCE_2_83,
    "image_ref": Filter("image_id"),
    "host": Filter(),
    "node": Filter("host", op="regex"),
    "project_id": Filter(),
    "tenant_id": Filter("project_id"),
    "hostname": Filter(op="regex"),
    "uuid": Filter("id"),
    "display_name": Filter("name", op="regex"),
    "display_description": Filter("description", op="regex"),
    "description": Filter(op="regex"),
    "access_ip_v4": Filter("access_ipv4", op="regex"),
    "access_ip_v6": Filter("access_ipv6", op="regex"),
    "launch_index": Filter(kind=int),
}
_SORTS = {
    "access_ip_v4": "access_ipv4",
    "access_ip_v6": "access_ipv6",
    "auto_disk_config": "disk_config",
    "availability_zone": "zone",
    "config_drive": "config_drive",
    "created_at": "created_at",
    "display_description": "description",
    "display_name": "name",
    "host": "host",
    "hostname": "hostname",
    "image_ref": "image_id",
    "instance_type_id": "flavor_id",
    "key_name": "key_name",
    "launch_index": "launch_index",
    "launched_at": "launched_at",
    "node": "host",
    "power_state": "power_state",
    "project_id": "project_id",
    "task_state": "task_state",
    "terminated_at": "terminated_at",
    "updated_at": "changed_at",
    "user_id": "user_id",
    "uuid": "id",
    "vm_state": "vm_state",
}
# Once columns of Nova's table: taken and ignored until 2.75.
_IGNORED_SORTS = frozenset(
    [
        "architecture",
        "cell_name",
        "cleaned",
        "default_ephemeral_device",
        "default_swap_device",
        "deleted",
        "deleted_at",
        "disable_terminate",
        "ephemeral_gb",
        "ephemeral_key_uuid",
        "id",
        "key_data",
        "kernel_id",
        "launched_on",
        "locked",
        "locked_by",
        "memory_mb",
        "os_type",
        "progress",
        "ramdisk_id",
        "reservation_id",
        "root_gb",
        "root_device_name",
        "shutdown_terminate",
        "user_data",
        "vcpus",
        "vm_mode",
    ]
)
_SPECIAL = [
    "status",
    "ip",
    "ip6",
    "changes-since",
    "changes-before",
    "all_tenants",
    "deleted",
    "locked",
    "config_drive",
    "created_at",
    "progress",
]
_REFUSED = frozenset(
    [
        "block_device_mapping",
        "services",
        "metadata",
        "system_metadata",
        "info_cache",
        "security_groups",
        "pci_devices",
    ]
)
_MEMBERS = Listing(_EVERYBODY, _SORTS)
_MEMBERS_2_83 = Listing({**_EVERYBODY, **_SINCE_2_83}, _SORTS)
_ALL = Listing({**_EVERYBODY, **_ADMINISTRATORS}, _SORTS)


def parse(ctx: Context, tenants_rule: str) -> Page | None:
    """What a list of servers is asked for, narrowed to what the caller may see; None: nothing matches.

    Raises Invalid, Forbidden.
    """
    everything = ctx.allows(ALL_FILTERS)
    known = {*_EVERYBODY, *_ADMINISTRATORS, *TAG_FILTERS, *_SPECIAL, *checks.PAGING}
    checks.known_only(ctx, known)
    for key, value in ctx.query.pairs:
        if key in _REFUSED or key.startswith("_"):
            raise Invalid(f"Invalid filter field: {key}.")
        declared = _ALL.filters.get(key)
        if declared is not None and declared.op == "regex":
            checks.regex(value, key)
    listing = _ALL if everything else _MEMBERS_2_83 if ctx.version >= (2, 83) else _MEMBERS
    _check_sorts(ctx)
    if ctx.query.get("limit") == "0":
        return None
    asked = listing.parse(_sortable(ctx.query), **_tenant(ctx, tenants_rule))
    page = _by_status(ctx, _without_kept(ctx, _by_deletion(ctx, asked, everything)))
    if page is None:
        return None
    page = checks.changed_between(ctx, page) if _has_changes_before(ctx) else page
    return _by_rest(ctx, page, everything)


def _has_changes_before(ctx: Context) -> bool:
    if ctx.query.has("changes-before") and ctx.version < (2, 66):
        ctx.query.pairs = [p for p in ctx.query.pairs if p[0] != "changes-before"]
    return ctx.query.has("changes-since") or ctx.query.has("changes-before")


def _tenant(ctx: Context, rule: str) -> dict[str, Any]:
    """The caller's own project, or by the rule everybody's."""
    if ctx.query.flag("all_tenants"):
        ctx.require(rule)
        return {}
    return {"project_id": ctx.caller.project_id}


def _check_sorts(ctx: Context) -> None:
    for key in ctx.query.all("sort_key"):
        if key in ("host", "node") and not ctx.caller.is_admin:
            raise Forbidden(f"Only administrators can sort servers by {key}")
        if key in _IGNORED_SORTS and ctx.version >= (2, 75) and key != "locked":
            raise checks.wrong("sort_key", key, f"{key!r} is not one of {sorted(_SORTS)}")


def _sortable(query: Query) -> Query:
    """Without the sort keys that are ignored, and without the directions that belong to them."""
    keys, dirs = query.all("sort_key"), query.all("sort_dir")
    if not any(k in _IGNORED_SORTS for k in keys):
        return query
    kept = Query("")
    kept.pairs = [p for p in query.pairs if p[0] not in ("sort_key", "sort_dir")]
    for n, key in enumerate(keys):
        column = "locked" if key == "locked" else ""
        if key in _IGNORED_SORTS and not column:
            continue
        kept.pairs.append(("sort_key", key))
        if n < len(dirs):
            kept.pairs.append(("sort_dir", dirs[n]))
    return kept


def _by_deletion(ctx: Context, page: Page, everything: bool) -> Page:
    """Deleted servers show with `changes-since`, and to administrators who ask for them."""
    deleted: bool | None = False
    if everything and ctx.query.has("deleted"):
        deleted = ctx.query.get("deleted").lower() in ("1", "true", "t", "yes", "y", "on")
    elif ctx.query.has("changes-since") or ctx.query.has("changes-before"):
        deleted = None
    return replace(page, deleted=deleted)


def _without_kept(ctx: Context, page: Page) -> Page:
    """What was deleted and is only kept shows where it is asked for by its state."""
    named = "vm_state" in page.filters or ctx.query.has("status")
    if settings_of(ctx.runtime).reclaim_s == 0 or named or page.deleted:
        return page
    return extended(page, vm_state=Match("ne", states.SOFT_DELETED))


def _by_status(ctx: Context, page: Page) -> Page | None:
    if not ctx.query.has("status"):
        return page
    vm_states, task_states, known = states.states_of(ctx.query.all("status"))
    if not known and not vm_states:
        if ctx.version >= (2, 38):
            raise Invalid("Invalid status value")
        return None
    if vm_states == [states.DELETED]:
        if not ctx.caller.is_admin:
            raise Forbidden("Only administrators may list deleted instances")
        return replace(page, deleted=True)
    # One state is a place in the index, several are looked at one by one.
    more: dict[str, Any] = {"vm_state": vm_states if vm_states[1:] else "".join(vm_states)}
    if task_states:
        more["task_state"] = task_states
    return replace(page, filters={**page.filters, **more}) if vm_states else None


def _by_rest(ctx: Context, page: Page, everything: bool) -> Page:
    query, more = ctx.query, dict[str, Any]()
    if query.has("ip"):
        more["addresses4"] = Match("regex", _within(checks.regex(query.get("ip"), "ip")))
    if query.has("ip6") and (everything or ctx.version >= (2, 5)):
        more["addresses6"] = Match("regex", _within(checks.regex(query.get("ip6"), "ip6")))
    if query.has("locked") and (everything or ctx.version >= (2, 73)):
        more["locked"] = int(boolean(query.get("locked"), "locked"))
    if query.has("config_drive") and (everything or ctx.version >= (2, 83)):
        more["config_drive"] = int(boolean(query.get("config_drive") or "false", "config_drive"))
    return _by_tags(ctx, replace(page, filters={**page.filters, **more}) if more else page)


def _by_tags(ctx: Context, page: Page) -> Page:
    """At most two of the four tag filters at once: one is a filter, the other the only alternative."""
    asked = [n for n in TAG_FILTERS if ctx.query.has(n)] if ctx.version >= (2, 26) else []
    if len(asked) > 2:
        raise Invalid(f"At most two tag filters can be combined, not {', '.join(asked)}.")
    found = [TAG_FILTERS[name].value(name, ctx.query.all(name)) for name in asked]
    if found:
        page = replace(page, filters={**page.filters, "tags": found[0]})
    if found[1:]:
        page = replace(page, scopes=({**dict(*page.scopes), "tags": found[1]},))
    return page


def _within(pattern: str) -> str:
    """Addresses stand between spaces: an anchor means the end of one, not of all."""
    if pattern.startswith("^"):
        pattern = " " + pattern[1:]
    return pattern[:-1] + " " if pattern.endswith("$") else pattern

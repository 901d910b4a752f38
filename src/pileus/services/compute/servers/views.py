"""What clients see of a server: one Struct, whose fields come and go with the microversion.

Rendered servers are remembered by what they depend on: the record's generation, the view's epoch, what the caller may
see, and the URL he came by.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType, field

from pileus.kernel.resources import Context
from pileus.kernel.runtime import Runtime
from pileus.kernel.schema import since, trim
from pileus.services.compute import checks
from pileus.services.compute.server import Server, host_id
from pileus.services.compute.servers.states import BUILDING, status_of

_PROGRESS = frozenset(("ACTIVE", "BUILD"))
_FAULTY = frozenset(("ERROR", "DELETED"))
_REMEMBERED = 3_000  # servers
_LOOKS = 8  # of one server
_encode = msgspec.json.Encoder().encode

EXTENDED = "os_compute_api:os-extended-server-attributes"
SPECS = "os_compute_api:servers:show:flavor-extra-specs"
HOST_STATUS = "os_compute_api:servers:show:host_status"
UNKNOWN_ONLY = HOST_STATUS + ":unknown-only"

Link = dict[str, str]
Look = tuple[object, ...]
_NEVER: tuple[int, dict[Look, bytes]] = (-1, {})


def _ext(name: str, default: Any = UNSET) -> Any:
    return field(default=default, name=name)


class ServerView(msgspec.Struct, kw_only=True):
    """Everything about a server, at any version."""

    id: str
    name: str
    status: str
    tenant_id: str
    user_id: str
    metadata: dict[str, str]
    hostId: str
    image: dict[str, Any] | str
    flavor: dict[str, Any]
    created: str
    updated: str
    addresses: dict[str, list[dict[str, Any]]]
    accessIPv4: str
    accessIPv6: str
    links: list[Link]
    disk_config: str = _ext("OS-DCF:diskConfig")
    progress: int | UnsetType = UNSET
    fault: dict[str, Any] | UnsetType = UNSET
    zone: str | UnsetType = _ext("OS-EXT-AZ:availability_zone")
    config_drive: str | UnsetType = UNSET
    key_name: str | UnsetType | None = UNSET
    launched_at: str | UnsetType | None = _ext("OS-SRV-USG:launched_at")
    terminated_at: str | UnsetType | None = _ext("OS-SRV-USG:terminated_at")
    security_groups: list[dict[str, str]] | UnsetType = UNSET
    task_state: str | UnsetType | None = _ext("OS-EXT-STS:task_state")
    vm_state: str | UnsetType = _ext("OS-EXT-STS:vm_state")
    power_state: int | UnsetType = _ext("OS-EXT-STS:power_state")
    volumes_attached: list[dict[str, Any]] | UnsetType = _ext(
        "os-extended-volumes:volumes_attached"
    )
    host: str | UnsetType | None = _ext("OS-EXT-SRV-ATTR:host")
    instance_name: str | UnsetType = _ext("OS-EXT-SRV-ATTR:instance_name")
    node: str | UnsetType | None = _ext("OS-EXT-SRV-ATTR:hypervisor_hostname")
    hostname: Annotated[str | UnsetType, since("2.3")] = _ext("OS-EXT-SRV-ATTR:hostname")
    reservation_id: Annotated[str | UnsetType, since("2.3")] = _ext(
        "OS-EXT-SRV-ATTR:reservation_id"
    )
    launch_index: Annotated[int | UnsetType, since("2.3")] = _ext("OS-EXT-SRV-ATTR:launch_index")
    kernel_id: Annotated[str | UnsetType, since("2.3")] = _ext("OS-EXT-SRV-ATTR:kernel_id")
    ramdisk_id: Annotated[str | UnsetType, since("2.3")] = _ext("OS-EXT-SRV-ATTR:ramdisk_id")
    root_device_name: Annotated[str | UnsetType, since("2.3")] = _ext(
        "OS-EXT-SRV-ATTR:root_device_name"
    )
    user_data: Annotated[str | UnsetType | None, since("2.3")] = _ext("OS-EXT-SRV-ATTR:user_data")
    locked: Annotated[bool | UnsetType, since("2.9")] = UNSET
    host_status: Annotated[str | UnsetType, since("2.16")] = UNSET
    description: Annotated[str | UnsetType | None, since("2.19")] = UNSET
    tags: Annotated[list[str] | UnsetType, since("2.26")] = UNSET
    trusted_image_certificates: Annotated[UnsetType | None, since("2.63")] = UNSET
    server_groups: Annotated[list[str] | UnsetType, since("2.71")] = UNSET
    locked_reason: Annotated[str | UnsetType | None, since("2.73")] = UNSET
    hostname_for_all: Annotated[str | UnsetType, since("2.90")] = UNSET  # moved by `_fit`
    pinned_zone: Annotated[str | UnsetType | None, since("2.96")] = _ext("pinned_availability_zone")
    scheduler_hints: Annotated[dict[str, Any] | UnsetType, since("2.100")] = UNSET


class Sight(NamedTuple):
    """What the caller may see of servers. `single`: GET of one shows what a list does not."""

    extended: bool
    specs: bool
    host_status: bool
    unknown_only: bool
    admin: bool
    single: bool = False


def sight(ctx: Context, target: dict[str, object] | None = None, *, single: bool = False) -> Sight:
    """By the rules of each attribute; `target` is a server's owner, the caller's own project in lists."""
    host_status = ctx.allows(HOST_STATUS, target)
    return Sight(
        extended=ctx.allows(EXTENDED, target),
        specs=ctx.allows(SPECS, target),
        host_status=host_status,
        unknown_only=host_status or ctx.allows(UNKNOWN_ONLY, target),
        admin=ctx.caller.is_admin,
        single=single,
    )


def host_status_for(seen: Sight, status: str) -> str:
    """What the caller may know of the host: all, only that it is UNKNOWN, or "" for nothing."""
    if seen.host_status or (seen.unknown_only and status == "UNKNOWN"):
        return status
    return ""


def brief(ctx: Context, s: Server) -> dict[str, Any]:
    """A server in a list without details."""
    return {"id": s.id, "name": s.name, "links": checks.links(ctx, "servers", s)}


def addresses(s: Server, *, extended: bool = True) -> dict[str, list[dict[str, Any]]]:
    """By network; fixed ones first, then floating ones. `extended` tells kind and MAC too."""
    found: dict[str, list[dict[str, Any]]] = {}
    floating: dict[str, list[dict[str, Any]]] = {}
    for nic in s.nics:
        here = found.setdefault(nic.network_name, [])
        for ip in nic.fixed_ips:
            here.append(_address(ip.version, ip.ip_address, "fixed", nic.mac, extended))
            if public := nic.floating_ips.get(ip.ip_address):
                one = _address(4, public, "floating", nic.mac, extended)
                floating.setdefault(nic.network_name, []).append(one)
    for network, more in floating.items():
        found[network] += more
    return found


def _address(version: int, addr: str, kind: str, mac: str, extended: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"version": version, "addr": addr}
    if extended:
        found |= {"OS-EXT-IPS:type": kind, "OS-EXT-IPS-MAC:mac_addr": mac}
    return found


def groups_of(s: Server) -> list[str]:
    return [s.group] if s.group else []


def second(text: str) -> str:
    """`2026-11-26T12:00:00Z`"""
    return text[:19] + "Z"


def _micro(text: str) -> str | None:
    return text.removesuffix("Z") or None


def instance_name(s: Server) -> str:
    """What the hypervisor calls it."""
    return f"instance-{s.id[:8]}"


def full(ctx: Context, s: Server, seen: Sight, host_status: str = "") -> ServerView:
    """The view of GET at the request's version."""
    view = ServerView(
        id=s.id,
        name=s.name,
        status="DELETED" if s.deleted_at else status_of(s.vm_state, s.task_state),
        tenant_id=s.project_id,
        user_id=s.user_id,
        metadata=s.metadata,
        hostId=host_id(s.project_id, s.host),
        image=_image(ctx, s),
        flavor=_flavor(ctx, s, seen),
        created=second(s.created_at),
        updated=second(s.deleted_at or s.updated_at or s.created_at),
        addresses={} if s.vm_state == BUILDING else addresses(s),
        accessIPv4=s.access_ipv4,
        accessIPv6=s.access_ipv6,
        links=checks.links(ctx, "servers", s),
        disk_config=s.disk_config,
        zone=s.zone or s.pinned_zone,
        config_drive="True" if s.config_drive else "",
        key_name=s.key_name or None,
        launched_at=_micro(s.launched_at),
        terminated_at=_micro(s.terminated_at),
        task_state=s.task_state or None,
        vm_state="deleted" if s.deleted_at else s.vm_state,
        power_state=s.power_state,
        volumes_attached=_volumes(ctx, s),
        locked=bool(s.locked_by),
        host_status=host_status or UNSET,
        description=s.description,
        tags=s.tags,
        trusted_image_certificates=None,
        server_groups=groups_of(s) if seen.single else UNSET,
        locked_reason=s.locked_reason,
        pinned_zone=s.pinned_zone or None,
        scheduler_hints=s.scheduler_hints,
    )
    _add_state(view, s, seen)
    _add_extended(view, s, seen)
    return _fit(view, ctx, s)


def _add_state(view: ServerView, s: Server, seen: Sight) -> None:
    if view.status in _PROGRESS:
        view.progress = 0
    groups = list(dict.fromkeys(g for nic in s.nics for g in nic.security_groups))
    if groups:
        view.security_groups = [{"name": g} for g in groups]
    if view.status in _FAULTY and s.fault is not None:
        fault = {
            "code": s.fault.code,
            "created": second(s.fault.created),
            "message": s.fault.message,
        }
        if s.fault.details and seen.admin:
            fault["details"] = s.fault.details
        view.fault = fault


def _add_extended(view: ServerView, s: Server, seen: Sight) -> None:
    view.hostname_for_all = s.hostname
    if not seen.extended:
        return
    view.host = view.node = s.host or None
    view.instance_name = instance_name(s)
    view.hostname = s.hostname
    view.reservation_id = s.reservation_id
    view.launch_index = s.launch_index
    view.kernel_id = view.ramdisk_id = ""
    view.root_device_name = s.root_device
    view.user_data = s.user_data or None


def _fit(view: ServerView, ctx: Context, s: Server) -> ServerView:
    """Takes away what is of other versions; the host name is everybody's since 2.90."""
    trim(view, ctx.version)
    if view.hostname_for_all is not UNSET:
        view.hostname, view.hostname_for_all = s.hostname, UNSET
    return view


def _image(ctx: Context, s: Server) -> dict[str, Any] | str:
    if s.image is None or not s.image.id:
        return ""
    bookmark = f"{ctx.root}{ctx.service.prefix}/images/{s.image.id}"
    found: dict[str, Any] = {"id": s.image.id, "links": [{"rel": "bookmark", "href": bookmark}]}
    if ctx.version >= (2, 98):
        found["properties"] = s.image.properties
    return found


def _volumes(ctx: Context, s: Server) -> list[dict[str, Any]]:
    if ctx.version < (2, 3):
        return [{"id": d.volume_id} for d in s.volumes]
    return [
        {"id": d.volume_id, "delete_on_termination": d.delete_on_termination} for d in s.volumes
    ]


def _flavor(ctx: Context, s: Server, seen: Sight) -> dict[str, Any]:
    f = s.flavor
    if ctx.version < (2, 47):
        bookmark = f"{ctx.root}{ctx.service.prefix}/flavors/{f.id}"
        return {"id": f.id, "links": [{"rel": "bookmark", "href": bookmark}]}
    found: dict[str, Any] = {
        "vcpus": f.vcpus,
        "ram": f.ram,
        "disk": f.disk,
        "ephemeral": f.ephemeral,
        "swap": f.swap,
        "original_name": f.name,
    }
    if seen.specs:
        found["extra_specs"] = f.extra_specs
    return found


_NOT_IN_PUT = [
    "zone",
    "config_drive",
    "key_name",
    "launched_at",
    "terminated_at",
    "security_groups",
    "task_state",
    "vm_state",
    "power_state",
    "volumes_attached",
    "host",
    "instance_name",
    "node",
    "hostname",
    "reservation_id",
    "launch_index",
    "kernel_id",
    "ramdisk_id",
    "root_device_name",
    "user_data",
    "host_status",
    "server_groups",
    "pinned_zone",
]


def updated(ctx: Context, s: Server, seen: Sight, host_status: str) -> ServerView:
    """The answer to PUT: less than GET's until 2.75."""
    view = full(ctx, s, seen, host_status)
    if ctx.version < (2, 75):
        for name in _NOT_IN_PUT:
            setattr(view, name, UNSET)
        view.addresses = {} if s.vm_state == BUILDING else addresses(s, extended=False)
    return view


class Fragments:
    """Rendered servers of one cloud: of each its present generation's, of at most so many servers."""

    def __init__(self) -> None:
        self._runtime: Runtime | None = None
        self._known: dict[str, tuple[int, dict[Look, bytes]]] = {}

    def find(self, ctx: Context, id: str, generation: int, look: Look) -> bytes | None:
        if self._runtime is not ctx.runtime:
            self._runtime, self._known = ctx.runtime, {}
        of, looks = self._known.get(id, _NEVER)
        return looks.get(look) if of == generation else None

    def keep(self, id: str, generation: int, look: Look, view: ServerView) -> bytes:
        of, looks = self._known.get(id, _NEVER)
        if of != generation:
            looks = {}
            self._known[id] = (generation, looks)
            if len(self._known) > _REMEMBERED:
                del self._known[next(iter(self._known))]  # the one first rendered
        found = looks[look] = _encode(view)
        if len(looks) > _LOOKS:
            del looks[next(iter(looks))]
        return found


FRAGMENTS = Fragments()


def look_of(ctx: Context, seen: Sight, status: str) -> Look:
    """All that a rendered server depends on besides itself."""
    return (ctx.at.epoch, seen, status, ctx.root)


def rendered(ctx: Context, s: Server, seen: Sight, host_status: str) -> bytes:
    """The server's JSON."""
    look = look_of(ctx, seen, host_status)
    return FRAGMENTS.find(ctx, s.id, s.generation, look) or FRAGMENTS.keep(
        s.id, s.generation, look, full(ctx, s, seen, host_status)
    )

"""Packet logs: decisions of security groups, written to the log of the host that took them (API reference: logging)."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Invalid
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context, Resource, operation

from .attributes import Attributes, changes_of
from .packet_log import ACCEPT, ALL, DROP, PACKET_LOGS, SECURITY_GROUP, PacketLog
from .plain import Plain
from .port import PORTS, port_target
from .refusals import bad_input, missing
from .resource import MANAGER, kept_by, listing, moment
from .security_group import GROUPS
from .wiring import hosts_of_groups, hosts_of_ports, hosts_of_projects, wake

_EVENTS = (ACCEPT, DROP, ALL)
_SHOWN = (
    "id",
    "project_id",
    "name",
    "description",
    "resource_type",
    "event",
    "enabled",
    "revision_number",
)


class CreateLog(Attributes):
    root: ClassVar[str] = "log"
    plural: ClassVar[str] = "logs"
    fixed = frozenset({"id", "created_at", "updated_at", "revision_number"})

    resource_type: str
    name: str = ""
    description: str = ""
    resource_id: str | None = None
    target_id: str | None = None
    event: str = ALL
    enabled: bool = True
    project_id: str | UnsetType = UNSET


class PacketLogs(
    Plain[PacketLog],
    path="/log/logs",
    create=CreateLog,
    update=changes_of(CreateLog, "resource_type", "resource_id", "target_id", "event"),
):
    table = PACKET_LOGS
    noun = "log"
    plural = "logs"
    id_param = "log_id"
    see = "get_log"
    rules = kept_by(MANAGER, noun, readers=MANAGER)
    listing = listing(
        ("resource_type", "resource_id", "target_id", "event"), False, enabled=Filter(kind=bool)
    )

    def view(self, ctx: Context, record: PacketLog) -> dict[str, Any]:
        shown = {n: getattr(record, n) for n in _SHOWN}
        return shown | {
            "tenant_id": record.project_id,
            "resource_id": record.resource_id or None,
            "target_id": record.target_id or None,
            "created_at": moment(record.created_at),
            "updated_at": moment(record.updated_at or record.created_at),
        }

    async def checked(
        self, ctx: Context, given: dict[str, Any], old: PacketLog | None
    ) -> dict[str, Any]:
        if old is not None:
            return given
        if given["resource_type"] != SECURITY_GROUP:
            raise bad_input(
                f"Invalid log resource_type: {given['resource_type'][:64]}; it must be {SECURITY_GROUP}",
                "InvalidLogResourceType",
            )
        if given.get("event", ALL) not in _EVENTS:
            raise Invalid(
                f"Invalid input for event. Reason: '{given['event'][:40]}' is not in {list(_EVENTS)}."
            )
        await _judge(ctx, given.get("resource_id", ""), given.get("target_id", ""))
        return given

    async def changed(self, ctx: Context, *records: PacketLog) -> None:
        """Wakes the hosts of the ports that the logs are of."""
        store = ctx.runtime.store
        for record in {r.id: r for r in records}.values():
            if record.target_id:
                hosts = await hosts_of_ports(store, [record.target_id])
            elif record.resource_id:
                hosts = await hosts_of_groups(store, [record.resource_id])
            else:
                hosts = await hosts_of_projects(store, [record.project_id])
            await wake(ctx.runtime, hosts)


async def _judge(ctx: Context, group_id: str, port_id: str) -> None:
    """What a log is of must be the caller's. Raises NotFound, Invalid."""
    store = ctx.runtime.store
    if group_id:
        group = await GROUPS.find(store, group_id)
        if group is None or not ctx.allows(_OF, {"project_id": group.project_id}):
            raise missing("ResourceNotFound", f"Resource {group_id} could not be found.")
    port = await PORTS.find(store, port_id) if port_id else None
    if port_id and (port is None or not ctx.allows(_OF, port_target(port))):
        raise missing("TargetResourceNotFound", f"Target resource {port_id} could not be found.")
    if group_id and port is not None and group_id not in port.security_groups:
        raise bad_input(
            f"Invalid resource constraint between resource (security_group {group_id}) and target "
            f"resource (port {port_id}): the port is not in the group",
            "InvalidResourceConstraint",
        )


_OF = "create_log"


class LoggableResources(Resource[Any]):
    rules = {"get_loggable_resource": MANAGER}

    @operation("GET", "/log/loggable-resources", "get_loggable_resource")
    async def index(self, ctx: Context) -> Any:
        return {"loggable_resources": [{"type": SECURITY_GROUP}]}

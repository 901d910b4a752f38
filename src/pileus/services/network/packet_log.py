"""What a packet log is: which decisions of security groups are written down, and of which ports."""

from __future__ import annotations

from pileus.kernel.store import Tx

from .resource import COLUMNS, Noun, Nouns

ACCEPT, DROP, ALL = "ACCEPT", "DROP", "ALL"
SECURITY_GROUP = "security_group"


class PacketLog(Noun, kw_only=True, frozen=True):
    """`resource_id` is a security group, `target_id` a port; "" means every one of the project."""

    resource_type: str
    resource_id: str = ""
    target_id: str = ""
    event: str = ALL
    enabled: bool = True


PACKET_LOGS = Nouns[PacketLog](
    "network_packet_logs",
    PacketLog,
    columns=(*COLUMNS, "resource_type", "resource_id", "target_id", "event", "enabled"),
    indexes=(("project_id", "created_at", "id"), ("resource_id",), ("target_id",)),
    noun="Log",
).worded("LogResourceNotFound", "Log resource {id} could not be found.")


async def drop_logs(tx: Tx, **of: str) -> None:
    """Logs go with the group or the port that they are of."""
    for record in await PACKET_LOGS.all(tx, **of):
        await PACKET_LOGS.delete(tx, record)

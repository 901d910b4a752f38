"""The snapshot as it is kept."""

from __future__ import annotations

from pileus.kernel.quota import Quota
from pileus.kernel.store import Many, Page, Reader, Record, Table

from .volume import BY_TYPE, SERVICE, pairs


class Snapshot(Record, kw_only=True, frozen=True):
    """`size` in GiB and `volume_type_id` are its volume's at that time."""

    project_id: str
    user_id: str
    volume_id: str
    size: int
    volume_type_id: str = ""
    status: str = "creating"
    name: str | None = None
    description: str | None = None
    metadata: dict[str, str] = {}
    group_snapshot_id: str | None = None
    backend_id: str = ""
    progress: str = ""  # as a hypervisor said it that helps


SNAPSHOTS = Table(
    "block_storage_snapshots",
    Snapshot,
    columns=("project_id", "user_id", "volume_id", "status", "name", "size", "group_snapshot_id"),
    indexes=(("project_id", "created_at", "id"), ("volume_id",)),
    many=(Many("metadata", lambda s: pairs(s.metadata)),),
    quotas=(
        Quota(SERVICE, "snapshots", 10),
        Quota(SERVICE, "gigabytes", 1000, of=lambda s: s.size),
        Quota(
            BY_TYPE,
            "snapshots",
            of=lambda s: bool(s.volume_type_id),
            project=lambda s: f"{s.project_id}/{s.volume_type_id}",
        ),
        Quota(
            BY_TYPE,
            "gigabytes",
            of=lambda s: s.size if s.volume_type_id else 0,
            project=lambda s: f"{s.project_id}/{s.volume_type_id}",
        ),
    ),
    noun="Snapshot",
)


async def count_of(db: Reader, volume_id: str) -> int:
    """How many snapshots a volume has."""
    return await SNAPSHOTS.count(db, Page({"volume_id": volume_id}))


def backend_name(snapshot: Snapshot) -> str:
    return snapshot.backend_id or snapshot.id

"""The group as it is kept: volumes of which snapshots are taken together; and what kinds of group there are."""

from __future__ import annotations

from pileus.kernel.quota import Quota
from pileus.kernel.store import Record, Table, Unique

from .volume import SERVICE


class GroupType(Record, kw_only=True, frozen=True):
    name: str
    description: str | None = None
    is_public: bool = True
    group_specs: dict[str, str] = {}


GROUP_TYPES = Table(
    "block_storage_group_types",
    GroupType,
    columns=("name", "is_public"),
    unique=(Unique(("name",), lambda t: f"Group Type {t.name} already exists."),),
    noun="Group type",
)


class Group(Record, kw_only=True, frozen=True):
    """`volume_types` are those that its volumes may have."""

    project_id: str
    user_id: str
    group_type_id: str
    volume_types: tuple[str, ...]
    name: str | None = None
    description: str | None = None
    zone: str = "nova"
    status: str = "available"
    group_snapshot_id: str | None = None
    source_group_id: str | None = None
    is_consistent: bool = False  # known by the older name, consistency group, alone


GROUPS = Table(
    "block_storage_groups",
    Group,
    columns=("project_id", "name", "status", "group_type_id", "is_consistent"),
    indexes=(("project_id", "created_at", "id"),),
    quotas=(Quota(SERVICE, "groups", 10),),
    noun="Group",
)


class GroupSnapshot(Record, kw_only=True, frozen=True):
    project_id: str
    user_id: str
    group_id: str
    group_type_id: str
    name: str | None = None
    description: str | None = None
    status: str = "available"
    is_consistent: bool = False


GROUP_SNAPSHOTS = Table(
    "block_storage_group_snapshots",
    GroupSnapshot,
    columns=("project_id", "group_id", "name", "status", "is_consistent"),
    indexes=(("project_id", "created_at", "id"),),
    noun="GroupSnapshot",
)

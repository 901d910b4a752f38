"""The backup as it is kept: bytes of a volume that control keeps, wherever the volume goes.

The file of a backup is named by the first backup that it was written for; an imported one shares it.
"""

from __future__ import annotations

from pileus.kernel.quota import Quota
from pileus.kernel.store import Record, Table

from .volume import SERVICE


class Backup(Record, kw_only=True, frozen=True):
    """`size` in GiB is its volume's, `stored` in bytes. `into`: the volume that it is being restored to.

    It has the key of an encrypted volume, which may be gone when it is restored. One that is not whole has what changed
    since its parent.
    """

    project_id: str
    user_id: str
    volume_id: str
    size: int
    file: str
    status: str = "creating"
    name: str | None = None
    description: str | None = None
    container: str | None = None
    snapshot_id: str | None = None
    parent_id: str | None = None
    zone: str = "nova"
    metadata: dict[str, str] = {}
    stored: int = 0
    into: str = ""
    fail_reason: str | None = None
    data_timestamp: str = ""
    encryption_key_id: str = ""
    sealed: str = ""
    is_whole: bool = True


BACKUPS = Table(
    "block_storage_backups",
    Backup,
    columns=("project_id", "volume_id", "name", "status", "size", "file", "parent_id"),
    indexes=(("project_id", "created_at", "id"), ("volume_id",), ("parent_id",)),
    quotas=(
        Quota(SERVICE, "backups", 10),
        Quota(SERVICE, "backup_gigabytes", 1000, of=lambda b: b.size),
    ),
    noun="Backup",
)

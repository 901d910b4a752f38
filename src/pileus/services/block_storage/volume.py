"""The volume as it is kept. https://docs.openstack.org/api-ref/block-storage/v3/#volumes-volumes"""

from __future__ import annotations

from pileus.kernel.quota import Quota
from pileus.kernel.store import Column, Many, Record, Table

SERVICE = "block-storage"
BY_TYPE, BY_HOST = SERVICE + ".types", SERVICE + ".hosts"  # usage by other owners than projects
PER_VOLUME = "per_volume_gigabytes"


class Volume(Record, kw_only=True, frozen=True):
    """`size` in GiB; `status` and `task`: see `states`. `host` and its `pool` are where it lies, "" before that is known.

    `backend_id` is its name there, `next_id` where it moves to. `image_metadata` is what its image said of guests, None without an image.
    `sealed` is the passphrase of an encrypted one, as `identity`'s SECRETS sealed it.
    """

    project_id: str
    user_id: str
    size: int
    status: str = "creating"
    task: str = ""
    name: str | None = None
    description: str | None = None
    zone: str = "nova"
    volume_type_id: str = ""
    host: str = ""
    pool: str = ""  # of earlier versions the only one that its host had
    backend_id: str = ""
    next_id: str = ""
    snapshot_id: str | None = None
    source_volid: str | None = None
    image_id: str = ""
    backup_id: str | None = None
    metadata: dict[str, str] = {}
    image_metadata: dict[str, str] | None = None
    is_bootable: bool = False
    is_read_only: bool | None = None
    is_multiattach: bool = False
    encryption_key_id: str = ""
    sealed: str = ""
    group_id: str | None = None
    is_consistent: bool = False  # in a group that is known as a consistency group
    migration_status: str | None = None
    moves_as: str = ""  # what the API calls it while it moves, "" is what it was
    wanted_host: str = ""  # the place that a hint named

    @property
    def shown(self) -> str:
        """The API's status."""
        return {"managing": "creating"}.get(self.task, self.task) or self.status


def backend_of(volume: Volume) -> str:
    """Its name at its host."""
    return volume.backend_id or volume.id


def back_end_of(volume: Volume) -> str:
    """`host@backend`, or the host."""
    return f"{volume.host}@{volume.pool}" if volume.pool else volume.host


def pairs(values: dict[str, str] | None) -> list[str]:
    return sorted(f"{k}={v}" for k, v in (values or {}).items())


VOLUMES = Table(
    "block_storage_volumes",
    Volume,
    columns=(
        "project_id",
        "user_id",
        "name",
        "size",
        Column("status", lambda v: v.shown),
        "zone",
        "volume_type_id",
        "host",
        "group_id",
        "source_volid",
        "snapshot_id",
        "migration_status",
        "is_bootable",
        "is_multiattach",
    ),
    indexes=(("project_id", "created_at", "id"), ("host",), ("group_id",), ("volume_type_id",)),
    many=(
        Many("metadata", lambda v: pairs(v.metadata)),
        Many("image_metadata", lambda v: pairs(v.image_metadata)),
    ),
    quotas=(
        Quota(SERVICE, "volumes", 10),
        Quota(SERVICE, "gigabytes", 1000, of=lambda v: v.size),
        Quota(BY_TYPE, "volumes", project=lambda v: f"{v.project_id}/{v.volume_type_id}"),
        Quota(
            BY_TYPE,
            "gigabytes",
            of=lambda v: v.size,
            project=lambda v: f"{v.project_id}/{v.volume_type_id}",
        ),
        Quota(BY_HOST, "gigabytes", of=lambda v: v.size if v.host else 0, project=back_end_of),
    ),
    noun="Volume",
)

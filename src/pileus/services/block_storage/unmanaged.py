"""What hosts have that was ours, or that we were told to forget: kept on, and there to be managed again."""

from __future__ import annotations

from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Record, Table

from .scheduling import Pool


class Unmanaged(Record, kw_only=True, frozen=True):
    """The id is its name at the host. `of`: the volume that a snapshot is of, "" for a volume."""

    host: str
    pool: str = ""
    size: int
    of: str = ""


UNMANAGED = Table("block_storage_unmanaged", Unmanaged, columns=("host", "of"))


async def unmanaged_in(runtime: Runtime, pool: Pool) -> dict[str, int]:
    """Volumes' sizes in GiB by name."""
    rows = await UNMANAGED.all(runtime.store, host=pool.host, of="")
    return {r.id: r.size for r in rows if r.pool in ("", pool.name)}

"""What hosts have that was ours, or that we were told to forget: kept on, and there to be managed again."""

from __future__ import annotations

from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Record, Table


class Unmanaged(Record, kw_only=True, frozen=True):
    """The id is its name at the host. `of`: the volume that a snapshot is of, "" for a volume."""

    host: str
    size: int
    of: str = ""


UNMANAGED = Table("block_storage_unmanaged", Unmanaged, columns=("host", "of"))


async def unmanaged_on(runtime: Runtime, host: str, kind: str) -> dict[str, int]:
    """Sizes in GiB by name. `kind` is volume or snapshot."""
    rows = await UNMANAGED.all(runtime.store, host=host)
    return {r.id: r.size for r in rows if bool(r.of) == (kind == "snapshot")}

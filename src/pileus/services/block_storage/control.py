"""Control's ear for hosts of volumes."""

from __future__ import annotations

from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Page

from .states import MIGRATING
from .unmanaged import UNMANAGED
from .volume import VOLUMES, backend_of


class KeptVolumes:
    """Keeps VOLUME_CONTROL."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    async def keep(self, host: str, ids: list[str]) -> list[str]:
        await self.runtime.store.visible()
        store, every = self.runtime.store, 1_000_000
        records = await VOLUMES.list(store, Page({"host": host}, limit=every))
        records += await VOLUMES.list(store, Page({"status": MIGRATING}, limit=every))
        known = {name for v in records for name in (backend_of(v), v.next_id)}
        known.update(u.id for u in await UNMANAGED.all(self.runtime.store, host=host))
        return [id for id in ids if id in known]

"""What comes to its end by itself: shelved servers leave their host, deleted ones that nobody restored go."""

from __future__ import annotations

from pileus.kernel.runtime import Runtime
from pileus.kernel.sagas import Saga
from pileus.kernel.store import Page
from pileus.kernel.world import stamp
from pileus.services.compute.server import SERVERS, Server
from pileus.services.compute.servers import states
from pileus.services.compute.servers.sagas import DELETE
from pileus.services.compute.servers.shelving import SHELVE_OFFLOAD
from pileus.services.compute.settings import settings_of

PERIOD_S = 60.0


async def end_what_is_due(runtime: Runtime, key: str) -> None:
    """Asks the table only where a time is set: most clouds leave hosts at once and keep nothing."""
    settings = settings_of(runtime)
    if settings.shelved_offload_s > 0:
        await _end(runtime, states.SHELVED, settings.shelved_offload_s, SHELVE_OFFLOAD)
    if settings.reclaim_s > 0:
        await _end(runtime, states.SOFT_DELETED, settings.reclaim_s, DELETE)


async def _end(runtime: Runtime, state: str, after_s: int, saga: Saga[Server]) -> None:
    before = stamp(runtime.world.clock.time() - after_s)
    page = Page({"vm_state": state, "task_state": ""}, limit=1_000_000)
    due = [s.id for s in await SERVERS.list(runtime.store, page) if s.kept_since <= before]
    for id in due:
        async with runtime.store.tx() as tx:
            fresh = await SERVERS.find(tx, id)
            if fresh is None or (fresh.vm_state, fresh.task_state) != (state, ""):
                continue  # somebody was faster
            _, entry = await runtime.sagas.begin(tx, saga, fresh)
        runtime.sagas.launch(entry)

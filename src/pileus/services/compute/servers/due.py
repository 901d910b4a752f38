"""What comes to its end by itself: shelved servers leave their host, deleted ones go, resizes are confirmed."""

from __future__ import annotations

import msgspec

from pileus.kernel.runtime import Runtime
from pileus.kernel.sagas import Saga
from pileus.kernel.store import Match, Page
from pileus.kernel.world import stamp
from pileus.services.compute.migrations import MIGRATIONS
from pileus.services.compute.server import SERVERS, Server
from pileus.services.compute.servers import states
from pileus.services.compute.servers.resizing import CONFIRM
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
    if settings.resize_confirm_window > 0:
        await _confirm(runtime, settings.resize_confirm_window)


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


async def _confirm(runtime: Runtime, after_s: int) -> None:
    """The resizes and migrations that nobody has reverted."""
    before = stamp(runtime.world.clock.time() - after_s)
    done = {"status": "finished", "changed_at": Match("le", before)}
    for migration in await MIGRATIONS.list(runtime.store, Page(done, limit=1_000_000)):
        async with runtime.store.tx() as tx:
            fresh = await SERVERS.find(tx, migration.server_id)
            if fresh is None or (fresh.vm_state, fresh.task_state) != (states.RESIZED, ""):
                continue
            move = fresh.move
            if move is None or move.id != migration.id or move.decided == "revertResize":
                continue
            confirmed = msgspec.structs.replace(move, decided="confirmResize")
            busy, entry = await runtime.sagas.begin(tx, CONFIRM, fresh, becoming=fresh)
            await SERVERS.change(tx, busy, move=confirmed)
        runtime.sagas.launch(entry)

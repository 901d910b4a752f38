"""Rotating the keys, and dropping what nothing can need any more. Safe on many controls, and at any time.

A key that was made is at once the newest on every control, as all read them from the store. An older one stays as
long as somebody can hold what it made: a token till its end, a row until it was encrypted anew, and a little
longer for a request under way on another control that had read the older keys.
"""

from __future__ import annotations

from typing import Any

from pileus.kernel.resources import Context, operation
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import METADATA, Page, Table
from pileus.kernel.world import stamp

from .keys import CREDENTIAL, KEYRING, KEYS, TOKEN, Key, add_key, drop_succeeded, numbered
from .revocations import forget
from .settings import of
from .wire import Noun, changed

_SLICE = 200
_UNDER_WAY_S = 3600  # no request takes that long


class Keys(Noun[Key]):
    """Not upstream's, where a command on each machine and a copy to all others do this. Secrets are never shown."""

    table = KEYS

    @operation("GET", "/keys", "admin_required")
    async def index(self, ctx: Context) -> dict[str, Any]:
        found = []
        for purpose in (TOKEN, CREDENTIAL):
            *older, newest = await numbered(ctx.runtime.store, purpose)
            found += [_view(k, False) for k in older] + [_view(newest, True)]
        return {"keys": found, "links": {"self": ctx.url}}

    @operation("POST", "/keys/rotate", "admin_required")
    async def rotate(self, ctx: Context) -> dict[str, Any]:
        await rotate(ctx.runtime)
        return await self.index(ctx)


def _view(key: Key, encrypts: bool) -> dict[str, Any]:
    shown = {"purpose": key.purpose, "number": key.number, "created_at": key.created_at}
    return {**shown, "encrypts": encrypts}


async def rotate(runtime: Runtime) -> None:
    """New keys for tokens and credentials; tokens live on, stored credentials are encrypted anew. Raises Conflict."""
    async with runtime.store.tx() as tx:
        await tx.lock("identity.keys")
        for purpose in (TOKEN, CREDENTIAL):
            number = await add_key(tx, runtime, purpose)
            await changed(tx, "key", f"{purpose}-{number}", "created")
    await _reseal(runtime)


def sealed_tables() -> list[Table[Any]]:
    """Those of every service whose rows have a field `sealed`."""
    tables = [t.info["table"] for t in METADATA.sorted_tables if "table" in t.info]
    return [t for t in tables if "sealed" in t.kind.__struct_fields__]


async def _reseal(runtime: Runtime) -> None:
    """Encrypts what stands in the `sealed` of each row with the newest key, unless it is."""
    for table in sealed_tables():
        asked = Page(sorts=(("id", False),), limit=_SLICE)
        while rows := await table.list(runtime.store, asked):
            for row in rows:
                await _reseal_one(runtime, table, row)
            asked = Page(sorts=asked.sorts, limit=_SLICE, marker=rows[-1].id)


async def _reseal_one(runtime: Runtime, table: Table[Any], row: Any) -> None:
    ring = runtime.contracts.get(KEYRING)
    if not row.sealed or await ring.is_current(CREDENTIAL, row.sealed):
        return
    content = await ring.open(CREDENTIAL, row.sealed)
    if content is None:
        return  # its key was lost before; the row says so when it is read
    sealed = await ring.seal(CREDENTIAL, content)
    async with runtime.store.tx() as tx:
        now = await table.find(tx, row.id)
        if now is not None and now.sealed == row.sealed:
            await table.change(tx, now, sealed=sealed, updated_at=now.updated_at)


async def sweep(runtime: Runtime, key: str = "") -> None:
    """Drops revocations that are older than any token, and keys that nothing was made with."""
    now, settings = runtime.world.clock.time(), of(runtime)
    oldest = stamp(now - settings.token_s - settings.expired_window_s - _UNDER_WAY_S)
    await forget(runtime.store, oldest)
    await drop_succeeded(runtime, TOKEN, oldest)
    if len(await numbered(runtime.store, CREDENTIAL)) > 1:
        before = stamp(now - _UNDER_WAY_S)
        await _reseal(runtime)
        await drop_succeeded(runtime, CREDENTIAL, before)

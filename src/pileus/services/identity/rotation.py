"""Rotating the keys, and dropping what no token can need any more. Safe on many controls, and at any time."""

from __future__ import annotations

from typing import Any

from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Page, Table
from pileus.kernel.world import stamp

from .credentials import CREDENTIALS
from .domain_configurations import DOMAIN_CONFIGURATIONS
from .keys import (
    CREDENTIAL,
    KEYRING,
    LONGEST_TOKEN_S,
    TOKEN,
    drop_older,
    drop_token_keys,
    rotate_keys,
)
from .revocations import forget

_SLICE = 200


async def rotate(runtime: Runtime) -> None:
    """New keys for tokens and credentials; tokens live on, stored credentials are encrypted anew."""
    await rotate_keys(runtime, TOKEN)
    await drop_token_keys(runtime)
    number = await rotate_keys(runtime, CREDENTIAL)
    for table in (CREDENTIALS, DOMAIN_CONFIGURATIONS):
        await _reseal(runtime, table)
    await drop_older(runtime, CREDENTIAL, number)


async def _reseal(runtime: Runtime, table: Table[Any]) -> None:
    """Encrypts what stands in the `sealed` of each row with the newest key."""
    ring = runtime.contracts.get(KEYRING)
    asked = Page(sorts=(("id", False),), limit=_SLICE)
    while rows := await table.list(runtime.store, asked):
        for row in rows:
            content = await ring.open(CREDENTIAL, row.sealed) if row.sealed else None
            if content is None:
                continue  # its key was lost before; the row says so when it is read
            sealed = await ring.seal(CREDENTIAL, content)
            async with runtime.store.tx() as tx:
                now = await table.find(tx, row.id)
                if now is not None and now.sealed == row.sealed:
                    await table.change(tx, now, sealed=sealed, updated_at=now.updated_at)
        asked = Page(sorts=asked.sorts, limit=_SLICE, marker=rows[-1].id)


async def sweep(runtime: Runtime, key: str = "") -> None:
    """Drops revocations and token keys that are older than any token."""
    before = stamp(runtime.world.clock.time() - LONGEST_TOKEN_S)
    async with runtime.store.tx(wait=False) as tx:
        await forget(tx, before)
    await drop_token_keys(runtime)

"""Tickets: sealed names of images' bytes, for hosts that have no token. Good for ten minutes, to read or to write."""

from __future__ import annotations

from pileus.kernel.runtime import Runtime
from pileus.services.identity.contract import SECRETS

READ, WRITE = "read an image", "write an image"
_GOOD_S = 600


async def issue(runtime: Runtime, image_id: str, right: str) -> str:
    """A path under the cloud's URL."""
    ticket = await runtime.contracts.get(SECRETS).ticket(right, image_id, _GOOD_S)
    return f"/image/tickets/{ticket}"

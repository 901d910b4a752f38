"""Tickets: signed names of images' bytes, for hosts that have no token. Good for ten minutes, to read or to write."""

from __future__ import annotations

import base64
import hashlib
import hmac

from pileus.kernel.faults import NotFound
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Record, Table

GOOD_S = 600


class Secret(Record, kw_only=True, frozen=True):
    """The key that every control signs with; made when it is first needed."""

    key: str


SECRETS = Table("image_secrets", Secret)
_NAME = "tickets"


READ, WRITE = "", "write "  # what is signed before the image's id


async def issue(runtime: Runtime, image_id: str, right: str = READ) -> str:
    """A ticket for one image's bytes."""
    until = int(runtime.world.clock.time()) + GOOD_S
    return f"{image_id}.{until}.{_signed(await _key(runtime), right + image_id, str(until))}"


async def redeem(runtime: Runtime, ticket: str, right: str = READ) -> str:
    """The image that a ticket is for. Raises NotFound for one that is forged or too old."""
    image_id, _, rest = ticket.partition(".")
    until, _, signature = rest.partition(".")
    expected = _signed(await _key(runtime), right + image_id, until)
    if not hmac.compare_digest(expected.encode(), signature.encode()) or not until.isdecimal():
        raise NotFound("There is no such ticket.")
    if int(until) < runtime.world.clock.time():
        raise NotFound("This ticket has expired; a new one is needed.")
    return image_id


async def _key(runtime: Runtime) -> bytes:
    known = await SECRETS.find(runtime.store, _NAME)
    if known is None:
        async with runtime.store.tx() as tx:
            await tx.lock("image.secrets")
            known = await SECRETS.find(tx, _NAME)
            if known is None:
                fresh = f"{runtime.world.random.getrandbits(256):064x}"
                known = await SECRETS.insert(tx, Secret(id=_NAME, key=fresh))
    return bytes.fromhex(known.key)


def _signed(key: bytes, image_id: str, until: str) -> str:
    digest = hmac.new(key, f"{image_id}.{until}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")

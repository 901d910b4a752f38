"""Tickets: signed names of files that control keeps for hosts, which have no token. Good for an hour, to read or to write.

Backups, and volumes on their way from one host to another, are such files.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from pathlib import Path
from typing import Any

from pileus.host import files
from pileus.kernel.faults import NotFound
from pileus.kernel.resources import PUBLIC, Answer, Context, Resource, Stream, operation
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Record, Table

GOOD_S = 3600
READ, WRITE = "read", "write"
_NAME = "tickets"
_CHUNK = 1 << 20


class Secret(Record, kw_only=True, frozen=True):
    """The key that every control signs with; made when it is first needed."""

    key: str


SECRETS = Table("block_storage_secrets", Secret)


def path_of(runtime: Runtime, name: str) -> Path:
    return runtime.data / "volume-backups" / name


async def issue(runtime: Runtime, name: str, right: str) -> str:
    """A path under the cloud's URL."""
    until = str(int(runtime.world.clock.time()) + GOOD_S)
    signed = _signed(await _key(runtime), name, right, until)
    return f"/volume/tickets/{name}.{until}.{signed}"


async def _redeem(runtime: Runtime, ticket: str, right: str) -> Path:
    """Raises NotFound for a ticket that is forged or too old."""
    name, _, rest = ticket.partition(".")
    until, _, signature = rest.partition(".")
    expected = _signed(await _key(runtime), name, right, until)
    if not hmac.compare_digest(expected.encode(), signature.encode()):
        raise NotFound("There is no such ticket.")
    if int(until) < runtime.world.clock.time():
        raise NotFound("This ticket has expired; a new one is needed.")
    return path_of(runtime, name)


async def _key(runtime: Runtime) -> bytes:
    known = await SECRETS.find(runtime.store, _NAME)
    if known is None:
        async with runtime.store.tx() as tx:
            await tx.lock("block_storage.secrets")
            known = await SECRETS.find(tx, _NAME)
            if known is None:
                fresh = f"{runtime.world.random.getrandbits(256):064x}"
                known = await SECRETS.insert(tx, Secret(id=_NAME, key=fresh))
    return bytes.fromhex(known.key)


def _signed(key: bytes, name: str, right: str, until: str) -> str:
    digest = hmac.new(key, f"{right} {name}.{until}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


async def drop(runtime: Runtime, name: str) -> None:
    """The file goes; one that is not there is gone."""
    await asyncio.to_thread(path_of(runtime, name).unlink, missing_ok=True)


class VolumeTickets(Resource[Any]):
    """`GET` and `PUT /volume/tickets/{ticket}`: whoever has the ticket may."""

    table = SECRETS
    api = ""

    @operation("GET", "/tickets/{ticket}", PUBLIC)
    async def read(self, ctx: Context, ticket: str) -> Answer:
        path = await _redeem(ctx.runtime, ticket, READ)
        try:
            file = await asyncio.to_thread(path.open, "rb")
        except FileNotFoundError:
            raise NotFound("There are no bytes under this ticket.") from None

        async def chunks() -> Any:
            try:
                while data := await asyncio.to_thread(file.read, _CHUNK):
                    yield data
            finally:
                file.close()

        size = path.stat().st_size
        answer = Answer(
            headers={"content-length": str(size)}, content_type="application/octet-stream"
        )
        answer.stream = chunks()
        return answer

    @operation("PUT", "/tickets/{ticket}", PUBLIC, status=204)
    async def write(self, ctx: Context, ticket: str, stream: Stream) -> None:
        """The file is whole or as it was."""
        path = await _redeem(ctx.runtime, ticket, WRITE)
        await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{ctx.request_id}{files.PART}")
        try:
            with await asyncio.to_thread(part.open, "wb") as file:
                async for chunk in stream.chunks:
                    if chunk.count(0) == len(chunk):  # most of a volume is: nothing is stored of it
                        file.seek(len(chunk), 1)
                    else:
                        await asyncio.to_thread(file.write, chunk)
                file.truncate()
            await asyncio.to_thread(files.sync_file, part)
            await asyncio.to_thread(files.settle, part, path)
        finally:
            part.unlink(missing_ok=True)

"""Tickets: sealed names of files that control keeps for hosts, which have no token. Good for an hour, to read or to write.

Backups, and volumes on their way from one host to another, are such files.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from pileus.host import files, sparse, uploads
from pileus.kernel.faults import NotFound
from pileus.kernel.resources import PUBLIC, Answer, Context, Resource, Stream, operation
from pileus.kernel.runtime import Runtime
from pileus.kernel.sagas import JOURNAL
from pileus.services.identity.contract import SECRETS

from .backup import BACKUPS
from .backup_files import Chain, Growing, Piece

GOOD_S = 3600
READ, WRITE = "read a volume", "write a volume"


def path_of(runtime: Runtime, name: str) -> Path:
    return runtime.data / "volume-backups" / name


async def issue(runtime: Runtime, name: str, right: str) -> str:
    """A path under the cloud's URL; holes need not be sent to it."""
    ticket = await runtime.contracts.get(SECRETS).ticket(right, name, GOOD_S)
    return f"/volume/tickets/{ticket}?{uploads.SPARSE}"


async def drop(runtime: Runtime, name: str) -> None:
    """The file goes; one that is not there is gone."""
    await asyncio.to_thread(path_of(runtime, name).unlink, missing_ok=True)


async def sweep(runtime: Runtime, key: str = "") -> None:
    """Drops what a control that died was writing, and what was sent when nobody waited for it any more."""
    alive, folder = runtime.sagas.alive, path_of(runtime, "")
    if not alive or not folder.exists():
        return  # who else lives is not known yet, or there is nothing
    late = runtime.world.clock.time() - GOOD_S
    for path in await asyncio.to_thread(_found, folder, late):
        name, *writer = path.name.split(".")
        if not (writer[0] in alive if writer else await _is_known(runtime, name)):
            await asyncio.to_thread(path.unlink, missing_ok=True)


def _found(folder: Path, late: float) -> list[Path]:
    """Half files, and whole ones that are older."""
    found = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # it went meanwhile
            if path.suffix == files.PART or path.stat().st_mtime < late:
                found.append(path)
    return found


async def _is_known(runtime: Runtime, name: str) -> bool:
    """Whether it is a backup's, or that of a move under way."""
    if await BACKUPS.one(runtime.store, file=name) is not None:
        return True
    return await JOURNAL.find(runtime.store, name) is not None


class VolumeTickets(Resource[Any]):
    """`GET` and `PUT /volume/tickets/{ticket}`: whoever has the ticket may."""

    table = BACKUPS
    api = ""

    @operation("GET", "/tickets/{ticket}", PUBLIC)
    async def read(self, ctx: Context, ticket: str) -> Answer:
        """What a chain of files says together, as one; without its holes for who knows of such."""
        name = await ctx.peer(SECRETS).redeem(ticket, READ)
        try:
            pieces = await _pieces(ctx.runtime, name)
            chain = await asyncio.to_thread(Chain, pieces)
        except FileNotFoundError:
            raise NotFound("There are no bytes under this ticket.") from None
        size = pieces[0].size
        if ctx.headers.get("accept") == sparse.KIND:
            sent = sparse.packed(chain.runs(0, size), size, chain.read)
            return Answer(content_type=sparse.KIND, stream=_turns(chain, sent))
        steps = range(0, size, sparse.AT_ONCE)
        sent = (chain.read(at, min(sparse.AT_ONCE, size - at)) for at in steps)
        headers = {"content-length": str(size)}
        kind = "application/octet-stream"
        return Answer(headers=headers, content_type=kind, stream=_turns(chain, sent))

    @operation("PUT", "/tickets/{ticket}", PUBLIC, status=204)
    async def write(self, ctx: Context, ticket: str, stream: Stream) -> None:
        """The file is complete or as it was."""
        name = await ctx.peer(SECRETS).redeem(ticket, WRITE)
        behind = (await _pieces(ctx.runtime, name, complete=False))[1:]
        path = path_of(ctx.runtime, name)
        await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
        writer = f"{ctx.runtime.sagas.me}.{ctx.request_id}"
        part = path.with_name(f"{path.name}.{writer}{files.PART}")
        try:
            cut = sparse.pieces(stream.content_type)
            with (
                closing(await asyncio.to_thread(Chain, behind)) as chain,
                closing(Growing(part, chain, cut, is_whole=not behind)) as growing,
            ):
                async for data in uploads.gathered(stream.chunks):
                    await asyncio.to_thread(growing.write, data)
                await asyncio.to_thread(growing.finish)
            await asyncio.to_thread(files.settle, part, path)
        finally:
            part.unlink(missing_ok=True)


async def _turns(chain: Chain, sent: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Each in a turn of a thread, as the receiver asks for it."""
    with closing(chain):
        while data := await asyncio.to_thread(next, sent, b""):
            yield data


async def _pieces(runtime: Runtime, name: str, *, complete: bool = True) -> list[Piece]:
    """The file of that name, and those that it stands on. Raises NotFound, FileNotFoundError if it is not `complete`."""
    path, backup = path_of(runtime, name), await BACKUPS.one(runtime.store, file=name)
    if backup is None or backup.is_whole:
        return [Piece(path, path.stat().st_size if complete else 0)]
    parent = await BACKUPS.get(runtime.store, backup.parent_id or "")
    return [Piece(path, backup.stored, False), *await _pieces(runtime, parent.file)]

"""Transfers: a volume given to another project, which needs the key that its giver was told.

https://docs.openstack.org/api-ref/block-storage/v3/#volume-transfers-volume-transfers-3-55-or-later
"""

from __future__ import annotations

import hashlib
import hmac
from functools import partial
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from pileus.kernel.events import emit
from pileus.kernel.faults import Invalid, NotFound
from pileus.kernel.query import Filter, Listing
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import Body, since
from pileus.kernel.store import Record, Table

from . import checks, states
from .checks import Flag, Text
from .snapshot import SNAPSHOTS, count_of
from .volume import VOLUMES

# An older name and a newer.
_OLD, _NEW, _SINCE = "/os-volume-transfer", "/volume-transfers", "3.55"
_OLD_ONE, _NEW_ONE = _OLD + "/{transfer_id}", _NEW + "/{transfer_id}"


class Transfer(Record, kw_only=True, frozen=True):
    """`digest` is of the key, which nobody but the giver knows."""

    volume_id: str
    project_id: str
    digest: str
    name: str | None = None
    no_snapshots: bool = False
    accepted: bool = False
    destination_project_id: str | None = None


TRANSFERS = Table(
    "block_storage_transfers",
    Transfer,
    columns=("volume_id", "project_id", "name"),
    noun="Transfer",
)


class CreateTransfer(Body):
    root: ClassVar[str] = "transfer"
    volume_id: str
    name: Text = UNSET
    no_snapshots: Annotated[Flag | UnsetType, since("3.55")] = UNSET


class AcceptTransfer(Body):
    root: ClassVar[str] = "accept"
    auth_key: str


def _brief(ctx: Context, t: Transfer) -> dict[str, Any]:
    links = checks.links(ctx, "os-volume-transfer", t)
    return {"id": t.id, "volume_id": t.volume_id, "name": t.name, "links": links}


def _view(ctx: Context, t: Transfer) -> dict[str, Any]:
    found = _brief(ctx, t) | {"created_at": checks.moment(t.created_at)}
    if ctx.version >= (3, 55):
        found["no_snapshots"] = t.no_snapshots
    if ctx.version >= (3, 57):
        found |= {
            "destination_project_id": t.destination_project_id,
            "source_project_id": t.project_id,
            "accepted": t.accepted,
        }
    return found


class Transfers(Resource[Transfer]):
    table = TRANSFERS
    id_param = "transfer_id"
    see = "volume:get_transfer"
    listing = Listing(
        filters={"name": Filter(), "volume_id": Filter()},
        sorts={"id": "id", "name": "name", "created_at": "created_at"},
        colon_sort=True,
    )

    @operation("POST", _OLD, "volume:create_transfer", status=202)
    @operation("POST", _NEW, "volume:create_transfer", status=202, since=_SINCE)
    async def create(self, ctx: Context, body: CreateTransfer) -> dict[str, Any]:
        volume = await VOLUMES.find(ctx.runtime.store, checks.uuid_of(body.volume_id, "volume_id"))
        target = {"project_id": volume.project_id if volume else ""}
        if volume is None or not ctx.allows("volume:get", target):
            raise NotFound(f"Volume {body.volume_id} could not be found.")
        ctx.require("volume:create_transfer", target)
        key = f"{ctx.runtime.world.random.getrandbits(64):016x}"
        keeps = checks.flag(body.no_snapshots, "no_snapshots") if body.no_snapshots else False
        made = Transfer(
            id=ctx.runtime.world.new_id(),
            volume_id=volume.id,
            project_id=volume.project_id,
            digest=_digest(key),
            name=checks.name_of(body.name),
            no_snapshots=keeps,
        )
        async with ctx.runtime.store.tx() as tx:
            volume = await VOLUMES.get(tx, volume.id)
            if volume.shown != states.AVAILABLE:
                raise Invalid(f"status must be available, but {volume.id} is {volume.shown}.")
            if volume.encryption_key_id and ctx.version < (3, 70):
                raise Invalid("transferring encrypted volume is not supported before 3.70.")
            if keeps and await count_of(tx, volume.id):
                raise Invalid("Volume has snapshots: transfer it with them, or delete them first.")
            await VOLUMES.change(tx, volume, status=states.AWAITING_TRANSFER)
            made = await TRANSFERS.insert(tx, made)
            await emit(tx, "transfer.create.end", made.project_id, id=made.id)
        return {"transfer": _view(ctx, made) | {"auth_key": key}}

    @operation("GET", _OLD, "volume:get_all_transfers")
    @operation("GET", _NEW, "volume:get_all_transfers", since=_SINCE)
    async def index(self, ctx: Context) -> dict[str, Any]:
        return await self._listed(ctx, _brief)

    @operation("GET", _OLD + "/detail", "volume:get_all_transfers")
    @operation("GET", _NEW + "/detail", "volume:get_all_transfers", since=_SINCE)
    async def detail(self, ctx: Context) -> dict[str, Any]:
        return await self._listed(ctx, _view)

    async def _listed(self, ctx: Context, view: Any) -> dict[str, Any]:
        page, each = checks.page_of(ctx, self.listing), checks.each(partial(view, ctx))
        return await checks.listed(ctx, TRANSFERS, page, "transfers", each)

    @operation("GET", _OLD_ONE, "volume:get_transfer")
    @operation("GET", _NEW_ONE, "volume:get_transfer", since=_SINCE)
    async def show(self, ctx: Context, transfer: Transfer) -> dict[str, Any]:
        return {"transfer": _view(ctx, transfer)}

    @operation("POST", _OLD_ONE + "/accept", "volume:accept_transfer", status=202)
    @operation("POST", _NEW_ONE + "/accept", "volume:accept_transfer", status=202, since=_SINCE)
    async def accept(self, ctx: Context, transfer_id: str, body: AcceptTransfer) -> dict[str, Any]:
        """Anybody may name one whose key he has; only its project sees it."""
        transfer = await TRANSFERS.get(ctx.runtime.store, transfer_id)
        if not hmac.compare_digest(transfer.digest, _digest(body.auth_key)):
            raise Invalid("Attempt to transfer a volume with an invalid auth key.")
        mine = {"project_id": ctx.caller.project_id, "user_id": ctx.caller.user_id}
        async with ctx.runtime.store.tx() as tx:
            volume = await VOLUMES.get(tx, transfer.volume_id)
            await VOLUMES.change(tx, volume, status=states.AVAILABLE, **mine)
            for snapshot in await SNAPSHOTS.all(tx, volume_id=volume.id):
                await SNAPSHOTS.change(tx, snapshot, **mine)
            await TRANSFERS.delete(tx, transfer)
            await emit(tx, "transfer.accept.end", transfer.project_id, id=transfer.id)
        done = msgspec.structs.replace(
            transfer, accepted=True, destination_project_id=mine["project_id"]
        )
        return {"transfer": _brief(ctx, done)}

    @operation("DELETE", _OLD_ONE, "volume:delete_transfer", status=202)
    @operation("DELETE", _NEW_ONE, "volume:delete_transfer", status=202, since=_SINCE)
    async def delete(self, ctx: Context, transfer: Transfer) -> None:
        async with ctx.runtime.store.tx() as tx:
            volume = await VOLUMES.find(tx, transfer.volume_id)
            if volume is not None and volume.status == states.AWAITING_TRANSFER:
                await VOLUMES.change(tx, volume, status=states.AVAILABLE)
            await TRANSFERS.delete(tx, transfer)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()

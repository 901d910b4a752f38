"""Consumers: programs to which users may lend roles. The secret is shown once, when it is made."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Invalid, NotFound
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Record, Table

from ..discreet import Discreet
from ..wire import Noun, NounBody, changed, extras, linked, listed, listing, page, removed, same_id

_PATH = "OS-OAUTH1/consumers"
_READ = "rule:admin_required or (role:reader and system_scope:all)"


class Consumer(Discreet, Record, kw_only=True, frozen=True):
    secret: str
    description: str | None = None
    extra: dict[str, Any] = {}


class _Consumers(Table[Consumer]):
    def missing(self, id: str) -> NotFound:
        return NotFound("Consumer not found")


CONSUMERS = _Consumers("identity_oauth1_consumers", Consumer, noun="consumer")


class CreateConsumer(NounBody, kw_only=True):
    root: ClassVar[str] = "consumer"
    description: str | None = None


class UpdateConsumer(NounBody, kw_only=True):
    root: ClassVar[str] = "consumer"
    description: str | UnsetType | None = UNSET


def view(ctx: Context, c: Consumer) -> dict[str, Any]:
    return linked(ctx, _PATH, {**c.extra, "id": c.id, "description": c.description})


class Consumers(Noun[Consumer]):
    table = CONSUMERS
    id_param = "consumer_id"
    rules = {
        "identity:get_consumer": _READ,
        "identity:list_consumers": _READ,
        "identity:create_consumer": "rule:admin_required",
        "identity:update_consumer": "rule:admin_required",
        "identity:delete_consumer": "rule:admin_required",
    }
    scopes = {name: ("system", "project") for name in rules}
    listing = listing()

    @operation("GET", f"/{_PATH}", "identity:list_consumers")
    async def index(self, ctx: Context) -> dict[str, Any]:
        asked = page(self.listing, ctx.query)
        found = await CONSUMERS.list(ctx.runtime.store, asked)
        return listed(ctx, "consumers", [view(ctx, c) for c in found], asked)

    @operation("POST", f"/{_PATH}", "identity:create_consumer", status=201)
    async def create(self, ctx: Context, body: CreateConsumer) -> dict[str, Any]:
        world = ctx.runtime.world
        consumer = Consumer(
            id=world.new_hex(),
            secret=world.random.randbytes(16).hex(),
            description=body.description,
            extra=_extras(ctx, body),
        )
        async with ctx.runtime.store.tx() as tx:
            consumer = await CONSUMERS.insert(tx, consumer)
            await changed(tx, "OS-OAUTH1:consumer", consumer.id, "created")
        return {"consumer": {**view(ctx, consumer), "secret": consumer.secret}}

    @operation("GET", f"/{_PATH}/{{consumer_id}}", "identity:get_consumer")
    async def show(self, ctx: Context, consumer: Consumer) -> dict[str, Any]:
        return {"consumer": view(ctx, consumer)}

    @operation("PATCH", f"/{_PATH}/{{consumer_id}}", "identity:update_consumer")
    async def update(
        self, ctx: Context, consumer: Consumer, body: UpdateConsumer
    ) -> dict[str, Any]:
        same_id(ctx, "consumer", consumer.id)
        given = ctx.document["consumer"]
        if "secret" in given or not given:
            raise Invalid(
                "Invalid input for field 'consumer': the secret cannot be changed, and something "
                "must be."
            )
        changes = {**body.given(), "extra": {**consumer.extra, **_extras(ctx, body)}}
        async with ctx.runtime.store.tx() as tx:
            consumer = await CONSUMERS.change(tx, consumer, **changes)
            await changed(tx, "OS-OAUTH1:consumer", consumer.id, "updated")
        return {"consumer": view(ctx, consumer)}

    @operation("DELETE", f"/{_PATH}/{{consumer_id}}", "identity:delete_consumer")
    async def delete(self, ctx: Context, consumer: Consumer) -> None:
        """What was lent to it ends."""
        async with ctx.runtime.store.tx() as tx:
            await removed(ctx, tx, "consumer", consumer.id)
            await CONSUMERS.delete(tx, consumer)


def _extras(ctx: Context, body: NounBody) -> dict[str, Any]:
    return {k: v for k, v in extras(ctx, body).items() if k != "secret"}

"""Consumers: programs to which users may lend roles. The secret is shown once, when it is made."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Invalid, NotFound
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Record, Table

from ..discreet import Discreet
from ..wire import (
    ADMIN_OR_SYSTEM_READER,
    Noun,
    NounBody,
    changed,
    changes_of,
    extras,
    linked,
    listing,
    removed,
)

_PATH = "OS-OAUTH1/consumers"


R = TypeVar("R", bound=Record)


class Consumer(Discreet, Record, kw_only=True, frozen=True):
    secret: str
    description: str | None = None
    extra: dict[str, Any] = {}


class NamelessTable(Table[R]):
    """A table whose missing rows are told of without their ids, as upstream tells of OAuth's."""

    def missing(self, id: str) -> NotFound:
        return NotFound(f"{self.noun} not found")


CONSUMERS = NamelessTable("identity_oauth1_consumers", Consumer, noun="Consumer")


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
        "identity:get_consumer": ADMIN_OR_SYSTEM_READER,
        "identity:list_consumers": ADMIN_OR_SYSTEM_READER,
        "identity:create_consumer": "rule:admin_required",
        "identity:update_consumer": "rule:admin_required",
        "identity:delete_consumer": "rule:admin_required",
    }
    scopes = {name: ("system", "project") for name in rules}
    listing = listing()

    @operation("GET", f"/{_PATH}", "identity:list_consumers")
    async def index(self, ctx: Context) -> dict[str, Any]:
        return await self.index_of(ctx, "consumers", view)

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
        given = ctx.document["consumer"]
        if "secret" in given or not given:
            raise Invalid(
                "Invalid input for field 'consumer': the secret cannot be changed, and something "
                "must be."
            )
        changes = changes_of(ctx, consumer, body)
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

"""Consumers: programs to which users may lend roles. The secret is shown once, when it is made."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from pileus.kernel.faults import Invalid, NotFound
from pileus.kernel.resources import Context
from pileus.kernel.store import Record, Table

from ..kept import Kept, changing
from ..wire import Discreet, NounBody, listing

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


class Consumers(Kept[Consumer]):
    """With one ends what was lent to it."""

    table = CONSUMERS
    path = "OS-OAUTH1/consumers"
    id_param = "consumer_id"
    creates, updates = CreateConsumer, changing(CreateConsumer)
    told_as = "OS-OAUTH1:consumer"
    hidden = ("secret",)
    listing = listing()

    async def fields(
        self, ctx: Context, given: dict[str, Any], old: Consumer | None
    ) -> dict[str, Any]:
        """Raises Invalid."""
        if old is None:
            return {**given, "secret": ctx.runtime.world.random.randbytes(16).hex()}
        if "secret" in ctx.document["consumer"]:
            raise Invalid("Invalid input for field 'consumer': the secret cannot be changed.")
        return given

    async def told(self, ctx: Context, record: Consumer, *, made: bool = False) -> dict[str, Any]:
        shown = await super().told(ctx, record)
        return {**shown, "secret": record.secret} if made else shown

"""Limits of images are identity's unified limits: whenever one changes there, the quotas here follow."""

from __future__ import annotations

from pileus.kernel import quota
from pileus.kernel.events import Event, Watch
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Record, Table
from pileus.services.identity.contract import IDENTITY

_OF = "project "  # before the id of a project; those of everybody have none


class Limited(Record, kw_only=True, frozen=True):
    """A project, or everybody, that has limits of its own here."""


LIMITED = Table("image_limited", Limited)


async def follow(runtime: Runtime, event: Event) -> None:
    wanted = await runtime.contracts.get(IDENTITY).limits("image")
    async with runtime.store.tx() as tx:
        await tx.lock("image.limits")  # every control hears of it
        for old in await LIMITED.all(tx):
            await quota.clear_limits(tx, "image", old.id.removeprefix(_OF))
            await LIMITED.delete(tx, old)
        for project_id, limits in wanted.items():
            await quota.set_limits(tx, "image", project_id, limits)
            await LIMITED.insert(tx, Limited(id=_OF + project_id))


WATCH = Watch("image.limits", ("identity.registered_limit.", "identity.limit."), follow)

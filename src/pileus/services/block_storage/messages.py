"""User messages: why something that was answered with 202 did not come to be.

https://docs.openstack.org/api-ref/block-storage/v3/#messages-messages
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from pileus.kernel.query import Filter, Listing
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.sagas import Run
from pileus.kernel.store import Record, Table
from pileus.kernel.world import seconds_of, stamp

from . import checks

_KEPT_S = 30 * 86_400
# What was done, by Cinder's number, and what it is called.
_ACTIONS = {
    "create": ("001", "schedule allocate volume"),
    "extend": ("007", "extend volume"),
    "upload": ("003", "copy volume to image"),
    "snapshot": ("009", "create snapshot"),
    "backup": ("013", "create backup"),
    "restore": ("015", "restore backup"),
    "delete": ("101", "delete volume"),  # of which Cinder says nothing
}
_NO_HOST = ("003", "Could not find any available weighted backend.")
_UNKNOWN = ("001", "An unknown error occurred.")


class Message(Record, kw_only=True, frozen=True):
    project_id: str
    resource_type: str
    resource_uuid: str
    event_id: str
    user_message: str
    request_id: str
    message_level: str = "ERROR"
    guaranteed_until: str = ""


MESSAGES = Table(
    "block_storage_messages",
    Message,
    columns=(
        "project_id",
        "resource_type",
        "resource_uuid",
        "event_id",
        "request_id",
        "message_level",
    ),
    indexes=(("project_id", "created_at", "id"),),
    noun="Message",
)


async def tell(run: Run[Any], kind: str, action: str) -> None:
    """Keeps for the user why the saga failed: called by the undo of its first step, so at most once in the end."""
    number, words = _ACTIONS[action]
    nowhere = run.entry.error.startswith("No valid backend")
    detail, text = _NO_HOST if nowhere else (_UNKNOWN[0], run.entry.error or _UNKNOWN[1])
    async with run.runtime.store.tx() as tx:
        if await MESSAGES.find(tx, run.id) is None:
            message = Message(
                id=run.id,
                project_id=run.record.project_id,
                resource_type=kind,
                resource_uuid=run.record.id,
                event_id=f"VOLUME_{kind}_{number}_{detail}",
                user_message=f"{words}: {text}",
                request_id=run.entry.request_id,
                guaranteed_until=stamp(seconds_of(tx.now) + _KEPT_S),
            )
            await MESSAGES.insert(tx, message)


def _view(ctx: Context, m: Message) -> dict[str, Any]:
    return {
        "id": m.id,
        "event_id": m.event_id,
        "user_message": m.user_message,
        "request_id": m.request_id,
        "message_level": m.message_level,
        "created_at": checks.moment(m.created_at),
        "guaranteed_until": checks.moment(m.guaranteed_until),
        "resource_type": m.resource_type,
        "resource_uuid": m.resource_uuid,
        "links": checks.links(ctx, "messages", m),
    }


_COLUMNS = ("resource_type", "resource_uuid", "event_id", "request_id", "message_level")


class Messages(Resource[Message]):
    table = MESSAGES
    id_param = "message_id"
    see = "message:get"
    listing: ClassVar[Listing] = Listing(
        filters={name: Filter() for name in _COLUMNS},
        sorts={name: name for name in ("id", "created_at", *_COLUMNS)},
        colon_sort=True,
    )

    @operation("GET", "/messages", "message:get_all", since="3.3")
    async def index(self, ctx: Context) -> dict[str, Any]:
        page, each = checks.page_of(ctx, self.listing), checks.each(partial(_view, ctx))
        return await checks.listed(ctx, MESSAGES, page, "messages", each)

    @operation("GET", "/messages/{message_id}", "message:get", since="3.3")
    async def show(self, ctx: Context, message: Message) -> dict[str, Any]:
        return {"message": _view(ctx, message)}

    @operation("DELETE", "/messages/{message_id}", "message:delete", since="3.3", status=204)
    async def delete(self, ctx: Context, message: Message) -> None:
        async with ctx.runtime.store.tx() as tx:
            await MESSAGES.delete(tx, message)

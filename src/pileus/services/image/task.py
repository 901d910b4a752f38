"""A task: something asynchronous that is done to an image, as it is kept. Image API v2, "Tasks"."""

from __future__ import annotations

from typing import Any

from pileus.kernel.resources import Context
from pileus.kernel.states import Lifecycle, Verb
from pileus.kernel.store import Record, Table

from .record import Image, seconds

PROCESSING, SUCCESS, FAILURE = "processing", "success", "failure"
STATUSES = ("pending", PROCESSING, SUCCESS, FAILURE)
TYPES = ("import", "api_image_import", "location_import")


class Task(Record, kw_only=True, frozen=True):
    """`stores` are those that have to get the bytes; `lenient`: some of them may fail."""

    type: str
    status: str = "pending"
    owner: str
    user_id: str
    request_id: str
    image_id: str
    input: dict[str, Any]
    stores: list[str] = []
    lenient: bool = False
    result: dict[str, Any] | None = None
    message: str = ""


TASKS = Table(
    "image_tasks",
    Task,
    columns=("type", "status", "owner", "image_id"),
    indexes=(("image_id",), ("owner", "created_at", "id")),
    noun="Task",
)
_VERB = Verb(frm=frozenset(), via=PROCESSING, to=SUCCESS, on_error=FAILURE)
LIFECYCLE = Lifecycle({verb: _VERB for verb in ("import", "copy", "locate")}, noun="task")


def new_task(ctx: Context, image: Image, type: str, input: dict[str, Any], **more: Any) -> Task:
    return Task(
        id=ctx.runtime.world.new_id(),
        type=type,
        owner=ctx.caller.project_id,
        user_id=ctx.caller.user_id,
        request_id=ctx.request_id,
        image_id=image.id,
        input=input,
        updated_at=ctx.runtime.world.clock.now(),
        **more,
    )


def stub(task: Task) -> dict[str, Any]:
    """As a list shows it."""
    return {
        "id": task.id,
        "type": task.type,
        "status": task.status,
        "owner": task.owner,
        "created_at": seconds(task.created_at),
        "updated_at": seconds(task.updated_at or task.created_at),
        "self": f"/v2/tasks/{task.id}",
        "schema": "/v2/schemas/task",
    }


def view(task: Task) -> dict[str, Any]:
    return {
        **stub(task),
        "image_id": task.image_id,
        "request_id": task.request_id,
        "user_id": task.user_id,
        "input": task.input,
        "result": task.result,
        "message": task.message,
    }


def view_of_image(task: Task) -> dict[str, Any]:
    """As `/images/{image_id}/tasks` shows it."""
    shown = {k: v for k, v in view(task).items() if k not in ("self", "schema")}
    return {**shown, "expires_at": None}

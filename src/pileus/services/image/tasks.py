"""Tasks by themselves: upstream's older way to import, for administrators. Image API v2, "Tasks"."""

from __future__ import annotations

from typing import Any

from pileus.host import downloads
from pileus.kernel.events import emit
from pileus.kernel.faults import Invalid, MethodNotAllowed, NotFound
from pileus.kernel.query import Filter, Listing
from pileus.kernel.resources import Answer, Context, Resource, operation
from pileus.kernel.schema import IGNORE, Body

from .images.listing import encoded
from .images.operations import new_image
from .keeping import kept, require_formats
from .record import IMAGES, IMPORTING
from .sagas import IMPORT
from .task import TASKS, Task, new_task, stub, view

_ACCESS = "tasks_api_access"


class CreateTask(Body):
    lax = False
    unknown = IGNORE
    type: str
    input: dict[str, Any]


class Tasks(Resource[Task]):
    table = TASKS
    id_param = "task_id"
    rules = {_ACCESS: "rule:context_is_admin"}
    listing = Listing(
        filters={"status": Filter(), "type": Filter()},
        sorts={s: s for s in ("created_at", "updated_at", "status", "type", "id")},
        default_limit=25,
    )

    @operation("POST", "/tasks", _ACCESS, status=201)
    async def create(self, ctx: Context, body: CreateTask) -> Any:
        """An image is made, and fetched from `import_from`."""
        keeping = kept(ctx.runtime)
        source, properties = body.input.get("import_from"), body.input.get("image_properties")
        if body.type != "import":
            raise Invalid(f"Invalid type value: {body.type}; it must be import.")
        if not isinstance(source, str) or not isinstance(properties, dict):
            raise Invalid("Input does not contain 'import_from' and 'image_properties' fields.")
        await downloads.check(source, keeping.trusted)
        image = new_image(ctx, dict(properties))
        require_formats(image)
        task = new_task(ctx, image, "import", body.input, stores=[keeping.default])
        sagas = ctx.runtime.sagas
        async with ctx.runtime.store.tx() as tx:
            image = await IMAGES.insert(tx, image)
            await emit(tx, "image.create", image.owner, id=image.id, name=image.name)
            await IMAGES.change(tx, image, status=IMPORTING, importing_to=[keeping.default])
            task, entry = await sagas.begin(
                tx, IMPORT, task, caller=ctx.caller, request_id=ctx.request_id
            )
        sagas.launch(entry)
        return Answer(view(task), headers={"location": f"/v2/tasks/{task.id}"})

    @operation("GET", "/tasks", _ACCESS)
    async def index(self, ctx: Context) -> Any:
        """Whoever is let in sees every project's, as an administrator does of images."""
        page = self.listing.parse(ctx.query)
        try:
            found = await TASKS.list(ctx.runtime.store, page)
        except NotFound:
            raise Invalid(f"There is no task {page.marker}: it can't be a marker.") from None
        first = [(k, v) for k, v in ctx.query.pairs if k != "marker"]
        shown = {
            "tasks": [stub(t) for t in found],
            "first": "/v2/tasks" + (f"?{encoded(first)}" if first else ""),
            "schema": "/v2/schemas/tasks",
        }
        if following := ctx.next_page(page, found, "/v2/tasks"):
            shown["next"] = following
        return shown

    @operation("GET", "/tasks/{task_id}", _ACCESS)
    async def show(self, ctx: Context, task: Task) -> Any:
        return view(task)

    @operation("DELETE", "/tasks/{task_id}", _ACCESS)
    async def delete(self, ctx: Context, task_id: str) -> None:
        raise MethodNotAllowed(
            "This operation is currently not permitted on Glance Tasks. They are auto deleted "
            "after reaching the time based on their expires_at property.",
            headers={"allow": "GET"},
        )

"""Resource classes: what can be counted. Placement API, "Resource classes" (since 1.2)."""

from __future__ import annotations

from typing import Any

from pileus.kernel.faults import Conflict, Invalid, NotFound
from pileus.kernel.resources import Answer, Context, operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Match, Page

from .answers import answer, is_custom
from .ledger import rename_held
from .media_types import JsonResource
from .names import RESOURCE_CLASSES, CustomName, make, standard_resource_classes, unknown_classes
from .providers import PROVIDERS


class NamedClass(Body):
    lax = False
    name: str


def _url(ctx: Context, name: str) -> str:
    return f"{ctx.service.prefix}/resource_classes/{name}"


def _view(ctx: Context, name: str) -> dict[str, Any]:
    return {"name": name, "links": [{"rel": "self", "href": _url(ctx, name)}]}


def _located(ctx: Context, name: str, status: int) -> Answer:
    """Without the cache headers of other answers, as upstream has it."""
    return Answer(None, status=status, headers={"location": ctx.root + _url(ctx, name)})


def _require_custom(name: str) -> None:
    if not is_custom(name):
        raise Invalid(f"JSON does not validate: '{name}' does not match '^CUSTOM_[A-Z0-9_]+$'")


class ResourceClasses(JsonResource[CustomName]):
    table = RESOURCE_CLASSES
    rules = {
        f"placement:resource_classes:{verb}": "rule:admin_or_service_api"
        for verb in ("list", "create", "show", "update", "delete")
    }

    @operation("GET", "/resource_classes", "placement:resource_classes:list", since="1.2")
    async def index(self, ctx: Context) -> Any:
        made = [c.id for c in await RESOURCE_CLASSES.all(ctx.runtime.store)]
        names = [*standard_resource_classes(), *made]
        return answer(ctx, {"resource_classes": [_view(ctx, n) for n in names]})

    @operation("POST", "/resource_classes", "placement:resource_classes:create", since="1.2")
    async def create(self, ctx: Context, body: NamedClass) -> Any:
        _require_custom(body.name)
        async with ctx.runtime.store.tx() as tx:
            if not await make(tx, RESOURCE_CLASSES, body.name):
                raise Conflict(f"Conflicting resource class already exists: {body.name}")
        return _located(ctx, body.name, 201)

    @operation("GET", "/resource_classes/{name}", "placement:resource_classes:show", since="1.2")
    async def show(self, ctx: Context, name: str) -> Any:
        if await unknown_classes(ctx.runtime.store, (name,)):
            raise NotFound(f"No such resource class {name}.")
        return answer(ctx, _view(ctx, name))

    @operation(
        "PUT",
        "/resource_classes/{name}",
        "placement:resource_classes:update",
        since="1.2",
        until="1.7",
    )
    async def rename(self, ctx: Context, name: str, body: NamedClass) -> Any:
        """Whatever there is and is held of the class goes on under the new name."""
        _require_custom(body.name)
        if name in standard_resource_classes():
            raise Invalid(f"Cannot update standard resource class {name}.")
        async with ctx.runtime.store.tx() as tx:
            made = await RESOURCE_CLASSES.find(tx, name)
            if made is None:
                raise NotFound(f"No such resource class {name}.")
            if body.name != name:
                if not await make(tx, RESOURCE_CLASSES, body.name):
                    raise Conflict(f"Resource class already exists: {body.name}")
                await RESOURCE_CLASSES.delete(tx, made)
                await rename_held(tx, name, body.name)
        return answer(ctx, _view(ctx, body.name))

    @operation("PUT", "/resource_classes/{name}", "placement:resource_classes:update", since="1.7")
    async def ensure(self, ctx: Context, name: str) -> Any:
        _require_custom(name)
        async with ctx.runtime.store.tx() as tx:
            is_new = await make(tx, RESOURCE_CLASSES, name)
        return _located(ctx, name, 201 if is_new else 204)

    @operation(
        "DELETE", "/resource_classes/{name}", "placement:resource_classes:delete", since="1.2"
    )
    async def delete(self, ctx: Context, name: str) -> None:
        where = "Error in delete resource class"
        if name in standard_resource_classes():
            raise Invalid(f"{where}: Cannot delete standard resource class {name}.")
        async with ctx.runtime.store.tx() as tx:
            made = await RESOURCE_CLASSES.find(tx, name)
            if made is None:
                raise NotFound(f"No such resource class {name}.")
            if await PROVIDERS.list(tx, Page({"classes": Match("any", [name])}, limit=1)):
                raise Conflict(
                    f"{where}: Cannot delete resource class {name}. Class is in use in inventory."
                )
            await RESOURCE_CLASSES.delete(tx, made)

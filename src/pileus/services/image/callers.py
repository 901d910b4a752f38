"""What other services do with images for a caller: by his rules, as if he had asked here himself."""

from __future__ import annotations

from typing import Any

from pileus.kernel.auth import Caller
from pileus.kernel.events import emit
from pileus.kernel.faults import Forbidden, NotFound
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Match, Page

from . import attributes
from .contract import ImageQuery
from .protections import Protections
from .record import IMAGES, Image, scopes_of, target, visible


async def permitted(runtime: Runtime, caller: Caller, rule: str, image_id: str) -> Image:
    """The image, to which the caller may do that. Raises NotFound, Forbidden."""
    image = await IMAGES.find(runtime.store, image_id)
    rules = runtime.rules("image")
    if (
        image is None
        or not visible(caller, image)
        or not rules.allows("get_image", caller, target(caller, image))
    ):
        raise NotFound(f"Image {image_id} could not be found.")
    if not rules.allows(rule, caller, target(caller, image)):
        raise Forbidden(f"You are not authorized to complete {rule} action.")
    return image


async def listed(runtime: Runtime, caller: Caller, wanted: ImageQuery) -> list[Image]:
    """Raises Forbidden, NotFound."""
    if not runtime.rules("image").allows("get_images", caller, {"project_id": caller.project_id}):
        raise Forbidden("You are not authorized to complete get_images action.")
    if wanted.marker:
        await permitted(runtime, caller, "get_image", wanted.marker)
    page = Page(
        _filters(wanted),
        limit=wanted.limit,
        marker=wanted.marker,
        scopes=tuple(scopes_of(caller)),
    )
    return await IMAGES.list(runtime.store, page)


def _filters(wanted: ImageQuery) -> dict[str, Any]:
    filters: dict[str, Any] = {"os_hidden": 0}
    if wanted.name:
        filters["name"] = wanted.name
    if wanted.statuses:
        filters["status"] = wanted.statuses
    if wanted.properties:
        pairs = sorted(f"{k}={v}" for k, v in wanted.properties.items())
        filters["properties"] = Match("all", pairs)
    if wanted.changed_since:
        filters["updated_at"] = Match("ge", wanted.changed_since)
    for name, number in (("min_disk", wanted.min_disk), ("min_ram", wanted.min_ram)):
        if number is not None:
            filters[name] = number
    return filters


async def described(
    runtime: Runtime,
    protections: Protections,
    caller: Caller,
    image_id: str,
    properties: dict[str, str],
) -> Image:
    """Raises NotFound, Forbidden, Invalid, TooLarge."""
    image = await permitted(runtime, caller, "modify_image", image_id)
    for name, value in properties.items():
        attributes.check_name(name)
        attributes.check(name, value)
    attributes.check_numbers(image.tags, properties)
    protections.check(caller, image.properties, properties)
    async with runtime.store.tx() as tx:
        image = await IMAGES.change(tx, await IMAGES.get(tx, image.id), properties=properties)
        await emit(tx, "image.update", image.owner, id=image.id, name=image.name)
    return image

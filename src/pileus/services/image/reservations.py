"""Images that another service asks for and fills: snapshots and backups of servers."""

from __future__ import annotations

from pileus.kernel.auth import Caller
from pileus.kernel.events import emit
from pileus.kernel.faults import Forbidden
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Match, Page

from .attributes import check_name, check_numbers
from .contract import NewImage
from .record import IMAGES, Image, Membership, target


async def reserved(runtime: Runtime, caller: Caller, wanted: NewImage) -> None:
    """Asked again with the same id it is the same image. Raises Forbidden, OverQuota, TooLarge."""
    for name in wanted.properties:
        check_name(name)
    check_numbers((), wanted.properties)
    now = runtime.world.clock.now()
    shared = wanted.shared_with
    image = Image(
        id=wanted.id,
        name=wanted.name,
        owner=caller.project_id,
        visibility="shared" if shared else "private",
        min_disk=wanted.min_disk,
        min_ram=wanted.min_ram,
        properties=wanted.properties,
        members={shared: Membership(created_at=now, updated_at=now)} if shared else {},
        updated_at=now,
    )
    if not runtime.rules("image").allows("add_image", caller, target(caller, image)):
        raise Forbidden("You are not permitted to create images in this project.")
    async with runtime.store.tx() as tx:
        await tx.lock(f"image.reserved.{image.id}")  # whoever asked may ask again meanwhile
        if await IMAGES.find(tx, image.id) is None:
            await IMAGES.insert(tx, image)
            await emit(tx, "image.create", image.owner, id=image.id, name=image.name)


async def made_from(runtime: Runtime, project_id: str, properties: dict[str, str]) -> list[str]:
    """Ids, the oldest first."""
    await runtime.store.visible()
    wanted = Match("all", sorted(f"{k}={v}" for k, v in properties.items()))
    page = Page(
        {"owner": project_id, "properties": wanted},
        (("created_at", False), ("id", False)),
        limit=10_000,
    )
    return [image.id for image in await IMAGES.list(runtime.store, page)]

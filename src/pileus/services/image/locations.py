"""Locations: the places of an image's bytes, of which those on other people's servers can be added.

Image API v2, "Image locations".
"""

from __future__ import annotations

from typing import Any

from pileus.host import downloads
from pileus.kernel.resources import Answer, Context, operation

from .images.locations import AddLocation, require_size, require_status
from .images.operations import ImageResource
from .images.views import location
from .keeping import kept, require_formats
from .record import ADMIN_OR_OWNER, IMAGES, IMPORTING, QUEUED, WEB, Image, Location
from .sagas import LOCATE
from .task import new_task


class ImageLocations(ImageResource):
    rules = {
        "add_image_location": (
            "role:service or role:admin or (role:member and project_id:%(project_id)s"
            " and project_id:%(owner)s)"
        ),
        "fetch_image_location": "role:service or role:admin",
        "get_image_location": (
            "rule:context_is_admin or (role:reader and project_id:%(project_id)s)"
        ),
        "set_image_location": ADMIN_OR_OWNER,
        "delete_image_location": "rule:context_is_admin",
    }
    sagas = (LOCATE,)

    @operation("GET", "/images/{image_id}/locations", "fetch_image_location")
    async def index(self, ctx: Context, image: Image) -> Any:
        return [location(place) for place in image.places]

    @operation("POST", "/images/{image_id}/locations", "add_image_location", status=202)
    async def add(self, ctx: Context, image: Image, body: AddLocation) -> Any:
        """The bytes stay where they are; a task hashes them."""
        wanted = body.said
        if wanted:
            require_size("os_hash_value", wanted["os_hash_value"], wanted["os_hash_algo"])
        await downloads.check(body.url, kept(ctx.runtime).trusted)
        asked = {"image_id": image.id, "loc_url": body.url, "validation_data": wanted}
        task = new_task(ctx, image, "location_import", asked)
        sagas = ctx.runtime.sagas
        async with ctx.runtime.store.tx() as tx:
            image = await IMAGES.get(tx, image.id)
            require_status(image, "add", QUEUED)
            require_formats(image)
            places = [Location(url=body.url, store=WEB)]
            await IMAGES.change(tx, image, status=IMPORTING, locations=places)
            _, entry = await sagas.begin(
                tx, LOCATE, task, caller=ctx.caller, request_id=ctx.request_id
            )
        sagas.launch(entry)
        return Answer(status=202)

"""Images, for generated tests: staged bytes, a second store, a web server, and the requests that begin each task."""

from __future__ import annotations

from typing import Any

import msgspec

from pileus.services.image.contract import IMAGES
from pileus.services.image.stores import FileStore
from pileus.testing.cloud import Cloud
from pileus.testing.grounds import Ground, Scenario
from pileus.testing.web import web_server

URL = "/image/v2/images"
SECOND = "second"
_OCTETS = {"content-type": "application/octet-stream"}


async def ready(cloud: Cloud, name: str = "image-ground") -> Ground:
    """A project, a store more, and a server that may be fetched from, as long as the cloud is there."""
    keeping: Any = cloud.runtime.contracts.get(IMAGES)
    folder = cloud.runtime.data / "image-stores" / SECOND
    keeping.stores[SECOND] = FileStore(folder, cloud.runtime.world.clock)
    web = cloud.closing.enter_context(web_server({"/image": b"x" * 1024}))
    settings = msgspec.structs.replace(keeping.settings, trusted_origins=web.origin)
    cloud.runtime.settings["image"] = settings
    return Ground(cloud, await cloud.project(name), {"url": web.url()})


async def made(ground: Ground) -> str:
    """An image that waits for bytes."""
    body = {"name": "ground", "disk_format": "raw", "container_format": "bare"}
    return str((await ground.ask("POST", URL, body)).json["id"])


async def given(ground: Ground, to: str) -> str:
    id = await made(ground)
    url = f"{URL}/{id}/{to}"
    reply = await ground.member.request("PUT", url, raw=b"x" * 1024, headers=_OCTETS)
    if reply.status != 204:
        raise AssertionError(reply)
    return id


async def uploaded(ground: Ground) -> str:
    return await given(ground, "file")


async def staged(ground: Ground) -> str:
    return await given(ground, "stage")


async def imported(ground: Ground, id: str) -> str:
    body = {"method": {"name": "glance-direct"}, "stores": ["local", SECOND]}
    await ground.ask("POST", f"{URL}/{id}/import", body)
    return id


async def copied(ground: Ground, id: str) -> str:
    body = {"method": {"name": "copy-image"}, "stores": [SECOND]}
    reply = await ground.cloud.admin.post(f"{URL}/{id}/import", body)
    if reply.status != 202:
        raise AssertionError(reply)
    return id


async def located(ground: Ground, id: str) -> str:
    await ground.ask("POST", f"{URL}/{id}/locations", {"url": ground.ids["url"]})
    return id


async def clean(ground: Ground, id: str) -> None:
    await ground.ask("DELETE", f"{URL}/{id}")


SCENARIOS = {
    "image_tasks.import": Scenario(staged, imported, clean),
    "image_tasks.copy": Scenario(uploaded, copied, clean),
    "image_tasks.locate": Scenario(made, located, clean),
}

"""What tasks do: import bytes, copy them to more stores, take a location over. Each step may run twice."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec

from pileus.host import downloads
from pileus.kernel.events import emit
from pileus.kernel.faults import Conflict, Fault, Invalid, NotFound, Unavailable
from pileus.kernel.sagas import Changes, Failure, Run, Saga, Step
from pileus.services.identity.contract import IDENTITY

from . import callers
from .keeping import AS_BEFORE, Keeping, kept
from .record import ACTIVE, IMAGES, IMPORTING, Image, in_store
from .task import LIFECYCLE, TASKS, Task
from .web import digests, facts_of, measured

# What a property's name begins with that another cloud's image gives to ours: upstream's default.
_GIVEN_ON = ("hw_", "trait:", "os_distro", "os_secure_boot", "os_type")
_INTERFACES = ("public", "internal", "admin")
_TRANSFER_S = 12 * 3600.0


async def _image(run: Run[Task]) -> Image:
    return await IMAGES.get(run.runtime.store, run.record.image_id)


def method_of(task: Task) -> Mapping[str, Any]:
    """How the bytes come: a task of its own fetches them."""
    if task.type == "import":
        return {"name": "web-download", "uri": task.input["import_from"]}
    found: Mapping[str, Any] = task.input["import_req"]["method"]
    return found


async def fetched(run: Run[Task]) -> None:
    """The bytes wait in the staging area, hashed and inspected, and may be used."""
    keeping, image, method = kept(run.runtime), await _image(run), method_of(run.record)
    if image.size is None and method["name"] == "web-download":
        async with downloads.opened(method["uri"], keeping.trusted) as download:
            await keeping.bring(image, download.chunks())
    elif image.size is None:
        await _fetch_image(run, keeping, image, method)
    image = await _image(run)
    if image.unsafe:
        raise Invalid(f"Image {image.id} is refused: {image.unsafe}.")


async def _fetch_image(
    run: Run[Task], keeping: Keeping, image: Image, method: Mapping[str, Any]
) -> None:
    """From the image service of a region; the only one that is known is ours."""
    region = await run.peer(IDENTITY).region()
    interface = method.get("glance_service_interface", "public")
    if method["glance_region"] != region or interface not in _INTERFACES:
        raise Invalid(
            f"There is no {interface} image service in region {method['glance_region']}; "
            f"there is one in {region}."
        )
    source = await callers.permitted(
        run.runtime, run.caller, "download_image", method["glance_image_id"]
    )
    if source.status != ACTIVE:
        raise Conflict(f"Image {source.id} is {source.status}; it must be active.")
    given = {k: v for k, v in source.properties.items() if k.startswith(_GIVEN_ON)}
    changes = {
        "disk_format": source.disk_format,
        "container_format": source.container_format,
        "properties": {**image.properties, **given},
    }
    blob = await keeping.open(source)
    image = msgspec.structs.replace(image, **changes)
    await keeping.bring(image, blob.chunks(0, source.size or 0), **changes)


async def given_up(run: Run[Task]) -> None:
    keeping, task = kept(run.runtime), run.record
    await keeping.drop(task.image_id, task.stores)
    with suppress(NotFound):
        await _change(run, **AS_BEFORE, locations=[], importing_to=[], failed_import=task.stores)


async def placed(run: Run[Task]) -> Changes:
    """The stores have the bytes, and the image is active."""
    keeping, task, image = kept(run.runtime), run.record, await _image(run)
    there = {p.store: p for p in image.places} if image.has_bytes else {}
    missing = [s for s in task.stores if s not in there]
    failed = []
    for store in sorted(missing, key=lambda s: s == keeping.default):  # it takes the file itself
        try:
            await keeping.place(image, store)
        except Fault as e:
            if not task.lenient:
                raise
            failed.append(store)
            why = e.message
    if missing and len(failed) == len(missing):
        raise Unavailable(f"None of the stores {', '.join(missing)} took the image: {why}")
    there |= {s: in_store(image.id, s) for s in missing if s not in failed}
    order = [
        *(s for s in keeping.stores if s in there),
        *(s for s in there if s not in keeping.stores),
    ]
    await _change(
        run, locations=[there[s] for s in order], importing_to=[], failed_import=failed, active=True
    )
    await keeping.drop(image.id, failed)
    return {"result": {"image_id": image.id}, "message": f"Copied {(image.size or 0) >> 20} MiB"}


async def unplaced(run: Run[Task]) -> None:
    """The stores that were to get a copy have none."""
    keeping, task = kept(run.runtime), run.record
    await keeping.drop(task.image_id, task.stores)
    with suppress(NotFound):
        rest = [p for p in (await _image(run)).places if p.store not in task.stores]
        await _change(run, locations=rest, importing_to=[], failed_import=task.stores)


async def located(run: Run[Task]) -> None:
    """What is at the location is known; with nothing to hold it against, the image is active."""
    keeping, url = kept(run.runtime), run.record.input["loc_url"]
    size, head = await measured(url, keeping.trusted)
    if size > keeping.settings.size_limit:
        raise Invalid(f"{url} has {size} bytes; {keeping.settings.size_limit} are allowed.")
    checked = bool(run.record.input["validation_data"])
    await _change(run, **facts_of(await _image(run), size, head), active=not checked)


async def hashed(run: Run[Task]) -> Changes:
    """The digests of what is there are the image's. What was to be another is refused."""
    keeping, task, image = kept(run.runtime), run.record, await _image(run)
    wanted = task.input["validation_data"]
    algo = wanted.get("os_hash_algo", "sha512")
    url = task.input["loc_url"]
    try:
        md5, digest = await digests(url, keeping.trusted, algo, image.size or 0)
    except (Invalid, Unavailable) as e:
        if wanted:
            raise
        return {"message": e.message}
    if wanted and wanted["os_hash_value"] != digest:
        raise Invalid(f"The {algo} of {url} is {digest}, not {wanted['os_hash_value']}.")
    await _change(run, checksum=md5, sha512=digest, hash_algo=algo, active=True)
    return {"result": {"image_id": image.id}}


async def unlocated(run: Run[Task]) -> None:
    """The image waits for bytes; upstream leaves the location that was no good where it is, and so do we."""
    with suppress(NotFound):
        await _change(run, **AS_BEFORE)


async def _change(run: Run[Task], *, active: bool = False, **changes: Any) -> None:
    """Raises NotFound for an image that was deleted meanwhile."""
    async with run.runtime.store.tx() as tx:
        image = await IMAGES.get(tx, run.record.image_id)
        becomes = active and image.status == IMPORTING
        if becomes:
            changes["status"] = ACTIVE
        image = await IMAGES.change(tx, image, **changes)
        if becomes:
            for kind in ("image.upload", "image.activate"):
                await emit(tx, kind, image.owner, id=image.id, name=image.name, size=image.size)


def _why(task: Task, failure: Failure) -> Changes:
    return {"message": failure.message}


def _step(do: Any, undo: Any = None) -> Step[Task]:
    """Whoever asked sees soon that it failed, and asks again himself."""
    return Step(do, undo, timeout_s=_TRANSFER_S, patience_s=5)


IMPORT = Saga(
    "task.run", TASKS, LIFECYCLE, "import", _step(fetched, given_up), _step(placed), failed=_why
)
COPY = Saga("task.run", TASKS, LIFECYCLE, "copy", _step(placed, unplaced), failed=_why)
LOCATE = Saga(
    "task.run", TASKS, LIFECYCLE, "locate", _step(located, unlocated), _step(hashed), failed=_why
)

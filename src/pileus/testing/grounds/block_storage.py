"""Volumes, for generated tests: the requests that begin each saga."""

from __future__ import annotations

from typing import Any

from pileus.testing.cloud import Cloud
from pileus.testing.grounds import Ground, Scenario
from pileus.testing.grounds.compute import _image

BASE = "/volume/v3"
VOLUMES = f"{BASE}/volumes"
_AT = "volume 3.71"


async def ready(cloud: Cloud) -> Ground:
    """A project in which a volume has been, two volume types and a public image."""
    ground = Ground(cloud, await cloud.project("ground-volumes"))
    ground.ids["image"] = await _image(cloud)
    for name in ("one", "other"):
        body = {"volume_type": {"name": f"ground-{name}"}}
        made = await cloud.admin.post(f"{BASE}/types", body)
        ground.ids[name] = made.json["volume_type"]["id"]
    id = await create(ground, imageRef=ground.ids["image"])  # what the first makes for good
    await cloud.settle()
    await migrate(ground, id)
    await cloud.settle()
    await clean(ground, id)
    return ground


async def ask(ground: Ground, method: str, path: str, body: Any = None) -> Any:
    reply = await ground.ask(method, BASE + path, body, openstack_api_version=_AT)
    return reply.json if reply.body else None


async def command(ground: Ground, path: str, body: Any) -> Any:
    """What an administrator asks."""
    reply = await ground.cloud.admin.post(BASE + path, body, openstack_api_version=_AT)
    if reply.status >= 300:
        raise AssertionError(f"{path} {body}: {reply}")
    return reply.json if reply.body else None


async def nothing(ground: Ground) -> str:
    return ""


async def create(ground: Ground, id: str = "", **more: Any) -> str:
    body = {"volume": {"size": 1, "volume_type": ground.ids["one"], **more}}
    return str((await ask(ground, "POST", "/volumes", body))["volume"]["id"])


async def volume(ground: Ground) -> str:
    """One that is there."""
    id = await create(ground)
    await ground.cloud.settle()
    return id


async def act(ground: Ground, id: str, body: Any) -> str:
    await ask(ground, "POST", f"/volumes/{id}/action", body)
    return id


async def delete(ground: Ground, id: str) -> str:
    await ask(ground, "DELETE", f"/volumes/{id}?cascade=true")
    return id


async def extend(ground: Ground, id: str) -> str:
    return await act(ground, id, {"os-extend": {"new_size": 2}})


async def retype(ground: Ground, id: str) -> str:
    return await act(ground, id, {"os-retype": {"new_type": ground.ids["other"]}})


async def reimage(ground: Ground, id: str) -> str:
    return await act(ground, id, {"os-reimage": {"image_id": ground.ids["image"]}})


async def upload(ground: Ground, id: str) -> str:
    body = {"os-volume_upload_image": {"image_name": "ground-of-volume"}}
    return await act(ground, id, body)


async def migrate(ground: Ground, id: str) -> str:
    await command(ground, f"/volumes/{id}/action", {"os-migrate_volume": {"host": None}})
    return id


async def with_snapshot(ground: Ground) -> str:
    id = await volume(ground)
    await take(ground, id)
    await ground.cloud.settle()
    return id


async def revert(ground: Ground, id: str) -> str:
    newest = (await ask(ground, "GET", f"/snapshots?volume_id={id}"))["snapshots"][0]["id"]
    return await act(ground, id, {"revert": {"snapshot_id": newest}})


async def unmanaged(ground: Ground) -> str:
    """The place of a volume, and its name there, which nobody manages."""
    id = await volume(ground)
    url = f"{VOLUMES}/{id}"
    shown = (await ground.cloud.admin.get(url)).json["volume"]
    await command(ground, f"/volumes/{id}/action", {"os-unmanage": {}})
    ground.ids["place"], ground.ids["name"] = shown["os-vol-host-attr:host"], id
    return ""


async def manage(ground: Ground, id: str) -> str:
    ref = {"source-name": ground.ids["name"]}
    body = {"volume": {"host": ground.ids["place"], "ref": ref}}
    return str((await command(ground, "/manageable_volumes", body))["volume"]["id"])


async def clean(ground: Ground, id: str) -> None:
    """Deletes the volume with its snapshots, images made of it, and what was said of it."""
    admin = ground.cloud.admin
    shown = await admin.get(f"{VOLUMES}/{id}")
    if id and shown.status == 200:
        status = shown.json["volume"]["status"]
        if status != "available" and not status.startswith("error"):
            await command(ground, f"/volumes/{id}/action", {"os-reset_status": {"status": "error"}})
        if (await admin.delete(f"{VOLUMES}/{id}?cascade=true")).status != 202:
            raise AssertionError(f"{id} stays: {shown}")
    await ground.cloud.settle()
    images = (await ground.member.get("/image/v2/images?name=ground-of-volume")).json["images"]
    for image in images:
        await ground.ask("DELETE", f"/image/v2/images/{image['id']}")
    at = {"openstack_api_version": _AT}
    found = await admin.get(f"{BASE}/messages?all_tenants=1", **at)
    for message in found.json["messages"]:
        await admin.delete(f"{BASE}/messages/{message['id']}", **at)


async def clean_managed(ground: Ground, id: str) -> None:
    """One that was not taken over is taken over, and deleted."""
    await clean(ground, id)
    url = f"{BASE}/manageable_volumes?host={ground.ids['place'].replace('#', '%23')}"
    reply = await ground.cloud.admin.get(url, openstack_api_version=_AT)
    for one in reply.json["manageable-volumes"]:
        if one["safe_to_manage"]:
            again = await manage(ground, "")
            await ground.cloud.settle()
            await clean(ground, again)


# Snapshots


async def take(ground: Ground, id: str) -> str:
    body = {"snapshot": {"volume_id": id, "name": "ground"}}
    return str((await ask(ground, "POST", "/snapshots", body))["snapshot"]["id"])


async def a_volume_for_snapshots(ground: Ground) -> str:
    ground.ids["volume"] = await volume(ground)
    return ""


async def take_of_it(ground: Ground, id: str) -> str:
    return await take(ground, ground.ids["volume"])


async def snapshot(ground: Ground) -> str:
    await a_volume_for_snapshots(ground)
    id = await take_of_it(ground, "")
    await ground.cloud.settle()
    return id


async def delete_snapshot(ground: Ground, id: str) -> str:
    await ask(ground, "DELETE", f"/snapshots/{id}")
    return id


async def clean_snapshot(ground: Ground, id: str) -> None:
    await clean(ground, ground.ids["volume"])


_V, _S = "block_storage_volumes.", "block_storage_snapshots."
SCENARIOS = {
    _V + "create": Scenario(nothing, create, clean),
    _V + "delete": Scenario(volume, delete, clean, destroys=True),
    _V + "extend": Scenario(volume, extend, clean, destroys=True),
    _V + "retype": Scenario(volume, retype, clean),
    _V + "reimage": Scenario(volume, reimage, clean, destroys=True),
    _V + "upload": Scenario(volume, upload, clean),
    _V + "migrate": Scenario(volume, migrate, clean, destroys=True),
    _V + "revert": Scenario(with_snapshot, revert, clean, destroys=True),
    _V + "manage": Scenario(unmanaged, manage, clean_managed, destroys=True),
    _S + "create": Scenario(a_volume_for_snapshots, take_of_it, clean_snapshot),
    _S + "delete": Scenario(snapshot, delete_snapshot, clean_snapshot, destroys=True),
}
